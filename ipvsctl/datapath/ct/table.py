"""Connection tracking: the table of connections and what each packet has to do with it.

Source: nf_conntrack_core.c (nf_conntrack_in, resolve_normal_ct, init_conntrack, __nf_conntrack_confirm and the
functions named below), nf_conntrack_proto.c (nf_confirm, nf_ct_netns_get). A packet gets its entry when it comes in; a
new entry stands in the table only when the packet has come through to the other end and is confirmed there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipvsctl.datapath.ct import helpers, icmp, seqadj, tcp, tuples
from ipvsctl.datapath.ct.entry import (
    CONFIRMED,
    DST_NAT_DONE,
    DYING,
    EXPECTED,
    FIXED_TIMEOUT,
    HELPER,
    NAT_CLASH,
    SEEN_REPLY,
    SEQ_ADJUST,
    SRC_NAT_DONE,
    Entry,
)  # fmt: skip
from ipvsctl.datapath.ct.expect import Expectations
from ipvsctl.datapath.ct.listing import report
from ipvsctl.datapath.ct.outcome import ACCEPT, REPEAT
from ipvsctl.datapath.ct.pressure import Pressure
from ipvsctl.datapath.ct.protocols import NO_CLASH, TRACKERS, generic
from ipvsctl.datapath.ct.tracking import Tracking
from ipvsctl.datapath.hooks import LOCAL_OUT
from ipvsctl.datapath.skb import (
    ESTABLISHED,
    ESTABLISHED_REPLY,
    ICMP,
    ICMPV6,
    NEW,
    NONE,
    RELATED,
    RELATED_REPLY,
    UNTRACKED,
    Skb,
)  # fmt: skip
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.model.address import INET, INET6

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.model.status import ConntrackEntry

_ACCT = "net.netfilter.nf_conntrack_acct"
_AUTOMATIC_HELPER = "net.netfilter.nf_conntrack_helper"
_ICMP = frozenset({ICMP, ICMPV6})
_NO_NEXT_HEADER = 59
_CLASH_TIMEOUT = 1.0
_IN_USE, _NOT_IN_USE = frozenset({"conntrack"}), frozenset[str]()


class Conntrack(Tracking):
    """The connections of the namespace. `count` of confirmed ones, which alone are in the table."""

    __slots__ = ("_pressure", "_table", "_users", "count", "expectations")

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.expectations = Expectations(engine)
        self.count = 0
        self._table: dict[bytes, Entry] = {}
        self._users = {INET: 0, INET6: 0}
        self._pressure = Pressure(self)

    # -- in use or not ------------------------------------------------------------------------------------------------

    def hooks(self, family: int) -> frozenset[str]:
        """What rows of the hook table may need: "conntrack" while somebody uses it in the family."""
        return _IN_USE if self._users[family] else _NOT_IN_USE

    def use(self, family: int) -> None:
        """Somebody needs conntrack (nf_ct_netns_get); its hooks are there from the first user on."""
        self._users[family] += 1
        if self._users[family] == 1:
            self.engine.rebuild()
            size = 13 if family == INET else 37
            for entry in self._table.values():
                if len(entry.original) == size:
                    tcp.rehook(entry)

    def unuse(self, family: int) -> None:
        """Somebody no longer needs it (nf_ct_netns_put); the entries stay until they time out."""
        if self._users[family]:
            self._users[family] -= 1
            if not self._users[family]:
                self.engine.rebuild()

    # -- hook functions -----------------------------------------------------------------------------------------------

    def conntrack_in(self, skb: Skb) -> Verdict:
        """PREROUTING and OUTPUT: find the packet's entry or make one (nf_conntrack_in).

        Afterwards `skb.ct` and `skb.ctinfo` say what rules see; NONE is INVALID. Drops only when there is no room for
        a new entry.
        """
        if skb.ct is not None or skb.ctinfo == UNTRACKED:
            return None
        template = skb.template
        if template is not None:
            skb.template = None
            if template.get("notrack"):
                skb.ctinfo = UNTRACKED
                return None
        skb.ctinfo = NONE
        protocol = skb.protocol
        if skb.fragment or (skb.more and skb.hook == LOCAL_OUT and skb.family == INET):
            return None
        if protocol in _ICMP:
            if icmp.error(self, skb) is not None:
                return None
        elif protocol == _NO_NEXT_HEADER and skb.family == INET6:
            return None
        tracker = TRACKERS.get(protocol, generic)
        table = self._table
        while True:
            key = tuples.make(protocol, skb.source, skb.destination, skb.data, skb.thoff)
            if key is None:
                self.invalid("the transport header is cut off, or cannot be tracked")
                return None
            entry = table.get(key)
            if entry is not None and entry.expires <= self.engine.now:
                self.kill(entry)
                entry = None
            if entry is None:
                made = self._make(key, template)
                if not isinstance(made, Entry):
                    return made
                entry, reply = made, False
            else:
                # A packet from an address and port to themselves: the kernel finds the reply direction first.
                reply = entry.reply == key
            if reply:
                info = ESTABLISHED_REPLY
            elif entry.status & SEEN_REPLY:
                info = ESTABLISHED
            else:
                info = RELATED if entry.status & EXPECTED else NEW
            skb.ct, skb.ctinfo = entry, info
            outcome = tracker(self, entry, skb, reply)
            if outcome is ACCEPT:
                if reply:
                    entry.status |= SEEN_REPLY
                return None
            skb.ct, skb.ctinfo = None, NONE
            if not entry.status & (CONFIRMED | DYING):
                self._give_up(entry)
            if outcome is not REPEAT:
                return None

    def _make(self, key: bytes, template: dict[str, Any] | None) -> Entry | Verdict:
        """A new entry (init_conntrack); None when the packet can have none, a reason when the table is full."""
        reply = tuples.invert(key)
        if reply is None:
            self.invalid("an ICMP type that is no question")
            return None
        if not self._pressure.room():
            return Reason.CONNTRACK_FULL
        entry = Entry(self, key, reply)
        if self.settings[_ACCT]:
            entry.packets, entry.octets = [0, 0], [0, 0]
        expected = self.expectations.take(key) if self.expectations.count else None
        if expected is not None:
            entry.status = EXPECTED
            entry.master = expected.master
            entry.mark = expected.master.mark
            self._assign(entry, expected.helper)
            self.note("an expected connection begins: related to another one")
            if expected.on_new is not None:
                expected.on_new(entry)
        elif template is not None:
            name = template.get("helper")
            self._assign(entry, helpers.find(name, key[0]) if isinstance(name, str) else name)
        elif self.settings.get(_AUTOMATIC_HELPER):
            entry.helper = helpers.automatic(entry, self.engine)
        return entry

    def _assign(self, entry: Entry, helper: Any) -> None:
        if helper is not None:
            entry.helper = helper
            entry.status |= HELPER

    def confirm(self, skb: Skb) -> Verdict:
        """INPUT and POSTROUTING, last of all: the helper, sequence adjustment, the confirmation (nf_confirm)."""
        entry = skb.ct
        if entry is None:
            return None
        if skb.ctinfo != RELATED_REPLY and not skb.fragment:
            if entry.helper is not None:
                verdict: Verdict = entry.helper.help(self.engine, skb, entry)
                if verdict is not None:
                    return verdict
            if (
                entry.status & SEQ_ADJUST
                and skb.indev != "lo"
                and not seqadj.adjust(skb, entry, skb.ctinfo >= ESTABLISHED_REPLY)
            ):
                return Reason.TRUNCATED
        if entry.status & CONFIRMED:
            return None
        return self._confirm(skb, entry)

    def confirm_now(self, skb: Skb) -> Verdict:
        """The confirmation alone (nf_conntrack_confirm): what IPVS does for tunnels."""
        entry = skb.ct
        if entry is None or entry.status & CONFIRMED:
            return None
        return self._confirm(skb, entry)

    def _confirm(self, skb: Skb, entry: Entry) -> Verdict:
        if skb.ctinfo == ESTABLISHED_REPLY or skb.ctinfo == RELATED_REPLY:
            return None  # An answer of REJECT, which carries the entry of what it answers.
        if entry.status & DYING:
            return Reason.CONNTRACK_CLASH
        table = self._table
        clash = self._alive(entry.original) or self._alive(entry.reply)
        if clash is not None:
            return self._resolve(skb, entry, clash)
        entry.expires = self.engine.now + entry.timeout
        table[entry.original] = table[entry.reply] = entry
        entry.status |= CONFIRMED
        self.count += 1
        self.timers.watch(entry)
        return None

    def _resolve(self, skb: Skb, entry: Entry, clash: Entry) -> Verdict:
        """Another entry has the tuple (nf_ct_resolve_clash): go on with that one, or for the answers alone, or drop."""
        if clash.original[0] in NO_CLASH:
            self._give_up(entry)
            return Reason.CONNTRACK_CLASH
        other = self._alive(entry.reply)
        for winner in (clash, other):
            if winner is not None and (
                not winner.status & (SRC_NAT_DONE | DST_NAT_DONE)
                or (winner.original == entry.original and winner.reply == entry.reply)
            ):
                if entry.octets is not None:
                    self.account(winner, skb, False)
                self._give_up(entry)
                skb.ct = winner
                self.note("another connection took the tuple: the packet goes on as one of that")
                return None
        if other is not None:
            self._give_up(entry)
            return Reason.CONNTRACK_CLASH
        entry.status |= FIXED_TIMEOUT | NAT_CLASH | CONFIRMED
        entry.expires = self.engine.now + _CLASH_TIMEOUT
        self._table[entry.reply] = entry
        self.count += 1
        self.timers.watch(entry)
        return None

    # -- for the other parts ------------------------------------------------------------------------------------------

    def _alive(self, key: bytes) -> Entry | None:
        entry = self._table.get(key)
        if entry is not None and entry.expires <= self.engine.now:
            self.kill(entry)
            return None
        return entry

    def find(self, key: bytes) -> tuple[Entry, bool] | None:
        """The confirmed entry that a tuple belongs to, and whether in reply direction (nf_conntrack_find_get)."""
        entry = self._alive(key)
        return None if entry is None else (entry, entry.reply == key)

    def taken(self, key: bytes, ignore: Entry) -> bool:
        """Whether another connection has the tuple (nf_conntrack_tuple_taken): address translation asks.

        Two entries of the same original tuple are the same flow; their clash is left to the confirmation.
        """
        entry = self._alive(key)
        return entry is not None and entry is not ignore and entry.original != ignore.original

    def kill(self, entry: Entry) -> bool:
        """End an entry (nf_ct_delete); false when it is dying already."""
        if entry.status & DYING:
            return False
        entry.status |= DYING
        if entry.status & CONFIRMED:
            table = self._table
            for key in (entry.original, entry.reply):
                if table.get(key) is entry:
                    del table[key]
            self.count -= 1
            self.timers.forget(entry)
        self._give_up(entry)
        return True

    def _give_up(self, entry: Entry) -> None:
        if entry.expectations is not None:
            self.expectations.forget(entry)

    def alter_reply(self, entry: Entry, reply: bytes) -> None:
        """What the answers will look like (nf_conntrack_alter_reply); nothing happens once the entry is confirmed."""
        if entry.status & CONFIRMED:
            return
        entry.reply = reply
        if (
            self.settings.get(_AUTOMATIC_HELPER)
            and not entry.status & HELPER
            and entry.master is None
            and entry.expectations is None
        ):
            entry.helper = helpers.automatic(entry, self.engine)

    def tuple_of(self, skb: Skb) -> bytes | None:
        """The packet's tuple as it is now (nf_ct_get_tuple); None when it can have none."""
        if skb.fragment:
            return None
        return tuples.make(skb.protocol, skb.source, skb.destination, skb.data, skb.thoff)

    def invert(self, key: bytes) -> bytes:
        """The tuple of the answer (nf_ct_invert_tuple); b"", which is in no table, when there can be none."""
        return tuples.invert(key) or b""

    def untrack(self, skb: Skb) -> None:
        """Let the packet's entry go; from here on the packet is untracked."""
        entry = skb.ct
        if entry is not None and not entry.status & (CONFIRMED | DYING):
            self._give_up(entry)
        skb.ct, skb.ctinfo = None, UNTRACKED

    def attach(self, skb: Skb, cause: Skb) -> None:
        """An answer of the host to a packet belongs to that packet's connection (nf_conntrack_attach)."""
        if cause.ct is not None:
            skb.ct = cause.ct
            skb.ctinfo = RELATED if cause.ctinfo >= ESTABLISHED_REPLY else RELATED_REPLY

    def close(self, skb: Skb) -> None:
        """A RST was sent in answer to this packet (nf_ct_set_closing): its connection is closed."""
        if skb.ct is not None:
            tcp.close(self, skb.ct)

    def expect(
        self, master: Entry, match: bytes, mask_source_port: bool, *, direction: int,
        on_new: Callable[[Entry], None] | None = None, helper: Any = None, timeout: float, permanent: bool = False,
    ) -> bool:  # fmt: skip
        """Expect a connection related to `master` (nf_ct_expect_related); see Expectations.add. False: refused."""
        return self.expectations.add(
            master, match, mask_source_port, direction=direction, on_new=on_new, helper=helper, timeout=timeout,
            permanent=permanent,
        )  # fmt: skip

    def report(self) -> list[ConntrackEntry]:
        """Every entry as ctnetlink lists it."""
        now = self.engine.now
        return [
            report(entry, now)
            for key, entry in self._table.items()
            if key == entry.original and entry.expires > now and not entry.status & NAT_CLASH
        ]

    def keys(self) -> list[bytes]:
        """The tuples of all entries, both of each."""
        return list(self._table)

    def flush(self) -> None:
        """End all entries."""
        for entry in list(self._table.values()):
            self.kill(entry)
