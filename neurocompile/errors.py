"""
Every exception that neurocompile raises on purpose.

    NeurocompileError                 exit code 2 on the command line
    ├── OptionError                   an option or a combination of options makes no sense
    ├── DataError                     a data set or an .npz file is not what the network needs
    ├── FormatError                   a file is damaged, hostile or not what its name says
    │   ├── NirFormatError
    │   ├── NetxFormatError
    │   ├── ProgramFormatError
    │   └── CheckpointError
    ├── UnsupportedError              the network is legal, but this compiler or target cannot do it
    ├── RangeError                    an integer could leave its safe range
    ├── EquivalenceError              a stage that must not change a spike changed one
    ├── MissingDependencyError        a package that this request needs is not installed
    ├── TrainingError                 a training run cannot go on
    └── ExecutionError                the target's own runtime failed
        └── DeadlineError             it did not finish, or stopped making progress, in time

An error carries *all* problems that were found in one input, so that nobody has to repair them one
command at a time. Whatever is not in this tree is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """
    One thing that is wrong: where, what is needed, what there is, and a way out.

    `layer` may be empty where the problem is not one layer's.
    """

    layer: str
    need: str
    have: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        text = f"layer '{self.layer}' {self.need}" if self.layer else self.need
        if self.have:
            text += f", but {self.have}"
        if self.remedy:
            text += f": {self.remedy}"
        return text


class NeurocompileError(Exception):
    """A request that cannot be met; `problems` lists every reason, never none."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems: tuple[Problem, ...] = tuple(
            problem if isinstance(problem, Problem) else Problem("", problem)
            for problem in problems
        )
        super().__init__(*problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = [f"{len(self.problems)} problems"]
        return "\n  - ".join(lines + [str(problem) for problem in self.problems])


class OptionError(NeurocompileError):
    """An option or a combination of options makes no sense."""


class DataError(NeurocompileError):
    """A data set or an array is not what the network needs."""


class FormatError(NeurocompileError):
    """A file is damaged, hostile or not what its name says."""


class NirFormatError(FormatError):
    """A file is not a NIR graph, or a graph that contradicts itself."""


class NetxFormatError(FormatError):
    """A file is not a `.net` network of lava-dl, or one that contradicts itself."""


class ProgramFormatError(FormatError):
    """A program directory is incomplete, changed or of another version."""


class CheckpointError(FormatError):
    """A run directory or checkpoint of `train` cannot be read."""


class UnsupportedError(NeurocompileError):
    """The network is legal, but this compiler or target cannot do it."""


class RangeError(NeurocompileError):
    """An integer could leave the range in which the target computes exactly."""


class EquivalenceError(NeurocompileError):
    """A stage that must not change a spike changed one."""


class MissingDependencyError(NeurocompileError):
    """A package that this request needs is not installed."""


class TrainingError(NeurocompileError):
    """A training run cannot go on; what it had stored before is still good."""


class ExecutionError(NeurocompileError):
    """The target's own runtime failed."""


class DeadlineError(ExecutionError):
    """The target's runtime did not finish, or stopped making progress, in time."""


def raise_all(kind: type[NeurocompileError], problems: Iterable[Problem]) -> None:
    """Raise `kind` with all of `problems`, or return if there are none."""
    found = tuple(problems)
    if found:
        raise kind(*found)
