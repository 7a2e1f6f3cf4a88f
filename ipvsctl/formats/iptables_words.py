"""The words of iptables: how a line is split, the names of protocols, and which option belongs to which extension.

Used by iptables_save.py. An extension that is not in the tables here is not an error: its options are those that
follow it, which is how iptables-save prints them. The tables are for what people write by hand, where `--dport` may
stand anywhere behind `-p tcp`.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

from ipvsctl.errors import UsageError
from ipvsctl.model.address import INET6, parse_ip

PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ggp": 3, "ipencap": 4, "st": 5, "tcp": 6, "egp": 8, "igp": 9, "pup": 12, "udp": 17,
    "hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "dccp": 33, "xtp": 36, "ddp": 37, "idpr-cmtp": 38, "ipv6": 41,
    "ipv6-route": 43, "ipv6-frag": 44, "idrp": 45, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "skip": 57,
    "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "rspf": 73, "vmtp": 81, "eigrp": 88, "ospf": 89, "ax.25": 93,
    "ipip": 94, "etherip": 97, "encap": 98, "pim": 103, "ipcomp": 108, "vrrp": 112, "l2tp": 115, "isis": 124,
    "sctp": 132, "fc": 133, "mobility-header": 135, "udplite": 136, "mpls-in-ip": 137, "manet": 138, "hip": 139,
    "shim6": 140, "wesp": 141, "rohc": 142, "ethernet": 143,
}  # fmt: skip
"""The names that Debian's /etc/protocols gives, which iptables-save prints."""

_ALIASES = {"icmpv6": "ipv6-icmp", "icmp6": "ipv6-icmp", "mh": "mobility-header", "ipv6-mh": "mobility-header"}
_PRINTED = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    132: "sctp",
    136: "udplite",
}
"""Numbers that iptables-save names on every host; a number beyond them may have been printed by one without a list."""

TEXTS = frozenset(("comment", "log-prefix", "nflog-prefix", "string", "helper"))
"""Options whose value is text and is quoted where it has more than letters, digits, "_" and "-"."""

_UNQUOTED = frozenset("_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Word(NamedTuple):
    """A word of a line; `quoted`: it had quotation marks, so it is neither an option nor "!"."""

    text: str
    quoted: bool = False


def split(line: str) -> list[Word]:
    """The words of a line as iptables-restore splits it; raises UsageError for a quotation mark that is not closed.

    Double quotation marks keep blanks together, and a backslash in them takes the next character as it is.
    """
    words: list[Word] = []
    text, started, quoted, inside, escaped = "", False, False, False, False
    for letter in line:
        if inside and escaped:
            text, escaped = text + letter, False
        elif inside and letter == "\\":
            escaped = True
        elif letter == '"':
            inside, started, quoted = not inside, True, True
        elif letter in " \t" and not inside:
            if started:
                words.append(Word(text, quoted))
            text, started, quoted = "", False, False
        else:
            text, started = text + letter, True
    if inside:
        raise UsageError("a quotation mark is not closed")
    if started:
        words.append(Word(text, quoted))
    return words


def quote(text: str) -> str:
    """A text as iptables-save prints it."""
    if text and _UNQUOTED.issuperset(text):
        return text
    escaped = "".join("\\" + letter if letter in "\"\\'" else letter for letter in text)
    return f'"{escaped}"'


def protocol_name(text: str) -> str:
    """A protocol as Rule has it: a name of PROTOCOLS, or a number; "" for all. Raises UsageError for what is none."""
    name = text.lower()
    name = _ALIASES.get(name, name)
    if name in PROTOCOLS:
        return name
    if name in ("all", "0", "ip"):
        return ""
    if not (name.isascii() and name.isdigit() and len(name) < 4 and int(name) < 256):
        raise UsageError(f"{text!r} is not a protocol, expected a name or 0..255")
    return _PRINTED.get(int(name), str(int(name)))


def protocol_number(name: str) -> int:
    """The number of a protocol as Rule has it; 0 for all. Raises UsageError for what is none."""
    plain = protocol_name(name) if name else ""
    return PROTOCOLS[plain] if plain in PROTOCOLS else int(plain or "0")


def network_numbers(family: int, text: str) -> tuple[int, int]:
    """Address and mask, as numbers, of ADDRESS, ADDRESS/LENGTH or ADDRESS/MASK; raises UsageError.

    The address has no bit outside the mask; a mask may have holes.
    """
    bits = 128 if family == INET6 else 32
    address, slash, tail = text.partition("/")
    every = (1 << bits) - 1
    mask = every
    if slash:
        if tail.isascii() and tail.isdigit() and len(tail) < 4 and int(tail) <= bits:
            mask = every ^ (every >> int(tail))
        else:
            mask = _number(family, tail, text)
    return _number(family, address, text) & mask, mask


def network(family: int, text: str) -> str:
    """An address or network as Rule has it: "" for all, no length for a single host, a mask only where it has holes."""
    number, mask = network_numbers(family, text)
    bits = 128 if family == INET6 else 32
    every = (1 << bits) - 1
    address = address_text(family, number)
    if mask == every:
        return address
    length = mask.bit_count()
    if mask != every ^ (every >> length):
        return f"{address}/{address_text(family, mask)}"
    return f"{address}/{length}" if length else ""


def address_text(family: int, number: int) -> str:
    """The canonical text of an address."""
    return str(IPv6Address(number)) if family == INET6 else str(IPv4Address(number))


def saved_network(family: int, text: str) -> str:
    """What iptables-save prints of an address or network that Rule has: always with a length or a mask."""
    address, slash, tail = text.partition("/")
    if family == INET6 and (mapped := IPv6Address(address).ipv4_mapped) is not None:
        address = f"::ffff:{mapped}"
    return f"{address}/{tail}" if slash else f"{address}/{128 if family == INET6 else 32}"


def _number(family: int, address: str, text: str) -> int:
    try:
        found, canonical = parse_ip(address)
        if found != family:
            raise UsageError("")
    except (UsageError, AddressValueError):
        wanted = "IPv6" if family == INET6 else "IPv4"
        raise UsageError(f"{text!r} is not an address or network of {wanted}") from None
    return int(IPv6Address(canonical) if family == INET6 else IPv4Address(canonical))


# -- options of extensions --------------------------------------------------------------------------------------------


def _table(text: str) -> dict[str, dict[str, int]]:
    """Lines of an extension's name and its options; `=N` the number of words that follow an option, else 1."""
    table = {}
    for line in text.strip().splitlines():
        name, *options = line.split()
        table[name] = {option.partition("=")[0]: int(option.partition("=")[2] or "1") for option in options}
    return table


MATCHES = _table(
    """
    tcp sport dport source-port destination-port tcp-flags=2 syn=0 tcp-option
    udp sport dport source-port destination-port
    udplite sport dport source-port destination-port
    sctp sport dport source-port destination-port chunk-types=2
    icmp icmp-type
    icmp6 icmpv6-type
    multiport sports dports ports source-ports destination-ports
    state state
    conntrack ctstate ctproto ctorigsrc ctorigdst ctreplsrc ctrepldst ctorigsrcport ctorigdstport ctreplsrcport \
ctrepldstport ctstatus ctexpire ctdir
    mark mark
    connmark mark
    addrtype src-type dst-type limit-iface-in=0 limit-iface-out=0
    iprange src-range dst-range
    comment comment
    helper helper
    limit limit limit-burst
    ipvs ipvs=0 vproto vaddr vport vdir vmethod vportctl
    length length
    ttl ttl-eq ttl-lt ttl-gt ttl
    hl hl-eq hl-lt hl-gt
    tos tos
    dscp dscp dscp-class
    pkttype pkt-type
    statistic mode probability every packet
    tcpmss mss
    connbytes connbytes connbytes-dir connbytes-mode
    rpfilter loose=0 validmark=0 accept-local=0 invert=0
""".replace("\\\n", " ")
)

TARGETS = _table(
    """
    ACCEPT
    DROP
    RETURN
    QUEUE
    NOTRACK
    TRACE
    REJECT reject-with
    LOG log-prefix log-level log-tcp-sequence=0 log-tcp-options=0 log-ip-options=0 log-uid=0 log-macdecode=0
    NFLOG nflog-prefix nflog-group nflog-range nflog-size nflog-threshold
    MARK set-mark set-xmark and-mark or-mark xor-mark
    CONNMARK set-mark set-xmark and-mark or-mark xor-mark save-mark=0 restore-mark=0 mask nfmask ctmask \
left-shift-mark right-shift-mark
    CT helper notrack=0 zone zone-orig zone-reply ctevents expevents timeout
    SNAT to-source random=0 random-fully=0 persistent=0
    DNAT to-destination random=0 random-fully=0 persistent=0
    MASQUERADE to-ports random=0 random-fully=0
    REDIRECT to-ports random=0
    NETMAP to
    TCPMSS set-mss clamp-mss-to-pmtu=0
    TTL ttl-set ttl-dec ttl-inc
    HL hl-set hl-dec hl-inc
    DSCP set-dscp set-dscp-class
    TOS set-tos and-tos or-tos xor-tos
    CLASSIFY set-class
""".replace("\\\n", " ")
)

SAME = {
    "source-port": "sport", "destination-port": "dport", "source-ports": "sports", "destination-ports": "dports",
    "ttl": "ttl-eq",
}  # fmt: skip
"""Options with two names: the one that is printed."""

IMPLIED = {
    "tcp": "tcp", "udp": "udp", "udplite": "udplite", "sctp": "sctp", "icmp": "icmp", "ipv6-icmp": "icmp6",
}  # fmt: skip
"""The match that `-p` brings along when one of its options is there."""
