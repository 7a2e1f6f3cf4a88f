"""`doctor`: findings of an emulated director and of files, mending them, and the bundle."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ipvsctl.errors import NotPermitted
from tests.cli.conftest import Cli

WEB = "tcp:192.168.1.100:80"
FTP = "tcp:192.168.1.100:21"
STATE = """\
iptables = '''
*filter
:INPUT DROP [0:0]
COMMIT
'''

[[device]]
name = "eth0"
addresses = ["10.0.1.1/24", "192.168.1.100/32"]

[[device]]
name = "eth1"
addresses = ["10.0.2.1/24"]

[[route]]
destination = "0.0.0.0/0"
device = "eth0"
via = "10.0.1.254"

[[service]]
address = "tcp:192.168.1.100:80"
scheduler = "rr"
[[service.server]]
address = "10.0.2.2"
forward = "nat"

[sysctl]
"net.ipv4.ip_forward" = 1
"""


@pytest.fixture
def web(cli: Cli) -> Cli:
    """A web service with a nat server, and a director that does not forward."""
    cli("service", "add", WEB, "-s", "rr")
    cli("server", "add", WEB, "10.0.2.2", "--forward", "nat")
    return cli


def found(cli: Cli, *words: str, status: int = 1) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in cli("-j", "doctor", *words, status=status).json["findings"]}


def test_a_host_without_anything_is_well(cli: Cli) -> None:
    result = cli("doctor")
    assert (result.out, result.err) == ("", "")
    assert "IPVS is not loaded" in cli("-v", "doctor").err


def test_a_finding_in_full(web: Cli) -> None:
    result = web("doctor", status=1)
    assert result.err == ""
    assert result.lines[0] == "error: net.ipv4.ip_forward (nat-forwarding)"
    assert [line.split()[0] for line in result.lines[1:5]] == ["why", "fix", "keep", "source"]
    assert result.lines[2].split(None, 1)[1] == "ipvsctl sysctl set net.ipv4.ip_forward 1"
    assert result.lines[-1] == "1 error"
    (finding,) = (each for each in web("-j", "doctor", status=1).json["findings"] if each["severity"] == "error")
    assert list(finding) == ["id", "severity", "subject", "why", "fix", "persist", "source"]
    assert web("-q", "doctor", status=1).out == ""


def test_the_command_that_it_names_mends_it(web: Cli) -> None:
    command = found(web)["nat-forwarding"]["fix"].split()
    assert command.pop(0) == "ipvsctl"
    web(*command)
    assert "nat-forwarding" not in found(web, status=0)
    assert web("doctor").out == ""


def test_infos_are_shown_on_request(web: Cli) -> None:
    web("sysctl", "set", "net.ipv4.ip_forward", "1")
    web("sysctl", "set", "net.ipv4.vs.run_estimation", "0")
    assert web("doctor").out == ""
    assert "info: net.ipv4.vs.run_estimation" in web("-v", "doctor").out
    assert found(web, status=0)["estimation-off"]["severity"] == "info"


def test_fix_is_a_plan_like_any_other(web: Cli) -> None:
    web("sysctl", "set", "net.netfilter.nf_conntrack_tcp_be_liberal", "1")
    plan = web("-j", "doctor", "--fix", "--dry-run").json["changes"]
    assert {each["name"] for each in plan} == {
        "net.ipv4.ip_forward", "net.netfilter.nf_conntrack_tcp_be_liberal",
    }  # fmt: skip
    assert "nat-forwarding" in found(web)
    assert web("doctor", "--fix").out == "done: 2 changes\n"
    assert found(web, status=0).keys().isdisjoint({"nat-forwarding", "be-liberal"})
    assert web("doctor", "--fix").out == "no changes\n"
    web("rollback", "--last")
    assert {"nat-forwarding", "be-liberal"} <= found(web).keys()


def test_fix_prints_one_document(web: Cli) -> None:
    assert not [each for each in web("-j", "doctor", "--fix").json["findings"] if each["severity"] != "info"]


def test_fix_makes_ftp_work(cli: Cli) -> None:
    """Rules by state, no helper, no conntrack: everything that the findings name is mended in one go."""
    cli("service", "add", FTP, "-s", "rr")
    cli("server", "add", FTP, "10.0.2.2", "--forward", "nat")
    cli("firewall", "apply")
    before = found(cli)
    assert "nat-forwarding" in before
    assert {"nfct-off", "forward-drops"} & before.keys()
    cli("doctor", "--fix")
    for session in ("ftp-passive", "ftp-active"):
        cli("-q", "trace", "--session", session, "--expect", "accept")
    assert not [each for each in found(cli, status=0).values() if each["severity"] != "info"]


def test_fix_makes_our_rules_anew(web: Cli) -> None:
    """A service that came after the rules: they close its port until they are made again."""
    web("doctor", "--fix")
    web("nfct", "enable")
    web("firewall", "apply")
    assert web("doctor").out == ""
    web("service", "add", "tcp:192.168.1.100:8080", "-s", "rr")
    web("server", "add", "tcp:192.168.1.100:8080", "10.0.2.2", "--forward", "nat")
    finding = found(web)["input-drops"]
    assert (finding["subject"], finding["fix"]) == ("tcp:192.168.1.100:8080", "ipvsctl firewall apply")
    plan = web("-j", "doctor", "--fix", "--dry-run").json["changes"]
    assert [each["change"] for each in plan] == ["replace-rules"]
    web("doctor", "--fix")
    assert web("doctor").out == ""


def test_what_nobody_can_mend_stays(web: Cli) -> None:
    web("server", "edit", WEB, "10.0.2.2", "--weight", "0")
    result = web("doctor", "--fix", status=1)
    assert "service-quiesced" in result.out and "done: 1 change" in result.out


def test_a_saved_state(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "state.toml").write_text(STATE)
    finding = found(cli, "state.toml")["input-drops"]
    assert "policy" in finding["why"]
    assert "-I INPUT" in finding["fix"] or "-A INPUT" in finding["fix"]
    (tmp_path / "open.toml").write_text(STATE.replace("INPUT DROP", "INPUT ACCEPT"))
    assert cli("doctor", "open.toml").out == ""


def test_a_director_file(cli: Cli, tmp_path: Path) -> None:
    assert not [each for each in found(cli, "ftp.toml", status=0).values() if each["severity"] == "error"]
    text = (tmp_path / "ftp.toml").read_text().replace("conntrack = true", "conntrack = false")
    text = text.replace('helper = "ftp"\n', "").replace("persistent = 300", "")
    (tmp_path / "off.toml").write_text(text)
    assert {"ftp-data-drops", "forward-drops"} & found(cli, "off.toml").keys()


def test_fix_is_not_for_files(cli: Cli) -> None:
    assert "without FILE" in cli("doctor", "--fix", "ftp.toml", status=2).err
    assert "no such file" in cli("doctor", "missing.toml", status=2).err.lower()


def test_a_bundle(web: Cli, tmp_path: Path) -> None:
    bundle = tmp_path / "b.tar.gz"
    web("doctor", "--bundle", str(bundle), status=1)
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    with tarfile.open(bundle) as archive:
        names = {name.removeprefix("ipvsctl-doctor/") for name in archive.getnames()}
        assert names == {"README", "facts.json", "findings.json", "state.toml", "services.json", "rules.json"}

        def read(name: str) -> str:
            file = archive.extractfile(f"ipvsctl-doctor/{name}")
            assert file is not None
            return file.read().decode()

        facts, findings = json.loads(read("facts.json")), json.loads(read("findings.json"))["findings"]
        assert facts["services"][0]["address"] == WEB and facts["missing"]["neighbours"]
        assert next(each["id"] for each in findings) == "nat-forwarding"
        (tmp_path / "state.toml").write_text(read("state.toml"))
        assert "emulator" in read("README")
    assert "nat-forwarding" in found(web, "state.toml")
    before = bundle.read_bytes()
    assert "is there already" in web("doctor", "--bundle", str(bundle), status=3).err
    assert bundle.read_bytes() == before
    assert "cannot write" in web("doctor", "--bundle", str(tmp_path / "no" / "b.tar.gz"), status=1).err


def test_services_that_may_not_be_seen(web: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be looked at is; where services are hidden, finding nothing is no good news."""
    from ipvsctl.emulator.client import RemoteIpvs

    def refuse(self: RemoteIpvs) -> list[Any]:
        raise NotPermitted("IPVS needs CAP_NET_ADMIN")

    monkeypatch.setattr(RemoteIpvs, "services", refuse)
    result = web("-v", "doctor", status=4)
    assert "services, servers and timeouts of IPVS (IPVS needs CAP_NET_ADMIN)" in result.err
    web("sysctl", "set", "net.netfilter.nf_conntrack_tcp_be_liberal", "1")
    assert "be-liberal" in web("doctor", status=1).out


def test_nothing_can_be_seen(web: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipvsctl.emulator import evidence
    from ipvsctl.emulator.client import RemoteIpvs, RemoteSysctl
    from ipvsctl.model.facts import PARTS, Facts

    def refuse(*_: object) -> Any:
        raise NotPermitted("it takes root")

    monkeypatch.setattr(RemoteIpvs, "services", refuse)
    monkeypatch.setattr(RemoteSysctl, "names", refuse)
    monkeypatch.setattr(evidence, "read", lambda snapshot: Facts(missing=dict.fromkeys(PARTS, "it takes root")))
    assert web("doctor", status=4).err == "ipvsctl: it takes root\n"


def test_without_the_firewalls_tools(web: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipvsctl.emulator.client import RemoteFirewall, RemoteHost
    from ipvsctl.errors import Unavailable

    def missing(*_: object) -> Any:
        raise Unavailable("python-iptables is not installed")

    for name in ("owners", "chains", "backend", "tables"):
        monkeypatch.setattr(RemoteFirewall, name, missing)
    real = RemoteHost.evidence
    assert real is not None
    result = web("-v", "doctor", status=1)
    assert "our own chains (python-iptables is not installed); 1 check not made" in result.err
    assert "nat-forwarding" in result.out
