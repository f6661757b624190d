"""
Chips that are files: a family's widths, rounding, overflow and limits, as a readable `.toml`.

A target that computes by `Limits` alone can be any chip of its family; see `docs/chips.md`, which explains
every key. What a chip's neurons cannot do is refused by name, when a program is made for it.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import (
    FormatError,
    MissingDependencyError,
    OptionError,
    Problem,
    raise_all,
)
from neurocompile.integer import (
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
    Overflow,
    Reset,
    Rounding,
    Shape,
)
from neurocompile.limits import WIDTHS, Limits, contradictions
from neurocompile.target import Lowered, Target

CHIP = "chip.toml"  # of a program's files
LARGEST_FILE = 1 << 13  # bytes; dotted keys take a parser the square of their length
LONGEST_LINE = 500
MOST_UNKNOWN = 8  # keys that are told; a file that is no chip's has any number
LONGEST_DELAY = 1 << 16  # steps
LONGEST_SUMMARY = 100
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

Differ = Literal["population", "channel", "neuron"]
Subtracts = Literal["threshold", "any"]


@dataclass(frozen=True)
class Abilities:
    """
    What the neurons of a chip can do, besides firing above a threshold.

    `resets` are the kinds it has, and `subtracts` what one that subtracts may take off; a neuron fires at most
    `spikes_per_step` times in a step, sent as one graded spike, and a sum of spikes is sent as one up to the
    same number. `thresholds` and `decays` say what may have its own: each population, each of its channels (of a
    vector: each neuron), or each neuron. `longest_delay` is in steps, besides the one that feedback takes.
    """

    resets: tuple[Reset, ...]
    subtracts: Subtracts
    spikes_per_step: int
    fires_at_threshold: bool
    refractory: bool
    floors: bool
    thresholds: Differ
    decays: Differ
    leaky_currents: bool
    longest_delay: int
    feedback: bool


@dataclass(frozen=True)
class Chip:
    """
    A chip of a family: its name, what it is in a line, its limits, and the text that said so.

    `abilities` are those of its neurons.
    """

    name: str
    summary: str
    limits: Limits
    abilities: Abilities
    text: str

    @property
    def facts(self) -> dict[str, str]:
        """What a program's manifest says of its chip."""
        return {"name": self.name, "summary": self.summary}


@runtime_checkable
class FamilyTarget(Protocol):
    """A target that can be any chip of its family."""

    @property
    def chips(self) -> Mapping[str, str]:
        """The texts of the chips that come with it, by name."""
        ...

    @property
    def chip(self) -> Chip | None:
        """The chip that it is, if it was told."""
        ...

    def for_chip(self, chip: Chip) -> Target:
        """Return the target with the limits of `chip`."""
        ...


def for_spec(target: Target, spec: Path | str) -> Target:
    """
    Return `target` as the chip that `spec` names: a file, or one that comes with the target.

    Raises `OptionError` if it is no family or there is no such chip, `FormatError` for a file that is none.
    """
    if not isinstance(target, FamilyTarget):
        raise OptionError(
            Problem(
                "",
                f"target '{target.name}' is one chip, and takes no --spec",
                remedy="leave it out, or export for fixedpoint",
            )
        )
    shipped = target.chips
    name = str(spec)
    mode = _mode_of(name)
    if name in shipped and not (mode and stat.S_ISREG(mode)):
        return target.for_chip(parse_chip(shipped[name].encode(), name))
    if not mode:
        near = difflib.get_close_matches(name, shipped, 1)
        raise OptionError(
            Problem(
                "",
                f"there is no chip {_shown(name)}",
                "it is neither a file nor one that comes with the target",
                (f"did you mean {near[0]}? " if near else "")
                + f"give a .toml file, or one of {', '.join(shipped)}",
            )
        )
    return target.for_chip(read_chip(Path(spec)))


def with_chip(files: Mapping[str, bytes], chip: Chip | None) -> Lowered:
    """Return what a target adds to a program: `files`, and the file, name and summary of its chip."""
    if chip is None:
        return Lowered(files)
    return Lowered(
        {**files, CHIP: chip.text.encode()},
        notes=(f"the chip is '{chip.name}' ({chip.summary})",),
        facts={"chip": chip.facts},
    )


def largest_sum(target: Target) -> int:
    """Return the largest sum of spikes that `target` can send as one graded spike."""
    most = target.limits.payload_maximum
    if isinstance(target, FamilyTarget) and target.chip is not None:
        return min(most, target.chip.abilities.spikes_per_step)
    return most


def _mode_of(name: str) -> int:
    """Return the mode of the file `name`, 0 if there is none; raises `OptionError` if nobody can tell."""
    try:
        return Path(name).stat().st_mode if name else 0
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (OSError, ValueError) as error:  # too long, links in a circle, a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            Problem("", f"cannot read the chip {_shown(name)}", reason, "give another file")
        ) from error


def read_chip(path: Path) -> Chip:
    """
    Return the chip that the file `path` describes.

    Raises `FormatError` with everything that is wrong with it.
    """
    try:
        # A pipe would keep us waiting for a writer, and a device never ends.
        with open(path, "rb", opener=_without_waiting) as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(Problem("", f"cannot read the chip '{path}' ({reason})")) from error
    return parse_chip(content, str(path))


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, and nothing else."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(Problem("", f"'{path}' must be a file", "it is none"))
    return descriptor


def parse_chip(content: bytes, name: str) -> Chip:
    """
    Return the chip that a file's `content` describes; `name` is what messages call the file.

    Raises `FormatError` with everything that is wrong with it.
    """
    if len(content) > LARGEST_FILE:
        raise FormatError(
            Problem("", f"a chip's file has at most {LARGEST_FILE} bytes", f"'{name}' has more")
        )
    try:
        text = content.decode()
        _refuse_long_lines(text, name)
        table = _parse_toml(text)
    except (ValueError, RecursionError) as error:  # of decoding as well
        raise FormatError(
            Problem("", f"'{name}' is no TOML ({str(error) or type(error).__name__})")
        ) from error
    reader = _Reader(name, table)
    chip = reader.chip(text)
    raise_all(FormatError, reader.problems)
    assert chip is not None
    return chip


def _parse_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise MissingDependencyError(
                Problem(
                    "",
                    "files of chips need tomli on Python 3.10",
                    "it is not installed",
                    "install it with: pip install tomli",
                )
            ) from error
    return tomllib.loads(text)


def _refuse_long_lines(text: str, name: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LONGEST_LINE:
            raise FormatError(
                Problem(
                    "",
                    f"a chip's file has lines of at most {LONGEST_LINE} characters",
                    f"line {number} of '{name}' has {len(line)}",
                )
            )


class _Reader:
    """Takes values out of a parsed file, and collects what is wrong with them."""

    def __init__(self, name: str, table: Mapping[str, Any]) -> None:
        self.name, self.table = name, table
        self.problems: list[Problem] = []
        self.known: dict[str, list[str]] = {"": []}

    def chip(self, text: str) -> Chip | None:
        """Return the chip, or None where something is wrong."""
        name = self._text("name", NAME, "letters, digits, '.', '_' and '-'")
        summary = self._text("summary", re.compile(rf".{{1,{LONGEST_SUMMARY}}}"), "one line")
        whole, one_of = self._whole, self._one_of
        limits: dict[str, Any] = {
            "weight_bits": whole("weights", "bits", *WIDTHS["weight_bits"]),
            "weight_step": whole("weights", "step", *WIDTHS["weight_step"]),
            "bias_mantissa_bits": whole("biases", "mantissa_bits", *WIDTHS["bias_mantissa_bits"]),
            "bias_exponent_maximum": whole(
                "biases", "largest_exponent", *WIDTHS["bias_exponent_maximum"]
            ),
            "decay_bits": whole("decays", "bits", *WIDTHS["decay_bits"]),
            "payload_bits": whole("inputs", "payload_bits", *WIDTHS["payload_bits"]),
            "fraction_bits": whole("states", "fraction_bits", *WIDTHS["fraction_bits"]),
            "current_bits": whole("states", "current_bits", *WIDTHS["current_bits"]),
            "rounding": one_of("states", "rounding", get_args(Rounding)),
            "current_overflow": one_of("states", "current_overflow", get_args(Overflow)),
            "membrane_overflow": one_of("states", "membrane_overflow", get_args(Overflow)),
        }
        membrane_bits = whole("states", "membrane_bits", *WIDTHS["membrane_bits"])
        threshold_bits = whole("thresholds", "bits", 1, 31)
        largest_sum = whole("states", "largest_input_sum", 1, (1 << 31) - 1, optional=True)
        abilities: dict[str, Any] = {
            "resets": self._several("neurons", "resets", get_args(Reset)),
            "subtracts": one_of("neurons", "subtracts", get_args(Subtracts), default="threshold"),
            "spikes_per_step": whole("neurons", "spikes_per_step", 1, (1 << 16) - 1),
            "fires_at_threshold": self._flag("neurons", "fires_at_threshold"),
            "refractory": self._flag("neurons", "refractory"),
            "floors": self._flag("neurons", "floors"),
            "thresholds": one_of("neurons", "thresholds", get_args(Differ)),
            "decays": one_of("neurons", "decays", get_args(Differ)),
            "leaky_currents": self._flag("neurons", "leaky_currents"),
            "longest_delay": whole("neurons", "longest_delay", 0, LONGEST_DELAY),
            "feedback": self._flag("neurons", "feedback"),
        }
        self._refuse_unknown()
        if self.problems:
            return None
        # What is not said follows from the bits of the state that holds it.
        current_end = (1 << (limits["current_bits"] - 1)) - 1
        membrane_end, threshold = (1 << (membrane_bits - 1)) - 1, (1 << threshold_bits) - 1
        if threshold == membrane_end and not limits["fraction_bits"]:
            threshold -= 1  # no membrane goes beyond its end: at this threshold nothing would fire
        found = Limits(
            **limits,
            state_maximum=membrane_end,
            threshold_maximum=threshold,
            current_maximum=largest_sum or current_end >> limits["fraction_bits"],
        )
        self.problems += [self._here(problem) for problem in contradictions(found)]
        if abilities["spikes_per_step"] > found.payload_maximum:
            self._wrong(
                "neurons",
                "spikes_per_step",
                f"must fit a graded spike, at most {found.payload_maximum}",
                f"it is {abilities['spikes_per_step']}",
            )
        return Chip(name, summary, found, Abilities(**abilities), text)

    def _here(self, problem: Problem) -> Problem:
        return Problem("", f"'{self.name}': {problem.need}", problem.have, problem.remedy)

    def _wrong(self, section: str, key: str, need: str, have: str, remedy: str = "") -> None:
        where = f"[{section}] {key}" if section else key
        self.problems.append(self._here(Problem("", f"{where} {need}", have, remedy)))

    def _take(self, section: str, key: str, need: str, *, optional: bool = False) -> Any:
        """Return what the file says, None where it says nothing; note that `key` is known."""
        self.known.setdefault(section, []).append(key)
        table: Any = self.table.get(section, {}) if section else self.table
        if not isinstance(table, dict):
            return None  # one problem for the whole section
        if key not in table:
            if not optional:
                self._wrong(section, key, need, "it is missing")
            return None
        return table[key]

    def _text(self, key: str, pattern: re.Pattern[str], of: str) -> str:
        need = f"must be a short text of {of}"
        value = self._take("", key, need)
        if value is None:
            return ""
        if not isinstance(value, str) or not pattern.fullmatch(value) or not value.isprintable():
            self._wrong("", key, need, f"it is {_shown(value)}")
            return ""
        return value

    def _whole(
        self, section: str, key: str, least: int, most: int, *, optional: bool = False
    ) -> int:
        need = f"must be a whole number from {least} to {most}"
        value = self._take(section, key, need, optional=optional)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self._wrong(section, key, need, f"it is {_shown(value)}")
            return 0
        return value

    def _flag(self, section: str, key: str) -> bool:
        value = self._take(section, key, "must be true or false")
        if value is not None and not isinstance(value, bool):
            self._wrong(section, key, "must be true or false", f"it is {_shown(value)}")
        return value is True

    def _one_of(
        self, section: str, key: str, known: tuple[str, ...], *, default: str | None = None
    ) -> str:
        need = f"must be one of {', '.join(known)}"
        value = self._take(section, key, need, optional=default is not None)
        if value is None and default is not None:
            return default
        if value is not None and value not in known:
            self._wrong(section, key, need, f"it is {_shown(value)}", _meant(value, known))
        return str(value)

    def _several(self, section: str, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        need = f"must be a list of some of {', '.join(known)}"
        value = self._take(section, key, need)
        if value is None:
            return ()
        if (
            not isinstance(value, list)
            or not value
            or any(not isinstance(item, str) or item not in known for item in value)
        ):
            self._wrong(section, key, need, f"it is {_shown(value)}")
            return ()
        return tuple(item for item in known if item in value)

    def _refuse_unknown(self) -> None:
        unknown = list(self._unknown())
        for section, key, what, meant in unknown[:MOST_UNKNOWN]:
            self._wrong(section, _name(key), f"is no {what}", "", _meant(key, meant))
        if len(unknown) > MOST_UNKNOWN:
            self._wrong("", f"and {len(unknown) - MOST_UNKNOWN} others", "are no keys either", "")

    def _unknown(self) -> Iterable[tuple[str, str, str, Iterable[str]]]:
        """Yield section and name of each unknown key, what it is none of, and what may be meant."""
        sections = [section for section in self.known if section]
        for key, value in self.table.items():
            if key in sections:
                if not isinstance(value, dict):
                    self._wrong("", key, "must be a section", f"it is {_shown(value)}")
                    continue
                for inner in value:
                    if inner not in self.known[key]:
                        yield key, inner, "key", self.known[key]
            elif key not in self.known[""]:
                section = isinstance(value, dict)
                known = sections if section else self.known[""]
                yield "", key, "section" if section else "key", known


def _shown(value: Any) -> str:
    """Return `value` for a message, short whatever it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes out no integers of thousands of digits
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "too long"
    return text if len(text) <= LONGEST_SUMMARY else f"{text[:LONGEST_SUMMARY]}..."


def _name(key: str) -> str:
    """Return a key for a message, with nothing in it that a terminal would obey."""
    return key if NAME.fullmatch(key) else _shown(key)


def _meant(value: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, known, 1) if isinstance(value, str) else []
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def problems_of(network: IntegerNetwork, chip: Chip) -> list[Problem]:
    """Return everything in `network` that the neurons and connections of `chip` cannot do."""
    problems: list[Problem] = []
    for neurons in network.neurons:
        problems += _problems_of_neurons(neurons, chip)
    most = chip.abilities.spikes_per_step
    problems += [
        Problem(
            relay.name,
            f"needs to send sums of up to {relay.largest} spikes as one",
            f"{chip.name}'s neurons send {most} at most",
            "send them through duplicated synapses with --sums duplicate",
        )
        for relay in network.populations
        if isinstance(relay, IntegerRelay) and relay.largest > most
    ]
    names = [item.name for item in network.populations]
    for group in network.synapses:
        back = names.index(group.source) >= names.index(group.target)
        problems += _problems_of_delays(group, chip, back=back)
    return problems


def _problems_of_neurons(neurons: IntegerNeurons, chip: Chip) -> Iterable[Problem]:
    can, name = chip.abilities, neurons.name
    if not neurons.readout and neurons.reset not in can.resets:
        taken = {"zero": "is cleared", "subtract": "has its threshold taken off"}
        yield Problem(
            name,
            f"needs a membrane that {taken[neurons.reset]} by a spike",
            f"{chip.name}'s neurons know {' and '.join(can.resets)}",
            f"train it with reset '{can.resets[0]}'",
        )
    elif neurons.reset == "subtract" and can.subtracts == "threshold":
        threshold = neurons.threshold << neurons.arithmetic.fraction_bits
        if (neurons.subtracts != threshold).any():
            yield Problem(
                name,
                "needs another amount than its threshold taken off by a spike",
                f"{chip.name}'s neurons subtract their threshold",
            )
    if neurons.most > can.spikes_per_step:
        yield Problem(
            name,
            f"needs {neurons.most} spikes in a step",
            f"{chip.name}'s neurons fire {can.spikes_per_step} at most",
            f"limit them with --max-spikes {can.spikes_per_step}",
        )
    for what, needed, has in (
        ("to fire at its threshold", neurons.inclusive, can.fires_at_threshold),
        ("refractory steps", neurons.refractory > 0, can.refractory),
        ("a floor below its membranes", neurons.floored, can.floors),
        (
            "a current that remembers",
            bool((neurons.du != neurons.arithmetic.memoryless).any()),
            can.leaky_currents,
        ),
    ):
        if needed and not has:
            yield Problem(name, f"needs {what}", f"{chip.name}'s neurons have no such thing")
    for what, values, may in (
        ("thresholds", neurons.threshold, can.thresholds),
        ("leaks", neurons.dv, can.decays),
        ("current leaks", neurons.du, can.decays),
    ):
        found = differ(values, neurons.shape)
        order = get_args(Differ)
        if order.index(found) > order.index(may):
            yield Problem(
                name,
                f"needs {what} of its own for each {found}",
                f"{chip.name} has one for each {may}",
                "quantise with --scales layer" if what == "thresholds" else "",
            )


def differ(values: NDArray[Any], shape: Shape) -> Differ:
    """Return what in a population of `shape` has values of its own; the neurons of a vector are channels."""
    every = np.broadcast_to(values, shape)
    if every.size == 0 or (every == every.flat[0]).all():
        return "population"
    channels = every.reshape(shape[0], -1)
    return "channel" if (channels == channels[:, :1]).all() else "neuron"


def _problems_of_delays(group: IntegerSynapses, chip: Chip, *, back: bool) -> Iterable[Problem]:
    can = chip.abilities
    if back and not can.feedback:
        yield Problem(
            group.name,
            "needs connections to the same layer or an earlier one",
            f"{chip.name} has none",
        )
    longest = int(group.delay.max(initial=0)) - int(back)
    if longest > can.longest_delay:
        yield Problem(
            group.name,
            f"needs a delay of {longest} steps",
            f"{chip.name}'s longest is {can.longest_delay}"
            if can.longest_delay
            else f"{chip.name} has none",
        )
