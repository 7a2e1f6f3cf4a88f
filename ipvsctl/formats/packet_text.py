r"""Packets in a short notation: in scenario files, for `ipvsctl trace`, in what the program says of a packet.

    PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT] [WORD ...] [KEY=VALUE ...] [[PACKET]]

    tcp 10.0.1.2:40000 > 192.168.1.100:80 S seq=1000 mss=1460
    tcp [fd00::2]:40000 > [fd00::1]:80 PA seq=1001 ack=2001 data="GET / HTTP/1.0\r\n\r\n"
    udp 10.0.1.2:40000 > 192.168.1.100:53 len=100 ttl=3
    icmp 10.0.0.1 > 10.0.1.2 fragmentation-needed mtu=1400 [tcp 10.0.1.2:40000 > 192.168.1.100:80 A seq=1]

The arrow may be -> as well. Numbers are decimal or 0xHEX. What is not said has a fixed value, given in parentheses:

* every packet: ttl= (64), tos= (0), id= (0; in ICMP ipid=), frag=OFFSET or frag=OFFSET+ when more follow (none);
  IPv4: df or nodf (nodf), ipoptions=HEX, badipsum or ipsum=NUMBER for another header checksum than the right one;
  IPv6: hop= and tclass= for ttl= and tos=, flow= (0), ext=NAME[:HEX],... of hopopts, routing, dstopts;
* payload: data="..." or hex=..., and len=N to fill it up to N bytes with 0, 1, 2 ... 255, 0 ...;
* transport checksum: badsum, or sum=NUMBER;
* tcp: flags of FSRPAUEC or - (-), seq= (0), ack= (0), window= (64240), urg= (0), mss=, wscale=, sackok, ts=VALUE:ECHO,
  sack=LEFT-RIGHT,... or options=HEX;
* udp: nosum for a checksum of zero, ulen= for another length than the right one;
* icmp, icmpv6: a name or type= and code=; id= and seq= of an echo, mtu=, pointer=, gateway= of errors, or rest=HEX
  (4 bytes); an error quotes [PACKET], of that quote=N bytes (IPv4: its header and 8; IPv6: what fits), or hex=;
* sctp: chunks by name or number, comma separated, each NAME[/FLAGS][:HEX]; tag= (0); the payload goes into DATA;
* ipip, gre, gue: [PACKET] inside; gre and gue: csum for a checksum; gue: remcsum=START:OFFSET;
* ip: proto=NUMBER and the payload; raw HEX: any bytes at all.

A fragment without ports (so every later one) holds its payload as it is; a first one with ports has a header.
"""

from __future__ import annotations

from ipvsctl.formats.packet_describe import describe
from ipvsctl.formats.packet_parse import parse

__all__ = ["describe", "parse"]
