"""Features: what the running kernel says, and what each kind of evidence means, in trees made for it."""

from __future__ import annotations

import gzip
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsctl.errors import NotPermitted, Unavailable, UsageError
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.knowledge.modules import MODULES, find
from tests.kernel.namespaces import as_nobody
from tests.needs import need_root

RELEASE = "6.1.0-test"


def tree(root: Path, files: dict[str, str]) -> KernelModules:
    for name, text in files.items():
        file = root / name.replace("REL", RELEASE)
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".gz"):
            file.write_bytes(gzip.compress(text.encode()))
        else:
            file.write_text(text)
    return KernelModules(root, RELEASE)


DEP = "kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/lib/libcrc32c.ko.xz\nkernel/drivers/some-thing.ko:\n"
BUILTIN = "kernel/net/netfilter/ip_vs.ko\nkernel/net/some-other.ko\n"

CASES: list[tuple[str, str, dict[str, str], str, str]] = [
    # name of the case, feature, files, state, part of the evidence
    ("nothing", "ip_vs", {}, "absent", "no loadable modules"),
    ("no modules folder", "ip_vs", {"proc/modules": ""}, "absent", "no folder /lib/modules"),
    ("proof", "ip_vs", {"proc/thread-self/net/ip_vs": ""}, "loaded", "/proc/net/ip_vs exists"),
    ("loaded", "ip_vs", {"sys/module/ip_vs/initstate": "live\n"}, "loaded", "loaded, /sys/module"),
    ("going", "ip_vs", {"sys/module/ip_vs/initstate": "going\n", "proc/modules": "",
                        "lib/modules/REL/modules.dep": DEP}, "loadable", "modules.dep"),
    ("built in, with parameters", "ip_vs", {"sys/module/ip_vs/parameters/x": "1"}, "loaded", "built in, /sys"),
    ("loaded, no /sys", "ip_vs", {"proc/modules": "ip_vs 188416 0 - Live 0x0000\n"}, "loaded", "/proc/modules lists"),
    ("another's name", "ip_vs", {"proc/modules": "ip_vs_rr 16384 0 - Live 0x0000\n"}, "absent", ""),
    ("built in, listed", "ip_vs", {"lib/modules/REL/modules.builtin": BUILTIN}, "loaded", "modules.builtin"),
    ("loadable", "ip_vs", {"proc/modules": "", "lib/modules/REL/modules.dep": DEP}, "loadable", "modules.dep"),
    ("modules, but not this", "ip_vs", {"proc/modules": "", "lib/modules/REL/modules.dep": "a.ko:\n"},
     "absent", "extra"),
    ("files, but no modules", "ip_vs", {"lib/modules/REL/modules.dep": DEP}, "absent", "no loadable modules"),
    ("configured in", "ip_vs", {"proc/config.gz": "CONFIG_IP_VS=y\n"}, "loaded", "CONFIG_IP_VS=y in /proc/config.gz"),
    ("configured out", "ip_vs", {"boot/config-REL": "# CONFIG_IP_VS is not set\n"}, "absent", "/boot/config"),
    ("not mentioned", "ip_vs_rr", {"boot/config-REL": "# CONFIG_IP_VS is not set\n"}, "absent", "IP_VS_RR is not"),
    ("configured, not installed", "ip_vs", {"proc/config.gz": "CONFIG_IP_VS=m\n", "proc/modules": ""},
     "absent", "CONFIG_IP_VS=m in /proc/config.gz, but"),
    ("built outside", "ip_vs", {"proc/config.gz": "# CONFIG_IP_VS is not set\n", "proc/modules": "",
                                "lib/modules/REL/modules.dep": DEP}, "loadable", "modules.dep"),
    ("newer option first", "ip_tables", {"proc/config.gz": "CONFIG_IP_NF_IPTABLES=y\n"
                                         "# CONFIG_IP_NF_IPTABLES_LEGACY is not set\n"}, "absent", "LEGACY is not set"),
    ("older option alone", "ip_tables", {"proc/config.gz": "CONFIG_IP_NF_IPTABLES=y\n"}, "loaded", "IPTABLES=y"),
    ("a target", "xt_CT", {"proc/thread-self/net/ip_tables_targets": "DNAT\nCT\n"}, "loaded", "CT is listed"),
    ("half a word", "xt_CT", {"proc/thread-self/net/ip_tables_targets": "CTX\n"}, "absent", ""),
    ("option of an absent module", "ip_vs_nfct", {}, "absent", "ip_vs"),
    ("option, off", "ip_vs_nfct", {"sys/module/ip_vs/initstate": "live\n"}, "absent", "/vs/conntrack is not"),
    ("option, on", "ip_vs_nfct", {"proc/sys/net/ipv4/vs/conntrack": "0"}, "loaded", "/vs/conntrack exists"),
    ("option, to come", "ip_vs_nfct", {"proc/modules": "", "lib/modules/REL/modules.dep": DEP, "boot/config-REL":
                                       "CONFIG_IP_VS_NFCT=y\n"}, "loadable", "NFCT=y"),
    ("option, never to come", "ip_vs_nfct", {"proc/modules": "", "lib/modules/REL/modules.dep": DEP, "boot/config-REL":
                                             "# CONFIG_IP_VS_NFCT is not set\n"}, "absent", "not set"),
    ("unknown option", "ip_vs_nfct", {"proc/modules": "", "lib/modules/REL/modules.dep": DEP}, "loadable", "unknown"),
    ("a dash", "some-thing", {"proc/modules": "", "lib/modules/REL/modules.dep": DEP}, "loadable", "modules.dep"),
    ("an underscore", "some_thing", {"proc/modules": "", "lib/modules/REL/modules.dep": DEP}, "loadable", ".dep"),
    ("a dash, built in", "some_other", {"lib/modules/REL/modules.builtin": BUILTIN}, "loaded", "modules.builtin"),
    ("an alias", "ip_conntrack", {"proc/modules": "nf_conntrack 1 0 - Live 0x0\n", "lib/modules/REL/modules.alias":
                                  "alias ip_conntrack nf_conntrack\n"}, "loaded", "alias of nf_conntrack"),
    ("broken configuration", "ip_vs", {"proc/config": ""}, "absent", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("feature", "files", "state", "evidence"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_evidence(tmp_path: Path, feature: str, files: dict[str, str], state: str, evidence: str) -> None:
    found = tree(tmp_path, files).feature(feature)
    assert (found.name, found.state) == (feature, state), found
    assert evidence in found.evidence and found.evidence


def test_a_cut_configuration_is_no_evidence(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_IP_VS=y\n" * 99)[:30])
    assert KernelModules(tmp_path, RELEASE).feature("ip_vs").state == "absent"


def test_every_row_has_an_answer_here() -> None:
    """This kernel may have all built in, or nothing; every answer names its reason."""
    modules = KernelModules()
    for name in MODULES:
        feature = modules.feature(name)
        assert feature.state in ("loaded", "loadable", "absent") and feature.evidence
        assert feature.name == name


def test_the_running_kernel_agrees_with_its_sysctls() -> None:
    conntrack = Path("/proc/sys/net/netfilter/nf_conntrack_max").exists()
    assert (KernelModules().feature("nf_conntrack").state == "loaded") == conntrack
    assert (KernelModules().feature("ip_vs").state == "loaded") == Path("/proc/net/ip_vs").exists()


@pytest.fixture
def open_tree() -> Iterator[Path]:
    """A folder that everybody may look into."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_what_is_there_need_not_be_loaded(open_tree: Path) -> None:
    need_root()
    modules = tree(open_tree, {"proc/thread-self/net/ip_vs": ""})
    modules.load("ip_vs")
    with as_nobody():
        modules.load("ip-vs")


def test_what_one_may_not_see_is_absent(tmp_path: Path) -> None:
    need_root()
    modules = tree(tmp_path, {"proc/thread-self/net/ip_vs": ""})
    with as_nobody():
        assert modules.feature("ip_vs").state == "absent"


def test_what_is_absent_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot load module ip_vs: CONFIG_IP_VS is not set"):
        tree(tmp_path, {"boot/config-REL": "# CONFIG_IP_VS is not set\n"}).load("ip_vs")
    with pytest.raises(Unavailable, match="cannot load module no_such"):
        KernelModules().load("no_such")


def test_loading_takes_root(open_tree: Path) -> None:
    need_root()
    modules = tree(open_tree, {"proc/modules": "", "lib/modules/REL/modules.dep": DEP})
    with as_nobody(), pytest.raises(NotPermitted, match="takes root"):
        modules.load("ip_vs")


@pytest.mark.parametrize("name", ["", "-r", "--help", "a b", "a/b", "../x", "x\n", "é"])
def test_names_that_are_none(name: str) -> None:
    for call in (KernelModules().feature, KernelModules().load):
        with pytest.raises(UsageError, match="is not a module"):
            call(name)


def test_rows_are_sound() -> None:
    for name, row in MODULES.items():
        assert find(name.replace("_", "-")) is row and row.name == name
        assert re.fullmatch(r"[a-zA-Z0-9_]+", row.module) and row.meaning and row.source
        assert row.options and all(re.fullmatch(r"[A-Z0-9_]+", option) for option in row.options)
        assert not row.proof or row.proof.startswith("/proc/")
        if row.name != row.module:
            assert row.module in MODULES and row.proof, f"{name} is an option of a module: only a proof tells"
