"""A cut model as a pipeline: while a part works at one micro-batch, the part before it works at the next.

A step's batch is divided into M micro-batches, whose gradients are added up for one update. Of S parts, each waits for
(S − 1)/(M + S − 1) of a step at least, the *bubble*: the row has it beside what was measured.

- ``schedule=gpipe``: all forward passes, then all backward passes; a part keeps the activations of M micro-batches
  (Huang et al., *GPipe*, NeurIPS 2019).
- ``schedule=1f1b``: forward and backward passes in turn; part k keeps those of at most S − k (Narayanan et al.,
  *PipeDream*, SOSP 2019, with one update a step).

How the model is cut, and what runs where: see ``stratbench list strategies model-parallel``.

Limits: as `model-parallel`. Batch normalisation sees one micro-batch at a time, so its results differ from those of the
whole batch. Replicas that share cores can't show the gain of a pipeline.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Le

from ..base import Traits, option
from ._cut_model import CutModel


@dataclasses.dataclass(frozen=True)
class Pipeline(CutModel):
    """Micro-batches through the parts."""

    name = "pipeline"
    summary = "a model's layers over N tasks, which work at several micro-batches at a time: GPipe or 1F1B"
    family = "cut"
    good_for = "a model that does not fit one device, trained by all of them at a time"
    traits = Traits(
        synchronous="yes",
        consistent="yes",
        traffic="activations and their gradients at the cuts; copies: W/P each way",
        memory="(W + S)/P by layers; activations of M micro-batches, 1f1b: of S − k",
        failure="the run ends",
    )

    micro_batches: Annotated[int, Ge(1), Le(65536)] = option(4, "M, into which a copy's part of a batch is divided")
    schedule: Literal["gpipe", "1f1b"] = option("gpipe", "order of the forward and backward passes")

    @property
    def _passes(self) -> tuple[int, Literal["gpipe", "1f1b"]]:
        return self.micro_batches, self.schedule
