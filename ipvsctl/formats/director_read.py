"""The tables of a director file -> Director, with every problem on the way noted.

Keys and the types of their values are in director_grammar.py; here are the rules between keys and between tables, one
method per table. Nothing stops at the first problem: a table that is wrong is left out, the rest is read on, so that a
file is mended in one go. Who got problems must not use the director.

A file of 1,000 services has 10,000 servers, so a server that is plain has a short way of its own (`_plain_servers`).
It may only give up, never refuse: what it gives up on is read by the grammar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipvsctl.errors import UsageError
from ipvsctl.formats import director_values as values
from ipvsctl.formats.director_grammar import TABLES, unknown
from ipvsctl.formats.director_values import Problem, Wrong, quoted, wrong
from ipvsctl.model.address import INET, ServerAddress, ServiceAddress, parse_port
from ipvsctl.model.director import Director, FirewallWish, Nfct, ServiceWish
from ipvsctl.model.service import FORWARDS, Server, Service, Tunnel, flag_bits
from ipvsctl.model.status import Daemon, Timeouts

if TYPE_CHECKING:
    from ipvsctl.formats.toml_lines import Path

MOST = 100
"""Problems noted of one kind of table; a file with more of them is not a director file at all."""

_PLAIN_KEYS = frozenset(("address", "forward", "weight", "upper", "lower"))
_OCTETS = frozenset(map(str, range(256)))


class Reading:
    """Reads the tables of one file; afterwards `director` holds if `problems` is empty."""

    def __init__(self, tables: dict[str, Any]) -> None:
        self.problems: list[Problem] = []
        self.mixed: list[Path] = []
        self.known: dict[tuple[str, int], ServerAddress] = {}
        self._table(tables, "", ())
        nfct = self._nfct(tables["nfct"]) if "nfct" in tables else None
        services = self._services(tables["service"]) if "service" in tables else ()
        firewall = self._single(tables, "firewall")
        timeout = self._single(tables, "timeout")
        self.director = Director(
            services=services,
            nfct=nfct,
            firewall=None if firewall is None else FirewallWish(**firewall),
            sysctls=self._sysctls(tables["sysctl"], nfct) if "sysctl" in tables else (),
            timeouts=None if timeout is None else Timeouts(**timeout),
            syncs=self._syncs(tables["sync"]) if "sync" in tables else None,
        )

    def note(self, path: Path, reason: str, first: Path | None = None) -> None:
        self.problems.append(Problem(path, reason, first))

    def note_key(self, path: Path, key: str, error: UsageError) -> None:
        """Note what the model says of a key; it often begins with the key itself."""
        reason = str(error)
        self.note((*path, key), reason if reason.startswith(key) else f"{key}: {reason}")

    # -- tables -------------------------------------------------------------------------------------------------------

    def _table(self, table: Any, where: str, path: Path, required: tuple[str, ...] = ()) -> dict[str, Any]:
        """The keys of a table that are right, read; problems of the others noted."""
        if type(table) is not dict:
            self.note(path, f"{where}: {wrong('a table', table)}")
            return {}
        known = TABLES[where]
        got = {}
        noted = len(self.problems)
        for key, value in table.items():
            reader = known.get(key)
            if reader is None:
                self.note((*path, key), unknown(key, where))
                required = ()  # it may be the one that is misspelt
            else:
                try:
                    got[key] = reader(value)
                    continue
                except Wrong as error:
                    self.note((*path, key, *error.at), f"{key}: {error}")
                except UsageError as error:
                    self.note_key(path, key, error)
            if len(self.problems) - noted >= MOST:
                break
        for key in required:
            if key not in table:
                self.note(path, f"{where} has no {key}, expected one")
        return got

    def _single(self, tables: dict[str, Any], key: str) -> dict[str, Any] | None:
        return self._table(tables[key], f"[{key}]", (key,)) if key in tables else None

    def _rows(self, rows: Any, where: str, path: Path) -> list[Any]:
        if type(rows) is list:
            return rows
        self.note(path, f"{path[-1]}: {wrong(f'an array of tables, each under {where}', rows)}")
        return []

    # -- services -----------------------------------------------------------------------------------------------------

    def _services(self, rows: Any) -> tuple[ServiceWish, ...]:
        wishes = []
        seen: dict[ServiceAddress, int] = {}
        noted = len(self.problems)
        for index, row in enumerate(self._rows(rows, "[[service]]", ("service",))):
            path = ("service", index)
            got = self._table(row, "[[service]]", path, ("address",))
            address = got.get("address")
            if address is not None:
                first = seen.setdefault(address, index)
                if first != index:
                    self.note((*path, "address"), f"service {address} is given twice, expected once",
                              ("service", first, "address"))  # fmt: skip
                wish = self._service(got, row, path)
                if wish is not None:
                    wishes.append(wish)
            if len(self.problems) - noted >= MOST:
                break
        return tuple(wishes)

    def _service(self, got: dict[str, Any], row: dict[str, Any], path: Path) -> ServiceWish | None:
        address: ServiceAddress = got["address"]
        broken = len(got) < len(row)
        helper = got.pop("helper", None)
        servers = self._servers(got.pop("server", []), address, (*path, "server"))
        if broken:
            return None
        if helper is not None and address.protocol != "tcp":
            self.note((*path, "helper"), f"helper: {quoted(helper)} is for tcp services, expected none for {address}")
        key = "flags"
        try:
            if "flags" in got:
                flag_bits(got["flags"], got.get("scheduler", "wlc"))
            key = "netmask"
            service = Service(**got)
            key = "flags" if address.port or service.persistent else "address"
            return ServiceWish(service.check(), servers, helper)
        except UsageError as error:
            self.note_key(path, key, error)
            return None

    # -- servers ------------------------------------------------------------------------------------------------------

    def _servers(self, rows: Any, service: ServiceAddress, path: Path) -> tuple[Server, ...]:
        servers = _plain_servers(rows, service, self.known)
        if servers is not None:
            return servers
        read = []
        seen: dict[ServerAddress, int] = {}
        noted = len(self.problems)
        for index, row in enumerate(self._rows(rows, "[[service.server]]", path)):
            server = self._server(row, service, (*path, index))
            if server is not None:
                first = seen.setdefault(server.address, index)
                if first != index:
                    self.note((*path, index, "address"),
                              f"server {server.address} is given twice in {service}, expected once",
                              (*path, first, "address"))  # fmt: skip
                read.append(server)
            if len(self.problems) - noted >= MOST:
                break
        return tuple(read)

    def _server(self, row: Any, service: ServiceAddress, path: Path) -> Server | None:
        noted = len(self.problems)
        got = self._table(row, "[[service.server]]", path, ("address",))
        if len(self.problems) > noted:
            return None
        tunnel = self._tunnel(got, path)
        if len(self.problems) > noted:
            return None
        forward = got.get("forward", "dr")
        key = "address"
        try:
            address = ServerAddress.parse(got["address"], service)
            if "tunnel" in got and forward != "tun":
                key = "tunnel"
                raise UsageError(f'a tunnel is for forward = "tun", not "{forward}"')
            key = "lower"
            server = Server(address, forward, got.get("weight", 1), got.get("upper", 0), got.get("lower", 0), tunnel)
            key = "address"
            server.check(service)
        except UsageError as error:
            self.note_key(path, key, error)
            return None
        if address.family != service.family:
            self.mixed.append((*path, "address"))
        return server

    def _tunnel(self, got: dict[str, Any], path: Path) -> Tunnel | None:
        """The tunnel of a server, from its two written forms: a table, or a word with keys beside it."""
        given = got.get("tunnel")
        beside = [key for key in ("tunnel_port", "tunnel_csum") if key in got]
        at: Path = (*path, "tunnel")
        noted = len(self.problems)
        if type(given) is str:
            asked: dict[str, Any] = {"type": given}
            names: dict[str, Path] = {"type": at, "port": (*path, "tunnel_port"), "csum": (*path, "tunnel_csum")}
            asked |= {key.removeprefix("tunnel_"): got[key] for key in beside}
        else:
            for key in beside:
                self.note((*path, key), f'{key}: expected beside tunnel = "gue" or "gre" only')
            if given is None:
                return None
            asked = self._table(given, "tunnel", at, ("type",))
            names = {key: (*at, key) for key in ("type", "port", "csum")}
        if "type" not in asked or len(self.problems) > noted:
            return None
        kind, port, csum = asked["type"], asked.get("port", 0), asked.get("csum", "no")
        if kind == "ipip":
            if port or csum != "no":
                self.note(names["port" if port else "csum"], "tunnel: expected neither a port nor a csum for ipip")
            return None
        try:
            return Tunnel(kind, port, csum)
        except UsageError as error:
            self.note(names["type" if kind == "gue" else "port" if port else "csum"], f"tunnel: {error}")
            return None

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _nfct(self, table: Any) -> Nfct:
        return Nfct(**self._table(table, "[nfct]", ("nfct",)))

    def _sysctls(self, table: Any, nfct: Nfct | None) -> tuple[tuple[str, str], ...]:
        if type(table) is not dict:
            self.note(("sysctl",), f"[sysctl]: {wrong('a table', table)}")
            return ()
        implied = _implied(nfct) if nfct else {}
        read: dict[str, str] = {}
        places: dict[str, Path] = {}
        noted = len(self.problems)
        for path, value in _leaves(table, ("sysctl",)):
            try:
                name = _sysctl_name(path)
                text = values.sysctl_value(value)
            except Wrong as error:
                self.note(path, f"sysctl {quoted('.'.join(map(str, path[1:])))}: {error}")
            else:
                if name in places:
                    self.note(path, f"sysctl {name} is given twice, expected once", places[name])
                elif name in implied and implied[name][0] != text:
                    wanted, key = implied[name]
                    self.note(path, f"sysctl {name}: expected {wanted}, not {quoted(text)}: [nfct] {key} sets it",
                              ("nfct", key))  # fmt: skip
                read[name] = text
                places.setdefault(name, path)
            if len(self.problems) - noted >= MOST:
                break
        return tuple(read.items())

    def _syncs(self, rows: Any) -> tuple[Daemon, ...]:
        daemons = []
        seen: dict[str, int] = {}
        for index, row in enumerate(self._rows(rows, "[[sync]]", ("sync",))[:MOST]):
            path: Path = ("sync", index)
            got = self._table(row, "[[sync]]", path, ("role", "interface"))
            role = got.get("role")
            if role is not None:
                first = seen.setdefault(role, index)
                if first != index:
                    self.note((*path, "role"), f"sync: expected one daemon of role {role}, not two",
                              ("sync", first, "role"))  # fmt: skip
                if "interface" in got:
                    daemons.append(Daemon(**got))
        for server in self.mixed[:MOST] if daemons else ():
            # ip_vs_genl_set_cmd and start_sync_thread refuse whichever of the two comes second.
            self.note(server, "address: expected a server of its service's address family, because [[sync]] cannot"
                      " synchronise services of two families", ("sync", 0))  # fmt: skip
        return tuple(daemons)


def _plain_servers(
    rows: Any, service: ServiceAddress, known: dict[tuple[str, int], ServerAddress]
) -> tuple[Server, ...] | None:
    """The servers of a service if all of them are plain and right; None to have them read by the grammar.

    `known` has the addresses read before, by text and port of the service: services often share their servers.
    """
    if type(rows) is not list:
        return None
    servers = []
    own_family, own_port = service.family, service.port
    try:
        for row in rows:
            text = row["address"]
            forward = row.get("forward", "dr")
            weight = row.get("weight", 1)
            upper = row.get("upper", 0)
            lower = row.get("lower", 0)
            if not (
                type(weight) is type(upper) is type(lower) is int
                and forward in FORWARDS
                and row.keys() <= _PLAIN_KEYS
            ):
                return None
            address = known.get((text, own_port))
            if address is None:
                host, colon, digits = text.partition(":")
                octets = host.split(".")
                # What IPv4Address takes, at a tenth of its price: four numbers 0..255 without leading zeros.
                if len(octets) == 4 and _OCTETS.issuperset(octets):
                    address = ServerAddress(INET, host, parse_port(digits, text) if colon else own_port)
                else:
                    address = ServerAddress.parse(text, service)
                known[text, own_port] = address
            if address.family != own_family:
                return None
            servers.append(Server(address, forward, weight, upper, lower))
    except (UsageError, TypeError, KeyError, AttributeError):
        return None
    if len({(server.address.address, server.address.port) for server in servers}) < len(servers):
        return None
    return tuple(servers)


def _implied(nfct: Nfct) -> dict[str, tuple[str, str]]:
    """Sysctls that [nfct] sets: name -> value and the key of [nfct]."""
    implied = {}
    for key, name in (
        ("conntrack", "net.ipv4.vs.conntrack"),
        ("snat_reroute", "net.ipv4.vs.snat_reroute"),
        ("be_liberal", "net.netfilter.nf_conntrack_tcp_be_liberal"),
    ):
        asked = getattr(nfct, key)
        if asked is not None:
            implied[name] = ("1" if asked else "0", key)
    for device in nfct.accept_local:
        implied[f"net.ipv4.conf.{device.replace('.', '/')}.accept_local"] = ("1", "accept_local")
    return implied


def _leaves(table: dict[str, Any], path: Path) -> list[tuple[Path, Any]]:
    """The values of [sysctl] with their paths; names without quotes are dotted keys, so tables in tables."""
    leaves: list[tuple[Path, Any]] = []
    for key, value in table.items():
        if type(value) is dict and value:
            leaves += _leaves(value, (*path, key))
        else:
            leaves.append(((*path, key), value))
    return leaves


def _sysctl_name(path: Path) -> str:
    """The name of a sysctl: quoted in one piece, or a dotted key in which only a device may have dots of its own."""
    keys = [str(key) for key in path[1:]]
    if len(keys) == 1:
        return values.sysctl_name(keys[0])
    if "." in keys[0]:
        raise Wrong("expected the whole name in quotes or none of it")
    return values.sysctl_name(".".join(key.replace(".", "/") for key in keys))
