"""A verification for people, on a terminal."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from neurocompile.console import share_of
from neurocompile.verification.report import Comparison, Report


def print_report(report: Report) -> None:
    """Print where the stages of `report` differ, and how often they are right."""
    console = Console()
    table = Table("comparison", "layer", box=None, pad_edge=False)
    for heading in ("places", "differ", "share"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for comparison in report.comparisons:
        for layer in comparison.layers:
            table.add_row(
                "",
                layer.name,
                f"{layer.slots}",
                f"{layer.mismatches}",
                share_of(layer.mismatches, layer.slots),
                "",
            )
        table.add_row(
            f"{comparison.reference} / {comparison.candidate}",
            "all",
            f"{comparison.slots}",
            f"{comparison.mismatches}",
            share_of(comparison.mismatches, comparison.slots),
            _verdict(comparison),
            end_section=True,
        )
    console.print(table)
    for comparison in report.comparisons:
        first = comparison.first_divergence
        if first is not None:
            click.echo(
                f"{comparison.reference} / {comparison.candidate}: first difference at sample {first.sample}, "
                f"step {first.step}, layer '{first.layer}', neuron {first.neuron}: "
                f"{comparison.candidate} {'fired' if first.candidate_spike else 'did not fire'}, "
                f"{comparison.reference} {'did' if first.reference_spike else 'did not'} "
                f"(membrane {first.membrane:.6g}, threshold {first.threshold:.6g})"
            )
    for remark in report.remarks:
        click.echo(remark)
    accuracy = "  ".join(f"{name} {100 * value:.2f} %" for name, value in report.accuracy.items())
    if accuracy:
        click.echo(f"accuracy on {report.samples} samples, {report.steps} steps: {accuracy}")


def _verdict(comparison: Comparison) -> str:
    if not comparison.must_match:
        return "measured"
    if not comparison.failed:
        return "identical" if comparison.slots else "identical outputs"
    too = ", too" if comparison.mismatches else ""
    return f"FAILED ({comparison.output_mismatches} outputs differ{too})"
