"""The programs that own the rules of nftables, and which tables there are; asking changes nothing and loads nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from ipvsctl.errors import NotPermitted, Refused, Unavailable
from ipvsctl.kernel import nfnetlink
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.kernel.nfnetlink import attributes

FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
"""NFPROTO_*; arp, bridge and netdev do not see what IPVS forwards."""

_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_GET_TABLE, _GET_CHAIN = 1, 4  # NFT_MSG_*
_TIMEOUT = 30
_PREFIX = re.compile(
    r"^(internal:0:0-0: )?(Error: )?|^ip6?tables(-nft)?-restore v[0-9.]+ \(nf_tables\):\s*|^Try `.*|^Error occurred.*"
)


def find(program: str) -> str | None:
    """Where a program is; None when it is not installed."""
    return shutil.which(program, path=_PATH)


def need(backend: str, package: str, *programs: str) -> None:
    """Raise Unavailable, naming the package, when one of the programs or nf_tables is not here."""
    for program in programs:
        if find(program) is None:
            raise Unavailable(f"cannot use {backend}: {program} is not installed (Debian: apt install {package})")
    feature = KernelModules().feature("nf_tables")
    if feature.state == "absent":
        raise Unavailable(f"cannot use {backend}: this kernel has no nf_tables: {feature.evidence}")


def run(program: str, *arguments: str, text: str = "") -> str:
    """What a program prints; raises Refused or NotPermitted with its own words, Unavailable when it is not there."""
    path = find(program)
    if path is None:
        raise Unavailable(f"{program} is not installed")
    try:
        result = subprocess.run(
            [path, *arguments], input=text, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Refused(f"{program} did not end within {_TIMEOUT} seconds") from None
    except OSError as error:
        raise Unavailable(f"cannot run {program}: {error.strerror}") from None
    if result.returncode:
        lines = (_PREFIX.sub("", line.strip()) for line in result.stderr.splitlines() if line.strip(" ^~\t"))
        words = " ".join(dict.fromkeys(filter(None, lines)))
        if "not permitted" in words or "ermission denied" in words or "must be root" in words:
            raise NotPermitted(f"{program}: {words}: run as root, or with sudo")
        raise Refused(f"{program}: {words[:400] or f'status {result.returncode}'}")
    return result.stdout


def nftables() -> tuple[str, ...]:
    """The tables of nftables that see what IPVS forwards, as "ip filter"; none while nf_tables is not loaded.

    Raises NotPermitted.
    """
    return tuple(name for name, _ in _dump(_GET_TABLE, 1))


def chains() -> tuple[tuple[str, str], ...]:
    """The chains of nftables: table and name."""
    return _dump(_GET_CHAIN, 3)


def _dump(message: int, name: int) -> tuple[tuple[str, str], ...]:
    # Asked of a kernel without nf_tables loaded, the question would load it.
    if KernelModules().feature("nf_tables").state != "loaded":
        return ()
    try:
        found = list(nfnetlink.dump(nfnetlink.NFTABLES, message))
    except PermissionError as error:
        raise NotPermitted(f"cannot read the firewall: nftables: {error.strerror}: run as root, or with sudo") from None
    except OSError:
        return ()
    return tuple(
        (f"{FAMILIES[family]} {_text(body, 1)}", _text(body, name)) for family, body in found if family in FAMILIES
    )


def _text(body: bytes, kind: int) -> str:
    return attributes(body).get(kind, b"").rstrip(b"\0").decode("utf-8", "replace")
