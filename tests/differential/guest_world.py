"""One scenario on the real kernel: a namespace for the director is laid out, lives its steps, is read, and goes.

Everything is told by a job: a dictionary of plain values that jobs.py made of the scenario. A world is a generator: it
yields until when it has nothing to do, so that one process plays many scenarios at once and nobody waits for a timeout.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipvsctl.formats.changes import change_from_dict
from ipvsctl.formats.values import conntrack_to_dict, status_to_dict
from ipvsctl.kernel import nfnetlink
from ipvsctl.kernel.conntrack import KernelConntrack
from ipvsctl.kernel.ipvs import KernelIpvs
from ipvsctl.model.address import INET, INET6
from tests.differential import rtnetlink
from tests.differential.guest_wire import Port, Wire

_NEWNET = 0x40000000
_ETHTOOL = 0x8946
_OFFLOADS = (0x15, 0x17, 0x19, 0x1F, 0x24, 0x2C)  # ETHTOOL_S{RXCSUM,TXCSUM,SG,TSO,GSO,GRO}
_FLAGS, _RUNNING = 0x8913, 0x40  # SIOCGIFFLAGS, IFF_RUNNING
_READINGS = 50
_MARK = 36
_DELETE_CONNTRACK = 2
_ESTIMATOR = 2.3
"""Seconds until the kernel's estimator has surely added up the counters of a service (ip_vs_est.c: every 2 s)."""

_SWEEP = 0.06
"""Seconds after a change of services in which a worker of the kernel sweeps their connections (ip_vs_conn.c:
ip_vs_expire_nodest_conn_flush); which packets it is ahead of would be a matter of luck."""

_QUIET = (
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv6.conf.all.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.dad_transmits", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv6.conf.default.addr_gen_mode", "1"),
    ("net.ipv6.auto_flowlabels", "0"),
)
"""Nothing that a director sends or learns by itself, and no flow labels made of a random key."""

_REPORTS = 0.03
"""Seconds after which the kernel has told its multicast groups, once: guest.py sees that it does not repeat that."""

_WAIT = 0.05
"""A pause of so many seconds between two steps is meant: it is kept, however late the guest is."""

_LIBRARY = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int) -> None:
    """unshare or setns of the C library; raises OSError."""
    if getattr(_LIBRARY, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class World:
    """A director in the kernel. `home` is the file descriptor of the worker's own namespace."""

    def __init__(self, job: dict[str, Any], wire: Wire, home: int, number: int) -> None:
        self.job = job
        self.wire = wire
        self.home = home
        self.number = number
        self.caught: list[tuple[str, bytes, bytes]] = []
        self.ports: dict[str, Port] = {}
        self.ipvs: KernelIpvs | None = None
        self.namespace = -1
        self.begin = 0.0
        self.result: dict[str, Any] = {"name": job["name"], "error": "", "notes": [], "times": [], "steps": []}

    def play(self) -> Iterator[float]:
        """The whole life; yields the moments (of time.monotonic) to be called again. `result` holds afterwards."""
        try:
            started = time.monotonic()
            call("unshare", _NEWNET)
            self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._lay_out()
            self.begin = time.monotonic()
            self.result["setup"] = round(self.begin - started, 3)
            settled, done, before = 0.0, self.begin, 0.0
            for step in self.job["steps"]:
                pause, before = step["at"] - before, step["at"]
                due = max(self.begin + step["at"], settled, done + pause if pause >= _WAIT else 0.0)
                while time.monotonic() < due:
                    self.wire.collect()
                    call("setns", self.home, _NEWNET)
                    yield due
                    call("setns", self.namespace, _NEWNET)
                self._note_step()
                self._step(step)
                done = time.monotonic()
                if step["do"] == "change":
                    settled = done + _SWEEP
            self._note_step()
            self._read()
            if self.ipvs is not None:
                call("setns", self.home, _NEWNET)
                yield time.monotonic() + _ESTIMATOR
                # Its socket belongs to the director's namespace still.
                self._read_counters()
        except (OSError, subprocess.SubprocessError, Exception) as error:
            self.result["error"] = f"{type(error).__name__}: {error}"
        finally:
            call("setns", self.home, _NEWNET)
            self._close()

    def _close(self) -> None:
        for port in self.ports.values():
            del self.wire.ports[port.peer]
        if self.ipvs is not None:
            self.ipvs.close()
        if self.namespace >= 0:
            os.close(self.namespace)

    # -- before -------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        job = self.job
        inet6 = job["inet6"]
        for name, value in _QUIET:
            if inet6 or name.startswith("net.ipv4"):
                write_sysctl(name, value)
        if not inet6:
            write_sysctl("net.ipv6.conf.default.disable_ipv6", "1")
        devices = [device for device in job["devices"] if device["name"] != "lo"]
        later = tuple(f"net.ipv{v}.conf.{d['name'].replace('.', '/')}." for d in devices for v in (4, 6))
        for name, value in job["sysctls"]:
            if not name.startswith(later):
                write_sysctl(name, value)
        messages = [rtnetlink.up(1, "lo")]
        for number, device in enumerate(devices):
            mac = b"\2\1\0\0\0" + bytes((number,))
            peer = f"w{self.number}.{number}"
            messages.append(
                rtnetlink.veth(device["name"], mac, device["mtu"], peer, b"\2\2\0\0\0" + bytes((number,)), self.home)
            )
            port = Port(self.wire, device["name"], peer, mac, device["hosts"], self.caught)
            self.ports[device["name"]] = self.wire.ports[peer] = port
        rtnetlink.talk(messages)
        indexes = {device["name"]: socket.if_nametoindex(device["name"]) for device in devices} | {"lo": 1}
        rtnetlink.talk([rtnetlink.up(indexes[device["name"]], device["name"]) for device in devices])
        call("setns", self.home, _NEWNET)
        rtnetlink.talk([rtnetlink.up(socket.if_nametoindex(port.peer), port.peer) for port in self.ports.values()])
        _wait_for_links([port.peer for port in self.ports.values()])
        call("setns", self.namespace, _NEWNET)
        _wait_for_links([device["name"] for device in devices])
        _stop_offloads(devices)
        for name, value in job["sysctls"]:
            if name.startswith(later):
                write_sysctl(name, value)
        rtnetlink.talk([
            *(rtnetlink.address(text, indexes[device["name"]]) for device in job["devices"]
              for text in device["addresses"] if text not in ("127.0.0.1/8", "::1/128")),
        ])  # fmt: skip
        _wait_for_addresses6([text for device in job["devices"] for text in device["addresses"] if ":" in text])
        rtnetlink.talk([
            *(rtnetlink.route(route, indexes) for route in job["routes"]),
            *(rtnetlink.rule(rule) for rule in job["policy"]),
            *(rtnetlink.neighbour(host, indexes[device], self.wire.link_address(host))
              for device, text in job["neighbours"] for host in [bytes.fromhex(text)]),
        ])  # fmt: skip
        if inet6:
            # Reports walk OUTPUT as every packet does, and would be counted.
            time.sleep(_REPORTS)
        for program, text in job["restore"].items():
            restore(program, text)
        if job["changes"]:
            self._apply([change_from_dict(change) for change in job["changes"]])

    # -- steps --------------------------------------------------------------------------------------------------------

    def _note_step(self) -> None:
        """What came since the last step belongs to it."""
        self.wire.collect()
        if self.result["times"]:
            self.result["steps"].append([[device, packet.hex(), hop.hex()] for device, packet, hop in self.caught])
        self.caught.clear()
        self.result["times"].append(round(time.monotonic() - self.begin, 4))

    def _step(self, step: dict[str, Any]) -> None:
        match step["do"]:
            case "in":
                port = self.ports[step["device"]]
                for packet in step["packets"]:
                    port.send(bytes.fromhex(packet))
            case "send":
                for packet in step["packets"]:
                    self._send(bytes.fromhex(packet), step["mark"])
            case "change":
                self._apply([change_from_dict(step["change"])])
            case "sysctl":
                for name, value in step["sysctl"]:
                    write_sysctl(name, value)
            case "flush":
                nfnetlink.ask(nfnetlink.CONNTRACK, _DELETE_CONNTRACK, 0, b"")
        self.wire.collect()

    def _send(self, packet: bytes, mark: int) -> None:
        family = INET6 if packet[0] >> 4 == 6 else INET
        source, target = (packet[8:24], packet[24:40]) if family == INET6 else (packet[12:16], packet[16:20])
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as channel:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            channel.setsockopt(socket.SOL_SOCKET, _MARK, mark)
            try:
                if any(source):
                    # Routed by its source address as a process's packets are, and not by destination only.
                    channel.bind((socket.inet_ntop(family, source), 0))
                channel.sendto(packet, (socket.inet_ntop(family, target), 0))
            except OSError as error:
                # A packet that a rule drops in OUTPUT, or that has no route: the process is told, nothing leaves.
                self.result["notes"].append(f"send: {error.strerror}")

    def _apply(self, changes: list[Any]) -> None:
        if self.ipvs is None:
            self.ipvs = KernelIpvs()
        self.ipvs.apply(changes)

    # -- after --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self.result["conntrack"] = [conntrack_to_dict(entry) for entry in KernelConntrack().entries()]
        self.result["connections"] = _connections()
        self.result["services"] = []
        if self.ipvs is not None:
            self.result["services"] = [status_to_dict(status) for status in self.ipvs.services()]
        self.result["tables"] = {program: run(f"{program}-legacy-save", "-c") for program in self.job["restore"]}

    def _read_counters(self) -> None:
        """The totals once more: they are what the estimator last added up, the counts of connections are not."""
        assert self.ipvs is not None
        later = {str(status.service.address): status_to_dict(status) for status in self.ipvs.services()}
        for service in self.result["services"]:
            found = later.get(service["address"])
            if found is None:
                continue
            service["stats"] = found["stats"]
            totals = {server["address"]: server["stats"] for server in found["servers"]}
            for server in service["servers"]:
                server["stats"] = totals.get(server["address"], server["stats"])


def write_sysctl(name: str, value: str) -> None:
    """Write under /proc/sys, of the namespace that this thread is in."""
    path = "/proc/sys/" + name.replace(".", "\0").replace("/", ".").replace("\0", "/")
    try:
        with Path(path).open("w") as file:
            file.write(value)
    except OSError as error:
        raise OSError(error.errno, f"sysctl {name} = {value}: {error.strerror}") from None


def run(program: str, *arguments: str, text: str = "") -> str:
    """What a program of the firewall prints; raises OSError when it fails."""
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f"{program}: {done.stderr.strip()}")
    return done.stdout


def restore(program: str, text: str) -> None:
    """Load rules from iptables-save's text."""
    run(f"{program}-legacy-restore", "-c", "-w", "20", text=text if text.endswith("\n") else text + "\n")


def _stop_offloads(devices: list[dict[str, Any]]) -> None:
    """No checksum is left to a card that is not there, and none is taken for verified: veth would do both."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        for device in devices:
            for command in _OFFLOADS:
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
                request = struct.pack("=16sQ16x", device["name"].encode(), ctypes.addressof(value))
                fcntl.ioctl(channel, _ETHTOOL, request)


def _wait_for_links(names: list[str]) -> None:
    """A link that has come up loses what it is given to send until a worker of the kernel has seen it (linkwatch).

    What is asked of rtnetlink afterwards waits for that worker to be through.
    """
    deadline = time.monotonic() + 5
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        for name in names:
            request = struct.pack("=16s24x", name.encode())
            while not struct.unpack_from("=H", fcntl.ioctl(channel, _FLAGS, request), 16)[0] & _RUNNING:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} does not run after 5 s")
                time.sleep(0.002)


def _connections() -> list[str]:
    """The lines of /proc/net/ip_vs_conn: read until twice the same.

    It comes in pieces that count on from a place in the whole kernel's table, which all namespaces change.
    """
    before: list[list[str]] = []
    for _ in range(_READINGS):
        lines = Path("/proc/thread-self/net/ip_vs_conn").read_text().splitlines()[1:]
        seen = sorted(line.split()[:8] for line in lines)
        if seen == before:
            return lines
        before = seen
    raise TimeoutError(f"/proc/net/ip_vs_conn is not twice the same in {_READINGS} readings")


def _wait_for_addresses6(addresses: list[str]) -> None:
    """An IPv6 address is ours when its route is there, which a worker of the kernel puts in some moments later."""
    wanted = {socket.inet_pton(socket.AF_INET6, text.partition("/")[0]).hex() for text in addresses}
    deadline = time.monotonic() + 5
    while wanted:
        for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines():
            words = line.split()
            if words[1] == "80" and int(words[8], 16) & 0x80000000:
                wanted.discard(words[0])
        if wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"IPv6 addresses are not there after 5 s: {', '.join(sorted(wanted))}")
            time.sleep(0.005)
