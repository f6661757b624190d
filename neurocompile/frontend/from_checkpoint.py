"""
From a trained checkpoint to a folded NIR graph, proving each step on the way.

    folding    batch norms into weights, adaptive pools into plain ones: the logits before and after
               agree within 1e-5 wherever no spike flipped;
               the flips are counted
    NIR        the file is read back through our importer, rebuilt in PyTorch and run: its spikes are
               identical to the folded network's, or there is no export
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocompile.errors import EquivalenceError, Problem, ProgramFormatError, raise_all
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.frontend.plain_pools import plain_pools
from neurocompile.frontend.to_nir import to_nir, write_nir
from neurocompile.frontend.to_torch import to_torch
from neurocompile.ir import Network
from neurocompile.program import GRAPH, REFERENCE, Program
from neurocompile.target import Progress
from neurocompile.tensors import npz_bytes
from neurocompile.training.checkpoint import Trained, load_checkpoint, rebuild
from neurocompile.training.networks import SpikingNetwork, spikes_of, trace
from neurocompile.validation import affordable_samples

PROBE_SAMPLES = 32
FEWEST_SAMPLES = 2  # of networks whose samples are long: each compares millions of spikes
PROBE_MULTIPLICATIONS = 3e10  # of one run of the probe: about a second
PROBE_SEED = 20260214
LOGIT_TOLERANCE = 1e-5
SAMPLES_AT_ONCE = 128

Shown = tuple[torch.Tensor, dict[str, torch.Tensor]]  # a network's outputs, and spikes by layer


@dataclass(frozen=True)
class FoldedGraph:
    """A folded network as a NIR file's bytes, as we read it back, and what folding did."""

    nir: bytes
    imported: Imported
    folding: Mapping[str, Any]
    reference: Mapping[str, bytes]
    description: Mapping[str, Any]


def from_checkpoint(source: Path) -> FoldedGraph:
    """
    Return the folded graph of a run directory or checkpoint file.

    Raises `EquivalenceError` if folding or writing changed the network.
    """
    trained = load_checkpoint(source)
    shape = trained.network.input_shape
    body = plain_pools(fold_batchnorm(trace(trained.network.body), input_shape=shape), shape)
    folded = SpikingNetwork(body, shape)
    graph = to_nir(
        body,
        shape,
        steps=trained.settings.timesteps,
        input_range=trained.input_range,
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / GRAPH
        write_nir(path, graph)
        content = path.read_bytes()
        imported = from_nir(path)
    probe = _probe(trained, imported.network)
    after = spikes_of(folded, probe)
    folding = _compare_folding(spikes_of(trained.network, probe), after)
    _prove_file(after, spikes_of(to_torch(imported.network), probe))
    state = {name: values.numpy() for name, values in trained.network.state_dict().items()}
    return FoldedGraph(
        nir=content,
        imported=imported,
        folding=folding,
        reference={REFERENCE: npz_bytes(state)},
        description={
            "settings": trained.settings.model_dump(mode="json"),
            "input_shape": list(shape),
            "classes": trained.classes,
            "input_range": trained.input_range.to_json(),
        },
    )


def run_reference(
    program: Program, inputs: NDArray[Any], progress: Progress
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.uint8]]]:
    """Return O(t) and the spikes of the trained PyTorch network that `program` was made from."""
    try:
        with np.load(io.BytesIO(program.extra_files[REFERENCE]), allow_pickle=False) as file:
            state = {name: torch.from_numpy(file[name]) for name in file}
        network = rebuild(dict(program.facts["reference"]), state).network
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ProgramFormatError(
            Problem(
                "", f"the program's '{REFERENCE}' is not the network that it describes ({error})"
            )
        ) from error
    outputs, layers = [], []
    for start in range(0, len(inputs), SAMPLES_AT_ONCE):
        part = torch.from_numpy(inputs[start : start + SAMPLES_AT_ONCE].astype(np.float32))
        output, spikes = spikes_of(network, part)
        outputs.append(output.double().numpy())
        layers.append({name: values.to(torch.uint8).numpy() for name, values in spikes.items()})
        progress(start + len(part), len(inputs))
    return np.concatenate(outputs), {
        name: np.concatenate([layer[name] for layer in layers]) for name in layers[0]
    }


def _probe(trained: Trained, network: Network) -> torch.Tensor:
    """Return random inputs over the whole range of values that the network can see."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    steps = trained.settings.timesteps
    samples = affordable_samples(
        network,
        steps=steps,
        least=FEWEST_SAMPLES,
        most=PROBE_SAMPLES,
        multiplications=PROBE_MULTIPLICATIONS,
    )
    shape = (samples, steps, *trained.network.input_shape)
    values = torch.rand(shape, generator=generator)
    limits = trained.input_range
    values = limits.minimum + values * (limits.maximum - limits.minimum)
    return torch.round(values / limits.step) * limits.step if limits.step else values


def _compare_folding(unfolded: Shown, folded: Shown) -> dict[str, Any]:
    """Return how folding changed what the trained network shows; raises `EquivalenceError`."""
    before, spikes_before = unfolded
    after, spikes_after = folded
    flipped = torch.zeros(len(before), dtype=torch.bool)
    flips = slots = 0
    for name, spikes in spikes_before.items():
        differs = spikes != spikes_after[name]
        flips += int(differs.sum())
        slots += differs.numel()
        flipped |= differs.flatten(1).any(1)
    difference = (before - after).abs().flatten(1).max(1).values[~flipped]
    largest = float(difference.max()) if len(difference) else 0.0
    if largest > LOGIT_TOLERANCE * max(1.0, float(before.abs().max())):
        raise EquivalenceError(
            Problem(
                "",
                f"folding may change logits by {LOGIT_TOLERANCE}",
                f"it changed them by {largest:.3g}",
            )
        )
    return {
        "probe_samples": len(before),
        "spikes_compared": slots,
        "spikes_flipped": flips,
        "samples_with_flips": int(flipped.sum()),
        "largest_logit_difference_without_flips": largest,
    }


def _prove_file(folded: Shown, read: Shown) -> None:
    """Raise `EquivalenceError` unless the file shows what the folded network does."""
    output, spikes = folded
    read_output, read_spikes = read
    problems = [
        Problem(
            name,
            "must fire the same spikes from the NIR file",
            f"{wrong} of {values.numel()} differ",
        )
        for name, values in spikes.items()
        if (wrong := int((values != read_spikes[name]).sum()))
    ]
    if not torch.equal(output, read_output):
        largest = float((output - read_output).abs().max())
        problems.append(
            Problem("", "the NIR file must give the same logits", f"they differ by {largest:.3g}")
        )
    raise_all(EquivalenceError, problems)
