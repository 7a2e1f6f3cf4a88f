"""What must have happened before a packet: the connection that it belongs to, and sockets on the director itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ipvsctl.datapath.session import FIRST, MASK, Lost, Session, Walk
from ipvsctl.datapath.skb import TCP, UDP, Skb
from ipvsctl.datapath.verdict import Reason

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.vs.entry import Dest


def listen_for_servers(engine: Engine) -> None:
    """Have a socket on the host for each real server that is the host itself."""
    for service in engine.vs.services.all():
        for dest in service.dests:
            if engine.routing.is_local(dest.family, dest.address):
                for address, port in ((dest.address, dest.port), (service.address, service.port)):
                    engine.local.listeners.add((service.protocol, address, port))


def precede(engine: Engine, packet: bytes, device: str, direct: bool | None = None) -> list[Walk]:
    """Let the packets pass that make a packet one of an open connection: a TCP handshake, or a question and its answer.

    Their walks; when one is lost it is the last. For a reply of a real server the client opens the connection to it.
    `direct` as in Session; a reply that comes to the director is not direct.
    """
    skb = Skb(bytearray(packet))
    if not skb.has_ports or skb.protocol not in (TCP, UDP):
        return []
    client, virtual, dest = (skb.source, skb.sport), (skb.destination, skb.dport), None
    first = FIRST
    if skb.protocol == TCP:
        seq = int.from_bytes(skb.data[skb.thoff + 4 : skb.thoff + 8], "big") - 1 & MASK
        ack = int.from_bytes(skb.data[skb.thoff + 8 : skb.thoff + 12], "big") - 1 & MASK
        first = seq, ack
    served = _served(engine, skb)
    if served is not None:
        client, (virtual, dest), first = virtual, served, (first[1], first[0])
        way = engine.routing.output(skb.family, client[0])
        if isinstance(way, Reason):
            return []
        device, direct = way.device, False
    session = Session(engine, device, client, virtual, direct, first)
    with _alone(engine, dest):
        try:
            (session.opened if skb.protocol == TCP else session.udp)()
        except Lost:
            session.walks[-1].arrived = False
    return session.walks


def _served(engine: Engine, skb: Skb) -> tuple[tuple[bytes, int], Dest | None] | None:
    """The virtual address and port that a packet is a reply for, and the server that sends it."""
    for service in engine.vs.services.all():
        if service.protocol == skb.protocol and not service.fwmark:
            virtual = service.address, service.port or skb.sport
            for dest in service.dests:
                if (dest.address, dest.port or virtual[1]) == (skb.source, skb.sport):
                    return virtual, dest
            if virtual == (skb.source, skb.sport):
                return virtual, None
    return None


@contextmanager
def _alone(engine: Engine, dest: Dest | None) -> Iterator[None]:
    """Meanwhile no other server of its service gets connections."""
    if dest is None or dest.service is None:
        yield
        return
    address = dest.service.service.address
    before = [each.server for each in dest.service.dests]
    for server in before:
        engine.vs.edit_server(address, replace(server, weight=int(server == dest.server)))
    yield
    for server in before:
        engine.vs.edit_server(address, server)
