"""Reading from a host what a comparison needs, and no more: looking must change nothing.

Asking the kernel for IPVS's tables loads ip_vs when it is not there, and asking libiptc for a table creates it. So a
module that is not loaded is not asked, and what it would hold is empty.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from ipvsctl.errors import NotFound, NotPermitted, Unavailable
from ipvsctl.host import Host, refusal
from ipvsctl.model.change import AddServer, AddService, StartDaemon
from ipvsctl.model.director import Found, Wanted
from ipvsctl.model.status import KERNEL_TIMEOUTS
from ipvsctl.plan.difference import FORWARDING


def observe(host: Host, wanted: Wanted, *, prune: bool = False) -> Found:
    """The part of the host's state that `difference(wanted, ..., prune)` compares.

    Raises NotPermitted or Unavailable when the host does not let us look, or lacks a module.
    """
    modules = {name: present(host, name) for name in wanted.modules}
    names = [name for name, _ in wanted.sysctls]
    for name, prefix in FORWARDING.items():
        if name in names:
            names += _overwritten(host, prefix)
    rules = wanted.chains is not None or (prune and _has_rules(host))
    ipvs = wanted.services is not None or wanted.timeouts is not None or wanted.daemons is not None or prune
    return _found(host, names, modules, rules=rules, ipvs=ipvs, backend=wanted.backend)


def _has_rules(host: Host) -> bool:
    """Whether there are rules of ours; a host without iptables has none."""
    try:
        return bool(host.firewall.tables() and host.firewall.chains())
    except NotPermitted:
        raise
    except Unavailable:
        return False


def present(host: Host, module: str) -> str:
    """The state of a module that is needed, "loaded" or "loadable"; raises Unavailable when it is absent."""
    feature = host.modules.feature(module)
    if feature.state == "absent":
        raise Unavailable(f"this kernel has no {module} ({feature.evidence}): boot one that has, or --host emulator")
    return feature.state


def refuse_known(host: Host, change: AddService | AddServer | StartDaemon) -> None:
    """Raise what the host would answer to an addition, as far as looking tells; where IPVS is not loaded, nothing.

    An addition that is refused must not get into a journal: what undoes it would take away what was there before.
    """
    if host.modules.feature("ip_vs").state != "loaded":
        return
    number = 0
    if isinstance(change, StartDaemon):
        number = errno.EEXIST if any(d.role == change.daemon.role for d in host.ipvs.daemons()) else 0
    else:
        server = change.server.address if isinstance(change, AddServer) else None
        address = change.service.address if isinstance(change, AddService) else change.service
        try:
            status = host.ipvs.service(address)
        except NotFound:
            number = errno.ESRCH if server else 0
        else:
            there = server is None or any(each.server.address == server for each in status.servers)
            number = errno.EEXIST if there else 0
    if number:
        raise refusal(change, number, "")


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


def _overwritten(host: Host, prefix: str) -> list[str]:
    """Sysctls that the kernel sets when forwarding changes (devinet.c: inet_forward_change, addrconf.c)."""
    devices = [name for name in host.sysctl.names(prefix) if name.endswith(".forwarding")]
    return [*devices, "net.ipv4.ip_forward", "net.ipv4.conf.all.accept_redirects"]
