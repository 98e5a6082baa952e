"""Strategies with options, as users write them: ``NAME[:key=value,…]``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...strategies import registry as strategies
from .pairs import parse_options


def variant(reference: str, shared: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The strategy's name, and those of its options that differ from the defaults. Raises UsageError.

    Args:
        shared: options for all strategies that have them; the reference's own go first.
    """
    name, _, text = reference.partition(":")
    given = parse_options([part for part in text.split(",") if part])
    known = {key: value for key, value in shared.items() if key in option_names(name)}
    strategy = strategies.create(name, known | given)
    values = {field.name: (getattr(strategy, field.name), field.default) for field in dataclasses.fields(strategy)}
    return name, {key: value for key, (value, default) in values.items() if value != default}


def option_names(name: str) -> set[str]:
    """Of that strategy. Raises UsageError for an unknown one."""
    return {field.name for field in dataclasses.fields(strategies.find(name))}
