"""
Linear maps between populations, and how two in a row become one.

Between neurons a network may scale, pool, convolve, reshape and mix as it likes: all of that is linear,
so each path from one population to another is a single map. Three forms are kept, and composed without
ever writing out a convolution that can stay one:

    Diagonal    y[i] = s[i] x[i]                      scales, reshapes, identities
    Window      a convolution between two images      convolutions, average and sum pools
    Matrix      y = W x                               everything else

Vectors are numbered in C order, channels first, so that a reshape changes nothing.

Two convolutions (K1, S1, P1, D1), then (K2, S2, P2, D2), read their input at

    x[(o S2 - P2 + i D2) S1 - P1 + a D1] = x[o (S1 S2) - (P2 S1 + P1) + (i D2 S1 + a D1)]

and are one convolution of stride S1 S2, padding P2 S1 + P1 and (K2 - 1) D2 S1 + (K1 - 1) D1 + 1 taps,
with W2[i] W1[a] added at every tap i D2 S1 + a D1. One case is not equal: the padding of the second
stands for zeros where the merged kernel would see real pixels through the first, if the first's windows
overlap or leave pixels over at the far edge (out S1 - P1 < in, with `out` windows on `in` pixels). Then the maps are
written out as a matrix, which is always exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.integer import Shape, image_shape
from neurocompile.ir import (
    Conv2d,
    Dense,
    Flatten,
    Float,
    Node,
    Pool2d,
    Reshape,
    Scale,
    frozen_array,
    output_shape,
)
from neurocompile.reference import convolve

LARGEST_MATRIX = 1 << 26  # entries; half a gigabyte of float64


class TooLargeError(Exception):
    """Only a matrix could hold the map, and it would have more than `LARGEST_MATRIX` entries."""


@dataclass(frozen=True)
class Diagonal:
    """`y = scale * x`, one factor or one per element; `shape` is how the elements are arranged."""

    scale: Float  # () or shape
    shape: Shape

    @property
    def sizes(self) -> tuple[int, int]:
        size = math.prod(self.shape)
        return size, size


@dataclass(frozen=True)
class Window:
    """A convolution without bias from an image (C, H, W) to another."""

    conv: Conv2d
    source: Shape
    target: Shape

    @property
    def sizes(self) -> tuple[int, int]:
        return math.prod(self.target), math.prod(self.source)


@dataclass(frozen=True)
class Matrix:
    """`y = weight @ x`."""

    weight: Float  # (out, in)

    @property
    def sizes(self) -> tuple[int, int]:
        rows, columns = self.weight.shape
        return rows, columns


Map = Diagonal | Window | Matrix


def identity(shape: Shape) -> Diagonal:
    """Return the map that changes nothing."""
    return Diagonal(frozen_array(1.0), shape)


def map_of(node: Node, shape: Shape) -> Map:
    """Return what a linear node, without its bias, does to an input of `shape`."""
    match node:
        case Dense():
            return Matrix(node.weight)
        case Conv2d():
            conv = replace(node, bias=np.zeros_like(node.bias)) if node.bias.any() else node
            return Window(conv, image_shape(shape), image_shape(output_shape(node, shape)))
        case Pool2d():
            weight = np.full((shape[0], 1, *node.kernel), node.scale)
            conv = Conv2d(weight, np.zeros(shape[0]), node.stride, node.padding, groups=shape[0])
            return Window(conv, shape, output_shape(node, shape))
        case Scale():
            uniform = node.scale.size == 1
            scale = node.scale.reshape(()) if uniform else np.broadcast_to(node.scale, shape)
            return Diagonal(scale, shape)
        case Flatten() | Reshape():
            return identity(shape)
        case _:
            raise TypeError(f"{type(node).__name__} is not linear")


def compose(second: Map, first: Map) -> Map:
    """
    Return the map that does `first`, then `second`.

    Raises `TooLargeError` where that is neither diagonal nor a convolution, and too large a matrix.
    """
    match first, second:
        case Diagonal(), Diagonal():
            return _scaled(first, second.scale, second.shape)
        case Diagonal(), Matrix():
            if first.scale.ndim == 0 and first.scale == 1:
                return second
            return Matrix(second.weight * first.scale.reshape(1, -1))
        case Diagonal(), Window():
            factors = _by_channel(first.scale, second.source)
            if factors is not None:
                return replace(second, conv=_scale_inputs(second.conv, factors))
        case Matrix(), Diagonal():
            if second.scale.ndim == 0 and second.scale == 1:
                return first
            return Matrix(first.weight * second.scale.reshape(-1, 1))
        case Window(), Diagonal():
            factors = _by_channel(second.scale, first.target)
            if factors is not None:
                return replace(first, conv=_scale_outputs(first.conv, factors))
        case Window(), Window() if first.target == second.source and _mergeable(first, second):
            return Window(_merge(first.conv, second.conv), first.source, second.target)
        case Window(), Matrix():
            return Matrix(_check_size(_adjoint(second.weight, first), second, first))
        case Matrix(), Window():
            _check_size(None, second, first)
            images = first.weight.T.reshape(-1, *second.source)
            mixed = convolve(images, second.conv.weight, second.conv)
            return Matrix(mixed.reshape(len(images), -1).T)
        case _:
            pass
    return compose_matrices(second, first)


def compose_matrices(second: Map, first: Map) -> Matrix:
    """Return the composition written out."""
    _check_size(None, second, first)
    if isinstance(first, Window):
        return Matrix(_adjoint(matrix_of(second), first))
    return Matrix(matrix_of(second) @ matrix_of(first))


def _check_size(weight: Float | None, second: Map, first: Map) -> Any:
    if second.sizes[0] * first.sizes[1] > LARGEST_MATRIX:
        raise TooLargeError
    return weight


def added(one: Map, other: Map) -> Map | None:
    """Return the sum of two maps if it has the form of both, else None."""
    match one, other:
        case Diagonal(), Diagonal():
            size = one.scale if one.scale.ndim else other.scale
            total = one.scale.reshape(_flat(one.scale)) + other.scale.reshape(_flat(other.scale))
            shape = one.shape if one.scale.ndim else other.shape
            return Diagonal(frozen_array(total.reshape(size.shape)), shape)
        case Matrix(), Matrix():
            return Matrix(one.weight + other.weight)
        case Window(), Window():
            same = replace(one.conv, weight=other.conv.weight, bias=other.conv.bias)
            if (
                (one.source, one.target) == (other.source, other.target)
                and one.conv.weight.shape == other.conv.weight.shape
                and slide_of(same) == slide_of(other.conv)
            ):
                total = one.conv.weight + other.conv.weight
                return replace(one, conv=replace(one.conv, weight=total))
    return None


def _flat(scale: Float) -> tuple[int, ...]:
    return (-1,) if scale.ndim else ()


def slide_of(conv: Conv2d) -> tuple[Any, ...]:
    """Return how a convolution slides: stride, padding, dilation and groups."""
    return conv.stride, conv.padding, conv.dilation, conv.groups


def masked(linear: Map, rows: NDArray[np.bool_]) -> Map:
    """Return `linear` with all rows (one per element of its result) but `rows` set to zero."""
    if rows.all():
        return linear
    shape = linear.target if isinstance(linear, Window) else (rows.size,)
    return compose(Diagonal(rows.astype(np.float64).reshape(shape), shape), linear)


def matrix_of(linear: Map) -> Float:
    """Return `linear` written out, (out, in)."""
    match linear:
        case Matrix():
            return linear.weight
        case Diagonal():
            size, _ = linear.sizes
            return np.diag(np.broadcast_to(linear.scale.ravel(), (size,)))
        case Window():
            rows, _ = linear.sizes
            return _adjoint(np.eye(rows), linear)


def operator_of(linear: Map) -> tuple[Dense | Conv2d, Shape, Shape]:
    """Return the operator of a synapse group that does `linear`, and the views it sees."""
    match linear:
        case Matrix():
            rows, columns = linear.sizes
            return Dense(linear.weight, np.zeros(rows)), (columns,), (rows,)
        case Window():
            return linear.conv, linear.source, linear.target
        case Diagonal():
            size, _ = linear.sizes
            view = image_shape(linear.shape)
            factors = _by_channel(linear.scale, view) if len(view) == 3 else None
            if factors is None:
                view = (size, 1, 1)
                factors = np.broadcast_to(linear.scale.ravel(), (size,))
            conv = Conv2d(factors.reshape(-1, 1, 1, 1), np.zeros(len(factors)), groups=len(factors))
            return conv, view, view


def _scaled(diagonal: Diagonal, scale: Float, shape: Shape) -> Diagonal:
    if scale.ndim == 0 and scale == 1:
        return diagonal
    if diagonal.scale.ndim == 0:
        return Diagonal(
            frozen_array(scale * diagonal.scale), shape if scale.ndim else diagonal.shape
        )
    flat = scale.ravel() if scale.ndim else scale
    total = (diagonal.scale.ravel() * flat).reshape(diagonal.shape)
    return Diagonal(frozen_array(total), diagonal.shape)


def _by_channel(scale: Float, view: Shape) -> Float | None:
    """Return the factor of each channel of an image, None if it differs inside one."""
    if scale.ndim == 0:
        return np.broadcast_to(scale, view[:1])
    image = scale.reshape(view)
    if (image == image[:, :1, :1]).all():
        channels: Float = image[:, 0, 0]
        return channels
    return None


def _scale_outputs(conv: Conv2d, factors: Float) -> Conv2d:
    if (factors == 1).all():
        return conv
    return replace(conv, weight=conv.weight * factors[:, np.newaxis, np.newaxis, np.newaxis])


def _scale_inputs(conv: Conv2d, factors: Float) -> Conv2d:
    if (factors == 1).all():
        return conv
    per_group = len(conv.weight) // conv.groups
    mine = np.repeat(factors.reshape(conv.groups, -1), per_group, axis=0)
    return replace(conv, weight=conv.weight * mine[:, :, np.newaxis, np.newaxis])


def _mergeable(first: Window, second: Window) -> bool:
    for axis in (0, 1):
        stride, padding = first.conv.stride[axis], first.conv.padding[axis]
        left_over = first.target[1 + axis] * stride - padding < first.source[1 + axis]
        if second.conv.padding[axis] > 0 and left_over:
            return False
    return True


def _merge(first: Conv2d, second: Conv2d) -> Conv2d:
    taps, spacing, reach = [], [], []
    for axis in (0, 1):
        inner, outer = first.weight.shape[2 + axis], second.weight.shape[2 + axis]
        step = second.dilation[axis] * first.stride[axis]
        taps.append((inner, outer))
        spacing.append((first.dilation[axis], step))
        reach.append((outer - 1) * step + (inner - 1) * first.dilation[axis] + 1)
    one, two, groups = _aligned(first, second)
    # Taps first, so that all weights of a tap lie side by side.
    inputs = two.shape[1] if one is None else one.shape[1]
    merged = np.zeros((*reach, len(second.weight), inputs))
    by_tap = np.ascontiguousarray(two.transpose(2, 3, 0, 1))
    own = one is None
    kernels = _own_channel(first.weight[:, 0], second).transpose(2, 3, 0, 1) if one is None else one
    for row in range(taps[0][1]):
        for column in range(taps[1][1]):
            top, left = row * spacing[0][1], column * spacing[1][1]
            rows = slice(top, top + (taps[0][0] - 1) * spacing[0][0] + 1, spacing[0][0])
            columns = slice(left, left + (taps[1][0] - 1) * spacing[1][0] + 1, spacing[1][0])
            tap = by_tap[row, column]
            merged[rows, columns] += (
                tap * kernels if own else _mix(tap, kernels, groups).transpose(2, 3, 0, 1)
            )
    weight = merged.transpose(2, 3, 0, 1)
    return Conv2d(
        weight,
        np.zeros(len(weight)),
        stride=(first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        padding=(
            second.padding[0] * first.stride[0] + first.padding[0],
            second.padding[1] * first.stride[1] + first.padding[1],
        ),
        groups=groups,
    )


def _aligned(first: Conv2d, second: Conv2d) -> tuple[Float | None, Float, int]:
    """
    Return both kernels over the same groups, and how many there are.

    The first is None where it treats each channel by itself: then the groups are the second's.
    """
    if first.weight.shape[1] == 1 and len(first.weight) == first.groups:
        return None, second.weight, second.groups
    if first.groups == second.groups:
        return first.weight, second.weight, first.groups
    return _ungrouped(first), _ungrouped(second), 1


def _ungrouped(conv: Conv2d) -> Float:
    if conv.groups == 1:
        return conv.weight
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    full = np.zeros((len(conv.weight), inputs * conv.groups, *conv.weight.shape[2:]))
    for group in range(conv.groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        full[rows, group * inputs : (group + 1) * inputs] = conv.weight[rows]
    return full


def _own_channel(kernels: Float, second: Conv2d) -> Float:
    """Return, for each weight (out, in) of `second`, the depthwise kernel of the channel it reads."""
    inputs = second.weight.shape[1]
    per_group = len(second.weight) // second.groups
    if (kernels == kernels[:1]).all():
        return kernels[:1, np.newaxis]  # as in a pool: broadcasts
    group = np.arange(len(second.weight)) // per_group
    own: Float = kernels[group[:, np.newaxis] * inputs + np.arange(inputs)]
    return own


def _mix(tap: Float, kernels: Float, groups: int) -> Float:
    """Return sum_m tap[o, m] kernels[m, i], group by group."""
    outputs, middle = len(tap) // groups, tap.shape[1]
    parts = [
        np.tensordot(
            tap[group * outputs : (group + 1) * outputs],
            kernels[group * middle : (group + 1) * middle],
            axes=1,
        )
        for group in range(groups)
    ]
    return np.concatenate(parts)


def _adjoint(rows: Float, window: Window) -> Float:
    """Return `rows @ C` for the matrix C of a convolution, without writing C out."""
    conv = window.conv
    channels, height, width = window.source
    images = rows.reshape(-1, *window.target)
    pad_h, pad_w = conv.padding
    out_h, out_w = window.target[1:]
    # A stride can leave pixels at the far edge that nobody reads; they keep their zeros.
    padded = np.zeros((len(images), channels, height + 2 * pad_h, width + 2 * pad_w))
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    for row in range(conv.weight.shape[2]):
        for column in range(conv.weight.shape[3]):
            top, left = row * conv.dilation[0], column * conv.dilation[1]
            part = padded[
                :,
                :,
                top : top + (out_h - 1) * conv.stride[0] + 1 : conv.stride[0],
                left : left + (out_w - 1) * conv.stride[1] + 1 : conv.stride[1],
            ]
            tap = conv.weight[:, :, row, column]
            if outputs == inputs == 1:
                part += images * tap.reshape(-1, 1, 1)
                continue
            for group in range(conv.groups):
                mine = slice(group * outputs, (group + 1) * outputs)
                part[:, group * inputs : (group + 1) * inputs] += np.einsum(
                    "nohw,oi->nihw", images[:, mine], tap[mine], optimize=True
                )
    inside: Float = padded[:, :, pad_h : pad_h + height, pad_w : pad_w + width]
    return inside.reshape(len(images), -1)
