"""How a step computes, beside its formula: whether XLA compiles it, and by what its loss is scaled for float16.

Both follow Keras. Sources: ``jit_compile`` and ``auto_scale_loss`` of
https://keras.io/api/models/model_training_apis/#compile-method; Micikevicius et al., *Mixed Precision Training*, ICLR
2018, as ``keras.optimizers.LossScaleOptimizer`` has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ...errors import UsageError
from ..plan import optimizers
from .compiled import arguments, layers

if TYPE_CHECKING:
    import keras


def loss_scale(model: keras.Model) -> Mapping[str, Any] | None:
    """Arguments of the ``LossScaleOptimizer`` that Keras trains this model with; None where the loss is not scaled."""
    import keras

    own = getattr(model, "optimizer", None)
    if isinstance(own, keras.optimizers.LossScaleOptimizer):
        return {"initial_scale": own.initial_scale, "dynamic_growth_steps": own.dynamic_growth_steps}
    scales = model.dtype_policy.name == optimizers.SCALED_PRECISION and arguments(model).get("auto_scale_loss", True)
    return {} if scales else None


def wrapped(optimizer: keras.optimizers.Optimizer, scale: Mapping[str, Any] | None) -> keras.optimizers.Optimizer:
    """The optimizer that scales the loss, divides gradients by the scale, and skips updates that are not finite."""
    import keras

    return optimizer if scale is None else keras.optimizers.LossScaleOptimizer(optimizer, **scale)


def jit(reference: str, model: keras.Model, asked: Literal["", "on", "off"], able: bool) -> bool:
    """Whether XLA compiles what computes the gradients.

    Args:
        asked: by ``--jit``; empty for auto, which follows ``compile(jit_compile=…)``. Without that, as in Keras, it is
            on where there is a GPU and every layer can be compiled.
        able: whether the strategy can.

    Raises:
        UsageError: asked for a model with a layer that XLA can't compile.
    """
    unable = [layer.name for layer in layers(model) if not getattr(layer, "supports_jit", True)]
    if asked == "on" and unable:
        raise UsageError(f"--jit on can't compile the layer {unable[0]} of model {reference}. Use --jit off or auto.")
    said = arguments(model).get("jit_compile", "auto")
    wanted = asked == "on" if asked else _gpus() if said == "auto" else bool(said)
    return wanted and able and not unable


def _gpus() -> bool:
    import keras

    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
