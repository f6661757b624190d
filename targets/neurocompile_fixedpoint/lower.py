"""The compile half of `fixedpoint`: it runs programs as they are, so there is nothing to add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neurocompile_loihi2.limits import LIMITS

from neurocompile.errors import Problem
from neurocompile.limits import Limits
from neurocompile.resources import Resources, count_resources
from neurocompile.target import Availability, Executor, Lowered, Option

if TYPE_CHECKING:
    from neurocompile.program import Program


@dataclass(frozen=True)
class FixedPointTarget:
    """Every integer program in numpy, exactly; with Loihi 2's widths."""

    name: str = "fixedpoint"
    summary: str = "the definition of the integers, in numpy"
    limits: Limits = LIMITS
    options: Mapping[str, Option] = field(default_factory=dict)

    def check(self, program: Program) -> list[Problem]:
        """Return nothing: this target runs whatever the compiler can emit."""
        del program
        return []

    def resources(self, program: Program) -> Resources:
        """Return the counts: numpy has no cores to run out of."""
        return count_resources(program)

    def lower(self, program: Program) -> Lowered:
        """Return nothing: the program is the integers already."""
        del program
        return Lowered({})

    def availability(self) -> Availability:
        """It is always ready."""
        return Availability(True, "numpy")

    def open(self, program: Program) -> Executor:
        """Return the engine, set up for `program`."""
        from neurocompile_fixedpoint.run import FixedPointExecutor

        return FixedPointExecutor(program.network)


TARGET = FixedPointTarget()
