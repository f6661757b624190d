"""
What benchmarks run in processes of their own, whose memory is then their own; the last line is JSON.

    child.py run PROGRAM INPUTS.npz ROUNDS SECONDS    load a program and run it; give up after SECONDS
    child.py recompiles PROGRAM INPUTS.npz SAMPLES    run SAMPLES of the inputs, then all; count kernels
    child.py eager NAME WIDTH INPUTS.npz ROUNDS       run a network of `networks` in PyTorch

`INPUTS.npz` holds `input` (samples, steps, *shape). Nothing but `eager` imports PyTorch.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neurocompile import load
from neurocompile.data import read_npz

STATUS = Path("/proc/self/status")


class OutOfTimeError(Exception):
    """A run took longer than it may; `args` is how many samples were done."""


def peak_bytes() -> int:
    """
    Return the most memory that this process had, in bytes.

    `getrusage` would count what the parent had at the fork, too.
    """
    (line,) = (
        line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def run(program: str, inputs: str, rounds: str, seconds: str) -> dict[str, Any]:
    """Time a first run, and `rounds` more unless all together take more than a third of `seconds`."""
    values = read_npz(Path(inputs))["input"]
    started = time.perf_counter()
    loaded = load(program)
    loading = time.perf_counter() - started
    before = peak_bytes()
    done = len(values)
    times: list[float] = []
    for _ in range(int(rounds) + 1):
        began = time.perf_counter()

        def progress(samples: int, _total: int, began: float = began) -> None:
            if time.perf_counter() - began > float(seconds):
                raise OutOfTimeError(samples)

        try:
            loaded.run(values, progress=progress)
        except OutOfTimeError as error:
            done = int(error.args[0])
        times.append(time.perf_counter() - began)
        if sum(times) > float(seconds) / 3:
            break
    return {
        "load": loading,
        "first": times[0],
        "seconds": times[1:] or times,
        "done": done,
        "before": before,
        "peak": peak_bytes(),
    }


def recompiles(program: str, inputs: str, samples: str) -> dict[str, Any]:
    """Return how many kernels there are after each of two sizes, and what the second one took, twice."""
    values = read_npz(Path(inputs))["input"]
    loaded = load(program)
    loaded.run(values[: int(samples)])
    before = compiled_kernels()
    times = []
    for _ in range(2):
        began = time.perf_counter()
        loaded.run(values)
        times.append(time.perf_counter() - began)
    return {"before": before, "after": compiled_kernels(), "seconds": times}


def compiled_kernels() -> int:
    """Return how many signatures the kernels of our packages were compiled for in this process."""
    if "numba" not in sys.modules:
        return 0
    from numba.core.dispatcher import Dispatcher

    return sum(
        len(item.signatures)
        for item in gc.get_objects()
        if Dispatcher in type(item).__mro__  # isinstance would ask lazy objects for their class
        and item.py_func.__module__.startswith("neurocompile")
    )


def eager(name: str, width: str, inputs: str, rounds: str) -> dict[str, Any]:
    """Time the folded network in PyTorch, float32, all samples at once."""
    import torch
    from networks import deep_network

    network = deep_network(name, float(width)).module
    values = torch.tensor(read_npz(Path(inputs))["input"], dtype=torch.float32)
    before = peak_bytes()
    times = []
    with torch.inference_mode():
        for _ in range(int(rounds) + 1):
            began = time.perf_counter()
            network(values)
            times.append(time.perf_counter() - began)
    return {"seconds": times[1:], "done": len(values), "before": before, "peak": peak_bytes()}


def main() -> None:
    command, *arguments = sys.argv[1:]
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "run": run,
        "recompiles": recompiles,
        "eager": eager,
    }
    print(json.dumps(commands[command](*arguments)))


if __name__ == "__main__":
    main()
