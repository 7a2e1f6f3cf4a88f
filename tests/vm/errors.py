"""The one way in which the lab fails: a message for the person who started it."""

from __future__ import annotations


class LabError(Exception):
    """The lab itself could not do its work; the job in the guest is not to blame."""
