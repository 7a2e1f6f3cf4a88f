"""Tables of iptables-legacy: which there are, the lock, and one of them opened, changed in memory and committed.

libiptc copies a table out of the kernel, works on the copy and puts it back as a whole; the kernel then carries the
counters of the rules that stayed over (libiptc.c, TC_COMMIT; x_tables.c, xt_replace_table).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ipvsctl.errors import IpvsctlError, NotPermitted, Refused, Unavailable
from ipvsctl.kernel.libxtables import library
from ipvsctl.kernel.xtables import TEXTS, VERDICTS, Entry, extension_name, read_rule, write_rule
from ipvsctl.model.address import INET6
from ipvsctl.model.rule import CHAIN_PREFIX, Rule

LOCK = "/run/xtables.lock"
"""The file that iptables and ip6tables lock; XTABLES_LOCKFILE in the environment names another, as for them."""

LOCK_WAIT = 10.0
"""Seconds to wait for it."""

_LOCK_PAUSE = 0.05


class Busy(Refused):
    """The table changed in the kernel while we changed our copy of it."""


def existing_tables(family: int) -> list[str]:
    """Names of the tables that exist in the namespace, sorted. Raises NotPermitted."""
    file = Path("/proc/thread-self/net") / ("ip6_tables_names" if family == INET6 else "ip_tables_names")
    try:
        return sorted(file.read_text(encoding="ascii").split())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise NotPermitted(f"cannot read the firewall: /proc/net/{file.name}: {error.strerror}: run as root") from None


@contextmanager
def lock() -> Iterator[None]:
    """Hold iptables' lock. Raises Refused, naming who holds it, after LOCK_WAIT seconds."""
    path = os.environ.get("XTABLES_LOCKFILE", LOCK)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        raise NotPermitted(f"no permission to open the lock {path}: run as root, or set XTABLES_LOCKFILE") from None
    except OSError as error:
        raise Unavailable(f"cannot open the lock {path}: {error.strerror}") from None
    try:
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise Refused(f"cannot take the lock {path}: {error.strerror}") from None
            if time.monotonic() >= deadline:
                raise Refused(f"another program{_holder(descriptor)} holds {path}: try again when it is done")
            time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Who holds a lock, from /proc/locks: " (iptables, process 17)", or "" when nobody can be named."""
    status = os.fstat(descriptor)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if "->" not in words and words[1] == "FLOCK" and words[5] == device:
                name = Path(f"/proc/{words[4]}/comm").read_text(encoding="utf-8", errors="replace").strip()
                return f" ({name}, process {words[4]})"
    except (OSError, IndexError):
        pass
    return ""


class OpenTable:
    """A table as it is in the kernel now, and then as it is changed here. Nothing reaches the kernel before `commit`.

    Opening one that does not exist creates it. Raises NotPermitted or Unavailable.
    """

    def __init__(self, family: int, table: str) -> None:
        self.family = family
        self.table = table
        self._iptc = iptc = library()
        tool = "ip6tables" if family == INET6 else "iptables"
        try:
            # The object is kept by python-iptables for the whole process; only refresh() sees the kernel, and the
            # namespace, of now.
            self._handle = (iptc.Table6 if family == INET6 else iptc.Table)(table, autocommit=False)
            self._handle.refresh()
        except iptc.IPTCError as error:
            words = _words(error)
            if "ermission" in words or "not permitted" in words:
                raise NotPermitted(f"cannot read {tool} -t {table}: {words}: run as root, or with sudo") from None
            raise Unavailable(
                f"cannot read {tool} -t {table}: {words}: `modprobe {tool[:-1]}_{table}` may bring it"
            ) from None
        self.chains = [chain.name for chain in self._handle.chains]
        self.builtin = [name for name in self.chains if self._handle.builtin_chain(name)]
        self.own = [name for name in self.chains if name.startswith(CHAIN_PREFIX)]
        self._changed = False
        self._entries: dict[str, list[Entry]] = {}

    def __enter__(self) -> OpenTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._handle.close()

    def verdicts(self, chain: str) -> list[str | None]:
        """For each rule of a chain the verdict or chain it ends in; None for a target of another kind."""
        return [entry.verdict for entry in self._rules(chain)]

    def rule(self, chain: str, position: int) -> Rule:
        return read_rule(self.family, self._rules(chain)[position])

    def rules(self, chain: str) -> list[Rule]:
        return [read_rule(self.family, entry) for entry in self._rules(chain)]

    def compiled(self, rule: Rule) -> Rule:
        """The rule as it will be read back. Raises Refused for what iptables does not take."""
        found = read_rule(self.family, self._entry(rule))
        # libxtables cuts a text that is too long without a word.
        if _texts(rule) != _texts(found):
            raise Refused(f"iptables here does not take all of the text in {rule!s}")
        return found

    def is_pristine(self) -> bool:
        """Whether it is as a table comes into being: built-in chains only, without rules, their policies ACCEPT."""
        return self.chains == self.builtin and all(
            not self._rules(hook) and self._handle.get_policy(hook)[0].name == "ACCEPT" for hook in self.builtin
        )

    def create(self, chain: str) -> None:
        self._do(self._handle.create_chain, chain)
        self.chains.append(chain)
        self.own.append(chain)

    def remove(self, chain: str) -> None:
        self._do(self._handle.delete_chain, chain)
        self.chains.remove(chain)
        self.own.remove(chain)

    def insert(self, chain: str, position: int, rule: Rule) -> None:
        """Put a rule before the one at `position`, counted from 0."""
        entry = self._entry(rule)
        buffer = ctypes.create_string_buffer(entry.data, len(entry.data))
        self._do(self._handle.insert_entry, chain, buffer, position)
        self._rules(chain).insert(position, entry)

    def delete(self, chain: str, position: int) -> None:
        # Table.delete_entry would delete the first rule of that content, with the counters of another one.
        if not self._handle._iptc.iptc_delete_num_entry(chain.encode(), position, self._handle._handle):
            raise Refused(f"cannot delete rule {position + 1} of {chain}: {self._handle.strerror().decode()}")
        self._changed = True
        del self._rules(chain)[position]

    def commit(self) -> None:
        """Put the table into the kernel, unless it is as it was. Raises Busy or Refused; nothing is changed then."""
        if self._changed:
            for hook in self.builtin:
                # libiptc keeps the counters of rules and zeroes those of policies (libiptc.c, __iptcc_p_del_policy).
                self._do(self._handle.set_policy, hook, *self._handle.get_policy(hook))
            self._do(self._handle.commit)

    def _entry(self, rule: Rule) -> Entry:
        return write_rule(self.family, rule, rule.target in VERDICTS or rule.target in self.chains)

    def _rules(self, chain: str) -> list[Entry]:
        found = self._entries.get(chain)
        if found is None:
            found = self._entries[chain] = []
            entry = self._handle.first_rule(chain)
            while entry:
                data = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
                standard = not extension_name(data[entry.target_offset :])
                found.append(Entry(data, self._handle.get_target(entry).decode() if standard else None))
                entry = self._handle.next_rule(entry)
        return found

    def _do(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except self._iptc.IPTCError as error:
            raise _refusal(_words(error)) from None
        self._changed = True


def _texts(rule: Rule) -> list[str]:
    options = [*(option for match in rule.matches for option in match.options), *rule.target_options]
    return [value for name, value in options if name in TEXTS]


def _words(error: Exception) -> str:
    """libiptc's words; python-iptables wraps them in its own and shows them as bytes."""
    text = str(error)
    return text.partition(": b")[2].strip("'\"") or text


def _refusal(words: str) -> IpvsctlError:
    if "temporarily unavailable" in words:
        return Busy("another program changed the table at the same time: try again")
    if "ermission" in words or "not permitted" in words:
        return NotPermitted(f"{words}: run as root, or with sudo")
    return Refused(f"the kernel refuses the table: {words[:1].lower()}{words[1:].rstrip('.')}")
