"""Structures of arrays: one array, or a dictionary or tuple of structures. Keras's ``fit`` takes the same."""

from collections.abc import Callable, Iterator
from typing import Any


def map_structure(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """A structure of what ``function`` returns for each array of ``first``, with those at its place in ``others``."""
    if isinstance(first, dict):
        return {key: map_structure(function, each, *(other[key] for other in others)) for key, each in first.items()}
    if isinstance(first, tuple):
        return tuple(map_structure(function, *each) for each in zip(first, *others, strict=True))
    return function(first, *others)


def named(structure: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each array with the names that lead to it, as in ``x/left``; ``name`` is that of the structure itself."""
    if not isinstance(structure, dict | tuple):
        yield name, structure
        return
    for key, each in structure.items() if isinstance(structure, dict) else enumerate(structure):
        yield from named(each, f"{name}/{key}" if name else str(key))


def is_empty(structure: Any) -> bool:
    """Whether it has no arrays, as targets that are not there."""
    return not leaves(structure)


def leaves(structure: Any) -> list[Any]:
    """All arrays, in order."""
    return [each for _, each in named(structure)]
