"""What `nfct` and `firewall` share: a director made of what is there, and the rules that follow from it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ipvsctl.knowledge.recipes import director_of, helper_problem
from ipvsctl.plan.difference import Plan, difference
from ipvsctl.plan.observe import observe, observe_all

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.director import Director, Found, Wanted

FTP_PORT = 21


def look(host: Host) -> tuple[Found, Director]:
    """The host as it is, and the director that it is."""
    found = observe_all(host)
    return found, director_of(found)


def with_helpers(director: Director) -> tuple[Director, tuple[str, ...]]:
    """The director with the helper ftp for the control port of FTP, beside the helpers it has; and notes.

    A service for which the helper cannot work is left without, and a note says why.
    """
    wishes, notes = [], []
    for wish in director.services:
        address = wish.service.address
        if wish.helper or (address.protocol == "tcp" and address.port == FTP_PORT):
            problem = helper_problem(wish, director)
            if problem:
                notes.append(f"no helper for {address}: {problem}")
            wish = replace(wish, helper=None if problem else wish.helper or "ftp")
        wishes.append(wish)
    return replace(director, services=tuple(wishes)), tuple(notes)


def plan(host: Host, wanted: Wanted, notes: tuple[str, ...] = ()) -> Plan:
    """What makes the host have modules, rules and sysctls; services, timeouts, daemons and routing are left alone.

    Without sysctls nothing is loosened: that goes with accept_local.
    """
    wanted = replace(
        wanted, services=None, timeouts=None, daemons=None, routes=None, policy=None,
        loosen=wanted.loosen if wanted.sysctls else (), notes=(*notes, *wanted.notes),
    )  # fmt: skip
    return difference(wanted, observe(host, wanted))
