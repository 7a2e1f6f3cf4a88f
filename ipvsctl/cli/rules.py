"""What `nfct` and `firewall` share: a director made of what is there, and the rules that follow from it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ipvsctl.knowledge.recipes import director_of
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

    A service on port 21 with servers that are not reached by nat is left out, and noted: the helper's rule is for nat.
    """
    wishes, notes = [], []
    for wish in director.services:
        address = wish.service.address
        if wish.helper is None and address.protocol == "tcp" and address.port == FTP_PORT:
            if all(server.forward == "nat" for server in wish.servers):
                wish = replace(wish, helper="ftp")
            else:
                notes.append(f"no helper for {address}: it has servers that are not reached by nat")
        wishes.append(wish)
    return replace(director, services=tuple(wishes)), tuple(notes)


def plan(host: Host, wanted: Wanted, notes: tuple[str, ...] = ()) -> Plan:
    """What makes the host have modules, rules and sysctls; its services, timeouts and daemons are left alone."""
    wanted = replace(wanted, services=None, timeouts=None, daemons=None, notes=(*notes, *wanted.notes))
    return difference(wanted, observe(host, wanted))
