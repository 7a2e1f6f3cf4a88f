"""What becomes of connections, as ctnetlink tells everybody who listens.

A listener joins three groups of the netfilter netlink: new entries, changed ones, ended ones. The kernel tells of an
entry only when net.netfilter.nf_conntrack_events was on when the entry was made; with 2, the default since 5.19, it is
on while somebody listens. Who reads too slowly loses events and is told so (ENOBUFS).

Source: nf_conntrack_netlink.c (ctnetlink_conntrack_event), nfnetlink.c (nfnetlink_bind), nf_conntrack_ecache.c.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ipvsctl.errors import Unavailable
from ipvsctl.kernel.conntrack import decode
from ipvsctl.kernel.nfnetlink import CONNTRACK
from ipvsctl.model.status import ConntrackEvent

_NETLINK_NETFILTER = 12
_NEW, _UPDATE, _DESTROY = 1, 2, 4
"""Bits of the groups NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY."""

_MESSAGE_NEW, _MESSAGE_DELETE = 0, 2
_CREATE = 0x400
_HEADER = struct.Struct("=IHHII")
_FAMILY_HEADER = 4
_DATAGRAM = 1 << 16
_BUFFER = 8 << 20
_SO_RCVBUFFORCE = 33


def events(idle: float) -> Iterator[ConntrackEvent | None]:
    """Events without end; None when nothing came for `idle` seconds. Raises OSError, and Unavailable: they are off."""
    if _switched_off():
        raise Unavailable(
            "cannot watch the connections: the kernel tells nothing of them while net.netfilter.nf_conntrack_events "
            "is 0: `ipvsctl sysctl set net.netfilter.nf_conntrack_events 1`"
        )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as channel:
        with suppress(OSError):
            channel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        channel.settimeout(idle)
        channel.bind((0, _NEW | _UPDATE | _DESTROY))
        yield None
        while True:
            try:
                data, (sender, _) = channel.recvfrom(_DATAGRAM)
            except TimeoutError:
                yield None
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield ConntrackEvent("lost")
                continue
            if not sender:
                yield from read(data)


def read(data: bytes) -> Iterator[ConntrackEvent]:
    """The events of a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        start = at + _HEADER.size + _FAMILY_HEADER
        if not start - at <= length <= len(data) - at:
            return
        if kind >> 8 == CONNTRACK and kind & 0xFF in (_MESSAGE_NEW, _MESSAGE_DELETE):
            word = "destroy" if kind & 0xFF else "new" if flags & _CREATE else "update"
            yield ConntrackEvent(word, decode(data[at + _HEADER.size], data[start : at + length]))
        at += length + 3 & ~3


def _switched_off() -> bool:
    try:
        return Path("/proc/sys/net/netfilter/nf_conntrack_events").read_text().strip() == "0"
    except OSError:
        return False
