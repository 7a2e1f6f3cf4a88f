"""The tests of a rule's own part, without its matches: ip_packet_match and ip6_packet_match (ip_tables.c).

Protocol and a single destination address are no tests: Chain.select asks them. The input device of a packet that the
host sends is none in OUTPUT, whatever it came in by; the output device is none before routing and for what is for us.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import LOCAL_IN, LOCAL_OUT, PRE_ROUTING
from ipvsctl.datapath.nf.options import network_test
from ipvsctl.datapath.nf.walk import Test
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_words import network_numbers
from ipvsctl.model.address import INET, INET6

if TYPE_CHECKING:
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.model.rule import Rule

FRAGMENT, GOTO = 0x01, 0x02
_INVERTED_FRAGMENT = 0x20
_GOTO6, _TOS6 = 0x04, 0x02
_FLAGS = {INET: Struct("@82xBB"), INET6: Struct("@130xBBB")}
"""Where flags and inverted flags stand in struct ipt_ip and ip6t_ip6; tos before them in the latter."""


def entry_flags(rule: Rule, family: int) -> tuple[str, bool]:
    """What a match "entry" says: "" nothing, "f" fragments, "!f" none; and whether it is a goto. Raises UsageError.

    It comes from iptables_save.py with the option "fragment", from kernel/xtables.py with the header's bytes.
    """
    fragment, goto = "", False
    for match in rule.matches:
        if match.name != "entry":
            continue
        for name, value in match.options:
            if name == "fragment":
                fragment = "!f" if value == "!" else "f"
            elif name == "raw":
                data = bytes.fromhex(value)
                if len(data) < _FLAGS[family].size:
                    raise UsageError("its header is cut off")
                if family == INET:
                    flags, inverted = _FLAGS[INET].unpack_from(data)
                    goto = bool(flags & GOTO)
                    if flags & FRAGMENT:
                        fragment = "!f" if inverted & _INVERTED_FRAGMENT else "f"
                else:
                    _tos, flags, _inverted = _FLAGS[INET6].unpack_from(data)
                    goto = bool(flags & _GOTO6)
                    if flags & _TOS6:
                        raise UsageError("a type of service in the header cannot be evaluated")
            else:
                raise UsageError(f"option --{name} of its header cannot be evaluated")
    if fragment and family == INET6:
        raise UsageError("-f is for IPv4")
    return fragment, goto


def header_tests(rule: Rule, family: int, hooks: frozenset[int]) -> tuple[list[Test], bytes]:
    """The tests of addresses and devices, and the one destination address that is left to Chain.select, b"" if none.

    Raises UsageError for an address of another family.
    """
    tests: list[Test] = []
    single = b""
    if rule.source:
        tests.append(_source(network_test(family, rule.source.removeprefix("!")), rule.source.startswith("!")))
    if rule.destination:
        number, mask = network_numbers(family, rule.destination.removeprefix("!"))
        size = 16 if family == INET6 else 4
        if mask == (1 << size * 8) - 1 and not rule.destination.startswith("!"):
            single = number.to_bytes(size, "big")
        else:
            check = network_test(family, rule.destination.removeprefix("!"))
            tests.append(_destination(check, rule.destination.startswith("!")))
    if rule.in_interface:
        tests.append(_device(rule.in_interface, "indev", hooks, frozenset((LOCAL_OUT,))))
    if rule.out_interface:
        tests.append(_device(rule.out_interface, "outdev", hooks, frozenset((PRE_ROUTING, LOCAL_IN))))
    return tests, single


def _source(check: object, inverted: bool) -> Test:
    assert callable(check)
    if inverted:
        return lambda skb: not check(skb.source)
    return lambda skb: bool(check(skb.source))


def _destination(check: object, inverted: bool) -> Test:
    assert callable(check)
    if inverted:
        return lambda skb: not check(skb.destination)
    return lambda skb: bool(check(skb.destination))


def _device(text: str, attribute: str, hooks: frozenset[int], without: frozenset[int]) -> Test:
    """A test of a device's name; a "+" at its end stands for any rest. In hooks `without` a packet has none."""
    inverted = text.startswith("!")
    name = text.removeprefix("!")
    if not 1 <= len(name.encode()) <= 15:
        raise UsageError(f"{name!r} is not an interface, expected a name of 1..15 characters")
    prefix = name[:-1] if name.endswith("+") else ""
    # xt_check_entry's names end in NUL: without a "+" all of the name is compared, with it the letters before it.
    whole = not name.endswith("+")

    def named(device: str) -> bool:
        return (device == name if whole else device.startswith(prefix)) != inverted

    nothing = named("")
    if hooks and hooks <= without:
        return lambda skb: nothing
    if hooks & without or not hooks:

        def careful(skb: Skb) -> bool:
            return nothing if skb.hook in without else named(getattr(skb, attribute))

        return careful
    if whole and not inverted:
        if attribute == "indev":
            return lambda skb: skb.indev == name
        return lambda skb: skb.outdev == name
    if attribute == "indev":
        return lambda skb: named(skb.indev)
    return lambda skb: named(skb.outdev)


def fragment_test(kind: str) -> Test:
    """`-f`: later fragments only; `! -f`: all but those."""
    if kind == "f":
        return lambda skb: bool(skb.fragment)
    return lambda skb: not skb.fragment
