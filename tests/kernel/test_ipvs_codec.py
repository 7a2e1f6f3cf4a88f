"""IPVS messages: against ipvsadm's bytes, against answers of a real kernel, round trips, and broken input."""

from __future__ import annotations

import struct
from socket import htons

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipvsctl.errors import Refused, UsageError
from ipvsctl.kernel import ipvs_codec as codec
from ipvsctl.kernel import ipvs_tables as wire
from ipvsctl.kernel.ipvs_changes import encode_changes
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    IPVS_CHANGES,
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    IpvsChange,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    ZeroCounters,
)
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.model.status import NO_STATS, Daemon, Info, ServerStatus, Stats, Timeouts
from tests import strategies as values

TCP4 = ServiceAddress.parse("tcp:10.0.0.1:80")
TCP6 = ServiceAddress.parse("tcp:[2001:db8::1]:80")
MARK6 = ServiceAddress.parse("fwmark:9/inet6")
UDP4 = ServiceAddress.parse("udp:10.0.0.1:5060")


def server(text: str, **settings: object) -> Server:
    return Server(ServerAddress.parse(text, TCP4), **settings)  # type: ignore[arg-type]


# What ipvsadm 1.31 sent on Linux 6.1, x86-64, for each command line: the generic header and the attributes.
KEY4 = "06000100020000000600020006000000140003000a0000010000000000000000000000000600040000500000"
KEY6 = "060001000a00000006000200060000001400030020010db80000000000000000000000010600040000500000"
KEY_UDP = "06000100020000000600020011000000140003000a0000010000000000000000000000000600040013c40000"
KEY_MARK = "060001000a0000000800050009000000"
OFF = "05000600000000000c00070000000000ffffffff0800080000000000"
BARE4 = f"54000180{KEY4}{OFF}08000900ffffffff"
BARE6 = f"54000180{KEY6}{OFF}0800090080000000"
CAPTURED: list[tuple[str, IpvsChange, str]] = [
    ("-A -t 10.0.0.1:80 -s rr", AddService(Service(TCP4, "rr")),
     f"0101000054000180{KEY4}07000600727200000c00070000000000ffffffff080008000000000008000900ffffffff"),
    ("-A -t [2001:db8::1]:80 -s wlc -p 300 -M 64", AddService(Service(TCP6, persistent=300, netmask=64)),
     f"0101000054000180{KEY6}08000600776c63000c00070001000000ffffffff080008002c0100000800090040000000"),
    ("-A -f 9 -6 -s sh -b sh-port", AddService(Service(MARK6, "sh", ("sh-port",))),
     f"0101000038000180{KEY_MARK}07000600736800000c00070010000000ffffffff08000800000000000800090080000000"),
    ("-A -u 10.0.0.1:5060 -o -p --pe sip", AddService(Service(UDP4, flags=("ops",), persistent=360, pe="sip")),
     f"010100005c000180{KEY_UDP}08000600776c630008000b00736970000c00070005000000ffffffff0800080068010000"
     "08000900ffffffff"),
    ("-E -t 10.0.0.1:80 -s wrr", EditService(Service(TCP4, "wrr"), Service(TCP4, "rr")),
     f"0201000054000180{KEY4}08000600777272000c00070000000000ffffffff080008000000000008000900ffffffff"),
    ("-a -t 10.0.0.1:80 -r 10.1.0.2:8080 -m -w 5 -x 10 -y 3",
     AddServer(TCP4, server("10.1.0.2:8080", forward="nat", weight=5, upper=10, lower=3)),
     f"05010000{BARE4}6000028006000b0002000000140001000a010002000000000000000000000000060002001f90000008000300"
     "00000000080004000500000005000d000000000006000e000000000006000f0000000000080005000a0000000800060003000000"),
    ("-a -t 10.0.0.1:80 -r 10.1.0.3 -i --tun-type gue --tun-port 6080 --tun-csum",
     AddServer(TCP4, server("10.1.0.3", forward="tun", tunnel=Tunnel("gue", 6080, "yes"))),
     f"05010000{BARE4}6000028006000b0002000000140001000a0100030000000000000000000000000600020000500000080003000200"
     "0000080004000100000005000d000100000006000e0017c0000006000f000100000008000500000000000800060000000000"),
    ("-a -t [2001:db8::1]:80 -r [fd00:1::2]:80 -m", AddServer(TCP6, server("[fd00:1::2]:80", forward="nat")),
     f"05010000{BARE6}6000028006000b000a00000014000100fd000001000000000000000000000002060002000050000008000300000000"
     "00080004000100000005000d000000000006000e000000000006000f000000000008000500000000000800060000000000"),
    ("-e -t 10.0.0.1:80 -r 10.1.0.2:8080 -m",
     EditServer(TCP4, server("10.1.0.2:8080", forward="nat"), server("10.1.0.2:8080")),
     f"06010000{BARE4}6000028006000b0002000000140001000a010002000000000000000000000000060002001f9000000800030000000000"
     "080004000100000005000d000000000006000e000000000006000f000000000008000500000000000800060000000000"),
    ("-Z", ZeroCounters(), "10010000"),
    ("-Z -t 10.0.0.1:80", ZeroCounters(TCP4), f"10010000{BARE4}"),
    ("-d -t 10.0.0.1:80 -r 10.1.0.2:8080", DeleteServer(TCP4, server("10.1.0.2:8080")),
     f"07010000{BARE4}6000028006000b0002000000140001000a010002000000000000000000000000060002001f9000000800030003000000"
     "080004000100000005000d000000000006000e000000000006000f000000000008000500000000000800060000000000"),
    ("-D -t 10.0.0.1:80", DeleteService(Service(TCP4)), f"03010000{BARE4}"),
    ("--set 900 120 300", SetTimeouts(Timeouts(900, 120, 300), Timeouts()),
     "0c01000008000400840300000800050078000000080006002c010000"),
    ("--start-daemon master --mcast-interface lo", StartDaemon(Daemon("master", "lo")),
     "090100001c0003800800010001000000070002006c6f00000800030000000000"),
    ("--start-daemon backup --mcast-interface lo --syncid 5 --mcast-group ff02::5 --mcast-port 9000 --mcast-ttl 2"
     " --sync-maxlen 1400", StartDaemon(Daemon("backup", "lo", 5, 1400, "ff02::5", 9000, 2)),
     "09010000480003800800010002000000070002006c6f0000080003000500000006000400780500000600070028230000050008000200000014"
     "000600ff020000000000000000000000000005"),
    ("--stop-daemon master", StopDaemon(Daemon("master", "lo")),
     "0a0100001c000380080001000100000005000200000000000800030000000000"),
    ("--stop-daemon backup", StopDaemon(Daemon("backup", "lo", 5)),
     "0a0100001c000380080001000200000005000200000000000800030000000000"),
]  # fmt: skip
CAPTURED_KEYS = [
    (TCP4, f"30000180{KEY4}"), (TCP6, f"30000180{KEY6}"), (UDP4, f"30000180{KEY_UDP}"), (MARK6, f"14000180{KEY_MARK}"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in CAPTURED], ids=[case[0] for case in CAPTURED])
def test_changes_are_the_bytes_of_ipvsadm(change: IpvsChange, message: str) -> None:
    assert [made.hex() for made in encode_changes([change])] == [message]


@pytest.mark.parametrize(("address", "nest"), CAPTURED_KEYS, ids=[str(case[0]) for case in CAPTURED_KEYS])
def test_dumps_ask_with_the_bytes_of_ipvsadm(address: ServiceAddress, nest: str) -> None:
    assert codec.service_key(address).hex() == nest


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in CAPTURED], ids=[case[0] for case in CAPTURED])
def test_bytes_of_ipvsadm_read_back(change: IpvsChange, message: str) -> None:
    data = bytes.fromhex(message)[4:]
    match change:
        case AddService(service) | EditService(service):
            assert codec.decode_service(data) == (service, NO_STATS)
        case AddServer(address, wanted) | EditServer(address, wanted) | DeleteServer(address, wanted):
            assert codec.decode_server(data, INET) == ServerStatus(wanted)
            assert codec.decode_service(data)[0].address == address
        case DeleteService() | ZeroCounters():
            assert not data or codec.decode_service(data)[0].address == TCP4
        case SetTimeouts(timeouts):
            assert codec.decode_timeouts(data) == timeouts
        case StartDaemon(daemon):
            assert codec.decode_daemon(data) == daemon
        case StopDaemon(daemon):
            assert codec.decode_daemon(data).role == daemon.role


def test_every_kind_of_change_was_captured() -> None:
    assert {type(change) for _, change, _ in CAPTURED} == set(IPVS_CHANGES)


def test_every_attribute_has_a_name() -> None:
    """The enums of uapi/linux/ip_vs.h count from 1 without a gap; STATS ends with PAD, which has no value."""
    for nest, last in (
        (wire.TOP, 6), (wire.SERVICE, 12), (wire.DEST, 15), (wire.DAEMON, 8), (wire.STATS, 10), (wire.STATS64, 10),
        (wire.INFO, 2),
    ):  # fmt: skip
        assert sorted(nest.numbers) == list(range(1, last + 1)), nest.name


# What Linux 6.1 answered, without the generic header; counters written in by hand where the text says so.
ZEROS32 = (
    "5c000a000800010000000000080002000000000008000300000000000c00040000000000000000000c0005000000000000000000080006000000"
    "000008000700000000000800080000000000080009000000000008000a0000000000"
)
ZEROS64 = "7c000c00" + "".join(f"0c00{number:02x}000000000000000000" for number in range(1, 11))
COUNTED64 = "7c000c00" + "".join(f"0c00{number:02x}00{number:02x}00000001000000" for number in range(1, 11))
COUNTED = Stats(*(2**32 + number for number in range(1, 11)))
ANSWER = (
    "50010200140001000a010002000000000000000000000000060002001f9000000800030000000000080004000500000005000d000000000006000e"
    "000000000006000f0000000000080005000a000000080006000300000008000700070000000800080008000000080009000900000006000b00"
    f"02000000{ZEROS32}"
)
SERVICES = [
    (f"2c010100{KEY4}07000600727200000c00070002000000ffffffff080008000000000008000900ffffffff{ZEROS32}{ZEROS64}",
     Service(TCP4, "rr"), NO_STATS),
    (f"2c010100{KEY6}08000600776c63000c00070003000000ffffffff080008002c0100000800090040000000{ZEROS32}{COUNTED64}",
     Service(TCP6, persistent=300, netmask=64), COUNTED),
    (f"34010100{KEY_UDP}08000600776c630008000b00736970000c00070007000000ffffffff080008006801000008000900ffffffff"
     f"{ZEROS32}{ZEROS64}", Service(UDP4, flags=("ops",), persistent=360, pe="sip"), NO_STATS),
    (f"10010100{KEY_MARK}07000600736800000c00070012000000ffffffff08000800000000000800090080000000{ZEROS32}{ZEROS64}",
     Service(MARK6, "sh", ("sh-port",)), NO_STATS),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "service", "stats"), SERVICES, ids=[str(case[1].address) for case in SERVICES])
def test_services_of_a_kernel(answer: str, service: Service, stats: Stats) -> None:
    assert codec.decode_service(bytes.fromhex(answer)) == (service, stats)


@pytest.mark.parametrize(("counters", "stats"), [(ZEROS64, NO_STATS), (COUNTED64, COUNTED)])
def test_servers_of_a_kernel(counters: str, stats: Stats) -> None:
    answer = bytes.fromhex(ANSWER + counters)
    wanted = server("10.1.0.2:8080", forward="nat", weight=5, upper=10, lower=3)
    assert codec.decode_server(answer, INET) == ServerStatus(wanted, 7, 8, 9, stats)
    assert codec._STATUS_NEST.decode(answer) is not None, "the fast way is not the one taken"
    # The slow way reads the same, also from a kernel that marks nests and adds attributes we have never heard of.
    inner = answer[4:] + bytes.fromhex("0800ff00010203040600fe000a0b0000")
    marked = struct.pack("=HH", len(inner) + 4, wire.TOP.attributes["dest"][0] | wire.NESTED) + inner
    assert codec.decode_server(marked, INET) == codec.decode_server(answer, INET)


def test_counters_with_padding() -> None:
    """Machines that do not read unaligned numbers get STATS64 with attributes 11, empty, in between."""
    padded = "".join(f"04000b000c00{number:02x}00{number:02x}00000001000000" for number in range(1, 11))
    inner = bytes.fromhex(ANSWER[8:] + f"{4 + len(padded) // 2:02x}000c00{padded}")
    status = codec.decode_server(struct.pack("=HH", len(inner) + 4, 2) + inner, INET)
    assert status.stats == COUNTED


def test_old_kernels() -> None:
    """Before 4.1 there are counters of 32 bits only, before 3.18 no address family, before 5.3 no tunnel types."""
    counted = wire.encode(wire.STATS, ((name, 7) for name in wire.STATS.attributes))
    inner = wire.encode(wire.DEST, (
        ("address", b"\x20\x01" + bytes(13) + b"\x01"), ("port", htons(80)), ("forward", 2), ("weight", 1),
        ("upper", 0), ("lower", 0), ("active", 1), ("inactive", 2), ("persistent", 3), ("stats", counted),
    ))  # fmt: skip
    wanted = Server(ServerAddress.parse("[2001::1]:80", TCP6), "tun")
    assert codec.decode_server(wire.encode(wire.TOP, [("dest", inner)]), INET6) == ServerStatus(
        wanted, 1, 2, 3, Stats(*[7] * 10)
    )
    assert codec.decode_info(bytes.fromhex("08000100010201000800020000100000")) == Info("1.2.1", 4096)
    assert codec.decode_timeouts(b"") == Timeouts()


def test_daemon_of_a_kernel() -> None:
    answer = (
        "3c0003000800010001000000070002006c6f0000080003000000000006000400c0050000060007009022000005000800010000000800"
        "0500e0000051"
    )
    assert codec.decode_daemon(bytes.fromhex(answer)) == Daemon("master", "lo", 0, 1472, "224.0.0.81", 8848, 1)


all_servers = st.one_of(
    values.servers(INET),
    values.servers(INET6),
    st.builds(Server, st.builds(ServerAddress.of, values.ipv4, values.ports), st.sampled_from(["local", "bypass"])),
)
MAPPED = ServiceAddress.of("tcp", "::ffff:10.0.0.6", 80)


@given(values.services())
@example(Service(MAPPED))
@example(Service(ServiceAddress.of("tcp", "::10.0.0.6", 80), persistent=1, netmask=1))
@example(Service(TCP4, persistent=1, netmask="0.0.0.24"))
@example(Service(TCP4, "none"))
@example(Service(TCP4, "x" * 15, pe="y" * 16))
def test_services_round_trip(service: Service) -> None:
    for change in (AddService(service), EditService(service, service)):
        (message,) = encode_changes([change])
        assert codec.decode_service(message[4:]) == (service, NO_STATS)
    assert codec.decode_service(codec.service_key(service.address))[0].address == service.address


@given(values.service_addresses, all_servers)
@example(TCP6, Server(ServerAddress.of("::ffff:10.0.0.6", 80), "tun"))
def test_servers_round_trip(address: ServiceAddress, wanted: Server) -> None:
    for change in (AddServer(address, wanted), EditServer(address, wanted, wanted), DeleteServer(address, wanted)):
        (message,) = encode_changes([change])
        assert codec.decode_service(message[4:])[0].address == address
        assert codec.decode_server(message[4:], INET) == ServerStatus(wanted)


@given(values.daemons)
def test_daemons_round_trip(daemon: Daemon) -> None:
    (message,) = encode_changes([StartDaemon(daemon)])
    assert codec.decode_daemon(message[4:]) == daemon


@given(values.timeouts)
def test_timeouts_round_trip(timeouts: Timeouts) -> None:
    (message,) = encode_changes([SetTimeouts(timeouts, Timeouts())])
    assert codec.decode_timeouts(message[4:]) == timeouts


def test_a_service_is_encoded_once_for_its_servers() -> None:
    again = ServiceAddress.parse("tcp:10.0.0.1:80")
    other = AddServer(TCP6, server("[fd00::1]:80", forward="nat"))
    first = AddServer(TCP4, server("10.1.0.2"))
    messages = encode_changes([first, AddServer(again, first.server), other, first])
    assert messages[0] == messages[1] == messages[3] != messages[2]


@pytest.mark.parametrize(
    "change",
    [
        AddService(Service(ServiceAddress("tcp", INET, "300.0.0.1", 80))),
        AddServer(TCP4, Server(ServerAddress(INET, "fd00::1", 80))),
        StartDaemon(Daemon("master", "lo", group="everyone")),
    ],
)
def test_text_that_is_no_address(change: IpvsChange) -> None:
    with pytest.raises(UsageError, match="is not an IPv4 or IPv6 address"):
        encode_changes([change])


def flags(bits: int) -> bytes:
    return struct.pack("=II", bits, 0xFFFFFFFF)


# What a kernel can hold and the model refuses.
def foreign_service(**changed: object) -> Service:
    found: dict[str, object] = {
        "family": 2, "protocol": 6, "address": b"\x0a\0\0\1".ljust(16, b"\0"), "port": htons(80),
        "scheduler": "rr", "flags": flags(2), "timeout": 0, "netmask": b"\xff\xff\xff\xff",
    } | changed  # fmt: skip
    nest = wire.encode(wire.SERVICE, found.items())
    service = codec.decode_service(wire.encode(wire.TOP, [("service", nest)]))[0]
    # And it can be named to the kernel again, to be edited and deleted.
    (message,) = encode_changes([EditService(service, service)])
    assert codec.decode_service(message[4:])[0] == service
    assert str(service.address)
    assert service.address.sort_key
    return service


def test_services_that_the_model_refuses() -> None:
    assert foreign_service(flags=flags(3)).persistent == 0
    assert foreign_service(flags=flags(3), timeout=0xFFFFFFFF).persistent == 0xFFFFFFFF
    assert foreign_service(timeout=300).persistent is None
    assert foreign_service(protocol=47).address.protocol == "ip-47"
    assert foreign_service(protocol=0).address.protocol == "ip-0"
    assert foreign_service(port=0).address.port == 0
    assert foreign_service(netmask=bytes(4)).netmask == "0.0.0.0"
    assert foreign_service(family=10, netmask=struct.pack("=I", 129)).netmask == 129
    assert foreign_service(scheduler="none").scheduler == "none"
    assert foreign_service(scheduler="").scheduler == ""
    assert foreign_service(scheduler="r\xe9r").scheduler == "r\xe9r"
    assert foreign_service(flags=flags(0xFFFFFF3E)).flags == ("ops", "flag-1", "flag-2", "flag-3")
    assert foreign_service(fwmark=0).address == ServiceAddress("fwmark", INET)


def foreign_server(**changed: object) -> Server:
    found: dict[str, object] = {
        "family": 2, "address": b"\x0a\1\0\2".ljust(16, b"\0"), "port": htons(80), "forward": 0, "weight": 1,
        "tunnel_type": 0, "tunnel_port": 0, "tunnel_flags": 0, "upper": 0, "lower": 0,
    } | changed  # fmt: skip
    nest = wire.encode(wire.DEST, found.items())
    read = codec.decode_server(wire.encode(wire.TOP, [("dest", nest)]), INET).server
    (message,) = encode_changes([EditServer(TCP4, read, read)])
    assert codec.decode_server(message[4:], INET).server == read
    return read


def unchecked_tunnel(kind: str, port: int, csum: str) -> Tunnel:
    return codec._build(Tunnel, kind, port, csum)


def test_servers_that_the_model_refuses() -> None:
    forwards = [foreign_server(forward=number).forward for number in range(9)]
    assert forwards == ["nat", "local", "tun", "dr", "bypass", "method-5", "method-6", "method-7", "nat"]
    assert foreign_server(weight=-1).weight == -1
    assert foreign_server(lower=9, upper=3).lower == 9
    assert foreign_server(forward=2, tunnel_type=7).tunnel == unchecked_tunnel("type-7", 0, "no")
    assert foreign_server(forward=2, tunnel_type=1).tunnel == unchecked_tunnel("gue", 0, "no")
    assert foreign_server(forward=2, tunnel_type=2, tunnel_port=htons(5), tunnel_flags=2).tunnel == (
        unchecked_tunnel("gre", 0, "remote")
    )
    assert foreign_server(forward=2, tunnel_type=1, tunnel_port=htons(5), tunnel_flags=3).tunnel == (
        Tunnel("gue", 5, "remote")
    )
    assert foreign_server(forward=0, tunnel_type=1, tunnel_port=htons(5)).tunnel is None
    assert foreign_server(forward=2, tunnel_port=htons(5), tunnel_flags=1).tunnel is None


def test_an_ipv4_address_of_four_bytes() -> None:
    inner = bytes.fromhex("06000b0002000000080001000a010002060002001f900000")
    status = codec.decode_server(struct.pack("=HH", len(inner) + 4, 2) + inner, INET)
    assert status.server.address == ServerAddress.of("10.1.0.2", 8080)


READERS = [
    codec.decode_service, lambda data: codec.decode_server(data, INET), codec.decode_daemon, codec.decode_info,
    codec.decode_timeouts,
]  # fmt: skip


def read_with_all(data: bytes) -> None:
    """Every reader ends with a value or with Refused, which is one line."""
    for reader in READERS:
        try:
            reader(data)
        except Refused as error:
            assert str(error).startswith("cannot read the kernel's answer: ")
            assert "\n" not in str(error)


@given(st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    read_with_all(data)


@pytest.mark.parametrize("answer", [SERVICES[2][0], ANSWER + COUNTED64])
def test_answers_cut_short(answer: str) -> None:
    whole = bytes.fromhex(answer)
    for size in range(len(whole)):
        read_with_all(whole[:size])
        # The same with a nest that says the true length, so that the cut is inside.
        read_with_all(struct.pack("=HH", max(size, 4), 1) + whole[4:size])
        read_with_all(struct.pack("=HH", max(size, 4), 2) + whole[4:size])


@given(st.sampled_from([SERVICES[0][0], SERVICES[2][0], ANSWER + COUNTED64]), st.data())
def test_answers_with_a_wrong_byte(answer: str, data: st.DataObject) -> None:
    damaged = bytearray.fromhex(answer)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    read_with_all(bytes(damaged))
