"""Memory that PyTorch frees and takes again in every training step, on a processor."""

from __future__ import annotations

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Names of parameters of glibc's `mallopt`, from its malloc.h."""

MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """
    Let this process keep memory that it frees, up to 2 GiB; return whether its C library can.

    glibc gives every block above 32 MiB back to the system, and each of its pages then comes back by a fault
    that costs more than the arithmetic on it: activations of a batch are such blocks. Holds for the whole
    process and for good, as the variables MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_ would.
    """
    with suppress(OSError, AttributeError):  # other C libraries have no such function
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, MOST))
    return False
