"""`neurocompile report`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from neurocompile import api
from neurocompile.atomic import check_writable, write_text
from neurocompile.console import DIFFERENT, DONE, example, progress_bars
from neurocompile.errors import OptionError, Problem, raise_all
from neurocompile.manifest import MANIFEST
from neurocompile.page import need_plotly, write_comparison, write_page
from neurocompile.page.comparison import comparison_json
from neurocompile.page.entries import METRICS, REPORT, Entry, read_entries
from neurocompile.page.markup import percent
from neurocompile.page.measures import by_training
from neurocompile.page.summary import per_spike, verdict_words
from neurocompile.program import Program
from neurocompile.verification.report import Report


@click.command(
    epilog=example(
        """
neurocompile report runs/8-bits/report runs/5-bits/report -o runs/bits.html
neurocompile report runs/digits-fixedpoint runs/digits-loihi2 --input digits:test -o runs/targets.html
neurocompile report runs/seed-0 runs/seed-1 -o runs/seeds.html --json runs/seeds.json
"""
    )
)
@click.argument(
    "sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE..."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE.html")
@click.option(
    "--input",
    "data",
    metavar="DATA",
    help="Verify programs on a data set ('digits:test') or an .npz file.",
)
@click.option("--samples", type=int, help="Take the first ones only.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
def report(
    sources: tuple[Path, ...],
    output: Path,
    data: str | None,
    samples: int | None,
    json_file: Path | None,
) -> int:
    """
    Put verifications, programs and training runs side by side in one page.

    SOURCE is what 'verify --report' wrote (its directory or report.json), a program, or a run of
    'train'. One verification alone gets its whole page. Exit code 1 if integers of a program differ that
    was verified here.
    """
    need_plotly()
    check_writable(output)
    if json_file is not None:
        check_writable(json_file)
    problems = []
    if samples is not None and data is None:
        problems.append(Problem("", "--samples needs --input", "it is not given"))
    if json_file is not None and json_file.resolve() == output.resolve():
        problems.append(Problem("", "-o and --json must name two files", f"both are '{output}'"))
    read = {
        place.resolve()
        for source in sources
        for place in (source, *(source / name for name in (REPORT, MANIFEST, METRICS)))
    }
    problems += (
        Problem("", f"{name} must not be what is read", f"it is '{place}'")
        for name, place in (("-o", output), ("--json", json_file))
        if place is not None and place.resolve() in read
    )
    raise_all(OptionError, problems)
    verified: list[Report] = []
    with progress_bars() as progress_of:

        def verify(program: Program) -> Report:
            found = api.verify(program, data=data or "", samples=samples, progress_of=progress_of)
            verified.append(found)
            return found

        entries = read_entries(sources, verify if data is not None else None)
    if data is not None and not verified:
        raise OptionError(Problem("", "--input needs a program to verify", "there is none"))
    only = entries[0].report if len(entries) == 1 else None
    if only is not None:
        write_page(only, output)
    else:
        write_comparison(entries, output)
    if json_file is not None:
        write_text(json_file, json.dumps(comparison_json(entries), indent=2) + "\n")
    for entry in entries:
        click.echo(f"{entry.label}: {_told(entry)}")
    click.echo(f"wrote {output}")
    return DIFFERENT if any(found.failed for found in verified) else DONE


def _told(entry: Entry) -> str:
    """Return what is known of an entry, in a line."""
    parts: list[str] = [entry.kind]
    if entry.report is not None:
        pair = entry.report.overall
        parts.append(verdict_words(entry.report))
        if pair.slots:
            told = f"spikes differ at {percent(pair.mismatches / pair.slots, 4)} of places"
            each = per_spike(pair)
            parts.append(told if each is None else f"{told} ({percent(each)} of spikes)")
    if entry.accuracy is not None:
        right = f"{100 * entry.accuracy.value:.2f} % right"
        parts.append(right if entry.report is not None else f"{right} {by_training(entry)}")
    return ", ".join(parts) + (f" ({entry.note})" if entry.note else "")
