"""What all commands print with: exit codes, examples, progress bars, shares."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neurocompile import target as targets
from neurocompile.errors import NeurocompileError

DONE, DIFFERENT, IMPOSSIBLE, UNEXPECTED = 0, 1, 2, 3
SIGNALLED = 128  # and the signal's number, as shells have it
CLOSED = SIGNALLED + 13  # SIGPIPE, which not every system has: nobody reads what is printed
INDENTED = re.compile(r"\n(?= {4})")  # what a runtime has printed, quoted in a problem


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


def printable(text: str) -> str:
    """Return `text` with letters for what a terminal would obey: control codes, bidirectional marks, ends of lines."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def text_of(error: NeurocompileError) -> str:
    """
    Return the problems of `error` for a terminal.

    Names in them come from files of strangers: of what is not printable, ends of lines with an indent stay.
    """
    problems = ["\n".join(map(printable, INDENTED.split(str(item)))) for item in error.problems]
    if len(problems) == 1:
        return problems[0]
    return "\n  - ".join([f"{len(problems)} problems", *problems])


@contextmanager
def ending_in_order() -> Iterator[None]:
    """
    Let SIGTERM end the block as an exception, so that processes and files of it are cleaned up.

    In the main thread, and where nothing else was to happen on it.
    """
    usual = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once is enough: what cleans up is not to be interrupted
    raise SystemExit(SIGNALLED + number)


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
