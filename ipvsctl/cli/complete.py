"""Completion: what a shell asks for when somebody presses TAB, and the scripts that make it ask.

Values that live on a host are asked from the host that the line selects, if that starts nothing, loads nothing and says
nothing: completion that fails is completion that offers nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.tree import COMPLETE, PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ipvsctl.model.status import ServiceStatus

Item = CompletionItem[str]

# Words of bash end at the characters of COMP_WORDBREAKS, a colon among them, so that tcp:10.0.0.1:80 is five words to
# it. So the line is sent as it is, and what bash takes for finished is cut from the front of the answers.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} type value cut=
    local word=${line##*[[:space:]]}

    word=${word#*=}
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        cut=${word%%"${word##*:}"}
    fi
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$cut"}") ;;
            part) compopt -o nospace; COMPREPLY+=("${value#"$cut"}") ;;
        esac
    done < <(COMP_WORDS=$line %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """bash, with the line as it was typed instead of the words that bash makes of it."""

    source_template = _BASH

    def source(self) -> str:
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        if not words or line[-1].isspace():
            return words[1:], ""
        return words[1:-1], words[-1]

    def format_completion(self, item: Item) -> str:
        kind = "part" if item.type == "plain" and item.value.endswith((":", "/")) else item.type
        return f"{kind},{item.value}"


class _Zsh(ZshComplete):
    """zsh, with a script that works from the second TAB on as well.

    Autoloaded, the file itself becomes the function; click's script takes only the first call for one.
    """

    source_template = ZshComplete.source_template.replace(
        "$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _%(prog_name)s"
    ).replace("autoload from fpath, call function directly", "found in fpath: this file is the function")


SHELLS = ("bash", "zsh", "fish")


def _register() -> None:
    add_completion_class(_Bash)
    add_completion_class(_Zsh)


def script(shell: str) -> str:
    """The script that makes a shell ask."""
    _register()
    return get_completion_class(shell)(click.Command(None), {}, PROGRAM, COMPLETE).source()  # type: ignore[misc]


def complete(root: click.Command, env: Environment, instruction: str) -> int:
    """Answer a shell; returns the exit status. Nothing goes to standard error."""
    _register()
    shell, _, what = instruction.partition("_")
    kind = get_completion_class(shell)
    if kind is None or what not in ("source", "complete"):
        return 1
    answer = kind(root, {"obj": env}, PROGRAM, COMPLETE)
    try:
        env.stdout.write(answer.source() if what == "source" else answer.complete() + "\n")
        env.stdout.flush()
    except Exception:
        # A shell has no use for an error in the middle of a line.
        return 1
    return 0


def values(name: str, context: click.Context, incomplete: str) -> list[Item]:
    """Completions of a kind of value by the name of the function that knows them."""
    if name == "files":
        return [CompletionItem(incomplete, type="file")]
    with suppress(Exception):
        return _starting(_KINDS[name](context, incomplete), incomplete)
    return []


def _starting(found: Iterable[tuple[str, str]], incomplete: str) -> list[Item]:
    return [CompletionItem(value, help=meaning or None) for value, meaning in found if value.startswith(incomplete)]


Values = list[tuple[str, str]]
"""Values with their meanings."""

# -- from knowledge ---------------------------------------------------------------------------------------------------


def _schedulers(context: click.Context, incomplete: str) -> Values:
    from ipvsctl.knowledge.schedulers import SCHEDULERS

    return [(row.name, row.meaning) for row in SCHEDULERS.values()]


def _flags(context: click.Context, incomplete: str) -> Values:
    from ipvsctl.knowledge.schedulers import SCHEDULERS

    chosen = SCHEDULERS.get(context.params.get("scheduler") or "")
    rows = [chosen] if chosen else SCHEDULERS.values()
    own = [(flag, f"of scheduler {row.name}") for row in rows for flag in row.flags]
    return [*own, ("flag-1", ""), ("flag-2", ""), ("flag-3", "")]


def _sysctls(context: click.Context, incomplete: str) -> Values:
    from ipvsctl.knowledge.sysctls import SYSCTLS

    known: Values = []
    for name, row in SYSCTLS.items():
        before, star, after = name.partition("*")
        known += [(f"{before}{device.replace('.', '/')}{after}", row.meaning) for device in _device_names()] if star \
            else [(name, row.meaning)]  # fmt: skip
    if "." in incomplete:
        return known
    return [*known, *((n.rpartition(".")[2], meaning) for n, meaning in known if n.startswith("net.ipv4.vs."))] \
        if incomplete and not "net".startswith(incomplete) else known  # fmt: skip


def _modules(context: click.Context, incomplete: str) -> Values:
    from ipvsctl.knowledge.modules import MODULES

    return [(row.name, row.meaning) for row in MODULES.values()]


# -- from the machine -------------------------------------------------------------------------------------------------


def _device_names() -> list[str]:
    return ["all", "default", *sorted(path.name for path in Path("/sys/class/net").iterdir())]


def _devices(context: click.Context, incomplete: str) -> Values:
    return [(name, "") for name in _device_names()[2:]]


def _inputs(context: click.Context, incomplete: str) -> Values:
    """The devices that a saved state names; without one those of the machine."""
    file = context.params.get("file")
    if file and file != "-":
        from ipvsctl.formats import snapshot_file

        text = Path(file).read_bytes()
        if snapshot_file.is_snapshot(text):
            found = snapshot_file.parse(text, file)
            return [(device.name, " ".join(device.addresses)) for device in found.devices]
    return _devices(context, incomplete)


def _packets(context: click.Context, incomplete: str) -> Values:
    """The protocol, which is the first word of a packet; of a conversation the service, which is the last."""
    if context.params.get("session"):
        return [] if context.params.get("file") else _services(context, incomplete)
    if context.params.get("packet"):
        return []
    return [(name, "") for name in ("tcp", "udp", "sctp", "icmp", "icmpv6")]


def _namespaces(context: click.Context, incomplete: str) -> Values:
    return sorted((path.name, "") for path in Path("/run/netns").iterdir())


def _emulators(context: click.Context, incomplete: str) -> Values:
    from ipvsctl.cli.emulate import running

    return [(each["name"], f"pid {each['pid']}") for each in running()]


def _hosts(context: click.Context, incomplete: str) -> Values:
    found = [("kernel", "this machine"), ("emulator", "the emulated director named default")]
    with suppress(Exception):
        found += [(f"emulator:{name}", meaning) for name, meaning in _emulators(context, incomplete)]
    return found


# -- from the selected host -------------------------------------------------------------------------------------------


def _services(context: click.Context, incomplete: str) -> Values:
    return [(str(each.service.address), each.service.scheduler) for each in _live(context.obj)]


def _servers(context: click.Context, incomplete: str) -> Values:
    wanted = context.params["service"]
    return [
        (str(server.server.address), f"{server.server.forward}, weight {server.server.weight}")
        for each in _live(context.obj)
        if each.service.address == wanted
        for server in each.servers
    ]


def _live(env: Environment) -> list[ServiceStatus]:
    """The services of the selected host, if asking for them starts no emulator and loads no module."""
    from ipvsctl.cli.emulate import is_gone
    from ipvsctl.pick import open_host

    if is_gone(env.host_name) or (env.host_name == "kernel" and not Path("/proc/net/ip_vs").exists()):
        return []
    host = open_host(env.host_name, env.netns)
    try:
        return host.ipvs.services()
    finally:
        host.close()


_KINDS: dict[str, Callable[[click.Context, str], Values]] = {
    "devices": _devices,
    "emulators": _emulators,
    "engines": lambda _, __: [("sip", "persistence by Call-ID")],
    "flags": _flags,
    "hosts": _hosts,
    "inputs": _inputs,
    "modules": _modules,
    "namespaces": _namespaces,
    "nothing": lambda _, __: [],
    "packets": _packets,
    "protocols": lambda _, __: [(f"{name}:", "") for name in ("tcp", "udp", "sctp", "fwmark")],
    "schedulers": _schedulers,
    "servers": _servers,
    "services": _services,
    "sysctls": _sysctls,
}
