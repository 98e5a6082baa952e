"""What a model that comes with stratbench is: a frozen dataclass whose fields are the user's options.

An option is an integer from 1, or one of several words (``Literal``).

To add a model, put a file in this folder that defines one class derived from `Model`. Keras is imported within
`Model.build`, as the command line reads the options without it.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from ...datasets.base import Array, Info, described
from ...errors import UsageError

if TYPE_CHECKING:
    import keras

    from ...datasets.synthetic import Form

FUNCTION = "package.module:function"


def option(default: int | str, text: str) -> Any:
    """A model's option: a dataclass field with its help text."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Model(ABC):
    """A model with its options. Raises UsageError for options that do not go together."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def check(self, info: Info) -> None:
        """Raise UsageError if the model can't be trained on such a data set."""

    @abstractmethod
    def build(self, info: Info) -> keras.Model:
        """A new model for such examples, compiled with a loss and metrics where cross-entropy of classes won't do."""

    def form(self) -> Form | None:
        """The examples that ``--dataset synthetic`` generates for it; None for those of any model."""
        return None

    def needs(self, what: str, received: str) -> UsageError:
        """The error that says what the model's examples must be."""
        return UsageError(
            f"model {self.name} needs {what}. Received: {received}. "
            f"Give a model of your own by --model {FUNCTION}, or other data."
        )

    def classes(self, info: Info) -> int:
        """How many classes there are. Raises UsageError for a data set without class labels."""
        if info.classes is None:
            raise self.needs("one class label an example", info.not_classes)
        return info.classes

    def images(self, info: Info, smallest: int) -> tuple[int, ...]:
        """(height, width, channels) of the examples. Raises UsageError for anything but images of that size."""
        shape = info.x.shape if isinstance(info.x, Array) else ()
        if len(shape) != 3 or min(shape[:2]) < smallest:
            what = f"images of shape (height, width, channels), at least {smallest}×{smallest}"
            raise self.needs(what, f"examples of {described(info.x)}")
        return shape

    def sequence(self, info: Info) -> int:
        """Length of the examples. Raises UsageError for anything but sequences of whole numbers."""
        x = info.x
        if not isinstance(x, Array) or len(x.shape) != 1 or "int" not in x.dtype:
            raise self.needs("sequences of token ids, shape (length,) and of integers", f"examples of {described(x)}")
        return x.shape[0]
