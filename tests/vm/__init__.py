"""A small lab: boot a Debian kernel with IPVS in QEMU and run one command of this checkout inside it.

`python -m tests.vm -- COMMAND` is the way in. `kernels` fetches a kernel, `initramfs` builds the first file
system, `guest` boots the two and brings back output and exit status. Standard library only: the lab works before
the project's own dependencies are installed.
"""
