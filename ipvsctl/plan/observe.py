"""Reading from a host what a comparison needs, and no more: looking must change nothing.

Asking the kernel for IPVS's tables loads ip_vs when it is not there, and asking libiptc for a table creates it. So a
module that is not loaded is not asked, and what it would hold is empty.
"""

from __future__ import annotations

from dataclasses import replace

from ipvsctl.errors import NotPermitted, Unavailable
from ipvsctl.host import Host
from ipvsctl.model.director import Found, Wanted
from ipvsctl.model.status import KERNEL_TIMEOUTS

_FORWARDING = "net.ipv4.ip_forward"


def observe(host: Host, wanted: Wanted, *, prune: bool = False) -> Found:
    """The part of the host's state that `difference(wanted, ..., prune)` compares.

    Raises NotPermitted or Unavailable when the host does not let us look, or lacks a module.
    """
    modules = {name: present(host, name) for name in wanted.modules}
    names = [name for name, _ in wanted.sysctls]
    if _FORWARDING in names:
        names += _overwritten(host)
    rules = wanted.chains is not None or prune
    ipvs = wanted.services is not None or wanted.timeouts is not None or wanted.daemons is not None or prune
    return _found(host, names, modules, rules=rules, ipvs=ipvs, backend=wanted.backend)


def present(host: Host, module: str) -> str:
    """The state of a module that is needed, "loaded" or "loadable"; raises Unavailable when it is absent."""
    feature = host.modules.feature(module)
    if feature.state == "absent":
        raise Unavailable(f"this kernel has no {module} ({feature.evidence}): boot one that has, or --host emulator")
    return feature.state


def observe_all(host: Host) -> Found:
    """The whole of what a director file can describe."""
    names = [
        *host.sysctl.names("net.ipv4.vs."),
        "net.netfilter.nf_conntrack_tcp_be_liberal",
        *(name for name in host.sysctl.names("net.ipv4.conf.") if name.endswith(".accept_local")),
    ]
    try:
        return _found(host, names, {}, rules=True, ipvs=True)
    except NotPermitted:
        raise
    except Unavailable as error:
        # A host without iptables-legacy is a director all the same; of rules there is nothing to tell.
        return replace(_found(host, names, {}, rules=False, ipvs=True), notes=(f"no rules: {error}",))


def _found(
    host: Host, names: list[str], modules: dict[str, str], *, rules: bool, ipvs: bool, backend: str = "auto"
) -> Found:
    loaded = ipvs and host.modules.feature("ip_vs").state == "loaded"
    return Found(
        modules=modules,
        backend=host.firewall.backend(backend) if rules else backend,
        tables=host.firewall.tables() if rules else frozenset(),
        chains=host.firewall.chains() if rules else (),
        sysctls={name: host.sysctl.get(name) for name in names},
        timeouts=host.ipvs.timeouts() if loaded else KERNEL_TIMEOUTS,
        daemons=tuple(host.ipvs.daemons()) if loaded else (),
        services={status.service.address: status for status in host.ipvs.services()} if loaded else {},
        notes=host.firewall.notes() if rules else (),
    )


def _overwritten(host: Host) -> list[str]:
    """Sysctls that the kernel sets when ip_forward changes (devinet.c, inet_forward_change)."""
    devices = [name for name in host.sysctl.names("net.ipv4.conf.") if name.endswith(".forwarding")]
    return [*devices, "net.ipv4.conf.all.accept_redirects"]
