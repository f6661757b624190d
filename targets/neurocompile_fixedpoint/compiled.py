"""
The engine of every day: the integers of `definition`, spike by spike, in loops that numba compiles.

Samples run in blocks, one block in each thread, through all steps (`block`): so what a block needs besides
its results does not grow with the number of steps, and stays near the processor. `plan` says which kernel
computes what, and `tables` lays out what kernels read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from neurocompile.integer import Integer, IntegerNetwork, Trace
from neurocompile_fixedpoint import definition
from neurocompile_fixedpoint.block import Block
from neurocompile_fixedpoint.definition import Counters, empty_trace
from neurocompile_fixedpoint.plan import Plan, make_plan
from neurocompile_fixedpoint.tables import Tables

BLOCK_BYTES = 8 << 20  # of one thread's block: about what two threads' share of a cache holds,
BYTES_PER_WEIGHT = 16  # or more where there are many weights, which a block fetches once a step
LARGEST_BLOCK_BYTES = 256 << 20
BLOCK_SAMPLES = 64  # more save no more overhead
COUNTERS = tuple(vars(Counters()))


class CompiledEngine:
    """
    A network, set up to run on this machine's processor.

    It agrees with `definition.execute` in every array and every counter. `plan` says which kernels compute
    what (None: the quickest), `threads` how many blocks of samples run at once (None: as many as there
    are processors).
    """

    def __init__(
        self, network: IntegerNetwork, plan: Plan | None = None, *, threads: int | None = None
    ) -> None:
        self.network = network
        self.plan = plan or make_plan(network)
        self.tables = Tables(network, self.plan)
        self.threads = threads or _processors()

    def execute(
        self,
        inputs: Mapping[str, Integer],
        *,
        samples: int,
        steps: int,
        record: Collection[str] = (),
        before_reset: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Trace:
        """Run the network as `definition.execute` does; it also runs payloads that no input declares."""
        if not self._covers(inputs):
            return definition.execute(
                self.network,
                inputs,
                samples=samples,
                steps=steps,
                record=record,
                before_reset=before_reset,
                progress=progress,
            )
        trace = empty_trace(self.network, samples, steps, record)
        at_once = self._samples_at_once(samples)
        done, lock, stop = [0], threading.Lock(), threading.Event()

        def run(start: int) -> dict[str, Integer]:
            where = slice(start, min(start + at_once, samples))
            part = {name: values[where] for name, values in inputs.items()}
            counted = Block(self.tables, part, where, steps, trace, before_reset).run(stop)
            with lock:
                done[0] += where.stop - where.start
                if progress:
                    progress(done[0])
            return counted

        starts = range(0, samples, at_once)
        if self.threads > 1 and len(starts) > 1:
            pool = ThreadPoolExecutor(self.threads)
            try:
                counted = list(pool.map(run, starts))
            except BaseException:
                stop.set()  # an interruption waits for no block to finish
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        else:
            counted = [run(start) for start in starts]
        counters = {}
        for item in self.network.neurons:
            total = np.sum([part[item.name] for part in counted], axis=0)
            counters[item.name] = dict(zip(COUNTERS, total.tolist(), strict=True))
        return Trace(trace.outputs, trace.spikes, trace.membrane, counters)

    def _covers(self, inputs: Mapping[str, Integer]) -> bool:
        return all(
            inputs[item.name].min(initial=item.minimum) >= item.minimum
            and inputs[item.name].max(initial=item.maximum) <= item.maximum
            for item in self.network.inputs
        )

    def _samples_at_once(self, samples: int) -> int:
        """Return how many samples make a block, so that all threads have as many blocks."""
        size = max(BLOCK_BYTES, min(LARGEST_BLOCK_BYTES, BYTES_PER_WEIGHT * self.tables.weights))
        room = max(1, min(BLOCK_SAMPLES, size // self.tables.bytes_per_sample))
        rounds = -(-samples // (room * self.threads))
        return -(-samples // (rounds * self.threads))


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
