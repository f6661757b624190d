"""
The processes that torchrun started: each counts some of the samples, and all learn the sum.

Results travel as bytes in tensors; gloo carries them, which every PyTorch has and which needs no GPU.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from neurocompile.errors import (
    ExecutionError,
    MissingDependencyError,
    NeurocompileError,
    Problem,
)
from neurocompile.verification.wire import raise_told, tell

LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun's mark in the environment
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(
    hours=24
)  # one process waits so long for the others; one that died is noticed at once

CALLS = itertools.count()  # of `meeting`, as many in every process

DONE, FAILED = b"d", b"e"


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks, and writes files."""
        return self.rank == 0


def ranks_here(environment: Mapping[str, str] | None = None) -> Ranks:
    """Return which of torchrun's processes this is; the only one where torchrun did not start it."""
    environment = os.environ if environment is None else environment
    if LAUNCHED not in environment or any(name not in environment for name in NEEDED):
        return Ranks()
    return Ranks(int(environment["RANK"]), int(environment["WORLD_SIZE"]))


@dataclass(frozen=True)
class Meeting:
    """All processes, connected: what they do together, they do as often, and in the same order."""

    ranks: Ranks
    group: Any = None

    def agree(self, act: Callable[[], bytes]) -> list[bytes]:
        """
        Return what `act` returns in each process, by rank.

        If it raises an error of `neurocompile.errors` in any of them, all raise that of the lowest. Raises
        `ExecutionError` if another process ends meanwhile.
        """
        if self.ranks.world == 1:
            return [act()]
        try:
            content = DONE + act()
        except NeurocompileError as error:
            content = FAILED + tell(error)
        try:
            contents = _exchanged(self.ranks, content, self.group)
        except RuntimeError as error:  # gloo's, when a connection breaks
            raise _alone(self.ranks, error) from error
        for item in contents:
            if item[:1] == FAILED:
                raise_told(item[1:])
        return [item[1:] for item in contents]


@contextmanager
def meeting(ranks: Ranks) -> Iterator[Meeting]:
    """Connect all processes for the length of the block."""
    if ranks.world == 1:
        yield Meeting(ranks)
        return
    try:
        from torch import distributed
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous
    except ImportError as error:
        raise MissingDependencyError(
            Problem("", "processes of torchrun need PyTorch", remedy="use --jobs instead")
        ) from error
    if distributed.is_initialized():  # by a script that calls us
        yield Meeting(ranks, distributed.new_group(backend="gloo", timeout=PATIENCE))
        return
    try:
        # What an earlier call has left in torchrun's store are addresses of connections that are closed.
        store, *_ = next(rendezvous("env://"))
        own = PrefixStore(f"neurocompile/{next(CALLS)}", store)
        distributed.init_process_group(
            "gloo", store=own, rank=ranks.rank, world_size=ranks.world, timeout=PATIENCE
        )
    except RuntimeError as error:
        raise _alone(ranks, error) from error
    try:
        yield Meeting(ranks)
    finally:
        distributed.destroy_process_group()


def _alone(ranks: Ranks, error: RuntimeError) -> ExecutionError:
    return ExecutionError(
        Problem("", f"all {ranks.world} processes must finish", f"one has ended ({error})")
    )


def _exchanged(ranks: Ranks, content: bytes, group: Any) -> list[bytes]:
    """Return the `content` of every process, by rank."""
    import torch
    from torch import distributed

    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks.world)]
    distributed.all_gather(lengths, torch.tensor([len(content)]), group=group)
    longest = max(int(length) for length in lengths)
    padded = bytearray(content.ljust(longest, b"\0"))
    parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(ranks.world)]
    distributed.all_gather(parts, torch.frombuffer(padded, dtype=torch.uint8), group=group)
    return [
        part.numpy()[: int(length)].tobytes() for part, length in zip(parts, lengths, strict=True)
    ]
