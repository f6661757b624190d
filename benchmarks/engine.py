"""
How fast integers run: `fixedpoint` beside Lava, ONNX Runtime and PyTorch; memory, growth, first results.

Everything is measured in one run on one machine, with two threads for everybody if started by
`make bench`. Writes `benchmarks/results/engine.md`, which opens with what was asked of the engine and
whether that is met, and its numbers as JSON beside it.

    python benchmarks/engine.py [--rounds 5] [--quick] [--output DIR]

`--quick` takes the smallest sizes and writes nothing without `--output`: it shows that all of this runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import (
    RESULTS,
    Claim,
    Others,
    Section,
    Times,
    child,
    fit_line,
    interleave,
    keep_to_threads,
    machine,
    report,
    run_python,
    shown,
    table,
    timed,
    write_report,
)
from networks import (
    deep_inputs,
    deep_network,
    digit_images,
    eager,
    firing_rates,
    random_spikes,
    small_network,
)

from neurocompile.errors import NeurocompileError
from neurocompile.ir import Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program
from neurocompile.resources import count_resources
from neurocompile.target import find

CHILD = Path(__file__).with_name("child.py")
CONV = "Lava, Conv processes"
LOWERINGS = {
    CONV: "conv",
    "Lava, Sparse processes of ours": "sparse",
    "Lava, matrix products of ours": "gemm",
}
ONNX = {
    "ONNX Runtime, integer kernels": "integer",
    "ONNX Runtime, float kernels": "float",
}
IMAGE_SECONDS = 150.0  # when to give up on the images of a minute
STRAIGHT = 0.98  # R^2 of a line that time is called linear along


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are what the committed results were measured with."""

    rounds: int = 5
    pixels: int = 28
    steps: int = 20
    samples: int = 256
    batches: tuple[int, ...] = (256, 32)  # for PyTorch: all, or as many as stay in the caches
    definition: int = 16  # samples, for the slow ones: rates are told per sample and step
    conv: int = 16  # samples: Lava's Conv processes are slow
    fit_samples: int = 64
    fits: tuple[int, ...] = (1, 2, 4, 8)  # times the smallest
    width: float = 1.0
    deep: int = 16
    images: int = 5000


QUICK = Sizes(
    rounds=1,
    pixels=8,
    steps=2,
    samples=3,
    batches=(32,),
    definition=2,
    conv=1,
    fit_samples=2,
    fits=(1, 2),
    width=1 / 16,
    deep=2,
    images=3,
)


def compiled(
    network: Network, target: str = "fixedpoint", *, steps: int | None = None, **options: str
) -> Program:
    """Return the program of `network`; validation has its own tests."""
    chosen = CompileOptions(validate=False, steps=steps, target_options=options)
    return compile_network(network, find(target), chosen)


def forced_engines(program: Program) -> list[str]:
    """Return the names of the engines of `fixedpoint` that are installed; the best one runs unasked."""
    found = []
    for engine in find("fixedpoint").engines:
        try:
            program.executor(f"fixedpoint:{engine}")
        except NeurocompileError:
            continue
        found.append(f"fixedpoint:{engine}")
    return found


def measure_throughput(sizes: Sizes) -> Section:
    """Measure sample-steps per second of the small network on every executor."""
    network = small_network(sizes.steps, size=sizes.pixels)
    shape = (1, sizes.pixels, sizes.pixels)
    inputs = random_spikes(sizes.samples, sizes.steps, shape)
    ours = compiled(network)
    rates = firing_rates(ours, inputs[: sizes.definition])
    samples = {"fixedpoint": sizes.samples}
    cases = {"fixedpoint": timed(partial(ours.run, inputs))}
    for engine in forced_engines(ours):
        samples[engine] = sizes.definition if "definition" in engine else sizes.samples
        cases[engine] = timed(partial(ours.run, inputs[: samples[engine]], on=engine))
    by_step = torch.tensor(inputs, dtype=torch.float32).transpose(0, 1).contiguous()
    for channels_last in (False, True):
        infer = eager(network, channels_last=channels_last)
        for batch in sizes.batches:
            layout = "channels last" if channels_last else "contiguous"
            name = f"PyTorch, {layout}, {batch} at once"
            samples[name] = sizes.samples
            cases[name] = timed(partial(in_batches, infer, by_step, batch))
    lava = {}
    for name, convolution in LOWERINGS.items():
        lava[name] = compiled(network, "loihi2", convolution=convolution)
        samples[name] = sizes.conv if name == CONV else sizes.samples
        cases[name] = timed(partial(lava[name].run, inputs[: samples[name]]))
    onnx = {name: compiled(network, "onnx", kernels=kernels) for name, kernels in ONNX.items()}
    for name, program in onnx.items():
        samples[name] = sizes.samples
        cases[name] = timed(partial(program.run, inputs))
    times = interleave(cases, sizes.rounds)
    for program in (ours, *lava.values(), *onnx.values()):
        program.close()
    speeds = {name: samples[name] * sizes.steps / value.median for name, value in times.items()}
    best = max((name for name in speeds if name.startswith("PyTorch")), key=speeds.__getitem__)
    lowered = max((name for name in LOWERINGS if name != CONV), key=speeds.__getitem__)
    runtime = max(ONNX, key=speeds.__getitem__)
    speed = speeds["fixedpoint"]
    rows = [
        (
            name,
            shown(speed / speeds[name]),
            f"{speeds[name]:,.0f}",
            str(samples[name]),
            f"{shown(value.median)} s",
            value.spread,
        )
        for name, value in times.items()
    ]
    told = ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items())
    head = (
        "executor",
        "`fixedpoint` is faster by",
        "sample-steps per second",
        "samples",
        "median",
        "spread",
    )
    return Section(
        f"Throughput: {_small_name(sizes)}, T={sizes.steps}",
        (
            f"Random weights; the input spikes at random, firing rates a step are {told}. Set-up and a "
            f"first round are left out; {sizes.rounds} rounds, interleaved. PyTorch runs the same network "
            f"in float32, by a loop over steps in inference mode; the fastest form, {best}, counts above. ONNX "
            f"Runtime runs the target `onnx`, whole samples by a Scan; {runtime} count above."
        ),
        table(head, rows),
        {
            "rates": rates,
            "sample_steps_per_second": speeds,
            "seconds": {name: value.seconds for name, value in times.items()},
            "samples": samples,
        },
        [
            Claim(
                f"times Lava's Conv processes, T={sizes.steps}",
                speed / speeds[CONV],
                "x",
                500,
                aimed=1000,
            ),
            Claim(
                "times eager PyTorch, float32, its fastest form",
                speed / speeds[best],
                "x",
                1,
                aimed=2,
            ),
            Claim(f"times {runtime}, the same integers", speed / speeds[runtime], "x"),
            Claim(
                f"{lowered}: times Conv processes",
                speeds[lowered] / speeds[CONV],
                "x",
                7,
                aimed=70,
            ),
            Claim(
                "quietest layer of that network fires, % a step", 100 * min(rates.values()), "%", 5
            ),
            Claim(
                "busiest layer of that network fires, % a step",
                100 * max(rates.values()),
                "%",
                most=25,
            ),
        ],
    )


def in_batches(
    infer: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, batch: int
) -> None:
    """Run `inputs` (steps, samples, ...), `batch` samples at once."""
    for start in range(0, inputs.shape[1], batch):
        infer(inputs[:, start : start + batch])


def measure_one_sample(sizes: Sizes) -> Section:
    """Measure how long one sample takes where everything is set up."""
    network = small_network(sizes.steps, size=sizes.pixels)
    inputs = random_spikes(1, sizes.steps, (1, sizes.pixels, sizes.pixels))
    programs = {"fixedpoint": compiled(network)} | {
        name: compiled(network, "loihi2", convolution=convolution)
        for name, convolution in LOWERINGS.items()
    }
    programs |= {name: compiled(network, "onnx", kernels=kernels) for name, kernels in ONNX.items()}
    cases = {name: timed(partial(program.run, inputs)) for name, program in programs.items()}
    by_step = torch.tensor(inputs, dtype=torch.float32).transpose(0, 1).contiguous()
    cases["PyTorch, contiguous"] = timed(partial(eager(network, channels_last=False), by_step))
    times = interleave(cases, sizes.rounds)
    for program in programs.values():
        program.close()
    ours = times["fixedpoint"].median
    rows = [
        (name, shown(value.median / ours), f"{shown(1000 * value.median)} ms", value.spread)
        for name, value in times.items()
    ]
    return Section(
        f"One sample: {_small_name(sizes)}, T={sizes.steps}",
        (
            "Set-up is left out. Lava's programs are set up for one sample at a time, which takes them about "
            "twice its steps: the pipeline has to run dry."
        ),
        table(("executor", "time over `fixedpoint`'s", "median", "spread"), rows),
        {name: value.seconds for name, value in times.items()},
        [
            Claim(f"one sample: times {name}", times[name].median / ours, "x", 20)
            for name in LOWERINGS
        ],
    )


def measure_first_result(sizes: Sizes) -> Section:
    """Measure `neurocompile run` from the start of its process to its end."""
    shape = (1, sizes.pixels, sizes.pixels)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program, inputs = directory / "program", directory / "one.npz"
        compiled(small_network(sizes.steps, size=sizes.pixels)).save(program)
        np.savez(inputs, input=random_spikes(1, sizes.steps, shape))

        def command(cache: Path) -> float:
            started = time.perf_counter()
            run_python(
                [
                    *("-m", "neurocompile", "run", program),
                    *("--input", inputs, "--output", directory / "out.npz"),
                ],
                {"NUMBA_CACHE_DIR": str(cache)},
            )
            return time.perf_counter() - started

        def empty() -> float:
            with tempfile.TemporaryDirectory(dir=directory) as cache:
                return command(Path(cache))

        warm = directory / "cache"
        times = interleave({"warm": lambda: command(warm), "empty": empty}, min(3, sizes.rounds))
    rows = [
        (f"{name} kernel cache", f"{shown(value.median)} s", value.spread)
        for name, value in times.items()
    ]
    return Section(
        "First result",
        (
            "`neurocompile run PROGRAM --input one.npz --output out.npz` for one sample, from the start of "
            "the process to its end."
        ),
        table(("", "median", "spread"), rows),
        {name: value.seconds for name, value in times.items()},
        [
            Claim(f"first result, {name} kernel cache", value.median, " s", most=3)
            for name, value in times.items()
        ],
    )


def measure_growth(sizes: Sizes) -> Section:
    """Measure how time grows with steps, samples and synapses, and fit a line to each."""
    shape = (1, sizes.pixels, sizes.pixels)
    longest = sizes.fits[-1] * 10
    base = small_network(sizes.steps, size=sizes.pixels)
    many = random_spikes(sizes.fits[-1] * sizes.fit_samples, sizes.steps, shape)
    some = random_spikes(sizes.fit_samples, longest, shape)
    by_steps, by_samples = compiled(base, steps=longest), compiled(base)
    lines: dict[str, tuple[list[float], dict[str, Callable[[], float]]]] = {
        "steps": ([], {}),
        "samples": ([], {}),
        "synapses": ([], {}),
    }
    for number, factor in enumerate(sizes.fits, start=1):
        steps, samples = 10 * factor, sizes.fit_samples * factor
        wider = compiled(small_network(sizes.steps, hidden=64 * number, size=sizes.pixels))
        synapses = count_resources(wider).totals["synapses"].value
        for kind, x, program, inputs in (
            ("steps", steps, by_steps, some[:, :steps]),
            ("samples", samples, by_samples, many[:samples]),
            ("synapses", synapses, wider, many[: sizes.fit_samples]),
        ):
            lines[kind][0].append(x)
            lines[kind][1][f"{x:,}"] = timed(partial(program.run, inputs))
    rows, claims, data = [], [], {}
    for kind, (across, cases) in lines.items():
        times = interleave(cases, sizes.rounds)
        medians = [value.median for value in times.values()]
        fit = fit_line(across, medians)
        slope, unit = (fit.slope * 1e3, "ms") if kind != "synapses" else (fit.slope * 1e9, "ns")
        rows.append(
            (
                kind,
                ", ".join(times),
                ", ".join(shown(1000 * median) for median in medians),
                f"{shown(slope)} {unit}",
                f"{shown(1000 * fit.intercept)} ms",
                f"{fit.r_squared:.4f}",
            )
        )
        claims.append(Claim(f"time is linear in {kind}: R^2", fit.r_squared, "", STRAIGHT))
        data[kind] = {
            "x": across,
            "seconds": [value.seconds for value in times.values()],
            "slope": fit.slope,
            "intercept": fit.intercept,
            "r_squared": fit.r_squared,
        }
    head = ("grows", "x", "median ms", "slope, for each", "intercept", "R^2")
    return Section(
        "Growth of time",
        (
            f"{_small_name(sizes)} on `fixedpoint`, least squares through medians of {sizes.rounds} rounds: "
            f"{sizes.fit_samples} samples of {sizes.steps} steps where these do not grow, synapses by the "
            "second convolution's channels."
        ),
        table(head, rows),
        data,
        claims,
    )


def measure_recompiling(sizes: Sizes) -> Section:
    """Count what is compiled for another number of samples, in a process of its own."""
    shape = (1, sizes.pixels, sizes.pixels)
    with tempfile.TemporaryDirectory() as name:
        program, inputs = Path(name) / "program", Path(name) / "inputs.npz"
        compiled(small_network(sizes.steps, size=sizes.pixels)).save(program)
        np.savez(inputs, input=random_spikes(sizes.samples, sizes.steps, shape))
        few = max(1, sizes.samples // 3)
        found = child([CHILD, "recompiles", program, inputs, str(few)])
    first, second = found["seconds"]
    new = found["after"] - found["before"] if found["after"] else None
    return Section(
        "Another number of samples",
        (
            f"In a new process, {few} samples and then {sizes.samples}: {found['before']} compiled kernels "
            f"after the first, {found['after']} after the second run. The second size took {shown(first)} s, "
            f"and again {shown(second)} s."
        ),
        [],
        found,
        [Claim("kernels compiled for another number of samples", new, "", most=0)],
    )


def measure_deep(sizes: Sizes) -> Section:
    """Measure throughput and peak memory of the papers' networks, each in a process of its own."""
    rows, data, claims = [], {}, []
    for name in ("ResNet-19", "VGGSNN"):
        deep = deep_network(name, sizes.width)
        program = compiled(deep.network)
        inputs = deep_inputs(name, sizes.deep)
        rates = firing_rates(program, inputs[:2])
        with tempfile.TemporaryDirectory() as directory:
            stored, file = Path(directory) / "program", Path(directory) / "inputs.npz"
            program.save(stored)
            np.savez(file, input=inputs)
            rounds = str(min(3, sizes.rounds))
            ours = child([CHILD, "run", stored, file, rounds, str(IMAGE_SECONDS)])
            torch_ = child([CHILD, "eager", name, str(sizes.width), file, rounds])
        speeds = {
            who: found["done"] * deep.steps / Times(tuple(found["seconds"])).median
            for who, found in (("fixedpoint", ours), ("PyTorch", torch_))
        }
        rows.append(
            (
                f"{name}, T={deep.steps}, {ours['done']} samples",
                f"{100 * min(rates.values()):.0f} to {100 * max(rates.values()):.0f} %",
                shown(speeds["fixedpoint"] / speeds["PyTorch"]),
                f"{shown(speeds['fixedpoint'])}",
                f"{shown(speeds['PyTorch'])}",
                f"{ours['peak'] / 1e9:.2f} GB",
                f"{ours['before'] / 1e9:.2f} GB",
                f"{torch_['peak'] / 1e9:.2f} GB",
                f"{shown(ours['load'])} s",
            )
        )
        data[name] = {"rates": rates, "fixedpoint": ours, "PyTorch": torch_}
        claims.append(
            Claim(
                f"{name} runs: sample-steps per second, peak in its table", speeds["fixedpoint"], ""
            )
        )
    head = (
        "network",
        "layers fire",
        "times PyTorch",
        "`fixedpoint`, sample-steps/s",
        "PyTorch, sample-steps/s",
        "`fixedpoint`, peak",
        "before running",
        "PyTorch, peak",
        "loading",
    )
    return Section(
        "Deep networks",
        (
            f"{sizes.width:g} times the papers' channels, random weights, batch norms with statistics of "
            "inputs like these. Each in a process of its own, which loads the program and runs all samples "
            "at once; the first run is left out. PyTorch runs the folded network in float32, all samples "
            "and steps in one batch; its peak includes making the network."
        ),
        table(head, rows),
        data,
        claims,
    )


def measure_images(sizes: Sizes) -> Section:
    """Measure `neurocompile.load(...).run` on a test set of images."""
    images, what = digit_images(sizes.images)
    deep = deep_network("SNN-5", sizes.width)
    program = compiled(deep.network)
    rates = firing_rates(program, images[:8])
    with tempfile.TemporaryDirectory() as directory:
        stored, file = Path(directory) / "program", Path(directory) / "images.npz"
        program.save(stored)
        np.savez(file, input=images)
        found = child([CHILD, "run", stored, file, "1", str(IMAGE_SECONDS)])
    seconds = found["load"] + found["first"]
    complete = found["done"] == len(images)
    told = f"{found['done']} of {len(images)}" + ("" if complete else ", then given up")
    return Section(
        "A test set of images",
        (
            f"`neurocompile.load(...).run` on {what}, T={deep.steps}, in a new process: SNN-5 with "
            f"{sizes.width:g} times the TET paper's channels on 28x28, random weights, layers fire at "
            f"{100 * min(rates.values()):.0f} to {100 * max(rates.values()):.0f} % a step."
        ),
        table(
            ("images", "loading", "first run", "another run", "peak memory"),
            [
                (
                    told,
                    f"{shown(found['load'])} s",
                    f"{shown(found['first'])} s",
                    f"{shown(found['seconds'][0])} s" if complete else "",
                    f"{found['peak'] / 1e9:.2f} GB",
                )
            ],
        ),
        {"images": what, "rates": rates, **found},
        [
            Claim(
                f"{sizes.images} images, SNN-5, T={deep.steps}: load and run",
                seconds,  # or more, where it was given up
                " s",
                most=60,
            )
        ],
    )


def _small_name(sizes: Sizes) -> str:
    return f"{sizes.pixels}x{sizes.pixels} 16C3-32C3s2-FC10"


SECTIONS: tuple[Callable[[Sizes], Section], ...] = (
    measure_throughput,
    measure_one_sample,
    measure_first_result,
    measure_recompiling,
    measure_growth,
    measure_deep,
    measure_images,
)


PAGES = {  # the title of a page, and what makes it
    "engine": ("The engine of `fixedpoint`", "bench"),
    "onnx": ("ONNX Runtime beside the engine", "bench-onnx"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often each case is measured")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest sizes, to see that it runs"
    )
    names = [measure.__name__.removeprefix("measure_") for measure in SECTIONS]
    parser.add_argument("--sections", nargs="+", choices=names, default=names, help="some only")
    parser.add_argument("--name", default="engine", help="of the page: NAME.md and NAME.json")
    parser.add_argument("--output", type=Path, help="where to write the page")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    if options.rounds:
        sizes = replace(sizes, rounds=options.rounds)
    keep_to_threads()
    measured, others = machine(), Others()
    sections = []
    for name, measure in zip(names, SECTIONS, strict=True):
        if name not in options.sections:
            continue
        print(f"{measure.__name__} ...", file=sys.stderr, flush=True)
        sections.append(measure(sizes))
    title, target = PAGES.get(options.name, PAGES["engine"])
    introduction = (
        f"How fast integers run, measured in one go by `make {target}`: cases take turns, "
        "numbers are medians."
    )
    page = report(title, introduction, sections, measured, others.share())
    output = options.output or (None if options.quick else RESULTS)
    write_report(output, options.name, page, sections, measured)


if __name__ == "__main__":
    main()
