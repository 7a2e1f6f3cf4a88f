"""Rules that every back end can say, in iptables-save's words."""

from __future__ import annotations

from hypothesis import strategies as st

from ipvsctl.errors import Refused
from ipvsctl.formats.iptables_canonical import STATES, canonical
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.rule import Match, Options, Rule
from tests.strategies import addresses

_signs = st.sampled_from(["", "", "!"])
_ports = st.integers(1, 65534)
_ranges = st.tuples(_ports, _ports).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: f"{min(pair)}:{max(pair)}")
_port = _ports.map(str) | _ranges
_states = st.sets(st.sampled_from(STATES), min_size=1, max_size=4).map(",".join)
_marks = st.integers(0, 2**32 - 1).map(hex)
_masked = st.tuples(_marks, st.integers(1, 2**32 - 1).map(hex)).map("/".join)
_texts = st.text("abc XYZ019_-.,:;/", min_size=1, max_size=40).filter(lambda text: text == text.strip())


def _signed(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(_signs, values).map("".join)


def _match(name: str, **options: st.SearchStrategy[str]) -> st.SearchStrategy[Match]:
    keys = list(options)
    fixed = st.fixed_dictionaries({}, optional={key.replace("_", "-"): options[key] for key in keys}).filter(bool)
    return fixed.map(lambda found: Match(name, tuple(found.items())))


_any_matches = st.one_of(
    _match("conntrack", ctstate=_signed(_states)),
    _match("conntrack", ctdir=st.sampled_from(["ORIGINAL", "REPLY"])),
    _match("state", state=_states),
    _match("mark", mark=_signed(_marks)),
    _match("connmark", mark=_signed(_marks)),
    _match("addrtype", dst_type=_signed(st.sampled_from(["LOCAL", "MULTICAST", "UNICAST"]))),
    _match("helper", helper=st.just("ftp")),
    _match("comment", comment=_texts),
    _match(
        "limit", limit=st.tuples(st.integers(1, 500).map(str), st.sampled_from(["sec", "min", "hour"])).map("/".join)
    ),
)


def _port_matches(protocol: str) -> st.SearchStrategy[Match]:
    multiport = st.lists(_port, min_size=1, max_size=5).map(",".join)
    return st.one_of(
        _match(protocol, sport=_signed(_port), dport=_signed(_port)),
        _match("multiport", dports=_signed(multiport)),
        *([st.just(Match("tcp", (("tcp-flags", "FIN,SYN,RST,ACK SYN"),)))] if protocol == "tcp" else []),
    )


_targets: st.SearchStrategy[tuple[str, Options]] = st.one_of(
    st.sampled_from(["ACCEPT", "DROP", "RETURN"]).map(lambda name: (name, ())),
    (_marks | _masked).map(lambda value: ("MARK", (("set-mark", value),))),
    _masked.map(lambda value: ("CONNMARK", (("set-xmark", value),))),
    st.just(("CONNMARK", (("save-mark", ""), ("nfmask", "0xffffffff"), ("ctmask", "0xffffffff")))),
    st.just(("CONNMARK", (("restore-mark", ""), ("nfmask", "0xffffffff"), ("ctmask", "0xffffffff")))),
    st.tuples(_texts.map(lambda text: text[:20].strip() or "x"), st.sampled_from(["3", "6"])).map(
        lambda given: ("LOG", (("log-prefix", given[0]), ("log-level", given[1])))
    ),
    st.just(("REJECT", ())),
)


@st.composite
def said(draw: st.DrawFn, family: int) -> Rule:
    """A rule for table filter."""
    protocol = draw(st.sampled_from(["", "tcp", "udp", "icmp" if family == INET else "ipv6-icmp", "gre", "!tcp"]))
    networks = addresses(family) | st.tuples(
        addresses(family), st.integers(1, 128 if family == INET6 else 32).map(str)
    ).map("/".join)
    devices = _signed(st.sampled_from(["eth0", "eth+", "ppp0.7"]))
    matches = [draw(_any_matches) for _ in range(draw(st.integers(0, 2)))]
    if protocol in ("tcp", "udp") and draw(st.booleans()):
        matches.append(draw(_port_matches(protocol)))
    target, options = draw(_targets)
    rule = Rule(
        target, protocol, draw(st.just("") | _signed(networks)), draw(st.just("") | _signed(networks)),
        draw(st.just("") | devices), "", tuple(matches), options,
    )  # fmt: skip
    try:
        return canonical(family, rule)
    except Refused:
        # "! 0.0.0.0/0" matches nothing.
        return Rule(target, target_options=canonical(family, Rule(target, target_options=options)).target_options)
