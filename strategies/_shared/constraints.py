"""Constraints that a model sets on its weights, where a process holds parts of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def skip_constraints(model: keras.Model) -> str | None:
    """The reason not to run a model that has any, as Keras applies them to whole weights."""
    for variable in model.trainable_variables:
        if variable.constraint is not None:
            return (
                f"weight {variable.path} has a constraint, which needs all of it, and each process holds a part; "
                "use horovod, or leave the constraint out"
            )
    return None
