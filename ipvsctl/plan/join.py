"""The IPVS connection table joined with the conntrack table: one row for what is one connection.

Both know a connection by what its first packet looked like: client to virtual address. That is the key, with these
exceptions:

* FTP's active data connections are opened by the server: conntrack's entry then begins with server to client.
* A connection whose client port is not known yet (FTP's passive data) has no entry; the expectation of one is its sign.
* Templates of persistent services are no connections: conntrack knows nothing of them.
* Tunnels are confirmed by IPVS itself, before encapsulation: the key is the client's as everywhere.
* Connections that came from another director have no entry here until a packet comes.

An entry for a service that no IPVS connection belongs to is an orphan, and so is a connection without an entry while
IPVS uses conntrack. Pure: who lists reads the tables and brings them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.status import Connection, ConntrackEntry, Expectation, ServiceStatus

IPVS, CONNTRACK = "ipvs", "conntrack"
"""Whose table alone has an orphan."""

Key = tuple[str, str, int, str, int]
"""Protocol, source, its port, destination, its port."""

_FTP, _FTP_DATA = 21, 20


class Joined(NamedTuple):
    """A row: one of `connection` and `entry` is there. `orphan` "", IPVS or CONNTRACK.

    `service` None when the connection's service is gone or cannot be told; `expects` are the connections that conntrack
    waits for because of this one, `awaited` says that this one is waited for.
    """

    connection: Connection | None
    entry: ConntrackEntry | None = None
    orphan: str = ""
    service: ServiceAddress | None = None
    expects: tuple[Expectation, ...] = ()
    awaited: bool = False

    @property
    def ends(self) -> tuple[str, str, int, str, int, str, int]:
        """Protocol, client, virtual address and server; for an entry alone what its reply direction says."""
        found = self.connection
        if found is not None:
            return found[:7]
        entry = self.entry
        assert entry is not None
        return (
            entry.protocol, entry.source, entry.source_port, entry.destination, entry.destination_port,
            entry.reply_source, entry.reply_source_port,
        )  # fmt: skip


class Services:
    """Which service a connection belongs to. The kernel's listing does not tell: it follows from the addresses.

    A connection of a firewall mark's service is known by its server; where several marks have it, by none.
    """

    def __init__(self, services: Sequence[ServiceStatus]) -> None:
        self._exact: dict[tuple[str, str, int], ServiceAddress] = {}
        self._marks: dict[tuple[int, int], ServiceAddress] = {}
        self._by_server: dict[tuple[int, str], set[ServiceAddress]] = {}
        self._cache: dict[tuple[str, str, int, str], ServiceAddress | None] = {}
        for status in services:
            address = status.service.address
            if address.fwmark or address.protocol == "fwmark":
                self._marks[address.family, address.fwmark] = address
                for server in status.servers:
                    key = address.family, server.server.address.address
                    self._by_server.setdefault(key, set()).add(address)
            else:
                self._exact[address.protocol, address.address, address.port] = address
        self.virtual = {address for _, address, _ in self._exact}
        self.servers = {server.server.address.address for status in services for server in status.servers}
        self.marked = bool(self._marks)
        self.ftp = any(port == _FTP for _, _, port in self._exact)
        """Whether there is a service of FTP: IPVS has conntrack follow those whatever its sysctl says."""

    def exact(self, protocol: str, address: str, port: int) -> ServiceAddress | None:
        """The service of a packet to an address: as it is, every port, FTP's data beside port 21."""
        find = self._exact.get
        found = find((protocol, address, port)) or find((protocol, address, 0))
        if found is None and protocol == "tcp" and (port == _FTP_DATA or port >= 1024):
            found = find((protocol, address, _FTP))
        return found

    def of(self, found: Connection) -> ServiceAddress | None:
        """The service of a connection or template."""
        key = found.protocol, found.virtual, found.virtual_port, found.server
        if key not in self._cache:
            if len(self._cache) >= 1 << 16:
                self._cache.clear()
            self._cache[key] = self._find(*key)
        return self._cache[key]

    def _find(self, protocol: str, virtual: str, port: int, server: str) -> ServiceAddress | None:
        family = INET6 if ":" in virtual else INET
        if protocol == "ip":
            return self._marks.get((family, int(ip_address(virtual)) & 0xFFFFFFFF))
        found = self.exact(protocol, virtual, port)
        if found is None and port == 0:
            found = self._exact.get((protocol, virtual, _FTP))
        marks = self._by_server.get((family, server), set())
        return found or (next(iter(marks)) if len(marks) == 1 else None)


class Join:
    """Joins connections, as they come, with entries that were read before. `tracked`: IPVS uses conntrack now."""

    def __init__(
        self,
        services: Services,
        entries: Iterable[ConntrackEntry] = (),
        expectations: Iterable[Expectation] = (),
        *,
        tracked: bool = False,
    ) -> None:
        self.services = services
        self.tracked = tracked
        self.seen = 0
        """Entries of the conntrack table, ours or not."""
        self._entries: dict[Key, ConntrackEntry] = {}
        virtual, servers, every = services.virtual, services.servers, services.marked
        for entry in entries:
            self.seen += 1
            if every or entry[2] in virtual or entry[1] in servers:
                protocol, source, destination, port, to = entry[:5]
                self._entries[protocol, source, port, destination, to] = entry
        self._expected: dict[Key, list[Expectation]] = {}
        self._awaited: set[tuple[str, str, str, int]] = set()
        for each in expectations:
            master = (each.protocol, *each[5:9])
            self._expected.setdefault(master, []).append(each)
            self._awaited.add((each.protocol, each.source, each.destination, each.destination_port))

    @property
    def plain(self) -> bool:
        """Whether nothing can join: rows are connections alone."""
        return not self._entries and not self.tracked and not self._expected

    def join(self, connections: Iterable[Connection]) -> Iterator[Joined]:
        """A row for each connection."""
        services, tracked = self.services.of, self.tracked
        if self.plain:
            yield from (Joined(found, None, "", services(found)) for found in connections)
            return
        pop, expected = self._entries.pop, self._expected
        for found in connections:
            key = found[:5]
            entry = pop(key, None)
            if entry is None:
                entry = pop((key[0], found[5], found[6], key[1], key[2]), None)
            flags = found[9]
            orphan, awaited = "", False
            if entry is None and tracked:
                if "no-client-port" in flags:
                    awaited = self._is_awaited(found)
                if not awaited and "template" not in flags and "synced" not in flags:
                    orphan = IPVS
            expects = tuple(expected.get(_master(entry), ())) if entry is not None and expected else ()
            yield Joined(found, entry, orphan, services(found), expects, awaited)

    def _is_awaited(self, found: Connection) -> bool:
        protocol, virtual, port = found.protocol, found.virtual, found.virtual_port
        return any((protocol, source, virtual, port) in self._awaited for source in (found.client, ""))

    def left(self) -> Iterator[Joined]:
        """A row for each entry of a service that no connection had: call it when `join` is done."""
        for entry in self._entries.values():
            service = self.services.exact(entry.protocol, entry.destination, entry.destination_port)
            if service is not None:
                yield Joined(None, entry, CONNTRACK, service, tuple(self._expected.get(_master(entry), ())))


def _master(entry: ConntrackEntry) -> Key:
    return entry.protocol, entry.source, entry.source_port, entry.destination, entry.destination_port


def wanted(
    *,
    service: ServiceAddress | None = None,
    server: ServerAddress | None = None,
    client: str | None = None,
    state: str | None = None,
    orphans: bool = False,
) -> Callable[[Joined], bool] | None:
    """Whether a row is to be shown: all that is named must fit; None when nothing is.

    `server` with port 0: every port of the address. `client` an address or a network. `state` of either table.
    Raises ValueError for a `client` that is neither.
    """
    tests: list[Callable[[Joined], bool]] = []
    if service is not None:
        tests.append(lambda row: row.service == service)
    if server is not None:
        address, port = server.address, server.port
        tests.append(lambda row: row.ends[5] == address and port in (0, row.ends[6]))
    if client is not None:
        network = ip_network(client, strict=False)
        if network.num_addresses == 1:
            alone = str(network.network_address)
            tests.append(lambda row: row.ends[1] == alone)
        else:
            tests.append(lambda row: ip_address(row.ends[1]) in network)
    if state is not None:
        name = state.upper()
        tests.append(lambda row: name in (row.connection and row.connection.state, row.entry and row.entry.state))
    if orphans:
        tests.append(lambda row: bool(row.orphan))
    if not tests:
        return None
    return lambda row: all(test(row) for test in tests)
