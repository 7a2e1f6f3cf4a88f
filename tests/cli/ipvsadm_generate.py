"""Command lines of ipvsadm from a seed: right ones on a few services, and what people and fuzzers make of them.

Addresses stay within half of the address space, where the order of a list does not depend on a hash table, and marks
below 2**31. What differs on purpose is left out: see knowledge/ipvsadm_differences.py.
"""

from __future__ import annotations

from random import Random

Line = tuple[list[str], str]
"""The words of a command line, and its standard input."""

LENGTH = 25
"""Lines of a sequence: it begins with an empty table."""

_SERVICES = (
    ["-t", "10.0.0.1:80"], ["-t", "10.0.0.2:80"], ["-t", "10.0.0.1:443"], ["-u", "10.0.0.1:53"],
    ["-u", "10.0.0.1:5060"], ["--sctp-service", "10.0.0.1:36412"], ["-f", "1"], ["-f", "1", "-6"], ["-f", "7"],
    ["-t", "[2001:db8::1]:80"], ["-u", "[2001:db8::1]:53"], ["-t", "10.0.0.3:0"], ["-t", "2001:db8::6"],
    ["--tcp-service=10.0.0.4:8080"], ["-t", "0.0.0.0:80"],
)  # fmt: skip
_SERVERS = (
    "10.0.0.2", "10.0.0.3:8080", "10.0.0.4:80", "10.9.9.9", "[2001:db8::2]:80", "2001:db8::3", "[2001:db8::9]:8080",
    "10.0.0.5:0", "224.0.0.1", "10.0.0.255:80", "0.0.0.0:80", "[ff02::1]:80", "[::]:80", "127.0.0.1", "fe80::1",
    "10.0.0.2:80", "10.0.0.3", "10.0.0.4", "10.0.0.2:8080", "[::ffff:10.0.0.6]:80",
)  # fmt: skip
_SCHEDULERS = (
    "rr", "wrr", "lc", "wlc", "sh", "mh", "dh", "sed", "nq", "fo", "ovf", "lblc", "lblcr", "none", "nosuch", "",
)  # fmt: skip
_FLAGS = (
    "flag-1", "flag-2", "sh-port", "sh-fallback", "mh-port", "mh-fallback", "flag-1,flag-2", "sh-port,sh-fallback",
)  # fmt: skip
_NASTY = (
    "", "-1", "0", "1", "+5", " 7", "010", "0x10", "1.5", "80 ", "2147483647", "2147483648", "4294967295",
    "99999999999999999999", "65535", "65536", "255", "256", "abc", "10.0.0.1", "10.0.0.1:80", "10.1:80",
    "[10.0.0.1]:80", "::1", "[::1]", "[::1]:80", "/24", "255.255.255.0", "64", "64abc", "129", "master", "backup",
    "both", ",", "a,b", "-", "--", "rr", "-n", "=5", "10.0.0.5 foo:80", "a" * 200, "é", "10.0.0.1:http",
    "10.0.0.1:nosuch", "0.0.0.0", "0.0.0.0:0", "0:0", "[10.0.0.1:90]:80", "!#:+", "10.0.0.1:0080", ":80", "[]:80",
    "1e3", "\t5", "5\t", "\x0b5", "--5", "+-5", "+", "::ffff:10.0.0.1", "[2001:db8::1]:", "10.0.0.9:-1",
    "10.0.0.9:+80",
)  # fmt: skip
_OPTIONS = (
    ["-n"], ["-c"], ["--stats"], ["--rate"], ["--thresholds"], ["--persistent-conn"], ["--nosort"], ["--sort"],
    ["--exact"], ["-X"], ["--tun-info"], ["--timeout"], ["--daemon"], ["-o"], ["-g"], ["-i"], ["-m"], ["-p"],
    ["-p", "60"], ["-M", "255.255.255.0"], ["-M", "64"], ["--pe", "sip"], ["-s", "rr"], ["-b", "flag-1"], ["-w", "3"],
    ["-x", "10"], ["-y", "5"], ["-r", "10.0.0.2"], ["-t", "10.0.0.1:80"], ["-u", "10.0.0.1:53"], ["-f", "3"], ["-6"],
    ["--tun-type", "gre"], ["--tun-port", "6080"], ["--tun-csum"], ["--tun-nocsum"], ["--tun-remcsum"],
    ["--syncid", "5"], ["--mcast-interface", "d0"], ["--mcast-group", "224.0.0.99"], ["--mcast-port", "9000"],
    ["--mcast-ttl", "3"], ["--sync-maxlen", "1400"], ["-A"], ["-L"], ["-Z"], ["-h"], ["-v"], ["-q"], ["--bogus"],
    ["word"], ["-nX"], ["-"], ["--"],
)  # fmt: skip
_COMMANDS = (
    "-A", "-E", "-D", "-C", "-L", "-l", "-Z", "-a", "-e", "-d", "-S", "--set", "--add-service", "--edit-server",
    "--list",
)  # fmt: skip


def sequence(seed: int) -> list[Line]:
    """The lines of a seed."""
    random = Random(seed)
    lines: list[Line] = []
    for _ in range(LENGTH):
        if random.random() < 0.06:
            text = "".join(_stream_line(random) for _ in range(random.randint(1, 6)))
            lines.append((["-R"], text if random.random() < 0.9 else text.rstrip("\n")))
        else:
            lines.append((_line(random), ""))
    return lines


def _stream_line(random: Random) -> str:
    words = _line(random)
    if not all(word.isprintable() and word.isascii() for word in words):
        words = ["-A", "-t", "10.0.0.1:80"]
    glue = " " if random.random() < 0.9 else "\t  "
    text = glue.join(words)
    return (
        random.choice((text, text, text, f"ipvsadm {text}", f"{text} ", f"{text}\r", f"# {text}", f"\n{text}")) + "\n"
    )


def _line(random: Random) -> list[str]:
    words = _right(random)
    if random.random() < 0.35:
        for _ in range(random.randint(1, 3)):
            words = _mutated(random, words)
    # A crash of the C program is no answer to compare with; help texts differ; a restore inside waits for input.
    return [word for word in words if not _left_out(word)]


def _left_out(word: str) -> bool:
    flags = word.removeprefix("-b").removeprefix("=")
    return word in ("-h", "-R", "--help", "--restore") or (flags != "" and not flags.strip(","))


def _service(random: Random) -> list[str]:
    return list(random.choice(_SERVICES))


def _settings(random: Random) -> list[str]:
    words = []
    if random.random() < 0.7:
        words += ["-s", random.choice(_SCHEDULERS)]
    if random.random() < 0.4:
        words += ["-p"] if random.random() < 0.5 else ["-p", str(random.choice((1, 60, 360, 2678400)))]
    if random.random() < 0.2:
        words += ["-M", random.choice(("255.255.255.0", "24", "64", "128", "0.0.0.0", "255.255.255.255"))]
    if random.random() < 0.15:
        words += ["--pe", "sip"]
    if random.random() < 0.2:
        words += ["-b", random.choice(_FLAGS)]
    if random.random() < 0.15:
        words.append("-o")
    return words


def _how(random: Random) -> list[str]:
    words = []
    if random.random() < 0.8:
        words.append(random.choice(("-m", "-g", "-i", "-m")))
    if random.random() < 0.5:
        words += ["-w", str(random.choice((0, 1, 5, 100, 65535, 2147483647)))]
    if random.random() < 0.2:
        words += ["-x", str(random.choice((0, 10, 2147483647)))]
    if random.random() < 0.2:
        words += ["-y", str(random.choice((0, 5, 10, 20)))]
    if "-i" in words and random.random() < 0.5:
        words += ["--tun-type", random.choice(("ipip", "gue", "gre"))]
        if random.random() < 0.5:
            words += ["--tun-port", "6080"]
        if random.random() < 0.5:
            words.append(random.choice(("--tun-csum", "--tun-nocsum", "--tun-remcsum")))
    return words


def _right(random: Random) -> list[str]:
    """A command line that is well formed most of the time."""
    kind = random.choices(
        ("A", "a", "E", "e", "d", "D", "L", "S", "Z", "C", "set", "daemon"), (24, 26, 7, 8, 6, 5, 12, 3, 3, 1, 2, 5)
    )[0]
    match kind:
        case "A" | "E":
            words = [f"-{kind}", *_service(random), *_settings(random)]
        case "a" | "e":
            words = [f"-{kind}", *_service(random), "-r", random.choice(_SERVERS), *_how(random)]
        case "d":
            words = ["-d", *_service(random), "-r", random.choice(_SERVERS)]
        case "D":
            words = ["-D", *_service(random)]
        case "L":
            words = ["-L", "-n"]
            if random.random() < 0.25:
                words += _service(random)
            words += [
                random.choice(("--stats", "--rate", "--thresholds", "--persistent-conn", "--tun-info", "--exact", "-c"))
                for _ in range(random.randint(0, 2))
            ]
            if random.random() < 0.15:
                words = ["-L", random.choice(("--timeout", "--daemon"))]
            if random.random() < 0.1:
                words.remove("-n") if "-n" in words else None
        case "S":
            words = ["-S", "-n"][: random.randint(1, 2)]
        case "Z":
            words = ["-Z", *(_service(random) if random.random() < 0.6 else [])]
        case "C":
            words = ["-C"]
        case "set":
            words = ["--set", *(str(random.choice((0, 1, 60, 900, 2678400))) for _ in range(3))]
        case _:
            role = random.choice(("master", "backup"))
            words = [random.choice(("--start-daemon", "--stop-daemon")), role]
            if words[0] == "--start-daemon" or random.random() < 0.2:
                words += ["--mcast-interface", random.choice(("d0", "d0", "d0", "nosuch0", "lo"))]
                if random.random() < 0.5:
                    words += ["--syncid", str(random.randint(0, 255))]
                if random.random() < 0.3:
                    words += ["--mcast-group", random.choice(("224.0.0.99", "ff02::81", "10.0.0.1", "239.255.255.255"))]
                if random.random() < 0.3:
                    words += ["--sync-maxlen", str(random.choice((1, 1000, 1400, 65507)))]
                if random.random() < 0.3:
                    words += ["--mcast-port", "9000", "--mcast-ttl", "3"]
    return words


def _mutated(random: Random, words: list[str]) -> list[str]:
    words = list(words)
    at = random.randrange(len(words)) if words else 0
    match random.randrange(9):
        case 0 if words:
            del words[at]
        case 1 if words:
            words.insert(at, words[at])
        case 2 if len(words) > 1:
            other = random.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        case 3 if words:
            words[at] = random.choice(_NASTY)
        case 4:
            words[at:at] = random.choice(_OPTIONS)
        case 5 if words:
            words += random.choice(_OPTIONS)
        case 6 if words and len(words) > at + 1 and words[at].startswith("-"):
            words[at : at + 2] = [words[at] + random.choice(("=", "")) + words[at + 1]]
        case 7 if words and len(words) > at + 1 and words[at].startswith("-"):
            words[at + 1] = random.choice(_NASTY)
        case 8:
            words[:1] = [random.choice(_COMMANDS)]
    return words
