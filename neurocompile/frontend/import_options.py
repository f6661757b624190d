"""
What a NIR file does not say, as options of the import: how time, firing and resets are discrete.

`None` means that the file, or the rule of its dialect, decides; where neither does, the import refuses
and names the option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from neurocompile.errors import OptionError, Problem, raise_all
from neurocompile.integer import Reset

Profile = Literal[
    "auto",
    "ours",
    "snntorch",
    "spikingjelly",
    "sinabs",
    "norse",
    "rockpool",
    "spyx",
    "lava-dl",
    "literal",
]
ResetAt = Literal["spike", "next"]
Fires = Literal["above", "at"]
InputGain = Literal["1", "leak"]
Synapse = Literal["now", "next"]

PROFILES: tuple[Profile, ...] = get_args(Profile)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "reset": get_args(Reset),
    "reset_at": get_args(ResetAt),
    "fires": get_args(Fires),
    "input_gain": get_args(InputGain),
    "synapse": get_args(Synapse),
}
ANY, NONE, THRESHOLD = "any", "none", "threshold"
MOST_SPIKES = 1 << 24  # graded spikes are at most 24 bits wide


@dataclass(frozen=True)
class ImportOptions:
    """
    How to read a NIR file.

    `profile`       the framework whose recurrence to use; see `dialects`
    `dt`            seconds a step takes, in the unit of the file's time constants
    `reset`         "zero" (to v_reset) or "subtract" (the threshold)
    `reset_at`      a reset acts at the "spike", or in the "next" step
    `fires`         a membrane fires "above" its threshold, or "at" it as well
    `max_spikes`    of a neuron in one step; "any" number
    `min_membrane`  the lowest membrane: "none", minus the "threshold", or a number
    `input_gain`    of neurons whose r is 1: "1", or their "leak", 1 - decay
    `synapse`       a synaptic current acts in the step it arrives, "now", or the "next"

    Raises `OptionError` with all that is impossible in them.
    """

    profile: str = "auto"
    dt: float | None = None
    reset: str | None = None
    reset_at: str | None = None
    fires: str | None = None
    max_spikes: int | str | None = None
    min_membrane: float | str | None = None
    input_gain: str | None = None
    synapse: str | None = None

    def __post_init__(self) -> None:
        raise_all(OptionError, self._problems())
        object.__setattr__(self, "max_spikes", _count(self.max_spikes))
        object.__setattr__(self, "min_membrane", _level(self.min_membrane))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImportOptions:
        """Return the options that `to_json` wrote; raises `OptionError` or `TypeError` for others."""
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return all options by name, as plain values."""
        return asdict(self)

    @property
    def given(self) -> tuple[str, ...]:
        """The flags of the options that are not left to the file."""
        chosen = [name for name, value in asdict(self).items() if value is not None]
        return tuple(flag(name) for name in chosen if name != "profile" or self.profile != "auto")

    def _problems(self) -> Iterable[Problem]:
        if self.profile not in PROFILES:
            remedy = f"choose from {', '.join(PROFILES)}"
            yield Problem("", f"there is no profile '{self.profile}'", remedy=remedy)
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                words = flag(name)[2:].replace("-", " ")
                yield Problem(
                    "", f"there is no {words} '{value}'", remedy=f"use {' or '.join(known)}"
                )
        if self.dt is not None and not _is_number(self.dt, above=0):
            yield Problem("", "--dt must be a positive number of seconds", f"it is {self.dt}")
        try:
            _count(self.max_spikes)
        except ValueError:
            yield Problem(
                "",
                f"--max-spikes must be an integer from 1 to {MOST_SPIKES}, or 'any'",
                f"it is {self.max_spikes}",
            )
        try:
            _level(self.min_membrane)
        except ValueError:
            yield Problem(
                "",
                "--min-membrane must be 'none', 'threshold' or a number",
                f"it is {self.min_membrane}",
            )


def flag(name: str) -> str:
    """Return the command line's spelling of an option."""
    return "--" + name.replace("_", "-")


def _is_number(value: Any, *, above: float = -np.inf) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and bool(np.isfinite(value)) and value > above


def _count(value: Any) -> int | str | None:
    if value is None or value == ANY:
        return value  # type: ignore[no-any-return]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(value)  # noqa: TRY004 - any wrong value is one kind of wrong here
    number = int(value)
    if not 1 <= number <= MOST_SPIKES:
        raise ValueError(value)
    return number


def _level(value: Any) -> float | str | None:
    if value is None or value in (NONE, THRESHOLD):
        return value  # type: ignore[no-any-return]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(value)  # noqa: TRY004
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(value)
    return number
