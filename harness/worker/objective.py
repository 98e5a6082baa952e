"""What a model is trained for and judged by: its loss and its metrics, as Keras computes them for ``model.fit``.

A classifier is a model with a score for each class of the data set, and without a ``compute_loss`` of its own. Without
a loss it gets sparse categorical cross-entropy, of logits unless it ends in a softmax. Without accuracy among its
metrics it gets this one too, so that all classifiers can be compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ...datasets.base import described
from ...datasets.structure import is_empty, map_structure
from ...errors import UsageError
from ...results.raw.quality import ACCURACY
from . import compiled, normalisers
from .compiled import OWN_STEP, arguments, has_own
from .wording import one_line

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info
    from ...strategies.trainer import Structure, Tensor

_TRIED = 2
"""Made-up examples, to learn the outputs' shapes and to compute a loss."""


class Objective:
    """Builds a model for a data set's examples, and compiles it where it is not compiled as a run needs it.

    Args:
        tries: whether to call the model, which may be of any kind, rather than to read its shapes.
        divides: whether Keras divides losses by the number of replicas of tf.distribute.

    Attributes:
        callable: whether the model can be called; one whose ``train_step`` only calls others can't.
        normalised: whether replicas exchange a count to compute the loss: see `normalisers`. Known if it tries.

    Raises:
        UsageError: the model does not take the examples, nothing says which loss it is trained with, or that loss does
            not take the outputs and targets.
    """

    def __init__(self, reference: str, model: keras.Model, info: Info, tries: bool = True, divides: bool = False):
        self._reference, self._model, self._info = reference, model, info
        if not divides:
            _leave_mean_to_strategies()
        normalisers.install()
        outputs = self._call() if tries else None
        self.callable = not (isinstance(outputs, tuple) and not outputs)
        shapes = _shapes(outputs) if tries else [_without_examples(model.output_shape)]
        self._outputs = len(shapes)
        scores = info.classes is not None and shapes == [(None, info.classes)]
        self._classifies = scores and not has_own(model, "compute_loss")
        self._complete(shapes)
        self._form = target_form(self.losses[0]) if self._classifies and self.losses else "stored"
        self.normalised = False
        if tries and not has_own(model, OWN_STEP):
            self._build_loss()

    def targets(self, y: Structure) -> Structure:
        """Class labels in the form that the loss takes: see `target_form`. Anything else as it is."""
        from keras import ops

        info = self._info
        if info.classes is None or self._form == "indices":
            return y
        if self._form == "one-hot":
            return ops.one_hot(y, info.classes, dtype="float32")
        if info.one_hot:
            return ops.one_hot(y, info.classes, dtype=info.labels.dtype)
        return ops.reshape(ops.cast(y, info.labels.dtype), (-1, *info.labels.shape))

    @property
    def losses(self) -> list[Any]:
        """The compiled losses of all outputs, as they were given to ``compile``."""
        import keras

        return keras.tree.flatten(self._model.loss) if self._model.loss is not None else []

    def loss(self, y: Structure, outputs: Structure, weights: Structure | None) -> Tensor:
        """The compiled loss alone; 0 if there is none. Raises UsageError if the model computes it in another way."""
        if has_own(self._model, "compute_loss"):
            raise UsageError(f"model {self._reference} has a compute_loss of its own, which takes the whole model.")
        if self._model._compile_loss is None:
            return 0.0
        # Keras's public compute_loss adds the regularisers of all weights.
        return self._model._compile_loss(y, outputs, weights)

    def _call(self) -> Structure:
        x, *_ = self._made_up()
        info = self._info
        try:
            return self._model(x)
        except Exception as error:
            if isinstance(error, NotImplementedError) and has_own(self._model, OWN_STEP):
                # As of a GAN: its own step calls other models.
                return ()
            raise UsageError(
                f"model {self._reference} must accept examples of {described(info.x)}: {one_line(error)}"
            ) from error

    def unlike_outputs(self, examples: int) -> int:
        """As many, or one more if the model has as many outputs, or twice as many.

        Outside a graph, Keras would take that many targets of a single array for those of the outputs.
        """
        return examples + (self._outputs in (examples, 2 * examples))

    def _made_up(self, examples: int = _TRIED) -> tuple[Structure, ...]:
        """A batch of zeros."""
        import numpy as np

        return map_structure(lambda each: np.zeros((examples, *each.shape), each.dtype), self._info.structure)

    def _complete(self, shapes: list[tuple[int | None, ...]]) -> None:
        """Compile with a loss and with accuracy where these are missing, and else as the model was compiled."""
        import keras

        model = self._model
        given = dict(arguments(model)) if model.compiled else {"optimizer": None}
        if (own_optimizer := compiled.own_optimizer(model)) is not None:
            # It may have been changed since, as by ``model.optimizer.learning_rate = 0.5``.
            given["optimizer"] = own_optimizer
        missing: dict[str, Any] = {}
        own = any(has_own(model, name) for name in ("compute_loss", OWN_STEP))
        if given.get("loss") is None and not own and not (model.compiled and adds(model)):
            if not self._classifies:
                raise UsageError(self._no_loss(shapes))
            missing["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=not _ends_in_softmax(model))
        elif any(map(_is_sparse, self.losses)):
            self._check_width(shapes)
        metrics = given.get("metrics")
        if self._classifies and not isinstance(metrics, Mapping) and not ACCURACY & set(_names(metrics)):
            missing["metrics"] = [*(metrics or []), "accuracy"]
        if missing or not model.compiled:
            # Not by the model's own compile, which may take other arguments.
            keras.Model.compile(model, **given | missing)

    def _no_loss(self, shapes: list[tuple[int | None, ...]]) -> str:
        info, received = self._info, ", ".join(map(str, shapes))
        if info.classes is None:
            needs = f"as the targets are not class labels ({info.not_classes})"
            return f"model {self._reference} must be compiled with a loss, {needs}. Received: no loss."
        needs = f"must have the output shape (None, {info.classes}), or be compiled with a loss"
        return f"model {self._reference} {needs}. Received: {received}, and no loss."

    def _check_width(self, shapes: list[tuple[int | None, ...]]) -> None:
        classes = self._info.classes
        if classes is not None and len(shapes) == 1 and len(shapes[0]) == 2 and (shapes[0][1] or classes) < classes:
            raise UsageError(
                f"model {self._reference} must have a score for each of the {classes} classes. "
                f"Received: the output shape {shapes[0]}."
            )

    def _build_loss(self) -> None:
        """Have Keras make the loss's own variables, which it can't do within a step."""
        import keras

        x, y, *weights = self._made_up(self.unlike_outputs(_TRIED))
        targets = None if is_empty(y) else self.targets(y)
        if targets is None and self.losses and not has_own(self._model, "compute_loss"):
            raise UsageError(
                f"model {self._reference} is compiled with a loss, which needs targets: give the data some, or have "
                "the model add its loss itself (add_loss). Received: examples without targets."
            )
        try:
            known = [(variable, variable.value) for variable in self._model.variables]
            with keras.StatelessScope(known, collect_losses=True), normalisers.combined_by(self._note_count):
                # Again, as losses that the call adds belong to this scope.
                outputs = self._model(x)
                loss = compute_loss(self._model, x, targets, outputs, weights[0] if weights else None, training=False)
        except Exception as error:
            raise UsageError(f"model {self._reference} can't be trained: {one_line(error)}") from error
        if tuple(getattr(loss, "shape", ())) != ():
            raise UsageError(
                f"model {self._reference} must have a loss that is one number; use another reduction. "
                f"Received: the shape {tuple(loss.shape)}."
            )

    def _note_count(self, count: Tensor) -> Tensor:
        self.normalised = True
        return count


def compute_loss(
    model: keras.Model, x: Structure, y: Structure, outputs: Structure, weights: Structure | None, training: bool
) -> Tensor:
    """Keras's ``compute_loss``, or the model's own, which may be without the argument ``training``. → scalar"""
    given = {"training": training} if "training" in inspect.signature(model.compute_loss).parameters else {}
    return model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights, **given)


def _leave_mean_to_strategies() -> None:
    """Keep Keras from dividing losses by tf.distribute's number of replicas.

    It divides its own losses and those of ``add_loss``, but not what a model's own ``compute_loss`` makes. Here every
    strategy takes the mean of whole losses.
    """
    from keras.src.losses import loss

    loss.scale_loss_for_distribution = loss.unscale_loss_for_distribution = lambda value: value


def _leaves(outputs: Structure) -> list[Any]:
    import keras

    return keras.tree.flatten(outputs)


def _shapes(outputs: Structure) -> list[tuple[int | None, ...]]:
    return [_without_examples(getattr(each, "shape", ())) for each in _leaves(outputs)]


def _without_examples(shape: Iterable[int | None]) -> tuple[int | None, ...]:
    return (None, *tuple(shape)[1:])


def adds(model: keras.Model) -> bool:
    """Whether its call adds losses, beside the regularisers of weights."""
    regularised = [v for v in model.trainable_variables if getattr(v, "regularizer", None) is not None]
    return len(model.losses) > len(regularised)


def target_form(loss: Any) -> Literal["indices", "one-hot", "stored"]:
    """In which form a classifier's loss wants class labels, so that data of either form can train it.

    Keras's own losses take indices if "sparse" is in their name, and else one-hot rows. A loss of the user's gets what
    is stored, as in ``fit``.
    """
    function = getattr(loss, "fn", getattr(loss, "func", loss))
    known = isinstance(loss, str) or str(getattr(function, "__module__", "")).startswith(("keras.", "stratbench."))
    if not known and not str(type(loss).__module__).startswith("keras."):
        return "stored"
    return "indices" if _is_sparse(loss) else "one-hot"


def _is_sparse(loss: Any) -> bool:
    function = getattr(loss, "fn", getattr(loss, "func", loss))
    return (
        "sparse"
        in f"{loss if isinstance(loss, str) else ''} {getattr(function, '__name__', '')} {type(loss).__name__}".lower()
    )


def _names(metrics: Any) -> Iterator[str]:
    if isinstance(metrics, Mapping):
        metrics = list(metrics.values())
    for metric in metrics if isinstance(metrics, list | tuple) else [] if metrics is None else [metrics]:
        if isinstance(metric, list | tuple | Mapping):
            yield from _names(metric)
        else:
            yield str(
                metric if isinstance(metric, str) else getattr(metric, "name", getattr(metric, "__name__", metric))
            )


def _ends_in_softmax(model: keras.Model) -> bool:
    """Whether the last layer, of the last model where models are nested, gives probabilities."""
    import keras

    last: Any = model
    while isinstance(last, keras.Model) and last.layers:
        last = last.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return isinstance(last, keras.layers.Softmax) or activation == "softmax"
