"""Kernel features, present or not, and the loading of their modules.

Whether a feature is there is the question, not whether a module is listed: kernels build features in, and then neither
/proc/modules nor lsmod knows of them. No single place tells the truth about every kernel, so several are asked, from
the proof that the feature works to the build configuration, and the answer names the one that decided.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from ipvsctl.errors import NotPermitted, Unavailable, UsageError
from ipvsctl.host import Feature
from ipvsctl.knowledge.modules import Module, find

PROGRAMS = ("/sbin", "/usr/sbin", "/bin", "/usr/bin")
"""Where modprobe is looked for: never along the caller's PATH, the command may run under sudo."""

_TIMEOUT = 60.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


class KernelModules:
    """Features of the running kernel. `root` is where its /proc, /sys, /lib and /boot are."""

    def __init__(self, root: Path = Path("/"), release: str = "") -> None:
        self._root = root
        self._release = release or os.uname().release

    def feature(self, name: str) -> Feature:
        """State of a feature of knowledge/modules.py, of a module or of a module's alias; raises UsageError."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a module, expected a name such as ip_vs_ftp")
        row = find(name)
        if row is not None:
            return self._known(row)
        module = name.replace("-", "_")
        found = self._running(module) or self._installed(module)
        if found is None and (target := self._alias(name)):
            found = self._running(target) or self._installed(target)
            found = found and (found[0], f"alias of {target}, {found[1]}")
        return Feature(name, *(found or ("absent", self._nowhere(module))))

    def load(self, name: str) -> None:
        """Load what brings a feature, with all it depends on.

        Raises Unavailable in modprobe's words, or NotPermitted; nothing happens when the feature is there already.
        """
        feature = self.feature(name)
        what = f"cannot load module {name}"
        if feature.state == "loaded":
            return
        if feature.state == "absent":
            raise Unavailable(f"{what}: {feature.evidence}")
        if os.geteuid() != 0:
            raise NotPermitted(f"{what}: it takes root: run as root, or with sudo")
        row = find(name)
        words = self._modprobe(row.module if row else name, what)
        if words is not None:
            if "not permitted" in words or "ermission denied" in words:
                raise NotPermitted(f"{what}: {words}: load it on the host itself, outside of the container")
            raise Unavailable(f"{what}: {words}")
        feature = self.feature(name)
        if feature.state != "loaded":
            raise Unavailable(f"{what}: modprobe reports success, but {feature.evidence}")

    def _known(self, row: Module) -> Feature:
        if row.proof and (evidence := self._proof(row.proof)):
            return Feature(row.name, "loaded", evidence)
        option, value = next(
            ((f"CONFIG_{name}", self._options[name]) for name in row.options if name in self._options),
            (f"CONFIG_{row.options[0]}", "not set" if self._options else "unknown"),
        )
        setting = f"{option}={value} in {self._options_file}" if value in ("y", "m") else f"{option} is {value}"
        if value == "not set":
            setting += f" in {self._options_file}: this kernel is built without"
        if row.name != row.module:
            # A feature that is an option of a module: there as soon as the module is, or never.
            module = self.feature(row.module)
            if module.state == "absent":
                return Feature(row.name, *module[1:])
            if module.state == "loaded":
                return Feature(row.name, "absent", f"{row.module} is there, but {row.proof} is not")
            return Feature(row.name, "absent" if value == "not set" else "loadable", setting)
        found = self._running(row.module)
        if found is None and value == "y":
            found = "loaded", f"built in: {setting}"
        found = found or self._installed(row.module)
        if found is None and value == "not set":
            found = "absent", setting
        if found is None and value == "m":
            found = "absent", f"{setting}, but {self._nowhere(row.module)}"
        return Feature(row.name, *(found or ("absent", self._nowhere(row.module))))

    def _proof(self, proof: str) -> str:
        path, _, word = proof.partition(" ")
        # What belongs to the process is seen through its first thread otherwise, which may be in another namespace.
        file = self._root / path.replace("/proc/net/", "/proc/thread-self/net/").lstrip("/")
        if not word:
            return f"{path} exists" if _exists(file) else ""
        return f"{word} is listed in {path}" if word in self._text(file).split() else ""

    def _running(self, module: str) -> tuple[str, str] | None:
        """Whether the running kernel has the module in it, built in or loaded."""
        folder = self._root / "sys/module" / module
        if _exists(folder / "initstate"):
            state = self._text(folder / "initstate").strip()
            # "coming" fails or succeeds in a moment, "going" is on its way out.
            return ("loaded", f"loaded, /sys/module/{module} is there") if state == "live" else None
        if _exists(folder):
            return "loaded", f"built in, /sys/module/{module} is there"
        if re.search(rf"^{re.escape(module)} .* Live ", self._text(self._root / "proc/modules"), re.MULTILINE):
            return "loaded", "loaded, /proc/modules lists it"
        if file := self._listed("modules.builtin", module):
            return "loaded", f"built in, listed in {file}"
        return None

    def _installed(self, module: str) -> tuple[str, str] | None:
        if not _exists(self._root / "proc/modules"):
            return None  # A kernel without loadable modules has no use for files.
        file = self._listed("modules.dep", module)
        return ("loadable", f"listed in {file}") if file else None

    def _listed(self, file: str, module: str) -> str:
        """The name of a list of depmod's that has the module's file, else ""."""
        text = self._lists.get(file)
        if text is None:
            text = self._lists[file] = "\n" + self._text(self._folder / file).replace("-", "_")
        pattern = rf"[\n/]{re.escape(module)}\.ko(?:\.\w+)?(?=[:\n]|$)"
        return f"/lib/modules/{self._release}/{file}" if re.search(pattern, text) else ""

    def _alias(self, name: str) -> str:
        """The module that an alias stands for; only plain ones, patterns are for devices."""
        found = re.search(
            rf"^alias {re.escape(name)} (\S+)$", self._text(self._folder / "modules.alias"), re.MULTILINE
        )
        return found[1].replace("-", "_") if found else ""

    def _nowhere(self, module: str) -> str:
        if not _exists(self._root / "proc/modules"):
            return f"this kernel has no loadable modules, and {module} is not known to be built in"
        if not _exists(self._folder):
            return f"the modules of this kernel are not here: there is no folder /lib/modules/{self._release}"
        return (
            f"/lib/modules/{self._release} has no {module}: the kernel is built without, or the module is in a package "
            "of its own (kernel-modules, kernel-modules-extra, linux-modules-extra)"
        )

    def _modprobe(self, module: str, what: str) -> str | None:
        """None for success, else modprobe's words."""
        import subprocess

        program = next((f"{folder}/modprobe" for folder in PROGRAMS if os.access(f"{folder}/modprobe", os.X_OK)), None)
        if program is None:
            raise Unavailable(f"{what}: there is no modprobe here: install kmod")
        try:
            result = subprocess.run(
                [program, "--", module],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT,
                env={"PATH": ":".join(PROGRAMS), "LC_ALL": "C"}, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{what}: modprobe did not end within {_TIMEOUT:.0f} seconds") from None
        except OSError as error:
            raise Unavailable(f"{what}: {program}: {error.strerror}") from None
        if result.returncode == 0:
            return None
        lines = (result.stderr.strip() or result.stdout.strip() or f"status {result.returncode}").splitlines()
        return "; ".join(line.removeprefix("modprobe: ").removeprefix("FATAL: ").strip() for line in lines)

    @cached_property
    def _folder(self) -> Path:
        return self._root / "lib/modules" / self._release

    @cached_property
    def _lists(self) -> dict[str, str]:
        return {}

    @cached_property
    def _options_file(self) -> str:
        names = ("proc/config.gz", f"boot/config-{self._release}", f"lib/modules/{self._release}/config")
        return next((f"/{name}" for name in names if os.access(self._root / name, os.R_OK)), "")

    @cached_property
    def _options(self) -> dict[str, str]:
        """Build options by name without CONFIG_: "y" or "m", or "not set" for those that are named so."""
        if not self._options_file:
            return {}
        import zlib

        try:
            data = (self._root / self._options_file.lstrip("/")).read_bytes()
            text = (zlib.decompress(data, 31) if data.startswith(b"\x1f\x8b") else data).decode("ascii", "replace")
        except (OSError, zlib.error):
            return {}
        options = dict(re.findall(r"^CONFIG_(\w+)=([ym])$", text, re.MULTILINE))
        return options | dict.fromkeys(re.findall(r"^# CONFIG_(\w+) is not set$", text, re.MULTILINE), "not set")

    def _text(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def _exists(file: Path) -> bool:
    """Path.exists raises where a folder on the way may not be searched; what we may not see is not there for us."""
    return os.access(file, os.F_OK, effective_ids=True)
