"""The application ip_vs_ftp: net/netfilter/ipvs/ip_vs_ftp.c, bound to connections as in ip_vs_app.c.

It reads the control connection of a nat service and makes the connection entry of the data connection beforehand: for
PORT and EPRT with the address the client names, for PASV and EPSV with the address the server answers, which it
replaces by the virtual one. It works on the packets of one segment each: a command in two segments is not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.skb import TCP, Skb
from ipvsctl.datapath.vs.entry import MASQ, METHOD_MASK, NFCT, NO_CPORT, Conn
from ipvsctl.datapath.vs.ftp_text import (
    ACTIVE,
    EPSV,
    PASV,
    STOP,
    Place,
    extended_address,
    passive_request,
    plain_address,
)
from ipvsctl.datapath.vs.header import Header
from ipvsctl.datapath.vs.states_tcp import ESTABLISHED, LISTEN
from ipvsctl.model.address import INET
from ipvsctl.wire.address import endpoint

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.vs.conns import Connections
    from ipvsctl.datapath.vs.nfct import Nfct


class Ftp:
    """The application; the `app` of a connection it is bound to. `ports` is the module's parameter."""

    __slots__ = ("_conns", "_engine", "_nfct", "ports")

    name = "ftp"

    def __init__(self, engine: Engine, conns: Connections, nfct: Nfct) -> None:
        self._engine = engine
        self._conns = conns
        self._nfct = nfct
        self.ports = frozenset({21})

    def bind(self, conn: Conn) -> None:
        """tcp_app_conn_bind and ip_vs_ftp_init_conn: for nat connections to a registered virtual port.

        Their control connection uses conntrack, whatever vs/conntrack says.
        """
        if (
            conn.vport in self.ports
            and conn.protocol == TCP
            and conn.flags & METHOD_MASK == MASQ
            and "ip_vs_ftp" in self._engine.modules
        ):
            conn.app, conn.app_data = self, ACTIVE
            conn.flags |= NFCT

    # -- from the client ----------------------------------------------------------------------------------------------

    def incoming(self, conn: Conn, skb: Skb) -> bool:
        """ip_vs_ftp_in: false when the packet must be dropped. The payload is not changed."""
        payload = self._payload(conn, skb)
        if not payload:
            return True
        wanted = passive_request(payload, conn.family)
        if wanted == STOP:
            return True
        if wanted != ACTIVE:
            conn.app_data = wanted
            self._note(f"ftp: the client asks for passive mode ({'PASV' if wanted == PASV else 'EPSV'})")
            return True
        place = plain_address(payload, b"PORT", 0x20) if conn.family == INET else None
        if place is None:
            place = extended_address(payload, b"EPRT", 0x20, conn.family, False)
        if place is None:
            return True
        conn.app_data = ACTIVE
        header = Header(conn.family, TCP, place.address, conn.vaddr, place.port, (conn.vport - 1) & 0xFFFF)
        data = self._conns.find_in(header)
        if data is None:
            data = self._new(
                conn, (place.address, place.port), (conn.vport - 1) & 0xFFFF,
                (conn.daddr, (conn.dport - 1) & 0xFFFF), NFCT, skb.mark,
            )  # fmt: skip
        self._note(f"ftp: the client names {endpoint(place.address, place.port)}: a data connection is expected")
        self._listen(data)
        return True

    # -- from the server ----------------------------------------------------------------------------------------------

    def outgoing(self, conn: Conn, skb: Skb) -> bool:
        """ip_vs_ftp_out: false when the packet must be dropped, as a reply is that cannot be rewritten.

        Without a conntrack entry it cannot; since the mode is forgotten all the same, the server's second try passes
        with its own address in it.
        """
        mode = conn.app_data
        if mode not in (PASV, EPSV):
            return True
        payload = self._payload(conn, skb)
        if not payload:
            return True
        place: Place | None
        if mode == PASV:
            place = plain_address(payload, b"227 ", 0x28)
        else:
            place = extended_address(payload, b"229 ", 0x28, conn.family, True)
        if place is None:
            return True
        server = place.address or conn.daddr
        data = self._conns.find_out(Header(conn.family, TCP, server, conn.caddr, place.port, 0))
        if data is None:
            data = self._new(conn, (conn.caddr, 0), place.port, (server, place.port), NO_CPORT | NFCT, skb.mark)
        text = _plain(data.vaddr, data.vport) if mode == PASV else b"|||%d|" % data.vport
        done = False
        entry = skb.ct
        if entry is not None and self._engine.nat.mangle_tcp(skb, entry, place.start, place.end - place.start, text):
            self._note(
                f"ftp: the server opens {endpoint(server, place.port)}; the client is told "
                f"{endpoint(data.vaddr, data.vport)} instead"
            )
            self._nfct.expect_related(entry, data)
            done = True
        else:
            self._note("ftp: the reply cannot be rewritten, for the packet has no conntrack entry: it is dropped")
        conn.app_data = ACTIVE
        self._listen(data)
        return done

    # -- their common parts -------------------------------------------------------------------------------------------

    def _payload(self, conn: Conn, skb: Skb) -> bytes:
        """The payload of a segment of an established session, b"" when there is nothing to read."""
        if conn.state != ESTABLISHED:
            return b""
        data, at = skb.data, skb.thoff
        length = (data[at + 12] >> 4) * 4
        return bytes(data[at + length :]) if length >= 20 else b""

    def _new(
        self, conn: Conn, client: tuple[bytes, int], vport: int, server: tuple[bytes, int], flags: int, mark: int
    ) -> Conn:
        data = self._conns.new(conn.family, TCP, client, (conn.vaddr, vport), server, flags, conn.dest, mark)
        self._conns.control_add(data, conn)
        return data

    def _listen(self, data: Conn) -> None:
        """ip_vs_tcp_conn_listen, and the timer."""
        data.state, data.timeout = LISTEN, self._conns.states.tcp[LISTEN]
        self._conns.put(data, self._engine.now)

    def _note(self, text: str) -> None:
        if self._engine.tracer is not None:
            self._engine.tracer.note(text)


def _plain(address: bytes, port: int) -> bytes:
    return b"%d,%d,%d,%d,%d,%d" % (*address, port >> 8, port & 255)
