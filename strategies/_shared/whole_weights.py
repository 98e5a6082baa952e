"""What needs whole weights, where a process holds parts of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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


def skip_optimizers(settings: Mapping[str, Any]) -> str | None:
    """The reason not to run an optimizer that uses a whole weight's norm, rows or columns."""
    name = settings["name"]
    if name in ("Adafactor", "Lamb", "Muon"):
        return f"{name} updates whole weights and each process holds parts; use an optimizer such as adamw"
    return None
