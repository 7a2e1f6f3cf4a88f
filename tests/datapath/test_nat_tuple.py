"""get_unique_tuple: golden tables of the rules and numbers of nf_nat_core.c."""

from __future__ import annotations

from random import Random
from struct import unpack

import pytest

from ipvsctl.datapath.ct.entry import make_tuple, parts
from ipvsctl.datapath.ct.nat_tuple import Range, best_address, has_source_in, hashed, source_part, unique, with_source
from ipvsctl.wire.address import packed

CLIENT, SERVER, OUTSIDE, OTHER = (packed(f"10.0.0.{n}") for n in (1, 2, 3, 4))


def tcp(source: bytes, sport: int, destination: bytes = SERVER, dport: int = 80, protocol: int = 6) -> bytes:
    return make_tuple(protocol, source, destination, sport, dport)


class World:
    """What is in use, what is mapped, and random numbers from a list."""

    def __init__(self, used=(), mapped=None, numbers=(), expected=False):
        self.used, self.mapped, self.numbers, self.expected = set(used), mapped, list(numbers), expected
        self.asked = []

    def __call__(self, current, wish, source=True):
        def used(key):
            self.asked.append(key)
            return key in self.used

        def random(below):
            assert below == 65536
            return self.numbers.pop(0)

        return unique(current, wish, source, used, lambda *_: self.mapped, random, self.expected)


def to(address, ports=None, **more):
    return Range(address, address, ports, **more)


@pytest.mark.parametrize(
    ("text", "start", "result"),
    # The two of lookup3.c, whose byte count is added by `start` (its padding of two bytes is zeros).
    [(b"Four score and seven years ago", 0, 0x17770551), (b"Four score and seven years ago", 1, 0xCD628161)],
)
def test_hash_is_lookup3(text, start, result):
    assert hashed(list(unpack("<8I", text + b"\0\0")), start - 2 & 0xFFFFFFFF) == result


def test_source_part_and_back():
    key = tcp(CLIENT, 1000)
    assert source_part(key) == b"\x06" + CLIENT + b"\x03\xe8"
    assert with_source(key, source_part(tcp(OUTSIDE, 2000))) == tcp(OUTSIDE, 2000)
    six = make_tuple(6, packed("2001:db8::1"), packed("2001:db8::2"), 1, 2)
    assert with_source(six, source_part(six)) == six


@pytest.mark.parametrize(
    ("wish", "inside"),
    [
        (Range(), True),
        (to(CLIENT), True),
        (to(SERVER), False),
        (Range(CLIENT, OTHER), True),
        (Range(SERVER, OTHER), False),
        (Range(None, None, (1000, 1000)), True),
        (Range(None, None, (1001, 2000)), False),
        (to(CLIENT, (1, 999)), False),
    ],
)
def test_has_source_in(wish, inside):
    assert has_source_in(tcp(CLIENT, 1000), wish) is inside


def test_ports_of_other_protocols_are_never_out_of_range():
    assert has_source_in(tcp(CLIENT, 0, dport=0, protocol=50), Range(None, None, (5, 6)))


def test_original_tuple_is_tried_first():
    world = World()
    assert world(tcp(CLIENT, 1000), to(CLIENT)) == tcp(CLIENT, 1000)
    assert world.asked == [tcp(CLIENT, 1000)]


def test_address_changes_and_port_stays_when_free():
    assert World()(tcp(CLIENT, 1000), to(OUTSIDE)) == tcp(OUTSIDE, 1000)


def test_mapping_of_the_same_source_is_used_again():
    world = World(mapped=tcp(OUTSIDE, 1234))
    assert world(tcp(CLIENT, 1000), to(OUTSIDE)) == tcp(OUTSIDE, 1234)


def test_mapping_of_the_same_source_that_is_taken_is_not():
    world = World(used=[tcp(OUTSIDE, 1234)], mapped=tcp(OUTSIDE, 1234))
    assert world(tcp(CLIENT, 1000), to(OUTSIDE)) == tcp(OUTSIDE, 1000)


def test_mappings_do_not_count_with_random_ports():
    world = World(mapped=tcp(OUTSIDE, 1234), numbers=[0])
    assert world(tcp(CLIENT, 5000), to(OUTSIDE, random=True)) == tcp(OUTSIDE, 1024)


@pytest.mark.parametrize(
    ("port", "number", "chosen"),
    [
        (0, 0, 1),
        (300, 510, 511),
        (511, 511, 1),
        (512, 0, 600),
        (600, 423, 1023),
        (1023, 424, 600),
        (1025, 0, 1024),
        (40000, 64511, 65535),
        (40000, 64512, 1024),
        (40000, 65535, 1024 + 1023),
    ],
)
def test_a_taken_source_port_stays_in_its_class(port, number, chosen):
    world = World(used=[tcp(OUTSIDE, port)], numbers=[number])
    assert world(tcp(CLIENT, port), to(OUTSIDE)) == tcp(OUTSIDE, chosen)


def test_search_goes_on_upwards_and_wraps_in_the_range():
    used = [tcp(OUTSIDE, port) for port in (1000, 2000, 2001)]
    world = World(used=used, numbers=[1000])
    # 1000 of 0..1001 is port 2000.
    assert world(tcp(CLIENT, 1000), to(OUTSIDE, (1000, 2001))) == tcp(OUTSIDE, 1001)


def test_place_wraps_at_16_bits():
    # 65535 % 10 is 5, the next number is 0.
    world = World(used=[tcp(OUTSIDE, 105), tcp(OUTSIDE, 107)], numbers=[65535])
    assert world(tcp(CLIENT, 107), to(OUTSIDE, (100, 109))) == tcp(OUTSIDE, 100)


def test_windows_shrink():
    class Everything(set):
        def __contains__(self, key):
            return True

    world = World(numbers=[0, 1000, 2000, 3000, 4000])
    world.used = Everything()
    result = world(tcp(CLIENT, 40000), to(OUTSIDE))
    assert not world.numbers
    # The original source is out of range, the new one was asked once; then 128, 64, 32, 16 and 8 ports.
    assert len(world.asked) == 1 + 128 + 64 + 32 + 16 + 8
    assert result == tcp(OUTSIDE, 1024 + 4000 + 7)


def test_small_ranges_are_searched_once():
    world = World(used=[tcp(OUTSIDE, port) for port in range(1, 100)], numbers=[3])
    assert world(tcp(CLIENT, 1000), to(OUTSIDE, (1, 20))) == tcp(OUTSIDE, 3)
    assert len(world.asked) == 20


def test_single_port_is_taken_unasked():
    taken = tcp(CLIENT, 1000, OTHER, 8080)
    world = World(used=[taken])
    assert world(tcp(CLIENT, 1000, dport=8080), to(OTHER, (8080, 8080)), source=False) == taken
    assert not world.asked


def test_single_port_other_than_the_own():
    world = World(numbers=[7])
    assert world(tcp(CLIENT, 1000), to(OTHER, (8080, 8080)), source=False) == tcp(CLIENT, 1000, OTHER, 8080)


def test_destination_port_is_never_changed_without_a_range():
    taken = tcp(CLIENT, 1000, OTHER, 80)
    assert World(used=[taken])(tcp(CLIENT, 1000), to(OTHER), source=False) == taken


def test_ports_in_the_wrong_order_are_put_right():
    assert World(numbers=[0])(tcp(CLIENT, 5), to(OUTSIDE, (20, 10))) == tcp(OUTSIDE, 10)


@pytest.mark.parametrize(("port", "chosen"), [(3000, 1000), (3001, 1001), (3010, 1000), (2999, 1000 + 65535 % 10)])
def test_shifted_port_map(port, chosen):
    wish = to(OTHER, (1000, 1009), base=3000)
    assert World()(tcp(CLIENT, 9, SERVER, port), wish, source=False) == tcp(CLIENT, 9, OTHER, chosen)


def test_icmp_identifier():
    key = make_tuple(1, CLIENT, SERVER, 77, 8 << 8)
    free = make_tuple(1, OUTSIDE, SERVER, 77, 8 << 8)
    assert World()(key, to(OUTSIDE)) == free
    assert parts(World(used=[free], numbers=[500])(key, to(OUTSIDE)))[3:] == (500, 2048)
    assert parts(World(used=[key], numbers=[9])(key, to(SERVER), source=False))[3:] == (9, 2048)


@pytest.mark.parametrize("protocol", [50, 47])
def test_protocols_without_ports_keep_what_they_have(protocol):
    key = make_tuple(protocol, CLIENT, SERVER, 0, 0)
    taken = make_tuple(protocol, OUTSIDE, SERVER, 0, 0)
    assert World(used=[taken])(key, to(OUTSIDE)) == taken


def test_expected_gre_gets_a_key():
    key = make_tuple(47, CLIENT, SERVER, 5, 6)
    world = World(used=[make_tuple(47, OUTSIDE, SERVER, 5, 6)], numbers=[0], expected=True)
    assert world(key, to(OUTSIDE)) == make_tuple(47, OUTSIDE, SERVER, 1, 6)


def test_address_range_is_spread_evenly_and_constantly():
    low, high = packed("192.0.2.10"), packed("192.0.2.13")
    wish, persistent = Range(low, high), Range(low, high, persistent=True)
    chance = Random(1)
    seen, same = {}, 0
    for _ in range(2000):
        source, destination = chance.randbytes(4), chance.randbytes(4)
        address = best_address(wish, source, destination, True)
        assert low <= address <= high
        seen[address] = seen.get(address, 0) + 1
        assert address == best_address(wish, source, destination, True)
        one = best_address(persistent, source, destination, True)
        assert one == best_address(persistent, source, chance.randbytes(4), True)
        same += one == address
    assert len(seen) == 4
    assert min(seen.values()) > 400
    assert same < 1000


def test_address_range_by_hand():
    """IPv4: minimum + (jhash2(source, destination) * size >> 32)."""
    source, destination = CLIENT, SERVER
    number = hashed([int.from_bytes(source, "little"), 0, 0, 0], int.from_bytes(destination, "little"))
    wish = Range(packed("192.0.2.0"), packed("192.0.2.255"))
    assert best_address(wish, source, destination, True)[3] == number * 256 >> 32


def test_ipv6_range_stays_in_range():
    low, high = packed("2001:db8::ffff:fff0"), packed("2001:db8::ffff:ffff")
    chance = Random(2)
    found = {best_address(Range(low, high), chance.randbytes(16), chance.randbytes(16), True) for _ in range(300)}
    assert all(low <= address <= high for address in found)
    assert len(found) == 16
    wide = Range(packed("2001:db8::"), packed("2001:db9::"))
    assert all(
        packed("2001:db8::") <= best_address(wide, chance.randbytes(16), chance.randbytes(16), False) for _ in range(99)
    )
