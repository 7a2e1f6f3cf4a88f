"""Rules of iptables-legacy as the kernel's entries, and back.

A rule is an entry of bytes: a header with addresses, interfaces and protocol (struct ipt_entry, struct ip6t_entry), the
matches, the target (struct xt_entry_match, struct xt_entry_target: size, name, revision, data). The header is packed
here. The data of matches and targets belongs to libxtables, which turns options into data and back; it is reached
through python-iptables. What cannot be said in options without loss stays as it is, in an option "raw": it differs from
every rule that ipvsctl makes, and an undo puts it back byte for byte.

What python-iptables 1.2.0 does that we must not, and how it is kept from it:
* A Rule opens every table to look a target up, and so makes the kernel create nat with its hooks: here it has none.
* Rule6 compares one bit of each letter of an interface's name, so the rule matches other interfaces too: headers are
  packed here.
* Data is read with the newest revision whatever it has, and options that occur twice are merged: each block is written
  again from what was read, and only if the bytes are the same do the options stand for it.
* The check of a finished match reads it back first, which changes a comment with an apostrophe, and forgets options
  that have to be there: _check_complete does it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from socket import inet_ntop, inet_pton
from typing import Any, NamedTuple

from ipvsctl.errors import Refused
from ipvsctl.kernel.libxtables import library
from ipvsctl.model.address import INET, INET6, parse_ip
from ipvsctl.model.rule import Match, Options, Rule

VERDICTS = ("ACCEPT", "DROP", "QUEUE", "RETURN", "")
"""Targets that libiptc resolves itself; "" goes on to the next rule."""

PROTOCOLS = {
    1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "ipv6-icmp", 132: "sctp", 136: "udplite",
}  # fmt: skip
"""Names that iptables-save prints; other protocols go by their number."""

LONGEST_NAME = 28
"""Characters in the name of a chain or an extension (XT_EXTENSION_MAXNAMELEN, less the NUL)."""

_NUMBERS = {name: number for number, name in PROTOCOLS.items()} | {"icmpv6": 58, "icmp6": 58, "all": 0, "": 0}
# Source, destination, their masks, interfaces, their masks, protocol, [IPv6: tos,] flags, invflags; nfcache, offset of
# the target and of the next entry, comefrom, packets, bytes.
_ENTRY = {
    INET: struct.Struct("@4s4s4s4s16s16s16s16sHBBIHHIQQ"),
    INET6: struct.Struct("@16s16s16s16s16s16s16s16sHBBBIHHIQQ"),
}
_HEADER_SIZE = {INET: 84, INET6: 136}  # sizeof(struct ipt_ip), sizeof(struct ip6t_ip6)
_EXTENSION = struct.Struct("@H29sB")
_F_PROTO = 0x01  # IP6T_F_PROTO; the flag of struct ipt_ip with this value is another one.
_INVERTED = {"in_interface": 0x01, "out_interface": 0x02, "source": 0x08, "destination": 0x10, "protocol": 0x40}

TEXTS = ("comment", "log-prefix", "nflog-prefix", "string", "helper")
"""Options whose value is text: blanks and "!" in it mean nothing."""

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


class Entry(NamedTuple):
    """A rule as libiptc has it: bytes, and the name of its target when that is a verdict or a chain."""

    data: bytes
    verdict: str | None


# -- matches and targets ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _scratch(family: int, protocol: int) -> Any:
    """A rule to make matches and targets in: some of them look at its protocol."""
    iptc = library()
    base = iptc.Rule6 if family == INET6 else iptc.Rule
    rule = type("ScratchRule", (base,), {"tables": ()})()
    rule.protocol = protocol
    return rule


@lru_cache(maxsize=8192)
def write_extension(family: int, protocol: int, kind: str, name: str, options: Options) -> bytes:
    """The bytes of a match (`kind` "Match") or target ("Target"); raises Refused for what libxtables does not take."""
    raw = dict(options).get("raw")
    if raw is not None:
        revision, _, data = raw.partition(":")
        return _extension(name, int(revision), bytes.fromhex(data))
    import ctypes

    iptc = library()
    rule = _scratch(family, protocol)
    words = f"{'match' if kind == 'Match' else 'target'} {name}"
    for option, value in options:
        words += f" --{option} {value}".rstrip()
    try:
        extension = getattr(iptc, kind)(rule, name=name)
        for option, value in options:
            extension.set_parameter(option, _arguments(option, value))
        _check_complete(extension, kind)
        block = ctypes.string_at(ctypes.addressof(getattr(extension, kind.lower())), extension.size)
    except (iptc.IPTCError, iptc.xtables.XTablesError, AttributeError, TypeError, ValueError):
        raise Refused(f"iptables here does not take {words}: no such extension or option, or not this value") from None
    return block


def _check_complete(extension: Any, kind: str) -> None:
    """What libxtables checks when a command line ends. python-iptables forgets the options that have to be there."""
    extension._final_check()
    module = extension._module
    known = extension._orig_options or module.x6_options
    if known:
        extension._xt._options_fcheck(module.name, module.mflags if kind == "Match" else module.tflags, known)


@lru_cache(maxsize=8192)
def read_extension(family: int, protocol: int, kind: str, block: bytes) -> tuple[str, Options]:
    """Name and options of a match or target; with an option "raw" where the others do not say all of it."""
    name, revision = extension_name(block), _EXTENSION.unpack_from(block)[2]
    options: Options = ()
    found = _decode(family, protocol, kind, name, revision, block)
    if found is not None:
        called, options, used = found
        try:
            if write_extension(family, protocol, kind, called, options)[:used] == block[:used]:
                return called, options
        except Refused:
            pass
    return name, (*options, ("raw", f"{revision}:{block[_EXTENSION.size :].hex()}"))


def _decode(
    family: int, protocol: int, kind: str, name: str, revision: int, block: bytes
) -> tuple[str, Options, int] | None:
    """Name, options and the number of bytes that count; None when libxtables has not this revision of it."""
    import ctypes

    iptc = library()
    rule = _scratch(family, protocol)
    tables = iptc.xtables.xtables(rule.nfproto)
    module = (tables.find_match if kind == "Match" else tables.find_target)(name)
    if not module or getattr(module[0], "real_name", None) or module[0].revision != revision:
        return None
    layout = getattr(iptc.xtables, f"xt_entry_{kind.lower()}")
    if iptc.xtables.xt_align(module[0].size + ctypes.sizeof(layout)) != len(block):
        return None
    buffer = ctypes.create_string_buffer(block, len(block))
    try:
        extension = getattr(iptc, kind)(rule, **{kind.lower(): layout.from_buffer(buffer)})
        # Its own parser merges options of the same name; the text is what iptables-save prints.
        text = (extension._get_saved_buf(rule.get_ip()) or b"").decode()
        return extension.name, _options(text), extension.usersize
    except (iptc.IPTCError, iptc.xtables.XTablesError, AttributeError, UnicodeDecodeError, OSError):
        return None


def _options(text: str) -> Options:
    found: list[tuple[str, list[str]]] = []
    mark = ""
    for quoted, plain in _WORD.findall(text):
        if plain == "!":
            mark = "!"
        elif plain.startswith("--"):
            found.append((plain[2:], [mark] if mark else []))
            mark = ""
        elif found:
            found[-1][1].append(plain or re.sub(r"\\(.)", r"\1", quoted))
    return tuple((name, " ".join(words).replace("! ", "!", words[:1] == ["!"])) for name, words in found)


def _arguments(option: str, value: str) -> list[str]:
    if option in TEXTS:
        return [value]
    if value.startswith("!"):
        return ["!", *value[1:].split()]
    return value.split()


def extension_name(block: bytes) -> str:
    """The name in a match's or target's header; a verdict's or a jump's target has none."""
    return str(_EXTENSION.unpack_from(block)[1].split(b"\0")[0].decode("ascii", "replace"))


def _extension(name: str, revision: int, data: bytes) -> bytes:
    return _EXTENSION.pack(_EXTENSION.size + len(data), name.encode(), revision) + data


# -- rules ------------------------------------------------------------------------------------------------------------


def read_rule(family: int, entry: Entry) -> Rule:
    """The rule that an entry is, in iptables-save's words."""
    data = entry.data
    fields = _ENTRY[family].unpack_from(data)
    source, destination, source_mask, destination_mask, device, out, device_mask, out_mask, number = fields[:9]
    inverted, target_at = fields[-7], fields[-5]
    words = {
        "source": _address(family, source, source_mask),
        "destination": _address(family, destination, destination_mask),
        "in_interface": _interface(device, device_mask),
        "out_interface": _interface(out, out_mask),
        "protocol": PROTOCOLS.get(number, str(number)) if number else "",
    }
    for name, bit in _INVERTED.items():
        if inverted & bit:
            words[name] = "!" + words[name]
    matches = [
        Match(*read_extension(family, number, "Match", block))
        for block in _blocks(data[_ENTRY[family].size : target_at])
    ]
    header = data[: _HEADER_SIZE[family]]
    if _header_or_none(family, words) != header:
        # Fragments, goto, type of service, a mask with holes: what options do not say.
        matches.insert(0, Match("entry", (("raw", header.hex()),)))
    target = entry.verdict
    options: Options = ()
    if target is None:
        target, options = read_extension(family, number, "Target", next(_blocks(data[target_at:])))
    return Rule(target, matches=tuple(matches), target_options=options, **words)


def write_rule(family: int, rule: Rule, standard: bool) -> Entry:
    """The entry of a rule; `standard` says that its target is a verdict or a chain.

    Raises Refused for values that iptables does not take.
    """
    words = {name: getattr(rule, name) for name in _INVERTED}
    header = _header(family, words)
    blocks = []
    number = _number(rule.protocol)
    for match in rule.matches:
        if match.name == "entry":
            header = bytes.fromhex(dict(match.options).get("raw", ""))
        else:
            blocks.append(write_extension(family, number, "Match", match.name, match.options))
    if standard:
        if len(rule.target.encode()) > LONGEST_NAME:
            raise Refused(f"target {rule.target!r} is longer than {LONGEST_NAME} characters")
        blocks.append(_extension(rule.target, 0, bytes(8)))
    else:
        blocks.append(write_extension(family, number, "Target", rule.target, rule.target_options))
    size = _ENTRY[family].size
    end = size + sum(map(len, blocks))
    fields = _ENTRY[family].unpack(header + bytes(size - len(header)))
    data = _ENTRY[family].pack(*fields[:-6], 0, end - len(blocks[-1]), end, 0, 0, 0) + b"".join(blocks)
    return Entry(data, rule.target if standard else None)


def _header_or_none(family: int, words: dict[str, str]) -> bytes | None:
    try:
        return _header(family, words)
    except Refused:
        return None


def _header(family: int, words: dict[str, str]) -> bytes:
    inverted = sum(bit for name, bit in _INVERTED.items() if words[name].startswith("!"))
    plain = {name: text.removeprefix("!") for name, text in words.items()}
    source, source_mask = _network(family, plain["source"])
    destination, destination_mask = _network(family, plain["destination"])
    device, device_mask = _device(plain["in_interface"])
    out, out_mask = _device(plain["out_interface"])
    number = _number(plain["protocol"])
    flags = [0, _F_PROTO if number else 0] if family == INET6 else [0]
    fields = (source, destination, source_mask, destination_mask, device, out, device_mask, out_mask, number, *flags)
    return _ENTRY[family].pack(*fields, inverted, 0, 0, 0, 0, 0, 0)[: _HEADER_SIZE[family]]


def _number(protocol: str) -> int:
    name = protocol.removeprefix("!")
    if name in _NUMBERS:
        return _NUMBERS[name]
    if name.isascii() and name.isdigit() and int(name) < 256:
        return int(name)
    raise Refused(f"{protocol!r} is not a protocol that a rule can name")


def _network(family: int, text: str) -> tuple[bytes, bytes]:
    """Address and mask, in network order, of ADDRESS, ADDRESS/LENGTH or ADDRESS/MASK."""
    bits = 128 if family == INET6 else 32
    if not text:
        return bytes(bits // 8), bytes(bits // 8)
    address, slash, tail = text.partition("/")
    try:
        found = int.from_bytes(inet_pton(family, address), "big")
        if tail.isdigit() and int(tail) <= bits:
            mask = (1 << bits) - (1 << bits - int(tail))
        else:
            mask = int.from_bytes(inet_pton(family, tail), "big") if slash else (1 << bits) - 1
    except (OSError, ValueError):
        raise Refused(f"{text!r} is not an address or network of {'IPv6' if family == INET6 else 'IPv4'}") from None
    return (found & mask).to_bytes(bits // 8, "big"), mask.to_bytes(bits // 8, "big")


def _address(family: int, address: bytes, mask: bytes) -> str:
    bits = len(mask) * 8
    ones = int.from_bytes(mask, "big")
    length = ones.bit_count()
    text = parse_ip(inet_ntop(family, address))[1]
    if ones != (1 << bits) - (1 << bits - length):
        return f"{text}/{inet_ntop(family, mask)}"
    if length == bits:
        return text
    return f"{text}/{length}" if length or any(address) else ""


def _device(name: str) -> tuple[bytes, bytes]:
    """Name and mask of an interface; a "+" at its end stands for any rest and stays in the name, as iptables has it."""
    data = name.encode()
    if not data:
        return bytes(16), bytes(16)
    if len(data) > 15:
        raise Refused(f"{name!r} is not an interface, expected a name of 1..15 characters")
    compared = len(data) - 1 if name.endswith("+") else len(data) + 1
    return data.ljust(16, b"\0"), (b"\xff" * compared).ljust(16, b"\0")


def _interface(name: bytes, mask: bytes) -> str:
    """The name as iptables-save prints it."""
    compared = len(mask) - len(mask.lstrip(b"\xff"))
    if not compared:
        return ""
    text = name[:compared].split(b"\0")[0].decode("utf-8", "replace")
    return text if compared > len(text.encode()) else text + "+"


def _blocks(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _EXTENSION.size <= len(data):
        size, _, revision = _EXTENSION.unpack_from(data, at)
        size = max(size, _EXTENSION.size)
        # The kernel writes a name and leaves what comes after its end as it was in our memory (xt_obj_to_user).
        yield _extension(extension_name(data[at:]), revision, data[at + _EXTENSION.size : at + size])
        at += size
