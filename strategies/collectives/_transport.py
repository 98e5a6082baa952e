"""Horovod's all-reduce as `stratbench allreduce` measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .._shared.devices import finish
from ..transport import Transport

if TYPE_CHECKING:
    import numpy as np


class HorovodTransport(Transport):
    """``hvd.allreduce`` of one tensor, ``hvd.grouped_allreduce`` of several, called eagerly.

    Args:
        compression: as in ``hvd.Compression``.
    """

    def __init__(self, hvd: ModuleType, compression: Any):
        self.rank = hvd.rank()
        self._hvd, self._compression = hvd, compression
        self._prepared = 0

    def prepare(self, tensors: Sequence[np.ndarray]) -> Callable[[], Sequence[tf.Tensor]]:
        """See `Transport.prepare`. Under one name, Horovod remembers what it has agreed on."""
        given = [tf.constant(each) for each in tensors]
        self._prepared += 1
        settings = {"op": self._hvd.Sum, "compression": self._compression, "name": f"tensors_{self._prepared}"}

        def one() -> Sequence[tf.Tensor]:
            total = self._hvd.allreduce(given[0], **settings)
            finish()
            return [total]

        def several() -> Sequence[tf.Tensor]:
            small, contexts = zip(*map(self._compression.compress, given), strict=True)
            sums = self._hvd.grouped_allreduce(small, op=self._hvd.Sum)
            totals = list(map(self._compression.decompress, sums, contexts))
            finish()
            return totals

        return one if len(given) == 1 else several
