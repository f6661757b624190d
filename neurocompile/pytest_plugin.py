"""
The plugin of pytest, found through the entry-point group `pytest11`.

It adds the option `--neurocompile-update-golden` and the fixture `neurocompile_program`, and tells
`testing` where paths start. It changes nothing about tests that do not use it, and imports neither numpy
nor the rest of neurocompile.

An update is explicit: it rewrites goldens only with the option, lists them at the end of the run, and is
refused where the environment says CI, whose files nobody commits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neurocompile import testing

if TYPE_CHECKING:
    from neurocompile.program import Program

IN_WORKER = "neurocompile_stored"  # what a worker of pytest-xdist tells of goldens
OUTER = pytest.StashKey[testing.Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("neurocompile").addoption(
        testing.UPDATE,
        action="store_true",
        dest="neurocompile_update_golden",
        help="store goldens again, with what programs do now, instead of comparing",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin a session; raises `pytest.UsageError` for an update in CI."""
    update = bool(config.getoption("neurocompile_update_golden"))
    if update and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError(
            f"{testing.UPDATE} is refused in CI (the environment has CI={os.environ['CI']}): "
            "store goldens where they are committed"
        )
    config.stash[OUTER] = testing.SESSION  # of a run around this one
    testing.SESSION = testing.Session(update, config.rootpath)
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Workers(), "neurocompile_workers")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the session."""
    testing.SESSION = config.stash.get(OUTER, testing.SESSION)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the main process what a worker of pytest-xdist stored."""
    output: Any = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[IN_WORKER] = testing.SESSION.stored


class _Workers:
    """Hears what workers of pytest-xdist stored."""

    def pytest_testnodedown(self, node: Any) -> None:
        testing.SESSION.stored += getattr(node, "workeroutput", {}).get(IN_WORKER, [])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the goldens that were stored: no comparison was made with them."""
    stored = sorted(set(testing.SESSION.stored))
    if stored:
        terminalreporter.section("neurocompile")
        for path in stored:
            terminalreporter.write_line(f"stored the golden again, nothing was compared: {path}")


@pytest.fixture(scope="session")
def neurocompile_program() -> Iterator[Callable[[Path | str], Program]]:
    """Reads a program directory, once in a session, and closes it at the end."""
    opened: dict[Path, Program] = {}

    @testing.failing
    def read(path: Path | str) -> Program:
        __tracebackhide__ = True
        from neurocompile.program import load

        place = Path(path) if testing.SESSION.root is None else testing.SESSION.root / path
        if place not in opened:
            opened[place] = load(place)
        return opened[place]

    yield read
    for program in opened.values():
        program.close()
