"""Files and directories that are there whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neurocompile.errors import OptionError, Problem

LONGEST_NAME = 200  # of a file, in bytes; temporary names are a little longer


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: Path, *, directory: bool = False, option: str = "-o") -> None:
    """
    Raise `OptionError` unless `path` can be written, as a file or as a directory that `option` names.

    Asked before anything long is started; nothing is created.
    """
    existing = next(parent for parent in (path, *path.absolute().parents) if os.path.exists(parent))  # noqa: PTH110  # false, not an error, for names too long
    problem = ""
    if existing == path and path.is_dir() != directory:
        problem = "it is a file" if directory else "it is a directory"
    elif existing != path and not existing.is_dir():
        problem = f"'{existing}' is a file"
    elif not os.access(existing, os.W_OK):
        problem = f"'{existing}' is not writable"
    elif len(os.fsencode(path.name)) > LONGEST_NAME or not path.name:
        problem = "its name is empty or too long"
    if problem:
        what = "directory" if directory else "file"
        raise OptionError(
            Problem(
                "",
                f"the {what} '{path}' cannot be written",
                problem,
                f"choose another place with {option}",
            )
            if directory
            else Problem("", f"the {what} '{path}' cannot be written", problem)
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place unless the block raises."""
    check_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
    except OSError as error:
        raise OptionError(Problem("", f"the file '{path}' cannot be written ({error})")) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path, *, marker: str) -> Iterator[Path]:
    """
    Yield a temporary directory that becomes `path` unless the block raises.

    An existing `path` is replaced only if it is empty or holds `marker`, a file that only our own
    directories have. Raises `OptionError` otherwise, before anything is computed.
    """
    if path.exists() and not (path / marker).is_file() and (path.is_file() or any(path.iterdir())):
        raise OptionError(
            Problem(
                "",
                f"'{path}' exists and was not written by neurocompile",
                remedy="choose another place with -o",
            )
        )
    check_writable(path, directory=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise OptionError(
            Problem("", f"the directory '{path}' cannot be written ({error})")
        ) from error
    discarded = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            path.rename(discarded)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(discarded, ignore_errors=True)
