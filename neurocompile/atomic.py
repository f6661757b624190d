"""
Files and directories that are there whole, or not at all.

Links are followed: what a link leads to is replaced, the link stays. Devices, pipes and sockets are
refused, as nothing can take their place. An error of the disk, such as a full one, is an `OptionError`.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neurocompile.errors import OptionError, Problem

LONGEST_NAME = 200  # of a file, in bytes; temporary names are a little longer
OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
SPECIAL = (Path("/dev"), Path("/proc"))  # links there lead to files that others have open
MEMORY = Path("/dev/shm")  # noqa: S108  # files like any others


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: Path, *, directory: bool = False, option: str = "-o") -> None:
    """
    Raise `OptionError` unless `path` can be written, as a file or as a directory that `option` names.

    Asked before anything long is started; nothing is created.
    """
    problem = _problem(path, directory=directory)
    if problem:
        what = "directory" if directory else "file"
        remedy = f"choose another place with {option}" if directory else ""
        raise OptionError(Problem("", f"the {what} '{path}' cannot be written", problem, remedy))


def _problem(path: Path, *, directory: bool) -> str:
    """Return why `path` cannot be written, "" if it can."""
    real = real_path(path)
    existing = next(parent for parent in (real, *real.parents) if os.path.exists(parent))  # noqa: PTH110  # false, not an error, for names too long
    if str(path) == "-":
        return "'-' is no name of a file, and standard output is for people"
    if not path.name or len(os.fsencode(real.name)) > LONGEST_NAME:
        return "its name is empty or too long"
    if not directory and _is_special(path.absolute()):
        return "it is no regular file"
    if directory or existing != real:
        return _problem_within(existing, "it" if existing == real else f"'{existing}'")
    if real.is_dir():
        return "it is a directory"
    if not real.is_file():
        return "it is no regular file"
    if not os.access(real, os.W_OK):
        return f"'{real}' is not writable"
    return _problem_within(real.parent, "")


def _problem_within(directory: Path, named: str) -> str:
    """Return why nothing can be put into `directory`, which is there, "" if it can."""
    if not directory.is_dir():
        return f"{named} is a file" if directory.is_file() else f"{named} is no directory"
    return "" if os.access(directory, os.W_OK) else f"'{directory}' is not writable"


def _is_special(path: Path) -> bool:
    return MEMORY not in path.parents and any(place in path.parents for place in SPECIAL)


def real_path(path: Path) -> Path:
    """Return where `path` leads, whether or not there is anything; no links are left, nor is it relative."""
    return Path(os.path.realpath(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place unless the block raises."""
    check_writable(path)
    real = real_path(path)
    with _reported(path, "file"):
        real.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=real.parent, prefix=f".{real.name}.", suffix=real.suffix
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with _reported(path, "file", temporary):
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(real)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path, *, marker: str, option: str = "-o") -> Iterator[Path]:
    """
    Yield a temporary directory that becomes `path` unless the block raises.

    An existing `path` is replaced only if it is empty or holds `marker`, a file that only our own
    directories have. Raises `OptionError` otherwise, before anything is computed.
    """
    real = real_path(path)
    if real.is_dir() and not (real / marker).is_file() and any(real.iterdir()):
        raise not_ours(path, option)
    check_writable(path, directory=True, option=option)
    temporary = _made(path, real.parent, real.name)
    discarded = temporary.with_name(f"{temporary.name}.old")
    try:
        with _reported(path, "directory", temporary):
            yield temporary
            temporary.chmod(0o755)
            if real.exists():
                real.rename(discarded)
            temporary.rename(real)
    finally:
        if discarded.exists() and not real.exists():  # it ended between the two
            discarded.rename(real)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(discarded, ignore_errors=True)


@contextmanager
def replacing_files(path: Path, names: Sequence[str], *, option: str = "-o") -> Iterator[Path]:
    """
    Yield a temporary directory whose files become those of the directory `path`, unless the block raises.

    They take their places in the order of `names`, the one that vouches for the others last; those of
    `names` that are not made again go. What else is in `path` stays as it is.
    """
    check_writable(path, directory=True, option=option)
    real = real_path(path)
    for name in names:
        if (real / name).is_dir():
            raise OptionError(
                Problem("", f"the file '{path / name}' cannot be written", "it is a directory")
            )
    # Inside a directory that is there, as it may be a file system of its own.
    temporary = _made(path, real if real.exists() else real.parent, real.name)
    try:
        with _reported(path, "directory", temporary):
            yield temporary
            for file in temporary.iterdir():
                file.chmod(0o644)
            if not real.exists():
                temporary.chmod(0o755)
                temporary.rename(real)
                return
            for name in names:
                made = temporary / name
                if made.exists():
                    made.replace(real / name)
                else:
                    (real / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _made(path: Path, parent: Path, name: str) -> Path:
    """Return a new temporary directory for what becomes `path`."""
    with _reported(path, "directory"):
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}."))


def not_ours(path: Path, option: str) -> OptionError:
    """Return the error of a directory of somebody else, which is not written to."""
    return OptionError(
        Problem(
            "",
            f"'{path}' exists and was not written by neurocompile",
            remedy=f"choose another place with {option}",
        )
    )


@contextmanager
def _reported(path: Path, what: str, temporary: Path | None = None) -> Iterator[None]:
    """
    Turn errors of the disk into an `OptionError` that names `path`.

    With `temporary` other files may be read meanwhile: then only those that are of the disk for certain,
    or name it.
    """
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | os.PathLike) else ""
        ours = temporary is None or temporary in (Path(named), *Path(named).parents)
        if not ours and error.errno not in OF_DISKS:
            raise
        problem = error.strerror or str(error)
        raise OptionError(Problem("", f"the {what} '{path}' cannot be written", problem)) from error
