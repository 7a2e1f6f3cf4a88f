"""The options of ipvsadm 1.31 as one table: how each is spelled, what value it takes, which commands it goes with.

Names are those of ipvsadm's messages. The order of the rows is the order in which the rules between a command and its
options are checked, so it decides which of several violations is told.
"""

from __future__ import annotations

from typing import NamedTuple

NONE, REQUIRED, OPTIONAL = "", "required", "optional"


class Spelling(NamedTuple):
    """One way to write an option. `key` is its long name, `option` the name in rules and messages, "" for none."""

    key: str
    short: str = ""
    value: str = NONE
    option: str = ""


COMMANDS: dict[str, tuple[str, str]] = {
    # key -> column of the matrix, name in messages
    "add-service": ("A", "add-service"), "edit-service": ("E", "edit-service"),
    "delete-service": ("D", "delete-service"), "clear": ("C", "flush"), "list": ("L", "list"),
    "add-server": ("a", "add-server"), "delete-server": ("d", "delete-server"), "edit-server": ("e", "edit-server"),
    "set": ("T", "set"), "start-daemon": ("B", "start-daemon"), "stop-daemon": ("P", "stop-daemon"),
    "restore": ("R", "restore"), "save": ("S", "save"), "zero": ("Z", "zero"), "help": ("h", "help"),
    "version": ("v", "version"),
}  # fmt: skip
COLUMNS = "AEDCLadeTBPRSZ"

SPELLINGS = (
    Spelling("add-service", "A"), Spelling("edit-service", "E"), Spelling("delete-service", "D"),
    Spelling("clear", "C"),
    Spelling("list", "L"), Spelling("list", "l"), Spelling("zero", "Z"), Spelling("add-server", "a"),
    Spelling("edit-server", "e"), Spelling("delete-server", "d"), Spelling("restore", "R"), Spelling("save", "S"),
    Spelling("set"), Spelling("start-daemon", "", REQUIRED), Spelling("stop-daemon", "", REQUIRED),
    Spelling("help", "h"), Spelling("version", "v"),
    Spelling("tcp-service", "t", REQUIRED, "service-address"),
    Spelling("udp-service", "u", REQUIRED, "service-address"),
    Spelling("sctp-service", "", REQUIRED, "service-address"),
    Spelling("fwmark-service", "f", REQUIRED, "service-address"),
    Spelling("ipv6", "6"),
    Spelling("scheduler", "s", REQUIRED, "scheduler"),
    Spelling("persistent", "p", OPTIONAL, "persistent"),
    Spelling("netmask", "M", REQUIRED, "netmask"),
    Spelling("pe", "", REQUIRED, "pe"),
    Spelling("sched-flags", "b", REQUIRED, "sched-flags"),
    Spelling("ops", "o", NONE, "ops"),
    Spelling("real-server", "r", REQUIRED, "real-server"),
    Spelling("gatewaying", "g", NONE, "forwarding-method"),
    Spelling("ipip", "i", NONE, "forwarding-method"),
    Spelling("masquerading", "m", NONE, "forwarding-method"),
    Spelling("weight", "w", REQUIRED, "weight"),
    Spelling("u-threshold", "x", REQUIRED, "u-threshold"),
    Spelling("l-threshold", "y", REQUIRED, "l-threshold"),
    Spelling("tun-type", "", REQUIRED, "tun-type"),
    Spelling("tun-port", "", REQUIRED, "tun-port"),
    Spelling("tun-nocsum", "", NONE, "tun-nocsum"),
    Spelling("tun-csum", "", NONE, "tun-csum"),
    Spelling("tun-remcsum", "", NONE, "tun-remcsum"),
    Spelling("numeric", "n", NONE, "numeric"),
    Spelling("connection", "c", NONE, "connection"),
    *(Spelling(name, "", NONE, name) for name in
      ("timeout", "daemon", "stats", "rate", "thresholds", "persistent-conn", "nosort", "tun-info")),
    Spelling("exact", "X", NONE, "exact"),
    Spelling("sort"),
    *(Spelling(name, "", REQUIRED, name) for name in
      ("syncid", "mcast-interface", "mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen")),
)  # fmt: skip
SHORT = {spelling.short: spelling for spelling in SPELLINGS if spelling.short}
LONG = {spelling.key: spelling for spelling in SPELLINGS}

MATRIX = {
    # AEDCL ade TBP RSZ: "+" required, "o" allowed, "1" allowed, one of these in a row at most, "." illegal.
    "numeric": "....o...." "...o.", "connection": "....1...." ".....",
    "service-address": "+++.1+++." "....o", "scheduler": "oo......." ".....", "persistent": "oo......." ".....",
    "netmask": "oo......." ".....", "real-server": ".....+++." ".....", "forwarding-method": ".....o.o." ".....",
    "weight": ".....o.o." ".....", "u-threshold": ".....o.o." ".....", "l-threshold": ".....o.o." ".....",
    "mcast-interface": "........." "o....", "timeout": "....1...." ".....", "daemon": "....1...." ".....",
    "stats": "....o...." ".....", "rate": "....o...." ".....", "thresholds": "....o...." ".....",
    "persistent-conn": "....o...." ".....", "nosort": "....o...." ".....", "syncid": "....o...." "oo...",
    "exact": "....o...." ".....", "ops": "oo......." ".....", "pe": "oo......." ".....",
    "sched-flags": "oo......." ".....", "mcast-group": "........." "o....", "mcast-port": "........." "o....",
    "mcast-ttl": "........." "o....", "sync-maxlen": "........." "o....", "tun-info": "....o...." ".....",
    "tun-type": ".....o.o." ".....", "tun-port": ".....o.o." ".....", "tun-nocsum": ".....o.o." ".....",
    "tun-csum": ".....o.o." ".....", "tun-remcsum": ".....o.o." ".....",
}  # fmt: skip

TUNNEL_MATRIX = {
    # ipip, gue, gre
    "tun-port": ".+.", "tun-nocsum": ".11", "tun-csum": ".11", "tun-remcsum": ".1.",
}
TUNNEL_COLUMNS = ("ipip", "gue", "gre")

DISPLAY_CONFLICTS = (
    ("connection", "stats"), ("connection", "rate"), ("connection", "thresholds"),
    *((left, right) for left in ("timeout", "daemon") for right in ("stats", "rate", "thresholds", "persistent-conn")),
)  # fmt: skip

VERSION = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)"
"""What `-v` prints: programs read it. The number of IPVS is not the kernel's."""

HELP = """\
{version}
Usage: {program} COMMAND [OPTION...]

Commands, of which one comes first:
  -A, --add-service SERVICE        [-s NAME] [-p [SECONDS]] [-M MASK] [--pe NAME] [-b FLAGS] [-o]
  -E, --edit-service SERVICE       the same; what is left out gets its default, not what it was
  -D, --delete-service SERVICE
  -a, --add-server SERVICE -r SERVER     [-g|-i|-m] [-w WEIGHT] [-x N] [-y N] [tunnel options]
  -e, --edit-server SERVICE -r SERVER    the same; what is left out gets its default, not what it was
  -d, --delete-server SERVICE -r SERVER
  -L, -l, --list [SERVICE]         [-n] [--stats|--rate|--thresholds|--persistent-conn|--tun-info] [--exact] [--nosort]
  -L -c, --connection              the connections; [-n] [--persistent-conn]
  -L --timeout, -L --daemon        the timeouts; the synchronisation daemons
  -S, --save [-n]                  print the table as lines for -R
  -R, --restore                    run the lines of standard input
  -C, --clear                      delete every service
  -Z, --zero [SERVICE]             zero the counters of a service or of all
      --set TCP TCPFIN UDP         timeouts in seconds, 0 to leave one as it is
      --start-daemon master|backup [--mcast-interface DEVICE] [--syncid N] [--sync-maxlen BYTES]
                                   [--mcast-group ADDRESS] [--mcast-port PORT] [--mcast-ttl HOPS]
      --stop-daemon master|backup  [--syncid N]
  -h, --help; -v, --version

SERVICE is one of
  -t, --tcp-service HOST:PORT      also -u, --udp-service and --sctp-service; IPv6 as [ADDRESS]:PORT
  -f, --fwmark-service MARK        packets with this firewall mark, 1..4294967295; behind it -6, --ipv6 for IPv6

Options of services:
  -s, --scheduler NAME             wlc if it is left out
  -p, --persistent [SECONDS]       1..2678400, 360 if they are left out
  -M, --netmask MASK               clients that persist together: an IPv4 mask, or an IPv6 prefix length
      --pe NAME                    persistence engine: sip
  -b, --sched-flags FLAGS          with commas between: flag-1 flag-2 flag-3 sh-fallback sh-port mh-fallback mh-port
  -o, --ops                        schedule every packet; UDP and marks only
Options of servers:
  -r, --real-server HOST[:PORT]    with -g and -i the port is always the service's
  -g, --gatewaying                 direct routing, the default
  -i, --ipip                       tunnel
  -m, --masquerading               NAT
  -w, --weight N                   0..2147483647, 1 if it is left out
  -x, --u-threshold N, -y, --l-threshold N    connections at which new ones stop and start to come; 0: none
      --tun-type ipip|gue|gre, --tun-port PORT (gue), --tun-nocsum, --tun-csum, --tun-remcsum (gue)
Options of lists:
  -n, --numeric                    numbers instead of names
  -X, --exact                      counters in full
      --sort                       nothing: lists are sorted without it; --nosort: the host's order

This is ipvsctl in the place of ipvsadm: `ipvsctl --help` shows what else it can do.
"""
