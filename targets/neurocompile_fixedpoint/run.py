"""
The run half of `fixedpoint`: its engines behind the interface of an executor.

    compiled     loops that numba compiles (`pip install 'neurocompile[fast]'`)
    torch        tensors of PyTorch, on a GPU where it sees one (`pip install 'neurocompile[train]'`)
    definition   plain numpy, always there

All of them agree in every spike, membrane and counter; which one runs is a matter of time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Protocol

from neurocompile.errors import MissingDependencyError, Problem
from neurocompile.integer import Integer, IntegerNetwork, Trace
from neurocompile.target import Progress
from neurocompile_fixedpoint import definition
from neurocompile_fixedpoint.plan import Plan

ENGINES = ("compiled", "torch", "definition")
SMALL_RUN = (
    200_000_000  # synapses in all steps: about what the definition computes in half a second
)
NEEDS = {
    "compiled": ("numba", "install it with: pip install 'neurocompile[fast]'"),
    "torch": ("torch", "install it with: pip install 'neurocompile[train]'"),
}


class Execute(Protocol):
    """Runs a network; see `definition.execute`."""

    def __call__(
        self,
        inputs: Mapping[str, Integer],
        /,
        *,
        samples: int,
        steps: int,
        record: Collection[str] = ...,
        before_reset: bool = ...,
        progress: Callable[[int], None] | None = ...,
    ) -> Trace: ...


class FixedPointExecutor:
    """
    Runs one network on as many inputs as one likes, by the engine named, or for "" by the quickest.

    Before the first run that is worth it, no engine is set up: loading numba's kernels takes a second,
    and compiling them a few, once on a machine. A first run of less is computed by the definition.
    """

    def __init__(self, network: IntegerNetwork, plan: Plan, engine: str = "") -> None:
        self.network, self.plan = network, plan
        self.engine = engine or installed_engines()[0]
        self._may_be_small = not engine
        self._execute: Execute | None = None

    def run(
        self,
        payloads: Mapping[str, Integer],
        *,
        record: Collection[str] = (),
        progress: Progress | None = None,
        deadline: float | None = None,
        before_reset: bool = False,
    ) -> Trace:
        """
        Run `payloads`, (samples, steps, *shape) by input; it cannot hang: no deadline is kept.

        Membranes are those after the reset, unless `before_reset`.
        """
        del deadline
        samples, steps = next(iter(payloads.values())).shape[:2]
        return self._chosen(samples * steps)(
            payloads,
            samples=samples,
            steps=steps,
            record=record,
            before_reset=before_reset,
            progress=None if progress is None else lambda done: progress(done, samples),
        )

    def _chosen(self, sample_steps: int) -> Execute:
        if self._may_be_small:
            self._may_be_small = False
            synapses = sum(map(self.network.synapse_count, self.network.synapses))
            if sample_steps * synapses <= SMALL_RUN:
                return partial(definition.execute, self.network)
        if self._execute is None:
            self._execute = _set_up(self.network, self.plan, self.engine)
        return self._execute

    def close(self) -> None:
        """There is nothing to release."""


def installed_engines() -> list[str]:
    """Return the engines that can run here, the quickest first."""
    return [engine for engine in ENGINES if engine not in NEEDS or find_spec(NEEDS[engine][0])]


def open_engine(network: IntegerNetwork, plan: Plan, engine: str) -> FixedPointExecutor:
    """
    Return an executor of `network` by `engine`, by the quickest there is for "".

    Raises `MissingDependencyError` if it needs what is not installed.
    """
    if engine and engine not in installed_engines():
        module, remedy = NEEDS[engine]
        raise MissingDependencyError(
            Problem("", f"the engine '{engine}' needs {module}", "it is not installed", remedy)
        )
    return FixedPointExecutor(network, plan, engine)


def _set_up(network: IntegerNetwork, plan: Plan, engine: str) -> Execute:
    if engine == "definition":
        return partial(definition.execute, network)
    try:
        if engine == "compiled":
            from neurocompile_fixedpoint.compiled import CompiledEngine

            return CompiledEngine(network, plan).execute
        from neurocompile_fixedpoint.torch_engine import TorchEngine

        return TorchEngine(network).execute
    except ImportError as error:  # as when numpy is newer than numba knows
        module, remedy = NEEDS[engine]
        raise MissingDependencyError(
            Problem(
                "",
                f"the engine '{engine}' needs {module}",
                f"it cannot be imported ({error})",
                f"{remedy}, or run on fixedpoint:definition",
            )
        ) from error
