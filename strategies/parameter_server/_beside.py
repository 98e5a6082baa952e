"""Calls that go on beside a worker's steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Beside:
    """One call at a time in a thread of its own."""

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(1, name)
        self._call: Future[Any] | None = None

    def begin(self, call: Callable[[], Any]) -> None:
        """Call it now. The one before must have ended, and its result been taken."""
        self._call = self._pool.submit(call)

    @property
    def free(self) -> bool:
        """Whether there is neither a call nor a result."""
        return self._call is None

    @property
    def ended(self) -> bool:
        """Whether there is a result."""
        return self._call is not None and self._call.done()

    def wait(self) -> None:
        """For the call, if there is one; its result is dropped."""
        if self._call:
            self.result()

    def result(self) -> Any:
        """Of the call, or what it raised."""
        assert self._call is not None
        call, self._call = self._call, None
        return call.result()
