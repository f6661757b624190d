from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from neurocompile.page import exhibits as packing
from neurocompile.verification.report import Exhibit, Report


def decoded(layer: dict[str, Any], stage: str) -> NDArray[np.int64]:
    """Read what a page would: (neurons, steps)."""
    raw = base64.b64decode(layer["spikes"][stage])
    count = len(layer["rows"]) * layer["steps"]
    if layer["graded"]:
        values = np.frombuffer(raw, "<i2")
    else:
        values = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    return values[:count].astype(np.int64).reshape(-1, layer["steps"])


def shown(stages: dict[str, NDArray[Any]], changed: Callable[..., Report]) -> Any:
    exhibit = Exhibit(0, None, {name: {"lif1": spikes} for name, spikes in stages.items()}, {}, {})
    packed = packing.pack_exhibits(changed(exhibits=(exhibit,)))
    assert packed is not None
    (layer,) = packed.data["samples"][0]["layers"]
    return layer


def test_spikes_are_packed_by_neuron_and_step(renamed: Callable[..., Report]) -> None:
    torch = np.array([[1, 0, 1], [0, 0, 1]], np.uint8)  # (steps, neurons)
    chip = np.array([[1, 1, 0], [0, 0, 1]], np.uint8)

    layer = shown({"torch": torch, "loihi2": chip}, renamed)

    assert (layer["neurons"], layer["steps"], layer["rows"]) == (3, 2, [0, 1, 2])
    assert layer["spikes"]["torch"] == base64.b64encode(bytes([0b110001])).decode()
    assert layer["counts"][0] == [1, 1, 2, 0]  # one missing, one extra, two neurons differ
    assert decoded(layer, "loihi2").tolist() == [[1, 0], [1, 0], [0, 1]]


def test_graded_spikes_keep_their_numbers(renamed: Callable[..., Report]) -> None:
    torch, chip = np.array([[3, 0]], np.uint8), np.array([[300, 1]], np.uint16)

    layer = shown({"torch": torch, "loihi2": chip}, renamed)

    assert layer["graded"]
    assert decoded(layer, "torch").tolist() == [[3], [0]]
    assert decoded(layer, "loihi2").tolist() == [[300], [1]]
    assert layer["counts"][0] == [0, 1, 2, 1]  # 0 to 1 is extra, 3 to 300 another number


@given(st.data())
def test_what_is_packed_comes_out_again(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 300)))
    bits = arrays(np.uint8, shape, elements=st.integers(0, 1), fill=st.just(0))
    torch, chip = data.draw(bits), data.draw(bits)
    exhibit = Exhibit(0, None, {"torch": {"l": torch}, "loihi2": {"l": chip}}, {}, {})

    layer = packing._layer(exhibit, "l", [("torch", "loihi2")], packing.LARGEST)

    rows = layer["rows"]
    assert len(rows) == min(shape[1], packing.MOST_ROWS)
    assert np.array_equal(decoded(layer, "torch"), torch.T[rows])
    assert np.array_equal(decoded(layer, "loihi2"), chip.T[rows])
    differing = np.flatnonzero((torch != chip).any(0))
    assert set(differing) <= set(rows) or set(rows) <= set(differing)


def test_large_layers_show_what_differs_first(renamed: Callable[..., Report]) -> None:
    torch = np.zeros((4, 5000), np.uint8)
    chip = torch.copy()
    chip[2, 4321] = chip[1, 17] = 1

    layer = shown({"torch": torch, "loihi2": chip}, renamed)

    assert len(layer["rows"]) == packing.MOST_ROWS
    assert {17, 4321} <= set(layer["rows"])
    assert layer["differing"] == 2


def test_a_page_holds_a_bounded_amount_of_spikes(renamed: Callable[..., Report]) -> None:
    many = {f"l{at}": np.ones((600, 200), np.uint16) * 2 for at in range(40)}
    some = tuple(Exhibit(at, None, {"torch": many, "loihi2": many}, {}, {}) for at in range(3))

    packed = packing.pack_exhibits(renamed(exhibits=some))

    assert packed is not None
    size = sum(
        len(spikes)
        for sample in packed.data["samples"]
        for layer in sample["layers"]
        for spikes in layer["spikes"].values()
    )
    assert size <= packing.LARGEST
    assert packed.left_out == "2 samples more did not fit into the page."
    assert packed.data["samples"][0]["layers"][0]["all_steps"] == 600


def test_without_exhibits_there_is_nothing_to_pack(bare: Report) -> None:
    assert packing.pack_exhibits(bare) is None


def test_negative_spikes_keep_their_sign(renamed: Callable[..., Report]) -> None:
    torch, chip = np.array([[-1, 1]], np.int32), np.array([[1, 1]], np.int32)

    layer = shown({"torch": torch, "loihi2": chip}, renamed)

    assert decoded(layer, "torch").tolist() == [[-1], [1]]
    assert layer["counts"][0] == [0, 0, 1, 1]
