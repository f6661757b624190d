"""`neurocompile verify`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from neurocompile import api
from neurocompile.atomic import check_writable, replacing, write_text
from neurocompile.console import DIFFERENT, DONE, example, progress_bars
from neurocompile.errors import OptionError, Problem, raise_all
from neurocompile.program import Program, load
from neurocompile.raster import draw_raster, need_matplotlib, samples_drawn
from neurocompile.verification.budgets import ACCURACY, DROP, MISMATCH, fraction_of
from neurocompile.verification.ranks import ranks_here
from neurocompile.verification.report import Report
from neurocompile.verification.terminal import print_report, printable
from neurocompile.verification.verify import EXAMINED

REPORT_JSON, PAGE, RASTER = "report.json", "report.html", "raster.png"
UNFINISHED = "unfinished"  # in the directory of a report: what --resume keeps


@click.command(
    epilog=example(
        """
neurocompile verify runs/digits-loihi2 --input digits:test
neurocompile verify runs/digits-loihi2 --input digits:test --samples 20 --report runs/report
neurocompile verify runs/digits-loihi2 --input in.npz --against fixedpoint --json report.json
neurocompile verify runs/digits-loihi2 --input digits:test --max-mismatch 0.5% --min-accuracy 98%
neurocompile verify runs/digits-loihi2 --input digits:test --golden golden
neurocompile verify runs/digits-loihi2 --golden golden
"""
    )
)
@click.argument("program", type=click.Path(path_type=Path), metavar="PROGRAM_DIR")
@click.option("--input", "data", metavar="DATA", help="A data set ('digits:test') or an .npz file.")
@click.option("--samples", type=int, help="Take the first ones only.")
@click.option(
    "--against",
    metavar="NAME,...",
    help="Stages to compare: torch, float, quantised, fixedpoint; onnx:step, onnx:sequence.",
)
@click.option("--jobs", type=int, metavar="N", help="Processes that share the samples.  [1]")
@click.option(
    "--resume",
    is_flag=True,
    help="Keep what is done in the report's directory until all is, and go on from there.",
)
@click.option(
    "--examine",
    type=int,
    metavar="N",
    help=f"Samples to look at closely: causes, own and inherited errors.  [{EXAMINED}]",
)
@click.option(
    "--suggest", is_flag=True, help="Quantise in other ways, and measure on the examined samples."
)
@click.option(
    "--max-mismatch", metavar="SHARE", help="Of spikes, first stage against the target: 0.5%."
)
@click.option("--min-accuracy", metavar="SHARE", help="Of the target: 98%.")
@click.option("--max-accuracy-drop", metavar="SHARE", help="From the first stage to the target.")
@click.option(
    "--golden",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --input: store some samples with their spikes; without: compare with those stored.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--report",
    "directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Write {PAGE}, {REPORT_JSON} and a picture.",
)
@click.option(
    "--deadline", type=float, metavar="SECONDS", help="Give up on the target after so long."
)
def verify(
    program: Path,
    data: str | None,
    golden: Path | None,
    json_file: Path | None,
    directory: Path | None,
    **given: Any,
) -> int:
    """
    Compare every stage with the one before it, spike by spike.

    Exit code 1 if integers differ, or a floor that was set is missed.
    """
    raise_all(OptionError, _without_effect(data, golden, directory, given))
    if json_file is not None:
        check_writable(json_file)
    if data is None:
        assert golden is not None
        return _replay(program, golden, json_file)
    _check_places(directory, golden)
    options = _options(given, directory)
    with progress_bars() as progress_of, load(program) as loaded:
        report = api.verify(loaded, data=data, progress_of=progress_of, **options)
    if not ranks_here().first:
        return DIFFERENT if report.failed else DONE
    print_report(report)
    for path in write_report(report, directory, json_file):
        click.echo(f"wrote {path}")
    if golden is not None:
        _store(loaded, data, report, golden)
    return DIFFERENT if report.failed else DONE


def _without_effect(
    data: str | None, golden: Path | None, directory: Path | None, given: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield what would change nothing, or what is missing, in the options."""
    if data is None and golden is None:
        yield Problem("", "verify needs samples", "", "give --input DATA, or --golden DIR")
    elif data is None:
        names = [name for name, value in given.items() if value not in (None, False)]
        asked = [f"--{name.replace('_', '-')}" for name in names]
        asked += ["--report"] if directory is not None else []
        if asked:
            yield Problem(
                "",
                f"{', '.join(sorted(asked))} changes nothing where a golden is compared",
                remedy="give --input, or leave it out",
            )
    if given["resume"] and directory is None and data is not None:
        yield Problem("", "--resume keeps what is done in --report DIR", "there is none")


def _check_places(directory: Path | None, golden: Path | None) -> None:
    """Raise an error for what could not be written in the end, before anything is computed."""
    if directory is not None:
        from neurocompile.page import need_plotly

        need_plotly()
        need_matplotlib()
        check_writable(directory, directory=True, option="--report")
    if golden is not None:
        from neurocompile.verification.golden import is_golden

        check_writable(golden, directory=True, option="--golden")
        if golden.is_dir() and any(golden.iterdir()) and not is_golden(golden):
            raise OptionError(
                Problem(
                    "",
                    f"'{golden}' exists and is no golden",
                    remedy="choose another place with --golden",
                )
            )


def _options(given: Mapping[str, Any], directory: Path | None) -> dict[str, Any]:
    """Return the options of `api.verify`."""
    names = {"samples", "jobs", "examine", "deadline"}
    options = {name: given[name] for name in names if given[name] is not None}
    against = [name for name in (given["against"] or "").split(",") if name]
    return {
        **options,
        "against": against,
        "suggest": given["suggest"],
        "resume": directory / UNFINISHED if given["resume"] and directory is not None else None,
        "max_mismatch": fraction_of(given["max_mismatch"], MISMATCH),
        "min_accuracy": fraction_of(given["min_accuracy"], ACCURACY),
        "max_accuracy_drop": fraction_of(given["max_accuracy_drop"], DROP),
    }


def write_report(report: Report, directory: Path | None, json_file: Path | None) -> list[Path]:
    """
    Write the page, the JSON and the picture into `directory`, and the JSON into `json_file`.

    All of them are made before any takes its place. Without spikes there is no picture, and an older one
    goes.
    """
    text = json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n"
    with ExitStack() as stack:
        if json_file is not None:
            stack.enter_context(replacing(json_file)).write_text(text, encoding="utf-8")
        if directory is None:
            return []
        from neurocompile.page import write_page

        facts, page, picture = (directory / name for name in (REPORT_JSON, PAGE, RASTER))
        stack.enter_context(replacing(facts)).write_text(text, encoding="utf-8")
        write_page(report, stack.enter_context(replacing(page)))
        written = [facts, page]
        if samples_drawn(report):
            draw_raster(report, stack.enter_context(replacing(picture)))
            written.append(picture)
        else:
            picture.unlink(missing_ok=True)
    return written


def _store(program: Program, data: str, report: Report, golden: Path) -> None:
    """Write a golden of a program that was verified; of one that failed there is none."""
    from neurocompile.verification.golden import write_golden

    if report.failed:
        click.echo(f"wrote no golden '{golden}': the verification failed")
        return
    write_golden(program, api.source_for(program, data, report.samples), golden)
    click.echo(f"wrote {golden}")


def _replay(program: Path, golden: Path, json_file: Path | None) -> int:
    """Hold a program to what was stored of it."""
    from neurocompile.verification.golden import replay_golden

    with load(program) as loaded:
        replay = replay_golden(loaded, golden)
    for line in replay.lines():
        click.echo(printable(line))
    if json_file is not None:
        write_text(json_file, json.dumps(replay.to_json(), indent=2) + "\n")
    return DIFFERENT if replay.failed else DONE
