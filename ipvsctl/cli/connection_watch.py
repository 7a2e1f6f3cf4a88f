"""`connection watch`: events of conntrack until somebody has seen enough.

The end is ^C, a signal, or a reader that goes away: between two events, within half a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipvsctl.cli.connection import USES_CONNTRACK, services_of
from ipvsctl.cli.connection_plain import endpoint
from ipvsctl.cli.connection_text import conntrack_state, entry_to_dict
from ipvsctl.cli.environment import Environment
from ipvsctl.cli.live import ending, nobody_reads
from ipvsctl.errors import Exit, Unavailable

if TYPE_CHECKING:
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.status import ConntrackEntry

IDLE = 0.5
"""Seconds after which a quiet watch looks whether somebody still reads."""

_STYLES = {"new": "green", "destroy": "red", "lost": "bold red"}


def watch_connections(env: Environment, service: ServiceAddress | None, every: bool) -> int:
    """Print events until the end; returns the exit status. Raises Unavailable where there will be none."""
    host = env.host
    services = services_of(host)
    if not every and not services.ftp and host.sysctl.get(USES_CONNTRACK) in (None, "0"):
        raise Unavailable(
            f"cannot watch the connections: IPVS does not use connection tracking here ({USES_CONNTRACK} is off), and "
            "itself tells nobody of them: `ipvsctl nfct enable` turns it on, --all watches all others"
        )

    def service_of(entry: ConntrackEntry) -> ServiceAddress | None:
        found: ServiceAddress | None = services.exact(entry.protocol, entry.destination, entry.destination_port)
        return found or services.exact(entry.protocol, entry.reply_destination, entry.reply_destination_port)

    with ending() as ended:
        for event in host.conntrack.events(IDLE):
            if ended():
                break
            if event is None:
                if nobody_reads(env):
                    raise BrokenPipeError
                continue
            if event.entry is None:
                env.error("ipvsctl: warning: events came faster than they could be read: some are missing")
                continue
            mine = service_of(event.entry)
            if (every or mine is not None) and service in (None, mine):
                _tell(env, event.kind, event.entry, mine)
    return Exit.DONE


def _tell(env: Environment, kind: str, entry: ConntrackEntry, service: ServiceAddress | None) -> None:
    from datetime import datetime

    now = datetime.now().astimezone()
    if env.json:
        from ipvsctl.cli.output import print_json

        data: dict[str, Any] = {"time": now.isoformat(timespec="milliseconds"), "event": kind}
        data |= {"protocol": entry.protocol, "service": None if service is None else str(service)}
        print_json(env, {**data, **entry_to_dict(entry)})
    else:
        from ipvsctl.cli.output import print_lines

        words = (
            now.strftime("%H:%M:%S.%f")[:-3], f"{kind:7}", f"{entry.protocol:4}",
            endpoint(entry.source, entry.source_port), "->", endpoint(entry.destination, entry.destination_port),
            "server", endpoint(entry.reply_source, entry.reply_source_port), conntrack_state(entry),
            *(name for name in entry.status if name in ("assured", "expected")),
            *((f"helper {entry.helper}",) if entry.helper else ()),
        )  # fmt: skip
        print_lines(env, [[(" ".join(words), _STYLES.get(kind, ""))]])
    env.flush()

