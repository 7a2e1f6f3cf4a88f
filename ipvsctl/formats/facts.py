"""Evidence and findings as plain dictionaries, for JSON and for doctor's bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ipvsctl.formats.values import status_to_dict
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.facts import Facts
from ipvsctl.model.finding import Finding
from ipvsctl.model.rule import OwnChain, Rule
from ipvsctl.model.status import ServiceStatus

FINDING = ("id", "severity", "subject", "why", "fix", "persist", "source")
"""What a finding says in JSON."""


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in FINDING}


def facts_to_dict(facts: Facts) -> dict[str, Any]:
    """Every part of the evidence under its own name; what is missing is named under "missing"."""
    return {field.name: _plain(getattr(facts, field.name)) for field in fields(facts)}


def _plain(value: Any) -> Any:
    if isinstance(value, ServiceStatus):
        return status_to_dict(value)
    if isinstance(value, Rule | ServiceAddress | ServerAddress):
        return str(value)
    if isinstance(value, OwnChain):
        return {"chain": str(value), "jump": value.jump, "rules": [str(rule) for rule in value.rules]}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if hasattr(value, "_asdict"):
        return {key: _plain(each) for key, each in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
