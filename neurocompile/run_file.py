"""`run`: inputs from an .npz file through a program into another one; needs numpy only."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.atomic import replacing
from neurocompile.data import load_samples, map_inputs
from neurocompile.decision import decisions, weights_in
from neurocompile.errors import DataError, Problem
from neurocompile.program import Program, Result
from neurocompile.target import Executor, Progress
from neurocompile.tensors import npz_bytes


def run_file(
    program: Program,
    executor: Executor,
    source: Path,
    destination: Path,
    *,
    record: Collection[str] = (),
    steps: int | None = None,
    progress: Progress | None = None,
    deadline: float | None = None,
) -> Result:
    """
    Run the `input` of an .npz file and write OUT.npz (`docs/files.md` describes both).

    The file holds `output` (`output/<name>` where there are several), `spikes/<layer>` and
    `membrane/<layer>`, and `decision` where the program weighs the steps; it is written whole or not at
    all. The executor is closed afterwards, whatever happens.
    """
    try:
        inputs = map_inputs(
            lambda values: repeat_steps(values, steps), load_samples(str(source)).inputs
        )
        names = program.resolve_record(record)
        trace = executor.run(
            program.payloads(inputs), record=names, progress=progress, deadline=deadline
        )
    finally:
        executor.close()
    result = program.to_source_units(trace)
    arrays: dict[str, NDArray[Any]] = (
        {"output": result.output}
        if len(result.outputs) == 1
        else {f"output/{name}": values for name, values in result.outputs.items()}
    )
    arrays |= {f"spikes/{name}": values for name, values in result.spikes.items()}
    arrays |= {f"membrane/{name}": values for name, values in result.membrane.items()}
    weights = weights_in(program.facts)
    if weights is not None:
        arrays["decision"] = decisions(next(iter(result.outputs.values())), weights)
    with replacing(destination) as temporary:
        temporary.write_bytes(npz_bytes(arrays))
    return result


def repeat_steps(inputs: NDArray[Any], steps: int | None) -> NDArray[Any]:
    """
    Return `inputs` (samples, steps, ...) with a time axis of length 1 presented `steps` times.

    Raises `DataError` if `steps` contradicts inputs that have a time axis of their own.
    """
    if steps is None:
        return inputs
    if inputs.shape[1] == 1:
        return np.repeat(inputs, steps, axis=1)
    if steps != inputs.shape[1]:
        raise DataError(
            Problem(
                "",
                f"the inputs have {inputs.shape[1]} steps of their own",
                f"--steps {steps} is asked for",
                "leave --steps out",
            )
        )
    return inputs
