"""The classic command at work: one command line, or a stream of them, on a host.

Everything here keeps to what ipvsadm 1.31 does: IPVS is asked for before the command line is read, results and errors
are its bytes, and statuses are its own: 2 for a wrong command line, 1 for a reading that failed, 255 for an option that
cannot be parsed and for a change that the host refused.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, TextIO

from ipvsctl.cli.environment import Environment, output
from ipvsctl.cli.ipvsadm_names import LibraryNames
from ipvsctl.errors import IpvsctlError, NotFound, NotPermitted, Unavailable, UsageError
from ipvsctl.formats.ipvsadm_args import Command, Hint, OptionError, parse
from ipvsctl.formats.ipvsadm_options import HELP, VERSION
from ipvsctl.formats.ipvsadm_refusals import message, not_initialised, old_version

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.row import ServiceRow

PROGRAM = "ipvsadm"
"""What it calls itself, however it was called."""

DONE, FAILED, WRONG, REFUSED = 0, 1, 2, 255

_READS = ("list", "save", "help", "version")


class Stop(Exception):
    """A stream ends here, with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Classic:
    """One run of the classic command."""

    def __init__(self, env: Environment) -> None:
        self.env = env

    @cached_property
    def names(self) -> LibraryNames:
        return LibraryNames()

    @cached_property
    def _posix(self) -> bool:
        return any(name in self.env.variables for name in ("POSIXLY_CORRECT", "POSIX_ME_HARDER"))

    @property
    def host(self) -> Host:
        return self.env.host

    # -- output -------------------------------------------------------------------------------------------------------

    def print(self, texts: Iterable[str]) -> None:
        """Write results as they are."""
        with output():
            for text in texts:
                _put(self.env.stdout, text)

    def complain(self, text: str) -> None:
        """Write an error as it is, behind the results that came before it."""
        with suppress(OSError, ValueError):
            self.env.stdout.flush()
        with suppress(OSError, ValueError):
            _put(self.env.stderr, text)
            self.env.stderr.flush()

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, words: Sequence[str]) -> int:
        """Run a command line; returns ipvsadm's status."""
        needs_host = self.env.host_name == "kernel"
        if needs_host and (status := self.initialise()):
            return status
        try:
            command = self.parse(words)
        except Stop as stop:
            return stop.status
        if command is None:
            return REFUSED
        if not needs_host and command.name not in ("help", "version") and (status := self.initialise()):
            return status
        self.env.quiet, self.env.json = not self.env.dry_run, False
        if command.name == "restore":
            from ipvsctl.cli.ipvsadm_stream import restore

            return restore(self)
        return self.read(command) if command.name in _READS else self.change(command)

    def initialise(self) -> int:
        """Ask for IPVS, and load it where the question does not; a status when there is none."""
        try:
            try:
                info = self.host.ipvs.info()
            except NotPermitted:
                raise
            except Unavailable:
                self.host.modules.load("ip_vs")
                info = self.host.ipvs.info()
        except NotPermitted:
            self.complain(not_initialised("Permission denied (you must be root)"))
            return WRONG
        except Unavailable:
            denied = self.env.host_name == "kernel" and os.geteuid() != 0
            reason = "Permission denied (you must be root)" if denied else "Protocol not available"
            self.complain(not_initialised(reason))
            return WRONG
        if warning := old_version(info.version):
            self.complain(warning)
        return DONE

    def understand(self, words: Sequence[str], *, stream: bool = False) -> Command:
        """The command of a line; raises UsageError."""
        return parse(words, self.names, posix=self._posix, stream=stream)

    def parse(self, words: Sequence[str], *, stream: bool = False) -> Command | None:
        """The command of a line; None for an option that cannot be parsed. Raises Stop for what ends a stream too."""
        try:
            return self.understand(words, stream=stream)
        except Hint:
            self.complain(f"Try `{PROGRAM} -h' or '{PROGRAM} --help' for more information.\n")
            raise Stop(REFUSED) from None
        except OptionError as error:
            self.complain(f"{error}\n")
            return None
        except UsageError as error:
            self.complain(f"{error}\n")
            raise Stop(WRONG) from None

    def change(self, command: Command) -> int:
        """Make the change that a command means."""
        from ipvsctl.cli.run import change
        from ipvsctl.plan.classic import HostView, changes_of
        from ipvsctl.plan.difference import Plan

        def build(host: Host) -> Plan:
            return Plan(tuple(changes_of(command, host, HostView(host))))

        try:
            return change(self.env, f"ipvsadm --{command.name}", build)
        except IpvsctlError as error:
            return self.refused(command.name, error, REFUSED)

    def refused(self, name: str, error: IpvsctlError, status: int) -> int:
        """Tell of a refusal; returns the status."""
        number = error.number or (errno.ESRCH if isinstance(error, NotFound) else 0)
        number = number or (errno.EPERM if isinstance(error, NotPermitted) else 0)
        # A refusal that is not the kernel's, as when a plan was cut off before, says itself what it is.
        self.complain(f"{message(name, number, os.strerror(number)) if number else f'ipvsctl: {error}'}\n")
        return status

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, command: Command) -> int:
        """Print what a command asks for."""
        from ipvsctl.formats import ipvsadm_listing as listing

        options = command.options
        if command.name == "help":
            self.print([HELP.format(version=VERSION, program=PROGRAM)])
        elif command.name == "version":
            self.print([f"{VERSION}\n"])
        elif options & {"timeout", "daemon"}:
            with suppress(IpvsctlError):
                if "timeout" in options:
                    self.print([listing.timeouts_line(self.host.ipvs.timeouts())])
                else:
                    self.print(map(listing.daemon_line, self.host.ipvs.daemons()))
                return DONE
            return FAILED
        else:
            try:
                if command.name == "save":
                    self._save("numeric" in options)
                elif "connection" in options:
                    self._connections(command)
                else:
                    self._list(command)
            except IpvsctlError as error:
                return self.refused(command.name, error, FAILED)
        return DONE

    def _save(self, numeric: bool) -> None:
        from ipvsctl.formats.ipvsadm_lines import save_lines

        self.print(save_lines(self.host.ipvs.rows(), None if numeric else self.names))

    def _list(self, command: Command) -> None:
        from ipvsctl.formats import ipvsadm_listing as listing
        from ipvsctl.model.row import row_of

        options = command.options
        layout = listing.layout_of(options)
        names = None if "numeric" in options else self.names
        address = command.service
        if address is None:
            self.print([listing.banner(self.host.ipvs.info()), listing.titles(layout)])
            services: Iterable[ServiceRow] = self.host.ipvs.rows()
        else:
            services = [row_of(self.host.ipvs.service(address))]
            self.print([listing.titles(layout)])
        sort = "nosort" not in options
        self.print(listing.table(services, layout, names, exact="exact" in options, sort=sort))

    def _connections(self, command: Command) -> None:
        from ipvsctl.formats import ipvsadm_listing as listing

        engines = "persistent-conn" in command.options
        names = None if "numeric" in command.options else self.names
        self.print([listing.connection_titles(engines)])
        self.print(listing.connection_line(each, names, engines) for each in self.host.connections())


def _put(stream: TextIO, text: str) -> None:
    """Write text; what the stream has no letters for goes out as the bytes that it came as."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.flush()
        stream.buffer.write(text.encode(stream.encoding or "ascii", "surrogateescape"))
