"""Random rule sets: every match and every target that the datapath evaluates, in every table and chain it stands in.

Whether a rule makes sense is the datapath's to say: what it refuses (and the kernel would) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ipvsctl.datapath.engine import Engine
from ipvsctl.errors import UsageError
from ipvsctl.formats import iptables_save
from ipvsctl.model.address import INET
from ipvsctl.model.snapshot import SavedTable
from tests.fuzz.places import CLIENTS, MARK, ODD, OTHER_PORTS, OWN, PORTS, SERVERS, VIPS

HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
_NUMBERS = (21, 53, 80, 443, *OTHER_PORTS)
_STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "SNAT", "DNAT")
_TYPES = {True: ("LOCAL", "UNICAST", "BROADCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW",
                 "UNSPEC"), False: ("LOCAL", "UNICAST", "MULTICAST", "UNSPEC", "ANYCAST", "UNREACHABLE")}  # fmt: skip
_REJECT4 = ("net-unreachable", "host-unreachable", "proto-unreachable", "port-unreachable", "net-prohibited",
            "host-prohibited", "admin-prohibited")  # fmt: skip
_REJECT6 = ("no-route", "adm-prohibited", "addr-unreachable", "port-unreachable", "policy-fail", "reject-route")


class Rules:
    """Makes rules for a family; `engine` says which of them can be evaluated."""

    def __init__(self, random: Random, family: int, engine: Engine) -> None:
        self.random = random
        self.family = family
        self.engine = engine
        self.four = family == INET

    def tables(self, most: int) -> tuple[SavedTable, ...]:
        """Some tables with up to so many rules each."""
        names = [name for name in HOOKS if self.random.random() < 0.6]
        return tuple(self.table(name, self.random.randint(0, most)) for name in names)

    def table(self, name: str, rules: int) -> SavedTable:
        """A table."""
        policy = "ACCEPT" if name == "nat" or self.random.random() < 0.9 else "DROP"
        head = [f"*{name}", *(f":{hook} {policy} [0:0]" for hook in HOOKS[name])]
        lines: list[str] = []
        for _ in range(rules):
            hook = self.random.choice(HOOKS[name])
            more = [self._rule(name, hook)]
            if self.random.random() < 0.15:
                jump = self.random.choice(["-j", "-j", "-j", "-g"])
                more = [f"-A {hook} {self._matches(name, hook)}{jump} sub", self._rule(name, "sub")]
            if self._taken(head, lines + more):
                lines += more
        return self._parse(head, lines)

    def _parse(self, head: list[str], lines: list[str]) -> SavedTable:
        chains = [":sub - [0:0]"] if any("sub" in line.split() for line in lines) else []
        return iptables_save.parse("\n".join([*head, *chains, *lines, "COMMIT"]) + "\n", self.family)[0]

    def _taken(self, head: list[str], lines: list[str]) -> bool:
        try:
            self.engine.tables.load(self._parse(head, lines))
        except UsageError:
            return False
        return True

    def _rule(self, table: str, chain: str) -> str:
        if self.random.random() < 0.25:
            known = self._usual(table, chain)
            if known:
                return f"-A {chain} {self.random.choice(known)}"
        return f"-A {chain} {self._matches(table, chain)}-j {self._target(table, chain)}"

    def _usual(self, table: str, chain: str) -> list[str]:
        """Rules that random words seldom make."""
        vip, four = VIPS[self.family][0], self.four
        server, own = SERVERS[self.family][0], OWN[self.family][1]
        if table == "raw":
            return [f"-d {vip} -p tcp -m tcp --dport 21 -j CT --helper ftp", "-p tcp -m tcp --dport 80 -j CT --notrack"]
        if table == "nat":
            if chain == "POSTROUTING":
                return ["-o eth1 -j MASQUERADE", "-j MASQUERADE", f"-o eth1 -j SNAT --to-source {own}"]
            if chain == "INPUT":
                return [f"-j SNAT --to-source {own}"]
            to = f"{server}:80" if four else f"[{server}]:80"
            return [f"-d {vip} -p tcp -j DNAT --to-destination {to}", "-p udp -m udp --dport 53 -j REDIRECT",
                    "-p tcp -m tcp --dport 21 -j DNAT --to-destination " + to]  # fmt: skip
        if table == "mangle":
            syn = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS"
            return [f"{syn} --set-mss {self.random.choice((0, 536, 65535))}", f"{syn} --clamp-mss-to-pmtu",
                    f"-d {vip} -j MARK --set-mark {MARK}"]  # fmt: skip
        return ["-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT",
                "-m state --state RELATED,ESTABLISHED -j ACCEPT",
                "-m conntrack --ctstate INVALID -j DROP"]  # fmt: skip

    # -- what a rule asks for -----------------------------------------------------------------------------------------

    def _address(self) -> str:
        pool = self.random.choice((VIPS, VIPS, CLIENTS, SERVERS, OWN, ODD))[self.family]
        address = self.random.choice(pool)
        return address + self.random.choice(("", "", "/24" if self.four else "/64", "/8", "/0"))

    def _not(self) -> str:
        return "! " if self.random.random() < 0.25 else ""

    def _port(self) -> str:
        one, two = sorted(self.random.sample(_NUMBERS, 2))
        return self.random.choice((str(one), str(two), f"{one}:{two}"))

    def _matches(self, table: str, chain: str) -> str:
        random = self.random
        words = []
        if random.random() < 0.3:
            words.append(f"{self._not()}{random.choice(('-s', '-d', '-d'))} {self._address()}")
        if random.random() < 0.15:
            words.append(f"{self._not()}-i {random.choice(('eth0', 'eth1', 'eth+', 'lo'))}")
        elif random.random() < 0.12:
            words.append(f"{self._not()}-o {random.choice(('eth0', 'eth1', 'eth+', 'lo'))}")
        protocol = random.choice(("", "tcp", "tcp", "udp", "sctp", "icmp", "udplite", "4", "47", "59"))
        if self.four and random.random() < 0.05:
            words.append(f"{self._not()}-f")
        if protocol:
            words.append(f"{self._not()}-p {'ipv6-icmp' if protocol == 'icmp' and not self.four else protocol}")
            words += self._transport(protocol)
        for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
            words.append(random.choice(self._kinds)(self))
        return "".join(f"{word} " for word in words)

    def _transport(self, protocol: str) -> list[str]:
        random = self.random
        words = []
        if protocol in ("tcp", "udp", "sctp", "udplite") and random.random() < 0.8:
            words.append(f"-m {protocol}")
            if random.random() < 0.6:
                words.append(f"{self._not()}{random.choice(('--dport', '--sport'))} {self._port()}")
            if protocol == "tcp" and random.random() < 0.5:
                words.append(random.choice((
                    "--syn", "! --syn", "--tcp-flags FIN,SYN,RST,ACK SYN", "--tcp-flags RST RST", "--tcp-option 2",
                    "! --tcp-option 8", "--tcp-flags ALL NONE",
                )))  # fmt: skip
            if protocol == "sctp" and random.random() < 0.6:
                words.append(f"{self._not()}--chunk-types " + random.choice((
                    "any INIT", "all DATA,SACK", "only DATA:Be", "any ABORT:T", "only INIT,INIT_ACK", "all ALL",
                )))  # fmt: skip
            if random.random() < 0.2:
                ports = ",".join(str(port) for port in sorted(random.sample(_NUMBERS, random.randint(1, 6))))
                words.append(f"-m multiport {self._not()}{random.choice(('--sports', '--dports', '--ports'))} {ports}")
            if protocol == "tcp" and random.random() < 0.15:
                words.append(f"-m tcpmss {self._not()}--mss {random.choice(('536', '500:1460', '0:65535'))}")
        elif protocol == "icmp" and random.random() < 0.7:
            if self.four:
                words.append(f"-m icmp {self._not()}--icmp-type {random.choice(('8', '3/4', '11', '255', 'redirect'))}")
            else:
                words.append(f"-m icmp6 {self._not()}--icmpv6-type {random.choice(('128', '1/4', '2', '135'))}")
        return words

    def _conntrack(self) -> str:
        random = self.random
        states = ",".join(random.sample(_STATES, random.randint(1, 3)))
        return f"-m conntrack {self._not()}" + random.choice((
            f"--ctstate {states}", f"--ctstate {states}",
            f"--ctstatus {random.choice(('ASSURED', 'EXPECTED', 'NONE'))}",
            f"--ctorigdst {self._address()}", f"--ctreplsrc {self._address()}", f"--ctorigdstport {self._port()}",
            f"--ctreplsrcport {self._port()}", "--ctproto 6", "--ctexpire 1:100",
        ))  # fmt: skip

    def _direction(self) -> str:
        return f"-m conntrack --ctdir {self.random.choice(('ORIGINAL', 'REPLY'))}"

    def _state(self) -> str:
        return f"-m state --state {','.join(self.random.sample(_STATES[:5], 2))}"

    def _mark(self) -> str:
        kind = self.random.choice(("mark", "connmark"))
        return f"-m {kind} {self._not()}--mark {self.random.choice(('0x0', '0x7', '0x10/0xf0', '0xffffffff'))}"

    def _addrtype(self) -> str:
        kind = self.random.choice(_TYPES[self.four])
        limit = self.random.choice(("", "", "", " --limit-iface-in", " --limit-iface-out"))
        return f"-m addrtype {self._not()}{self.random.choice(('--dst-type', '--src-type'))} {kind}{limit}"

    def _ipvs(self) -> str:
        return f"-m ipvs {self._not()}" + self.random.choice((
            "--ipvs", "--vproto 6", f"--vaddr {VIPS[self.family][0]}", "--vport 80", "--vmethod MASQ", "--vmethod GATE",
            "--vportctl 21",
        ))  # fmt: skip

    def _ipvs_direction(self) -> str:
        return f"-m ipvs --vdir {self.random.choice(('ORIGINAL', 'REPLY'))}"

    def _connbytes(self) -> str:
        mode = self.random.choice(("packets", "bytes", "avgpkt"))
        side = self.random.choice(("original", "reply", "both"))
        return f"-m connbytes {self._not()}--connbytes {self.random.choice(('1', '2:5', '100:'))} " \
               f"--connbytes-dir {side} --connbytes-mode {mode}"  # fmt: skip

    def _statistic(self) -> str:
        return self.random.choice((
            f"-m statistic --mode random {self._not()}--probability 0.3",
            f"-m statistic --mode nth {self._not()}--every 3 --packet 1",
        ))  # fmt: skip

    def _range(self) -> str:
        low, high = ("10.0.1.0", "10.0.2.255") if self.four else ("fd00:1::", "fd00:2::ffff")
        return f"-m iprange {self._not()}{self.random.choice(('--src-range', '--dst-range'))} {low}-{high}"

    def _hops(self) -> str:
        name, option = ("ttl", "ttl") if self.four else ("hl", "hl")
        return f"-m {name} --{option}-{self.random.choice(('eq 64', 'lt 5', 'gt 63'))}"

    def _class(self) -> str:
        return self.random.choice((
            f"-m tos {self._not()}--tos 0x10/0x3f", f"-m dscp {self._not()}--dscp 46", f"-m length {self._not()}"
            f"--length {self.random.choice(('0:60', '61:65535', '40'))}", "-m pkttype --pkt-type unicast",
            "-m limit --limit 5/second --limit-burst 3", "-m limit --limit 100/minute", "-m helper --helper ftp",
            "-m helper ! --helper ftp", '-m comment --comment "a rule"',
        ))  # fmt: skip

    def _rpfilter(self) -> str:
        options = [option for option in ("--loose", "--validmark", "--accept-local", "--invert")
                   if self.random.random() < 0.3]  # fmt: skip
        return " ".join(["-m rpfilter", *options])

    _kinds: tuple[Callable[[Rules], str], ...] = (
        _conntrack, _conntrack, _direction, _state, _mark, _addrtype, _ipvs, _ipvs_direction, _connbytes, _statistic,
        _range, _hops, _class, _class, _rpfilter,
    )  # fmt: skip

    # -- what a rule does ---------------------------------------------------------------------------------------------

    def _target(self, table: str, chain: str) -> str:
        random = self.random
        common = ["ACCEPT", "ACCEPT", "RETURN", "DROP", "LOG --log-prefix \"seen \"", "NFLOG",
                  f"MARK --set-mark {MARK}",
                  "MARK --or-mark 0x10", "MARK --set-xmark 0x0/0xffffffff", "CONNMARK --save-mark",
                  "CONNMARK --restore-mark", "CONNMARK --set-mark 0x7", "CLASSIFY --set-class 1:1",
                  ]  # fmt: skip
        if chain == "sub":
            return random.choice(common)
        if random.random() < 0.25:
            return random.choice(common)
        if table == "raw":
            return random.choice(("CT --notrack", "NOTRACK", "CT --helper ftp", "CT --helper ftp", "TRACE", "ACCEPT"))
        if table == "mangle":
            hops = "TTL --ttl" if self.four else "HL --hl"
            return random.choice((
                f"{hops}-set {random.choice((0, 1, 64, 255))}", f"{hops}-dec 1", f"{hops}-inc 200",
                "DSCP --set-dscp 46",
                "TOS --set-tos 0x10", "TOS --xor-tos 0xff", "TCPMSS --set-mss 536", "TCPMSS --set-mss 0",
                "TCPMSS --clamp-mss-to-pmtu", f"MARK --set-xmark 0x{MARK:x}/0xffffffff", "MARK --xor-mark 0x5",
            ))  # fmt: skip
        if table == "nat":
            return self._translation(chain)
        rejects = [f"icmp-{name}" for name in _REJECT4] if self.four else [f"icmp6-{name}" for name in _REJECT6]
        return random.choice((
            "ACCEPT", "DROP", f"REJECT --reject-with {random.choice(rejects)}", "REJECT",
            "REJECT --reject-with tcp-reset",
            "TCPMSS --set-mss 1000",
        ))  # fmt: skip

    def _translation(self, chain: str) -> str:
        random = self.random
        extra = random.choice(("", "", " --random", " --persistent"))
        ports = random.choice(("", "", ":80", ":2000-2003", ":1-3", ":60000-65535"))
        pool = (SERVERS if chain in ("PREROUTING", "OUTPUT") else OWN)[self.family]
        first = random.choice(pool)
        last = first[:-1] + "9"
        if not self.four:
            first, last = f"[{first}]", f"[{last}]"
        span = random.choice((first, first, f"{first}-{last}")) + ports
        if random.random() < 0.1:
            span = ports or span
        if random.random() < 0.1:
            return f"NETMAP --to {'10.0.2.0/24' if self.four else 'fd00:2::/64'}"
        if chain in ("PREROUTING", "OUTPUT"):
            if random.random() < 0.25:
                return "REDIRECT" + random.choice(("", " --to-ports 80", " --to-ports 2000-2010 --random"))
            return f"DNAT --to-destination {span}{extra}"
        if chain == "POSTROUTING" and random.random() < 0.4:
            return "MASQUERADE" + random.choice(("", "", " --to-ports 1024-1027", " --random", " --random-fully"))
        return f"SNAT --to-source {span}{extra}"


__all__ = ["HOOKS", "PORTS", "Rules"]
