"""Processes of torchrun share the samples, and all get what one process counts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neurocompile.data import Samples
from neurocompile.errors import OptionError
from neurocompile.program import Program
from neurocompile.samples import source_of_samples
from neurocompile.verification.ranks import Ranks, ranks_here
from neurocompile.verification.stages import ProgressOf, Runner
from neurocompile.verification.stream import count_all
from neurocompile.verification.wire import to_bytes

SCRIPT = Path(__file__).with_name("two_ranks.py")
STARTED = {
    "TORCHELASTIC_RUN_ID": "1",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def folder(tmp_path: Path, coarse: Program, spikes_in: Samples) -> Path:
    """What `two_ranks.py` needs."""
    pytest.importorskip("torch")
    assert spikes_in.labels is not None
    assert isinstance(spikes_in.inputs, np.ndarray)
    coarse.save(tmp_path / "program")
    wrong = spikes_in.labels.copy()
    wrong[-1] = 9  # in the chunk of the second process
    np.savez(tmp_path / "samples.npz", input=spikes_in.inputs, label=spikes_in.labels, wrong=wrong)
    return tmp_path


def test_two_processes_get_what_one_does(
    folder: Path, runner: Runner, spikes_in: Samples, quiet: ProgressOf
) -> None:
    alone = to_bytes(count_all(runner, source_of_samples(spikes_in), progress_of=quiet))

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, SCRIPT, folder, "label", "wrong"],
        check=False,
        timeout=180,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert [(folder / f"label-{rank}.npz").read_bytes() for rank in (0, 1)] == [alone, alone]
    told = [(folder / f"wrong-{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0].startswith("DataError: labels must be from 0 to 2")
    kept = sorted(file.name for file in (folder / "state").iterdir())
    assert "verification.json" in kept  # of the samples that could not all be counted
    assert len(kept) == 1 + 3


def test_a_process_that_ends_is_not_waited_for(folder: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, "dies"],
            env={**os.environ, **STARTED, "MASTER_PORT": port, "RANK": str(rank)},
            stderr=subprocess.DEVNULL,
        )
        for rank in (0, 1)
    ]
    try:
        codes = [process.wait(180) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()

    assert codes == [0, 5]
    told = (folder / "dies-0.txt").read_text()
    assert told.startswith("ExecutionError: all 2 processes must finish, but one has ended")
    kept = sorted(file.name for file in (folder / "state").glob("*.tally"))
    assert kept == ["000000000-000000006.tally", "000000012-000000018.tally"]  # of the first one


def test_only_torchrun_makes_ranks() -> None:
    assert ranks_here(STARTED) == Ranks(1, 2)
    assert not ranks_here(STARTED).first
    assert ranks_here({}) == Ranks(0, 1)
    assert ranks_here({}).first
    for name in STARTED:
        assert ranks_here({key: value for key, value in STARTED.items() if key != name}) == Ranks()


def test_jobs_of_jobs_are_refused(
    runner: Runner, spikes_in: Samples, quiet: ProgressOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in STARTED.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(
        OptionError, match="--jobs starts processes of its own, but torchrun has started 2 already"
    ):
        count_all(runner, source_of_samples(spikes_in), progress_of=quiet, jobs=2)
