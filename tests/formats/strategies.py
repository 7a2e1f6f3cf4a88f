"""Directors as hypothesis makes them: everything that a director file can say, and nothing that it cannot."""

from __future__ import annotations

from hypothesis import strategies as st

from ipvsctl.model.address import INET, INET6, PROTOCOLS, ServerAddress, ServiceAddress
from ipvsctl.model.director import BACKENDS, FORWARD_POLICIES, Director, FirewallWish, Nfct, ServiceWish
from ipvsctl.model.service import SCHEDULER_FLAGS, Server, Service, Tunnel
from ipvsctl.model.status import Daemon, Timeouts

ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str).filter(lambda text: "%" not in text)
port = st.integers(0, 65535)
device = st.text(
    st.characters(blacklist_categories=["C", "Z"], blacklist_characters="/:"), min_size=1, max_size=15
).filter(lambda name: len(name.encode()) <= 15 and name not in (".", ".."))
word = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=15)


@st.composite
def tunnels(draw: st.DrawFn) -> Tunnel | None:
    match draw(st.sampled_from(["ipip", "gue", "gre"])):
        case "gue":
            return Tunnel("gue", draw(st.integers(1, 65535)), draw(st.sampled_from(["no", "yes", "remote"])))
        case "gre":
            return Tunnel("gre", csum=draw(st.sampled_from(["no", "yes"])))
    return None


@st.composite
def servers(draw: st.DrawFn, service: ServiceAddress, may_mix: bool) -> Server:
    own, other = (ipv6, ipv4) if service.family == INET6 else (ipv4, ipv6)
    mixed = may_mix and draw(st.booleans())
    forward = "tun" if mixed else draw(st.sampled_from(["nat", "dr", "tun"]))
    number = st.just(service.port) | port
    upper = draw(st.integers(0, 2**31 - 1))
    return Server(
        ServerAddress.of(draw(other if mixed else own), draw(number)),
        forward,
        draw(st.integers(0, 2**31 - 1)),
        upper,
        draw(st.integers(0, upper)),
        draw(tunnels()) if forward == "tun" else None,
    )


@st.composite
def wishes(draw: st.DrawFn, address: ServiceAddress, may_mix: bool) -> ServiceWish:
    scheduler = draw(st.sampled_from(["rr", "wlc", "sh", "mh"]) | word)
    names = ["flag-1", "flag-2", "flag-3", *SCHEDULER_FLAGS.get(scheduler, ())]
    if address.protocol in ("udp", "fwmark"):
        names.append("ops")
    masks = st.integers(1, 128) if address.family == INET6 else st.integers(1, 32) | ipv4
    needs = address.port == 0 and address.protocol != "fwmark"
    service = Service(
        address,
        scheduler,
        tuple(draw(st.sets(st.sampled_from(names)))),
        draw(st.integers(1, 2678400) if needs else st.none() | st.integers(1, 2678400)),
        draw(st.none() | masks),
        draw(st.none() | word),
    )
    found = draw(st.lists(servers(address, may_mix), max_size=4, unique_by=lambda server: server.address))
    helper = draw(st.sampled_from([None, "ftp"])) if address.protocol == "tcp" else None
    return ServiceWish(service, tuple(found), helper)


@st.composite
def directors(draw: st.DrawFn) -> Director:
    plain = st.builds(ServiceAddress.of, st.sampled_from(list(PROTOCOLS)), ipv4 | ipv6, st.just(0) | port)
    marks = st.builds(ServiceAddress.of_mark, st.integers(1, 2**32 - 1), st.sampled_from([INET, INET6]))
    timeout = st.integers(0, 2678400)
    group = st.sampled_from(["", "224.0.0.81", "239.1.2.3", "ff02::81"])
    byte = st.integers(0, 255)
    maxlen = st.integers(0, 65507)
    roles = draw(st.none() | st.lists(st.sampled_from(["master", "backup"]), unique=True))
    text = st.text(st.characters(blacklist_categories=["C", "Z"]), max_size=12)
    numbers = st.integers(-(2**63), 2**63 - 1).map(str)
    devices = st.lists(device, max_size=3, unique=True).map(tuple)
    several = st.lists(ipv4 | ipv6, max_size=3, unique=True).map(tuple)
    names = st.from_regex(r"net(\.[a-z0-9_-]{1,8}){0,2}\.x_(/?[a-z0-9_]){1,6}", fullmatch=True)
    three = st.none() | st.booleans()
    addresses = draw(st.lists(plain | marks, max_size=4, unique=True))
    return Director(
        services=tuple(draw(wishes(address, not roles)) for address in addresses),
        nfct=draw(st.none() | st.builds(Nfct, three, three, three, devices)),
        firewall=draw(st.none() | st.builds(
            FirewallWish, st.sampled_from(BACKENDS), several, st.sampled_from(FORWARD_POLICIES), several)),
        sysctls=tuple(draw(st.dictionaries(names, text | numbers, max_size=4)).items()),
        timeouts=draw(st.none() | st.builds(Timeouts, timeout, timeout, timeout)),
        syncs=None if roles is None else tuple(
            draw(st.builds(Daemon, st.just(role), device, byte, maxlen, group, port, byte)) for role in roles
        ),
    )  # fmt: skip


def names_something(director: Director) -> bool:
    return bool(
        director.services or director.sysctls or director.firewall or director.syncs is not None
        or director.nfct not in (None, Nfct()) or director.timeouts not in (None, Timeouts())
    )  # fmt: skip
