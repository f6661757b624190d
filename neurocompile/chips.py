"""
Chips that are files: a family's widths, rounding, overflow and limits, as a readable `.toml`.

A target that computes by `Limits` alone can be any chip of its family; see `targets/README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from neurocompile.errors import OptionError, Problem
from neurocompile.limits import Limits
from neurocompile.target import Target


@dataclass(frozen=True)
class Chip:
    """A chip of a family: its name, what it is in a line, its limits, and the text that said so."""

    name: str
    summary: str
    limits: Limits
    text: str


@runtime_checkable
class FamilyTarget(Protocol):
    """A target that can be any chip of its family."""

    def for_chip(self, chip: Chip) -> Target:
        """Return the target with the limits of `chip`."""
        ...


def read_chip(path: Path) -> Chip:
    """Return the chip that the file `path` describes."""
    raise NotImplementedError(path)


def for_chip(target: Target, chip: Chip) -> Target:
    """Return `target` as `chip`; raises `OptionError` if it is no family."""
    if not isinstance(target, FamilyTarget):
        raise OptionError(
            Problem(
                "",
                f"target '{target.name}' is one chip, and takes no --spec",
                remedy="leave it out, or export for fixedpoint",
            )
        )
    return target.for_chip(chip)
