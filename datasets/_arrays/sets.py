"""What the user says of a file that holds arrays: the same for every kind of file."""

from dataclasses import dataclass, field
from fractions import Fraction

from ..base import Dataset
from .fingerprint import fingerprint
from .parts import NO_TARGETS, TARGETS, check_options


@dataclass(frozen=True)
class ArraysFile(Dataset):
    """Names of the arrays in a file, and what can't be read from them."""

    path: str = field(metadata={"help": "the file, as in NAME:PATH", "positional": True})
    x: str | None = field(default=None, metadata={"help": "name of the examples, shape (n, ...)"})
    y: str | None = field(default=None, metadata={"help": "name of the class labels or other targets"})
    sample_weight: str | None = field(default=None, metadata={"help": "name of the weights, one an example"})
    classes: int | None = field(
        default=None,
        metadata={"help": "number of classes; default: the largest label + 1, width of one-hot labels, or none"},
    )
    scale: Fraction = field(
        default=Fraction(1), metadata={"help": "factor on the stored examples, such as 1/255 for images of bytes"}
    )
    validation_x: str | None = field(
        default=None, metadata={"help": "name of the validation set's examples; else a share of x"}
    )
    validation_y: str | None = field(default=None, metadata={"help": "name of the validation set's targets"})
    validation_sample_weight: str | None = field(default=None, metadata={"help": "name of its sample weights"})
    test_x: str | None = field(default=None, metadata={"help": "name of the test set's examples; else a share of x"})
    test_y: str | None = field(default=None, metadata={"help": "name of the test set's targets"})
    test_sample_weight: str | None = field(default=None, metadata={"help": "name of its sample weights"})

    def __post_init__(self) -> None:
        check_options(self)

    def is_left_out(self, option: str) -> bool:
        """Whether it names targets, which these examples don't have."""
        return option in TARGETS and self.y == NO_TARGETS

    def digest(self) -> str:
        """See :meth:`Dataset.digest`."""
        return fingerprint(self.path)
