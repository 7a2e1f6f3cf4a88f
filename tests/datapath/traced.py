"""Engines from saved states, and packets traced through them."""

from __future__ import annotations

import random

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.session import Session, Walk
from ipvsctl.datapath.trace import Tracer
from ipvsctl.formats import snapshot_file
from ipvsctl.formats.packet_text import parse
from ipvsctl.wire.address import packed

NETWORK = """
[[device]]
name = "eth0"
addresses = ["10.0.1.1/24", "192.168.1.100/32", "fd00:1::1/64", "2001:db8::100/128"]

[[device]]
name = "eth1"
addresses = ["10.0.2.1/24", "fd00:2::1/64"]
"""
VIRTUAL, SERVER, CLIENT = "192.168.1.100", "10.0.2.2", "10.0.1.2"


def service(address: str, *servers: str, scheduler: str = "rr", more: str = "") -> str:
    """A [[service]] of a saved state; a server is "ADDRESS METHOD" and keys."""
    rows = []
    for text in servers:
        where, method, *keys = text.split()
        rows.append("{ " + ", ".join([f'address = "{where}"', f'forward = "{method}"', *keys]) + " }")
    return f'\n[[service]]\naddress = "{address}"\nscheduler = "{scheduler}"\n{more}\nserver = [{", ".join(rows)}]\n'


def sysctls(**values: int | str) -> str:
    """[sysctl]; names without net. and with _ for a dot where __ stands."""
    return "\n[sysctl]\n" + "".join(f'"net.{name.replace("__", ".")}" = {value}\n' for name, value in values.items())


def rules(text: str, key: str = "iptables") -> str:
    """Rules as iptables-save writes them; goes before every table."""
    return f"{key} = '''\n{text.strip()}\nCOMMIT\n'''\n"


def engine(*parts: str, network: str = NETWORK, modules: str = "") -> Engine:
    """A datapath; parts that begin with iptables come first in the file."""
    parts = tuple(sorted(parts, key=lambda part: part.lstrip().startswith("[")))
    first = [part for part in parts if not part.lstrip().startswith("[")]
    rest = [part for part in parts if part.lstrip().startswith("[")]
    names = ", ".join(f'"{name}"' for name in modules.split())
    text = f"modules = [{names}]\n" + "".join(first) + network + "".join(rest)
    return Engine(snapshot_file.parse(text, "state.toml"), random.Random(0).randrange)


def walk(engine: Engine, text: str, device: str = "eth0") -> Walk:
    """One packet, by a device or ("") from the host itself."""
    packet = parse(text)
    engine.tracer = tracer = Tracer()
    now = engine.now + 1
    outputs = engine.receive(device, packet, now) if device else engine.send(packet, now)
    engine.tracer = None
    return Walk(text, packet, device, engine.verdict, tracer.steps, outputs)


def talk(
    engine: Engine, name: str, service: tuple[str, int] = (VIRTUAL, 80), client: str = CLIENT,
    direct: bool | None = None, device: str = "eth0",
) -> list[Walk]:  # fmt: skip
    """A conversation."""
    return Session(engine, device, (packed(client), 40000), (packed(service[0]), service[1]), direct).run(name)
