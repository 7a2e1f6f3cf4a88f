"""The table [sysctl] of a director file: its names in their three written forms, and what [nfct] says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipvsctl.formats import director_values as values
from ipvsctl.formats.director_values import Wrong
from ipvsctl.model.director import Nfct

if TYPE_CHECKING:
    from ipvsctl.formats.toml_lines import Path


def implied(nfct: Nfct) -> dict[str, tuple[str, str]]:
    """Sysctls that [nfct] sets: name -> value and the key of [nfct]."""
    found = {}
    for key, name in (
        ("conntrack", "net.ipv4.vs.conntrack"),
        ("snat_reroute", "net.ipv4.vs.snat_reroute"),
        ("be_liberal", "net.netfilter.nf_conntrack_tcp_be_liberal"),
    ):
        asked = getattr(nfct, key)
        if asked is not None:
            found[name] = ("1" if asked else "0", key)
    for device in nfct.accept_local:
        found[f"net.ipv4.conf.{device.replace('.', '/')}.accept_local"] = ("1", "accept_local")
    return found


def leaves(table: dict[str, Any], path: Path) -> list[tuple[Path, Any]]:
    """The values of [sysctl] with their paths; names without quotes are dotted keys, so tables in tables."""
    found: list[tuple[Path, Any]] = []
    for key, value in table.items():
        if type(value) is dict and value:
            found += leaves(value, (*path, key))
        else:
            found.append(((*path, key), value))
    return found


def name_at(path: Path) -> str:
    """The name of a sysctl: quoted in one piece, or a dotted key in which only a device may have dots of its own."""
    keys = [str(key) for key in path[1:]]
    if len(keys) == 1:
        return values.sysctl_name(keys[0])
    if "." in keys[0]:
        raise Wrong("expected the whole name in quotes or none of it")
    return values.sysctl_name(".".join(key.replace(".", "/") for key in keys))
