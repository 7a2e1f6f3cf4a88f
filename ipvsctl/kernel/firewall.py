"""The firewall port on Linux: three back ends, and which of them is meant.

`auto` goes where our chains are already, else where the host's own rules are, else to what `iptables` is here: the nft
variant means nftables, by nft where it is installed. What cannot be used here is passed over.
"""

from __future__ import annotations

from ipvsctl.errors import IpvsctlError, Unavailable, UsageError
from ipvsctl.kernel import neighbours
from ipvsctl.kernel.iptables_nft import IPTABLES_NFT, IptablesNft
from ipvsctl.kernel.legacy import LEGACY, Legacy
from ipvsctl.kernel.nft import NFT, Nft
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.director import BACKENDS
from ipvsctl.model.rule import OwnChain

_BackEnd = Legacy | IptablesNft | Nft
_BACK_ENDS: dict[str, type[_BackEnd]] = {LEGACY: Legacy, IPTABLES_NFT: IptablesNft, NFT: Nft}


class KernelFirewall:
    """Our chains in the namespace that the process is in."""

    def backend(self, wanted: str = "auto") -> str:
        """The back end that is meant; Unavailable with what is missing for it, UsageError for a name that is none."""
        if wanted not in BACKENDS:
            raise UsageError(f"firewall back end {wanted!r} is unknown, expected {', '.join(BACKENDS)}")
        if wanted != "auto":
            _BACK_ENDS[wanted]().check()
            return wanted
        missing = []
        for name in (*self.owners(), *_preferred()):
            try:
                _BACK_ENDS[name]().check()
                return name
            except Unavailable as error:
                missing.append(str(error))
        raise Unavailable(f"no firewall back end can be used here: {'; '.join(dict.fromkeys(missing))}")

    def owners(self) -> tuple[str, ...]:
        """The back ends that hold chains of ours; one that cannot be read is passed over. Raises NotPermitted."""
        found = []
        for name, back_end in _BACK_ENDS.items():
            try:
                if back_end().chains():
                    found.append(name)
            except Unavailable:
                continue
        return tuple(found)

    def chains(self, backend: str = "auto") -> tuple[OwnChain, ...]:
        """Our chains in a back end, sorted by family, table and name."""
        return self._named(backend).chains()

    def tables(self, backend: str = "auto") -> frozenset[tuple[int, str]]:
        """The tables of a back end that exist in the namespace."""
        return self._named(backend).tables()

    def replace(self, change: ReplaceRules) -> None:
        """Make our chains of one table exactly `after`, and see that they are; see FirewallPort."""
        back_end = _BACK_ENDS[self.backend(change.backend)]()
        back_end.replace(change)

    def notes(self) -> tuple[str, ...]:
        """Rule sets beside ours that decide about the same packets; nothing for what we may not look at."""
        try:
            owners = self.owners()
            backend = owners[0] if owners else self.backend()
        except IpvsctlError:
            owners, backend = (), ""
        return neighbours.notes(owners, backend)

    def _named(self, backend: str) -> _BackEnd:
        return _BACK_ENDS[self.backend() if backend == "auto" else backend]()


def _preferred() -> tuple[str, ...]:
    """The back ends, the one that goes best with what is here first."""
    legacy, nftables = bool(neighbours.legacy_rules()), bool(neighbours.foreign_nftables(()))
    variant = neighbours.iptables_variant()
    if legacy != nftables:
        variant = "legacy" if legacy else "nft"
    if variant == "legacy":
        return LEGACY, NFT, IPTABLES_NFT
    return (NFT, IPTABLES_NFT, LEGACY) if variant == "nft" else (NFT, LEGACY, IPTABLES_NFT)
