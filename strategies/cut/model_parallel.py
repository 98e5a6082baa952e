"""A model's layers over N tasks: each computes some layers, and sends what they give to the next.

Every task holds its own layers' weights and optimizer state, so a model may be N times as large as one task's memory.
One after the other the tasks compute: without micro-batches (`pipeline`), N tasks are no faster than one.
Source: Dean et al., *Large Scale Distributed Deep Networks*, NIPS 2012, section 3; the way the parts are joined is that
of TensorFlow's white paper (Abadi et al., 2016): one graph over several servers, driven by one client.

Worker 0 has the first part, reads the batches and drives the tasks ``part-1`` …: its rows have the losses and the
examples. The model is cut before the run so that the slowest part is as fast as possible, by the measured time of each
layer, and then so that few bytes cross the cuts; ``cut=a+b`` cuts after these layers. ``parts=P`` with N replicas gives
N/P copies of the model; the mean of their gradients updates all of them.

``split=tensor`` cuts within Dense and Embedding layers instead. N processes read the same batches, and exchange by
Horovod's collectives. With X the inputs and f what sees single units, Y = f(X·A) with A cut by columns and Z = Y·B with
B cut by rows need one all-reduce of Z forward, and one of X's gradient backward. A Dense layer without such a partner
is cut by columns, and its outputs are all-gathered; an Embedding is cut by ids. All else is computed by every process.
Source: Shoeybi et al., *Megatron-LM*, arXiv 1909.08053, 2019.

Limits of split=layers: only functional and sequential models. Layers that share weights stay in one part. The gRPC
servers listen on every interface, without authentication. Of split=tensor: no copies; layers with regularisers or
constraints are not split. Of both: a process builds the whole model before it is cut; worker 0 evaluates all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ...errors import UsageError
from ..base import Place, Task, Traits, option
from ..trainer import Server, Trainer, Workload
from ._cut_model import CutModel

if TYPE_CHECKING:
    import keras

    from ._schedule import Schedule
    from ._tensor_split import TensorSplit


@dataclasses.dataclass(frozen=True)
class ModelParallel(CutModel):
    """One pass over the whole batch."""

    name = "model-parallel"
    summary = "a model's layers over N tasks, one after the other, or parts of each layer; each holds its own weights"
    family = "cut"
    good_for = "a model that does not fit one device"
    traits = Traits(
        synchronous="yes",
        consistent="yes",
        traffic="activations and their gradients at the cuts; copies: W/P each way",
        memory="(W + S)/P by layers",
        failure="the run ends",
    )

    split: Literal["layers", "tensor"] = option("layers", "cut between layers, or within Dense and Embedding layers")

    def __post_init__(self) -> None:
        """Raises UsageError for options that are of whole layers."""
        super().__post_init__()
        if self._tensor and (self.cut or self.parts):
            given = f"cut={self.cut}" if self.cut else f"parts={self.parts}"
            raise UsageError(
                f"options cut and parts of strategy {self.name} are for split=layers; with split=tensor each layer has "
                f"as many parts as there are replicas. Received: {given}."
            )
        if self._tensor:
            for name, value in {"fixed_batch": False, "uneven": True, "delays_parts": False}.items():
                object.__setattr__(self, name, value)

    @property
    def _tensor(self) -> TensorSplit | None:
        from ._tensor_split import TensorSplit

        return TensorSplit() if self.split == "tensor" else None

    def skip(self, replicas: int) -> str | None:
        """Horovod's reasons, or those of `CutModel`."""
        return self._tensor.skip(replicas) if self._tensor else super().skip(replicas)

    def skip_batch(self, global_batch: int, replicas: int) -> str | None:
        """Of parts of layers, each sees the whole batch."""
        return None if self._tensor else super().skip_batch(global_batch, replicas)

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Each part of a layer has an update of its own."""
        return self._tensor.skip_optimizer(settings, accumulate) if self._tensor else None

    def skip_normaliser(self) -> str | None:
        """Parts of layers know the whole batch's loss."""
        return None if self._tensor else super().skip_normaliser()

    def skip_model(self, model: keras.Model, replicas: int) -> str | None:
        """One that has nothing to split."""
        return self._tensor.skip_model(model, replicas) if self._tensor else super().skip_model(model, replicas)

    def divides(self, replicas: int) -> bool:
        """Not by tensors."""
        return not self._tensor and super().divides(replicas)

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """Horovod's processes, or those of `CutModel`."""
        return self._tensor.tasks(replicas, place) if self._tensor else super().tasks(replicas, place)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """By parts of layers, or by layers."""
        with self._tensor.trainer(task, workload) if self._tensor else super().trainer(task, workload) as found:
            yield found

    @property
    def _passes(self) -> tuple[int, Schedule]:
        return 1, "gpipe"
