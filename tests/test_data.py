"""DATA: data sets by name, and anyone's .npz files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile import data as data_module
from neurocompile.data import (
    InputRange,
    Samples,
    by_input,
    load_data_set,
    load_samples,
    map_inputs,
    open_split,
    range_of,
    sample_count,
)
from neurocompile.errors import DataError


def test_digits_are_split_1437_to_360_by_class() -> None:
    pytest.importorskip("sklearn")

    data = load_data_set("digits")

    assert data.train.fetch(range(1437)).shape == (1437, 1, 1, 8, 8)
    assert data.test.fetch(range(360)).shape == (360, 1, 1, 8, 8)
    assert data.input_range == InputRange(0, 1, 1 / 16)
    images = data.test.fetch(range(360))
    assert np.array_equal(images * 16, np.rint(images * 16))
    shares = np.bincount(data.test.labels) / np.bincount(data.train.labels)
    assert shares.min() > 0.24
    assert shares.max() < 0.26


def test_the_test_split_is_the_default_for_samples() -> None:
    pytest.importorskip("sklearn")

    assert len(load_samples("digits").inputs) == len(load_samples("digits:test").inputs) == 360
    assert len(load_samples("digits:train").inputs) == 1437


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((6, 8, 9), (6, 1, 1, 8, 9)),
        ((6, 8, 9, 3), (6, 1, 3, 8, 9)),
        ((6, 3, 8, 9), (6, 1, 3, 8, 9)),
        ((6, 16, 8, 8), (6, 1, 16, 8, 8)),
        ((6, 3, 3, 3), (6, 1, 3, 3, 3)),
        ((6, 5, 2, 8, 9), (6, 5, 2, 8, 9)),
    ],
)
def test_images_of_every_layout(
    tmp_path: Path, shape: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=np.arange(6), x_test=images, y_test=np.arange(6))

    data = load_data_set(str(path))

    assert data.train.fetch(range(6)).shape == seen
    assert data.classes == 6
    assert data.input_range == InputRange(0, 1, 1 / 255)
    assert data.train.fetch(range(6)).max() <= 1
    if shape == (6, 8, 9, 3):
        np.testing.assert_allclose(
            data.train.fetch([0])[0, 0, 2], images[0, :, :, 2] / 255, rtol=1e-6
        )


def test_float_images_keep_their_values(tmp_path: Path) -> None:
    images = np.linspace(-0.5, 2, 24).reshape(2, 3, 4)
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=np.arange(2), x_test=images, y_test=np.arange(2))

    assert load_data_set(str(path)).input_range == InputRange(-0.5, 2.0, 0.0)


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_whole_numbers_are_a_grid_of_one(tmp_path: Path, kind: type) -> None:
    frames: NDArray[Any] = np.arange(48).reshape(2, 3, 2, 2, 2).astype(kind)
    path = tmp_path / "data.npz"
    np.savez(path, x_train=frames, y_train=np.arange(2), x_test=frames, y_test=np.arange(2))

    data = load_data_set(str(path))

    assert data.input_range == InputRange(0, 47, 1)
    assert data.steps == 3
    assert np.array_equal(data.train.fetch([1]), frames[1:])


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match="no data set 'cifar': use digits, mnist5k, cifar10, "):
        load_data_set("cifar")


def test_more_samples_than_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(data_module, "MOST_VALUES", 640)

    assert len(load_samples("digits", count=10).inputs) == 10
    with pytest.raises(
        DataError, match="11 samples of 'digits' .* take the first ones with --samp"
    ):
        load_samples("digits", count=11)


def test_ranges_for_calibration(tmp_path: Path) -> None:
    np.savez(tmp_path / "counts.npz", input=np.array([[[1.0, 3.0]]]))
    np.savez(tmp_path / "reals.npz", input=np.array([[[-0.5, 3.0]]]))

    assert range_of(str(tmp_path / "counts.npz")) == (InputRange(0, 3, 1), (2,))
    assert range_of(str(tmp_path / "reals.npz")) == (InputRange(-0.5, 3, 0), (2,))


def test_everything_wrong_with_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(
        path,
        x_train=np.full((2, 3, 3), np.nan),
        y_train=np.array([0.5, 1.0]),
        x_test=np.zeros((2, 3)),
        y_test=np.array([0, -1]),
    )

    with pytest.raises(DataError) as raised:
        load_data_set(str(path))

    text = str(raised.value)
    assert "4 problems" in text
    assert "must be finite, but 18 values are NaN or infinite" in text
    assert "y_train" in text
    assert "must be (N, H, W), (N, H, W, C)" in text
    assert "must be classes from 0 on" in text


@pytest.mark.parametrize("labels", [np.array([-1]), np.array([2**63 + 5], dtype=np.uint64)])
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: NDArray[Any]) -> None:
    np.savez(tmp_path / "in.npz", input=np.zeros((1, 1, 3)), label=labels)

    with pytest.raises(DataError, match="'label' of .* must be classes from 0 on"):
        load_samples(str(tmp_path / "in.npz"))


@pytest.mark.parametrize("name", ["labels", "y", "target", "input_2"])
def test_arrays_of_other_names_are_refused_not_left_out(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in.npz"
    arrays: dict[str, Any] = {"input": np.zeros((2, 1, 3)), name: np.arange(2)}
    np.savez(path, **arrays)

    for read in (load_samples, range_of):
        with pytest.raises(DataError) as raised:
            read(str(path))
        text = str(raised.value)
        assert "must hold inputs, and perhaps their classes as 'label', alone" in text
        assert f"it also holds '{name}'" in text


def test_of_many_unknown_arrays_some_are_named(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"a{number}": np.zeros(1) for number in range(10)}
    np.savez(tmp_path / "in.npz", input=np.zeros((2, 1, 3)), **arrays)

    with pytest.raises(DataError, match="also holds 'a0', .* 'a7' and 2 more: rename or remove"):
        load_samples(str(tmp_path / "in.npz"))


def test_a_file_of_neither_inputs_nor_training_is_told_what_inputs_are_called(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, inputs=np.zeros((2, 1, 3)), label=np.arange(2))

    for read in (load_samples, open_split, range_of):
        with pytest.raises(DataError) as raised:
            read(str(path))
        text = str(raised.value)
        assert text.index("'input' (samples, steps") < text.index("'label'") < text.index("x_train")
        assert "it holds 'inputs', 'label'" in text


def test_a_training_file_without_some_of_its_arrays_is_told_which(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=np.zeros((1, 2, 2)), y_train=[0])

    with pytest.raises(DataError, match="x_test, y_test missing"):
        load_samples(str(tmp_path / "x.npz"))


def test_damaged_archives_are_refused_whatever_breaks(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez_compressed(path, input=np.arange(3000.0).reshape(10, 10, 30))
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 4):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(bytes(damaged))
        with suppress(DataError):
            load_samples(str(path))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(DataError, match="holds one array, not an .npz archive"):
        load_samples(str(path))


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, input=np.array([{}], dtype=object))

    with pytest.raises(DataError, match="is not a readable .npz file.*allow_pickle=False"):
        load_samples(str(path))


def test_inputs_without_a_time_axis_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, input=np.zeros((3, 4)), label=np.zeros(2))

    with pytest.raises(DataError) as raised:
        load_samples(str(path))

    assert r"must have the shape (samples, steps, *input shape), but it has (3, 4)" in str(
        raised.value
    )
    assert "'label'" in str(raised.value)


def test_one_array_is_for_the_only_input() -> None:
    array = np.zeros((2, 3, 4))

    assert by_input(array, ["x"])["x"] is array
    assert by_input({"x": array}, ["x"])["x"] is array
    with pytest.raises(
        DataError, match="the network has the inputs 'x', 'y', but one array is given"
    ):
        by_input(array, ["x", "y"])


def test_named_inputs_come_in_the_order_of_the_network() -> None:
    arrays = {"y": np.zeros((2, 3, 4)), "x": np.ones((2, 3, 1))}

    assert list(by_input(arrays, ["x", "y"])) == ["x", "y"]


def test_everything_wrong_with_named_inputs_is_told() -> None:
    arrays = {"x": np.zeros((2, 3, 4)), "up": np.zeros((2, 4, 4))}

    with pytest.raises(DataError) as raised:
        by_input(arrays, ["x", "y"])

    text = str(raised.value)
    assert "3 problems" in text
    assert "layer 'y' needs an input, but there is none" in text
    assert "there is no input 'up': there are x, y" in text
    assert "inputs need equal samples and steps, but they have {'x': (2, 3), 'up': (2, 4)}" in text


def test_samples_of_several_inputs_are_counted_mapped_and_cut_alike() -> None:
    arrays = {"x": np.arange(6.0).reshape(3, 1, 2), "y": np.arange(3.0).reshape(3, 1, 1)}
    samples = Samples(arrays, np.array([5, 6, 7])).first(2)

    assert sample_count(arrays) == 3
    assert sample_count(samples.inputs) == sample_count(arrays["x"][:2]) == 2
    assert samples.labels is not None
    assert samples.labels.tolist() == [5, 6]
    doubled = map_inputs(lambda values: 2 * values, samples.inputs)
    assert not isinstance(doubled, np.ndarray)
    assert {name: values.ravel().tolist() for name, values in doubled.items()} == {
        "x": [0, 2, 4, 6],
        "y": [0, 2],
    }


def test_inputs_by_name_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    arrays: dict[str, Any] = {
        "input/x": np.zeros((2, 1, 3)),
        "input/a/b": np.ones((2, 1, 1), np.uint8),
    }
    np.savez(path, **arrays)

    inputs = load_samples(str(path)).inputs

    assert not isinstance(inputs, np.ndarray)
    assert list(inputs) == ["x", "a/b"]
    assert inputs["a/b"].dtype == np.float32


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(2, 0, 8), (2, 3, 0, 4, 4), (2, 0, 1, 4, 4), ()])
def test_images_without_pixels_are_refused(
    tmp_path: Path, shape: tuple[int, ...], kind: type
) -> None:
    images: NDArray[Any] = np.zeros(shape, kind)
    labels = np.arange(2)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)

    with pytest.raises(DataError, match=r"x_test of .* must be \(N, H, W\), .* it has shape"):
        load_data_set(str(tmp_path / "x.npz"))


def test_values_that_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    images = np.array([[[0.0, 1e300]]])
    np.savez(tmp_path / "x.npz", x_train=images, y_train=[0], x_test=images, y_test=[0])
    np.savez(tmp_path / "in.npz", input=images)

    for name in ("x.npz", "in.npz"):
        with pytest.raises(DataError, match="must be finite, but 1 values .* infinite as float32"):
            load_samples(str(tmp_path / name))


def test_more_classes_than_can_be_counted_by_pairs_are_refused(tmp_path: Path) -> None:
    images = np.zeros((1, 2, 2))
    np.savez(tmp_path / "x.npz", x_train=images, y_train=[100_000], x_test=images, y_test=[0])

    with pytest.raises(DataError, match="a data set can have 8192 classes, but .* has 100001"):
        load_data_set(str(tmp_path / "x.npz"))


def test_names_of_files_may_hold_colons(tmp_path: Path) -> None:
    path = str(tmp_path / "a:b.npz")
    np.savez(
        path, x_train=np.ones((1, 2, 2)), y_train=[0], x_test=np.zeros((2, 2, 2)), y_test=[0, 1]
    )

    assert len(load_samples(path).inputs) == 2
    assert len(load_samples(f"{path}:train").inputs) == 1
    assert range_of(f"{path}:train")[1] == (1, 2, 2)
