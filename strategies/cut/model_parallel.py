"""A model's layers over N tasks: each computes some layers, and sends what they give to the next.

Every task holds its own layers' weights and optimizer state, so a model may be N times as large as one task's memory.
One after the other the tasks compute: without micro-batches (`pipeline`), N tasks are no faster than one.
Source: Dean et al., *Large Scale Distributed Deep Networks*, NIPS 2012, section 3; the way the parts are joined is that
of TensorFlow's white paper (Abadi et al., 2016): one graph over several servers, driven by one client.

Worker 0 has the first part, reads the batches and drives the tasks ``part-1`` …: its rows have the losses and the
examples. The model is cut before the run so that the slowest part is as fast as possible, by the measured time of each
layer, and then so that few bytes cross the cuts; ``cut=a+b`` cuts after these layers. ``parts=P`` with N replicas gives
N/P copies of the model; the mean of their gradients updates all of them.

Limits: only functional and sequential models. Layers that share weights stay in one part. The gRPC servers listen on
every interface, without authentication. Worker 0 builds the whole model before it cuts it, and evaluates it afterwards.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..base import Traits
from ._cut_model import CutModel

if TYPE_CHECKING:
    from ._schedule import Schedule


@dataclasses.dataclass(frozen=True)
class ModelParallel(CutModel):
    """One pass over the whole batch."""

    name = "model-parallel"
    summary = "a model's layers over N tasks, one after the other; each holds its own weights"
    family = "cut"
    good_for = "a model that does not fit one device"
    traits = Traits(
        synchronous="yes",
        consistent="yes",
        traffic="activations and their gradients at the cuts; copies: W/P each way",
        memory="(W + S)/P by layers",
        failure="the run ends",
    )

    @property
    def _passes(self) -> tuple[int, Schedule]:
        return 1, "gpipe"
