"""The state machine of a TCP connection in IPVS (ip_vs_proto_tcp.c), and its stricter form under secure_tcp.

A segment is one event: rst before syn before fin before ack; a segment with none of them closes the connection.
"""

from __future__ import annotations

from ipvsctl.datapath.vs.state_table import compiled, overlaid

STATES = (
    "NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK",
    "LISTEN", "SYNACK",
)  # fmt: skip
NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK = range(11)

EVENTS = ("syn", "fin", "ack", "rst", "none")

TIMEOUTS = (2.0, 900.0, 120.0, 60.0, 120.0, 120.0, 10.0, 60.0, 30.0, 120.0, 120.0)
"""Seconds by state."""

ACTIVE = bytes(state in (ESTABLISHED, SYN_SENT, SYN_RECV, SYNACK) for state in range(16))
"""Whether a connection in that state counts as active."""

_TABLE = {
    "INPUT": {
        "NONE": "syn>SYN_RECV fin>CLOSE ack>ESTABLISHED rst>CLOSE",
        "ESTABLISHED": "fin>CLOSE_WAIT rst>CLOSE",
        "SYN_SENT": "syn>ESTABLISHED rst>CLOSE",
        "SYN_RECV": "fin>TIME_WAIT ack>ESTABLISHED",
        "FIN_WAIT": "syn>SYN_RECV fin>TIME_WAIT rst>CLOSE",
        "TIME_WAIT": "syn>SYN_RECV rst>CLOSE",
        "CLOSE": "syn>SYN_RECV",
        "CLOSE_WAIT": "syn>SYN_RECV rst>CLOSE",
        "LAST_ACK": "syn>SYN_RECV ack>CLOSE",
        "LISTEN": "syn>SYN_RECV",
        "SYNACK": "syn>SYN_RECV fin>TIME_WAIT ack>ESTABLISHED rst>SYN_RECV",
    },
    "OUTPUT": {
        "NONE": "syn>SYN_SENT fin>TIME_WAIT ack>ESTABLISHED rst>CLOSE",
        "ESTABLISHED": "fin>FIN_WAIT rst>CLOSE",
        "SYN_SENT": "",
        "SYN_RECV": "fin>TIME_WAIT ack>ESTABLISHED rst>CLOSE",
        "FIN_WAIT": "syn>SYN_SENT rst>CLOSE",
        "TIME_WAIT": "syn>SYN_SENT",
        "CLOSE": "syn>SYN_SENT",
        "CLOSE_WAIT": "syn>SYN_SENT fin>TIME_WAIT rst>CLOSE",
        "LAST_ACK": "syn>SYN_SENT rst>CLOSE",
        "LISTEN": "ack>ESTABLISHED rst>CLOSE",
        "SYNACK": "syn>SYN_RECV fin>TIME_WAIT ack>ESTABLISHED rst>CLOSE",
    },
    "INPUT_ONLY": {
        "NONE": "syn>SYN_RECV fin>CLOSE ack>ESTABLISHED rst>CLOSE",
        "ESTABLISHED": "fin>FIN_WAIT rst>CLOSE",
        "SYN_SENT": "syn>ESTABLISHED rst>CLOSE",
        "SYN_RECV": "fin>TIME_WAIT ack>ESTABLISHED",
        "FIN_WAIT": "syn>SYN_RECV rst>CLOSE",
        "TIME_WAIT": "syn>SYN_RECV rst>CLOSE",
        "CLOSE": "syn>SYN_RECV",
        "CLOSE_WAIT": "syn>SYN_RECV rst>CLOSE",
        "LAST_ACK": "syn>SYN_RECV ack>CLOSE",
        "LISTEN": "syn>SYN_RECV",
        "SYNACK": "syn>SYN_RECV fin>TIME_WAIT ack>ESTABLISHED rst>CLOSE",
    },
}

_SECURE = {
    "INPUT": {
        "SYN_RECV": "ack>SYN_RECV",
        "SYNACK": "syn>SYNACK fin>SYNACK ack>SYNACK rst>CLOSE",
    },
    "OUTPUT": {
        "SYN_RECV": "syn>SYNACK",
        "SYNACK": "syn>SYNACK",
    },
    "INPUT_ONLY": dict.fromkeys(
        ("NONE", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "SYNACK"), "syn>SYNACK"
    ),
}
"""What secure_tcp makes different."""

_CLOSING = {direction: dict.fromkeys(STATES, "none>CLOSE") for direction in _TABLE}

TABLE = compiled(STATES, EVENTS, overlaid(_TABLE, _CLOSING), "CLOSE")
SECURE_TABLE = compiled(STATES, EVENTS, overlaid(overlaid(_TABLE, _SECURE), _CLOSING), "CLOSE")


def _event(flags: int) -> int:
    for bit, event in ((4, 3), (2, 0), (1, 1), (16, 2)):
        if flags & bit:
            return event
    return 4


EVENT_OF = bytes(_event(flags) for flags in range(256))
"""The event of a TCP header's flags."""
