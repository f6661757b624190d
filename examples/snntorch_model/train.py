"""
Train a spiking network with snnTorch, export it with snnTorch, and keep what snnTorch fired.

    pip install snntorch nirtorch scikit-learn
    python examples/snntorch_model/train.py FOLDER

Nothing here is neurocompile's: it stands for the model that you have. FOLDER gets

    network.nir   what snnTorch's exporter wrote
    test.npz      `input` (samples, steps, 1, 8, 8) and `label`: images that it was not trained on
    spikes.npz    what its layers `lif1` and `lif2` fired on them, (samples, steps, neurons)

The folder beside this file is such a FOLDER, of snnTorch 1.0.0.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import nir
import numpy as np
import snntorch
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from snntorch.export_nir import export_to_nir

STEPS, HIDDEN, EPOCHS, KEPT = 10, 48, 30, 100


def neurons(count: int) -> Any:
    """Return leaky neurons that subtract their threshold in the step after a spike, as is the default."""
    # The exporter needs one decay and one threshold for each neuron, not one for the layer.
    return snntorch.Leaky(
        beta=torch.full((count,), 0.9),
        threshold=torch.ones(count),
        reset_mechanism="subtract",
        init_hidden=True,
    )


def build() -> Any:
    """Return the network, two layers of neurons; the exporter takes the layers' names from here."""
    return torch.nn.Sequential(
        OrderedDict(
            flatten=torch.nn.Flatten(),
            fc1=torch.nn.Linear(64, HIDDEN),
            lif1=neurons(HIDDEN),
            fc2=torch.nn.Linear(HIDDEN, 10),
            lif2=neurons(10),
        )
    )


def fired(network: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the spikes (samples, steps, neurons) of both layers; every step sees the same image."""
    layers = {"lif1": network.lif1, "lif2": network.lif2}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(lambda _layer, _x, spikes, name=name: seen[name].append(spikes))
        for name, layer in layers.items()
    ]
    for layer in layers.values():
        layer.reset_mem()
    for _ in range(STEPS):
        network(images)
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(spikes, dim=1) for name, spikes in seen.items()}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=360, stratify=labels, random_state=0
    )
    x, y = torch.tensor(train_x), torch.tensor(train_y)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for epoch in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(x)), 64):
            counts = fired(network, x[batch])["lif2"].sum(1)
            loss: Any = torch.nn.functional.cross_entropy(counts, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {float(loss.detach()):.3f}")

    with torch.no_grad():
        spikes = fired(network, torch.tensor(test_x))
        right = spikes["lif2"].sum(1).argmax(1).numpy() == test_y
        print(f"snnTorch: {100 * right.mean():.2f} % of {len(test_y)} test images")
        for layer in (network.lif1, network.lif2):
            layer.reset_mem()
        graph = export_to_nir(network, torch.tensor(test_x[:1]), ignore_dims=[0])
    folder.mkdir(parents=True, exist_ok=True)
    graph.edges = sorted(graph.edges)  # they have no order of their own
    nir.write(folder / "network.nir", graph)
    shown = np.repeat(test_x[:KEPT, np.newaxis], STEPS, axis=1)
    np.savez_compressed(folder / "test.npz", input=shown, label=test_y[:KEPT].astype(np.int64))
    fired_on_kept: dict[str, Any] = {
        name: values[:KEPT].numpy().astype(np.uint8) for name, values in spikes.items()
    }
    np.savez_compressed(folder / "spikes.npz", **fired_on_kept)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python train.py FOLDER")
    main(Path(sys.argv[1]))
