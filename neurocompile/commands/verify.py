"""`neurocompile verify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from neurocompile import api
from neurocompile.atomic import check_writable, write_text
from neurocompile.console import DIFFERENT, DONE, example, progress_bars
from neurocompile.program import load
from neurocompile.raster import draw_raster, need_matplotlib
from neurocompile.verification.terminal import print_report

REPORT_JSON, RASTER = "report.json", "raster.png"


@click.command(
    epilog=example(
        """
neurocompile verify runs/digits-loihi2 --input digits:test
neurocompile verify runs/digits-loihi2 --input digits:test --samples 20 --report runs/report
neurocompile verify runs/digits-loihi2 --input in.npz --against fixedpoint --json report.json
"""
    )
)
@click.argument("program", type=click.Path(path_type=Path), metavar="PROGRAM_DIR")
@click.option(
    "--input",
    "data",
    required=True,
    metavar="DATA",
    help="A data set ('digits:test') or an .npz file.",
)
@click.option("--samples", type=int, help="Take the first ones only.")
@click.option(
    "--against",
    default="",
    metavar="NAME,...",
    help="Stages to compare: torch, float, fixedpoint; onnx:step, onnx:sequence.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--report",
    "directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write report.json and a picture.",
)
@click.option(
    "--deadline", type=float, metavar="SECONDS", help="Give up on the target after so long."
)
def verify(
    program: Path,
    data: str,
    samples: int | None,
    against: str,
    json_file: Path | None,
    directory: Path | None,
    deadline: float | None,
) -> int:
    """Compare every stage with the one before it, spike by spike. Exit code 1 if integers differ."""
    if json_file is not None:
        check_writable(json_file)
    if directory is not None:
        need_matplotlib()
        check_writable(directory, directory=True, option="--report")
    with progress_bars() as progress_of, load(program) as loaded:
        report = api.verify(
            loaded,
            data=data,
            samples=samples,
            against=[name for name in against.split(",") if name],
            progress_of=progress_of,
            deadline=deadline,
        )
    print_report(report)
    text = json.dumps(report.to_json(), indent=2) + "\n"
    if json_file is not None:
        write_text(json_file, text)
    if directory is not None:
        write_text(directory / REPORT_JSON, text)
        click.echo(f"wrote {directory / REPORT_JSON}")
        if report.exhibits:
            draw_raster(report, directory / RASTER)
            click.echo(f"wrote {directory / RASTER}")
    return DIFFERENT if report.failed else DONE
