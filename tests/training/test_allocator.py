"""Freed memory stays with the process, where the C library can do that."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHILD = """
import resource
import sys
import torch
from neurocompile.training.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.empty(1 << 25).fill_(0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.empty(1 << 24).fill_(0)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(argument: str) -> int:
    """Return how many pages a child had to fetch for 64 MiB where 128 were free before."""
    command = [sys.executable, "-c", CHILD, argument]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_large_blocks_are_used_again() -> None:
    assert faults("keep") < 20 < faults("leave")
