"""How many digits a million measured figures are kept with: those that mean something."""

from __future__ import annotations

import numpy as np

SECOND_DIGITS = 7
"""After the point: 0.1 µs. To ask the clock takes about as long."""
LOSS_DIGITS = 9
"""With so many significant digits, each float32 stays itself."""
_LARGEST_EXACT_POWER = 22
"""10²² is the largest power of ten that a float64 has exactly, so that division by it gives the nearest number."""


def of_seconds(values: np.ndarray) -> np.ndarray:
    """Rounded to `SECOND_DIGITS`."""
    factor = 10.0**SECOND_DIGITS
    return np.rint(values * factor) / factor


def of_losses(values: np.ndarray) -> np.ndarray:
    """Rounded to `LOSS_DIGITS`; values too small or too large for that stay as they are."""
    size = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        places = LOSS_DIGITS - 1 - np.floor(np.log10(size))
    fit = np.isfinite(places) & (places >= 0) & (places <= _LARGEST_EXACT_POWER)
    factor = 10.0 ** np.where(fit, places, 0)
    return np.where(fit, np.rint(values * factor) / factor, values)
