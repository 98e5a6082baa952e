"""The order of fsdp's gathers and exchanges: never more memory than promised, and nothing twice that fits."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from stratbench.strategies.collectives._reshard import Plan, Use, plan


def uses_of(*sizes: int) -> list[Use]:
    """A model whose layers follow one another; the backward pass does not need the weights of the first."""
    return [Use(size, last=unit, backward=unit > 0) for unit, size in enumerate(sizes)]


def promised(uses: list[Use], replicas: int) -> int:
    """Two buffers of the largest unit, and the process's part of all gradients."""
    sizes = [use.size_bytes for use in uses]
    return 2 * max(sizes) + sum(sizes) // replicas


def alive_in_forward(uses: list[Use], found: Plan, over: int) -> int:
    """Bytes once phase ``over`` is over and all gathers that this permits have ended."""
    begun = [u for u in range(len(uses)) if found.gather_after[u] <= over]
    return sum(uses[u].size_bytes for u in begun if found.kept[u] or uses[u].last > over)


def alive_in_backward(uses: list[Use], found: Plan, phase: int, replicas: int) -> int:
    """Bytes while a phase goes on and nothing has been exchanged that it did not wait for."""
    total = sum(use.size_bytes for use in uses[phase:]) // replicas
    for unit, use in enumerate(uses):
        begins = found.gather_again[unit]
        whole = unit < phase and (found.kept[unit] or (begins is not None and begins >= phase))
        in_use = unit < phase <= use.last
        in_transit = phase < unit < found.exchanged[phase]
        total += use.size_bytes * (whole + in_use + 2 * in_transit + 2 * (unit == phase))
    return total


@st.composite
def models(draw: st.DrawFn) -> list[Use]:
    """Of up to 8 units, some of which are used again later."""
    sizes = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=8))
    last = [draw(st.one_of(st.just(unit), st.integers(unit, len(sizes) - 1))) for unit in range(len(sizes))]
    return [Use(size, end, draw(st.booleans())) for size, end in zip(sizes, last, strict=True)]


@given(models(), st.integers(1, 4), st.one_of(st.integers(0, 5000), st.just(math.inf)))
def test_the_peak_is_true_and_everything_is_there_in_time(uses: list[Use], replicas: int, budget: float) -> None:
    found = plan(uses, replicas, budget)
    units = range(len(uses))
    forward = [alive_in_forward(uses, found, over) for over in range(-1, len(uses) - 1)]
    backward = [alive_in_backward(uses, found, phase, replicas) for phase in units]
    assert found.peak_bytes == max(forward + backward)
    for unit in units:
        assert found.gather_after[unit] < unit
        assert unit < found.exchanged[unit] <= len(uses)
        begins = found.gather_again[unit]
        if uses[unit].backward:
            assert found.kept[unit] == (begins is None)
            assert begins is None or begins >= uses[unit].last
        else:
            assert not found.kept[unit]
            assert begins is None
    assert found.exchanged == sorted(found.exchanged)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.integers(1, 4))
def test_layers_that_follow_one_another_keep_the_promise(sizes: list[int], replicas: int) -> None:
    uses = uses_of(*sizes)
    assert plan(uses, replicas, promised(uses, replicas)).peak_bytes <= promised(uses, replicas)


def test_large_layers_are_gathered_one_ahead_and_again() -> None:
    uses = uses_of(4, 4, 4, 4, 4)
    found = plan(uses, 8, promised(uses, 8))
    assert found.gather_after == [-1, -1, 0, 1, 2]
    assert found.kept == [False, False, False, False, True]
    assert found.gather_again == [None, 1, 2, 3, None]
    assert found.exchanged == [1, 2, 3, 4, 5]


def test_small_layers_after_a_large_one_are_kept_and_exchanged_at_the_same_time() -> None:
    uses = uses_of(20, 1, 1, 1, 1)
    found = plan(uses, 2, promised(uses, 2))
    assert found.gather_after == [-1] * 5
    assert found.kept == [False, True, True, True, True]
    assert found.exchanged == [1, 5, 5, 5, 5]


def test_without_a_bound_nothing_waits() -> None:
    found = plan(uses_of(4, 4, 4), 2, math.inf)
    assert found.gather_after == [-1] * 3
    assert found.kept == [False, True, True]
    assert found.exchanged == [3] * 3
