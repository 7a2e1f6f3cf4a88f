"""Conntrack's FTP helper: golden texts for its parsers, and whole control connections on the real table."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ipvsctl.datapath.ct import helpers, seqadj
from ipvsctl.datapath.ct.entry import Entry, make_tuple, parts
from ipvsctl.datapath.ct.ftp import FTP, announcement
from ipvsctl.datapath.ct.ftp_commands import EPRT, EPSV, PASV, PORT, Announced, Partial, parse_ipv6, search
from ipvsctl.datapath.ct.nat import Nat
from ipvsctl.datapath.ct.table import Conntrack
from ipvsctl.datapath.hooks import POST_ROUTING, PRE_ROUTING
from ipvsctl.datapath.settings import Settings
from ipvsctl.datapath.skb import RELATED, Skb
from ipvsctl.datapath.timers import Timers
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.wire import ipv4, ipv6, tcp
from ipvsctl.wire.address import packed
from ipvsctl.wire.transport import verify

CLIENT, SERVER, PUBLIC = (packed(a) for a in ("10.0.0.7", "192.0.2.21", "198.51.100.1"))
CLIENT6, SERVER6, PUBLIC6 = (packed(a) for a in ("fd00::7", "2001:db8::21", "2001:db8:1::1"))

# -- texts ------------------------------------------------------------------------------------------------------------


def v4(kind, offset, length, address, port):
    return Announced(kind, offset, length, packed(address), port)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"PORT 10,0,0,7,4,210\r\n", v4(PORT, 5, 14, "10.0.0.7", 1234)),
        (b"port 10,0,0,7,4,210\r", v4(PORT, 5, 14, "10.0.0.7", 1234)),
        # Up to the first blank anything may stand.
        (b"PORTABLE 10,0,0,7,4,210\r\n", v4(PORT, 9, 14, "10.0.0.7", 1234)),
        # Numbers that are missing are zeros, those that are too large run into each other.
        (b"PORT ,,,,,\r\n", v4(PORT, 5, 5, "0.0.0.0", 0)),
        (b"PORT 1,2,3,4,0,65537\r\n", v4(PORT, 5, 15, "1.2.3.4", 1)),
        (b"PORT 0,0,0,4294967297,0,1\r\n", v4(PORT, 5, 20, "0.0.0.1", 1)),
        (b"PORT 1,0,0,256,0,1\r\n", v4(PORT, 5, 13, "1.0.1.0", 1)),
        # Nothing.
        (b"USER anonymous\r\n", None),
        (b"\r\nPORT 10,0,0,7,4,210\r\n", None),
        (b"\n", None),
        (b"\0", None),
        (b"X", None),
        (b"227 (10,0,0,7,4,210)\r\n", None),
        # Partial: what is dropped.
        (b"P", Partial("PORT")),
        (b"pOr", Partial("PORT")),
        (b"PORT", Partial("PORT")),
        (b"PORT\r\n", Partial("PORT")),
        (b"PORT ", Partial("PORT")),
        (b"PORT 10,0,0,7,4,210", Partial("PORT")),
        (b"PORT 10,0,0,7,4\r\n", Partial("PORT")),
        (b"PORT 10,0,0,7,4,210,1\r\n", Partial("PORT")),
        (b"PORT 10,0,0,7,4,210 \r\n", Partial("PORT")),
        (b"PORT  10,0,0,7,4,210\r\n", Partial("PORT")),
        (b"PORT 10,0,0,7,4,210\n", Partial("PORT")),
        (b"E", Partial("EPRT")),
        (b"EPRT ", Partial("EPRT")),
        (b"EPRT |1|10.0.0.7|1234|\r\n", v4(EPRT, 5, 17, "10.0.0.7", 1234)),
        (b"eprt !1!10.0.0.7!1234!", v4(EPRT, 5, 17, "10.0.0.7", 1234)),
        # 65537 runs over to 1, 65536 to 0, which is no port.
        (b"EPRT |1|10.0.0.7|65537|\r\n", v4(EPRT, 5, 18, "10.0.0.7", 1)),
        (b"EPRT |1|10.0.0.7|65536|\r\n", Partial("EPRT")),
        (b"EPRT |1|10.0.0.7|0|\r\n", Partial("EPRT")),
        (b"EPRT |1|10.0.0.7||\r\n", Partial("EPRT")),
        (b"EPRT |1|10.0.0.7|1234\r\n", Partial("EPRT")),
        (b"EPRT |1|10.0.0|1234|\r\n", Partial("EPRT")),
        (b"EPRT |1|10.0.0.7.8|1234|\r\n", Partial("EPRT")),
        (b"EPRT |1!10.0.0.7!1234!\r\n", Partial("EPRT")),
        (b"EPRT |2|::1|1234|\r\n", Partial("EPRT")),
        (b"EPRT 010.0.0.7", Partial("EPRT")),
        (b"EPRT \x7f1\x7f10.0.0.7\x7f1234\x7f", Partial("EPRT")),
        (b"EPRT .1.10.0.0.7.1234.", Partial("EPRT")),
        (b"EPRT |1|", Partial("EPRT")),
        (b"EPSV\r\n", None),
        (b"EPSV 1\r\n", None),
        (b"PASV\r\n", None),
    ],
)
def test_commands(text, found):
    assert search(text, False, CLIENT) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"227 Entering Passive Mode (192,0,2,21,4,210)\r\n", v4(PASV, 27, 16, "192.0.2.21", 1234)),
        (b"227 Entering Passive Mode 192,0,2,21,4,210\r\n", v4(PASV, 26, 16, "192.0.2.21", 1234)),
        (b"227 =192,0,2,21,4,210 ", v4(PASV, 5, 16, "192.0.2.21", 1234)),
        (b"227 192,0,2,21,4,210x", v4(PASV, 4, 16, "192.0.2.21", 1234)),
        # The first digit counts.
        (b"227 Mode 2 (192,0,2,21,4,210)\r\n", Partial("227 ")),
        (b"227 Entering Passive Mode\r\n", Partial("227 ")),
        (b"227 192,0,2,21,4,210", Partial("227 ")),
        (b"227 192,0,2,21,4\r\n", Partial("227 ")),
        (b"227 ", Partial("227 ")),
        (b"2", Partial("227 ")),
        (b"227", Partial("227 ")),
        (b"227-continued\r\n", None),
        (b"220 Hello\r\n", None),
        (b"PORT 10,0,0,7,4,210\r\n", None),
        (b"229", Partial("229 ")),
        (b"229 ", Partial("229 ")),
        (b"229 Entering Extended Passive Mode (|||6446|)\r\n", Announced(EPSV, 36, 8, SERVER, 6446)),
        (b"229 (!!!6446!", Announced(EPSV, 5, 8, SERVER, 6446)),
        (b"229 Entering |||6446|\r\n", Partial("229 ")),
        (b"229 (||6446|)\r\n", Partial("229 ")),
        (b"229 (|||6446)\r\n", Partial("229 ")),
        (b"229 (|||0|)\r\n", Partial("229 ")),
        (b"229 (|||", Partial("229 ")),
        (b"229 (1111|)", Partial("229 ")),
        (b"229 (", Partial("229 ")),
    ],
)
def test_answers(text, found):
    assert search(text, True, SERVER) == found


def test_ipv6_texts():
    assert search(b"EPRT |2|fd00::7|1234|\r\n", False, CLIENT6) == Announced(EPRT, 5, 16, CLIENT6, 1234)
    assert search(b"EPRT |1|10.0.0.7|1234|\r\n", False, CLIENT6) == Partial("EPRT")
    assert search(b"EPRT |2|fd00::7\x00|1234|\r\n", False, CLIENT6) == Partial("EPRT")
    assert search(b"EPRT |2|fd00::7", False, CLIENT6) == Partial("EPRT")
    # The first four bytes are overwritten, as in the kernel's union of addresses.
    found = search(b"PORT 10,0,0,7,4,210\r\n", False, CLIENT6)
    assert found == Announced(PORT, 5, 14, packed("10.0.0.7") + CLIENT6[4:], 1234)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (b"2001:db8:0:0:0:0:0:1", "2001:db8::1"),
        (b"2001:DB8::1", "2001:db8::1"),
        (b"::", "::"),
        (b"::1", "::1"),
        (b"1::", "1::"),
        (b"1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
        (b"::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"),
        (b"1:2:3:4:5:6:7::8", "1:2:3:4:5:6:7:8"),
        (b"000001::1", "1::1"),
        (b"::192.0.2.1", "::192.0.2.1"),
        (b"::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        (b"1:2:3:4:5:6:192.0.2.1", "1:2:3:4:5:6:c000:201"),
        (b"::0192.00.2.1", "::192.0.2.1"),
        (b"", None),
        (b":", None),
        (b":::", None),
        (b"1", None),
        (b":1::", None),
        (b"1::2:", None),
        (b"1::2::3", None),
        (b"1:2:3:4:5:6:7", None),
        (b"1:2:3:4:5:6:7:8:9", None),
        (b"::1:2:3:4:5:6:7:8", None),
        (b"1:2:3:4:5:6:7:8::", None),
        (b"12345::", None),
        (b"g::", None),
        (b"fe80::1%eth0", None),
        (b" ::1", None),
        (b"::192.0.2", None),
        (b"::192.0.2.256", None),
        (b"::192.0..1", None),
        (b"::a.0.2.1", None),
        (b"1.2.3.4::", None),
        (b"::" + b"0" * 5000 + b"1.2.3.4", "::1.2.3.4"),
    ],
)
def test_ipv6_addresses(text, address):
    assert parse_ipv6(text) == (None if address is None else packed(address))


@pytest.mark.parametrize(
    ("kind", "address", "text"),
    [
        (PORT, PUBLIC, b"198,51,100,1,4,210"),
        (PASV, PUBLIC, b"198,51,100,1,4,210"),
        (EPRT, PUBLIC, b"|1|198.51.100.1|1234|"),
        (EPRT, PUBLIC6, b"|2|2001:0db8:0001:0000:0000:0000:0000:0001|1234|"),
        (EPSV, PUBLIC, b"|||1234|"),
    ],
)
def test_announcement(kind, address, text):
    assert announcement(kind, address, 1234) == text


# -- connections ------------------------------------------------------------------------------------------------------


class World:
    """A forwarding host with conntrack and nat; `alter` rewrites new connections in PREROUTING, `snat` at the end."""

    def __init__(self, *modules, snat=None, six=False):
        self.now = 100.0
        self.settings = Settings({})
        self.timers = Timers()
        self.tracer = None
        self.modules = set(modules)
        self.tables = SimpleNamespace(nat=self._table)
        self.snat = snat
        self.numbers = iter(range(1000))
        self.ct = Conntrack(self)
        self.nat = Nat(self)
        self.client, self.server = (CLIENT6, SERVER6) if six else (CLIENT, SERVER)
        self.outside = snat or self.client
        self.numbers_of = {self.client: 1000, self.server: 9000}
        self.entry = None
        for reply, flags in ((False, 2), (True, 18), (False, 16)):
            assert self.pass_on(reply, b"", flags) is None
            self.numbers_of[self.server if reply else self.client] += flags != 16

    def random(self, below):
        return next(self.numbers) % below

    def rebuild(self):
        pass

    def _table(self, skb):
        if self.snat is not None and skb.hook == POST_ROUTING:
            return self.nat.setup(skb.ct, "src", self.snat, None, None)
        return None

    def packet(self, source, destination, sport, dport, flags, seq, ack, payload):
        segment = tcp.build(source, destination, sport, dport, flags, seq, ack, 60000, payload)
        return Skb((ipv6 if len(source) == 16 else ipv4).build(source, destination, 6, segment), "eth0")

    def walk(self, skb):
        skb.template = {"helper": "ftp"}
        skb.hook = PRE_ROUTING
        verdict = self.ct.conntrack_in(skb) or self.nat.pre_routing(skb)
        skb.hook, skb.outdev = POST_ROUTING, "eth1"
        return verdict or self.nat.post_routing(skb) or self.ct.confirm(skb)

    def pass_on(self, reply, payload, flags=24, advance=True):
        """A segment of the control connection: what became of it; `self.seen` is what comes out."""
        source, destination = (self.server, self.outside) if reply else (self.client, self.server)
        ports = (21, 40000) if reply else (40000, 21)
        own, other = self.numbers_of[source], self.numbers_of[self.client if reply else self.server]
        skb = self.packet(source, destination, *ports, flags, own, other, payload)
        verdict = self.walk(skb)
        if verdict is None and advance:
            self.numbers_of[source] += len(payload)
        self.entry, self.seen = skb.ct, skb
        return verdict

    def hello(self):
        assert self.pass_on(True, b"220 ready\r\n") is None
        assert self.pass_on(False, b"USER me\r\n") is None

    def expected(self):
        return [expectation.match for expectation in self.ct.expectations]


def test_helper_is_assigned():
    assert World().entry.helper is FTP


def test_port_is_expected_from_the_server():
    world = World()
    world.hello()
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    assert world.expected() == [make_tuple(6, SERVER, CLIENT, 0, 1234)]
    data = world.packet(SERVER, CLIENT, 20, 1234, 2, 1, 0, b"")
    assert world.walk(data) is None
    assert data.ctinfo == RELATED
    assert data.ct.master is world.entry
    assert not world.expected()


@pytest.mark.parametrize(
    ("six", "text", "port"),
    [
        (False, b"227 Entering Passive Mode (192,0,2,21,4,210)\r\n", 1234),
        (False, b"229 Entering Extended Passive Mode (|||6446|)\r\n", 6446),
        (True, b"229 Entering Extended Passive Mode (|||6446|)\r\n", 6446),
    ],
)
def test_answers_are_expected_from_the_client(six, text, port):
    world = World(six=six)
    world.hello()
    assert world.pass_on(True, text) is None
    assert world.expected() == [make_tuple(6, world.client, world.server, 0, port)]


def test_eprt_over_ipv6():
    world = World(six=True)
    world.hello()
    assert world.pass_on(False, b"EPRT |2|fd00::7|1234|\r\n") is None
    assert world.expected() == [make_tuple(6, SERVER6, CLIENT6, 0, 1234)]


def test_a_later_announcement_takes_the_place_of_the_first():
    world = World()
    world.hello()
    for port in (1, 2):
        assert world.pass_on(False, b"PORT 10,0,0,7,0,%d\r\n" % port) is None
    assert world.expected() == [make_tuple(6, SERVER, CLIENT, 0, 2)]
    # A retransmission changes nothing.
    world.numbers_of[CLIENT] -= len(b"PORT 10,0,0,7,0,2\r\n")
    assert world.pass_on(False, b"PORT 10,0,0,7,0,2\r\n") is None
    assert world.expected() == [make_tuple(6, SERVER, CLIENT, 0, 2)]


def test_expectation_lasts_300_seconds():
    world = World()
    world.hello()
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    world.now = 399.0
    world.timers.poll(world.now)
    assert len(world.expected()) == 1
    world.now = 401.0
    world.timers.poll(world.now)
    assert not world.expected()


def test_another_address_is_not_believed():
    world = World()
    world.hello()
    assert world.pass_on(False, b"PORT 10,0,0,99,4,210\r\n") is None
    assert not world.expected()
    # The line was read all the same: the next one is looked at.
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    assert len(world.expected()) == 1


def test_first_segment_of_a_direction_is_not_looked_at():
    world = World()
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    assert not world.expected()
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    assert len(world.expected()) == 1


def test_partial_command_is_dropped_and_comes_again_whole():
    world = World()
    world.hello()
    assert world.pass_on(False, b"PORT 10,0,0") is Reason.HELPER
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    assert len(world.expected()) == 1


def test_command_behind_half_a_line_is_not_seen():
    world = World()
    world.hello()
    assert world.pass_on(False, b"STAT") is None
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    assert not world.expected()


def test_pipelined_commands_are_seen_only_at_the_beginning():
    world = World()
    world.hello()
    assert world.pass_on(False, b"TYPE I\r\nPORT 10,0,0,7,4,210\r\n") is None
    assert not world.expected()
    assert world.pass_on(False, b"PORT 10,0,0,7,4,211\r\nRETR x\r\n") is None
    assert world.expected() == [make_tuple(6, SERVER, CLIENT, 0, 1235)]


def test_clash_with_another_connections_expectation_drops():
    world = World()
    world.hello()
    other = Entry(world.ct, make_tuple(6, CLIENT, SERVER, 1, 21), make_tuple(6, SERVER, CLIENT, 21, 1))
    other.helper = FTP
    assert world.ct.expect(
        other, make_tuple(6, SERVER, CLIENT, 0, 1234), True, direction=1, on_new=None, timeout=9.0
    )  # fmt: skip
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is Reason.HELPER


def test_with_an_altered_reply_tuple_as_ipvs_makes_it():
    """PORT goes to the real server: it is the one that is expected, as the reply tuple has it."""
    real = packed("172.16.0.2")
    entry = Entry(None, make_tuple(6, CLIENT, SERVER, 40000, 21), make_tuple(6, real, CLIENT, 21, 40000))
    asked = []
    engine = SimpleNamespace(
        modules={"nf_nat_ftp"}, tracer=None, ct=SimpleNamespace(expect=lambda *a, **k: not asked.append((a, k)))
    )
    text = b"PORT 10,0,0,7,4,210\r\n"
    skb = Skb(ipv4.build(CLIENT, real, 6, tcp.build(CLIENT, real, 40000, 21, 24, 5, 5, 9, text)))
    skb.ctinfo = 0
    entry.helper_data = ([5], [5])
    assert FTP.help(engine, skb, entry) is None
    (master, match, any_port), options = asked.pop()
    assert master is entry
    assert any_port
    assert parts(match) == (6, real, CLIENT, 0, 1234)
    assert options["timeout"] == 300.0
    # 227: IPVS has put the virtual address into it, which is not the sender of the reply tuple: not believed.
    text = b"227 ok (192,0,2,21,4,210)\r\n"
    skb = Skb(ipv4.build(SERVER, CLIENT, 6, tcp.build(SERVER, CLIENT, 21, 40000, 24, 5, 5, 9, text)))
    skb.ctinfo = 3
    assert FTP.help(engine, skb, entry) is None
    assert not asked


@pytest.mark.parametrize(
    ("numbers", "new", "after"),
    [
        ([], 5, [5]),
        ([5], 5, [5]),
        ([5], 3, [5, 3]),
        ([5, 9], 11, [11, 9]),
        ([9, 5], 11, [9, 11]),
        ([9, 5], 7, [9, 7]),
        ([9, 5], 4, [9, 4]),
        ([0xFFFFFFF0, 5], 9, [9, 5]),
    ],
)
def test_line_ends_that_are_remembered(numbers, new, after):
    world = World()
    world.entry.helper_data = (list(numbers), [])
    world.numbers_of[CLIENT] = new - 3 & 0xFFFFFFFF
    skb = world.packet(CLIENT, SERVER, 40000, 21, 24, world.numbers_of[CLIENT], 1, b"ab\n")
    skb.ctinfo = 0
    assert FTP.help(world, skb, world.entry) is None
    expected = numbers if after == [9, 4] else after
    assert world.entry.helper_data[0] == expected


def test_without_nf_nat_ftp_a_translated_connection_announces_what_it_did():
    world = World(snat=PUBLIC)
    world.hello()
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    assert world.seen.data.endswith(b"PORT 10,0,0,7,4,210\r\n")
    assert world.expected() == [make_tuple(6, SERVER, PUBLIC, 0, 1234)]


@pytest.mark.parametrize(
    ("six", "text", "translated"),
    [
        (False, b"PORT 10,0,0,7,4,210\r\n", b"PORT 198,51,100,1,4,210\r\n"),
        (False, b"EPRT |1|10.0.0.7|1234|\r\n", b"EPRT |1|198.51.100.1|1234|\r\n"),
        (True, b"EPRT |2|fd00::7|1234|\r\n", b"EPRT |2|2001:0db8:0001:0000:0000:0000:0000:0001|1234|\r\n"),
    ],
)
def test_nf_nat_ftp(six, text, translated):
    """A client behind SNAT: the text changes, the sequence numbers follow, the data connection finds the client."""
    world = World("nf_nat_ftp", snat=PUBLIC6 if six else PUBLIC, six=six)
    world.hello()
    assert world.pass_on(False, text) is None
    assert world.seen.data[world.seen.thoff + 20 :] == translated
    assert verify(world.seen.data, world.seen.family, 6, world.seen.thoff, world.seen.source, world.seen.destination)
    delta = len(translated) - len(text)
    assert seqadj.offset(world.entry, 0, world.numbers_of[world.client]) == delta
    world.numbers_of[world.client] += delta
    assert world.pass_on(True, b"200 ok\r\n") is None
    acknowledged = int.from_bytes(world.seen.data[world.seen.thoff + 8 : world.seen.thoff + 12])
    world.numbers_of[world.client] -= delta
    assert acknowledged == world.numbers_of[world.client]
    sent = world.numbers_of[world.client]
    assert world.pass_on(False, b"RETR x\r\n") is None
    assert int.from_bytes(world.seen.data[world.seen.thoff + 4 : world.seen.thoff + 8]) == sent + delta
    data = world.packet(world.server, world.snat, 20, 1234, 2, 1, 0, b"")
    assert world.walk(data) is None
    assert data.ctinfo == RELATED
    assert (data.source, data.destination, data.dport) == (world.server, world.client, 1234)


def test_nf_nat_ftp_takes_another_port_when_the_own_is_expected():
    world = World("nf_nat_ftp", snat=PUBLIC)
    world.hello()
    other = Entry(world.ct, make_tuple(6, CLIENT, SERVER, 1, 21), make_tuple(6, SERVER, PUBLIC, 21, 1))
    other.helper = FTP
    taken = make_tuple(6, SERVER, PUBLIC, 0, 1234)
    assert world.ct.expect(other, taken, True, direction=1, on_new=None, timeout=9.0)
    world.numbers = iter([0, 66, 0])
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    # 1234 again, then 1234 + 66.
    assert world.seen.data.endswith(b"PORT 198,51,100,1,5,20\r\n")
    data = world.packet(SERVER, PUBLIC, 20, 1300, 2, 1, 0, b"")
    assert world.walk(data) is None
    assert (data.destination, data.dport) == (CLIENT, 1234)


def test_nf_nat_ftp_refuses_port_zero():
    world = World("nf_nat_ftp", snat=PUBLIC)
    world.hello()
    assert world.pass_on(False, b"PORT 10,0,0,7,0,0\r\n") is Reason.HELPER


def test_trace():
    world = World("nf_nat_ftp", snat=PUBLIC)
    world.hello()
    world.tracer = Tracer()
    assert world.pass_on(False, b"PORT 10,0,0,9,4,210\r\n") is None
    assert world.pass_on(False, b"PORT 10,0,0") is Reason.HELPER
    assert world.pass_on(False, b"PORT 10,0,0,7,4,210\r\n") is None
    notes = [note for step in world.tracer.steps for note in step.notes]
    assert [note for note in notes if "FTP" in note] == [
        "the FTP helper ignores 10.0.0.9:1234: the sender is 10.0.0.7",
        "the FTP helper cannot read the whole of 'PORT'",
        "the FTP helper expects 192.0.2.21 to connect to 198.51.100.1:1234",
    ]


def test_headers_that_are_cut_off_or_strange():
    world = World()
    for payload in (bytes(19), bytes(12) + b"\xf0" + bytes(7), bytes(20), bytes(12) + b"\0" + bytes(8)):
        skb = Skb(ipv4.build(CLIENT, SERVER, 6, payload))
        skb.ctinfo = 0
        assert FTP.help(world, skb, world.entry) is None


# -- assignment -------------------------------------------------------------------------------------------------------


def test_find():
    assert helpers.find("ftp", 6) is FTP
    assert helpers.find("ftp", 17) is None
    assert helpers.find("sip", 17) is None


@pytest.mark.parametrize(
    ("setting", "modules", "port", "found"),
    [
        (None, {"nf_conntrack_ftp"}, 21, None),
        ("0", {"nf_conntrack_ftp"}, 21, None),
        ("1", set(), 21, None),
        ("1", {"nf_conntrack_ftp"}, 2121, None),
        ("1", {"nf_conntrack_ftp"}, 21, FTP),
    ],
)
def test_automatic(setting, modules, port, found):
    engine = SimpleNamespace(
        settings=Settings({} if setting is None else {helpers.AUTOMATIC: setting}), modules=modules
    )  # fmt: skip
    entry = Entry(None, make_tuple(6, CLIENT, SERVER, 1, 80), make_tuple(6, SERVER, CLIENT, port, 1))
    assert helpers.automatic(entry, engine) is found
    udp = Entry(None, make_tuple(17, CLIENT, SERVER, 1, 80), make_tuple(17, SERVER, CLIENT, port, 1))
    assert helpers.automatic(udp, engine) is None
