"""Persistent services: a client's connections follow a template to one server (ip_vs_core.c: ip_vs_sched_persist)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.vs.entry import ONE_PACKET, TEMPLATE
from ipvsctl.datapath.vs.header import Refusal

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.conns import Connections
    from ipvsctl.datapath.vs.entry import Conn, VirtualService
    from ipvsctl.datapath.vs.header import Header

_FTP = 21
_UDP = 17
_IP = 0
"""The protocol of a firewall mark's templates."""


def masked(address: bytes, mask: bytes) -> bytes:
    """The network of a client; an empty mask keeps the whole address."""
    if not mask:
        return address
    return (int.from_bytes(address) & int.from_bytes(mask)).to_bytes(len(address))


def template_key(
    service: VirtualService, protocol: int, address: bytes, port: int
) -> tuple[int, bytes, int]:  # fmt: skip
    """Protocol, address and port that the template of a packet to `address` and `port` stands for.

    A service has one for its port, that of FTP and of every port one for all ports, a firewall mark one for all that it
    marks, with the mark as the address.
    """
    if port == service.port:
        return protocol, address, port if port != _FTP else 0
    if service.fwmark:
        return _IP, service.fwmark.to_bytes(4) + bytes(len(address) - 4), 0
    return protocol, address, 0


def schedule(
    engine: Engine, conns: Connections, service: VirtualService, skb: Skb, header: Header, client: tuple[bytes, int],
    virtual: tuple[bytes, int],
) -> Conn | Refusal:  # fmt: skip
    """A connection under the client's template, which is made where there is none that can be used."""
    address, port = virtual
    network = masked(client[0], service.netmask)
    protocol, where, template_port = template_key(service, header.protocol, address, port)
    template = conns.find_template(protocol, network, where, template_port)
    dest = template.dest if template is not None and conns.check_template(template) else None
    if template is None or dest is None:
        scheduler = service.scheduler
        dest = scheduler.pick(header, skb) if scheduler is not None else None
        if dest is None:
            return Refusal.NO_DESTINATION
        template = conns.new(
            service.family, protocol, (network, 0), (where, template_port),
            (dest.address, dest.port if port == service.port and port != _FTP else 0), TEMPLATE, dest, skb.mark,
        )  # fmt: skip
        template.timeout = float(service.persistent)
        if engine.tracer is not None:
            engine.tracer.note(f"new template for {service.persistent} s (scheduler {service.service.scheduler})")
    elif engine.tracer is not None:
        engine.tracer.note("the client has a template: its server stays")
    conn = conns.new(
        service.family, header.protocol, client, virtual,
        (dest.address, dest.port if port == service.port and dest.port else port),
        ONE_PACKET if service.ops and header.protocol == _UDP else 0, dest, skb.mark,
    )  # fmt: skip
    conns.control_add(conn, template)
    conns.put(template, engine.now)
    return conn
