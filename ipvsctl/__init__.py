"""ipvsctl: the control tool of a Linux Virtual Server director."""

__version__ = "0.1.0"
