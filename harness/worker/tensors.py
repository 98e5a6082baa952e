"""Shapes of a model's trained weights: ``python -P -m stratbench.harness.worker.tensors FOLDER``.

The question is a spec of a training, the answer ``{"shapes": [[…], …]}``, in the order in which gradients are reduced.
"""

from __future__ import annotations

from typing import Any

from ...errors import UsageError
from ..plan import spec
from .answering import answer
from .wording import one_line


def main() -> None:
    """Answer the launcher's question."""
    answer(lambda question: shapes(spec.RunSpec.model_validate_json(question)))


def shapes(run: spec.RunSpec) -> dict[str, Any]:
    """Build the model. Raises UsageError in one line."""
    from .workload import SpecWorkload

    try:
        trained = SpecWorkload(run).model().trainable_variables
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"model {run.model} can't be built: {one_line(error)}") from error
    return {"shapes": [list(each.shape) for each in trained]}


if __name__ == "__main__":
    main()
