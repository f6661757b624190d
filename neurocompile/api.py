"""The four verbs for Python: what the commands do, as functions that return values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurocompile import target as targets
from neurocompile.atomic import check_writable
from neurocompile.checking import Check, check_source
from neurocompile.data import (
    InputRange,
    Samples,
    by_input,
    load_samples,
    range_of,
    sample_count,
)
from neurocompile.errors import (
    DataError,
    MissingDependencyError,
    OptionError,
    Problem,
    ProgramFormatError,
)
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.frontend.import_options import ImportOptions
from neurocompile.ir import Input, Network
from neurocompile.manifest import MANIFEST
from neurocompile.passes.quantise import FirstLayer, Membranes
from neurocompile.passes.share_sums import Sums
from neurocompile.pipeline import CompileOptions, Observe, compile_network
from neurocompile.program import GRAPH, Program, load
from neurocompile.validation import CALIBRATION_SAMPLES
from neurocompile.verification import ProgressOf, Report, verify_program

if TYPE_CHECKING:
    from neurocompile.training.train import TrainingResult


def train(
    *,
    output: Path | str,
    preset: str | None = None,
    config: Path | str | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    progress: bool = False,
    **settings: Any,
) -> TrainingResult:
    """
    Train a network into the run directory `output` and return its metrics.

    `settings` are fields of `TrainSettings` (data, epochs, timesteps, seed, ...); `overrides` are
    "key=value" strings that reach nested ones. Needs the `train` extra.
    """
    _need_torch("training")
    from neurocompile.training.config import resolve
    from neurocompile.training.train import train as run_training

    resolved = resolve(
        preset=preset,
        config=None if config is None else Path(config),
        overrides=overrides,
        **settings,
    )
    return run_training(resolved, Path(output), resume=resume, progress=progress)


def export(
    source: Path | str,
    *,
    target: str,
    output: Path | str | None = None,
    weight_bits: int = 8,
    steps: int | None = None,
    first_layer: FirstLayer = "auto",
    sums: Sums = "auto",
    membranes: Membranes = "proven",
    validate: bool | None = None,
    observe: Observe | None = None,
    calibrate: str | None = None,
    input_range: InputRange | None = None,
    profile: str = "auto",
    dt: float | None = None,
    reset: str | None = None,
    reset_at: str | None = None,
    fires: str | None = None,
    max_spikes: int | str | None = None,
    min_membrane: float | str | None = None,
    input_gain: str | None = None,
    synapse: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Program:
    """
    Compile a run directory, checkpoint or NIR file for `target`, and write it to `output` if given.

    The input's range is `input_range`, or that of the data set `calibrate`; without either it is the
    source's own, else spikes. `validate` runs the network after every pass (None: where that takes
    seconds); `profile`, `dt` and the options up to `synapse` say how to read a NIR file, as
    `ImportOptions` explains; `observe` is called with each pass's name and the network that it made. Raises errors of `neurocompile.errors`, each with all of its reasons; then nothing
    is written.
    """
    chosen = targets.find(target)
    if output is not None:
        check_writable(Path(output), directory=True)
    path = _existing(source)
    choices = ImportOptions(
        profile, dt, reset, reset_at, fires, max_spikes, min_membrane, input_gain, synapse
    )
    imported, content, facts, files = _front_end(path, choices)
    network = _with_range(imported.network, input_range, calibrate)
    calibration = _calibration(network, calibrate)
    program = compile_network(
        network,
        chosen,
        CompileOptions(
            weight_bits=weight_bits,
            steps=steps,
            first_layer=first_layer,
            sums=sums,
            membranes=membranes,
            validate=validate,
            calibration=calibration,
            target_options=options or {},
        ),
        observe=observe,
    )
    program = replace(
        program,
        facts={
            "source": {"kind": "nir" if path.suffix == ".nir" else "checkpoint", "name": path.name},
            "import": {"options": choices.to_json(), "inferred": dict(imported.inferred)},
            **facts,
            **program.facts,
        },
        extra_files={GRAPH: content, **files, **program.extra_files},
    )
    if output is not None:
        program.save(Path(output))
    return program


def check(
    source: Path | str,
    *,
    target: str,
    weight_bits: int = 8,
    steps: int | None = None,
    first_layer: FirstLayer = "auto",
    sums: Sums = "auto",
    membranes: Membranes = "proven",
    validate: bool | None = None,
    observe: Observe | None = None,
    calibrate: str | None = None,
    input_range: InputRange | None = None,
    options: Mapping[str, str] | None = None,
    **choices: Any,
) -> Check:
    """
    Return everything that keeps `source` from being exported for `target`, and what it takes there.

    The arguments are those of `export`; `choices` are the fields of `ImportOptions`. Nothing is
    written, and nothing runs unless `validate` is true. Raises `OptionError` only where there is
    nothing to check: for a target or a path that do not exist.
    """
    chosen = targets.find(target)
    path = _existing(source)

    def finish(network: Network) -> tuple[Network, dict[str, Any] | None]:
        ranged = _with_range(network, input_range, calibrate)
        return ranged, _calibration(ranged, calibrate) if validate else None

    return check_source(
        path,
        chosen,
        CompileOptions(
            weight_bits=weight_bits,
            steps=steps,
            first_layer=first_layer,
            sums=sums,
            membranes=membranes,
            validate=validate,
            target_options=options or {},
        ),
        choices=choices,
        read=lambda decided: _front_end(path, decided)[0],
        finish=finish,
        observe=observe,
    )


def verify(
    program: Program | Path | str,
    *,
    data: str | Samples,
    samples: int | None = None,
    against: Sequence[str] = (),
    progress_of: ProgressOf | None = None,
    deadline: float | None = None,
) -> Report:
    """
    Compare all stages of `program` on `data`, spike by spike, and return the report.

    `samples` takes the first ones only. The report says whether anything failed; nothing is raised
    for spikes that differ.
    """
    opened = program if isinstance(program, Program) else load(program)
    chosen = load_samples(data) if isinstance(data, str) else data
    if samples is not None:
        if samples < 1:
            raise OptionError(Problem("", "--samples must be at least 1", f"it is {samples}"))
        chosen = chosen.first(samples)
    if sample_count(chosen.inputs) == 0:
        raise DataError("there are no samples to verify on")
    try:
        return verify_program(
            opened, chosen, against=against, progress_of=progress_of, deadline=deadline
        )
    finally:
        if opened is not program:
            opened.close()


def _existing(source: Path | str) -> Path:
    path = Path(source)
    if not path.exists():
        raise OptionError(
            Problem(
                "",
                f"there is no '{path}'",
                remedy="give a run directory, a checkpoint or a .nir file",
            )
        )
    return path


def _front_end(
    path: Path, choices: ImportOptions
) -> tuple[Imported, bytes, dict[str, Any], dict[str, bytes]]:
    """Return the imported network, its NIR file, facts for the manifest, and files to keep."""
    if path.is_dir() and (path / MANIFEST).is_file():
        raise ProgramFormatError(
            Problem(
                "",
                f"'{path}' is a program already",
                remedy="export the run or .nir file it came from",
            )
        )
    if path.suffix == ".nir":
        imported = from_nir(path, **choices.to_json())
        return imported, path.read_bytes(), {}, {}
    if choices.given:
        raise OptionError(
            Problem(
                "",
                f"{', '.join(choices.given)} is for .nir files",
                "a checkpoint knows how it was trained",
            )
        )
    _need_torch("reading a checkpoint")
    from neurocompile.frontend.from_checkpoint import from_checkpoint

    folded = from_checkpoint(path)
    facts = {"folding": dict(folded.folding), "reference": dict(folded.description)}
    return folded.imported, folded.nir, facts, dict(folded.reference)


def _with_range(network: Network, given: InputRange | None, calibrate: str | None) -> Network:
    """Return `network` with the input range that was asked for, if any was."""
    if given is not None and calibrate is not None:
        raise OptionError("give either --input-range or --calibrate, not both")
    if calibrate is not None:
        if len(network.of_type(Input)) > 1:
            names = ", ".join(network.of_type(Input))
            raise OptionError(
                Problem("", "--calibrate is for networks with one input", f"there are {names}")
            )
        given, shape = range_of(calibrate)
        (needed,) = {network.shapes[name] for name in network.of_type(Input)}
        if shape != needed:
            raise DataError(
                Problem(
                    "", f"--calibrate needs samples of shape {needed}", f"'{calibrate}' has {shape}"
                )
            )
    if given is None:
        return network
    nodes = {
        name: replace(node, range=given) if isinstance(node, Input) else node
        for name, node in network.nodes.items()
    }
    return network.replaced(nodes)


def _calibration(network: Network, calibrate: str | None) -> dict[str, Any] | None:
    """Return some samples of the data set `calibrate`, by input."""
    if calibrate is None:
        return None
    (name,) = network.of_type(Input)  # or the range would have been refused
    return dict(by_input(load_samples(calibrate).first(CALIBRATION_SAMPLES).inputs, [name]))


def _need_torch(what: str) -> None:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            Problem(
                "",
                f"{what} needs PyTorch",
                "it is not installed",
                "pip install 'neurocompile[train]'",
            )
        ) from error
    del torch
