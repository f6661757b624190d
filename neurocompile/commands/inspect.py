"""`neurocompile inspect`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from neurocompile.atomic import check_writable, real_path, write_text
from neurocompile.console import DONE, IMPOSSIBLE, example, printable
from neurocompile.errors import NeurocompileError, OptionError, Problem
from neurocompile.inspection import inspect_path
from neurocompile.inspections.tables import print_inspection


@click.command(
    epilog=example(
        """
neurocompile inspect runs/digits-loihi2
neurocompile inspect model.nir --json model.json
neurocompile inspect golden
"""
    )
)
@click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
def inspect(path: Path, json_file: Path | None) -> int:
    """
    Say what is in a program directory or a .nir file, and how it is read.

    Also in a .net file, a golden, NIR data, a run directory or a checkpoint. Exit code 2 if it is damaged.
    """
    if json_file is not None:
        check_writable(json_file, option="--json")
        _check_outside(json_file, path)
    try:
        inspection = inspect_path(path)
    except NeurocompileError as error:
        raise type(error)(*map(_printable, error.problems)) from error
    print_inspection(inspection)
    if json_file is not None:
        text = json.dumps(inspection.to_json(), indent=2, allow_nan=False) + "\n"
        write_text(json_file, text)
        click.echo(f"wrote {json_file}")
    return IMPOSSIBLE if inspection.damaged else DONE


def _check_outside(json_file: Path, path: Path) -> None:
    """Raise `OptionError` where `json_file` would change what is inspected."""
    real, looked_at = real_path(json_file), real_path(path)
    if looked_at in (real, *real.parents):
        raise OptionError(
            Problem(
                "",
                f"the file '{json_file}' cannot be written",
                "it is part of what is inspected, which is not changed",
                "choose another place with --json",
            )
        )


def _printable(problem: Problem) -> Problem:
    """Return a problem whose names, which may be strangers', print as they are spelled."""
    return replace(problem, **{name: printable(text) for name, text in vars(problem).items()})
