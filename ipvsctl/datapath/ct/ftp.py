"""Conntrack's FTP helper: it reads the control connection and expects the data connections it announces.

Sources: nf_conntrack_ftp.c (help, find_nl_seq, update_nl_seq) and nf_nat_ftp.c, which rewrites what a translated
connection announces. A command is only seen when it begins a segment that follows the end of a line, and only when it
is whole. The module's parameter `loose` is at its default: who announces another address than the own is not believed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import DST_NAT, SRC_NAT, make_tuple
from ipvsctl.datapath.ct.ftp_commands import EPSV, PASV, PORT, Announced, Partial, search
from ipvsctl.datapath.skb import ESTABLISHED, ESTABLISHED_REPLY, TCP
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.wire.address import endpoint, readable

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.entry import Entry
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb

_WORD = 0xFFFFFFFF
_NEWLINE = 10
_ATTEMPTS = 128


class Ftp:
    """The helper. An entry's `helper_data` has, for each direction, up to two sequence numbers that follow a line."""

    name = "ftp"
    protocol = TCP
    port = 21
    max_expected = 1
    timeout = 300.0
    module = "nf_conntrack_ftp"

    def help(self, engine: Engine, skb: Skb, entry: Entry) -> Verdict:
        """Look at a segment before it leaves; Reason.HELPER for one that cannot be followed."""
        reply = skb.ctinfo == ESTABLISHED_REPLY
        if not reply and skb.ctinfo != ESTABLISHED:
            return None
        data, at = skb.data, skb.thoff
        if not skb.writable(20):
            return None
        begin = at + (data[at + 12] >> 4) * 4
        if begin >= len(data):
            return None
        if entry.helper_data is None:
            entry.helper_data = ([], [])
        lines: list[int] = entry.helper_data[reply]
        number = int.from_bytes(data[at + 4 : at + 8])
        following = (number + len(data) - begin) & _WORD
        ends_line = data[-1] == _NEWLINE
        verdict: Verdict = None
        if number in lines:
            found = search(bytes(data[begin:]), reply, _addresses(entry, reply)[0])
            if isinstance(found, Partial):
                if engine.tracer is not None:
                    engine.tracer.note(f"the FTP helper cannot read the whole of '{found.pattern.strip()}'")
                return Reason.HELPER
            if found is not None:
                verdict = self._expect(engine, skb, entry, reply, found)
        if ends_line:
            _remember_line(lines, following)
        return verdict

    def _expect(self, engine: Engine, skb: Skb, entry: Entry, reply: bool, found: Announced) -> Verdict:
        sender, _ = _addresses(entry, reply)
        peer, visible = _addresses(entry, not reply)
        tracer = engine.tracer
        if found.address != sender:
            if tracer is not None:
                text = endpoint(found.address, found.port)
                tracer.note(f"the FTP helper ignores {text}: the sender is {readable(sender)}")
            return None
        if entry.status & (SRC_NAT | DST_NAT) and "nf_nat_ftp" in engine.modules:
            return self._translate(engine, skb, entry, reply, found)
        match = make_tuple(TCP, peer, visible, 0, found.port)
        if not engine.ct.expect(
            entry, match, True, direction=int(not reply), on_new=None, helper=None, timeout=self.timeout
        ):
            return Reason.HELPER
        if tracer is not None:
            tracer.note(f"the FTP helper expects {readable(peer)} to connect to {endpoint(visible, found.port)}")
        return None

    def _translate(self, engine: Engine, skb: Skb, entry: Entry, reply: bool, found: Announced) -> Verdict:
        """nf_nat_ftp: announce the address that the receiver sees, and a port that is free there."""
        peer, visible = _addresses(entry, not reply)
        follow = partial(engine.nat.follow_master, direction=int(reply), port=found.port)
        # nf_nat_exp_find_port: the same port, else any above it.
        port, above = found.port, 65535 - found.port
        left = min(above, _ATTEMPTS)
        while not engine.ct.expect(
            entry, make_tuple(TCP, peer, visible, 0, port), True, direction=int(not reply), on_new=follow, helper=None,
            timeout=self.timeout,
        ):  # fmt: skip
            left -= 1
            if left < 0:
                return Reason.HELPER
            port = found.port + engine.random(above)
        # Port 0 cannot be told from "no port is left".
        if not port:
            return Reason.HELPER
        text = announcement(found.kind, visible, port)
        if not engine.nat.mangle_tcp(skb, entry, found.offset, found.length, text):
            engine.ct.expectations.forget(entry)
            return Reason.HELPER
        if engine.tracer is not None:
            engine.tracer.note(f"the FTP helper expects {readable(peer)} to connect to {endpoint(visible, port)}")
        return None


FTP = Ftp()


def announcement(kind: str, address: bytes, port: int) -> bytes:
    """What stands for an address and a port in a command or an answer (nf_nat_ftp_fmt_cmd)."""
    if kind in (PORT, PASV):
        return b"%d,%d,%d,%d,%d,%d" % (*address[:4], port >> 8, port & 255)
    if kind == EPSV:
        return b"|||%d|" % port
    if len(address) == 4:
        return b"|1|%d.%d.%d.%d|%d|" % (*address, port)
    # Every digit is written: the kernel's %pI6.
    return b"|2|%b|%d|" % (address.hex(":", 2).encode(), port)


def _addresses(entry: Entry, reply: bool) -> tuple[bytes, bytes]:
    """Source and destination of the tuple of a direction."""
    key = entry.reply if reply else entry.original
    end = len(key) - 4
    half = (end + 1) >> 1
    return key[1:half], key[half:end]


def _remember_line(lines: list[int], number: int) -> None:
    """A line ends in front of this sequence number: the older of two makes room, for a later one only."""
    if number in lines:
        return
    if len(lines) < 2:
        lines.append(number)
        return
    oldest = 0 if (lines[0] - lines[1]) & 0x80000000 else 1
    if (lines[oldest] - number) & 0x80000000:
        lines[oldest] = number
