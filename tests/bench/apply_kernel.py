"""How long a table of 1,000 services with 10 servers each takes: ipvsadm, our netlink port, the whole command.

Run it in the guest: `python -m tests.vm -- .venv/bin/python -m tests.bench.apply_kernel`. It changes, and at the end
clears, the IPVS table of the namespace that it runs in. Every figure is the best of a few runs, in seconds; the ratio
is to ipvsadm's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ipvsctl.errors import IpvsctlError
from ipvsctl.kernel.ipvs import KernelIpvs
from ipvsctl.kernel.ipvs_changes import encode_changes
from ipvsctl.kernel.ipvs_codec import _server
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import AddServer, AddService, IpvsChange
from ipvsctl.model.service import Server, Service

SERVICES, SERVERS, RUNS = 1000, 10, 3


def changes() -> list[IpvsChange]:
    """The table as changes."""
    made: list[IpvsChange] = []
    for number in range(SERVICES):
        service = ServiceAddress.of("tcp", f"10.{number >> 8}.{number & 255}.1", 80)
        made.append(AddService(Service(service, "rr")))
        for host in range(1, SERVERS + 1):
            server = ServerAddress.of(f"172.16.{number & 255}.{host}", 8080)
            made.append(AddServer(service, Server(server, "nat")))
    return made


def restore_lines(table: list[IpvsChange]) -> str:
    """The table as ipvsadm reads it."""
    lines = []
    for change in table:
        if isinstance(change, AddService):
            lines.append(f"-A -t {str(change.service.address)[4:]} -s rr")
        elif isinstance(change, AddServer):
            lines.append(f"-a -t {str(change.service)[4:]} -r {change.server.address} -m -w 1")
    return "\n".join(lines) + "\n"


def director_file(table: list[IpvsChange]) -> str:
    """The table as a director file."""
    lines = []
    for change in table:
        if isinstance(change, AddService):
            lines += ["[[service]]", f'address = "{change.service.address}"', 'scheduler = "rr"']
        elif isinstance(change, AddServer):
            lines += ["[[service.server]]", f'address = "{change.server.address}"', 'forward = "nat"']
    return "\n".join(lines) + "\n"


def best(before: Callable[[], object], work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs of `work`."""
    times = []
    for _ in range(RUNS):
        before()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def run(*command: str, text: str = "") -> str:
    """Run a command that has to succeed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def clear() -> None:
    run("ipvsadm", "-C")


def nothing() -> None:
    pass


def show(name: str, seconds: float, base: float) -> None:
    print(f"{name:48} {seconds:8.3f} s {seconds / base:8.2f} x", flush=True)


def main() -> int:
    port = KernelIpvs()
    table = changes()
    text = restore_lines(table)
    try:
        print(f"{SERVICES} services x {SERVERS} servers, IPVS {port.info().version}", flush=True)
        base = best(clear, lambda: run("ipvsadm", "-R", text=text))
        show("ipvsadm -R", base, base)
        show("KernelIpvs.apply", best(clear, lambda: port.apply(table)), base)
        show("  of it encoding the messages", best(nothing, lambda: encode_changes(table)), base)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "director.toml")
            file.write_text(director_file(table))
            whole_command("apply", base, str(file))
        clear()
        port.apply(table)
        base = best(nothing, lambda: run("ipvsadm", "-Ln"))
        show("ipvsadm -Ln", base, base)
        show("KernelIpvs.services", best(nothing, port.services), base)
        show("  the first time", best(_server.cache_clear, port.services), base)
        whole_command("list", base)
        count = sum(len(service.servers) for service in port.services())
        print(f"read back: {count} servers")
    except IpvsctlError as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return int(error.status)
    finally:
        port.close()
    clear()
    return 0


def whole_command(verb: str, base: float, *arguments: str) -> None:
    """Measure the installed command as a whole, its start included."""
    command = (str(Path(sys.executable).with_name("ipvsctl")), verb, *arguments)
    show(f"ipvsctl {verb}", best(clear if verb == "apply" else nothing, lambda: run(*command)), base)


if __name__ == "__main__":
    sys.exit(main())
