"""Kernels that numba compiles when they are first called, and keeps on disk for the next process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., Any])

BROKEN_CACHE = (OSError, EOFError, ValueError, KeyError, pickle.PickleError)


class _Cache(FunctionCache):
    """Numba's cache on disk, where a damaged file or a full disk costs time and nothing else."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except BROKEN_CACHE:
            with suppress(*BROKEN_CACHE):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(*BROKEN_CACHE):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def kernel(function: Function) -> Function:
    """
    Return `function`, compiled at its first call for the types it gets, without holding Python's lock.

    Compiled code is kept on disk, where there is a place for it, for the next process.
    """
    dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
    # There may be nowhere to write, neither beside this file nor in the user's cache.
    with suppress(RuntimeError):
        stored: Any = _Cache(function)  # type: ignore[no-untyped-call]
        dispatcher._cache = stored  # noqa: SLF001  # as `cache=True` does
    return cast("Function", dispatcher)
