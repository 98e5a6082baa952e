import numpy as np
import pytest
from dataset_helpers import message
from stratbench.datasets.base import Array, Info
from stratbench.datasets.split import PARTS, parse_split, split_rows

X = Array((1,), "float32")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("default", "default"),
        ("60/20/20", "60/20/20"),
        ("0.6/0.2/0.2", "60/20/20"),
        ("60.0/20/2e1", "60/20/20"),
        ("33.3/33.3/33.4", "33.3/33.3/33.4"),
        ("0.125/0.125/0.75", "12.5/12.5/75"),
    ],
)
def test_split_normal_form(text, normal):
    assert parse_split(text) == normal
    assert parse_split(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "60/40",
        "60/20/30",
        "60/20/20/0",
        "80/20/0",
        "120/-40/20",
        "a/b/c",
        "nan/50/50",
        "inf/-inf/1",
        "Default",
        "1e999999999/1/1",
        "1e-999999999/99/1",
        "٣/٣/٩٤",
        "1_0/50/40",
        "60/20/20\n",
        "\0/1/1",
    ],
)
def test_wrong_splits(text):
    assert message(lambda: parse_split(text)).endswith(f"such as 60/20/20. Received: {text!r}")


def sizes(parts) -> tuple[int, ...]:
    return tuple(len(parts[name]) for name in PARTS)


def assert_partition(parts, examples):
    assert all(rows.dtype == np.int64 for rows in parts.values())
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(examples))


def test_default_split_keeps_own_test_rows():
    parts = split_rows(Info(60_000, 10_000, 70_000, X), "default")
    assert sizes(parts) == (54_000, 6_000, 10_000)
    assert_partition(parts, 70_000)
    assert np.array_equal(parts["test"], np.arange(60_000, 70_000))
    # Drawn from all over the training rows.
    assert parts["validation"].min() < 1000
    assert parts["validation"].max() > 59_000


def test_default_split_without_own_test_rows():
    parts = split_rows(Info(None, None, 1000, X), "default")
    assert sizes(parts) == (800, 100, 100)
    assert_partition(parts, 1000)


def test_percentages_are_exact_and_of_all_examples():
    info = Info(60_000, 10_000, 70_000, X)
    parts = split_rows(info, "60/20/20")
    assert sizes(parts) == (42_000, 14_000, 14_000)
    assert_partition(parts, 70_000)
    again = split_rows(info, "0.6/0.2/0.2")
    assert all(np.array_equal(parts[name], again[name]) for name in PARTS)
    # The same share of test rows means the same test rows.
    assert np.array_equal(parts["test"], split_rows(info, "70/10/20")["test"])


def test_split_goes_by_whole_blocks():
    block = 32
    parts = split_rows(Info(None, None, 10_010, X, block_rows=block), "60/20/20")
    assert_partition(parts, 10_010)
    assert abs(len(parts["train"]) - 6006) <= block
    owners = [set((rows // block).tolist()) for rows in parts.values()]
    assert sum(map(len, owners)) == len(set.union(*owners))
    train = parts["train"]
    jumps = np.flatnonzero(np.diff(train) != 1) + 1
    assert set((train[jumps] % block).tolist()) == {0}
    assert not np.array_equal(train, np.sort(train))


@pytest.mark.parametrize("info", [Info(None, None, 5, X), Info(4, 1, 5, X), Info(None, None, 90, X, block_rows=30)])
def test_empty_parts(info):
    text = message(lambda: split_rows(info, "default"))
    assert "must leave at least one block of rows to each of train, validation, test" in text
