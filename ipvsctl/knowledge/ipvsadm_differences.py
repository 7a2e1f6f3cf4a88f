"""Where `ipvsctl ipvsadm` deliberately does other than ipvsadm 1.31: what crashes there, or loses data without a word.

The manual page prints these rows, and the tests that compare the two allow exactly these.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """`id` for tests; `when` the situation, `theirs` what ipvsadm does and `ours` what ipvsctl does, for people."""

    id: str
    when: str
    theirs: str
    ours: str


DIFFERENCES = (
    Difference(
        "help", "-h, --help", "prints its help text", "prints one of its own, with the same commands and options"
    ),
    Difference(
        "modprobe", "IPVS is missing, and so is its module",
        "has modprobe complain before its own message", "prints the message alone",
    ),
    Difference("only-commas", "-b with nothing but commas", "crashes", "takes it for no flags"),
    Difference(
        "saved-mark", "-S of a firewall mark of 2147483648 and above",
        "writes a negative number, which -R refuses: that line ends the restore",
        "writes the number that -R reads; -L shows it negative as ipvsadm does",
    ),
    Difference(
        "saved-flag", "-S of an sh or mh service with flag-3",
        "leaves the flag out, or writes an empty -b, which -R skips with the whole service", "writes flag-3",
    ),
    Difference(
        "wide-counters", "-L --stats and --rate of a server past 4294967295 connections or packets",
        "shows the low 32 bits", "shows the whole number",
    ),
    Difference(
        "long-connections", "-L -c with persistence data that make a line longer than 254 characters",
        "takes the rest for another connection, or crashes", "reads whole lines",
    ),
    Difference(
        "last-line", "-R of a last line without a newline that ends in two or more blanks",
        "leaves the line out", "runs it",
    ),
)  # fmt: skip
