"""`trace`: the way of one packet, or of a whole conversation, through hooks, rules, conntrack, IPVS and routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import Number, environment
from ipvsctl.cli.tree import Command, completed_by
from ipvsctl.errors import Exit, Refused, UsageError

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.session import Walk

SESSIONS = (
    "tcp", "http", "udp", "ftp-passive", "ftp-extended-passive", "ftp-active", "ftp-extended-active",
)  # fmt: skip
"""Names of datapath.session.SESSIONS, said again so that help and completion need not import the datapath."""

_CLIENT_PORT = 40000


@click.command(
    "trace",
    cls=Command,
    example=(
        "ipvsctl trace tcp 10.0.1.2:40000 192.168.1.100:21 --in eth0 --flags S",
        "ipvsctl trace --session ftp-passive 10.0.1.2 192.168.1.100:21 --file ftp.toml",
        "ipvsctl trace --expect drop tcp 10.0.1.2:40000 192.168.1.100:8080 --file ftp.toml",
    ),
)
@click.argument("packet", nargs=-1, required=True, metavar="PACKET...", shell_complete=completed_by("nothing"))
@click.option(
    "--in",
    "device",
    metavar="DEVICE",
    shell_complete=completed_by("devices"),
    help="Device that the packet comes in by (default: the one that the route back to its source leaves by).",
)
@click.option("--local", is_flag=True, help="The packet is sent by a process of the director itself.")
@click.option("--flags", metavar="FLAGS", help="TCP flags, letters of FSRPAU (default: S).")
@click.option("--mark", type=Number(0, 0xFFFFFFFF), default=0, metavar="N", help="Firewall mark of a --local packet.")
@click.option(
    "--session",
    type=click.Choice(SESSIONS),
    metavar="NAME",
    help="Trace a conversation instead of one packet; PACKET is CLIENT[:PORT] SERVICE[:PORT]. One of "
    f"{', '.join(SESSIONS)}.",
)
@click.option(
    "--replies",
    type=click.Choice(["auto", "director", "direct"]),
    default="auto",
    metavar="WAY",
    help="How servers reached by dr or tun answer clients: by way of the director, direct, or auto (default: by way of "
    "the director where accept_local lets their replies in).",
)
@click.option(
    "--file",
    metavar="FILE",
    shell_complete=completed_by("files"),
    help="Trace on what a director file or a saved state (`export --state`) says instead of on the running host.",
)
@click.option(
    "--expect",
    metavar="VERDICT",
    help="End with status 1 unless the verdict is this one: accept, drop, forward, local, reject or the name of a "
    "reason.",
)
@click.option(
    "--state",
    "wanted_state",
    metavar="STATE",
    type=click.Choice(["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"], case_sensitive=False),
    help="End with status 1 unless rules see the (last) packet in this state when it comes in: NEW, ESTABLISHED, "
    "RELATED, INVALID or UNTRACKED.",
)
@environment
def trace_command(
    env: Environment, packet: tuple[str, ...], device: str | None, local: bool, flags: str | None, mark: int,
    session: str | None, replies: str, file: str | None, expect: str | None, wanted_state: str | None,
) -> int:  # fmt: skip
    """Show the way of a packet through the director, and why it ends.

    PACKET is PROTOCOL SOURCE[:PORT] DESTINATION[:PORT] and what else there is to say of it, as in
    `tcp 10.0.1.2:40000 192.168.1.100:80 PA seq=1 data="hello"`. The packet is not sent: an emulated datapath, set up
    as the host is, decides on it.
    """
    if mark and not local:
        raise UsageError("--mark is for a packet that a process sends (--local): what comes in by a device has no mark")
    if session and (local or flags):
        raise UsageError("--session makes its own packets: it takes neither --local nor --flags")
    from ipvsctl.cli.configured import engine_of, snapshot_of

    engine = engine_of(snapshot_of(env, file, device))
    if session:
        walks = _converse(engine, session, packet, device, replies)
    else:
        walks = [_walk(engine, packet, device, local, flags, mark)]
    from ipvsctl.cli.trace_text import show, to_dict

    if env.json:
        from ipvsctl.cli.output import print_json

        print_json(env, to_dict(engine, walks, bool(session)))
    elif not env.quiet:
        show(env, engine, walks)
    return _check(walks, expect, wanted_state)


def _in_device(engine: Engine, source: bytes) -> str:
    """The device that the route back to a source leaves by."""
    from ipvsctl.datapath.verdict import Reason
    from ipvsctl.model.address import INET, INET6

    found = engine.routing.output(INET6 if len(source) == 16 else INET, source)
    if isinstance(found, Reason):
        raise UsageError("--in DEVICE is needed: there is no route back to the packet's source")
    return found.device


def _walk(
    engine: Engine, words: tuple[str, ...], device: str | None, local: bool, flags: str | None, mark: int
) -> Walk:  # fmt: skip
    from ipvsctl.datapath.session import Walk
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.trace import Tracer
    from ipvsctl.formats.packet_text import describe, parse

    if len(words) > 2 and words[2] not in (">", "->"):
        words = (*words[:2], ">", *words[2:])
    if words[0] == "tcp" and (flags is not None or not _has_flags(words[4:])):
        words = (*words[:4], flags or "S", *words[4:])
    data = parse(" ".join(words))
    engine.tracer = tracer = Tracer()
    if local:
        device = ""
        outputs = engine.send(data, engine.now, mark)
    else:
        device = device or _in_device(engine, Skb(bytearray(data)).source)
        outputs = engine.receive(device, data, engine.now)
    engine.tracer = None
    return Walk(describe(data), data, device, engine.verdict, tracer.steps, outputs)


def _has_flags(words: tuple[str, ...]) -> bool:
    """Whether TCP flags stand behind the addresses."""
    return bool(words) and "=" not in words[0] and (words[0] == "-" or set(words[0]) <= set("FSRPAUEC"))


def _converse(
    engine: Engine, name: str, words: tuple[str, ...], device: str | None, replies: str
) -> list[Walk]:  # fmt: skip
    from ipvsctl.datapath.session import Session
    from ipvsctl.model.address import ServerAddress, ServiceAddress
    from ipvsctl.wire.address import packed

    plain = [word for word in words if word not in (">", "->")]
    if len(plain) != 2:
        raise UsageError(f"--session {name}: expected CLIENT[:PORT] SERVICE[:PORT], got {' '.join(words)!r}")
    default = 21 if name.startswith("ftp") else 80
    any_service = ServiceAddress("tcp", 2, "", default)
    client, service = (ServerAddress.parse(word, any_service) for word in plain)
    if client.family != service.family:
        raise UsageError(f"--session {name}: {client} and {service} are not of one address family")
    port = client.port if plain[0] != client.address and client.port != default else _CLIENT_PORT
    device = device or _in_device(engine, packed(client.address))
    direct = {"director": False, "direct": True}.get(replies)
    session = Session(engine, device, (client.address, port), (service.address, service.port), direct)
    return session.run(name)


def _check(walks: list[Walk], expect: str | None, wanted_state: str | None) -> int:
    """The exit status: whether what was expected has come."""
    from ipvsctl.cli.trace_text import state_on_entry, words_of

    last = walks[-1]
    if expect is not None and expect.lower() not in (found := words_of(last)):
        raise Refused(f"{last.title}: the verdict is {' '.join(found)}, not {expect}")
    if wanted_state is not None and (state := state_on_entry(last)) != wanted_state.upper():
        raise Refused(f"{last.title}: rules see it as {state}, not {wanted_state.upper()}")
    return Exit.DONE
