"""Matches of connection tracking: xt_state.c, xt_conntrack.c, xt_connmark.c, xt_helper.c, xt_connbytes.c.

Each of them asks for connection tracking (nf_ct_netns_get in its checkentry). A packet without an entry is INVALID,
unless it is UNTRACKED; in the raw table one that the CT target gave a template is NEW, for the template is an entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import DST_NAT, SRC_NAT, Entry, parts
from ipvsctl.datapath.nf.options import Context, Matching, Options, flags, masked, network_test, number, span
from ipvsctl.datapath.nf.walk import Test
from ipvsctl.datapath.skb import ESTABLISHED, ESTABLISHED_REPLY, NEW, NONE, RELATED, RELATED_REPLY, UNTRACKED
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_words import protocol_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipvsctl.datapath.skb import Skb

_STATES = {
    "INVALID": (NONE,), "ESTABLISHED": (ESTABLISHED, ESTABLISHED_REPLY), "RELATED": (RELATED, RELATED_REPLY),
    "NEW": (NEW,), "UNTRACKED": (UNTRACKED,),
}  # fmt: skip
_NAT_STATES = {"SNAT": SRC_NAT, "DNAT": DST_NAT}
_STATUS = {"NONE": 0, "EXPECTED": 1, "SEEN_REPLY": 2, "ASSURED": 4, "CONFIRMED": 8}
_DIRECTIONS = {"ORIGINAL": False, "REPLY": True}
_FOREVER = (1 << 64) - 1


def _states(text: str, names: tuple[str, ...]) -> tuple[frozenset[int], int]:
    """The conntrack infos that a list of states means, and the NAT bits of an entry's status."""
    infos: set[int] = set()
    bits = 0
    for name in text.split(","):
        upper = name.upper()
        if upper not in names:
            raise UsageError(f"{name!r} is not a state, expected one of {', '.join(names)}")
        infos.update(_STATES.get(upper, ()))
        bits |= _NAT_STATES.get(upper, 0)
    return frozenset(infos), bits


def _state_test(context: Context, infos: frozenset[int], bits: int, inverted: bool) -> Test:
    if context.table == "raw":

        def raw(skb: Skb) -> bool:
            info = skb.ctinfo
            if skb.ct is None and info != UNTRACKED:
                info = NEW if skb.template is not None else NONE
            return (info in infos) != inverted

        return raw
    if bits:

        def translated(skb: Skb) -> bool:
            entry = skb.ct
            return (skb.ctinfo in infos or (entry is not None and entry.status & bits != 0)) != inverted

        return translated
    if inverted:
        return lambda skb: skb.ctinfo not in infos
    return lambda skb: skb.ctinfo in infos


def state(context: Context, options: Options) -> Matching:
    """`-m state --state LIST`."""
    inverted, text = options.needed("state")
    infos, _ = _states(text, tuple(_STATES))
    return Matching((_state_test(context, infos, 0, inverted),), tracks=True)


def conntrack(context: Context, options: Options) -> Matching:
    """`-m conntrack`: all of its options but their older names.

    A packet without an entry matches when a state was asked for and is right, whatever else was asked.
    """
    tests: list[Test] = []
    found = options.take("ctstate")
    if found is not None:
        infos, bits = _states(found[1], (*_STATES, *_NAT_STATES))
        tests.append(_state_test(context, infos, bits, found[0]))
    without = found is not None
    stable = True
    checks: list[Callable[[Entry], bool]] = []
    direction = options.take("ctdir")
    if direction is not None:
        if direction[1].upper() not in _DIRECTIONS:
            raise UsageError(f"--ctdir {direction[1]!r} is neither ORIGINAL nor REPLY")
        tests.append(_direction_test(_DIRECTIONS[direction[1].upper()] != direction[0], without))
    checks += _tuple_checks(context, options)
    status = options.take("ctstatus")
    if status is not None:
        checks.append(_status_check(flags(status[1], _STATUS), status[0]))
        stable = False
    expire = options.take("ctexpire")
    if expire is not None:
        checks.append(_expire_check(context, *span(expire[1], 0xFFFFFFFF, "a time in seconds"), expire[0]))
        stable = False
    if checks:
        tests.append(_entry_test(tuple(checks), without))
    if not tests:
        raise UsageError("asks for nothing")
    return Matching(tuple(tests), stable and not (found is not None and "NAT" in found[1].upper()), tracks=True)


def _entry_test(checks: tuple[Callable[[Entry], bool], ...], without: bool) -> Test:
    def entry(skb: Skb) -> bool:
        ct = skb.ct
        if ct is None:
            return without
        return all(check(ct) for check in checks)

    return entry


def _direction_test(reply: bool, without: bool) -> Test:
    def direction(skb: Skb) -> bool:
        if skb.ct is None:
            return without
        return (skb.ctinfo >= ESTABLISHED_REPLY) == reply

    return direction


def _tuple_checks(context: Context, options: Options) -> list[Callable[[Entry], bool]]:
    checks: list[Callable[[Entry], bool]] = []
    protocol = options.take("ctproto")
    if protocol is not None:
        wanted = protocol_number(protocol[1])
        if not wanted:
            raise UsageError("--ctproto 0 asks for nothing")
        checks.append(_protocol_check(wanted, protocol[0]))
    for name, reply, part in (("ctorigsrc", False, 1), ("ctorigdst", False, 2), ("ctreplsrc", True, 1),
                              ("ctrepldst", True, 2)):  # fmt: skip
        found = options.take(name)
        if found is not None:
            checks.append(_address_check(network_test(context.family, found[1]), reply, part, found[0]))
    for name, reply, part in (("ctorigsrcport", False, 3), ("ctorigdstport", False, 4), ("ctreplsrcport", True, 3),
                              ("ctrepldstport", True, 4)):  # fmt: skip
        found = options.take(name)
        if found is not None:
            checks.append(_port_check(span(found[1], 65535, "a port"), reply, part, found[0]))
    return checks


def _protocol_check(wanted: int, inverted: bool) -> Callable[[Entry], bool]:
    return lambda entry: (entry.original[0] == wanted) != inverted


def _address_check(check: Callable[[bytes], bool], reply: bool, part: int, inverted: bool) -> Callable[[Entry], bool]:
    def address(entry: Entry) -> bool:
        found = parts(entry.reply if reply else entry.original)[part]
        return check(found) != inverted if isinstance(found, bytes) else False

    return address


def _port_check(wanted: tuple[int, int], reply: bool, part: int, inverted: bool) -> Callable[[Entry], bool]:
    low, high = wanted
    at = -4 if part == 3 else -2

    def port(entry: Entry) -> bool:
        key = entry.reply if reply else entry.original
        return (low <= (key[at] << 8 | key[at + 1]) <= high) != inverted

    return port


def _status_check(bits: int, inverted: bool) -> Callable[[Entry], bool]:
    return lambda entry: (entry.status & bits != 0) != inverted


def _expire_check(context: Context, low: int, high: int, inverted: bool) -> Callable[[Entry], bool]:
    engine = context.engine

    def expires(entry: Entry) -> bool:
        # Before it is confirmed, the entry's time is not yet one that jiffies can be compared with: it counts as 0.
        left = max(0, int(entry.expires - engine.now)) if entry.confirmed else 0
        return (low <= left <= high) != inverted

    return expires


def connmark(_context: Context, options: Options) -> Matching:
    """`-m connmark --mark VALUE[/MASK]`; without an entry it does not match, negated or not."""
    inverted, text = options.needed("mark")
    value, mask = masked(text)

    def marked(skb: Skb) -> bool:
        entry = skb.ct
        return entry is not None and (entry.mark & mask == value) != inverted

    return Matching((marked,), stable=False, tracks=True)


def helper(_context: Context, options: Options) -> Matching:
    """`-m helper --helper NAME`: expected by a connection with this helper; an empty name stands for any."""
    found = options.take("helper")
    inverted, wanted = found or (False, "")

    def helped(skb: Skb) -> bool:
        entry = skb.ct
        if entry is None or entry.master is None or entry.master.helper is None:
            return inverted
        # strncmp with the helper's own length: what follows it in the option counts as a number does ("ftp-2121").
        return (not wanted or wanted.startswith(entry.master.helper.name)) != inverted

    return Matching((helped,), tracks=True)


def connbytes(context: Context, options: Options) -> Matching:
    """`-m connbytes --connbytes FROM[:TO] --connbytes-dir --connbytes-mode`; it turns accounting on."""
    inverted, text = options.needed("connbytes")
    low_text, colon, high_text = text.partition(":")
    low = number(low_text, _FOREVER, "a count")
    high = number(high_text, _FOREVER, "a count") if colon and high_text else _FOREVER
    if low > high:
        raise UsageError(f"--connbytes {text!r} is a range that ends before it begins")
    # The kernel knows a negated range by its ends being swapped, and so takes one of a single number as it is.
    inverted = inverted and low != high
    mode, direction = options.plain("connbytes-mode"), options.plain("connbytes-dir")
    if mode not in ("packets", "bytes", "avgpkt") or direction not in ("original", "reply", "both"):
        raise UsageError("needs --connbytes-mode packets, bytes or avgpkt and --connbytes-dir original, reply or both")
    chosen = {"original": slice(0, 1), "reply": slice(1, 2), "both": slice(0, 2)}[direction]
    context.engine.settings.write("net.netfilter.nf_conntrack_acct", "1")

    def counted(skb: Skb) -> bool:
        entry = skb.ct
        if entry is None or entry.packets is None or entry.octets is None:
            return False
        packets, octets = sum(entry.packets[chosen]), sum(entry.octets[chosen])
        average = octets // packets if packets else 0
        what = {"packets": packets, "bytes": octets}.get(mode, average)
        return (low <= what <= high) != inverted

    return Matching((counted,), stable=False, tracks=True)
