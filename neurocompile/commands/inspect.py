"""`neurocompile inspect`."""

from __future__ import annotations

import click


@click.command()
def inspect() -> None:
    """Say what is in a program directory or a .nir file."""
    raise NotImplementedError
