"""
The processes of a run on several devices.

Where torchrun, SLURM or MPI started them, they are theirs. Else this process starts one for each further device of
its node, which gets the resolved settings and the run directory: nothing of the program that called `train` runs
twice, so that scripts and tests can train on several devices too. Lightning's own launcher would run that program
again from its start in every process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from neurocompile.errors import OptionError, Problem, TrainingError
from neurocompile.training.config import RunningSettings, TrainSettings

OURS = "NEUROCOMPILE_PROCESS"  # in the environment of the processes that this module starts
ADDRESS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
GRACE = 30.0  # seconds in which the first process may notice by itself that another one failed
ENDING = 60.0  # seconds that the others have to end after it


def device_count(running: RunningSettings) -> int:
    """Return how many devices of this node a run uses; "auto" is all GPUs, or what torchrun started."""
    if running.devices != "auto":
        return running.devices
    if TorchElasticEnvironment.detect():
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if running.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return 1


def check_processes(running: RunningSettings) -> None:
    """Raise `OptionError` if the devices and nodes asked for are not those that there are processes for."""
    devices, nodes = device_count(running), running.nodes
    if devices < 1:
        raise OptionError(
            Problem("", "running.devices must be at least 1 or 'auto'", f"it is {devices}")
        )
    if TorchElasticEnvironment.detect() and int(os.environ["WORLD_SIZE"]) != devices * nodes:
        local = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
        started = int(os.environ["WORLD_SIZE"])
        raise OptionError(
            Problem(
                "",
                f"running.devices={devices} on running.nodes={nodes} needs as many processes",
                f"torchrun has started {started}",
                f"use --set running.devices={local} --set running.nodes={started // int(local)}",
            )
        )
    if devices * nodes == 1 or _started_by_others():
        return
    if hasattr(sys, "ps1"):
        raise OptionError(
            Problem(
                "",
                "several devices need a program, or the command line",
                "this is an interactive session",
                "use one device, or 'neurocompile train' in a terminal",
            )
        )
    missing = [name for name in ADDRESS if name not in os.environ]
    if nodes > 1 and missing:
        raise OptionError(
            Problem(
                "",
                "several nodes need an address at which their processes meet",
                f"{', '.join(missing)} are not in the environment",
                "start the command with torchrun or SLURM, or set them on every node",
            )
        )


@contextmanager
def all_processes(settings: TrainSettings, run_directory: Path, *, resume: bool) -> Iterator[None]:
    """
    Have all processes of a run inside the block; the others call `train` for themselves.

    Leaves none behind. Raises `TrainingError` if another process failed.
    """
    if os.environ.get(OURS):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    devices = device_count(settings.running)
    if devices * settings.running.nodes == 1 or _started_by_others():
        yield
        return
    before, threads = dict(os.environ), torch.get_num_threads()
    if settings.running.nodes == 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()), NODE_RANK="0")
    os.environ.update(
        LOCAL_RANK="0",
        WORLD_SIZE=str(devices * settings.running.nodes),
    )
    children: list[subprocess.Popen[bytes]] = []
    over = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "settings.json")
        config.write_text(settings.model_dump_json(), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "neurocompile", "train", "--config", str(config)),
            *("-o", str(run_directory), *(["--resume"] if resume else [])),
        ]
        try:
            for rank in range(1, devices):
                children.append(_start(command, rank))
            threading.Thread(target=_watch, args=(children, over), daemon=True).start()
            yield
            _await(children)
        except Exception as error:
            raise _explained(children, error) from error
        finally:
            over.set()
            for child in children:
                child.kill()
                child.wait()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            os.environ.clear()
            os.environ.update(before)
            torch.set_num_threads(threads)


def is_first() -> bool:
    """Return whether this is the process of a run that speaks, whoever started it."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def _started_by_others() -> bool:
    kinds = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
    return "LOCAL_RANK" in os.environ or any(kind.detect() for kind in kinds)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start(command: Sequence[str], rank: int) -> subprocess.Popen[bytes]:
    """
    Start the process of another device.

    Only the first process speaks, and Ctrl-C is for it alone. Standard input is how the other one learns that the
    first has ended, however that came about.
    """
    return subprocess.Popen(
        command,
        env={**os.environ, "LOCAL_RANK": str(rank), OURS: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # nothing is ever written: this waits for the end
        pass
    os._exit(1)


def _watch(children: Sequence[subprocess.Popen[bytes]], over: threading.Event) -> None:
    """End this process if another one failed and it does not notice: it may wait for it on a GPU for ever."""
    while not over.wait(1.0):
        failed = [rank for rank, child in enumerate(children, start=1) if child.poll()]
        if failed and not over.wait(GRACE):
            print(  # noqa: T201
                f"neurocompile: process {failed[0]} failed, see above; the run ends with it",
                file=sys.stderr,
                flush=True,
            )
            for child in children:
                child.kill()
            os.kill(os.getpid(), signal.SIGKILL)


def _await(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank, child in enumerate(children, start=1):
        try:
            code = child.wait(ENDING)
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            raise _failure(rank, len(children) + 1, code)


def _explained(children: Sequence[subprocess.Popen[bytes]], error: Exception) -> Exception:
    """Return why the run failed: another process's end is what this one's connection broke by."""
    if isinstance(error, TrainingError):
        return error
    for rank, child in enumerate(children, start=1):
        if child.poll():
            return _failure(rank, len(children) + 1, child.returncode)
    return error


def _failure(rank: int, count: int, code: int | None) -> TrainingError:
    how = "did not end" if code is None else f"ended with code {code}"
    return TrainingError(
        Problem("", f"all {count} processes must finish", f"process {rank} {how}, see above")
    )
