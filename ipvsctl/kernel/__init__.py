"""The host on Linux: the six ports on generic netlink, ctnetlink, rtnetlink, procfs, iptables, nft and modprobe."""
