"""Files that are there whole or not at all: links, devices, full disks, and what is somebody else's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from neurocompile.atomic import (
    check_writable,
    replacing,
    replacing_directory,
    replacing_files,
    write_text,
)
from neurocompile.errors import OptionError

Opens = Callable[[Path], AbstractContextManager[Path]]


def _files(path: Path) -> AbstractContextManager[Path]:
    return replacing_files(path, ("data", "manifest"))


def _directory(path: Path) -> AbstractContextManager[Path]:
    return replacing_directory(path, marker="manifest")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "ours"
    path.mkdir()
    for name in ("data", "manifest"):
        (path / name).write_text(f"old {name}")
    return path


def test_a_pipe_is_refused_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(OptionError, match="pipe' cannot be written, but it is no regular file"):
        write_text(pipe, "text")

    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("device", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_devices_and_what_is_open_already_are_refused(device: str) -> None:
    with pytest.raises(OptionError, match="cannot be written"):  # asked only: never try to replace
        check_writable(Path(device))


def test_a_dash_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(OptionError, match="'-' is no name of a file"):
        write_text(Path("-"), "text")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exists", [True, False])
def test_the_file_that_a_link_leads_to_is_replaced(tmp_path: Path, *, exists: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    link.symlink_to("elsewhere/target")
    if exists:
        target.write_text("old")

    write_text(link, "new")

    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "link", "target"]


def test_a_file_in_a_place_that_takes_no_other_file_is_refused_before_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)

    with pytest.raises(OptionError, match=f"'{tmp_path}' is not writable"):
        check_writable(tmp_path / "file")


@pytest.mark.parametrize("opens", [replacing, _directory, _files])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_error_with_the_place_and_leaves_nothing(
    opens: Opens, number: int, tmp_path: Path
) -> None:
    said = os.strerror(number)

    with (
        pytest.raises(OptionError, match=f"new' cannot be written, but {said}"),
        opens(tmp_path / "new"),
    ):
        raise OSError(number, said)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opens", [_directory, _files])
def test_an_error_of_a_temporary_file_names_the_place(opens: Opens, ours: Path) -> None:
    with (
        pytest.raises(OptionError, match="ours' cannot be written, but No such file") as raised,
        opens(ours) as temporary,
    ):
        (temporary / "none" / "file").write_text("")

    assert "none" not in str(raised.value)
    assert (ours / "manifest").read_text() == "old manifest"


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "none", "data"), ConnectionError(), ValueError()]
)
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised, replacing(tmp_path / "new"):
        raise error

    assert raised.value is error


def test_a_disk_that_is_full_in_fact_is_told(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from neurocompile.atomic import write_text\n"
        "from neurocompile.errors import OptionError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_text(Path(sys.argv[1]), 'x' * 100_000)\n"
        "except OptionError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(tmp_path / "new")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "new' cannot be written, but File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_directory_stays_one(ours: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(ours)

    with _directory(link) as temporary:
        (temporary / "manifest").write_text("new")

    assert link.is_symlink()
    assert {path.name: path.read_text() for path in ours.iterdir()} == {"manifest": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "ours"]


def test_a_directory_that_cannot_take_its_place_leaves_the_old_one(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fails(self: Path, target: Any) -> Path:
        if Path(target) == ours and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "broken", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OptionError, match="broken"), _directory(ours) as temporary:
        (temporary / "manifest").write_text("new")

    assert (ours / "manifest").read_text() == "old manifest"
    assert list(tmp_path.iterdir()) == [ours]


def test_files_are_replaced_one_by_one_and_others_stay(ours: Path, tmp_path: Path) -> None:
    (ours / "notes").write_text("mine")

    with replacing_files(ours, ("data", "more", "manifest")) as temporary:
        (temporary / "more").write_text("new more")
        (temporary / "manifest").write_text("new manifest")
        assert (ours / "manifest").read_text() == "old manifest"

    assert {path.name: path.read_text() for path in ours.iterdir()} == {
        "more": "new more", "manifest": "new manifest", "notes": "mine",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [ours]


def test_the_manifest_comes_last(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: Any) -> Path:
        taken.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    with _files(ours) as temporary:
        for name in ("manifest", "data"):
            (temporary / name).write_text(name)

    assert taken == ["data", "manifest"]


def test_an_error_leaves_the_old_files(ours: Path) -> None:
    with pytest.raises(OptionError), _files(ours) as temporary:  # noqa: PT012
        (temporary / "data").write_text("half")
        (temporary / "none" / "manifest").write_text("no such directory")

    assert {path.name: path.read_text() for path in ours.iterdir()} == {
        "data": "old data", "manifest": "old manifest",
    }  # fmt: skip


def test_a_folder_in_the_place_of_a_file_is_refused(ours: Path) -> None:
    (ours / "data").unlink()
    (ours / "data").mkdir()

    with (
        pytest.raises(OptionError, match="data' cannot be written, but it is a directory"),
        _files(ours),
    ):
        pytest.fail("nothing is computed")
