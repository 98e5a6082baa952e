"""``--sweep FLAG=VALUE,…``: the whole grid for each value of a flag, and for each combination with those of others."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from ...errors import UsageError
from ..plan import bounds
from .options import WORK

_KINDS = (click.types.IntParamType, click.types.FloatParamType, click.Choice)
_NOT_WORK = ("timeout", "profile")


def points(texts: Sequence[str]) -> list[dict[str, Any]]:
    """For each combination: name of the flag's parameter → value. One without any, if nothing is swept.

    Call it in the command's click context. Raises UsageError, or click's error for a value.
    """
    if not texts:
        return [{}]
    context = click.get_current_context()
    swept = _swept(texts, context)
    bounds.check_runs(math.prod(map(len, swept.values())))
    found: list[dict[str, Any]] = [
        dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())
    ]
    batches = swept.get("global_batch") or swept.get("per_replica_batch")
    if not batches or "reference_batch" in swept or context.params.get("reference_batch") is not None:
        return found
    # One learning rate for all: else each batch would be its own reference, and no rule would change anything.
    unscaled = context.params.get("lr_scaling")
    return [
        point | {"reference_batch": min(batches)} if point.get("lr_scaling", unscaled) != "none" else point
        for point in found
    ]


def _swept(texts: Sequence[str], context: click.Context) -> dict[str, list[Any]]:
    """Name of the flag's parameter → its values, each once."""
    flags = {
        str(flag.name): flag
        for flag in context.command.params
        if flag.name in WORK and flag.name not in _NOT_WORK and isinstance(flag.type, _KINDS)
    }
    swept: dict[str, list[Any]] = {}
    for text in texts:
        written, equals, values = text.partition("=")
        if not equals:
            raise UsageError(f"--sweep must be FLAG=VALUE,…, such as global-batch=64,128. Received: '{text}'.")
        name = written.removeprefix("--").replace("-", "_")
        if name not in flags:
            near = difflib.get_close_matches(name, flags, n=1)
            named = f"Did you mean '{_dashed(near[0])}'?" if near else f"It takes {', '.join(map(_dashed, flags))}."
            raise UsageError(f"--sweep varies flags of numbers and choices. Received: '{written}'. {named}")
        if name in swept:
            raise UsageError(f"--sweep must name each flag once. Received: '{_dashed(name)}' twice.")
        if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT):
            raise UsageError(f"give --{_dashed(name)}, or sweep it, not both.")
        flag = flags[name]
        swept[name] = list(dict.fromkeys(flag.type.convert(each, flag, context) for each in values.split(",")))
    return swept


def _dashed(name: str) -> str:
    return name.replace("_", "-")
