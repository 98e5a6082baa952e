"""``key=value``, as options are given."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UsageError


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """``("sync=true", "ps=2")`` → a dict. Raises UsageError if one is not ``key=value``, or is given twice."""
    options: dict[str, str] = {}
    for key, value in map(_pair, pairs):
        if key in options:
            raise UsageError(f"option {key} must be given once. Received: {key}={options[key]} and {key}={value}.")
        options[key] = value
    return options


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"an option must be key=value. Received: '{text}'.")
    return key.strip(), value.strip()
