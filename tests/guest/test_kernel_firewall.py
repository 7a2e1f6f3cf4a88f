"""The iptables-legacy back end on a kernel where tables, matches and targets are modules that come when they are used.

What holds on the machine's own kernel holds here: those tests run again, and then what needs loadable modules.
"""

from __future__ import annotations

import pytest

from ipvsctl.kernel.firewall import KernelFirewall
from ipvsctl.kernel.modules import KernelModules
from tests.kernel.namespaces import fresh_namespace, run
from tests.kernel.test_firewall import (  # noqa: F401
    PREROUTING,
    change,
    firewall,
    test_a_change_creates_the_table_it_needs_and_no_other,
    test_a_jump_stays_where_the_administrator_put_it,
    test_among_the_rules_of_others,
    test_counters_of_rules_that_stay,
    test_ipv6,
    test_notes,
    test_reading_creates_nothing,
    test_what_iptables_wrote,
    test_what_is_not_ours_to_understand_differs_and_comes_back,
)

pytestmark = pytest.mark.guest


def loaded() -> set[str]:
    return set(run("cut -d' ' -f1 /proc/modules").split())


def test_asking_loads_no_module() -> None:
    with fresh_namespace():
        before = loaded()
        host = KernelFirewall()
        assert host.backend() == "iptables-legacy"
        assert host.chains() == ()
        assert loaded() - before <= {"ip_tables", "ip6_tables", "x_tables"}, "importing python-iptables asks for these"
        assert KernelModules().feature("iptable_raw").state in ("loadable", "loaded")


def test_a_change_brings_the_modules_it_needs() -> None:
    with fresh_namespace():
        KernelFirewall().replace(change(PREROUTING))
        assert {"iptable_raw", "xt_CT", "nf_conntrack_ftp", "xt_tcpudp", "xt_comment"} <= loaded()
        KernelFirewall().replace(change(table="raw"))
        assert KernelFirewall().chains() == ()
