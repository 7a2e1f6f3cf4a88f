"""Features of a distribution's kernel, where nearly all of them are modules."""

from __future__ import annotations

import pytest

from ipvsctl.errors import NotPermitted, Unavailable
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.knowledge.modules import MODULES
from tests.kernel.namespaces import as_nobody, run

pytestmark = pytest.mark.guest

# Not built by Debian for all of its kernels.
NOT_EVERYWHERE = {"ip_vs_twos", "fou"}


def test_a_distribution_has_every_feature() -> None:
    modules = KernelModules()
    states = {name: modules.feature(name) for name in MODULES}
    absent = {name for name, feature in states.items() if feature.state == "absent"}
    assert absent <= NOT_EVERYWHERE, [states[name] for name in absent]
    assert all(feature.evidence for feature in states.values())


def test_loading() -> None:
    modules = KernelModules()
    run("modprobe -qr ip_vs_mh || true")
    assert modules.feature("ip_vs_mh").state == "loadable"
    with as_nobody(), pytest.raises(NotPermitted, match="takes root"):
        modules.load("ip_vs_mh")
    modules.load("ip-vs-mh")
    feature = modules.feature("ip_vs_mh")
    assert feature.state == "loaded" and "/sys/module/ip_vs_mh" in feature.evidence
    modules.load("ip_vs_mh")
    assert modules.feature("ip_vs").state == modules.feature("ip_vs_nfct").state == "loaded"
    run("modprobe -r ip_vs_mh")
    assert modules.feature("ip_vs_mh").state == "loadable"


def test_an_alias_of_2003() -> None:
    modules = KernelModules()
    assert "alias of nf_conntrack_ftp" in modules.feature("ip_conntrack_ftp").evidence
    modules.load("ip_conntrack_ftp")
    assert modules.feature("nf_conntrack_ftp").state == "loaded"


def test_modprobes_own_words() -> None:
    """A module that is there, and that this machine has no hardware for."""
    for name in ("kvm_amd", "kvm_intel"):
        assert KernelModules().feature(name).state == "loadable"
    with pytest.raises(Unavailable, match=r"cannot load module kvm_intel: .*could not insert") as caught:
        KernelModules().load("kvm_intel")
    assert "\n" not in str(caught.value)


def test_unknown() -> None:
    with pytest.raises(Unavailable, match=r"/lib/modules/.* has no ip_vs_bogus"):
        KernelModules().load("ip_vs_bogus")
