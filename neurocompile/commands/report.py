"""`neurocompile report`."""

from __future__ import annotations

import click


@click.command()
def report() -> None:
    """Put several verifications side by side in one page."""
    raise NotImplementedError
