"""Checks of the firewall: what rules do to the services, by trial connections and by the rules themselves."""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.knowledge.checks.base import IN_FILE, Check, Seen, check, set_sysctl, some, tool
from ipvsctl.knowledge.names import CONNTRACK
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.facts import Facts, Journey, states
from ipvsctl.model.finding import Mend

RULES = ("RULE", "POLICY", "REJECT", "RULE_TRUNCATED")
"""Names of the datapath's reasons that are rules' doing."""

SAID_ELSEWHERE = (
    "IPVS_NO_DESTINATION", "NOT_FORWARDING", "RP_FILTER", "CONNTRACK_FULL", "NO_LISTENER", "IPVS_DROP_PACKET",
)  # fmt: skip
"""Reasons for which other checks have more to say."""

_KEEP = f"[firewall] {IN_FILE}"


def _said(journey: Journey) -> str:
    """What was tried, what became of it, and why."""
    what = journey.title.replace("client: ", "the client's ").replace("server: ", "the server's ")
    by = f": {journey.rule}" if journey.rule else ""
    where = f" in {journey.hook}" if journey.hook else ""
    why = f"; {journey.explained}" if journey.explained else ""
    return f"a trial {journey.session} session through {journey.forward} lost {what}: {journey.words}{where}{by}{why}"


def _seen(journey: Journey, keep: str = _KEEP) -> Seen:
    return Seen(journey.service, _said(journey), journey.mend or "ipvsctl firewall apply", keep, _mend(journey))


def _mend(journey: Journey) -> Mend:
    """What is ours to mend: a sysctl that the explanation names, our own rules."""
    if journey.mend == "ipvsctl nfct enable":
        return Mend(rules="nfct")
    if journey.mend == "ipvsctl firewall apply":
        return Mend(rules="firewall")
    return Mend()


def _refused(facts: Facts, *hooks: str, session: str = "") -> Iterator[Journey]:
    """Journeys that rules ended in some hooks; each service and method once."""
    seen = set[tuple[str, str]]()
    for journey in facts.journeys:
        ftp = journey.session.startswith("ftp")
        wanted = ftp if session == "ftp" else not ftp
        if journey.lost and journey.reason in RULES and wanted and (not hooks or journey.hook in hooks):
            key = journey.service, journey.forward
            if key not in seen:
                seen.add(key)
                yield journey


def _one_way(journey: Journey) -> bool:
    return journey.state == "INVALID" and journey.forward in ("dr", "tun")


def _input(facts: Facts) -> Iterator[Seen]:
    for journey in _refused(facts, "PREROUTING", "INPUT"):
        if not _one_way(journey):
            yield _seen(journey)


def _invalid(facts: Facts) -> Iterator[Seen]:
    for journey in _refused(facts):
        if _one_way(journey):
            yield _seen(journey, "by hand, before the rule that drops; or conntrack = false under [nfct]")


def _forward(facts: Facts) -> Iterator[Seen]:
    for journey in _refused(facts, "FORWARD"):
        if not _one_way(journey):
            yield _seen(journey)


def _output(facts: Facts) -> Iterator[Seen]:
    for journey in _refused(facts, "OUTPUT", "POSTROUTING"):
        if not _one_way(journey):
            yield _seen(journey)


def _ftp(facts: Facts) -> Iterator[Seen]:
    plain = {(journey.service, journey.forward) for journey in _refused(facts)}
    related = any("RELATED" in states(rule) for _, _, rule in facts.rules(table="filter"))
    for journey in _refused(facts, session="ftp"):
        # A connection that is lost as a whole is told of already, and a helper that is missing as well.
        helper = related and "-j CT --helper" in journey.mend
        if (journey.service, journey.forward) not in plain and not helper:
            yield _seen(journey, f'helper = "ftp" of the service {IN_FILE}')


def _lost(facts: Facts) -> Iterator[Seen]:
    seen = set[tuple[str, str]]()
    for journey in facts.journeys:
        key = journey.service, journey.reason
        if journey.lost and journey.reason and journey.reason not in (*RULES, *SAID_ELSEWHERE) and key not in seen:
            if journey.session.startswith("ftp") and journey.reason == "IPVS_APPLICATION":
                continue
            seen.add(key)
            yield Seen(journey.service, _said(journey), journey.mend)


def _masquerade(facts: Facts) -> Iterator[Seen]:
    nat = [(saved, chain, rule) for saved, chain, rule in facts.rules(table="nat")
           if rule.target in ("MASQUERADE", "SNAT")]  # fmt: skip
    meant = any(match.name == "ipvs" for _, _, rule in nat for match in rule.matches)
    seen = set[tuple[str, str]]()
    for journey in facts.journeys:
        if not journey.source or journey.source == journey.client or (journey.service, journey.forward) in seen:
            continue
        seen.add((journey.service, journey.forward))
        direct = journey.forward != "nat"
        if meant and not direct:
            continue
        family = INET6 if ":" in journey.client else INET
        rules = [(chain.name, rule) for saved, chain, rule in nat if saved.family == family]
        which = f" ({rules[0][1]})" if rules else ""
        then = (
            "its answer to the virtual address's client goes to the director, and the client never gets it" if direct
            else "it sees every client under the director's address"
        )  # fmt: skip
        position = f"ip{'6' if family == INET6 else ''}tables -t nat -I POSTROUTING -m ipvs --ipvs -j ACCEPT"
        yield Seen(
            journey.service,
            f"a trial {journey.session} session through {journey.forward} reached the server from {journey.source} and "
            f"not from the client {journey.client}: a rule of nat POSTROUTING catches IPVS traffic{which}: {then}",
            position, "with the other rules of table nat", severity="error" if direct else "",
        )  # fmt: skip


def _masquerade_idle(facts: Facts) -> Iterator[Seen]:
    if facts.number(CONNTRACK) != 0:
        return
    for saved, chain, rule in facts.rules(table="nat"):
        if rule.target in ("MASQUERADE", "SNAT") and any(match.name == "ipvs" for match in rule.matches):
            yield Seen(
                f"{saved.name} {chain.name}",
                f"a rule translates the source of IPVS traffic ({rule}), but with {CONNTRACK}=0 IPVS packets are not "
                "tracked and table nat never sees them",
                set_sysctl(CONNTRACK, 1), f"conntrack = true under [nfct] {IN_FILE}",
                Mend(sysctls=((CONNTRACK, "1"),)),
            )  # fmt: skip
            return


def _two_sets(facts: Facts) -> Iterator[Seen]:
    used = [name for name, tables in facts.tables.items()
            if any(chain.rules or chain.policy == "DROP" for saved in tables for chain in saved.chains)]  # fmt: skip
    if facts.nft:
        used.append(f"nftables ({some(facts.nft)})")
    if "iptables-legacy" in used and len(used) > 1:
        yield Seen(
            " and ".join(used),
            "both rule sets are walked and a packet must pass each of them: an accept in one is no accept in the "
            "other, and no single tool lists both",
            "iptables-legacy-save; nft list ruleset", "move the rules of one into the other",
        )  # fmt: skip


def _unhooked(facts: Facts) -> Iterator[Seen]:
    for chain in facts.own:
        if not chain.jump:
            yield Seen(
                chain, "nothing jumps to our chain: its rules are not walked", "ipvsctl firewall apply", _KEEP,
                Mend(rules="firewall"),
            )  # fmt: skip


def _marks(facts: Facts) -> Iterator[Seen]:
    if facts.nft:
        return
    for status in facts.services:
        address = status.service.address
        if address.protocol != "fwmark":
            continue
        setters = [rule for _, _, rule in facts.rules(address.family)
                   if rule.target in ("MARK", "CONNMARK", "TPROXY", "SET", "CONNSECMARK", "HMARK")]  # fmt: skip
        if not any(rule.target != "MARK" or _sets(dict(rule.target_options), address.fwmark) for rule in setters):
            yield Seen(
                address,
                f"no rule gives a packet the mark {address.fwmark}: the service never gets one",
                f"{tool(address)} -t mangle -A PREROUTING -p tcp -d ADDRESS --dport PORT -j MARK "
                f"--set-mark {address.fwmark}",
                f"members of the [[service]] {IN_FILE}",
            )  # fmt: skip


def _sets(options: dict[str, str], mark: int) -> bool:
    """Whether a MARK target can leave a packet with a mark; what computes it (and, or, xor) may."""
    text = options.get("set-mark") or options.get("set-xmark")
    if text is None:
        return True
    value, _, mask = text.partition("/")
    full = int(mask, 0) if mask else 0xFFFFFFFF
    return mark & full == int(value, 0) & full


CHECKS: tuple[Check, ...] = (
    check("input-drops", "a rule drops clients before IPVS", "error", "services journeys", "S14, S15", _input),
    check("invalid-drops", "a rule drops INVALID packets of one-way dr or tun", "error", "services journeys", "S18",
          _invalid),
    check("forward-drops", "a rule drops replies", "error", "services journeys", "S3, S14, S15", _forward),
    check("output-drops", "a rule drops requests on their way to the server", "error", "services journeys", "S15",
          _output),
    check("ftp-data-drops", "a rule drops FTP data connections", "error", "services journeys", "S8, S9, S10, S14",
          _ftp),
    check("path-lost", "a trial connection is lost", "error", "services journeys", "the emulated datapath", _lost),
    check("masquerade", "MASQUERADE or SNAT catches IPVS traffic", "warning", "services journeys tables", "S7, S22",
          _masquerade),
    check("masquerade-idle", "MASQUERADE for IPVS traffic, and conntrack=0", "warning", "tables sysctls",
          "S24; ip_vs_xmit.c: ip_vs_nat_send_or_cont", _masquerade_idle),
    check("two-rule-sets", "iptables-legacy and nftables both have rules", "warning", "tables nft",
          "net/netfilter/core.c: nf_hook_slow", _two_sets),
    check("own-unhooked", "a chain of ours that nothing jumps to", "warning", "own", "S14", _unhooked),
    check("mark-missing", "a service by firewall mark, and no rule that marks", "error", "services tables nft",
          "ip_vs_ctl.c: ip_vs_service_find", _marks),
)  # fmt: skip
