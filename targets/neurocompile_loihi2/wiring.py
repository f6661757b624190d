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
    """Carries number `indices[i]` of the flattened `port` to place i, and 0 where that is `NOWHERE`."""

    def __init__(self, port: Any, indices: NDArray[Any]) -> None:
        super().__init__(indices.shape)
        self.indices = indices
        port._connect_forward([self], AbstractPort, [None], assert_same_shape=False)  # noqa: SLF001

    def get_transform_func_fwd(self) -> functools.partial[NDArray[Any]]:
        return functools.partial(pick, indices=self.indices)

    def get_transform_func_bwd(self) -> functools.partial[NDArray[Any]]:
        raise NotImplementedError("these wires lead from senders to receivers only")


def pick(values: NDArray[Any], indices: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers of `values`, flattened, that `indices` names."""
    picked: NDArray[Any] = np.append(values, values.dtype.type(0))[indices]
    return picked


def places(indices: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the wires that lead number i of an array to place `indices[i]` of `size`."""
    inverse = np.full(size, NOWHERE)
    inverse[indices] = np.arange(len(indices))
    return inverse
