"""
The compile half of `fixedpoint`: programs are run as they are; what it adds is how.

`fixedpoint.json` says which kernel of the compiled engine computes which synapses and neurons. A program
for another chip than Loihi 2 carries its file, `chip.toml`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

from neurocompile_loihi2.limits import LIMITS

from neurocompile.chips import Chip, problems_of, with_chip
from neurocompile.errors import Problem, ProgramFormatError
from neurocompile.limits import Limits
from neurocompile.resources import Resources, count_resources
from neurocompile.target import Availability, Executor, Lowered, Option

if TYPE_CHECKING:
    from neurocompile.program import Program
    from neurocompile_fixedpoint.plan import Plan

PLAN = "fixedpoint.json"
VERSION = 1
OWN = "loihi2"  # the chip that the target is unless told otherwise
OPTIONS: Mapping[str, Option] = {
    "kernels": Option(
        ("auto", "gather", "scatter", "definition"),
        "let one kernel compute all synapses that it can, or the quickest of them each",
    ),
}


@dataclass(frozen=True)
class FixedPointTarget:
    """Every integer program, exactly, on this machine: with Loihi 2's widths, or those of a `chip`."""

    name: str = "fixedpoint"
    summary: str = "the integers themselves, on this machine's processor or GPU"
    limits: Limits = LIMITS
    options: Mapping[str, Option] = field(default_factory=lambda: OPTIONS)
    engines: tuple[str, ...] = ("compiled", "torch", "definition")
    chip: Chip | None = None

    @cached_property
    def chips(self) -> Mapping[str, str]:
        """The texts of the chips that come with the target, by name."""
        folder = files("neurocompile_fixedpoint") / "chips"
        texts = {
            file.name.removesuffix(".toml"): file.read_text(encoding="utf-8")
            for file in folder.iterdir()
            if file.name.endswith(".toml")
        }
        # The one that it is by itself comes first.
        return {name: texts[name] for name in sorted(texts, key=lambda name: (name != OWN, name))}

    def for_chip(self, chip: Chip) -> FixedPointTarget:
        """Return the target with the limits of `chip`."""
        return replace(self, limits=chip.limits, chip=chip)

    def check(self, program: Program) -> list[Problem]:
        """Return what the chip cannot do; without one, whatever the compiler can emit runs."""
        return [] if self.chip is None else problems_of(program.network, self.chip)

    def resources(self, program: Program) -> Resources:
        """Return the counts: a processor has no cores to run out of."""
        return count_resources(program)

    def lower(self, program: Program) -> Lowered:
        """Return the choice of kernels, and the chip's file and name."""
        from neurocompile_fixedpoint.plan import make_plan

        plan = make_plan(program.network, program.options.get("kernels", "auto"))
        described = {"version": VERSION, **plan.describe()}
        return with_chip({PLAN: (json.dumps(described, indent=2) + "\n").encode()}, self.chip)

    def availability(self) -> Availability:
        """It is always ready, but not always quick."""
        from neurocompile_fixedpoint.run import installed_engines

        engines = installed_engines()
        if engines[0] == "compiled":
            return Availability(True, "compiled by numba")
        return Availability(
            True,
            f"{'PyTorch' if engines[0] == 'torch' else 'numpy'}, without numba slowly",
            "pip install 'neurocompile[fast]'",
        )

    def open(self, program: Program, engine: str = "") -> Executor:
        """Return an engine, set up for `program`: the quickest that is installed, or the one named."""
        from neurocompile_fixedpoint.run import open_engine

        return open_engine(program.network, _plan_of(program), engine)


def _plan_of(program: Program) -> Plan:
    """Return the program's choice of kernels, or the quickest for what another target compiled."""
    from neurocompile_fixedpoint.plan import make_plan

    stored = program.extra_files.get(PLAN)
    if stored is None:
        return make_plan(program.network)
    try:
        described = json.loads(stored)
        plan = make_plan(program.network, {**described["synapses"]})
        if described != {"version": VERSION, **plan.describe()}:
            raise ValueError("it does not fit the network")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProgramFormatError(
            Problem("", f"the program's '{PLAN}' is damaged ({error})", remedy="export it again")
        ) from error
    return plan


TARGET = FixedPointTarget()
