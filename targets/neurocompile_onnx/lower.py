"""
The compile half of `onnx`: a program's integers as ONNX models, built with `onnx.helper`.

It needs the package `onnx`, and imports it when models are made; running them needs ONNX Runtime alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from neurocompile_loihi2.limits import LIMITS

from neurocompile.chips import Chip, problems_of, with_chip
from neurocompile.errors import MissingDependencyError, Problem
from neurocompile.limits import Limits
from neurocompile.resources import Resources, count_resources
from neurocompile.target import Availability, Executor, Lowered, Option
from neurocompile_onnx.ranges import INT32_END
from neurocompile_onnx.run import REMEDY

if TYPE_CHECKING:
    from neurocompile.populations import PopulationNetwork
    from neurocompile.program import Program

OPTIONS: Mapping[str, Option] = {
    "kernels": Option(
        ("integer", "float"),
        "multiply bytes by ConvInteger and MatMulInteger, or in float32 by Conv and MatMul where that is exact",
    ),
}


@dataclass(frozen=True)
class OnnxTarget:
    """The same integers as ONNX models: with Loihi 2's widths, or those of a `chip`."""

    name: str = "onnx"
    summary: str = "the same integers as ONNX models, run by ONNX Runtime"
    limits: Limits = LIMITS
    options: Mapping[str, Option] = field(default_factory=lambda: OPTIONS)
    engines: tuple[str, ...] = ("sequence", "step")
    chip: Chip | None = None

    @property
    def forms(self) -> Mapping[str, bool]:
        """The models that a recorded run, which takes trace.onnx, does not execute."""
        return {"sequence": False, "step": True}

    @property
    def chips(self) -> Mapping[str, str]:
        """The texts of the chips that come with `fixedpoint`, whose integers these are, by name."""
        from neurocompile_fixedpoint.lower import TARGET as FIXEDPOINT

        return FIXEDPOINT.chips

    def for_chip(self, chip: Chip) -> OnnxTarget:
        """Return the target with the limits of `chip`."""
        return replace(self, limits=chip.limits, chip=chip)

    def check(self, program: Program) -> list[Problem]:
        """Return the layers whose sums ONNX's integer operators could not add up, and what the chip cannot do."""
        from neurocompile_onnx.digits import problems_of_sums

        found = [*problems_of_sums(program.network), *_problems_of_currents(program)]
        return found if self.chip is None else [*found, *problems_of(program.network, self.chip)]

    def resources(self, program: Program) -> Resources:
        """Return the counts: a processor has no cores to run out of."""
        return count_resources(program)

    def lower(self, program: Program) -> Lowered:
        """Return the models: of one step, of sequences, and of sequences with all that happens in them."""
        _need_onnx()
        from neurocompile_onnx.models import make_models

        return with_chip(make_models(program, program.options["kernels"]), self.chip)

    def lower_real(self, network: PopulationNetwork, program: Program) -> Mapping[str, bytes]:
        """Return the models of `network` in float32, as a step and as whole sequences."""
        _need_onnx()
        from neurocompile_onnx.real import real_models

        return real_models(network, steps=program.steps)

    def missing(self) -> list[Problem]:
        """Return that the package `onnx` is missing, if it is."""
        return [] if find_spec("onnx") else [_WITHOUT_ONNX]

    def availability(self) -> Availability:
        """Return the version of ONNX Runtime, or that it is missing."""
        from neurocompile_onnx.run import availability

        return availability()

    def open(self, program: Program, engine: str = "") -> Executor:
        """Return sessions of ONNX Runtime; they are set up at the first run."""
        from neurocompile_onnx.run import open_executor

        return open_executor(program, engine)


_WITHOUT_ONNX = Problem(
    "", "the target 'onnx' needs the package onnx", "it is not installed", REMEDY
)


def _need_onnx() -> None:
    if find_spec("onnx") is None:
        raise MissingDependencyError(_WITHOUT_ONNX)


def _problems_of_currents(program: Program) -> Iterable[Problem]:
    """Yield the layers whose currents the proof does not keep in 32 bits, where chips would wrap them."""
    for bound in program.bounds:
        neurons = next(item for item in program.network.neurons if item.name == bound.layer)
        largest = bound.current * neurons.arithmetic.state_units
        if largest > INT32_END:
            yield Problem(
                bound.layer,
                f"needs currents of at most {INT32_END} state units",
                f"they could reach {largest}",
            )


TARGET = OnnxTarget()
