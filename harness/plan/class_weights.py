"""``--class-weight 0=1,1=20``: what each class counts in the training loss, as ``class_weight`` of ``model.fit``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ...datasets.base import Info
from ...errors import UsageError

_INDEX = re.compile(r"[0-9]{1,7}")
_MOST = 1e30


def parse(text: str) -> dict[int, float]:
    """Class → weight; classes that are left out have 1. Raises UsageError in one line."""
    found: dict[int, float] = {}
    for pair in text.split(",") if text else ():
        index, _, weight = (each.strip() for each in pair.partition("="))
        value = _number(weight)
        if not _INDEX.fullmatch(index) or value is None or int(index) in found:
            raise UsageError(
                f"--class-weight must be CLASS=WEIGHT,… with weights from 0 to 1e30, each class once. "
                f"Received: '{text}'."
            )
        found[int(index)] = value
    return found


def said(weights: Mapping[int, float]) -> str:
    """As on the command line."""
    return ",".join(f"{index}={weight:.15g}" for index, weight in sorted(weights.items()))


def check(weights: Mapping[int, float], info: Info, dataset: str) -> None:
    """Raise UsageError for data without these classes. As in Keras, there can't be sample weights as well."""
    if not weights:
        return
    if info.classes is None:
        raise UsageError(
            f"--class-weight needs class labels. Received: {dataset}, whose targets are not ({info.not_classes})."
        )
    if max(weights) >= info.classes:
        raise UsageError(f"--class-weight must name classes from 0 to {info.classes - 1}. Received: {max(weights)}.")
    if info.sample_weight is not None:
        raise UsageError(f"--class-weight can't be given for data with sample weights. Received: {dataset}.")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= _MOST else None
