"""Linear maps: every composition and sum against matrices, and what stays a convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocompile.integer import Shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Dense,
    Flatten,
    Node,
    Pool2d,
    Reshape,
    Scale,
    output_shape,
)
from neurocompile.linear import (
    Diagonal,
    Map,
    Matrix,
    TooLargeError,
    Window,
    added,
    compose,
    compose_matrices,
    identity,
    map_of,
    masked,
    matrix_of,
    operator_of,
)
from neurocompile.reference import apply_stateless

Real = NDArray[np.float64]


def written_out(linear: Map) -> Real:
    """Return the matrix of a map, column by column, through the definition of its operations."""
    match linear:
        case Matrix():
            return linear.weight
        case Diagonal():
            return np.eye(linear.sizes[0]) * linear.scale.reshape(-1)
        case Window():
            basis = np.eye(linear.sizes[1]).reshape(-1, *linear.source)
            return apply_stateless(linear.conv, basis).reshape(linear.sizes[1], -1).T


class Maps:
    """Draws maps of small integers, so that float64 computes every sum exactly."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))

    def choose(self, label: str, *options: Any) -> Any:
        return self.data.draw(st.sampled_from(options), label=label)

    def integers(self, *shape: int) -> Real:
        """Return integers from 1 on: nothing cancels, so that equal maps are no accident."""
        return self.generator.integers(1, 9, shape).astype(np.float64)

    def image(self) -> Shape:
        return (self.choose("channels", 1, 2, 4), self.choose("h", 3, 5, 6), self.choose("w", 3, 4))

    def window(self, source: Shape) -> Window:
        groups = self.choose("groups", *[g for g in {1, 2, source[0]} if source[0] % g == 0])
        kernel = [self.choose("kernel", *[k for k in (1, 2, 3) if k <= n]) for n in source[1:]]
        dilation = [
            self.choose("dilation", 1, 2) if 2 * k - 1 <= n else 1
            for k, n in zip(kernel, source[1:], strict=True)
        ]
        conv = Conv2d(
            self.integers(groups * self.choose("out", 1, 2), source[0] // groups, *kernel),
            np.zeros(1),
            (self.choose("stride", 1, 2, 3), self.choose("stride", 1, 2)),
            (self.choose("padding", 0, 1, 2), self.choose("padding", 0, 1)),
            (dilation[0], dilation[1]),
            groups,
        )
        conv = replace(conv, bias=np.zeros(len(conv.weight)))
        return Window(conv, source, output_shape(conv, source))

    def diagonal(self, shape: Shape) -> Diagonal:
        kinds: dict[str, Shape] = {"one": (), "each": shape}
        if len(shape) == 3:
            kinds["channel"] = (shape[0], 1, 1)
        factors = self.integers(*kinds[self.choose("factors", *kinds)])
        return Diagonal(
            np.broadcast_to(factors, shape if factors.ndim else ()).astype(np.float64), shape
        )

    def any(self, source: Shape) -> Map:
        kind = self.choose("kind", "window", "diagonal", "matrix")
        if kind == "window" and len(source) == 3:
            return self.window(source)
        if kind == "matrix":
            return Matrix(self.integers(3, int(np.prod(source))))
        return self.diagonal(source)


def target_of(linear: Map) -> Shape:
    match linear:
        case Window():
            return linear.target
        case Diagonal():
            return linear.shape
        case Matrix():
            return (len(linear.weight),)


@given(data=st.data())
def test_a_composition_is_the_product_of_the_matrices(data: Any) -> None:
    maps = Maps(data)
    first = maps.any(maps.image())
    second = maps.any(target_of(first))

    both = compose(second, first)

    product = written_out(second) @ written_out(first)
    assert both.sizes == product.shape
    np.testing.assert_array_equal(written_out(both), product)
    np.testing.assert_array_equal(matrix_of(both), product)
    np.testing.assert_array_equal(compose_matrices(second, first).weight, product)


@given(data=st.data())
def test_two_convolutions_stay_one_unless_the_padding_between_them_shows(data: Any) -> None:
    """They do not where a window of the first, just outside its result, would see a pixel."""
    maps = Maps(data)
    first = maps.window(maps.image())
    second = maps.window(first.target)

    both = compose(second, first)

    seen = False
    for axis in (0, 1):
        conv = first.conv
        reach = (conv.weight.shape[2 + axis] - 1) * conv.dilation[axis]
        for outside in (-1, first.target[1 + axis]):
            start = outside * conv.stride[axis] - conv.padding[axis]
            overlaps = start < first.source[1 + axis] and start + reach >= 0
            seen = seen or (overlaps and second.conv.padding[axis] > 0)
    assert isinstance(both, Matrix if seen else Window)
    np.testing.assert_array_equal(written_out(both), written_out(second) @ written_out(first))


def test_two_convolutions_in_a_row_by_hand() -> None:
    """[1, 2] at stride 2, then [3, 4] dilated by 2: taps 4 apart, stride 2, and 1 at the edge."""
    first = Conv2d(np.array([[[[1.0, 2.0]]]]), np.zeros(1), (1, 2), (0, 1))
    second = Conv2d(np.array([[[[3.0, 4.0]]]]), np.zeros(1), dilation=(1, 2))

    both = compose(Window(second, (1, 1, 5), (1, 1, 3)), Window(first, (1, 1, 8), (1, 1, 5)))

    assert isinstance(both, Window)
    assert both.conv.weight.ravel().tolist() == [3, 6, 0, 0, 4, 8]
    assert (both.conv.stride, both.conv.padding, both.conv.dilation) == ((1, 2), (0, 1), (1, 1))


def test_groups_multiply_out_only_where_they_must() -> None:
    """A pool keeps the groups of what follows; other groups become one."""
    maps = np.random.default_rng(0)
    weight = maps.normal(size=(4, 2, 1, 1))
    pool = map_of(Pool2d((2, 2), (2, 2)), (4, 4, 4))
    assert isinstance(pool, Window)
    grouped = map_of(Conv2d(weight, np.zeros(4), groups=2), (4, 2, 2))
    full = map_of(Conv2d(maps.normal(size=(4, 4, 1, 1)), np.zeros(4)), (4, 2, 2))

    after_pool, mixed = compose(grouped, pool), compose(full, grouped)

    assert isinstance(after_pool, Window)
    assert isinstance(mixed, Window)
    assert (after_pool.conv.groups, after_pool.conv.weight.shape) == (2, (4, 2, 2, 2))
    assert (mixed.conv.groups, mixed.conv.weight.shape) == (1, (4, 4, 1, 1))


@given(data=st.data())
def test_a_sum_is_the_sum_of_the_matrices_or_none(data: Any) -> None:
    maps = Maps(data)
    source = maps.image()
    one = maps.any(source)
    other: Map
    if isinstance(one, Window) and maps.choose("alike", True, False):
        other = replace(one, conv=replace(one.conv, weight=maps.integers(*one.conv.weight.shape)))
    else:
        other = maps.any(source)

    total = added(one, other) if one.sizes == other.sizes else None

    if total is not None:
        np.testing.assert_array_equal(written_out(total), written_out(one) + written_out(other))
    else:
        assert type(one) is not type(other) or isinstance(one, Window) or one.sizes != other.sizes


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (1, 2)},
        {"padding": (1, 0), "weight": np.ones((2, 2, 5, 3))},
        {"dilation": (2, 1), "weight": np.ones((2, 2, 2, 3))},
        {"groups": 2, "weight": np.ones((2, 1, 3, 3))},
    ],
)
def test_convolutions_that_slide_differently_are_not_added(changes: dict[str, Any]) -> None:
    conv = Conv2d(np.ones((2, 2, 3, 3)), np.zeros(2))
    other = replace(conv, **changes)
    windows = [Window(each, (2, 6, 6), output_shape(each, (2, 6, 6))) for each in (conv, other)]

    assert added(windows[0], windows[0]) is not None
    assert added(windows[0], windows[1]) is None


def test_convolutions_of_one_shape_that_slide_differently_are_not_added() -> None:
    """3 pixels, 2 taps: at 0 and 1, or with a padding at -1 and 1."""
    near = Conv2d(np.ones((1, 1, 2, 2)), np.zeros(1))
    wide = replace(near, stride=(2, 2), padding=(1, 1))

    windows = [Window(conv, (1, 3, 3), (1, 2, 2)) for conv in (near, wide)]

    assert output_shape(wide, (1, 3, 3)) == output_shape(near, (1, 3, 3)) == (1, 2, 2)
    assert added(windows[0], windows[1]) is None


@given(data=st.data())
def test_masked_rows_are_zero_and_the_others_stay(data: Any) -> None:
    maps = Maps(data)
    linear = maps.any(maps.image())
    rows = maps.generator.integers(0, 2, linear.sizes[0]).astype(bool)

    part = masked(linear, rows)

    np.testing.assert_array_equal(written_out(part), written_out(linear) * rows[:, np.newaxis])
    assert masked(linear, np.ones_like(rows)) is linear


@given(data=st.data())
def test_the_operator_of_a_map_does_what_the_map_does(data: Any) -> None:
    maps = Maps(data)
    source = maps.choose("source", maps.image(), (6,), (2, 3))
    linear = maps.any(source)

    operator, source_view, target_view = operator_of(linear)

    basis = np.eye(linear.sizes[1]).reshape(-1, *source_view)
    result = apply_stateless(operator, basis)
    assert result.shape[1:] == target_view
    np.testing.assert_array_equal(result.reshape(len(basis), -1).T, written_out(linear))


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (Dense(np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones(2)), (2,)),
        (Conv2d(np.arange(8.0).reshape(2, 2, 1, 2), np.ones(2), (1, 2), (0, 1)), (2, 5)),
        (Conv2d(np.arange(9.0).reshape(1, 1, 3, 3), np.ones(1), padding=(1, 1)), (1, 3, 4)),
        (Pool2d((2, 3), (1, 2), (1, 1), 0.5), (2, 3, 4)),
        (Scale(np.array([2.0, 3.0]).reshape(2, 1, 1)), (2, 2, 3)),
        (Scale(np.array([[2.0]])), (2, 3)),
        (Flatten(), (2, 2, 3)),
        (Reshape((3, 4)), (2, 2, 3)),
    ],
)
def test_the_map_of_a_node_is_the_node_without_its_bias(node: Node, shape: Shape) -> None:
    basis = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    silence = apply_stateless(node, np.zeros((1, *shape)))

    columns = (apply_stateless(node, basis) - silence).reshape(len(basis), -1)

    np.testing.assert_array_equal(written_out(map_of(node, shape)), columns.T)


def test_what_is_not_linear_has_no_map(lif: Any) -> None:
    neurons: LIF = lif((2,))

    with pytest.raises(TypeError, match="LIF is not linear"):
        map_of(neurons, (2,))


def test_an_identity_changes_no_map() -> None:
    same, matrix = identity((2, 2)), Matrix(np.ones((3, 4)))

    assert compose(matrix, same) is matrix
    assert compose(identity((3,)), matrix) is matrix
    assert compose(same, same) is same


def test_a_matrix_beyond_the_limit_is_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlapping pool of 6 x 6 pixels into a padded convolution: 4 by 36 numbers."""
    pool = map_of(Pool2d((3, 3), (2, 2)), (1, 6, 6))
    conv = map_of(Conv2d(np.ones((1, 1, 3, 3)), np.zeros(1), padding=(1, 1)), (1, 2, 2))

    monkeypatch.setattr("neurocompile.linear.LARGEST_MATRIX", 4 * 36)
    assert compose(conv, pool).sizes == (4, 36)
    monkeypatch.setattr("neurocompile.linear.LARGEST_MATRIX", 4 * 36 - 1)
    with pytest.raises(TooLargeError):
        compose(conv, pool)
