"""Other rule sets in the namespace: nftables' tables and the programs that keep rules of their own.

The kernel walks the chains of iptables-legacy and of nftables at the same hooks; a packet that one of them drops is
gone, whatever the other says (netfilter's wiki, "Legacy xtables tools"). Who looks at one of them sees half.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ipvsctl.errors import Unavailable
from ipvsctl.kernel import nfnetlink
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.kernel.nfnetlink import attributes
from ipvsctl.kernel.tables import OpenTable, existing_tables
from ipvsctl.model.address import INET

_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}  # NFPROTO_*; arp, bridge and netdev do not see what IPVS forwards.
_GET_TABLE, _GET_CHAIN = 1, 4  # NFT_MSG_*

_PROGRAMS = {"firewalld": ("firewalld", "INPUT_ZONES"), "ufw": ("ufw-", "ufw6-")}
"""Programs by how the tables or chains begin that only they make."""


def notes() -> tuple[str, ...]:
    """One line for each thing an administrator should know of; what we may not look at is not there."""
    found = []
    tables, chains = _nftables()
    if tables:
        found.append(
            f"nftables has tables here too: {', '.join(tables)} (made by nft or iptables-nft): the kernel evaluates "
            "them beside iptables-legacy's and a packet must pass both: see `nft list ruleset`"
        )
    names = [*(table.split()[1] for table in tables), *chains, *_legacy_chains()]
    found += [
        f"{program} keeps rules here: let it open the services' ports too, or it may drop what ours accept"
        for program, signs in _PROGRAMS.items()
        if any(name.startswith(signs) for name in names)
    ]
    iptables = shutil.which("iptables", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if iptables and "nft" in Path(iptables).resolve().name:
        found.append("`iptables` is the nft variant here and does not show our rules: use `iptables-legacy`")
    return tuple(found)


def nftables() -> list[str]:
    """The tables of nftables that see what IPVS forwards, as "ip filter"; none while nf_tables is not loaded."""
    return _nftables()[0]


def _nftables() -> tuple[list[str], list[str]]:
    """Tables ("ip filter") of the families that IPVS traffic meets, and the names of their chains."""
    # Asked of a kernel without nf_tables loaded, the question would load it.
    if KernelModules().feature("nf_tables").state != "loaded":
        return [], []
    try:
        tables = [
            f"{_FAMILIES[family]} {_name(body, 1)}"
            for family, body in nfnetlink.dump(nfnetlink.NFTABLES, _GET_TABLE)
            if family in _FAMILIES
        ]
        if not tables:
            return [], []
        return tables, [_name(body, 3) for _, body in nfnetlink.dump(nfnetlink.NFTABLES, _GET_CHAIN)]
    except OSError:
        return [], []


def _name(body: bytes, kind: int) -> str:
    return attributes(body).get(kind, b"").rstrip(b"\0").decode("utf-8", "replace")


def _legacy_chains() -> list[str]:
    try:
        if "filter" not in existing_tables(INET):
            return []
        with OpenTable(INET, "filter") as handle:
            return handle.chains
    except Unavailable:
        return []
