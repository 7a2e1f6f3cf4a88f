"""A sysctl as a row of knowledge, and its value read as the kernel reads it.

The kernel takes numbers in C's notation (16, 0x10, 020), with a leading minus where the variable is signed, never with
a plus, and prints them decimal (kernel/sysctl.c: proc_get_long, proc_dointvec_minmax, proc_dou8vec_minmax,
proc_dointvec_jiffies). What `read` returns is what reading the sysctl gives after the write. Measured on 5.10, 6.1,
6.12 and 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass

INT_MIN, INT_MAX = -(2**31), 2**31 - 1

SECONDS_MAX = INT_MAX // 250
"""Highest value of a sysctl in seconds: the kernel keeps INT_MAX jiffies. With the HZ of 250 of most distributions."""

_LONGEST_NUMBER = 20
"""Characters of a number, sign included; the kernel's buffer (TMPBUFLEN) takes no more."""


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One sysctl.

    `name` with dots and "*" for a device; `default` as the kernel prints it, None where it depends on the machine;
    `meaning` one line; `source` kernel file and table or function, S-numbers of reference/nfct.md.

    `kind` says how a value is read: "int" (signed), "u8" (unsigned, 0..255 at most), "seconds" (signed, limited by
    HZ), "ulong", "power" (an int that is a power of two), "pair" (two ints A B, A below B, or B 0), "cpulist" (CPU
    numbers and ranges with commas; empty for the default). `lowest` and `highest` bound what the kernel takes.

    `module` must be loaded for the sysctl to exist, "" when it always does. `namespaced` False: the initial network
    namespace only, elsewhere read-only or absent. `kernels` names those of 5.10 to 7.3 that have it, "" for all.
    """

    name: str
    default: str | None
    meaning: str
    source: str
    kind: str = "int"
    lowest: int = INT_MIN
    highest: int = INT_MAX
    module: str = ""
    namespaced: bool = True
    writable: bool = True
    kernels: str = ""

    @property
    def optional(self) -> bool:
        """Whether a kernel of 5.10 to 7.3 may be without it."""
        return bool(self.kernels)

    @property
    def expected(self) -> str:
        """The values that are taken, in words."""
        if self.kind == "power":
            return "a power of two"
        if self.kind == "pair":
            return "two numbers A B with 0 <= A < B, or B = 0"
        if self.kind == "cpulist":
            return "CPU numbers and ranges, for instance 0-3,8"
        if (self.lowest, self.highest) == (INT_MIN, INT_MAX):
            return "a number"
        return f"{self.lowest}..{self.highest}"


def read(row: Sysctl, text: str, before: str = "") -> str:
    """What the sysctl reads after `text` was written to it, numbers separated by single blanks.

    `before` is what it was: a pair of which only the first number is written keeps its second; "" asks for both. Raises
    ValueError, with what was expected as its text, for a value that the kernel refuses with EINVAL, and for one of
    which it takes only the beginning ("1 2" where one number stands).
    """
    if row.kind == "cpulist":
        return _cpulist(text.strip(), row)
    words = text.split()
    if row.kind == "pair" and words:
        words += before.split()[len(words) :]
    if len(words) != (2 if row.kind == "pair" else 1):
        raise ValueError(row.expected)
    if row.kind == "pair":
        first, second = (_number(word, row) for word in words)
        if min(first, second) < 0 or (first >= second and second != 0):
            raise ValueError(row.expected)
        return f"{first} {second}"
    value = _number(words[0], row)
    if row.kind == "power" and (value < 1 or value & (value - 1)):
        raise ValueError(row.expected)
    return str(value)


def _number(word: str, row: Sysctl) -> int:
    """One number in C's notation, inside the row's range."""
    digits = word.removeprefix("-")
    base = 10
    if digits[:2] in ("0x", "0X"):
        base = 16
    elif digits[:1] == "0" and len(digits) > 1:
        base = 8
    signed = row.kind not in ("u8", "ulong")
    plain = digits.isascii() and (digits.isalnum() if base == 16 else digits.isdigit())
    if not plain or len(word) > _LONGEST_NUMBER or (digits != word and not signed):
        raise ValueError(row.expected)
    try:
        value = int(digits, base)
    except ValueError:
        raise ValueError(row.expected) from None
    value = value if digits == word else -value
    if not row.lowest <= value <= row.highest:
        raise ValueError(row.expected)
    return value


def _cpulist(text: str, row: Sysctl) -> str:
    """CPU numbers and ranges, joined to runs as the kernel prints them (bitmap_parselist, %*pbl)."""
    cpus: set[int] = set()
    for item in text.split(",") if text else []:
        first, dash, last = item.partition("-")
        last = last if dash else first
        if not all(end.isascii() and end.isdigit() and len(end) <= 4 for end in (first, last)):
            raise ValueError(row.expected)
        if int(first) > int(last):
            raise ValueError(row.expected)
        cpus |= set(range(int(first), int(last) + 1))
    starts = sorted(cpu for cpu in cpus if cpu - 1 not in cpus)
    ends = sorted(cpu for cpu in cpus if cpu + 1 not in cpus)
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
