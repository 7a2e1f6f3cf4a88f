"""`trace`: the way of one packet, or of a whole conversation, through hooks, rules, conntrack, IPVS and routing."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import Number, environment
from ipvsctl.cli.tree import Command, completed_by
from ipvsctl.datapath.verdict import Reason
from ipvsctl.errors import Exit, Refused, UsageError

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.session import Walk

SESSIONS = (
    "tcp", "http", "udp", "dns", "ftp-passive", "ftp-extended-passive", "ftp-active", "ftp-extended-active",
)  # fmt: skip
"""Names of datapath.session.SESSIONS, said again so that help and completion need not import the datapath."""

STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
VERDICTS = ("accept", "drop", "forward", "local", "sent", "direct", "lost")
REASONS = tuple(reason.name.lower().replace("_", "-") for reason in Reason if reason is not Reason.STOLEN)


if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice


class _Expected(_Choice):
    """A word for a verdict."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        word = str(value).lower().replace("_", "-")
        if word in self.choices:
            return word
        close = get_close_matches(word, self.choices, 1, 0.75)
        like = f", did you mean {close[0]}?" if close else f"; expected {', '.join(VERDICTS)}, reject or a reason"
        raise UsageError(f"--expect {value!r} is no verdict{like} (`ipvsctl trace --help` lists them all)")


class _Trace(Command):
    """A command among whose words an arrow is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [word for word in args if word != "->"])


@click.command(
    "trace",
    cls=_Trace,
    example=(
        "ipvsctl trace tcp 10.0.1.2:40000 192.168.1.100:21 --in eth0 --flags S",
        "ipvsctl trace --session ftp-passive 10.0.1.2 192.168.1.100:21 --file ftp.toml",
        "ipvsctl trace --expect drop tcp 10.0.1.2:40000 192.168.1.100:8080 --file ftp.toml",
    ),
)
@click.argument("packet", nargs=-1, metavar="PACKET...", shell_complete=completed_by("packets"))
@click.option(
    "--in",
    "device",
    metavar="DEVICE",
    shell_complete=completed_by("inputs"),
    help="Device that the packet comes in by (default: the one that the route back to its source leaves by).",
)
@click.option("--local", is_flag=True, help="The packet is sent by a process of the director itself.")
@click.option("--flags", metavar="FLAGS", help="TCP flags, letters of FSRPAU (default: S).")
@click.option("--mark", type=Number(0, 0xFFFFFFFF), default=0, metavar="N", help="Firewall mark of a --local packet.")
@click.option(
    "--session",
    type=click.Choice(SESSIONS),
    metavar="NAME",
    help="Trace a conversation, requests and replies, instead of one packet. PACKET is CLIENT[:PORT] SERVICE[:PORT]; "
    f"without it the first service that fits has some client. NAME is one of {', '.join(SESSIONS)}.",
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
    help="Trace on what a director file or a saved state (`export --state`) says instead of on the running host; - is "
    "standard input.",
)
@click.option(
    "--expect",
    metavar="VERDICT",
    type=_Expected((*VERDICTS, *REASONS)),
    help="End with status 1 unless the verdict is this one: accept, drop, forward (accepted and sent on), local "
    "(accepted by the host itself), sent (the host's own), direct (a reply past the director), lost (not where it "
    f"should go), reject, or another reason of a drop: {', '.join(REASONS)}.",
)
@click.option(
    "--state",
    "wanted_state",
    metavar="STATE",
    type=click.Choice(STATES, case_sensitive=False),
    help="End with status 1 unless rules see the (last) packet in this state when it comes in: NEW, ESTABLISHED, "
    "RELATED, INVALID or UNTRACKED. With ESTABLISHED the packets before it pass first: a TCP handshake, or a question "
    "and its answer.",
)
@environment
def trace_command(
    env: Environment, packet: tuple[str, ...], device: str | None, local: bool, flags: str | None, mark: int,
    session: str | None, replies: str, file: str | None, expect: str | None, wanted_state: str | None,
) -> int:  # fmt: skip
    """Show the way of a packet through the director, and why it ends.

    PACKET is PROTOCOL SOURCE[:PORT] DESTINATION[:PORT] and what else there is to say of it, as in
    `tcp 10.0.1.2:40000 192.168.1.100:80 PA seq=1 data="hello"`. The packet is not sent: an emulated datapath, set up
    as the host is, decides on it. What did nothing to the packet is left out; -v shows every step. ipvsctl(8) has the
    words that describe packets.
    """
    if mark and not local:
        raise UsageError("--mark is for a packet that a process sends (--local): what comes in by a device has no mark")
    if local and device:
        raise UsageError("--local and --in exclude each other: a packet of the host's own comes in nowhere")
    if session and (local or flags is not None):
        raise UsageError("--session makes its own packets: it takes neither --local nor --flags")
    if not session and not packet:
        raise UsageError("there is no PACKET, expected PROTOCOL SOURCE[:PORT] DESTINATION[:PORT] or --session NAME")
    direct = {"director": False, "direct": True}.get(replies)
    established = wanted_state is not None and wanted_state.upper() == "ESTABLISHED"
    from ipvsctl.cli.configured import engine_of, snapshot_of
    from ipvsctl.cli.trace_words import packet_of

    data = None if session else packet_of(packet, flags, established)
    snapshot = snapshot_of(env, file, device)
    engine = engine_of(snapshot)
    from ipvsctl.datapath.history import listen_for_servers

    listen_for_servers(engine)
    if data is None:
        assert session is not None
        walks = _converse(engine, session, packet, device, direct)
    else:
        walks = [_walk(engine, data, device, local, mark, established, direct)]
    if not env.quiet:
        for note in snapshot.notes:
            env.error(f"ipvsctl: note: {note}")
    if env.json:
        from ipvsctl.cli.output import print_json
        from ipvsctl.cli.trace_json import to_dict

        print_json(env, to_dict(engine, walks, session or "", snapshot.notes))
    elif not env.quiet:
        from ipvsctl.cli.trace_text import show

        show(env, engine, walks, session or "")
    return _check(walks, expect, wanted_state)


def _walk(
    engine: Engine, data: bytes, device: str | None, local: bool, mark: int, established: bool, direct: bool | None
) -> Walk:
    """The packet's way; that of one before it when the connection that it is to be of does not come about."""
    from ipvsctl.cli.trace_words import in_device
    from ipvsctl.datapath.history import precede
    from ipvsctl.datapath.session import Walk
    from ipvsctl.datapath.skb import RST, SYN, TCP, Broken, Skb
    from ipvsctl.datapath.trace import Tracer
    from ipvsctl.formats.packet_text import describe

    skb: Skb | None = None
    try:
        skb = Skb(bytearray(data))
    except Broken as error:
        if not local and device is None:
            raise UsageError(f"the packet is broken ({error}): --in DEVICE is needed") from None
    if local:
        device = ""
    elif device is None and skb is not None:
        device = in_device(engine, skb.source)
    device = device or ""
    alone = skb is None or (skb.protocol == TCP and skb.has_ports and skb.flags & (SYN | RST))
    if established and device and not alone:
        before = precede(engine, data, device, direct)
        if before and not before[-1].arrived:
            before[-1].notes.append("so the packet cannot be one of an open connection")
            before[-1].title = f"before it, {before[-1].title}"
            return before[-1]
    engine.tracer = tracer = Tracer()
    outputs = engine.receive(device, data, engine.now) if device else engine.send(data, engine.now, mark)
    engine.tracer = None
    return Walk(describe(data), data, device, engine.verdict, tracer.steps, outputs)


def _converse(engine: Engine, name: str, words: tuple[str, ...], device: str | None, direct: bool | None) -> list[Walk]:
    from ipvsctl.cli.trace_words import ends_of, in_device
    from ipvsctl.datapath.session import Session

    client, service = ends_of(engine, name, words, device)
    session = Session(engine, device or in_device(engine, client[0]), client, service, direct)
    return session.run(name)


def _check(walks: list[Walk], expect: str | None, wanted_state: str | None) -> int:
    """The exit status: whether what was expected has come."""
    from ipvsctl.cli.trace_json import state_on_entry, words_of

    last = walks[-1]
    if expect is not None and expect not in (found := words_of(last)):
        raise Refused(f"{last.title}: the verdict is {' '.join(found)}, not {expect}")
    if wanted_state is not None and (state := state_on_entry(last)) != wanted_state.upper():
        if not state:
            raise Refused(
                f"{last.title}: connection tracking does not see it, so that it is not {wanted_state.upper()}"
            )
        raise Refused(f"{last.title}: rules see it as {state}, not {wanted_state.upper()}")
    return Exit.DONE
