"""What all commands print with: exit codes, examples, progress bars, shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neurocompile import target as targets

DONE, DIFFERENT, IMPOSSIBLE = 0, 1, 2


def example(text: str) -> str:
    """Return an epilogue that click prints as it is."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in text.strip().splitlines())


@contextmanager
def progress_bars() -> Iterator[Callable[[str], targets.Progress]]:
    """Yield what makes a progress bar for a stage by name; bars vanish when all is done."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:

        def progress_of(stage: str) -> targets.Progress:
            task = bars.add_task(stage, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield progress_of


def when_called(progress_of: Callable[[str], targets.Progress], stage: str) -> targets.Progress:
    """Return the progress of a stage that may never begin: its bar appears when it does."""
    begun: list[targets.Progress] = []

    def progress(done: int, total: int) -> None:
        if not begun:
            begun.append(progress_of(stage))
        begun[0](done, total)

    return progress


def share_of(mismatches: int, slots: int) -> str:
    """Return a share in percent, "-" of nothing."""
    return f"{100 * mismatches / slots:.4f} %" if slots else "-"
