"""Trial connections: what the emulated datapath, set up as the host is, does with a client of each service.

Nothing is sent. A session goes on until a packet is lost; which one, where and why is what doctor's checks of rules and
routes are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.explain import explain
from ipvsctl.datapath.history import listen_for_servers
from ipvsctl.datapath.session import Session, Walk
from ipvsctl.datapath.skb import Broken, Skb
from ipvsctl.datapath.strangers import CLIENT_PORT, stranger
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.facts import Journey
from ipvsctl.model.snapshot import Snapshot
from ipvsctl.wire.address import packed, readable

MOST = 48
"""Services and methods that are tried; the rest of a long list is like the first ones."""

_TOGETHER = 64
"""Services up to which the trial has all of them around."""

_FTP = 21
_ANY_PORT = 80
_METHODS = ("nat", "dr", "tun")
_SESSIONS = {"tcp": ("tcp",), "udp": ("udp",)}
_FTP_SESSIONS = ("tcp", "ftp-passive", "ftp-active")


def journeys(snapshot: Snapshot) -> tuple[tuple[Journey, ...], str]:
    """The trials, and a note when there were too many services for all of them."""
    found: list[Journey] = []
    for tried, (wish, method) in enumerate(_cases(snapshot.services)):
        if tried == MOST:
            return tuple(found), f"trial connections were made for the first {MOST} services and methods only"
        found += _try(snapshot, wish, method)
    return tuple(found), ""


def _cases(services: tuple[ServiceWish, ...]) -> Iterator[tuple[ServiceWish, str]]:
    """Each service with the servers of one method that take new connections."""
    for wish in services:
        if wish.service.address.protocol in _SESSIONS:
            for method in _METHODS:
                servers = tuple(s for s in wish.servers if s.forward == method and s.weight)
                if servers:
                    yield replace(wish, servers=servers), method


def _try(snapshot: Snapshot, wish: ServiceWish, method: str) -> Iterator[Journey]:
    address = wish.service.address
    around = snapshot.services if len(snapshot.services) <= _TOGETHER else (wish,)
    services = tuple(wish if each.service.address == address else each for each in around)
    ftp = address.protocol == "tcp" and address.port == _FTP
    for name in _FTP_SESSIONS if ftp else _SESSIONS[address.protocol]:
        engine = Engine(replace(snapshot, services=services), _numbers())
        client = stranger(engine, address.family)
        virtual = packed(address.address)
        if client is None or not engine.routing.is_local(address.family, virtual):
            # Nobody can come, or nothing is delivered: other checks say so.
            return
        listen_for_servers(engine)
        session = Session(engine, client[1], (client[0], CLIENT_PORT), (virtual, address.port or _ANY_PORT))
        walks = session.run(name)
        journey = _journey(engine, str(address), method, name, readable(client[0]), walks)
        yield journey
        if journey.lost and name == "tcp":
            return


def _numbers() -> Callable[[int], int]:
    """What the engine takes for chance: the same trial always ends in the same way."""
    numbers = count()
    return lambda limit: next(numbers) % limit


def _journey(engine: Engine, service: str, method: str, session: str, client: str, walks: list[Walk]) -> Journey:
    source = next((_target(walk) for walk in walks if walk.title.startswith("server:")), "")
    plain = Journey(service, method, session, client=client, source=source)
    last = walks[-1]
    if last.arrived:
        return plain
    explained = explain(engine, last)
    step = next((s for s in reversed(last.steps) if s.verdict is last.verdict and not s.answer), None)
    rule = step.rules[-1] if step is not None and step.rules else None
    reason = last.verdict.name if isinstance(last.verdict, Reason) else "NOT_THERE"
    words = last.verdict.value if isinstance(last.verdict, Reason) else "it did not get where it should"
    return replace(
        plain,
        lost="request" if last.title.startswith("client:") else "reply",
        title=last.title,
        reason=reason,
        words="; ".join([words, *last.notes]),
        hook=step.hook if step is not None else "",
        state=step.state if step is not None else "",
        device=last.device,
        rule="" if rule is None else f"{rule.table} {rule.chain} {rule.number or 'policy'}: {rule.text}",
        explained=explained.why if explained else "",
        mend=" && ".join(explained.mend.splitlines()) if explained else "",
    )


def _target(walk: Walk) -> str:
    """Whom a reply of the server is for: the client as the server saw it."""
    try:
        return readable(Skb(bytearray(walk.packet)).destination)
    except Broken:
        return ""
