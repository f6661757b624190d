"""The verbs for Python: what the commands do, as functions that return values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurocompile import target as targets
from neurocompile.atomic import check_writable
from neurocompile.checks.check_source import Check, check_source
from neurocompile.chips import for_spec
from neurocompile.data import (
    DataOptions,
    InputRange,
    Samples,
    by_input,
    is_input_file,
    load_samples,
    range_of,
    ranges_of,
    sample_count,
)
from neurocompile.decision import facts_of, remarks_on
from neurocompile.errors import DataError, OptionError, Problem, ProgramFormatError, raise_all
from neurocompile.frontend.from_nir import Imported
from neurocompile.frontend.import_options import ImportOptions
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.integer import Shape
from neurocompile.ir import Input, Network
from neurocompile.limits import Limits
from neurocompile.passes.quantise import FirstLayer, Membranes
from neurocompile.passes.share_sums import Sums
from neurocompile.pipeline import CompileOptions, Observe, compile_network
from neurocompile.program import GRAPH, Program, load
from neurocompile.quantisation.recipe import Recipe
from neurocompile.samples import SampleSource, open_source
from neurocompile.sources import Read, Source, need_lightning, source_of
from neurocompile.target import Progress
from neurocompile.validation import CALIBRATION_SAMPLES
from neurocompile.verification.budgets import Budgets
from neurocompile.verification.ranks import ranks_here
from neurocompile.verification.report import Report
from neurocompile.verification.resume import remove_kept
from neurocompile.verification.stages import ProgressOf
from neurocompile.verification.verify import EXAMINED, verify_program

if TYPE_CHECKING:
    from torch import nn

    from neurocompile.training.config import TrainSettings
    from neurocompile.training.evaluation import Evaluation
    from neurocompile.training.train import TrainingResult


def train(
    *,
    output: Path | str,
    preset: str | None = None,
    config: Path | str | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    progress: bool = False,
    announce: Callable[[TrainSettings], None] | None = None,
    **settings: Any,
) -> TrainingResult:
    """
    Train a network into the run directory `output` and return its metrics.

    `settings` are fields of `TrainSettings` (data, epochs, timesteps, seed, ...); `overrides` are
    "key=value" strings that reach nested ones. A run that is resumed has its own, with these on top; a
    preset or configuration must agree with them. `announce` is called with what was resolved, before
    the run starts. Needs the `train` extra.
    """
    need_lightning("training")
    from neurocompile.training.config import resolve
    from neurocompile.training.train import settings_to_resume
    from neurocompile.training.train import train as run_training

    asked: dict[str, Any] = {
        "preset": preset,
        "config": None if config is None else Path(config),
        "overrides": overrides,
        **settings,
    }
    resolved = settings_to_resume(Path(output), **asked) if resume else resolve(**asked)
    return run_training(resolved, Path(output), resume=resume, progress=progress, announce=announce)


def evaluate(
    source: Path | str,
    *,
    data: str | None = None,
    steps: int | None = None,
    samples: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Evaluation:
    """
    Return how a trained network does with 1 to `steps` steps, and what its neurons do meanwhile.

    `source` is a run directory or checkpoint; `data` (a data set, or an .npz file of inputs and labels)
    and `steps` are those of its training if not given, and `samples` takes the first ones only. Needs
    the `train` extra.
    """
    need_lightning("evaluation")
    from neurocompile.training.evaluation import evaluate as evaluate_network

    return evaluate_network(
        Path(source), data=data, steps=steps, samples=samples, progress=progress
    )


def export(
    source: Path | str | nn.Module,
    *,
    target: str,
    output: Path | str | None = None,
    input_shape: Sequence[int] | None = None,
    layout: str = "auto",
    weight_bits: int | None = None,
    recipe: Recipe | None = None,
    spec: Path | str | None = None,
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
    real: bool = False,
    progress: Progress | None = None,
) -> Program:
    """
    Compile `source` for `target`, and write it to `output` if given.

    It is a run directory, a checkpoint, a NIR or `.net` file, or a PyTorch module of snnTorch's,
    SpikingJelly's or our neurons. A module needs its `input_shape`, without batch and time, and where it
    can not be told, the `layout` in which it takes time, as `from_module` explains.

    The input's range is `input_range`, or that of the data set `calibrate`; without either it is the
    source's own, else spikes. `steps` is how many a sample may have at most, and of a module how many it
    has. `validate` runs the network after every pass (None: where that takes seconds); `profile`, `dt`
    and the options up to `synapse` say how to read a NIR file, as `ImportOptions` explains; `observe` is
    called with each pass's name and the network that it made.

    `recipe` says how numbers are quantised (`weight_bits` goes before its own), on samples of `calibrate`
    where it needs any; `spec` is the file of a chip of the target's family, or one's name; with `real` the target also
    writes the network in real numbers, if it has a form for that. `progress` is called while samples decide
    how to quantise, with the number of populations done, and of all.

    Raises errors of `neurocompile.errors`, each with all of its reasons; then nothing is written.
    """
    chosen = _target(target, spec)
    if output is not None:
        check_writable(Path(output), directory=True)
    opened = source_of(source, input_shape=input_shape, layout=layout)
    choices = ImportOptions(
        profile, dt, reset, reset_at, fires, max_spikes, min_membrane, input_gain, synapse
    )
    read = _read(opened, choices, steps, input_range, calibrate)
    data_options = _data_options(read.facts)
    network = _with_range(read.imported.network, input_range, calibrate, data_options)
    asked = _recipe(recipe, weight_bits, chosen.limits, calibrate)
    calibration = _calibration(network, calibrate, data_options, asked)
    program = compile_network(
        network,
        chosen,
        CompileOptions(
            recipe=asked,
            steps=steps,
            first_layer=first_layer,
            sums=sums,
            membranes=membranes,
            validate=validate,
            calibration=calibration,
            calibrated_on=_name_of(calibrate),
            real=real,
            target_options=options or {},
        ),
        observe=observe,
        progress=progress,
    )
    weights = read.imported.time_weights
    graph = network_to_nir(network, weights) if read.graph is None else read.graph
    program = replace(
        program,
        facts={
            "source": {"kind": opened.kind, "name": opened.name},
            "import": {"options": choices.to_json(), "inferred": dict(read.imported.inferred)},
            **_without_places(read.facts),
            **facts_of(weights),
            **program.facts,
            "notes": [
                *program.facts["notes"],
                *remarks_on(weights),
                *_narrower(read.imported.network, network),
            ],
        },
        extra_files={GRAPH: graph, **read.files, **program.extra_files},
    )
    if output is not None:
        program.save(Path(output))
    return program


def check(
    source: Path | str | nn.Module,
    *,
    target: str,
    input_shape: Sequence[int] | None = None,
    layout: str = "auto",
    weight_bits: int | None = None,
    recipe: Recipe | None = None,
    spec: Path | str | None = None,
    steps: int | None = None,
    first_layer: FirstLayer = "auto",
    sums: Sums = "auto",
    membranes: Membranes = "proven",
    validate: bool | None = None,
    observe: Observe | None = None,
    calibrate: str | None = None,
    input_range: InputRange | None = None,
    options: Mapping[str, str] | None = None,
    real: bool = False,
    progress: Progress | None = None,
    **choices: Any,
) -> Check:
    """
    Return everything that keeps `source` from being exported for `target`, and what it takes there.

    The arguments are those of `export`; `choices` are the fields of `ImportOptions`. Nothing is
    written, and nothing runs unless `validate` is true, or samples of `calibrate` would for an export:
    to decide how to quantise, or to see whether rounding silences a layer. Raises `OptionError` only where
    there is nothing to check: for a target or a path that do not exist, a module without an input shape, a
    path with one, a recipe that asks for what would change nothing.
    """
    chosen = _target(target, spec)
    opened = source_of(source, input_shape=input_shape, layout=layout)

    asked = _recipe(recipe, weight_bits, chosen.limits, calibrate)
    data_options = DataOptions()

    def read(decided: ImportOptions) -> Imported:
        nonlocal data_options
        result = _read(opened, decided, steps, input_range, calibrate)
        data_options = _data_options(result.facts)
        return result.imported

    def finish(network: Network) -> tuple[Network, dict[str, Any] | None]:
        ranged = _with_range(network, input_range, calibrate, data_options)
        needed = validate is not False or asked.uses_samples
        samples = _calibration(ranged, calibrate, data_options, asked) if needed else None
        return ranged, samples

    return check_source(
        opened.name,
        chosen,
        CompileOptions(
            recipe=asked,
            steps=steps,
            first_layer=first_layer,
            sums=sums,
            membranes=membranes,
            validate=validate,
            calibrated_on=_name_of(calibrate),
            real=real,
            target_options=options or {},
        ),
        choices=choices,
        read=read,
        graph=opened.graph,
        finish=finish,
        observe=observe,
        progress=progress,
    )


def verify(
    program: Program | Path | str,
    *,
    data: str | Samples,
    samples: int | None = None,
    against: Sequence[str] = (),
    steps: int | None = None,
    progress_of: ProgressOf | None = None,
    deadline: float | None = None,
    jobs: int = 1,
    resume: Path | str | None = None,
    keep: bool = False,
    examine: int = EXAMINED,
    suggest: bool = False,
    max_mismatch: float | None = None,
    min_accuracy: float | None = None,
    max_accuracy_drop: float | None = None,
) -> Report:
    """
    Compare all stages of `program` on `data`, spike by spike, and return the report.

    `samples` takes the first ones only; shares then come with what they say of all. A data set by name is
    read as the network was trained on it, from the directory in NEUROCOMPILE_DATA, else ./data: programs
    do not say where data were. `steps` is how often an input of one step is shown (as in training, if
    not given). `jobs` processes share the samples. `resume` is a directory that keeps what is done until
    all is: a run that was stopped goes on from it; with `keep` it stays until `remove_kept`, for callers
    who have more to do. `deadline` is how many seconds counting all samples may take, each later run of
    the target, and all of `suggest`, which then leaves something out. `examine` samples are looked at closely (0: none), and with `suggest` quantised in other
    ways, to say what would help.

    `max_mismatch`, `min_accuracy` and `max_accuracy_drop` are floors, as fractions, as `Budgets`
    explains. The report says whether anything failed; nothing is raised for spikes that differ. Raises
    `OptionError` for options that make no sense, before anything runs, and `DeadlineError`.
    """
    budgets = Budgets(max_mismatch, min_accuracy, max_accuracy_drop)
    raise_all(OptionError, _nonsense(samples, jobs, examine, suggest=suggest, deadline=deadline))
    opened = program if isinstance(program, Program) else load(program)
    shown = showing(opened, steps)
    try:
        source = source_for(opened, data, samples)
        raise_all(OptionError, _impossible(source, samples, steps))
        report = verify_program(
            shown,
            source,
            against=against,
            progress_of=progress_of,
            deadline=deadline,
            jobs=jobs,
            state=None if resume is None else Path(resume),
            examine=examine,
            alternatives=suggest,
            budgets=budgets,
        )
    finally:
        for item in (shown, opened):
            if item is not program:
                item.close()
    if resume is not None and not keep and ranks_here().first:
        remove_kept(Path(resume))
    return report


def showing(program: Program, steps: int | None) -> Program:
    """Return `program` as one that shows inputs of one step `steps` times; itself where that is None."""
    if steps is None:
        return program
    if not 1 <= steps <= program.steps:
        raise OptionError(
            Problem(
                "",
                f"--steps must be from 1 to {program.steps}, which the program's proof covers",
                f"it is {steps}",
                "export it with more --steps" if steps > program.steps else "",
            )
        )
    return replace(program, native_steps=steps)


def source_for(program: Program, data: str | Samples, samples: int | None = None) -> SampleSource:
    """Return `data` as `verify` reads it for `program`: all samples, or the first `samples` ones."""
    return open_source(data, _data_options(program.facts), count=samples)


def _nonsense(
    samples: int | None, jobs: int, examine: int, *, suggest: bool, deadline: float | None
) -> Iterable[Problem]:
    """Yield what makes no sense in the options of `verify`."""
    if samples is not None and samples < 1:
        yield Problem("", "--samples must be at least 1", f"it is {samples}")
    if jobs < 1:
        yield Problem("", "--jobs must be at least 1", f"it is {jobs}")
    if examine < 0:
        yield Problem("", "--examine must be at least 0", f"it is {examine}")
    if suggest and examine == 0:
        yield Problem(
            "", "--suggest measures on the examined samples", "--examine is 0", "give it more"
        )
    if deadline is not None and not deadline > 0:
        yield Problem("", "--deadline must be more than 0 seconds", f"it is {deadline:g}")


def _impossible(source: SampleSource, samples: int | None, steps: int | None) -> Iterable[Problem]:
    """Yield what the data do not allow in the options of `verify`."""
    if samples is not None and samples > source.count:
        yield Problem(
            "", f"--samples {samples} is more than there are", f"there are {source.count}"
        )
    if steps is None:
        return
    inputs = source.part(0, 1).inputs
    for name, values in inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]:
        if values.shape[1] != 1:
            yield Problem(
                "",
                f"the inputs {f'of {name!r} ' if name else ''}have {values.shape[1]} steps of their own",
                f"--steps {steps} is asked for",
                "leave --steps out",
            )


def _recipe(
    recipe: Recipe | None, weight_bits: int | None, limits: Limits, calibrate: str | None
) -> Recipe:
    """
    Return `recipe` with `weight_bits`; unasked, with its own or, where that is the default, what there is.

    Raises `OptionError` for what is not as by default in it, and would change nothing.
    """
    usual = Recipe()
    recipe = recipe or usual
    names = [field.name for field in fields(Recipe)]
    given = [name for name in names if getattr(recipe, name) != getattr(usual, name)]
    raise_all(OptionError, recipe.without_effect(given, calibrated=calibrate is not None))
    if weight_bits is None:
        fewer = recipe.weight_bits == usual.weight_bits > limits.weight_bits
        weight_bits = limits.weight_bits if fewer else recipe.weight_bits
    return replace(recipe, weight_bits=weight_bits)


def _target(name: str, spec: Path | str | None) -> targets.Target:
    """Return the installed target, or a chip of its family."""
    target = targets.find(name)
    return target if spec is None else for_spec(target, spec)


def _read(
    source: Source,
    choices: ImportOptions,
    steps: int | None,
    given: InputRange | None,
    calibrate: str | None,
) -> Read:
    """Return what `source` means; a module is proven on the values that were asked for."""
    limits = None
    if source.kind == "module":
        limits = _range(given, calibrate, source.input_shape, DataOptions())
    return source.read(choices, steps=steps, input_range=limits)


def _with_range(
    network: Network, given: InputRange | None, calibrate: str | None, options: DataOptions
) -> Network:
    """Return `network` with the input range that was asked for, if any was."""
    names = network.of_type(Input)
    if calibrate is not None and len(names) > 1:
        limits = _ranges(given, calibrate, network)
    else:
        one = _range(given, calibrate, network.shapes[names[0]], options)
        limits = {} if one is None else dict.fromkeys(names, one)
    if not limits:
        return network
    nodes = {
        name: replace(node, range=limits[name]) if isinstance(node, Input) else node
        for name, node in network.nodes.items()
    }
    return network.replaced(nodes)


def _narrower(source: Network, network: Network) -> Iterable[str]:
    """Yield which inputs of `network` take less than those of `source` say: all else is refused at run time."""
    for name in source.of_type(Input):
        before, now = source.nodes[name], network.nodes[name]
        assert isinstance(before, Input)
        assert isinstance(now, Input)
        own, taken = before.range, now.range
        if own is None or taken is None:
            continue
        if taken.minimum > own.minimum or taken.maximum < own.maximum:
            yield (
                f"'{name}' takes values from {taken.minimum:g} to {taken.maximum:g} alone, which is all that "
                f"is proven; the source has them from {own.minimum:g} to {own.maximum:g}"
            )


def _ranges(given: InputRange | None, calibrate: str, network: Network) -> dict[str, InputRange]:
    """Return the range of each of several inputs, from a file that holds them by name."""
    names = network.of_type(Input)
    if not is_input_file(calibrate):
        raise OptionError(
            Problem(
                "",
                "--calibrate is for networks with one input",
                f"there are {', '.join(names)}",
                "give an .npz file that holds 'input/<name>' for each",
            )
        )
    _refuse_both(given)
    found = ranges_of(calibrate, names)
    raise_all(
        DataError,
        [
            Problem(
                name,
                f"needs samples of shape {network.shapes[name]} from --calibrate",
                f"'{calibrate}' has {shape}",
            )
            for name, (_, shape) in found.items()
            if shape != network.shapes[name]
        ],
    )
    return {name: span for name, (span, _) in found.items()}


def _refuse_both(given: InputRange | None) -> None:
    if given is not None:
        raise OptionError("give either --input-range or --calibrate, not both")


def _range(
    given: InputRange | None, calibrate: str | None, needed: Shape, options: DataOptions
) -> InputRange | None:
    """Return the input range that was asked for; a data set needs samples of the shape `needed`."""
    if calibrate is None:
        return given
    _refuse_both(given)
    limits, shape = range_of(calibrate, options)
    if shape != needed:
        raise DataError(
            Problem(
                "", f"--calibrate needs samples of shape {needed}", f"'{calibrate}' has {shape}"
            )
        )
    return limits


def _calibration(
    network: Network, calibrate: str | None, options: DataOptions, recipe: Recipe
) -> dict[str, Any] | None:
    """
    Return some samples of the data set `calibrate`, by input.

    What decides how to quantise is training data, unless another split is named.
    """
    if calibrate is None:
        return None
    names = network.of_type(Input)
    if not recipe.uses_samples:
        samples = load_samples(calibrate, options, count=CALIBRATION_SAMPLES)
    else:
        count = max(1, recipe.samples)
        samples = load_samples(calibrate, options, count=count, unnamed="train", spread=True)
        if sample_count(samples.inputs) == 0:
            raise DataError(Problem("", "calibration needs samples", f"'{calibrate}' holds none"))
    return by_input(samples.inputs, names)


def _name_of(calibrate: str | None) -> str:
    """Return what facts call the calibration data: files without their places."""
    return "" if calibrate is None else Path(calibrate).name


def _data_options(facts: Mapping[str, Any]) -> DataOptions:
    """Return how data sets are read for a network with these `facts`: as for its training, if that is known."""
    if "reference" not in facts:
        return DataOptions()
    try:
        reference = facts["reference"]
        options = DataOptions.from_settings(reference["settings"], phase=reference.get("phase"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ProgramFormatError(
            Problem("", f"the program's training settings are damaged ({error!r})")
        ) from error
    return options.where_data_are_now()


def _without_places(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `facts` of a source without what lies elsewhere on this machine: programs move."""
    if "reference" not in facts:
        return dict(facts)
    reference = facts["reference"]
    settings = {**reference["settings"], "start": None}
    settings["input"] = {**settings["input"], "root": None}
    return {**facts, "reference": {**reference, "settings": settings}}
