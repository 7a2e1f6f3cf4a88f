"""SCTP in conntrack: chunks, verification tags, heartbeats (nf_conntrack_proto_sctp.c of 6.1.192)."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.ct import sctp as tracker
from ipvsctl.wire import sctp
from tests.datapath.ct_rig import CLIENT, SERVER, Rig, ip

INIT, INIT_ACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK = 1, 2, 4, 5, 6, 7, 8
ERROR, ECHO, COOKIE_ACK, COMPLETE = 9, 10, 11, 14
C, S = 0x11111111, 0x22222222
"""The tags: C in packets to the client, S in packets to the server."""


def chunk(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    return bytes((kind, flags)) + (len(body) + 4).to_bytes(2) + body + bytes(-len(body) % 4)


def init(kind: int, tag: int) -> bytes:
    return chunk(kind, tag.to_bytes(4) + bytes(12))


def to_server(tag: int, *chunks: bytes) -> bytes:
    return ip(CLIENT, SERVER, 132, bytes(sctp.build(4000, 80, tag, chunks)))


def to_client(tag: int, *chunks: bytes) -> bytes:
    return ip(SERVER, CLIENT, 132, bytes(sctp.build(80, 4000, tag, chunks)))


def opened() -> Rig:
    rig = Rig()
    for packet in (
        to_server(0, init(INIT, C)), to_client(C, init(INIT_ACK, S)), to_server(S, chunk(ECHO)),
        to_client(C, chunk(COOKIE_ACK)),
    ):  # fmt: skip
        assert rig.walk(packet) in ("NEW", "ESTABLISHED")
    assert rig.only.state == "ESTABLISHED"
    return rig


def test_every_chunk_has_a_column_of_nine_states() -> None:
    assert all(len(column) == 9 for way in tracker.NEXT for column in way.values())
    assert [len(way) for way in tracker.NEXT] == [11, 11]


def test_an_association_from_init_to_shutdown() -> None:
    rig = Rig()
    for packet, seen, state, timeout in (
        (to_server(0, init(INIT, C)), "NEW", "CLOSED", 10),
        (to_client(C, init(INIT_ACK, S)), "ESTABLISHED", "COOKIE_WAIT", 3),
        (to_server(S, chunk(ECHO)), "ESTABLISHED", "COOKIE_ECHOED", 3),
        (to_client(C, chunk(COOKIE_ACK)), "ESTABLISHED", "ESTABLISHED", 210),
        (to_server(S, chunk(0, b"data")), "ESTABLISHED", "ESTABLISHED", 210),
        (to_server(S, chunk(SHUTDOWN, bytes(4))), "ESTABLISHED", "SHUTDOWN_SENT", 3),
        (to_client(C, chunk(SHUTDOWN_ACK)), "ESTABLISHED", "SHUTDOWN_ACK_SENT", 3),
        (to_server(S, chunk(COMPLETE)), "ESTABLISHED", "CLOSED", 10),
    ):
        assert rig.walk(packet) == seen
        assert (rig.only.state, rig.only.timeout) == (state, timeout)
    assert "assured" in rig.only.status


@pytest.mark.parametrize("tag", [0, C, 5])
def test_a_wrong_tag_is_invalid(tag: int) -> None:
    assert opened().walk(to_server(tag, chunk(0, b"data"))) == "INVALID"


@pytest.mark.parametrize(
    "chunks",
    [
        (chunk(0, b"data"),), (chunk(ABORT),), (chunk(COMPLETE),), (chunk(COOKIE_ACK),), (chunk(ECHO),),
        (init(INIT, C), chunk(0)), (chunk(0), init(INIT, C)), (chunk(0), chunk(ECHO)), (b"\1\0\0\0",), (),
        (chunk(INIT, bytes(8)),),
    ],
)  # fmt: skip
def test_what_begins_no_association(chunks: tuple[bytes, ...]) -> None:
    rig = Rig()
    assert rig.walk(to_server(0 if chunks and chunks[0][0] == INIT else 9, *chunks)) == "INVALID"
    assert rig.ct.count == 0


def test_an_init_with_a_tag_is_invalid() -> None:
    assert Rig().walk(to_server(1, init(INIT, C))) == "INVALID"
    assert opened().walk(to_server(S, init(INIT, C))) == "INVALID"


def test_a_repeated_init_does_not_keep_the_entry() -> None:
    rig = Rig()
    rig.walk(to_server(0, init(INIT, C)))
    rig.wait(6)
    assert rig.walk(to_server(0, init(INIT, C))) == "NEW"
    assert rig.only.timeout == 4


@pytest.mark.parametrize(("flags", "tag", "seen"), [(0, S, True), (1, C, True), (0, C, False), (1, S, False)])
def test_aborts_carry_their_own_tag_or_the_peers(flags: int, tag: int, seen: bool) -> None:
    rig = opened()
    assert rig.walk(to_server(tag, chunk(ABORT, flags=flags))) == ("ESTABLISHED" if seen else "INVALID")
    assert rig.only.state == ("CLOSED" if seen else "ESTABLISHED")


def test_a_heartbeat_of_a_second_path_opens_it_when_it_is_answered() -> None:
    rig = Rig()
    assert rig.walk(to_server(S, chunk(HEARTBEAT))) == "NEW"
    assert (rig.only.state, rig.only.timeout) == ("HEARTBEAT_SENT", 30)
    assert rig.walk(to_client(C, chunk(HEARTBEAT_ACK))) == "ESTABLISHED"
    assert (rig.only.state, rig.only.timeout) == ("ESTABLISHED", 210)
    assert rig.walk(to_server(S, chunk(0, b"data"))) == "ESTABLISHED"


def test_a_reply_that_fits_to_no_state_is_invalid() -> None:
    rig = Rig()
    rig.walk(to_server(S, chunk(HEARTBEAT)))
    assert rig.walk(to_client(C, chunk(ABORT))) == "INVALID"
    assert rig.walk(to_client(C, chunk(SHUTDOWN_ACK))) == "INVALID"
    assert rig.only.state == "HEARTBEAT_SENT"


def test_a_heartbeat_with_a_new_tag_is_believed_when_it_is_answered_with_one() -> None:
    rig = opened()
    rig.wait(10)
    assert rig.walk(to_server(77, chunk(HEARTBEAT))) == "ESTABLISHED"
    assert rig.only.timeout == 200
    assert rig.walk(to_server(77, chunk(0, b"data"))) == "INVALID"
    assert rig.walk(to_client(88, chunk(HEARTBEAT_ACK))) == "ESTABLISHED"
    assert rig.walk(to_client(88, chunk(0, b"data"))) == "ESTABLISHED"
    assert rig.walk(to_server(77, chunk(HEARTBEAT))) == "ESTABLISHED"
    assert rig.walk(to_server(77, chunk(0, b"data"))) == "ESTABLISHED"


def test_data_may_not_ride_on_a_doubtful_heartbeat() -> None:
    assert opened().walk(to_server(77, chunk(HEARTBEAT), chunk(0, b"data"))) == "INVALID"
    assert opened().walk(to_server(77, chunk(HEARTBEAT_ACK))) == "INVALID"


def test_an_unasked_init_ack_with_another_tag_is_not_believed() -> None:
    rig = opened()
    assert rig.walk(to_client(C, init(INIT_ACK, 99))) == "INVALID"
    assert rig.walk(to_server(S, chunk(0, b"data"))) == "ESTABLISHED"


def test_a_wrong_checksum_is_invalid() -> None:
    packet = bytearray(to_server(0, init(INIT, C)))
    packet[-1] ^= 1
    assert Rig().walk(bytes(packet)) == "INVALID"
    assert Rig(checksum=0).walk(bytes(packet)) == "NEW"


def test_a_restarted_end_gets_new_tags() -> None:
    rig = opened()
    assert rig.walk(to_server(0, init(INIT, 33))) == "ESTABLISHED"
    assert rig.walk(to_client(33, init(INIT_ACK, 44))) == "ESTABLISHED"
    assert rig.walk(to_server(44, chunk(ECHO))) == "ESTABLISHED"
    assert rig.walk(to_client(33, chunk(COOKIE_ACK))) == "ESTABLISHED"
    assert rig.walk(to_server(44, chunk(0, b"data"))) == "ESTABLISHED"
    assert rig.walk(to_client(33, init(INIT_ACK, 55))) == "INVALID"
