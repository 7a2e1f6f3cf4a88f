'''The differential proof: one scenario, two subjects - the datapath and a real kernel - and nothing may differ.

    python -m tests.differential run FILE...                      what the emulated datapath does
    python -m tests.differential run --kernel bookworm FILE...    beside a kernel in QEMU: exit status 1 when it differs
    python -m tests.differential generate --seed 7 --count 100 --out DIR
    python -m tests.differential shrink FILE --kernel bookworm    the smallest variant that still differs
    pytest -m differential tests/differential                     the corpus and generated scenarios, in one boot

A scenario is a saved state (formats/snapshot_file.py, what `ipvsctl trace` reads) with `about` and steps:

    about = "LVS-NAT, a SYN and its answer, vs/conntrack=1 (S17)"
    modules = ["ip_vs_ftp"]
    iptables = """
    *filter
    -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT
    COMMIT
    """

    [[device]]
    name = "eth0"
    addresses = ["10.0.1.1/24", "192.168.1.100/32"]

    [[device]]
    name = "eth1"
    addresses = ["10.0.2.1/24"]
    hosts = ["10.0.2.2"]              # who answers on the link; without the key everybody does

    [[service]]
    address = "tcp:192.168.1.100:80"

    [[service.server]]
    address = "10.0.2.2:8080"
    forward = "nat"

    [sysctl]
    "net.ipv4.ip_forward" = 1
    "net.ipv4.vs.conntrack" = 1

    [[step]]
    in = "eth0"                       # a packet in the notation of formats/packet_text.py comes in by a device
    packet = "tcp 10.0.1.2:40000 > 192.168.1.100:80 S seq=1000 id=1"

    [[step]]
    at = 2.5                          # seconds since the start; else 0.01 after the step before
    in = "eth1"
    packets = ["tcp 10.0.2.2:8080 > 10.0.1.2:40000 SA seq=5000 ack=1001 id=2"]

    [[step]]
    send = "udp 10.0.1.1:5000 > 10.0.1.2:53"       # a process of the director sends it; `mark = 1` sets its mark

    [[step]]
    change = { change = "delete-server", service = "tcp:192.168.1.100:80", server = { address = "10.0.2.2:8080" } }

    [[step]]
    sysctl = { "net.ipv4.vs.expire_nodest_conn" = 1 }

    [[step]]
    flush_conntrack = true

`hex = "4500..."` gives a packet's bytes. There is no expectation in the file: the kernel is the expectation. Give IPv4
packets an `id` of their own: one that comes out again is compared, one that the kernel makes up is not.

What is compared: every packet that leaves a device, byte for byte and with its next hop, step by step; afterwards the
conntrack table, the IPVS connections, services and servers with their counters, and the counters of all rules and
policies. What is not compared is written in masks.py with its reason, differences that are meant to stay in known.py.

    scenario, generate*   what is played                 kernel, jobs       the boot, and what goes into it
    emulated              the datapath's side            guest*, rtnetlink  what runs inside it
    compare, masks, judge, known                         show               for people

Timers run in real time in the kernel; the datapath plays at the times at which the kernel really was. Scenarios run
side by side, each in namespaces of its own, so waiting costs nothing, but `at` is only ever "not before". A guest that
is busy is seconds late: it keeps a pause of 0.05 s or more between two steps, and no other time. So leave half a second
behind a timeout, and let what shall not end meanwhile have a timeout of minutes.
'''
