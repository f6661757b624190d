"""Public NIR files of other frameworks, read as their description says; malformed ones refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurocompile.errors import NirFormatError, UnsupportedError
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.ir import LIF, Conv2d, Dense
from neurocompile.reference import simulate

FILES: dict[str, dict[str, Any]] = {
    "lif_norse": {"profile": "norse", "dt": 1e-4, "reset": "zero"},
    "two_lif_neurons": {"profile": "literal", "dt": 1e-4, "reset": "zero"},
    "cnn_sinabs": {"profile": "sinabs", "max_spikes": 1, "min_membrane": "none"},
    "brandy_10": {"profile": "sinabs", "max_spikes": "any", "min_membrane": "threshold"},
    "brandy_100": {"profile": "sinabs", "max_spikes": "any", "min_membrane": "threshold"},
    "braille_noDelay_bias_zero": {"profile": "snntorch", "reset": "zero", "reset_at": "spike"},
    "braille_noDelay_noBias_subtract": {
        "profile": "snntorch",
        "reset": "subtract",
        "reset_at": "next",
    },
    "braille_zero_nested_subgraph": {"profile": "snntorch", "reset": "zero", "reset_at": "spike"},
}


def read(folder: Path, name: str) -> Imported:
    return from_nir(folder / f"nir/{name}.nir", **FILES[name])


def test_every_file_is_known(shared_data: Path) -> None:
    assert {path.stem for path in (shared_data / "nir").glob("*.nir")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_read_and_runs(shared_data: Path, name: str) -> None:
    network = read(shared_data, name).network
    shape = network.shapes[next(iter(network.nodes))]
    values = np.random.default_rng(0).integers(0, 2, (1, 3, *shape))

    trace = simulate(network, values)

    assert trace.output.shape == (
        1,
        3,
        *network.shapes["out" if name.startswith("two") else "output"],
    )
    assert network.of_type(LIF)
    assert network.of_type(Dense | Conv2d)


@pytest.mark.parametrize("name", FILES)
def test_no_file_says_how_its_neurons_reset(shared_data: Path, name: str) -> None:
    """All were written before NIR stored a reset voltage."""
    with pytest.raises(UnsupportedError, match="--reset zero or --reset subtract"):
        from_nir(
            shared_data / f"nir/{name}.nir",
            profile="literal",
            dt=1e-4 if "sinabs" not in FILES[name].values() else 1.0,
        )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("braille_subgraph_dangling_edge", "edge lif1.lin -> lif1.lif needs a node 'lif1.lif'"),
        (
            "conv_without_input_shape",
            r"layer '10' needs parameters of the shape \(256,\) of its input, .*have the shape \(1, 256\)",
        ),
    ],
)
def test_malformed_files_are_refused(shared_data: Path, name: str, text: str) -> None:
    with pytest.raises(NirFormatError, match=text):
        from_nir(
            shared_data / f"nir/malformed/{name}.nir", profile="literal", dt=1e-4, reset="zero"
        )


def test_old_files_whose_meaning_is_clear_are_read(shared_data: Path) -> None:
    """nir 1.0.8 refuses this one: its neurons have one number for all of a known shape."""
    path = shared_data / "nir/malformed/lif_scalar_params_v0_1_1.nir"

    node = from_nir(path, profile="literal", dt=1e-4, reset="zero").network.nodes["lif"]

    assert isinstance(node, LIF)
    assert node.shape == (1000,)
    assert len(np.unique(node.threshold)) == 1


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_read_without_its_framework(shared_data: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match="choose with --profile; the numbers fit"):
        from_nir(shared_data / f"nir/{name}.nir")


def test_the_nested_braille_reader_is_its_flat_twin(shared_data: Path) -> None:
    flat = read(shared_data, "braille_noDelay_bias_zero")
    nested = read(shared_data, "braille_zero_nested_subgraph")
    twins = {
        "fc1": "fc1",
        "lif1.lif": "lif1.lif1",
        "lif1.w_rec": "lif1.lin",
        "fc2": "fc2",
        "lif2": "lif2",
    }

    for one, two in twins.items():
        first, second = vars(flat.network.nodes[one]), vars(nested.network.nodes[two])
        assert first.keys() == second.keys()
        for field, values in first.items():
            assert np.array_equal(values, second[field]), (one, field)
    assert flat.inferred["feedback"] == "lif1.lif -> lif1.w_rec, one step later"
    assert nested.inferred["feedback"] == "lif1.lif1 -> lif1.lin, one step later"

    values = np.random.default_rng(0).integers(0, 2, (4, 100, 12))
    ours, theirs = simulate(flat.network, values), simulate(nested.network, values)
    for one, two in (("lif1.lif", "lif1.lif1"), ("lif2", "lif2")):
        assert np.array_equal(ours.spikes[one], theirs.spikes[two])
        assert 0 < ours.spikes[one].mean() < 1


def test_the_braille_reader_follows_its_source(shared_data: Path) -> None:
    """snnTorch: i = alpha i + fc1 x + rec last; v = beta v + i; a spike above 1 sets v to 0."""
    network = read(shared_data, "braille_noDelay_bias_zero").network
    fc1, rec = network.nodes["fc1"], network.nodes["lif1.w_rec"]
    assert isinstance(fc1, Dense)
    assert isinstance(rec, Dense)
    alpha, beta = 1 - 1e-4 / 0.0002222222281091009, 1 - 1e-4 / 0.0009999997615814777
    values = np.random.default_rng(1).integers(0, 2, (1, 60, 12))

    spikes = simulate(network, values).spikes["lif1.lif"][0]

    i, v, last = np.zeros(38), np.zeros(38), np.zeros(38)
    for step, x in enumerate(values[0]):
        i = alpha * i + fc1.weight @ x + fc1.bias + rec.weight @ last + rec.bias
        u = beta * v + i
        last = (u > 1).astype(float)
        v = u * (1 - last)
        assert spikes[step].tolist() == last.tolist()
    assert 0 < spikes.mean() < 1
