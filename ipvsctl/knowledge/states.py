"""The states that IPVS and conntrack give connections, with what each says: for completion and the manual page.

Sources: ip_vs_proto_tcp.c (tcp_state_name_table), ip_vs_proto_udp.c, ip_vs_conn.c (templates), nf_conntrack_proto_tcp.c
(tcp_conntrack_names).
"""

from __future__ import annotations

from collections.abc import Mapping

STATES: Mapping[str, str] = {
    "ESTABLISHED": "both sides have answered, or the client's side alone where replies do not pass here (dr, tun)",
    "SYN_RECV": "IPVS: the client has asked; conntrack: the server has answered",
    "SYN_SENT": "conntrack: asked and not answered, as of connections whose replies do not pass here",
    "FIN_WAIT": "one side has closed",
    "TIME_WAIT": "both sides have closed",
    "CLOSE_WAIT": "IPVS: the client has closed; conntrack: a close was acknowledged",
    "LAST_ACK": "the last acknowledgement is missing",
    "CLOSE": "reset",
    "LISTEN": "IPVS: FTP's data connection that is yet to come",
    "SYNACK": "IPVS under secure_tcp: not yet believed",
    "UDP": "IPVS: UDP has one state",
    "NONE": "IPVS: a template whose clients have established nothing yet",
    "ASSURED": "IPVS: a template whose client has established a connection",
}
