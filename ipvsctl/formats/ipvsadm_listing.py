"""ipvsadm's lists as text, byte for byte: services in six layouts, connections, timeouts, daemons.

Deliberately different: counters of servers are whole where ipvsadm 1.31 shows their low 32 bits (ipvsadm_differences).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from ipvsctl.formats.ipvsadm_text import Resolver, endpoint, server_label, service_label, sort_servers, sort_services
from ipvsctl.model.address import PROTOCOLS
from ipvsctl.model.row import ServerRow, ServiceRow
from ipvsctl.model.service import Service, flag_names
from ipvsctl.model.status import Connection, Daemon, Info, Timeouts

LAYOUTS = ("stats", "rate", "thresholds", "persistent-conn", "tun-info")
"""Options that choose a layout; of several the first in this order counts."""

_FORWARDS = {"nat": "Masq", "local": "Local", "tun": "Tunnel", "dr": "Route"}
_CHECKSUMS = {"no": "-c", "yes": "+c", "remote": "r+c"}
_REMOTE = "  -> RemoteAddress:Port"
_TITLES = {
    "stats": ("Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes", _REMOTE),
    "rate": ("Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS", _REMOTE),
    "thresholds": ("Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn ", _REMOTE),
    "persistent-conn": ("Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn ", _REMOTE),
    "tun-info": ("Prot LocalAddress:Port Scheduler Flags",
                 f"{_REMOTE}           Forward TunnelInfo    Weight ActiveConn InActConn"),
    "": ("Prot LocalAddress:Port Scheduler Flags", f"{_REMOTE}           Forward Weight ActiveConn InActConn"),
}  # fmt: skip

Number = Callable[[int], str]
Line = Callable[[str, ServerRow, Number], str]


def banner(info: Info) -> str:
    return f"IP Virtual Server version {info.version} (size={info.table_size})\n"


def layout_of(options: Collection[str]) -> str:
    """The layout that options of `-L` choose."""
    return next((name for name in LAYOUTS if name in options), "")


def titles(layout: str) -> str:
    return "\n".join(_TITLES[layout]) + "\n"


def table(
    services: Iterable[ServiceRow], layout: str, names: Resolver | None, *, exact: bool = False, sort: bool = True
) -> Iterator[str]:
    """The lines below the titles, a service with its servers at a time; `services` in the host's order."""
    number: Number = _exact if exact else scaled
    line = _LINES[layout]
    for row in sort_services(list(services)) if sort else services:
        address = row.service.address
        label = service_label(address, names)
        if layout == "stats":
            text = f"{label:<33}" + _numbers(row.stats[:5], number)
        elif layout == "rate":
            text = f"{label:<33}" + _numbers(row.stats[5:], number)
        else:
            text = f"{label} {settings(row.service)}"
        protocol = address.protocol if address.protocol in PROTOCOLS else ""
        servers = sort_servers(row.servers) if sort else row.servers
        parts = [text]
        parts += [line(server_label(each, protocol, names), each, number) for each in servers]
        yield "\n".join(parts) + "\n"


def settings(service: Service) -> str:
    """What a service's line tells behind its label."""
    words = service.scheduler
    bits = service.bits
    if bits & 0x38:
        words += f" ({','.join(scheduler_flags(service.scheduler, bits))})"
    if service.persistent is not None:
        words += f" persistent {service.persistent}"
        if service.netmask is not None:
            words += f" mask {service.netmask}"
        if service.pe is not None:
            words += f" pe {service.pe}"
    return words + (" ops" if bits & 0x4 else "")


def scheduler_flags(scheduler: str, bits: int) -> list[str]:
    """Flags by name; of sh and mh only those that have a name of their own."""
    own = scheduler in ("sh", "mh")
    return [name for name in flag_names(bits & 0x38, scheduler) if not (own and name == "flag-3")]


def _plain(label: str, row: ServerRow, _: Number) -> str:
    forward = _FORWARDS.get(row.forward, "?")
    return f"  -> {label:<28} {forward:<7} {row.weight:<6} {row.active:<10} {row.inactive:<10}"


def _tunnels(label: str, row: ServerRow, _: Number) -> str:
    forward = _FORWARDS.get(row.forward, "?")
    tunnel = _tunnel(row)
    return f"  -> {label:<28} {forward:<7} {tunnel:<13} {row.weight:<6} {row.active:<10} {row.inactive:<10}"


def _thresholds(label: str, row: ServerRow, _: Number) -> str:
    return f"  -> {label:<28} {row.upper:<10} {row.lower:<10} {row.active:<10} {row.inactive:<10}"


def _persistent(label: str, row: ServerRow, _: Number) -> str:
    return f"  -> {label:<28} {row.weight:<9} {row.persistent:<11} {row.active:<10} {row.inactive:<10}"


def _totals(label: str, row: ServerRow, number: Number) -> str:
    return f"  -> {label:<28}" + _numbers(row.stats[:5], number)


def _rates(label: str, row: ServerRow, number: Number) -> str:
    rates = row.stats
    plain = f"  -> {label:<28} {rates.cps:>8} {rates.pps_in:>8} {rates.pps_out:>8}"
    return plain + number(rates.bps_in) + number(rates.bps_out)


_LINES: dict[str, Line] = {
    "": _plain, "tun-info": _tunnels, "thresholds": _thresholds, "persistent-conn": _persistent, "stats": _totals,
    "rate": _rates,
}  # fmt: skip


def _tunnel(row: ServerRow) -> str:
    if row.forward != "tun":
        return "n/a"
    tunnel = row.tunnel
    if tunnel is None:
        return "ipip"
    port = f":{tunnel.port}" if tunnel.type == "gue" else ""
    return f"{tunnel.type}{port}:{_CHECKSUMS[tunnel.csum]}"


def _numbers(values: Iterable[int], number: Number) -> str:
    return "".join([number(value) for value in values])


def scaled(value: int) -> str:
    """A counter in nine columns: whole below 100,000,000, then thousands K, millions M, G and T, cut."""
    if value < 10**8:
        return f"{value:>9}"
    if value < 10**9:
        return f"{value // 10**3:>8}K"
    if value < 10**11:
        return f"{value // 10**6:>8}M"
    if value < 10**14:
        return f"{value // 10**9:>8}G"
    return f"{value // 10**12:>8}T"


def _exact(value: int) -> str:
    """A counter in full, with one blank before it where it fills its column."""
    return f"{value:>9}" if value < 10**8 else f" {value}"


# -- the other lists --------------------------------------------------------------------------------------------------


def timeouts_line(timeouts: Timeouts) -> str:
    return f"Timeout (tcp tcpfin udp): {timeouts.tcp} {timeouts.tcp_fin} {timeouts.udp}\n"


def daemon_line(daemon: Daemon) -> str:
    """A synchronisation daemon; what the kernel did not tell is left out."""
    text = f"{daemon.role} sync daemon (mcast={daemon.interface}, syncid={daemon.id}"
    for name in ("maxlen", "group", "port", "ttl"):
        if value := getattr(daemon, name):
            text += f", {name}={value}"
    return text + ")\n"


def connection_titles(engines: bool) -> str:
    """The two lines above the connections; `engines` with what persistence engines keep."""
    words = "pro expire state       source             virtual            destination"
    more = f"{'':<8}{'pe name':<16} pe_data" if engines else ""
    return f"IPVS connection entries\n{words}{more}\n"


def connection_line(each: Connection, names: Resolver | None, engines: bool) -> str:
    protocol = each.protocol if each.protocol in PROTOCOLS else ""
    source, virtual, destination = (
        endpoint(address, port, protocol, names)
        for address, port in (
            (each.client, each.client_port), (each.virtual, each.virtual_port), (each.server, each.server_port),
        )
    )  # fmt: skip
    expire = f"{each.expires // 60:02}:{each.expires % 60:02}"
    head = f"{each.protocol.upper():<3} {expire:<6} {each.state:<11} {source:<18} {virtual:<18}"
    if engines and each.pe:
        engine, _, data = each.pe.partition(" ")
        return f"{head} {destination:<16} {engine:<18} {data}\n"
    return f"{head} {destination}\n"
