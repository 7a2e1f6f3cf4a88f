"""Rules of iptables as nftables' expressions: they read back as they were, or are refused by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipvsctl.errors import Refused
from ipvsctl.formats import nft_table
from ipvsctl.formats.iptables_canonical import canonical
from ipvsctl.formats.nft_rules import LONGEST_COMMENT, read, written
from ipvsctl.formats.nft_text import render
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.rule import Match, Options, OwnChain, Rule
from tests.formats.said_rules import said

VIP = "192.0.2.1"


def round_trip(rule: Rule, family: int = INET, table: str = "filter") -> Rule:
    expressions, comment = written(family, table, canonical(family, rule))
    return read(family, table, json.loads(expressions), comment)


@given(st.data(), st.sampled_from([INET, INET6]))
@settings(max_examples=400, deadline=None)
def test_what_is_written_reads_as_it_was(data: st.DataObject, family: int) -> None:
    rule = data.draw(said(family))
    try:
        expressions, comment = written(family, "filter", rule)
    except Refused as error:
        # Words that are kept in a comment must fit there.
        assert "a comment of more than" in str(error)
        assume(False)
    assert read(family, "filter", json.loads(expressions), comment) == rule
    assert len(comment) <= LONGEST_COMMENT


def rule(name: str, *options: tuple[str, str], protocol: str = "") -> Rule:
    return Rule("ACCEPT", protocol, matches=(Match(name, options),))


UNSAID = {
    "-m ipvs": rule("ipvs", ("ipvs", "")),
    "-m recent": rule("recent", ("set", "")),
    "-m multiport --ports": rule("multiport", ("ports", "1,2"), protocol="tcp"),
    "--ctstate SNAT": rule("conntrack", ("ctstate", "SNAT")),
    "-m conntrack --ctexpire": rule("conntrack", ("ctexpire", "10")),
    "-m addrtype --src-type LOCAL,BROADCAST": rule("addrtype", ("src-type", "LOCAL,BROADCAST")),
    "-m tcp --tcp-option": rule("tcp", ("tcp-option", "2"), protocol="tcp"),
    "-j TCPMSS": Rule("TCPMSS", target_options=(("clamp-mss-to-pmtu", ""),)),
    "-j NFQUEUE": Rule("NFQUEUE", target_options=(("queue-num", "1"),)),
    "-j LOG --log-macdecode": Rule("LOG", target_options=(("log-macdecode", ""),)),
    "-j CONNMARK --save-mark --nfmask 0xff": Rule(
        "CONNMARK", target_options=(("save-mark", ""), ("nfmask", "0xff"), ("ctmask", "0xff"))
    ),
    "the device name 'a*'": Rule("ACCEPT", in_interface="a*"),
}


@pytest.mark.parametrize("words", UNSAID)
def test_what_nftables_cannot_say_is_refused_by_name(words: str) -> None:
    with pytest.raises(Refused, match="nftables cannot say") as raised:
        round_trip(UNSAID[words])
    assert words in str(raised.value)


CARRIED = {
    "state": rule("state", ("state", "NEW")),
    "order of ports": rule("multiport", ("dports", "443,80"), protocol="tcp"),
    "negated states": rule("conntrack", ("ctstate", "!INVALID")),
    "comment first": Rule(
        "ACCEPT", matches=(Match("comment", (("comment", "a b"),)), Match("mark", (("mark", "0x1"),)))
    ),
    "a comment like ours": rule("comment", ("comment", "ipvsctl: x")),
}


@pytest.mark.parametrize("case", CARRIED)
def test_words_in_a_comment_count_only_while_they_are_true(case: str) -> None:
    given_rule = CARRIED[case]
    expressions, comment = written(INET, "filter", given_rule)
    assert round_trip(given_rule) == given_rule
    if case != "a comment like ours":
        assert comment.startswith("ipvsctl: ")
    # The same comment on another rule is a comment.
    other = [*json.loads(expressions)[:-1], {"drop": None}]
    found = read(INET, "filter", other, comment)
    assert found.target == "DROP" and found.matches[-1] == Match("comment", (("comment", comment),))


def test_what_is_not_ours_is_kept_as_it_is() -> None:
    foreign = [{"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": 0}}, {"accept": None}]
    found = read(INET, "filter", foreign, "theirs")
    assert found.matches[0].name == "nft"
    expressions, comment = written(INET, "filter", found)
    assert (json.loads(expressions), comment) == (foreign, "theirs")


# -- the table --------------------------------------------------------------------------------------------------------


def port(number: int) -> Rule:
    return Rule("ACCEPT", protocol="tcp", destination=VIP, matches=(Match("tcp", (("dport", str(number)),)),))


def chain(
    *rules: Rule, name: str = "IPVSCTL-INPUT", hook: str = "INPUT", table: str = "filter", **more: str
) -> OwnChain:
    return OwnChain(INET, table, name, hook, rules, **more)  # type: ignore[arg-type]


HELPER: Options = (("helper", "ftp"),)


class Nft:
    """What nft does with the commands that we send, and its listing of that."""

    def __init__(self) -> None:
        self.chains: dict[str, dict[str, object]] = {}
        self.rules: dict[str, list[dict[str, object]]] = {}
        self.helpers: dict[str, dict[str, object]] = {}
        self.handle = 0

    def listing(self) -> nft_table.Listing:
        items: list[object] = [{"metainfo": {"version": "1"}}, {"table": {"name": "ipvsctl"}}]
        items += [{"ct helper": body} for body in self.helpers.values()]
        items += [{"chain": body} for body in self.chains.values()]
        items += [{"rule": {"chain": name} | body} for name, rules in self.rules.items() for body in rules]
        document = json.dumps({"nftables": items})
        return nft_table.parse(INET, document) if self.chains else nft_table.Listing(INET)

    def commit(self, table: str, *wanted: OwnChain) -> list[nft_table.Command]:
        commands = nft_table.transaction(self.listing(), table, nft_table.compiled(INET, table, wanted))
        for command in commands:
            ((verb, rest),) = command.items()
            ((kind, body),) = rest.items()
            self.run(verb, kind, dict(body))
        return commands

    def run(self, verb: str, kind: str, body: dict[str, object]) -> None:
        name = str(body.get("name", body.get("chain", "")))
        match verb, kind:
            case "add", "chain":
                self.chains[name] = body
                self.rules[name] = []
            case "add", "ct helper":
                self.helpers[name] = body
            case (("add" | "insert"), "rule"):
                self.handle += 1
                there = self.rules[name]
                before = [rule["handle"] for rule in there].index(body["handle"]) if verb == "insert" else len(there)
                there.insert(before, body | {"handle": self.handle})
            case "delete", "rule":
                self.rules[name] = [rule for rule in self.rules[name] if rule["handle"] != body["handle"]]
            case "flush", "chain":
                self.rules[name] = []
            case "delete", "chain":
                assert not self.rules[name], f"{name} has rules"
                del self.chains[name], self.rules[name]
            case "delete", "ct helper":
                del self.helpers[name]
            case "delete", "table":
                self.__init__()  # type: ignore[misc]


def test_an_edit_names_only_what_differs() -> None:
    nft = Nft()
    first = chain(port(1), port(2), port(3))
    nft.commit("filter", first)
    assert nft_table.own_chains(nft.listing()) == (first,)
    handles = [rule["handle"] for rule in nft.rules["filter.IPVSCTL-INPUT"]]
    second = chain(port(1), port(9), port(3), port(4))
    commands = nft.commit("filter", second)
    assert [next(iter(command)) for command in commands] == ["insert", "add", "delete"]
    assert nft_table.own_chains(nft.listing()) == (second,)
    kept = [rule["handle"] for rule in nft.rules["filter.IPVSCTL-INPUT"]]
    assert (kept[0], kept[2]) == (handles[0], handles[2])
    assert nft.commit("filter", second) == []
    assert nft.commit("filter") == [{"delete": {"table": {"family": "ip", "name": "ipvsctl"}}}]


@given(st.lists(st.lists(st.integers(1, 6), max_size=6), min_size=1, max_size=6))
@settings(deadline=None)
def test_any_edit_ends_where_it_is_to(edits: list[list[int]]) -> None:
    nft = Nft()
    for numbers in edits:
        wanted = chain(*map(port, numbers)), chain(Rule("DROP"), name="IPVSCTL-INPUT-LAST", place="last")
        nft.commit("filter", *wanted)
        assert nft_table.own_chains(nft.listing()) == wanted
        assert nft.commit("filter", *wanted) == []


def test_helpers_hang_behind_connection_tracking() -> None:
    nft = Nft()
    helped = chain(replace(port(21), target="CT", target_options=HELPER), name="IPVSCTL-PREROUTING", hook="PREROUTING",
                   table="raw")  # fmt: skip
    untracked = chain(Rule("CT", target_options=(("notrack", ""),)), name="IPVSCTL-OUTPUT", hook="OUTPUT", table="raw")
    nft.commit("raw", helped, untracked)
    priorities = {name: body["prio"] for name, body in nft.chains.items() if "prio" in body}
    assert priorities == {"helper.PREROUTING": -190, "raw.OUTPUT": -300}
    assert list(nft.helpers) == ["ftp-tcp"]
    assert nft_table.own_chains(nft.listing()) == (untracked, helped)
    nft.commit("raw", untracked)
    assert not nft.helpers and "helper.PREROUTING" not in nft.chains
    with pytest.raises(Refused, match="in one chain: IPVSCTL-PREROUTING"):
        nft_table.compiled(INET, "raw", (replace(helped, rules=(*helped.rules, *untracked.rules)),))


def test_a_foreign_rule_or_chain_in_our_table_stays() -> None:
    nft = Nft()
    nft.commit("filter", chain(port(1)))
    nft.run("add", "chain", {"name": "theirs"})
    nft.run("add", "rule", {"chain": "filter.INPUT", "expr": [{"counter": None}], "handle": 0})
    nft.commit("filter")
    assert list(nft.chains) == ["filter.INPUT", "theirs"] and len(nft.rules["filter.INPUT"]) == 1
    assert nft_table.own_chains(nft.listing()) == ()
    nft.commit("filter", chain(port(1)))
    assert [len(rules) for rules in nft.rules.values()] == [2, 0, 1]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"nftables": 1}', '{"nftables": [{"rule": {}}]}', '{"nftables": [{"chain": 1}]}']
)
def test_what_nft_prints_may_be_anything(text: str) -> None:
    with pytest.raises(Refused, match="is not understood"):
        nft_table.parse(INET, text)


def test_the_text_is_what_nft_prints() -> None:
    (line,) = (line for line in render([chain(port(80))]) if "dport" in line)
    assert line == "\t\tip daddr 192.0.2.1 tcp dport 80 counter accept"
