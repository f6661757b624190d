"""`neurocompile verify`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from neurocompile import api
from neurocompile.atomic import check_writable, real_path, replacing, write_text
from neurocompile.console import (
    DIFFERENT,
    DONE,
    ending_in_order,
    example,
    printable,
    progress_bars,
)
from neurocompile.errors import ExecutionError, OptionError, Problem, raise_all
from neurocompile.frontend.from_nir import MOST_STEPS
from neurocompile.program import Program, load
from neurocompile.raster import draw_raster, need_matplotlib, samples_drawn
from neurocompile.verification.budgets import ACCURACY, DROP, MISMATCH, fraction_of
from neurocompile.verification.ranks import ranks_here
from neurocompile.verification.report import Report
from neurocompile.verification.resume import MARKER, remove_kept
from neurocompile.verification.terminal import print_report
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
    "--steps",
    type=click.IntRange(1, MOST_STEPS),
    metavar="N",
    help="How often to show an input of one step.  [as in training]",
)
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
    "--max-mismatch",
    metavar="SHARE",
    help="Of places (sample, step, neuron) at most, first stage against the target: 0.5%.",
)
@click.option("--min-accuracy", metavar="SHARE", help="Of the target: 98%.")
@click.option(
    "--max-accuracy-drop", metavar="SHARE", help="Points, from the first stage to the target: 0.5%."
)
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
    "--deadline",
    type=float,
    metavar="SECONDS",
    help="Give up where counting takes longer, or a later run of the target, or all of --suggest.",
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

    Exit code 1 if integers differ, or a floor that was set is missed; 2 for what is not possible, 3 for what
    nobody expected.
    """
    raise_all(OptionError, _without_effect(data, golden, directory, given))
    raise_all(OptionError, _on_each_other(program, data, golden, directory, json_file))
    if json_file is not None:
        check_writable(json_file)
    if data is None:
        assert golden is not None
        return _replay(program, golden, json_file)
    _check_places(directory, golden, resumed=given["resume"])
    options = _options(given, directory)
    with ending_in_order(), _goes_on(options["resume"]):
        with progress_bars() as progress_of, load(program) as loaded:
            report = api.verify(loaded, data=data, progress_of=progress_of, keep=True, **options)
        if not ranks_here().first:
            return DIFFERENT if report.failed else DONE
        print_report(report)
        for path in write_report(report, directory, json_file):
            click.echo(f"wrote {path}")
        if golden is not None:
            _store(loaded, data, report, golden, given["steps"])
    if options["resume"] is not None:
        remove_kept(options["resume"])
    return DIFFERENT if report.failed else DONE


@contextmanager
def _goes_on(state: Path | None) -> Iterator[None]:
    """Say that what was counted is kept, where the block is stopped."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ExecutionError):
        if state is not None and (state / MARKER).is_file():
            click.echo(
                f"neurocompile: '{state}' keeps what is counted: the same command goes on there",
                err=True,
            )
        raise


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
                f"{', '.join(sorted(asked))} change{'' if len(asked) > 1 else 's'} nothing where a golden "
                "is compared",
                remedy=f"give --input, or leave {'them' if len(asked) > 1 else 'it'} out",
            )
    if given["against"] is not None and not all(given["against"].split(",")):
        yield Problem(
            "", "--against names stages, separated by commas", f"it is '{given['against']}'"
        )
    if given["resume"] and directory is None and data is not None:
        yield Problem("", "--resume keeps what is done in --report DIR", "there is none")


def _on_each_other(
    program: Path,
    data: str | None,
    golden: Path | None,
    directory: Path | None,
    json_file: Path | None,
) -> Iterator[Problem]:
    """Yield which of the places that are written lies on another one, or on what is read."""
    named = {"--json": json_file, "--report": directory, "--golden": golden}
    places = {option: real_path(path) for option, path in named.items() if path is not None}
    home = real_path(program)
    for option, place in places.items():
        writes = data is not None or option == "--json"  # else the golden is read
        if writes and (place == home or home in place.parents):
            yield _elsewhere(option, f"the program's directory '{program}'")
    if data is not None and places.get("--json") == real_path(Path(data)):
        yield _elsewhere("--json", f"the samples '{data}'")
    if golden is not None:
        for option in ("--json", "--report"):
            if option in places and real_path(golden) in (place := places[option], *place.parents):
                yield _elsewhere(option, f"--golden '{golden}'")
    if directory is None:
        return
    report = real_path(directory)
    taken = {report / name for name in (PAGE, RASTER, UNFINISHED)}
    if json_file is not None:
        place = places["--json"]
        if place in (report, *report.parents) or not taken.isdisjoint((place, *place.parents)):
            yield _elsewhere("--json", f"what --report '{directory}' writes")
    if golden is not None:
        place = places["--golden"]
        if not (taken | {report / REPORT_JSON}).isdisjoint((place, *place.parents)):
            yield _elsewhere("--golden", f"what --report '{directory}' writes")


def _elsewhere(option: str, what: str) -> Problem:
    return Problem("", f"{option} must be elsewhere", f"it lies in {what}", "choose another place")


def _check_places(directory: Path | None, golden: Path | None, *, resumed: bool) -> None:
    """Raise an error for what could not be written in the end, before anything is computed."""
    if directory is not None:
        from neurocompile.page import need_plotly

        need_plotly()
        need_matplotlib()
        check_writable(directory, directory=True, option="--report")
        left = directory / UNFINISHED
        if not resumed and left.exists():
            raise OptionError(
                Problem(
                    "",
                    f"'{left}' keeps what an interrupted verification has counted",
                    "--resume is not given",
                    f"give it to go on there, or remove '{left}'",
                )
            )
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
    names = {"samples", "steps", "jobs", "examine", "deadline"}
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
        if directory is not None and not directory.exists():
            stack.callback(_remove_if_empty, directory)  # where something fails
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


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()


def _store(program: Program, data: str, report: Report, golden: Path, steps: int | None) -> None:
    """Write a golden of a program that was verified; of one that failed there is none."""
    from neurocompile.verification.golden import write_golden

    if report.failed:
        click.echo(f"wrote no golden '{golden}': the verification failed")
        return
    source = api.source_for(program, data, report.samples)
    write_golden(api.showing(program, steps), source, golden)
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
