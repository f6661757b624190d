"""The command line: parse, call one function of the library, print."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from neurocompile import __version__, api
from neurocompile import target as targets
from neurocompile.atomic import check_writable, write_text
from neurocompile.checks.tables import print_check, print_rounding
from neurocompile.chips import FamilyTarget
from neurocompile.commands.inspect import inspect
from neurocompile.commands.report import report
from neurocompile.commands.verify import verify
from neurocompile.console import (
    CLOSED,
    DONE,
    IMPOSSIBLE,
    UNEXPECTED,
    example,
    progress_bars,
    share_of,
    text_of,
    when_called,
)
from neurocompile.counted import remarks
from neurocompile.data import InputRange
from neurocompile.describe import describe
from neurocompile.doctor import examine
from neurocompile.errors import NeurocompileError, OptionError, raise_all
from neurocompile.frontend.from_nir import MOST_STEPS
from neurocompile.frontend.import_options import CHOICES, PROFILES
from neurocompile.integer import Integer
from neurocompile.pipeline import PASSES, Observe
from neurocompile.program import Program, load
from neurocompile.quantisation.recipe import Method, Objective, Recipe, Scales, WeightRounding
from neurocompile.raster import need_matplotlib
from neurocompile.run_file import run_file
from neurocompile.stages import Stage
from neurocompile.training.presets import PRESETS

if TYPE_CHECKING:
    from neurocompile.training.config import TrainSettings

SMALLEST_SPAN = 1e-30  # of an input range; payloads of anything smaller would overflow
TOLD_SHRINKING = 2  # of weights by the range proof: a bit is lost


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code: 0 done, 1 spikes differ or a floor is missed, 2 not possible.

    141 if nobody reads what it prints any more. What nobody expected is raised.
    """
    try:
        result = commands.main(
            args=None if argv is None else list(argv),
            prog_name="neurocompile",
            standalone_mode=False,
        )
    except NeurocompileError as error:
        click.echo(f"neurocompile: {text_of(error)}", err=True)
        return IMPOSSIBLE
    except click.ClickException as error:
        error.show()
        return IMPOSSIBLE
    except click.Abort:
        click.echo("neurocompile: stopped", err=True)
        return IMPOSSIBLE
    return result if isinstance(result, int) else DONE


def run() -> None:
    """Run the command line and exit with its code; 3 after the traceback of what nobody expected."""
    try:
        code = main()
    except Exception:  # noqa: BLE001  # Python would end with 1, which says that spikes differ
        traceback.print_exc()
        code = UNEXPECTED
    sys.exit(code)


class _Commands(click.Group):
    """Commands of which a closed pipe is an end of its own: click and rich answer it with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            pass
        except SystemExit as ended:  # rich's
            if not isinstance(ended.__context__, BrokenPipeError):
                raise
        with suppress(OSError, ValueError):  # what is not printed yet goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example(
        """
neurocompile train --preset digits -o runs/digits
neurocompile export runs/digits --target loihi2 -o runs/digits-loihi2
neurocompile verify runs/digits-loihi2 --input digits:test
"""
    ),
)
@click.version_option(__version__, message="neurocompile %(version)s")
def commands() -> None:
    """Take a spiking network from training to a neuromorphic chip, and prove that it fires the same
    spikes.
    """


@commands.command(
    epilog=example(
        """
neurocompile train --preset digits -o runs/digits
neurocompile train --preset digits --seed 1 --set neuron.tau=0.25 -o runs/leaky
neurocompile train --preset digits --data mine.npz --epochs 60 -o runs/mine
neurocompile train --preset cifar10-resnet19-tet --set input.root=/data -o runs/cifar10
neurocompile train -o runs/digits --resume
"""
    )
)
@click.option("--preset", metavar="NAME", help=f"A recipe by name: {', '.join(PRESETS)}.")
@click.option("--config", type=click.Path(path_type=Path), help="A recipe in a TOML or JSON file.")
@click.option(
    "--data", help="A data set by name, or an .npz file with x_train, y_train, x_test, y_test."
)
@click.option("--epochs", type=int, help="Of the first phase.")
@click.option(
    "--timesteps", type=int, help="Steps that each sample is shown for, in the first phase."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override any setting."
)
@click.option("--seed", type=int, help="The same seed gives the same weights.")
@click.option("--resume", is_flag=True, help="Continue the run in RUN_DIR.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="RUN_DIR")
def train(**options: Any) -> None:
    """
    Train a spiking network by the methods of the TET, Dspike and MSG/TWO papers.

    docs/training.md lists the settings. A preset prints what its paper published.
    """

    def announce(settings: TrainSettings) -> None:
        from neurocompile.training.summary import opening

        for line in opening(settings):
            click.echo(line)

    result = api.train(progress=True, announce=announce, **options)
    if not result.first:
        return
    from neurocompile.training.summary import closing

    for line in closing(result.metrics):
        click.echo(line)
    click.echo(f"wrote {result.run_directory}")


@commands.command(
    epilog=example(
        """
neurocompile evaluate runs/digits
neurocompile evaluate runs/digits --steps 64 --report runs/digits/evaluation
neurocompile evaluate runs/digits --input mine.npz --json evaluation.json
"""
    )
)
@click.argument("source", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--input",
    "data",
    metavar="DATA",
    help="A data set ('digits:train') or an .npz file; that of the training if not given.",
)
@click.option(
    "--steps",
    type=int,
    help="Accuracies up to so many steps, from one pass; as trained if not given.",
)
@click.option("--samples", type=int, help="Take the first ones only.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--report",
    "directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write pictures: accuracy by steps, confusions, what the neurons did.",
)
def evaluate(
    source: Path,
    data: str | None,
    steps: int | None,
    samples: int | None,
    json_file: Path | None,
    directory: Path | None,
) -> None:
    """Show a trained network (RUN: a directory or checkpoint) 1 to T' steps of some data, in one pass."""
    if json_file is not None:
        check_writable(json_file)
    if directory is not None:
        need_matplotlib()
        check_writable(directory, directory=True, option="--report")
        from neurocompile.training.figures import check_no_run

        check_no_run(directory)
    with progress_bars() as progress_of:
        found = api.evaluate(
            source, data=data, steps=steps, samples=samples, progress=progress_of("torch")
        )
    from neurocompile.training.summary import evaluation_lines

    for line in evaluation_lines(found):
        click.echo(line)
    if json_file is not None:
        write_text(json_file, json.dumps(found.to_json(), indent=2) + "\n")
    if directory is not None:
        from neurocompile.training.figures import write_evaluation

        directory.mkdir(parents=True, exist_ok=True)
        write_evaluation(directory, found)
        click.echo(f"wrote {directory}")


EXPORT_OPTIONS = (
    click.option("--target", required=True, help="See 'neurocompile targets'."),
    click.option(
        "--weight-bits",
        type=int,
        show_default="8, or all that the chip has",
        help="From 2 to what the chip has.",
    ),
    click.option(
        "--bits",
        "bits",
        multiple=True,
        metavar="LAYER=N",
        help="Weight bits of one layer, where it shall have others.",
    ),
    click.option(
        "--memory",
        metavar="SIZE",
        help="Bytes that all weights may take (20000, 16k, 1M): layers get fewer bits where it hurts least.",
    ),
    click.option(
        "--method",
        type=click.Choice(get_args(Method)),
        default="auto",
        show_default=True,
        help="How scales are chosen: auto is max from 6 bits up, mse below; search needs --calibrate.",
    ),
    click.option(
        "--percentile",
        type=float,
        show_default="99.9",
        help="Of '--method percentile': the share of weights that is not clipped.",
    ),
    click.option(
        "--scales",
        type=click.Choice(get_args(Scales)),
        default="layer",
        show_default=True,
        help="One scale for a layer, or one for each channel, by thresholds of its own.",
    ),
    click.option(
        "--minimise",
        "objective",
        type=click.Choice(get_args(Objective)),
        show_default="spikes",
        help="Of '--method search': spikes that differ, or the error of membranes.",
    ),
    click.option(
        "--rounding",
        type=click.Choice(get_args(WeightRounding)),
        default="nearest",
        show_default=True,
        help="Round weights to the nearest, or as calibration samples want it.",
    ),
    click.option(
        "--correct-biases",
        is_flag=True,
        help="Take the mean error of rounding off the biases; needs --calibrate.",
    ),
    click.option(
        "--calibration-samples",
        type=click.IntRange(min=1),
        show_default="64",
        help="How many samples of --calibrate decide how to quantise.",
    ),
    click.option(
        "--spec",
        metavar="FILE",
        help="A chip of the fixedpoint family: a .toml file, or one's name ('neurocompile targets').",
    ),
    click.option(
        "--steps",
        type=click.IntRange(1, MOST_STEPS),
        help="Steps a sample may have at most; as trained if not given.",
    ),
    click.option(
        "--first-layer",
        type=click.Choice(["auto", "graded", "host"]),
        default="auto",
        show_default=True,
        help="Who computes on analogue inputs: the chip, fed by graded spikes, or the host.",
    ),
    click.option(
        "--calibrate",
        metavar="DATA",
        help="Take the input's range, and samples to quantise by, from a data set.",
    ),
    click.option(
        "--membranes",
        type=click.Choice(["proven", "saturating"]),
        default="proven",
        show_default=True,
        help="Prove that no membrane saturates, or let them, which gives finer weights; verify counts it.",
    ),
    click.option(
        "--sums",
        type=click.Choice(["auto", "graded", "duplicate"]),
        default="auto",
        show_default=True,
        help="How sums of spikes travel: as graded spikes, or through duplicated synapses.",
    ),
    click.option(
        "--validate/--no-validate",
        default=None,
        help="Run the network after every pass and compare; done unasked where it takes seconds.",
    ),
    click.option(
        "--float",
        "real",
        is_flag=True,
        help="Also write the float network, for targets that have a form for it (onnx).",
    ),
    click.option(
        "--print-after",
        type=click.Choice([*PASSES, "all"]),
        help="Print the network that a pass made.",
    ),
    click.option(
        "--input-range", metavar="MIN:MAX[:STEP]", help="The values that inputs can take."
    ),
    click.option(
        "--profile",
        type=click.Choice(PROFILES),
        default="auto",
        show_default=True,
        help="The framework that wrote a .nir file, whose neurons it means.",
    ),
    click.option(
        "--dt", type=float, metavar="SECONDS", help="Time step that a .nir file was trained with."
    ),
    click.option(
        "--reset", type=click.Choice(CHOICES["reset"]), help="Reset of a .nir file's neurons."
    ),
    click.option(
        "--reset-at",
        type=click.Choice(CHOICES["reset_at"]),
        help="Whether its resets act at the spike or in the next step.",
    ),
    click.option(
        "--fires",
        type=click.Choice(CHOICES["fires"]),
        help="Whether its membranes fire above the threshold only, or at it as well.",
    ),
    click.option(
        "--max-spikes",
        metavar="N|any",
        help="How many spikes its neurons can fire in one step.",
    ),
    click.option(
        "--min-membrane",
        metavar="none|threshold|NUMBER",
        help="The lowest membrane of its neurons; 'threshold' is minus theirs.",
    ),
    click.option(
        "--input-gain",
        type=click.Choice(CHOICES["input_gain"]),
        help="Factor of its neurons' inputs where r is 1: 1, or 1 - decay.",
    ),
    click.option(
        "--synapse",
        type=click.Choice(CHOICES["synapse"]),
        help="Whether its synaptic currents act in the step they arrive or in the next.",
    ),
    click.option(
        "-O", "target_options", multiple=True, metavar="NAME=VALUE", help="An option of the target."
    ),
)


def _export_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `export`: all that decides which program SOURCE becomes."""
    for option in reversed(EXPORT_OPTIONS):
        command = option(command)
    return command


@commands.command(
    epilog=example(
        """
neurocompile export runs/digits --target loihi2 -o runs/digits-loihi2
neurocompile export runs/digits --target loihi2 --weight-bits 4 -O convolution=conv -o small
neurocompile export theirs.nir --target fixedpoint --profile snntorch --reset zero -o theirs
neurocompile export theirs.net --target loihi2 -o theirs
"""
    )
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="PROGRAM_DIR"
)
@_export_options
def export(
    source: Path,
    target: str,
    output: Path,
    input_range: str | None,
    target_options: Sequence[str],
    print_after: str | None,
    **options: Any,
) -> None:
    """Compile SOURCE, a run directory, checkpoint, .nir or .net file, into a program directory."""
    with progress_bars() as progress_of:
        program = api.export(
            source,
            target=target,
            output=output,
            input_range=_parse_range(input_range),
            options=_parse_pairs(target_options),
            recipe=_recipe(options),
            observe=_printer(print_after),
            progress=when_called(progress_of, "calibrate"),
            **options,
        )
    _print_program(program)
    click.echo(f"wrote {output}")


@commands.command(
    epilog=example(
        """
neurocompile check runs/digits --target loihi2
neurocompile check theirs.nir --target loihi2 --profile norse --dt 1e-3 --json check.json
"""
    )
)
@click.argument("source", type=click.Path(path_type=Path))
@_export_options
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
def check(
    source: Path,
    target: str,
    input_range: str | None,
    target_options: Sequence[str],
    print_after: str | None,
    json_file: Path | None,
    **options: Any,
) -> int:
    """Say everything that keeps SOURCE, a run directory, checkpoint, .nir or .net file, from being
    exported, and what it would take there.

    Nothing is written but FILE. Exit code 0 if an export would succeed, else 2.
    """
    if json_file is not None:
        check_writable(json_file)
    with progress_bars() as progress_of:
        report = api.check(
            source,
            target=target,
            input_range=_parse_range(input_range),
            options=_parse_pairs(target_options),
            recipe=_recipe(options),
            observe=_printer(print_after),
            progress=when_called(progress_of, "calibrate"),
            **options,
        )
    print_check(report)
    if json_file is not None:
        write_text(json_file, json.dumps(report.to_json(), indent=2) + "\n")
    return DONE if report.ok else IMPOSSIBLE


@commands.command(
    "run",
    epilog=example(
        """
neurocompile run runs/digits-loihi2 --input in.npz --output out.npz --record all
neurocompile run runs/digits-loihi2 --input in.npz --output out.npz --on fixedpoint
"""
    ),
)
@click.argument("program", type=click.Path(path_type=Path), metavar="PROGRAM_DIR")
@click.option(
    "--input",
    "source",
    required=True,
    type=click.Path(path_type=Path),
    metavar="IN.npz",
    help="Holds 'input', (samples, steps, *input shape), channels first; or 'input/<name>'.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="OUT.npz")
@click.option(
    "--record",
    default="",
    metavar="all|NAME,...",
    help="Layers whose spikes to keep; membrane/NAME for membranes.",
)
@click.option(
    "--on",
    metavar="NAME",
    help="Another executor of the same integers, as fixedpoint or fixedpoint:definition.",
)
@click.option(
    "--steps", type=click.IntRange(1, MOST_STEPS), help="How often to show an input of one step."
)
@click.option("--deadline", type=float, metavar="SECONDS", help="Give up after so long.")
def run_command(
    program: Path,
    source: Path,
    output: Path,
    record: str,
    on: str | None,
    steps: int | None,
    deadline: float | None,
) -> None:
    """Run a program on the inputs of an .npz file."""
    check_writable(output)
    loaded = load(program)
    with progress_bars() as progress_of:
        result = run_file(
            loaded,
            loaded.executor(on),
            source,
            output,
            record=[name for name in record.split(",") if name],
            steps=steps,
            progress=progress_of(on or loaded.target),
            deadline=deadline,
        )
    shapes = ", ".join(
        f"{'output' if len(result.outputs) == 1 else name} {values.shape}"
        for name, values in result.outputs.items()
    )
    click.echo(f"wrote {output}: {shapes}")
    samples, shown = next(iter(result.outputs.values())).shape[:2]
    for remark in remarks(loaded.network, result.trace.counters, places=samples * shown):
        click.echo(remark)
    if shown == 1 and loaded.native_steps not in (None, 1):
        click.echo(
            f"the input was shown for 1 step; training showed it for {loaded.native_steps} (--steps)"
        )


@commands.command("targets", epilog=example("neurocompile targets"))
def list_targets() -> None:
    """List the installed targets and whether their programs can be run here."""
    table = Table("target", "what it is", "runs here", "options (-O)", box=None, pad_edge=False)
    for name, entry in targets.installed().items():
        target: targets.Target = entry.load()
        state = target.availability()
        options = "\n".join(
            f"{option}={'|'.join(choice.choices)}" for option, choice in target.options.items()
        )
        table.add_row(
            name, target.summary, "yes" if state.ready else f"no: {state.detail}", options
        )
    Console().print(table)
    for name, entry in targets.installed().items():
        family = entry.load()
        if isinstance(family, FamilyTarget):
            click.echo(f"chips that {name} can be (--spec): {', '.join(family.chips)}")


@commands.command(epilog=example("neurocompile doctor"))
def doctor() -> None:
    """Say what is installed here, what is missing, and the command that installs it."""
    table = Table("", "what", "found", "needed for", box=None, pad_edge=False)
    findings = examine()
    for finding in findings:
        table.add_row("ok" if finding.ready else "--", finding.name, finding.found, finding.purpose)
    Console().print(table)
    for finding in findings:
        if finding.remedy:
            click.echo(f"for {finding.name}: {finding.remedy}")


def _scales(values: NDArray[np.float64]) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"


def _numbers(values: Integer) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _parse_range(text: str | None) -> InputRange | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(":")]
        minimum, maximum, step = (*numbers, 0.0)[:3] if len(numbers) == 2 else numbers
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError
    except ValueError:
        raise OptionError(f"--input-range needs MIN:MAX or MIN:MAX:STEP, got '{text}'") from None
    if not (minimum <= 0 <= maximum and maximum - minimum > SMALLEST_SPAN and step >= 0):
        raise OptionError(f"--input-range must reach from at most 0 to at least 0, got '{text}'")
    return InputRange(minimum, maximum, step)


def _recipe(options: dict[str, Any]) -> Recipe:
    """Take what says how to quantise out of `options`."""
    bits = {}
    for layer, text in _parse_pairs(options.pop("bits"), "--bits", "LAYER=N").items():
        if not _is_number(text):
            raise OptionError(f"--bits needs LAYER=N, got '{layer}={text}'")
        bits[layer] = int(text)
    fields = {
        name: options.pop(name)
        for name in ("method", "scales", "percentile", "objective", "rounding", "correct_biases")
    }
    fields["samples"] = options.pop("calibration_samples")
    given = {name: value for name, value in fields.items() if value is not None}
    recipe = Recipe(bits=bits, memory=_parse_size(options.pop("memory")), **given)
    # Those that were given as what they are anyway, as well.
    raise_all(
        OptionError, recipe.without_effect(given, calibrated=options["calibrate"] is not None)
    )
    return recipe


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _parse_size(text: str | None) -> int | None:
    """Return how many bytes are meant by 20000, 16k or 1M."""
    if text is None:
        return None
    factor = {"k": 1 << 10, "m": 1 << 20}.get(text[-1:].lower(), 1)
    number = text[:-1] if factor > 1 else text
    if not _is_number(number):
        raise OptionError(f"--memory needs bytes, as 20000, 16k or 1M, got '{text}'")
    return int(number) * factor


def _parse_pairs(
    texts: Sequence[str], option: str = "-O", form: str = "NAME=VALUE"
) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise OptionError(f"{option} needs {form}, got '{text}'")
        if name in pairs:
            raise OptionError(f"{option} must say once what {name} is, got '{text}' as well")
        pairs[name] = value
    return pairs


def _printer(wanted: str | None) -> Observe | None:
    """Return what prints the network after the pass `wanted`, or after all."""
    if wanted is None:
        return None

    def observe(name: str, stage: Stage) -> None:
        if wanted in (name, "all"):
            click.echo("\n".join([f"after {name}:", *describe(stage), ""]))

    return observe


def _print_program(program: Program) -> None:
    table = Table(
        "layer",
        "neurons",
        "threshold",
        "weight units per unit",
        "head-room",
        box=None,
        pad_edge=False,
    )
    bounds = {bound.layer: bound for bound in program.bounds}
    for neurons in program.network.neurons:
        bound = bounds[neurons.name]
        room = min(
            bound.current_limit / max(1, bound.current),
            bound.membrane_limit / max(1, bound.membrane),
        )
        count = 1
        for extent in neurons.shape:
            count *= extent
        table.add_row(
            neurons.name,
            f"{count} {neurons.shape}",
            "read-out" if neurons.readout else _numbers(neurons.threshold),
            _scales(neurons.scale),
            f"{room:.2f}x",
        )
    Console().print(table)
    click.echo(_method(program.facts["quantisation"]))
    print_rounding(program.facts["quantisation"]["layers"])
    for layer, factor in program.facts["quantisation"]["scales_lowered_by_biases"].items():
        click.echo(f"'{layer}' has its weights shrunk {factor:.2f} times, so that its biases fit")
    for layer, factor in program.facts["quantisation"]["scales_lowered_by_range_proof"].items():
        neurons = next(item for item in program.network.neurons if item.name == layer)
        saturates = program.facts["limits"]["membrane_overflow"] == "saturate"
        may_saturate = saturates and not neurons.readout
        scales = neurons.scale
        shrunk = program.facts["quantisation"]["channels_lowered_by_range_proof"][layer]
        where = f"up to {factor:.2f} times in {shrunk} of {scales.size} channels"
        times = where if scales.size > 1 else f"{factor:.2f} times"
        click.echo(
            f"'{layer}' has its weights shrunk {times}, so that {program.steps} steps are proven"
            + (
                " (--membranes saturating may be finer)"
                if may_saturate and factor > TOLD_SHRINKING
                else ""
            )
        )
    first = program.facts["first_layer"]
    click.echo(f"first layer: {first['computed_by']} ({first['because']})")
    folding = program.facts.get("folding")
    if folding:
        click.echo(
            f"folding batch norm flipped {folding['spikes_flipped']} of {folding['spikes_compared']} "
            f"spikes on random inputs; other logits differ by at most "
            f"{folding['largest_logit_difference_without_flips']:.1e}"
        )
    for name, how in program.facts["import"]["inferred"].items():
        if program.facts["source"]["kind"] != "checkpoint":
            click.echo(f"{name}: {how}")
    for note in program.facts["notes"]:
        click.echo(note)
    click.echo(_validation(program.facts["validation"]))
    saturating = any(neurons.saturates for neurons in program.network.neurons)
    proven = "no input sum can leave its range" if saturating else "no integer can leave its range"
    click.echo(f"range proof: {proven} within {program.steps} steps")


def _method(facts: Mapping[str, Any]) -> str:
    """Return how numbers became integers, in a line."""
    layers = facts["layers"].items()
    chosen = {name: layer["chosen"] for name, layer in layers if "chosen" in layer}
    by: dict[str, list[str]] = {}
    for name, how in chosen.items():
        by.setdefault(how["method"], []).append(name)
    methods = "; ".join(
        f"{method} for {', '.join(names)}" if len(by) > 1 else method
        for method, names in by.items()
    )
    each = "channel" if facts["scales"] == "channel" else "layer"
    text = f"quantised by {methods} (--method {facts['method']}), one scale for each {each}"
    if "percentile" in by:
        text += f", {facts['percentile']:g} % of its weights not clipped"
    if "search" in by:
        text += f", for the least {'error of membranes' if facts['objective'] == 'membrane' else 'spikes that differ'}"
    for key, said in (
        ("weights", "with weights that samples chose"),
        ("bias_corrected", "with corrected biases"),
    ):
        names = [name for name, how in chosen.items() if how[key] not in ("nearest", False)]
        if names:
            text += f"; {', '.join(names)} {said}"
    if facts["memory"] is not None:
        text += f"; within {facts['memory']} bytes"
    return text


def _validation(facts: Mapping[str, Any]) -> str:
    """Return what running the network after each pass showed, in a line."""
    if "skipped" in facts:
        return f"passes not validated: {facts['skipped']}"
    exact = [told for told in facts["passes"] if told["exact"]]
    ties = sum(told["ties"] for told in exact)
    text = (
        f"validated on {facts['samples']} samples: {len(exact)} exact passes changed 0 of "
        f"{sum(told['slots'] for told in exact)} spikes"
    )
    if ties:
        text += f" (and {ties} on a threshold, which rounding decides)"
    for told in facts["passes"]:
        if not told["exact"]:
            share = share_of(told["mismatches"], told["slots"])
            text += f"; {told['pass']} changed {share}"
    return text


for command in (verify, report, inspect):
    commands.add_command(command)


if __name__ == "__main__":
    run()
