"""The files that bring a director up at boot, as text: modules-load.d(5), sysctl.d(5) and systemd.unit(5).

What stands in them is decided in knowledge/boot.py. Every file begins with the same line, by which it is known as ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ipvsctl.errors import UsageError

TAG = "# Made by `ipvsctl persist`, and removed by `ipvsctl forget`."
"""The first line of each file. Without it a file is somebody else's."""


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file, or the symbolic link that enables a unit.

    `path` is absolute, without the root that it may be written below. `target` is what a link points to, else "".
    """

    path: str
    content: str = ""
    mode: int = 0o644
    target: str = ""


Settings = Sequence[tuple[str, str | Sequence[str], str]]
"""Keys of a unit's section with a value, or with several that stand in one line, and a comment or ""."""


def tagged(text: str) -> str:
    """A text with the tag as its first line; one that begins with it stays as it is."""
    text = text.removeprefix("\ufeff")
    return text if text.partition("\n")[0].rstrip("\r") == TAG else f"{TAG}\n{text}"


def modules_load(modules: Iterable[str]) -> str:
    """modules-load.d(5): a module a line, loaded in this order."""
    return "".join(f"{line}\n" for line in (TAG, *modules))


def sysctl_conf(sysctls: Iterable[tuple[str, str]], comments: Iterable[str] = ()) -> str:
    """sysctl.d(5), for sysctl(8) as well: set in this order. A dot in a device's name is "/" here as everywhere."""
    lines = [TAG, *(f"# {comment}" for comment in comments), *(f"{name} = {value}" for name, value in sysctls)]
    return "".join(f"{line}\n" for line in lines)


def unit(sections: Mapping[str, Settings]) -> str:
    """systemd.unit(5). Comments stand before their line."""
    lines = [TAG]
    for section, settings in sections.items():
        lines += ["", f"[{section}]"]
        for key, value, comment in settings:
            lines += [f"# {comment}"] if comment else []
            lines.append(f"{key}={value if isinstance(value, str) else ' '.join(value)}")
    return "".join(f"{line}\n" for line in lines)


def command_line(words: Iterable[str]) -> str:
    """Words as ExecStart= takes them: quoted where needed, specifiers left unexpanded.

    Raises UsageError for a word that systemd would not take for a program, however it is quoted.
    """
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    if not word.isprintable() or any(character in "\"'\\$" for character in word):
        raise UsageError(
            f"{word!r} cannot stand in a unit's command line: no quotes, backslashes, $ or control characters"
        )
    text = word.replace("%", "%%")
    return f'"{text}"' if any(character in " ;" for character in word) else text
