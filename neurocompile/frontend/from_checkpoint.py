"""
From a trained checkpoint to a folded NIR graph, proving each step on the way.

    folding    batch norms into weights, adaptive pools into plain ones: the logits before and after
               agree within 1e-5 wherever no spike flipped;
               the flips are counted
    NIR        the file is read back through our importer, rebuilt in PyTorch and run: its spikes are
               identical to the folded network's, or there is no export

A network that was trained in integers is folded already. Its file holds these integers, each times its
unit, and what is compiled from them fires the spikes of the PyTorch network, or there is no export.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocompile.errors import EquivalenceError, Problem, ProgramFormatError, raise_all
from neurocompile.frontend.folded_graph import fold_body
from neurocompile.frontend.from_nir import Imported
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.frontend.to_torch import to_torch
from neurocompile.ir import Network
from neurocompile.program import REFERENCE, Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.target import Progress
from neurocompile.tensors import npz_bytes
from neurocompile.training.checkpoint import Trained, load_checkpoint, rebuild
from neurocompile.training.networks import SpikingNetwork, spikes_of, weights_of
from neurocompile.training.quantised import QuantisedBody, program_of
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
    if isinstance(trained.network.body, QuantisedBody):
        content, imported, folding = _in_integers(trained, trained.network.body)
    else:
        content, imported, folding = _in_real_numbers(trained)
    state = {name: values.numpy() for name, values in trained.network.state_dict().items()}
    return FoldedGraph(
        nir=content,
        imported=imported,
        folding=folding,
        reference={REFERENCE: npz_bytes(state)},
        description=trained.description(),
    )


def _in_real_numbers(trained: Trained) -> tuple[bytes, Imported, dict[str, Any]]:
    """Return the file of a folded network, what it means, and what folding did."""
    shape = trained.network.input_shape
    folded = fold_body(
        trained.network.body,
        shape,
        steps=trained.steps,
        input_range=trained.input_range,
        time_weights=weights_of(trained.network),
    )
    network = folded.imported.network
    probe = _probe(trained, network)
    after = spikes_of(SpikingNetwork(folded.body, shape), probe)
    folding = _compare_folding(spikes_of(trained.network, probe), after)
    _prove_file(after, spikes_of(to_torch(network), probe))
    return folded.nir, folded.imported, folding


def _in_integers(trained: Trained, body: QuantisedBody) -> tuple[bytes, Imported, dict[str, Any]]:
    """Return the file of a network of integers, what it means, and how its program was compared."""
    network = body.rounded()
    probe = _probe(trained, network)
    program = program_of(network, Recipe(body.integers.weight_bits), body.integers.steps)
    output, spikes = spikes_of(trained.network, probe)
    result = program.run(probe.numpy(), "all", on="fixedpoint")
    fired = {name: torch.from_numpy(values) for name, values in result.spikes.items()}
    _prove_same("in integers", (output, spikes), (torch.from_numpy(result.output), fired))
    folding = {
        "probe_samples": len(probe),
        "spikes_compared": sum(values.numel() for values in spikes.values()),
        "spikes_flipped": 0,
        "samples_with_flips": 0,
        "largest_logit_difference_without_flips": 0.0,
    }
    told = {"integers": f"kept, as they were trained with {body.integers.weight_bits} bits"}
    weights = weights_of(trained.network)
    return network_to_nir(network, weights), Imported(network, told, weights), folding


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
    steps = trained.steps
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
    _prove_same("from the NIR file", folded, read)


def _prove_same(how: str, trained: Shown, made: Shown) -> None:
    """Raise `EquivalenceError` unless what was made of a network shows what that did."""
    output, spikes = trained
    read_output, read_spikes = made
    problems = [
        Problem(
            name,
            f"must fire the same spikes {how}",
            f"{wrong} of {values.numel()} differ",
        )
        for name, values in spikes.items()
        if (wrong := int((values != read_spikes[name]).sum()))
    ]
    if not torch.equal(output, read_output):
        largest = float((output - read_output).abs().max())
        problems.append(
            Problem("", f"logits must be the same {how}", f"they differ by {largest:.3g}")
        )
    raise_all(EquivalenceError, problems)
