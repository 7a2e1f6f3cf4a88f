"""Conntrack's helpers: which there are, and which one a new connection gets (nf_conntrack_helper.c).

A connection gets the helper that the CT target put into its template; on kernels before 6.0 that still have the sysctl
nf_conntrack_helper, and have it set to 1, also the one whose port the connection's replies come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ipvsctl.datapath.ct.ftp import FTP

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.entry import Entry
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.verdict import Verdict

AUTOMATIC = "net.netfilter.nf_conntrack_helper"


class Helper(Protocol):
    """One helper (struct nf_conntrack_helper).

    `port` is the server's port for which it is assigned automatically, `max_expected` how many connections one may
    expect at a time, `timeout` for how many seconds, `module` the kernel module it is in.
    """

    name: str
    protocol: int
    port: int
    max_expected: int
    timeout: float
    module: str

    def help(self, engine: Engine, skb: Skb, entry: Entry) -> Verdict:
        """Look at a packet of a connection at its last hook; a Reason drops the packet."""


_HELPERS: tuple[Helper, ...] = (FTP,)
_BY_NAME = {(helper.name, helper.protocol): helper for helper in _HELPERS}
_BY_PORT = {(helper.protocol, helper.port): helper for helper in _HELPERS}


def find(name: str, protocol: int) -> Helper | None:
    """The helper of a name for a protocol; None for those that are not emulated: all but "ftp" over TCP.

    The CT target loads the module, so whether it is loaded is not asked.
    """
    return _BY_NAME.get((name, protocol))


def automatic(entry: Entry, engine: Engine) -> Helper | None:
    """The helper for a connection's server port as its reply tuple has it; None unless assignment is on.

    To be asked again when the reply tuple is altered, as the kernels that know the sysctl do.
    """
    if engine.settings.get(AUTOMATIC, 0) != 1:
        return None
    key = entry.reply
    end = len(key) - 4
    helper = _BY_PORT.get((key[0], key[end] << 8 | key[end + 1]))
    return helper if helper is not None and helper.module in engine.modules else None
