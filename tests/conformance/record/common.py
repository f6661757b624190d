"""
What all recorders share: numbers on a coarse binary grid, checks, and the files that they write.

Recorders run in the environment of one framework, with numpy and nir and nothing of neurocompile. A
recording is one .npz: `nir`, the bytes of the file that the framework's exporter wrote; `input`;
`spikes/NODE` for each spiking layer; `membrane/NODE` as the framework compared it with the threshold,
or `after/NODE` as it was left after the reset, of the first sample; `output`; and what `margins` found.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

SAFE_MARGIN = 1e-4  # of membranes that float32 cannot hold exactly
ATTEMPTS = 200  # to find a seed with safe margins


@dataclass(frozen=True)
class Recorded:
    """
    One network that a framework exported and ran.

    `expected` are the spikes of each layer as the recurrence says that we take the framework to run,
    and `compared` the membranes at which it decided (None: no spikes to decide on). `exact` networks
    have numbers that float32 holds, so that a membrane at the threshold is really at it.
    """

    name: str
    graph: Any
    arrays: Mapping[str, Any]
    expected: Mapping[str, Float] = field(default_factory=dict)
    compared: Mapping[str, tuple[Float, Float]] = field(default_factory=dict)
    exact: bool = True


class Draw:
    """Seeded numbers that are exact in float32, with sums that stay so."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def weights(self, *shape: int, least: int = -3, most: int = 5, unit: float = 0.25) -> Float:
        return np.asarray(self.generator.integers(least, most + 1, shape) * unit, np.float64)

    def spikes(self, *shape: int, rate: float = 0.4) -> Float:
        return (self.generator.random(shape) < rate).astype(np.float64)

    def reals(self, *shape: int, least: float = -0.5, most: float = 1.5) -> Float:
        steps = self.generator.integers(round(least * 8), round(most * 8) + 1, shape)
        return np.asarray(steps / 8, np.float64)


def margins(compared: Mapping[str, tuple[Float, Float]]) -> tuple[int, float]:
    """Return how often a membrane was a multiple of its threshold, and the smallest other distance."""
    ties, least = 0, np.inf
    for membrane, threshold in compared.values():
        multiple = np.maximum(np.rint(membrane / threshold), 1)
        distance = np.abs(membrane - multiple * threshold)
        ties += int((distance == 0).sum())
        least = min(least, float(distance[distance > 0].min(initial=np.inf)))
    return ties, least


def check(recorded: Recorded) -> str:
    """Return why other numbers must be drawn; a framework that runs something else is an error."""
    for name, values in recorded.arrays.items():
        if name.startswith("spikes/") and not 0 < (np.asarray(values) > 0).mean() < 1:
            return f"{name} has all neurons silent, or firing, at all steps"
    ties, margin = margins(recorded.compared)
    if not recorded.exact and (ties or margin < SAFE_MARGIN):
        return f"a membrane is {0 if ties else margin:.1e} from its threshold"
    if recorded.exact and recorded.compared and not ties:
        return "no membrane is at its threshold"
    for name, spikes in recorded.expected.items():
        theirs = np.asarray(recorded.arrays[f"spikes/{name}"], np.float64)
        wrong = int((theirs != spikes).sum())
        if wrong:
            raise AssertionError(
                f"{recorded.name}: {name}: {wrong} of {spikes.size} spikes are not those of the recurrence"
            )
    return ""


def write(folder: Path, recorded: Recorded) -> None:
    """Write a recording, with the same bytes for the same run."""
    _sort_edges(recorded.graph)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "graph.nir"
        nir.write(path, recorded.graph)
        graph = np.frombuffer(path.read_bytes(), np.uint8)
    ties, margin = margins(recorded.compared)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        name: _small(np.asarray(values)) for name, values in recorded.arrays.items()
    }
    for name in arrays:
        if name.startswith(("membrane/", "after/")):
            arrays[name] = arrays[name][:1]
    np.savez_compressed(
        folder / f"{recorded.name}.npz", nir=graph, ties=ties, margin=margin, **arrays
    )


def _sort_edges(graph: Any) -> None:
    """Give edges one order: they have none, and nirtorch's follows the hashes of one process."""
    graph.edges = sorted(graph.edges)
    for node in graph.nodes.values():
        if isinstance(node, nir.NIRGraph):
            _sort_edges(node)


def _small(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in the smallest type that holds them."""
    for kind in (np.uint8, np.int8, np.float16, np.float32):
        small = values.astype(kind)
        if np.array_equal(small.astype(np.float64), values.astype(np.float64)):
            return small
    return values


def record(framework: str, cases: Mapping[str, Callable[[Draw], Recorded]]) -> None:
    """Run the recorder of a framework from the command line."""
    parser = argparse.ArgumentParser(description=f"Record networks of {framework}")
    parser.add_argument("folder", type=Path, help="where the recordings go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="the cases to record")
    options = parser.parse_args()
    for name, case in cases.items():
        if options.only and name not in options.only:
            continue
        for attempt in range(ATTEMPTS):
            recorded = case(Draw(options.seed + 1000 * attempt))
            reason = check(recorded)
            if not reason:
                break
        else:
            raise SystemExit(f"{framework} {name}: no numbers to record: {reason}")
        write(options.folder / framework, recorded)
        ties, margin = margins(recorded.compared)
        counts = _rates(recorded.arrays)
        print(f"{framework} {name}: {ties} ties, margin {margin:.3g}, spikes per step {counts}")


def _rates(arrays: Mapping[str, Any]) -> str:
    rates: Iterable[str] = (
        f"{name.removeprefix('spikes/')} {np.asarray(values).mean():.2f}"
        for name, values in arrays.items()
        if name.startswith("spikes/")
    )
    return ", ".join(rates)
