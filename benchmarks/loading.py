"""
Does loading limit training? Batches of cached frames beside the training step that takes them.

The frames are of CIFAR10-DVS's shape (T=10, 2x48x48), in a file as the cache writes it, flipped and rolled
as in the TET paper; the step is VGGSNN's with the TET loss and Adam, batch normalisation included. Images
are of CIFAR-10's shape, cropped and flipped. One process loads, without workers, so that loading and the
step cannot share time; with `input.workers` they do. Writes `benchmarks/results/loading.md`.

    python benchmarks/loading.py [--rounds 5] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import (
    RESULTS,
    Claim,
    Others,
    Section,
    Times,
    interleave,
    machine,
    report,
    shown,
    table,
    timed,
    write_report,
)
from torch.utils.data import DataLoader

from neurocompile.data import DataSet, InputRange, Source, Split, Stored
from neurocompile.datasets.cache import FrameFile
from neurocompile.training.config import TrainSettings, resolve
from neurocompile.training.loading import loaders
from neurocompile.training.losses import loss_of
from neurocompile.training.networks import build

PIXELS = InputRange(0.0, 1.0, 1 / 255)
MOST_SHARE = 5  # % of a training step that loading its batch may take
FRAMES, IMAGES = (10, 2, 48, 48), (1, 3, 32, 32)


@dataclass(frozen=True)
class Sizes:
    """How often is measured, on how many samples, and how large network and batch are."""

    rounds: int = 5
    samples: int = 512
    batch: int = 8
    width: float = 1.0


QUICK = Sizes(rounds=1, samples=32, batch=2, width=0.125)


@dataclass(frozen=True)
class Case:
    """Samples as a loader makes them, and how they are changed."""

    name: str
    data: DataSet
    settings: TrainSettings

    def loader(self) -> DataLoader[Any]:
        batches, _ = loaders(self.data, self.settings)
        return batches


def cases(folder: Path, sizes: Sizes) -> list[Case]:
    """Return frames in a file in `folder`, and images in memory."""
    draw = np.random.default_rng(0)
    path = folder / "frames.npy"
    np.save(path, (draw.random((sizes.samples, *FRAMES)) < 0.1).astype(np.uint8))
    images = draw.integers(0, 256, (sizes.samples, *IMAGES), dtype=np.uint8)
    made = []
    for name, preset, source, shape in (
        ("event frames, flip and roll", "cifar10dvs-vggsnn-tet", FrameFile(path), FRAMES),
        ("images, crop and flip", "cifar10-resnet19-tet", Stored(images), IMAGES),
    ):
        settings = resolve(
            preset=preset,
            overrides=["input.workers=0", f"network.width={sizes.width}"],
            batch_size=sizes.batch,
        )
        made.append(Case(name, _data_set(name, source, shape, sizes.samples), settings))
    return made


def _data_set(name: str, source: Source, shape: tuple[int, ...], samples: int) -> DataSet:
    split = Split(np.arange(samples) % 10, source, 255)
    return DataSet(name, lambda _: split, 10, shape[1:], PIXELS, steps=shape[0])


def training_step(case: Case) -> Callable[[], object]:
    """Return a step on one batch, as often as it is called: forward, backward and Adam."""
    steps = case.settings.timesteps
    network = build(case.settings, case.data.input_shape, case.data.classes)
    optimiser = torch.optim.Adam(network.parameters(), case.settings.learning_rate)
    loss = loss_of(case.settings.loss, 0)
    inputs, labels = next(iter(case.loader()))
    if inputs.shape[1] == 1:
        inputs = inputs.expand(-1, steps, *inputs.shape[2:])

    def step() -> None:
        optimiser.zero_grad()
        loss(network(inputs), labels).backward()  # type: ignore[no-untyped-call]  # in PyTorch
        optimiser.step()

    return step


def epoch(case: Case) -> Callable[[], object]:
    """Return what takes all batches of an epoch."""
    batches = case.loader()

    def take() -> None:
        for _ in batches:
            pass

    return take


def measure(found: list[Case], sizes: Sizes) -> Section:
    """Return what loading a batch takes beside the step that it is for."""
    actions = {}
    for case in found:
        actions[f"{case.name}: loading"] = timed(epoch(case))
        actions[f"{case.name}: step"] = timed(training_step(case))
    times = interleave(actions, sizes.rounds)
    rows, claims, data = [], [], {}
    for case in found:
        loading, step = (times[f"{case.name}: {what}"] for what in ("loading", "step"))
        frames = sizes.samples * case.settings.timesteps / loading.median
        a_batch = loading.median * sizes.batch / sizes.samples
        share = 100 * a_batch / step.median
        claims.append(Claim(f"loading beside a step: {case.name}", share, " %", most=MOST_SHARE))
        claims.append(Claim(f"samples a second: {case.name}", sizes.samples / loading.median, ""))
        data[case.name] = {"frames_a_second": frames, "share_of_step": share}
        rows.append(_row(case, sizes, a_batch, step))
    head = ("samples", "network", "batch", "loading a batch", "a step", "its spread")
    text = "One process loads and trains, one after the other; shares are of medians."
    return Section("Batches and steps", text, table(head, rows), data, claims)


def _row(case: Case, sizes: Sizes, a_batch: float, step: Times) -> tuple[str, ...]:
    network = f"{case.settings.network.name}, T={case.settings.timesteps}"
    return (
        case.name,
        network,
        str(sizes.batch),
        f"{shown(1000 * a_batch)} ms",
        f"{shown(1000 * step.median)} ms",
        step.spread,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often each case is measured")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest sizes, to see that it runs"
    )
    parser.add_argument("--output", type=Path, help="where to write loading.md and .json")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    if options.rounds:
        sizes = replace(sizes, rounds=options.rounds)
    about, others = machine(), Others()
    with tempfile.TemporaryDirectory() as directory:
        section = measure(cases(Path(directory), sizes), sizes)
    introduction = (
        "Batches beside the training steps that take them: cases take turns, numbers are medians."
    )
    page = report("Loading", introduction, [section], about, others.share())
    output = options.output or (None if options.quick else RESULTS)
    write_report(output, "loading", page, [section], about)


if __name__ == "__main__":
    main()
