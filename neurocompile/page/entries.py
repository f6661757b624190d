"""
What stands side by side in a comparison: verifications, programs and training runs, read from disk.

Files are of strangers: sizes, types and ranges are checked, and the key that is wrong is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from neurocompile.errors import NeurocompileError, OptionError, Problem, raise_all
from neurocompile.manifest import MANIFEST
from neurocompile.page.decode import decode, refuse
from neurocompile.page.drawn import Costs, costs_of
from neurocompile.page.markup import label
from neurocompile.page.read_report import read_json, report_of
from neurocompile.program import Program, load
from neurocompile.statistics import Share
from neurocompile.verification.report import Report
from neurocompile.verification.shape import resources_of

REPORT, METRICS = "report.json", "metrics.json"
MOST_ENTRIES = 12
LONGEST_BEGIN = 4096  # bytes
WHOLE = 1e-3  # of a sample: how far from a whole number of right ones a share may be
NOT_VERIFIED = "the program was not verified here: give --input DATA"
NO_PROGRAM = "a training run has no integers yet: export it"
TOLD = ("source", "import", "folding", "first_layer", "quantisation", "notes", "versions")

Kind = Literal["verification", "program", "training run"]
Verify = Callable[[Program], Report]


@dataclass(frozen=True)
class Accuracies:
    """Accuracies of a training run on its test data, as shares."""

    last: float
    best: float


@dataclass(frozen=True)
class Training:
    """What a training run measured, of `metrics.json`."""

    test_accuracy: Accuracies
    samples: int | None = None
    accuracy_per_moment: tuple[float, ...] | None = None
    accuracy_per_epoch: tuple[float, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One thing to compare, with what is known of it; `missing` says why the rest is not."""

    label: str  # distinct within a comparison
    kind: Kind
    place: str
    target: str = ""
    report: Report | None = None
    training: Training | None = None
    costs: Costs | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    note: str = ""  # what else is in its place and was not read

    @property
    def accuracy(self) -> Share | None:
        """The accuracy of what is deployed, or of the trained network."""
        if self.report is not None:
            last = self.report.overall.candidate
            return next((item.accuracy for item in self.report.stages if item.name == last), None)
        if self.training is not None and self.training.samples:
            right = self.training.test_accuracy.last * self.training.samples
            if abs(right - round(right)) < WHOLE:
                return Share(round(right), self.training.samples)
        return None


def entry_of_report(report: Report, label: str, place: str = "") -> Entry:
    """Return what a report tells, for a comparison."""
    return Entry(
        label=label,
        kind="verification",
        place=place,
        target=report.target,
        report=report,
        costs=costs_of(report.resources),
        settings={
            "target": report.target,
            "steps": report.steps,
            **report.facts,
            **({"verified_with": dict(report.versions)} if report.versions else {}),
        },
        missing={
            name: reason for name, reason in report.not_measured.items() if name != "exhibits"
        },
    )


def read_entries(paths: Sequence[Path], verify: Verify | None = None) -> tuple[Entry, ...]:
    """
    Return what is at `paths`: report directories, report.json files, programs, training runs.

    Programs are verified by `verify`, or not at all. Raises `OptionError` or `FormatError` with all that
    is wrong, and for what makes no sense side by side.
    """
    if not 1 <= len(paths) <= MOST_ENTRIES:
        raise OptionError(
            Problem(
                "", f"from 1 to {MOST_ENTRIES} can stand side by side", f"there are {len(paths)}"
            )
        )
    entries: list[Entry] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            entries.append(_read(path, verify))
        except NeurocompileError as error:
            problems += (
                replace(problem, need=f"{path}: {problem.need}")
                if str(path) not in str(problem)
                else problem
                for problem in error.problems
            )
    raise_all(OptionError, problems)
    check_together(entries)
    return tuple(
        replace(entry, label=name)
        for entry, name in zip(entries, distinct_labels(paths), strict=True)
    )


def _read(path: Path, verify: Verify | None) -> Entry:
    if path.is_dir():
        found = [name for name in (REPORT, MANIFEST, METRICS) if (path / name).is_file()]
        if REPORT in found and len(found) > 1 and (verify is None or MANIFEST not in found):
            note = f"{REPORT} was read, {' and '.join(found[1:])} beside it not"
            return replace(_read(path / REPORT, verify), note=note)
        if found[:2] == [REPORT, MANIFEST]:  # a program that is to be verified anew
            found = found[1:]
        if len(found) != 1:
            raise OptionError(
                Problem(
                    "",
                    f"'{path}' must hold one of {REPORT}, {MANIFEST} and {METRICS}",
                    f"it holds {' and '.join(found) or 'none'}",
                    "name the file itself" if found else "",
                )
            )
        if found == [MANIFEST]:
            return _program(path, verify)
        path = path / found[0]
    elif path.name == MANIFEST and path.is_file():
        return _program(path.parent, verify)
    _check_json(path)
    data = read_json(path)
    if "test_accuracy" in data:
        return _training(data, str(path.parent))
    return entry_of_report(report_of(data), "", str(path))


def _check_json(path: Path) -> None:
    """Raise `OptionError` for what is not there, or begins as no JSON object does."""
    if not path.exists():
        raise OptionError(Problem("", f"there is no '{path}'"))
    try:
        with path.open("rb") as file:
            begin = file.read(LONGEST_BEGIN).lstrip(b" \t\r\n")
    except OSError as error:
        raise OptionError(Problem("", f"'{path}' cannot be read ({error.strerror})")) from error
    if not begin.startswith(b"{"):
        raise OptionError(
            Problem(
                "",
                f"'{path}' must be what 'verify --report', 'export' or 'train' wrote",
                "it is no JSON object",
                f"name '{path.parent}'"
                if any((path.parent / name).is_file() for name in (REPORT, MANIFEST, METRICS))
                else "",
            )
        )


def _program(path: Path, verify: Verify | None) -> Entry:
    with load(path) as program:
        if verify is not None:
            return replace(entry_of_report(verify(program), "", str(path)), kind="verification")
        return Entry(
            label="",
            kind="program",
            place=str(path),
            target=program.target,
            costs=costs_of(resources_of(program)),
            settings={
                "target": program.target,
                "steps": program.steps,
                **{name: program.facts[name] for name in TOLD if name in program.facts},
            },
            missing={"verification": NOT_VERIFIED},
        )


def _training(data: Mapping[str, Any], place: str) -> Entry:
    training = decode(Training, data, "")
    shares = [
        ("test_accuracy.last", training.test_accuracy.last),
        ("test_accuracy.best", training.test_accuracy.best),
        *(
            (f"{name}[{at}]", value)
            for name, values in (
                ("accuracy_per_moment", training.accuracy_per_moment),
                ("accuracy_per_epoch", training.accuracy_per_epoch),
            )
            for at, value in enumerate(values or ())
        ),
    ]
    for where, value in shares:
        if not 0 <= value <= 1:
            raise refuse(where, "a share from 0 to 1", value)
    if training.samples is not None and training.samples < 1:
        raise refuse("samples", "at least 1", training.samples)
    return Entry(
        label="",
        kind="training run",
        place=place,
        training=training,
        settings={"training": training.settings, "versions": training.versions},
        missing={"verification": NO_PROGRAM},
    )


def check_together(entries: Iterable[Entry]) -> None:
    """Raise `OptionError` where numbers of different data would stand side by side."""
    told: dict[str, dict[str, list[str]]] = {"verified on": {}, "trained on": {}}
    for entry in entries:
        report, training = entry.report, entry.training
        if report is not None and report.data:
            whole = "all" if report.whole else "the first"
            what = f"{whole} {report.samples} samples of {report.data}"
            told["verified on"].setdefault(what, []).append(entry.place or entry.label)
        name = training.data.get("name") if training else None
        if isinstance(name, str):
            told["trained on"].setdefault(name, []).append(entry.place or entry.label)
    problems = [
        Problem(
            "",
            f"what stands side by side must be {how} the same data",
            "; ".join(f"{', '.join(places)}: {what[:80]}" for what, places in found.items()),
            "compare those of one data set at a time",
        )
        for how, found in told.items()
        if len(found) > 1
    ]
    raise_all(OptionError, problems)


def distinct_labels(paths: Sequence[Path]) -> list[str]:
    """Return short names of `paths`, as long as it takes to tell them apart."""
    parts = [tuple(_parts(path)) for path in paths]
    different = list(dict.fromkeys(parts))
    found = ["/".join(names[-2:] if names[-1] == "report" else names[-1:]) for names in different]
    for length in range(2, 1 + max(len(names) for names in different)):
        found = [
            name if found.count(name) == 1 else "/".join(names[-length:])
            for name, names in zip(found, different, strict=True)
        ]
    label_of = dict(zip(different, found, strict=True))
    seen: dict[str, int] = {}
    result = []
    for names in parts:
        name = label_of[names]
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return told_apart(result)


def told_apart(labels: Sequence[str]) -> list[str]:
    """Return `labels`, all numbered where two of them look the same in a plot, which cuts long ones."""
    if len({label(name) for name in labels}) == len(labels):
        return list(labels)
    return [f"{at + 1}: {name}" for at, name in enumerate(labels)]


def _parts(path: Path) -> list[str]:
    absolute = path.absolute()
    named = absolute.parent if absolute.name in (REPORT, METRICS, MANIFEST) else absolute
    names = [part for part in named.parts if part not in (named.anchor, "..", ".")]
    return names or [str(path)]
