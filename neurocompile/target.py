"""
What a target is, and how one is found.

A target has a compile half (`lower.py`: needs numpy, runs anywhere) and a run half, which may need a
vendor's runtime and is imported only when a program is opened. Targets are found through the
entry-point group `neurocompile.targets`; adding one needs no change here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from neurocompile.errors import OptionError, Problem, raise_all
from neurocompile.integer import Integer, Trace
from neurocompile.limits import Limits

if TYPE_CHECKING:
    from neurocompile.populations import PopulationNetwork
    from neurocompile.program import Program
    from neurocompile.resources import Resources

GROUP = "neurocompile.targets"

Progress = Callable[[int, int], None]  # (done, of how many)


@dataclass(frozen=True)
class Option:
    """A choice that a target offers at export, `-O name=value`; the first choice is the default."""

    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Availability:
    """Whether a target's run half can work here: what would run it, or what is missing."""

    ready: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Lowered:
    """
    What a target's compile half adds: `files` of the program directory, and `notes` for people.

    A note is a decision that was taken for the user, with what it costs; `facts` go into the manifest.
    """

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Executor(Protocol):
    """A program set up to run; running it again costs no second set-up."""

    def run(
        self,
        payloads: Mapping[str, Integer],
        *,
        record: Collection[str] = (),
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> Trace:
        """
        Run `payloads`, (samples, steps, *input shape) by input, and return what happened.

        `record` names layers whose spikes are wanted, `membrane/<layer>` their membranes. A run that
        takes more than `deadline` seconds ends with a `DeadlineError`, where a target can hang.
        """
        ...

    def close(self) -> None:
        """Release processes and memory; the executor cannot run again."""
        ...


class Target(Protocol):
    """One kind of hardware or simulator. Attributes are plain data, importable without an SDK."""

    @property
    def name(self) -> str:
        """What `--target` calls it."""
        ...

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        ...

    @property
    def limits(self) -> Limits:
        """What its integers can hold."""
        ...

    @property
    def options(self) -> Mapping[str, Option]:
        """What can be chosen at export, by name."""
        ...

    def check(self, program: Program) -> list[Problem]:
        """Return everything in `program` that this target cannot do."""
        ...

    def resources(self, program: Program) -> Resources:
        """Return what `program` takes here; `neurocompile.resources.count_resources` counts for all."""
        ...

    def lower(self, program: Program) -> Lowered:
        """Return the files that this target adds to the program directory."""
        ...

    def availability(self) -> Availability:
        """Return whether programs can be run here."""
        ...

    @property
    def engines(self) -> tuple[str, ...]:
        """The names of several ways to run programs, with the same results; () if there is one."""
        ...

    def open(self, program: Program, engine: str = "") -> Executor:
        """
        Return `program` ready to run, by the engine named, or the best one for "".

        Raises `MissingDependencyError` if nothing here can run it.
        """
        ...


@runtime_checkable
class RealTarget(Protocol):
    """A target that has a form for networks in real numbers as well."""

    def lower_real(self, network: PopulationNetwork, program: Program) -> Mapping[str, bytes]:
        """Return files with `network`, of which `program` holds the integers, in real numbers."""
        ...


@runtime_checkable
class FormsTarget(Protocol):
    """A target that writes a program's integers in several forms, of which a run takes one."""

    @property
    def forms(self) -> Mapping[str, bool]:
        """The engines that run other forms than a recorded run does, and whether these show spikes."""
        ...


@runtime_checkable
class BuiltTarget(Protocol):
    """A target whose compile half needs what may not be installed."""

    def missing(self) -> list[Problem]:
        """Return what an export needs, and does not find here."""
        ...


def form_in_reals(target: Target) -> RealTarget:
    """Return `target`, if it has a form for networks in real numbers; raises `OptionError` otherwise."""
    if not isinstance(target, RealTarget):
        raise OptionError(
            Problem(
                "",
                f"target '{target.name}' has no form for networks in real numbers",
                remedy="leave --float out, or export for onnx",
            )
        )
    return target


def installed() -> dict[str, EntryPoint]:
    """
    Return the entry points of all installed targets by name, importing none of them.

    Raises `OptionError` if two packages claim one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise OptionError(
                Problem(
                    "",
                    f"two packages offer the target '{entry.name}'",
                    f"{other.value} and {entry.value}",
                    "uninstall one",
                )
            )
        found[entry.name] = entry
    return found


def find(name: str) -> Target:
    """Return the installed target called `name`; raises `OptionError` if there is none."""
    targets = installed()
    if name not in targets:
        raise OptionError(
            Problem(
                "", f"there is no target '{name}'", remedy=f"installed are {', '.join(targets)}"
            )
        )
    target: Target = targets[name].load()
    return target


def resolve_options(target: Target, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return all options of `target` with `chosen` filled in; raises `OptionError` with all mistakes."""
    problems = [
        Problem(
            "",
            f"target '{target.name}' has no option '{name}'",
            remedy=f"it has {', '.join(target.options)}" if target.options else "it has none",
        )
        for name in chosen
        if name not in target.options
    ]
    problems += [
        Problem(
            "",
            f"option '{name}' of target '{target.name}' must be one of {', '.join(option.choices)}",
            f"it is '{chosen[name]}'",
        )
        for name, option in target.options.items()
        if name in chosen and chosen[name] not in option.choices
    ]
    raise_all(OptionError, problems)
    return {name: chosen.get(name, option.choices[0]) for name, option in target.options.items()}
