"""Optimizers of a model whose ``train_step`` uses others than that of ``compile``, as that of a GAN does.

Source: https://keras.io/guides/custom_train_step_in_tensorflow/#wrapping-up-an-endtoend-gan-example
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


class OwnOptimizers:
    """Several Keras optimizers in the place of one: all that a trainer needs of it.

    Args:
        members: attribute of the model → the optimizer, and the weights that it trains.

    Attributes:
        learning_rate: of all; what is assigned is a factor on each one's own rate. A schedule stays as it is.
    """

    def __init__(self, members: Mapping[str, tuple[keras.optimizers.Optimizer, Sequence[keras.Variable]]]):
        self._members = members
        self.learning_rate = _Rates(self.members)

    @property
    def members(self) -> list[keras.optimizers.Optimizer]:
        """In the order in which a step uses them."""
        return [optimizer for optimizer, _ in self._members.values()]

    @property
    def variables(self) -> list[keras.Variable]:
        """Of all."""
        return [variable for each in self.members for variable in each.variables]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make the state of each for its own weights."""
        for optimizer, trained in self._members.values():
            optimizer.build(trained)


class _Rates:
    def __init__(self, optimizers: Sequence[keras.optimizers.Optimizer]):
        rates = [each.learning_rate for each in optimizers if is_number(each)]
        self._rates = [(rate, float(rate.numpy())) for rate in rates]

    @property
    def value(self) -> _Rates:
        """As of a Keras variable."""
        return self

    def assign(self, factor: float, **options: Any) -> None:
        """See `OwnOptimizers`."""
        for rate, own in self._rates:
            rate.value.assign(own * factor, **options)


def is_number(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether its learning rate is a number, which can be assigned."""
    import keras

    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return isinstance(inner._learning_rate, keras.Variable)


def each(optimizer: Any) -> list[keras.optimizers.Optimizer]:
    """The optimizers that an `OwnOptimizers` stands for, or this one."""
    return optimizer.members if isinstance(optimizer, OwnOptimizers) else [optimizer]
