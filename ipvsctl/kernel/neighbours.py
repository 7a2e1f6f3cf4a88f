"""Other rule sets in the namespace: nftables' tables and the programs that keep rules of their own.

The kernel walks the chains of iptables-legacy and of nftables at the same hooks; a packet that one of them drops is
gone, whatever the other says (netfilter's wiki, "Legacy xtables tools"). Who looks at one of them sees half.
"""

from __future__ import annotations

from pathlib import Path

from ipvsctl.errors import IpvsctlError, Unavailable
from ipvsctl.formats.iptables_save import BUILT_IN
from ipvsctl.formats.nft_table import TABLE
from ipvsctl.kernel import rule_tools
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.kernel.tables import OpenTable, existing_tables
from ipvsctl.model.address import INET, INET6

_PROGRAMS = {"firewalld": ("firewalld", "INPUT_ZONES"), "ufw": ("ufw-", "ufw6-")}
"""Programs by how the tables or chains begin that only they make."""

_OURS = (f"ip {TABLE}", f"ip6 {TABLE}")
_XTABLES = tuple(f"{family} {table}" for family in ("ip", "ip6") for table in BUILT_IN)
_TOOLS = {INET: "iptables", INET6: "ip6tables"}


def notes(owners: tuple[str, ...], backend: str) -> tuple[str, ...]:
    """One line for each thing an administrator should know of; what we may not look at is not there.

    `owners` are the back ends with chains of ours, `backend` the one that is in use, or would be.
    """
    found = []
    if len(owners) > 1:
        found.append(f"our chains are in several back ends, {', '.join(owners)}: `ipvsctl apply` leaves them in one")
    where = {"nft": "our own", "iptables-nft": "iptables-nft's"}.get(backend, "iptables-legacy's")
    if tables := foreign_nftables(owners):
        found.append(
            f"nftables has tables here too: {', '.join(tables)} (made by nft or iptables-nft): the kernel evaluates "
            f"them beside {where} and a packet must pass both, what one drops is dropped whatever the other accepts: "
            "see `nft list ruleset`"
        )
    if backend != "iptables-legacy" and (tables := legacy_rules()):
        found.append(
            f"iptables-legacy has rules here too, in {', '.join(tables)}: the kernel evaluates them beside {where} and "
            "a packet must pass both: see `iptables-legacy-save`"
        )
    names = [*(table.split()[1] for table in foreign_nftables(())), *_chains(), *_legacy_chains()]
    found += [
        f"{program} keeps rules here: let it open the services' ports too, or it may drop what ours accept"
        for program, signs in _PROGRAMS.items()
        if any(name.startswith(signs) for name in names)
    ]
    variant = iptables_variant()
    if backend == "iptables-legacy" and variant == "nft":
        found.append("`iptables` is the nft variant here and does not show our rules: use `iptables-legacy`")
    if backend == "iptables-nft" and variant == "legacy":
        found.append("`iptables` is the legacy variant here and does not show our rules: use `iptables-nft`")
    if backend in ("nft", "iptables-nft") and (evidence := _no_legacy()):
        found.append(f"our rules are in nftables, because this kernel has no legacy iptables: {evidence}")
    return tuple(found)


def iptables_variant() -> str:
    """What `iptables` is here: "legacy", "nft", or "" when it is not installed."""
    path = rule_tools.find("iptables")
    return "" if path is None else "nft" if "nft" in Path(path).resolve().name else "legacy"


def nftables() -> list[str]:
    """The tables of nftables that see what IPVS forwards, as "ip filter"; none while nf_tables is not loaded."""
    try:
        return list(rule_tools.nftables())
    except IpvsctlError:
        return []


def foreign_nftables(owners: tuple[str, ...]) -> list[str]:
    """The tables of nftables that are none of ours; iptables-nft's are the ones that ours are in when it owns some."""
    ours = (*_OURS, *(_XTABLES if "iptables-nft" in owners else ()))
    return [table for table in nftables() if table not in ours]


def legacy_rules() -> list[str]:
    """Tables of iptables-legacy that are not as they come into being, or cannot be read, as "iptables -t filter"."""
    found = []
    for family, tool in _TOOLS.items():
        try:
            for table in existing_tables(family):
                if not _is_pristine(family, table):
                    found.append(f"{tool} -t {table}")
        except IpvsctlError:
            continue
    return found


def _is_pristine(family: int, table: str) -> bool:
    try:
        with OpenTable(family, table) as handle:
            return handle.is_pristine()
    except Unavailable:
        return False


def _no_legacy() -> str:
    feature = KernelModules().feature("iptable_filter")
    return feature.evidence if feature.state == "absent" else ""


def _chains() -> list[str]:
    try:
        return [name for _, name in rule_tools.chains()]
    except IpvsctlError:
        return []


def _legacy_chains() -> list[str]:
    try:
        if "filter" not in existing_tables(INET):
            return []
        with OpenTable(INET, "filter") as handle:
            return handle.chains
    except IpvsctlError:
        return []
