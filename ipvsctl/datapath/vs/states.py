"""What a packet does to the state and the timeout of its connection (ip_vs_set_state and the protocols behind it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.skb import SCTP, TCP, UDP
from ipvsctl.datapath.vs import states_sctp, states_tcp
from ipvsctl.datapath.vs.entry import INACTIVE, NOOUTPUT, TEMPLATE
from ipvsctl.datapath.vs.state_table import INPUT, INPUT_ONLY, OUTPUT
from ipvsctl.model.status import KERNEL_TIMEOUTS, Timeouts

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.entry import Conn
    from ipvsctl.datapath.vs.header import Header

__all__ = ["ASSURED", "INPUT", "INPUT_ONLY", "OUTPUT", "SHARED", "States", "name", "set_state"]

ASSURED = 1
"""The one bit of a template's state: a connection under it was established (IP_VS_CTPL_S_ASSURED)."""

SHARED: dict[int, int] = {}
"""Every number of flags once, for a million connections that have the same."""

_TCP_EVENTS = len(states_tcp.EVENTS)
_SCTP_EVENTS = len(states_sctp.EVENTS)
_SCTP_ACTIVE = bytes(state == states_sctp.ESTABLISHED for state in range(16))


class States:
    """The tables and timeouts of one namespace. Timeouts in seconds by state; `udp` is UDP's only one."""

    __slots__ = ("sctp", "tcp", "tcp_table", "udp")

    def __init__(self) -> None:
        self.tcp = list(states_tcp.TIMEOUTS)
        self.sctp = list(states_sctp.TIMEOUTS)
        self.udp = float(KERNEL_TIMEOUTS.udp)
        self.tcp_table = states_tcp.TABLE

    @property
    def timeouts(self) -> Timeouts:
        """The three that can be set."""
        return Timeouts(int(self.tcp[states_tcp.ESTABLISHED]), int(self.tcp[states_tcp.FIN_WAIT]), int(self.udp))

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set those that are not 0, for packets from now on (ip_vs_ctl.c: ip_vs_set_timeout)."""
        if timeouts.tcp:
            self.tcp[states_tcp.ESTABLISHED] = float(timeouts.tcp)
        if timeouts.tcp_fin:
            self.tcp[states_tcp.FIN_WAIT] = float(timeouts.tcp_fin)
        if timeouts.udp:
            self.udp = float(timeouts.udp)

    def secure(self, on: bool) -> None:
        """Choose TCP's table: the stricter one while secure_tcp is active (tcp_timeout_change)."""
        self.tcp_table = states_tcp.SECURE_TABLE if on else states_tcp.TABLE


def set_state(conn: Conn, direction: int, skb: Skb, header: Header, engine: Engine) -> None:
    """Let a packet act on its connection: state, timeout, the server's counts, the template's assurance.

    `direction` INPUT for requests, OUTPUT for replies; a connection whose replies do not pass here has its own table.
    Protocols without states (AH, ESP) change nothing; nor does a packet that is too short.
    """
    states = conn.table.states
    protocol = header.protocol
    if protocol == TCP:
        at = header.length
        if len(skb.data) < at + 20:
            return
        if conn.flags & NOOUTPUT:
            direction = _one_way(conn, direction)
        before = conn.state
        event = states_tcp.EVENT_OF[skb.data[at + 13]]
        state = states.tcp_table[direction * _TCP_EVENTS + event][before]
        if state != before:
            _moved(conn, states_tcp.ACTIVE[state], state == states_tcp.ESTABLISHED)
            conn.state = state
        conn.timeout = states.tcp[state]
    elif protocol == UDP:
        conn.timeout = states.udp
        if direction == OUTPUT:
            _assure(conn)
        return
    elif protocol == SCTP:
        event = states_sctp.event(skb.data, header.length)
        if event < 0:
            return
        if conn.flags & NOOUTPUT:
            direction = _one_way(conn, direction)
        before = conn.state
        state = states_sctp.TABLE[direction * _SCTP_EVENTS + event][before]
        if state != before:
            _moved(conn, _SCTP_ACTIVE[state], state == states_sctp.ESTABLISHED)
            conn.state = state
        conn.timeout = states.sctp[state]
    else:
        return
    if engine.tracer is not None and state != before:
        was, now = name(protocol, before), name(protocol, state)
        engine.tracer.note(f"IPVS state {was} -> {now}, timeout {conn.timeout:g} s", minor=True, vs_state=now)


def _one_way(conn: Conn, direction: int) -> int:
    """INPUT_ONLY for a request; a reply shows that replies do pass here after all."""
    if direction == OUTPUT:
        conn.flags &= ~NOOUTPUT
        return OUTPUT
    return INPUT_ONLY


def _moved(conn: Conn, active: int, established: bool) -> None:
    dest = conn.dest
    if dest is not None:
        if active:
            if conn.flags & INACTIVE:
                flags = conn.flags & ~INACTIVE
                conn.flags = SHARED.setdefault(flags, flags)
                dest.active += 1
                dest.inactive -= 1
        elif not conn.flags & INACTIVE:
            flags = conn.flags | INACTIVE
            conn.flags = SHARED.setdefault(flags, flags)
            dest.active -= 1
            dest.inactive += 1
    if established:
        _assure(conn)


def _assure(conn: Conn) -> None:
    """Its template has proved itself (ip_vs_control_assure_ct)."""
    control = conn.control
    if control is not None and control.flags & TEMPLATE:
        control.state |= ASSURED


def name(protocol: int, state: int, template: bool = False) -> str:
    """The kernel's name of a state (ip_vs_state_name)."""
    if template:
        names: tuple[str, ...] = ("NONE", "ASSURED")
    elif protocol == TCP:
        names = states_tcp.STATES
    elif protocol == UDP:
        names = ("UDP",)
    elif protocol == SCTP:
        names = states_sctp.NAMES
    else:
        return "NONE" if protocol == 0 else "ERR!"
    return names[state] if state < len(names) else "ERR!"
