"""The defences against floods: drop_entry, drop_packet, secure_tcp (ip_vs_ctl.c: update_defense_level).

Each is 0 off, 1 automatic, 2 automatic and active because memory is short, 3 always. Memory is short when fewer pages
are free than amemthresh asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.skb import SCTP, TCP
from ipvsctl.datapath.vs import states_sctp, states_tcp
from ipvsctl.datapath.vs.entry import HASHED, TEMPLATE
from ipvsctl.datapath.vs.states import ASSURED

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.vs.conns import Connections
    from ipvsctl.datapath.vs.entry import Conn

PERIOD = 1.0

FREE_PAGES = 1 << 20
"""Free and buffer memory of the emulated host in pages: 4 GiB, more than any sensible amemthresh."""

TABLE_SIZE = 4096
"""Buckets of the connection table; drop_entry looks into a 32nd of them each second."""

_DROP_ENTRY, _DROP_PACKET, _SECURE_TCP = (f"net.ipv4.vs.{name}" for name in ("drop_entry", "drop_packet", "secure_tcp"))
_MODES = (_DROP_ENTRY, _DROP_PACKET, _SECURE_TCP)

_HALF_OPEN_TCP = (states_tcp.SYN_RECV, states_tcp.SYNACK)
_HALF_OPEN_SCTP = (states_sctp.INIT1, states_sctp.INIT)


class Defense:
    """The levels of one namespace. `free` pages may be changed; the levels follow within a second."""

    __slots__ = (
        "_conns",
        "_counter",
        "_drop_entry",
        "_engine",
        "_next",
        "_rate",
        "_secure",
        "_todrop",
        "_written",
        "free",
    )

    def __init__(self, engine: Engine, conns: Connections) -> None:
        self._engine = engine
        self._conns = conns
        self.free = FREE_PAGES
        self._drop_entry = False
        self._rate = 0
        self._counter = 0
        self._secure = 0
        """secure_tcp as it was at the last update: from 2 on TCP has its stricter table."""
        self._todrop = [0] * 9
        self._next: float | None = None
        self._written: tuple[int, ...] = ()
        engine.settings.watch(self._on_write)
        self._on_write()

    def _on_write(self) -> None:
        """A write of a mode takes effect at once (proc_do_defense_mode)."""
        written = tuple(self._engine.settings[name] for name in _MODES)
        if written != self._written:
            self._written = written
            self.update()

    def todrop(self) -> bool:
        """Whether this packet of a new connection is the one in so many that drop_packet drops (ip_vs_todrop)."""
        if not self._rate:
            return False
        self._counter -= 1
        if self._counter > 0:
            return False
        self._counter = self._rate
        return True

    # -- once a second ------------------------------------------------------------------------------------------------

    def poll_at(self) -> float | None:
        """When the next second is due; None while every defence is off."""
        if not any(self._written) and self._secure < 2:
            return None
        return self._engine.now if self._next is None else self._next

    def poll(self, now: float) -> None:
        """Find the levels anew and drop entries, for each second that has passed, a few at most (defense_work)."""
        if self._next is None:
            self._next = now
        if now < self._next:
            return
        self._next = max(self._next + PERIOD, now + PERIOD / 2)
        self.update()
        if self._drop_entry:
            self.drop_entries()

    def update(self) -> None:
        """Find the levels anew."""
        settings = self._engine.settings
        threshold = settings["net.ipv4.vs.amemthresh"]
        short = self.free < threshold
        self._drop_entry = self._level(_DROP_ENTRY, short) >= 2
        packets = self._level(_DROP_PACKET, short)
        if packets == 3:
            self._rate = settings["net.ipv4.vs.am_droprate"]
        elif packets == 2:
            self._rate = self._counter = threshold // (threshold - self.free)
        else:
            self._rate = 0
        secure = self._level(_SECURE_TCP, short)
        if (secure >= 2) != (self._secure >= 2):
            self._conns.states.secure(secure >= 2)
        self._secure = secure
        self._written = tuple(settings[name] for name in _MODES)

    def _level(self, name: str, short: bool) -> int:
        """A mode after the automatic has moved it between 1 and 2, where it can be read."""
        settings = self._engine.settings
        mode = settings[name]
        if mode in (1, 2):
            mode = 2 if short else 1
            if mode != settings[name]:
                settings[name] = mode
                settings.text[name] = str(mode)
        return mode

    # -- dropping entries ---------------------------------------------------------------------------------------------

    def drop_entries(self) -> None:
        """Look into a 32nd of the table and end what is half open or idle (ip_vs_random_dropentry).

        The kernel draws buckets of its hash table, some of them twice; here each draw takes one entry in 4,096.
        """
        entries = list(self._conns)
        for _ in range(TABLE_SIZE // 32):
            for conn in entries[self._engine.random(TABLE_SIZE) :: TABLE_SIZE]:
                if conn.flags & HASHED and not conn.controls and self._drops(conn):
                    self._conns.delete(conn)

    def _drops(self, conn: Conn) -> bool:
        if conn.flags & TEMPLATE:
            service = conn.dest.service if conn.dest is not None else None
            if service is not None and service.ops:
                return self._idle(conn)
            return not conn.state & ASSURED
        if conn.protocol == TCP:
            if conn.state == states_tcp.ESTABLISHED:
                return self._idle(conn)
            return conn.state in _HALF_OPEN_TCP
        if conn.protocol == SCTP:
            if conn.state == states_sctp.ESTABLISHED:
                return self._idle(conn)
            return conn.state in _HALF_OPEN_SCTP
        return self._idle(conn)

    def _idle(self, conn: Conn) -> bool:
        """One in so many, of those without a packet for a minute and with 1 to 8 packets at all (todrop_entry)."""
        if conn.timeout + self._engine.now < conn.expires + 60:
            return False
        packets = conn.in_packets
        if not 1 <= packets <= 8:
            return False
        self._todrop[packets] -= 1
        if self._todrop[packets] > 0:
            return False
        self._todrop[packets] = packets
        return True
