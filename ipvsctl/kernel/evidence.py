"""What doctor looks at beside the ports: devices, neighbours, every rule set, sockets, the files of sysctl.d.

Looking changes nothing and loads nothing. A part that cannot be read is named with the reason, and the others are read.
Source: include/uapi/linux/{if_link,if_addr,neighbour}.h; net/ipv4/tcp_ipv4.c, tcp4_seq_show; sysctl.d(5).
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from ipvsctl.datapath.nf.own import tables_of
from ipvsctl.errors import IpvsctlError, NotPermitted, Refused, Unavailable, UsageError
from ipvsctl.formats import iptables_save, nft_foreign
from ipvsctl.formats.nft_table import TABLE
from ipvsctl.kernel import routes, rule_tools
from ipvsctl.kernel.iptables_nft import IPTABLES_NFT
from ipvsctl.kernel.nft import NFT, Nft
from ipvsctl.kernel.tables import existing_tables
from ipvsctl.kernel.talk import DUMP, REQUEST, attributes, talk
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.facts import Facts, Link, LinkAddress, Listener, Neighbour
from ipvsctl.model.foreign import ForeignChain
from ipvsctl.model.snapshot import SavedTable
from ipvsctl.wire.address import readable

SYSCTL_FOLDERS = ("usr/lib/sysctl.d", "lib/sysctl.d", "usr/local/lib/sysctl.d", "run/sysctl.d", "etc/sysctl.d")
"""From the lowest precedence to the highest: a file hides those of its name in folders before."""

_NETLINK_ROUTE = 0
_GETLINK, _GETADDR, _GETNEIGH = 18, 22, 30
_NEW = 2
"""RTM_NEW* is RTM_GET* less this."""
_IFF_UP = 1
_FLAGS = {0x40: "tentative", 0x08: "dadfailed", 0x20: "deprecated"}
_STATES = {
    0x01: "INCOMPLETE", 0x02: "REACHABLE", 0x04: "STALE", 0x08: "DELAY", 0x10: "PROBE", 0x20: "FAILED", 0x40: "NOARP",
    0x80: "PERMANENT",
}  # fmt: skip
_SOCKETS = {"tcp": ("tcp", "0A"), "tcp6": ("tcp", "0A"), "udp": ("udp", "07"), "udp6": ("udp", "07")}
"""Files of /proc/net: protocol, and the state of a socket that waits."""
_NAMES = {INET: "iptables", INET6: "ip6tables"}
_KINDS = {"ip": INET, "ip6": INET6}
_LEGACY = "iptables-legacy"
T = TypeVar("T")


def read(root: Path = Path("/")) -> Facts:
    """The evidence of the namespace that the process is in; `root` is where its /etc, /proc, /run and /usr are."""
    missing: dict[str, str] = {}

    def part(name: str, reader: Callable[[], T]) -> T | None:
        try:
            return reader()
        except IpvsctlError as error:
            missing[name] = str(error)
        except OSError as error:
            missing[name] = f"cannot read {error.filename or 'the kernel'}: {error.strerror}"
        return None

    routing = part("routes", lambda: (routes.routes(), routes.policy()))
    tables, unread = part("tables", _tables) or ({}, ())
    nft = part("nft", lambda: (*_foreign(), *unread)) or ()
    return Facts(
        release=os.uname().release,
        initial=_initial(root),
        links=part("links", lambda: tuple(_links())) or (),
        routes=routing[0] if routing else (),
        policy=routing[1] if routing else (),
        neighbours=part("neighbours", lambda: tuple(_neighbours())) or (),
        tables=tables,
        nft=nft,
        foreign=part("foreign", lambda: tuple(_chains(nft))) or (),
        listeners=part("listeners", lambda: tuple(_listeners(root))) or (),
        kept=part("kept", lambda: kept(root)) or {},
        ftp_ports=part("features", lambda: _ftp_ports(root)) or (),
        missing=missing,
    )


# -- devices and neighbours -------------------------------------------------------------------------------------------


def _links() -> Iterator[Link]:
    addresses: dict[int, list[LinkAddress]] = {}
    for body in _dump(_GETADDR, 8):
        family, length, flags, index = body[0], body[1], body[2], struct.unpack_from("=I", body, 4)[0]
        found = attributes(body[8:])
        # IFA_LOCAL is the address itself where IFA_ADDRESS is that of the other end; IFA_FLAGS has all the flags.
        address = found.get(2) if family == INET else found.get(1)
        if 8 in found:
            flags = struct.unpack("=I", found[8])[0]
        if address is not None and family in (INET, INET6):
            words = tuple(word for bit, word in _FLAGS.items() if flags & bit)
            addresses.setdefault(index, []).append(LinkAddress(f"{readable(address)}/{length}", words))
    for body in _dump(_GETLINK, 16):
        index, flags = struct.unpack_from("=iI", body, 4)
        found = attributes(body[16:])
        mtu = struct.unpack("=I", found[4])[0] if 4 in found else 1500
        name = found.get(3, b"").rstrip(b"\0").decode("ascii", "replace")
        yield Link(name, bool(flags & _IFF_UP), mtu, _mac(found.get(1, b"")), tuple(addresses.get(index, ())))


def _neighbours() -> Iterator[Neighbour]:
    names = {}
    for body in _dump(_GETLINK, 16):
        names[struct.unpack_from("=i", body, 4)[0]] = attributes(body[16:]).get(3, b"").rstrip(b"\0").decode()
    for body in _dump(_GETNEIGH, 12):
        family, index, state = body[0], *struct.unpack_from("=iH", body, 4)
        found = attributes(body[12:])
        if family in (INET, INET6) and 1 in found and state in _STATES:
            yield Neighbour(readable(found[1]), names.get(index, ""), _mac(found.get(2, b"")), _STATES[state])


def _dump(request: int, header: int) -> Iterator[bytes]:
    for kind, body in talk(_NETLINK_ROUTE, request, REQUEST | DUMP, bytes(header)):
        if kind == request - _NEW and len(body) >= header:
            yield body


def _mac(data: bytes) -> str:
    return data.hex(":") if any(data) else ""


# -- rules ------------------------------------------------------------------------------------------------------------


def _tables() -> tuple[dict[str, tuple[SavedTable, ...]], tuple[str, ...]]:
    """The tables by back end, and the names of those of iptables-nft that iptables cannot print."""
    legacy: list[SavedTable] = []
    for family, tool in _NAMES.items():
        if existing_tables(family):
            legacy += _parse(rule_tools.run(f"{tool}-legacy-save", "-c"), family)
    found = {_LEGACY: tuple(legacy)} if legacy else {}
    nft: list[SavedTable] = []
    unread = []
    for table in rule_tools.nftables():
        kind, name = table.split(maxsplit=1)
        family = _KINDS.get(kind, 0)
        if family and name in iptables_save.BUILT_IN:
            try:
                text = rule_tools.run(f"{_NAMES[family]}-nft-save", "-t", name, "-c")
                nft += [saved for saved in _parse(text, family) if saved.name == name]
            except (Refused, Unavailable):
                unread.append(table)
    if nft:
        found[IPTABLES_NFT] = tuple(nft)
    if any(_is_ours(table) for table in rule_tools.nftables()) and (own := tables_of(Nft().chains())):
        found[NFT] = own
    return found, tuple(unread)


def _parse(text: str, family: int) -> tuple[SavedTable, ...]:
    try:
        return iptables_save.parse(text, family)
    except IpvsctlError as error:
        raise Refused(f"cannot read the firewall: {error}") from None


def _foreign() -> Iterator[str]:
    """The tables of nftables that iptables does not know and that are not ours."""
    if os.geteuid() != 0:
        raise NotPermitted("cannot list nftables: it needs CAP_NET_ADMIN: run as root, or with sudo")
    for table in rule_tools.nftables():
        kind, name = table.split(maxsplit=1)
        if not _is_ours(table) and not (kind in _KINDS and name in iptables_save.BUILT_IN):
            yield table


def _chains(tables: Iterable[str]) -> Iterator[ForeignChain]:
    """The chains of nftables' tables of others; raises Unavailable without nft."""
    for table in tables:
        try:
            yield from nft_foreign.parse(rule_tools.run("nft", "-j", "list", "table", *table.split(maxsplit=1)))
        except UsageError as error:
            raise Refused(f"cannot read nftables' table {table}: {error}") from None


def _is_ours(table: str) -> bool:
    return table.split(maxsplit=1)[1] == TABLE


# -- sockets, files ---------------------------------------------------------------------------------------------------


def _listeners(root: Path) -> Iterator[Listener]:
    for name, (protocol, waits) in _SOCKETS.items():
        file = root / "proc/thread-self/net" / name
        if not file.exists():
            continue
        for line in file.read_text(encoding="ascii", errors="replace").splitlines()[1:]:
            words = line.split()
            if len(words) > 3 and words[3] == waits:
                text, _, port = words[1].partition(":")
                # Words of 32 bits as the machine has them.
                parts = (bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8))
                address = b"".join(part[::-1] if sys.byteorder == "little" else part for part in parts)
                yield Listener(protocol, readable(address), int(port, 16))


def kept(root: Path) -> dict[str, str]:
    """The sysctls under net. that the files of sysctl.d and /etc/sysctl.conf set, as they stand after all of them."""
    files: dict[str, Path] = {}
    for folder in SYSCTL_FOLDERS:
        if (root / folder).is_dir():
            files |= {path.name: path for path in (root / folder).iterdir() if path.suffix == ".conf"}
    found: dict[str, str] = {}
    for path in [*(files[name] for name in sorted(files)), root / "etc/sysctl.conf"]:
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, equals, value = line.strip().partition("=")
            name = name.strip().lstrip("-")
            if not equals or name[:1] in "#;" or not name:
                continue
            # With a slash as the first separator, slash and dot have changed places (sysctl.d(5)).
            slash, dot = name.find("/"), name.find(".")
            if slash >= 0 and (dot < 0 or slash < dot):
                name = name.translate(str.maketrans("/.", "./"))
            if name.startswith("net."):
                found[name] = " ".join(value.split())
    return found


def _ftp_ports(root: Path) -> tuple[int, ...]:
    file = root / "sys/module/ip_vs_ftp/parameters/ports"
    if not file.exists():
        return ()
    words = file.read_text(encoding="ascii", errors="replace").strip().split(",")
    return tuple(int(word) for word in words if word.isdigit() and int(word))


def _initial(root: Path) -> bool:
    """Whether this is the network namespace of the machine's first process; where one may not look, it is."""
    try:
        ours, first = (root / "proc/thread-self/ns/net").stat(), (root / "proc/1/ns/net").stat()
    except OSError:
        return True
    return (ours.st_dev, ours.st_ino) == (first.st_dev, first.st_ino)
