"""The connection table of IPVS: entries by client and by server, templates, timers (ip_vs_conn.c).

A key is a tuple as in ct/entry.py: of a request (client to virtual address) for lookups from outside, of a reply
(server to client, or virtual address to client where the server answers by itself) for lookups from inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import TYPE_CHECKING

from ipvsctl.datapath.skb import PROTOCOL_NAMES
from ipvsctl.datapath.timers import SLOTS
from ipvsctl.datapath.vs import states
from ipvsctl.datapath.vs.chains import Chains
from ipvsctl.datapath.vs.dests import lower_threshold, update_overload
from ipvsctl.datapath.vs.entry import (
    AVAILABLE,
    HASHED,
    INACTIVE,
    MASQ,
    METHOD_MASK,
    METHOD_NAMES,
    NFCT,
    NO_CPORT,
    NOOUTPUT,
    ONE_PACKET,
    TEMPLATE,
    Conn,
)
from ipvsctl.model.status import Connection
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.vs.entry import Dest
    from ipvsctl.datapath.vs.header import Header

_pack4 = Struct(">B4s4sHH").pack
_pack6 = Struct(">B16s16sHH").pack

_AH, _ESP, _UDP, _ISAKMP = 51, 50, 17, 500
_FIRST_TIMEOUT = 3.0
_DELAYED = 60.0
"""Seconds after which an entry that could not go is tried again."""

_INVALID_PORT = 0xFFFF

_FLAG_NAMES = {
    TEMPLATE: "template", ONE_PACKET: "one-packet", INACTIVE: "inactive", NOOUTPUT: "no-output",
    NO_CPORT: "no-client-port", NFCT: "conntrack",
}  # fmt: skip


class Connections:
    """The connections of one namespace.

    `states` has the timeouts; `bind_app` gives a new connection its helper; `on_change` is told both keys of each that
    can be found from now on, or no longer.
    """

    __slots__ = (
        "_count", "_engine", "_in", "_nfct", "_out", "_templates", "_wild", "bind_app", "on_change", "states",
    )  # fmt: skip

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._in = Chains()
        self._out = Chains()
        self._templates = Chains()
        self._wild = Chains()
        """Connections whose client port is not known yet: port 0 in their key."""
        self._count = 0
        self.states = states.States()
        self.bind_app: Callable[[Conn], None] | None = None
        self.on_change: Callable[[bytes, bytes], None] | None = None
        self._nfct = 0
        engine.settings.watch(self._read_settings)
        self._read_settings()

    def _read_settings(self) -> None:
        self._nfct = NFCT if self._engine.settings["net.ipv4.vs.conntrack"] else 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Conn]:
        """Every hashed connection, templates last."""
        yield from self._in
        yield from self._wild
        yield from self._templates

    # -- finding ------------------------------------------------------------------------------------------------------

    def find_in(self, header: Header) -> Conn | None:
        """The connection of a request (ip_vs_conn_in_get_proto); the header's inverse is minded."""
        key = _key_of(header)
        return None if key is None else self.find_in_key(key)

    def find_in_key(self, key: bytes) -> Conn | None:
        """The connection of a request by its tuple: protocol, client, virtual address, client's port, its port."""
        conn = self._in.newest.get(key)
        if conn is not None and conn.expires > self._engine.now:
            return conn
        if conn is not None:
            conn = self._in_time(self._in, key)
        if conn is None and self._wild.newest:
            conn = self._in_time(self._wild, key[:-4] + b"\0\0" + key[-2:])
        return conn

    def find_out(self, header: Header) -> Conn | None:
        """The connection of a reply (ip_vs_conn_out_get_proto)."""
        key = _key_of(header)
        return None if key is None else self.find_out_key(key)

    def find_out_key(self, key: bytes) -> Conn | None:
        """The connection of a reply by its tuple: protocol, server, client, server's port, client's port."""
        conn = self._out.newest.get(key)
        if conn is None or conn.expires > self._engine.now:
            return conn
        return self._in_time(self._out, key)

    def find_template(self, protocol: int, client: bytes, virtual: bytes, port: int) -> Conn | None:
        """The template of a masked client; `protocol` 0 where `virtual` is a firewall mark (ip_vs_ct_in_get)."""
        return self._in_time(self._templates, key(protocol, client, virtual, 0, port))

    def _in_time(self, chains: Chains, key: bytes) -> Conn | None:
        """The newest connection whose time is not over; the others end now, as they would by their timers."""
        now = self._engine.now
        while (conn := chains.newest.get(key)) is not None and conn.expires <= now:
            self.expire(conn, now)
        return conn

    # -- making -------------------------------------------------------------------------------------------------------

    def new(
        self, family: int, protocol: int, client: tuple[bytes, int], virtual: tuple[bytes, int],
        server: tuple[bytes, int], flags: int, dest: Dest | None, fwmark: int = 0,
    ) -> Conn:  # fmt: skip
        """A connection, bound to its server and counted there, hashed; `put` starts its timer (ip_vs_conn_new).

        `flags` beside those the server gives: TEMPLATE, ONE_PACKET, NO_CPORT, a method where there is no server.
        """
        conn = Conn(self, family, protocol, client, virtual, server, flags)
        if fwmark:
            conn.fwmark = fwmark
        if dest is not None:
            conn.dest = dest
            conn.daf = dest.family
            method = dest.method
            flags |= method | INACTIVE if method == MASQ else method | INACTIVE | NOOUTPUT
            if flags & TEMPLATE:
                dest.persistent += 1
            else:
                dest.inactive += 1
                if dest.upper and dest.active + dest.inactive == dest.upper:
                    update_overload(dest, 1)
        conn.flags = flags | self._nfct
        conn.expires = self._engine.now + _FIRST_TIMEOUT
        self._count += 1
        if self.bind_app is not None:
            self.bind_app(conn)
        self._hash(conn)
        return conn

    def fill_cport(self, conn: Conn, port: int) -> None:
        """Give a connection the client's port that was not known (ip_vs_conn_fill_cport)."""
        if conn.flags & HASHED and conn.flags & NO_CPORT:
            self._unhash(conn)
            conn.flags &= ~NO_CPORT
            conn.cport = port
            self._hash(conn)

    def control_add(self, conn: Conn, control: Conn) -> None:
        """Put a connection under another: a template, or an FTP control connection (ip_vs_control_add)."""
        if conn.control is not None:
            self.control_del(conn)
        conn.control = control
        control.controls += 1

    def control_del(self, conn: Conn) -> None:
        """Take a connection from under the one that controls it (ip_vs_control_del)."""
        control = conn.control
        if control is not None:
            conn.control = None
            control.controls -= 1

    def check_template(self, template: Conn) -> bool:
        """Whether a template's server may still be used; if not it is made unfindable (ip_vs_check_template)."""
        dest = template.dest
        quiescent_too = not self._engine.settings["net.ipv4.vs.expire_quiescent_template"]
        if dest is not None and dest.flags & AVAILABLE and (dest.weight or quiescent_too):
            return True
        if template.vport != _INVALID_PORT and template.flags & HASHED:
            self._unhash(template)
            template.dport = template.vport = _INVALID_PORT
            template.cport = 0
            self._hash(template)
        return False

    def _hash(self, conn: Conn) -> None:
        flags = conn.flags
        if flags & ONE_PACKET:
            return
        flags |= HASHED
        conn.flags = states.SHARED.setdefault(flags, flags)
        chains, inner, outer = self._place(conn)
        chains.add(inner, conn)
        self._out.add(outer, conn)
        if self.on_change is not None:
            self.on_change(inner, outer)

    def _unhash(self, conn: Conn) -> None:
        chains, inner, outer = self._place(conn)
        chains.remove(inner, conn)
        self._out.remove(outer, conn)
        conn.flags &= ~HASHED
        if self.on_change is not None:
            self.on_change(inner, outer)

    def _place(self, conn: Conn) -> tuple[Chains, bytes, bytes]:
        """The table of a connection and its two keys."""
        caddr, cport = conn.caddr, conn.cport
        flags = conn.flags
        pack = _pack4 if len(caddr) == 4 else _pack6
        protocol = conn.protocol
        inner = pack(protocol, caddr, conn.vaddr, cport, conn.vport)
        if flags & METHOD_MASK == MASQ and len(conn.daddr) == len(caddr):
            outer = pack(protocol, conn.daddr, caddr, conn.dport, cport)
        else:
            outer = pack(protocol, conn.vaddr, caddr, conn.vport, cport)
        if flags & TEMPLATE:
            return self._templates, inner, outer
        if flags & NO_CPORT:
            return self._wild, inner, outer
        # The kernel never finds a client's port 0 again, so its key is one that no packet has.
        return self._in, inner if cport else inner + b"\0", outer

    # -- ending -------------------------------------------------------------------------------------------------------

    def put(self, conn: Conn, now: float) -> None:
        """Done with it for this packet: its timer begins anew; a one-packet connection ends (ip_vs_conn_put)."""
        if conn.flags & ONE_PACKET:
            self.expire(conn, now)
            return
        conn.expires = now + conn.timeout
        if conn.flags & HASHED:
            self._engine.timers.watch(conn)

    def expire_now(self, conn: Conn) -> None:
        """Let it end as soon as this packet is done with: it still counts until then (ip_vs_conn_expire_now)."""
        if conn.flags & HASHED:
            conn.expires = self._engine.now - 1 / SLOTS
            self._engine.timers.watch(conn)

    def delete(self, conn: Conn) -> None:
        """End it at once with what it alone kept alive: its template unless assured (ip_vs_conn_del)."""
        if conn.control is not None:
            conn.timeout = 0.0
        self.expire(conn, self._engine.now)

    def expire(self, conn: Conn, now: float) -> None:
        """Its time is over: it goes, or in a minute when it still controls others (ip_vs_conn_expire)."""
        flags = conn.flags
        if conn.controls:
            conn.timeout = _DELAYED
            conn.expires = now + _DELAYED
            self._engine.timers.watch(conn)
            return
        if flags & HASHED:
            self._unhash(conn)
        elif flags & ONE_PACKET:
            conn.flags = flags & ~ONE_PACKET
        else:
            return
        self._engine.timers.forget(conn)
        control = conn.control
        if control is not None:
            self.control_del(conn)
            assured = control.flags & TEMPLATE and control.state & states.ASSURED
            if not conn.timeout and not control.controls and not assured:
                self.delete(control)
        if flags & NFCT and not flags & ONE_PACKET:
            self._engine.vs.drop_conntrack(conn)
        conn.app = conn.app_data = None
        self._unbind(conn)
        self._count -= 1

    def _unbind(self, conn: Conn) -> None:
        """Count it out at its server (ip_vs_unbind_dest)."""
        dest = conn.dest
        if dest is None:
            return
        if conn.flags & TEMPLATE:
            dest.persistent -= 1
            return
        before = dest.active + dest.inactive
        if conn.flags & INACTIVE:
            dest.inactive -= 1
        else:
            dest.active -= 1
        if dest.upper and before == lower_threshold(dest):
            update_overload(dest, -1)

    def sweep(self) -> None:
        """End every connection whose server was deleted (ip_vs_expire_nodest_conn_flush)."""
        for conn in list(self):
            dest = conn.dest
            if dest is None or dest.flags & AVAILABLE or conn.controls or not conn.flags & HASHED:
                continue
            control = conn.control
            self.delete(conn)
            if control is not None and not control.controls and control.flags & HASHED:
                self.delete(control)

    # -- listing ------------------------------------------------------------------------------------------------------

    def report(self) -> list[Connection]:
        """The table as /proc/net/ip_vs_conn has it; the kernel's order is by chance, this one by age of the keys."""
        now = self._engine.now
        return [_status(conn, now) for conn in self]


def key(protocol: int, source: bytes, destination: bytes, sport: int, dport: int) -> bytes:
    if len(source) == 4:
        return _pack4(protocol, source, destination, sport, dport)
    return _pack6(protocol, source, destination, sport, dport)


def _key_of(header: Header) -> bytes | None:
    """The tuple that a header is looked up by, None where its ports are not there.

    AH and ESP belong to the ISAKMP connection of the same hosts (ip_vs_proto_ah_esp.c).
    """
    protocol, sport, dport = header.protocol, header.sport, header.dport
    if protocol in (_AH, _ESP):
        protocol, sport, dport = _UDP, _ISAKMP, _ISAKMP
    elif header.fragment:
        return None
    if header.inverse:
        return key(protocol, header.destination, header.source, dport, sport)
    return key(protocol, header.source, header.destination, sport, dport)


def _status(conn: Conn, now: float) -> Connection:
    names = [METHOD_NAMES.get(conn.flags & METHOD_MASK, "unknown")]
    names += [name for flag, name in _FLAG_NAMES.items() if conn.flags & flag]
    return Connection(
        "ip" if conn.protocol == 0 else PROTOCOL_NAMES.get(conn.protocol, str(conn.protocol)),
        readable(conn.caddr), conn.cport, readable(conn.vaddr), conn.vport, readable(conn.daddr), conn.dport,
        states.name(conn.protocol, conn.state, bool(conn.flags & TEMPLATE)),
        max(int(conn.expires - now), 0), tuple(names),
    )  # fmt: skip
