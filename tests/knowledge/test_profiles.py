"""Every row of the profiles: what it says is what a director file becomes, where it holds and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ipvsctl.errors import UsageError
from ipvsctl.knowledge.modules import find as find_module
from ipvsctl.knowledge.profiles import FORWARDS, NEEDS, ROUTED, Need, Situation, needs, situations
from ipvsctl.knowledge.recipes import situations_of, wanted
from ipvsctl.knowledge.sysctls import find as find_sysctl
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.director import Director, FirewallWish, Nfct, ServiceWish, Uplink, Wanted
from ipvsctl.model.rule import OwnChain
from ipvsctl.model.service import Server, Service

VIRTUAL = {2: "192.168.1.100", 10: "2001:db8::100"}
SERVER = {2: "10.0.2.2", 10: "fd00:2::2"}
GATEWAY = {2: "203.0.113.1", 10: "2001:db8:1::1"}
SITUATIONS = situations()
KINDS = ("module", "sysctl", "rule", "setting", "impossible", "note")


def named(situation: Situation) -> str:
    words = [situation.forward, f"ipv{4 if situation.family == 2 else 6}"]
    return "-".join([*words, *(n for n in ("gateway", "clients", "ftp", "uplinks") if getattr(situation, n))])


def director(situation: Situation, *, mark: bool = False) -> Director:
    """A director in a situation, with all that the situation needs of the file."""
    family = situation.family
    virtual, port = VIRTUAL[family], 21 if situation.ftp else 80
    address = ServiceAddress.of("tcp", virtual, port)
    routed = situation.forward in ROUTED
    service = Service(address, "rr", persistent=300 if situation.ftp and routed else None)
    wish = ServiceWish(
        service, (Server(ServerAddress.of(SERVER[family], port), situation.forward),), "ftp" if situation.ftp else None
    )
    services = [wish]
    if mark:
        services.append(ServiceWish(Service(ServiceAddress.of_mark(7, family)), (), None,
                                    (ServiceAddress.of("udp", virtual, 0),)))  # fmt: skip
    return Director(
        tuple(services),
        Nfct(True, accept_local=("eth1",) if situation.gateway and routed else ()),
        FirewallWish(protect=(virtual,), local_clients=(SERVER[family],) if situation.clients else ()),
        uplinks=(Uplink(virtual, "eth2", GATEWAY[family]),) if situation.uplinks else (),
    )


def _rules(want: Wanted, *parts: str) -> bool:
    lines = [
        f"{chain.table} {chain.hook} {rule}" for chain in want.chains or () for rule in chain.rules
    ]  # fmt: skip
    return any(all(part in line for part in parts) for line in lines)


def _tracked(want: Wanted) -> bool:
    return _rules(want, "--ctstate") or _rules(want, "CT --helper")


RULES: dict[str, Callable[[Wanted], bool]] = {
    "track": _tracked,
    "helper": lambda want: _rules(want, "raw PREROUTING", "--dport 21", "-j CT --helper ftp"),
    "helper-local": lambda want: _rules(want, "raw OUTPUT", "--dport 21", "-j CT --helper ftp"),
    "tracked": lambda want: _rules(want, "filter INPUT -d", "RELATED,ESTABLISHED -j ACCEPT"),
    "port": lambda want: _rules(want, "filter INPUT -d", "--dport", "ACCEPT") and not _rules(want, "INVALID"),
    "clients": lambda want: _rules(want, "filter INPUT -s", "-p tcp -j ACCEPT"),
    "closed": lambda want: all(_rules(want, "filter INPUT -d", f"-p {p} -j DROP") for p in ("tcp", "udp", "sctp")),
    "forwarded": lambda want: _rules(want, "filter FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
    "data": lambda want: _rules(want, "filter FORWARD -s", "-p tcp -m tcp --sport 20 -j ACCEPT"),
    "spoof": lambda want: _rules(want, "raw PREROUTING", "-i eth1 -m addrtype --src-type LOCAL -j DROP"),
    "mark": lambda want: _rules(want, "mangle PREROUTING", "-p udp -j MARK --set-xmark 0x7/0xffffffff"),
    "mark-local": lambda want: _rules(want, "mangle OUTPUT", "-p udp -j MARK --set-xmark 0x7/0xffffffff"),
    "uplink": lambda want: bool(want.policy and want.routes),
}
"""The name of a rule in the table -> whether it is there."""

MORE = frozenset({"clients"})
"""Rules that are made beyond what is needed: S14's for local clients, whatever the method."""


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: f"{need.kind}-{need.what}-{'-'.join(need.forwards)}")
def test_rows_are_whole(need: Need) -> None:
    assert need.kind in KINDS
    assert need.reason and not need.reason.endswith(".")
    assert need.source.startswith("S") or ".c" in need.source
    assert set(need.forwards) <= set(FORWARDS) and need.forwards
    assert any(need.holds(each) for each in SITUATIONS), "it never holds"
    if need.kind == "module":
        assert find_module(need.what)
    if need.kind == "sysctl":
        assert find_sysctl(need.what.replace("DEVICE", "eth0"))


def test_every_rule_of_the_table_is_checked_here() -> None:
    assert {need.what for need in NEEDS if need.kind == "rule"} == set(RULES)


@pytest.mark.parametrize("situation", SITUATIONS, ids=named)
def test_a_director_has_what_its_situation_needs_and_no_more(situation: Situation) -> None:
    asked = director(situation, mark=True)
    if needs([situation], "impossible"):
        with pytest.raises(UsageError, match="cannot work"):
            wanted(asked)
        return
    want = wanted(asked)
    assert situation in situations_of(asked)
    for name, made in RULES.items():
        needed = any(need.what == name for need in needs([situation], "rule"))
        assert made(want) or not needed, f"{name} is missing"
        assert needed or not made(want) or name in MORE, f"{name} is there for nothing"
    modules = {need.what for need in needs([situation], "module")}
    assert modules <= set(want.modules) <= modules | {"nf_conntrack"}
    assert ("ip_vs_ftp" in want.modules) is (situation.ftp and situation.forward == "nat")
    sysctls = dict(want.sysctls)
    expected = {"net.ipv4.vs.conntrack": "1"}
    loosened = False
    for need in needs([situation, *([Situation("dr")] if asked.nfct and asked.nfct.accept_local else [])], "sysctl"):
        if need.what.endswith("rp_filter"):
            loosened = True
        else:
            expected[need.what.replace("DEVICE", "eth1")] = need.value
    assert sysctls == expected
    assert want.loosen == (("eth1",) if loosened else ())


@pytest.mark.parametrize("situation", [each for each in SITUATIONS if each.ftp], ids=named)
def test_what_the_file_must_say_is_asked_for(situation: Situation) -> None:
    if needs([situation], "impossible"):
        return
    asked = director(situation)
    wish = asked.services[0]
    settings = {need.what for need in needs([situation], "setting")}
    without = {
        "persistent": Director((ServiceWish(Service(wish.service.address), wish.servers, "ftp"),), asked.nfct),
        "conntrack": Director(asked.services, Nfct(None, accept_local=asked.nfct.accept_local if asked.nfct else ())),
    }
    for name, changed in without.items():
        if name in settings:
            with pytest.raises(UsageError, match=f"needs {name}"):
                wanted(changed)
        else:
            wanted(changed)


def test_ftp_through_dr_needs_its_own_port() -> None:
    """5.4 of the kernel's semantics: only a persistent service on port 21 is asked for data ports."""
    address = ServiceAddress.parse("tcp:192.168.1.100:2121")
    wish = ServiceWish(
        Service(address, persistent=300), (Server(ServerAddress.of("10.0.2.2", 2121), "dr"),), "ftp"
    )  # fmt: skip
    with pytest.raises(UsageError, match="needs port 21"):
        wanted(Director((wish,), Nfct(True, accept_local=("eth1",))))


def test_one_way_with_conntrack_is_noted_and_without_it_is_not() -> None:
    """S18."""
    asked = director(Situation("dr", gateway=False))
    assert any("SYN_SENT" in note for note in wanted(asked).notes)
    assert wanted(Director(asked.services, Nfct(False), asked.firewall)).notes == ()


def test_uplinks_without_rerouting_are_noted() -> None:
    asked = director(Situation("nat", uplinks=True))
    without = Director(asked.services, Nfct(True, snat_reroute=False), asked.firewall, uplinks=asked.uplinks)
    assert any("snat_reroute = false" in note for note in wanted(without).notes)
    assert not any("snat_reroute" in note for note in wanted(asked).notes)


def test_a_rule_that_only_makes_the_kernel_track() -> None:
    """Where nothing else of ours asks for it; per family in use."""
    wish = director(Situation("nat")).services
    six = director(Situation("nat", 10)).services
    (four, other) = wanted(Director((*wish, *six), Nfct(True))).chains or ()
    assert isinstance(four, OwnChain)
    assert [(c.family, c.name, [str(r) for r in c.rules]) for c in (four, other)] == [
        (2, "IPVSCTL-TRACK", ["-m conntrack --ctstate NEW -j RETURN"]),
        (10, "IPVSCTL-TRACK", ["-m conntrack --ctstate NEW -j RETURN"]),
    ]
    assert wanted(Director(wish, Nfct(False))).chains is None


def test_accept_local_of_all_and_default_is_of_no_device() -> None:
    """A host may have them on: no rule can name a device then, and `default` lets nothing in."""
    services = director(Situation("dr")).services
    of_all = wanted(Director(services, Nfct(None, accept_local=("all",))))
    assert of_all.chains == ()
    assert any("name the real servers' devices" in note for note in of_all.notes)
    of_default = wanted(Director(services, Nfct(True, accept_local=("default",))))
    assert [chain.name for chain in of_default.chains or ()] == ["IPVSCTL-TRACK"]
    assert any("SYN_SENT" in note for note in of_default.notes)
