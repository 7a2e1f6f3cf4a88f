"""The host on Linux: the five ports on generic netlink, ctnetlink, procfs, iptables, nft and modprobe."""
