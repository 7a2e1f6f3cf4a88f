"""The state machine of an SCTP association in IPVS (ip_vs_proto_sctp.c), as seen from the director.

The first chunk of a packet is its event; an ABORT behind a COOKIE-ECHO or COOKIE-ACK is one as well.
"""

from __future__ import annotations

from ipvsctl.datapath.vs.state_table import compiled

STATES = (
    "NONE", "INIT1", "INIT", "COOKIE_SENT", "COOKIE_REPLIED", "COOKIE_WAIT", "COOKIE", "COOKIE_ECHOED", "ESTABLISHED",
    "SHUTDOWN_SENT", "SHUTDOWN_RECEIVED", "SHUTDOWN_ACK_SENT", "REJECTED", "CLOSED",
)  # fmt: skip
INIT1, INIT, ESTABLISHED, CLOSED = 1, 2, 8, 13

NAMES = (
    "NONE", "INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED", "ESTABLISHED", "S-SENT",
    "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED",
)  # fmt: skip
"""As /proc/net/ip_vs_conn has them."""

EVENTS = (
    "data", "init", "init_ack", "cookie_echo", "cookie_ack", "shutdown", "shutdown_ack", "shutdown_complete", "error",
    "abort",
)  # fmt: skip
ABORT = 9

TIMEOUTS = (2.0, 4.0, *[61.0] * 6, 900.0, *[61.0] * 3, 4.0, 61.0)
"""Seconds by state."""

CHUNK_INIT, CHUNK_ABORT, CHUNK_COOKIE_ECHO, CHUNK_COOKIE_ACK = 1, 6, 10, 11
EVENT_OF = bytes({1: 1, 2: 2, 6: 9, 7: 5, 8: 6, 9: 8, 10: 3, 11: 4, 14: 7}.get(chunk, 0) for chunk in range(256))
"""The event of a chunk type; all that is not named is like data."""

_TABLE = {
    "INPUT": {
        "NONE": "data>ESTABLISHED init>INIT1 init_ack>COOKIE_WAIT cookie_echo>COOKIE_REPLIED cookie_ack>ESTABLISHED "
        "shutdown>SHUTDOWN_RECEIVED shutdown_ack>CLOSED shutdown_complete>CLOSED error>CLOSED abort>CLOSED",
        "INIT1": "init>INIT init_ack>COOKIE_WAIT cookie_echo>INIT shutdown_ack>INIT shutdown_complete>CLOSED "
        "abort>CLOSED",
        "INIT": "init_ack>COOKIE_WAIT shutdown_complete>CLOSED abort>CLOSED",
        "COOKIE_SENT": "cookie_echo>COOKIE_REPLIED abort>CLOSED",
        "COOKIE_REPLIED": "abort>CLOSED",
        "COOKIE_WAIT": "init_ack>COOKIE abort>REJECTED",
        "COOKIE": "abort>CLOSED",
        "COOKIE_ECHOED": "cookie_ack>ESTABLISHED error>CLOSED abort>CLOSED",
        "ESTABLISHED": "shutdown>SHUTDOWN_RECEIVED abort>CLOSED",
        "SHUTDOWN_SENT": "shutdown_ack>CLOSED abort>CLOSED",
        "SHUTDOWN_RECEIVED": "abort>CLOSED",
        "SHUTDOWN_ACK_SENT": "shutdown_ack>CLOSED shutdown_complete>CLOSED abort>CLOSED",
        "REJECTED": "init>INIT abort>CLOSED",
        "CLOSED": "init>INIT",
    },
    "OUTPUT": {
        "NONE": "data>ESTABLISHED init>COOKIE_WAIT init_ack>COOKIE_SENT cookie_echo>COOKIE_ECHOED "
        "cookie_ack>ESTABLISHED shutdown>SHUTDOWN_SENT shutdown_ack>SHUTDOWN_ACK_SENT shutdown_complete>CLOSED "
        "error>CLOSED abort>CLOSED",
        "INIT1": "init>COOKIE_WAIT init_ack>COOKIE_SENT cookie_echo>COOKIE_ECHOED cookie_ack>ESTABLISHED "
        "shutdown>SHUTDOWN_SENT shutdown_ack>SHUTDOWN_ACK_SENT error>CLOSED abort>REJECTED",
        "INIT": "init>COOKIE_WAIT init_ack>COOKIE_SENT cookie_echo>COOKIE_ECHOED cookie_ack>ESTABLISHED "
        "shutdown>SHUTDOWN_SENT shutdown_ack>SHUTDOWN_ACK_SENT error>CLOSED abort>CLOSED",
        "COOKIE_SENT": "init>COOKIE_WAIT cookie_echo>COOKIE_ECHOED cookie_ack>ESTABLISHED shutdown>SHUTDOWN_SENT "
        "shutdown_ack>SHUTDOWN_ACK_SENT error>CLOSED abort>CLOSED",
        "COOKIE_REPLIED": "init>COOKIE_WAIT cookie_echo>COOKIE_ECHOED cookie_ack>ESTABLISHED shutdown>SHUTDOWN_SENT "
        "shutdown_ack>SHUTDOWN_ACK_SENT error>CLOSED abort>CLOSED",
        "COOKIE_WAIT": "cookie_echo>COOKIE_ECHOED cookie_ack>ESTABLISHED shutdown>SHUTDOWN_SENT abort>CLOSED",
        "COOKIE": "init>COOKIE_WAIT cookie_echo>COOKIE_ECHOED cookie_ack>ESTABLISHED shutdown>SHUTDOWN_SENT "
        "abort>CLOSED",
        "COOKIE_ECHOED": "init>COOKIE_WAIT cookie_ack>ESTABLISHED shutdown>SHUTDOWN_SENT abort>CLOSED",
        "ESTABLISHED": "shutdown>SHUTDOWN_SENT abort>CLOSED",
        "SHUTDOWN_SENT": "init>COOKIE_WAIT shutdown_ack>SHUTDOWN_ACK_SENT abort>CLOSED",
        "SHUTDOWN_RECEIVED": "init>COOKIE_WAIT shutdown_ack>SHUTDOWN_ACK_SENT abort>CLOSED",
        "SHUTDOWN_ACK_SENT": "init>COOKIE_WAIT abort>CLOSED",
        "REJECTED": "init>COOKIE_WAIT abort>CLOSED",
        "CLOSED": "init>COOKIE_WAIT",
    },
    "INPUT_ONLY": {
        "NONE": "data>ESTABLISHED init>INIT1 init_ack>COOKIE_ECHOED cookie_echo>ESTABLISHED cookie_ack>ESTABLISHED "
        "shutdown>SHUTDOWN_RECEIVED shutdown_ack>CLOSED shutdown_complete>CLOSED error>CLOSED abort>CLOSED",
        "INIT1": "init>INIT init_ack>COOKIE_ECHOED cookie_echo>ESTABLISHED shutdown_ack>INIT "
        "shutdown_complete>CLOSED abort>CLOSED",
        "INIT": "init_ack>COOKIE_ECHOED cookie_echo>ESTABLISHED shutdown_complete>CLOSED abort>CLOSED",
        "COOKIE_SENT": "init>INIT init_ack>COOKIE_ECHOED cookie_echo>ESTABLISHED cookie_ack>ESTABLISHED "
        "shutdown_complete>CLOSED abort>CLOSED",
        "COOKIE_REPLIED": "init>INIT init_ack>COOKIE_ECHOED cookie_echo>ESTABLISHED cookie_ack>ESTABLISHED "
        "shutdown_complete>CLOSED abort>CLOSED",
        "COOKIE_WAIT": "data>ESTABLISHED init>INIT init_ack>COOKIE_ECHOED cookie_echo>ESTABLISHED abort>REJECTED",
        "COOKIE": "cookie_ack>ESTABLISHED abort>CLOSED",
        "COOKIE_ECHOED": "cookie_ack>ESTABLISHED abort>CLOSED",
        "ESTABLISHED": "shutdown>SHUTDOWN_RECEIVED shutdown_ack>CLOSED abort>CLOSED",
        "SHUTDOWN_SENT": "shutdown_ack>CLOSED abort>CLOSED",
        "SHUTDOWN_RECEIVED": "shutdown_complete>CLOSED abort>CLOSED",
        "SHUTDOWN_ACK_SENT": "shutdown_ack>CLOSED shutdown_complete>CLOSED abort>CLOSED",
        "REJECTED": "init>INIT abort>CLOSED",
        "CLOSED": "init>INIT",
    },
}

TABLE = compiled(STATES, EVENTS, _TABLE, "CLOSED")


def event(data: bytes | bytearray, at: int) -> int:
    """The event of the packet whose SCTP header begins at `at`; -1 when the first chunk is cut off (set_sctp_state)."""
    chunk = at + 12
    if len(data) < chunk + 4:
        return -1
    kind = data[chunk]
    if kind in (CHUNK_COOKIE_ECHO, CHUNK_COOKIE_ACK):
        length = data[chunk + 2] << 8 | data[chunk + 3]
        following = chunk + (length + 3 & ~3)
        if length >= 4 and len(data) >= following + 4 and data[following] == CHUNK_ABORT:
            return ABORT
    return EVENT_OF[kind]
