"""In the guest: `python -m tests.differential.guest JOBS RESULTS` plays every job and writes one line of JSON for each.

Modules serve the whole kernel and not a namespace, so jobs go in groups that want the same modules. A group's jobs are
shared out to a process for each processor, and each process plays many at once.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from ipvsctl.knowledge.schedulers import SCHEDULERS
from tests.differential.guest_wire import Wire
from tests.differential.guest_world import World, call, write_sysctl

MODULES = (
    "ip_vs", "nf_conntrack", "nf_conntrack_netlink", "veth", "ip_tables", "ip6_tables", "iptable_raw",
    "iptable_mangle", "iptable_nat", "iptable_filter", "ip6table_raw", "ip6table_mangle", "ip6table_nat",
    "ip6table_filter", "xt_conntrack", "xt_CT", "xt_mark", "xt_tcpudp", "ipt_REJECT", "ip6t_REJECT", "xt_state",
    *(f"ip_vs_{name}" for name in SCHEDULERS if name != "twos"),
)  # fmt: skip
"""Schedulers are among them because the kernel can hang when it loads lblc or lblcr for a new service while a namespace
ends: the one holds __ip_vs_mutex and waits for pernet_ops_rwsem, the other has them the other way round."""

OPTIONAL = ("ip_vs_ftp", "nf_nat_ftp", "nf_conntrack_ftp")
"""Modules that change what happens to packets by being there; in the order in which they can be taken out."""

STUCK = 60
"""Seconds without a result after which a process says where it is and ends."""

KERNEL = (
    ("net.ipv6.mld_qrv", "1"),
    ("net.ipv4.icmp_msgs_per_sec", "1000000"),
    ("net.ipv4.icmp_msgs_burst", "10000"),
)
"""Sysctls of the whole kernel: groups are told once, and the limit of all ICMP errors together is nobody's own."""

AT_ONCE = 12
"""Worlds that a process has alive at most."""


def main(arguments: list[str]) -> int:
    """Play the jobs of a file; results go to RESULTS.N, one file for each process."""
    source, target = arguments
    jobs = json.loads(Path(source).read_text())
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    for name, value in KERNEL:
        write_sysctl(name, value)
    groups: dict[tuple[str, ...], list[tuple[int, dict[str, Any]]]] = {}
    for number, job in enumerate(jobs):
        groups.setdefault(tuple(job["modules"]), []).append((number, job))
    processors = len(os.sched_getaffinity(0))
    count = 0
    gc.freeze()
    for modules in sorted(groups, key=len):
        _only(modules)
        members = groups[modules]
        children = []
        for share in range(min(processors, len(members))):
            if not (child := os.fork()):
                _child(members[share::processors], share, f"{target}.{count + share}")
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        count += len(children)
    return 0


def _child(jobs: list[tuple[int, dict[str, Any]]], processor: int, target: str) -> None:
    """A process of its own; never returns."""
    status = 1
    try:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[processor]})
        work(jobs, Path(target))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def work(jobs: list[tuple[int, dict[str, Any]]], target: Path) -> None:
    """Play the jobs, many at once, each when it is due."""
    faulthandler.dump_traceback_later(STUCK, exit=True)
    call("unshare", 0x40000000)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    write_sysctl("net.ipv6.conf.default.disable_ipv6", "1")
    wire = Wire()
    due: list[tuple[float, int, World, Any]] = []
    waiting = list(reversed(jobs))
    with target.open("w") as file:
        while due or waiting:
            now = time.monotonic()
            if due and due[0][0] <= now:
                _, number, world, life = heappop(due)
            elif waiting and len(due) < AT_ONCE:
                number, job = waiting.pop()
                world = World(job, wire, home, number)
                life = world.play()
            else:
                time.sleep(max(0.0, due[0][0] - now))
                continue
            again = next(life, None)
            if again is not None:
                heappush(due, (again, number, world, life))
            else:
                file.write(json.dumps(world.result) + "\n")
                file.flush()
                faulthandler.dump_traceback_later(STUCK, exit=True)


def _only(modules: tuple[str, ...]) -> None:
    """Have exactly these of the optional modules."""
    for name in OPTIONAL:
        if name in modules or not Path("/sys/module", name).exists():
            continue
        # The namespaces of the last group go in their own time, and hold the module until then.
        for _ in range(100):
            if not subprocess.run(["rmmod", name], capture_output=True).returncode:
                break
            time.sleep(0.1)
        else:
            print(f"cannot unload {name}: what follows runs with it", file=sys.stderr)
    if modules:
        subprocess.run(["modprobe", "-a", *modules], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
