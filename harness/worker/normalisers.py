"""Losses that are means over other than the examples: over what a mask leaves, or over the sum of sample weights.

Keras divides such a loss by a count n_i that the data decides: the values that a mask or ``ignore_class`` leaves, or
with the reduction ``mean_with_sample_weight`` the sum of the weights. Let s_i be replica i's sum. The mean of all
s_i/n_i is not the loss of the whole batch, Σ s_i / Σ n_i. It is if each s_i/n_i is multiplied by n_i/n̄, where n̄ is the
mean of all n_i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...strategies.trainer import Mean, Tensor

_MEAN: ContextVar[Mean | None] = ContextVar("mean", default=None)
_MEANS = ("mean", "sum_over_batch_size")
_BY_WEIGHT = "mean_with_sample_weight"


def install() -> None:
    """Have Keras's losses combine their normalisers where `combined_by` says how. Calling it again changes nothing."""
    from keras import ops
    from keras.src.losses import loss

    original = loss.reduce_weighted_values
    if getattr(original, "combines", False):
        return

    def reduce_weighted_values(
        values: Tensor,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ) -> Tensor:
        reduced = original(values, sample_weight=sample_weight, mask=mask, reduction=reduction, dtype=dtype)
        mean = _MEAN.get()
        count = _count(loss.apply_mask, sample_weight, mask, reduction) if mean else None
        return reduced if mean is None or count is None else reduced * ops.cast(_factor(count, mean), reduced.dtype)

    reduce_weighted_values.combines = True  # type: ignore[attr-defined]
    loss.reduce_weighted_values = reduce_weighted_values


@contextmanager
def combined_by(mean: Mean | None) -> Iterator[None]:
    """Losses that are called meanwhile, in this thread, are combined; with None each is that of its own batch."""
    token = _MEAN.set(mean)
    try:
        yield
    finally:
        _MEAN.reset(token)


def _count(
    apply_mask: Callable[..., Tensor], weights: Tensor | None, mask: Tensor | None, reduction: str
) -> Tensor | None:
    """What Keras divides the sum by; None where that is the number of values. → scalar, float32"""
    from keras import ops

    if reduction in _MEANS and mask is not None:
        return ops.sum(ops.cast(mask, "float32"))
    if reduction == _BY_WEIGHT and (mask is not None or weights is not None):
        return ops.sum(ops.cast(apply_mask(weights, mask, dtype="float32", reduction=reduction), "float32"))
    return None


def _factor(count: Tensor, mean: Mean) -> Tensor:
    from keras import ops

    return ops.stop_gradient(ops.divide_no_nan(count, mean(ops.stop_gradient(count))))
