"""
Wires between Lava's ports: which numbers of one array become which of another.

A virtual port takes no time and is no process. On the chip it is nothing but addresses: which axon
leads to which neuron.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from lava.magma.core.process.ports.ports import AbstractPort, AbstractVirtualPort
from numpy.typing import NDArray

NOWHERE = -1  # the index of a number that is 0


class Wires(AbstractVirtualPort):  # type: ignore[misc]  # Lava has no types
    """
    Carries number `indices[i]` of the flattened `port` to place i, and 0 where that is `NOWHERE`.

    Where samples run side by side, `samples` is their axis, the last of both, and is kept as it is.
    """

    def __init__(self, port: Any, indices: NDArray[Any], samples: tuple[int, ...] = ()) -> None:
        super().__init__((*indices.shape, *samples))
        self.indices = indices
        self.samples = samples
        port._connect_forward([self], AbstractPort, [None], assert_same_shape=False)  # noqa: SLF001

    def get_transform_func_fwd(self) -> functools.partial[NDArray[Any]]:
        return functools.partial(pick, indices=self.indices, samples=self.samples)

    def get_transform_func_bwd(self) -> functools.partial[NDArray[Any]]:
        raise NotImplementedError("these wires lead from senders to receivers only")


def pick(
    values: NDArray[Any], indices: NDArray[Any], samples: tuple[int, ...] = ()
) -> NDArray[Any]:
    """Return the numbers of `values`, flattened but for the axis `samples`, that `indices` names."""
    flat = values.reshape(-1, *samples)
    picked: NDArray[Any] = np.concatenate([flat, np.zeros((1, *samples), flat.dtype)])[indices]
    return picked


def places(indices: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the wires that lead number i of an array to place `indices[i]` of `size`."""
    inverse = np.full(size, NOWHERE)
    inverse[indices] = np.arange(len(indices))
    return inverse
