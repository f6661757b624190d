"""The run half of `fixedpoint`: the engine behind the interface of an executor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from neurocompile.integer import Integer, IntegerNetwork, Trace
from neurocompile.target import Progress
from neurocompile_fixedpoint.definition import execute


@dataclass(frozen=True)
class FixedPointExecutor:
    """Runs one network on as many inputs as one likes."""

    network: IntegerNetwork

    def run(
        self,
        payloads: Mapping[str, Integer],
        *,
        record: Collection[str] = (),
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> Trace:
        """Run `payloads`, (samples, steps, *shape) by input; it cannot hang: no deadline is kept."""
        del deadline
        samples, steps = next(iter(payloads.values())).shape[:2]
        return execute(
            self.network,
            payloads,
            samples=samples,
            steps=steps,
            record=record,
            progress=None if progress is None else lambda done: progress(done, samples),
        )

    def close(self) -> None:
        """There is nothing to release."""
