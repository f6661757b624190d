"""
Lava's connections and neurons for many samples at once.

What goes in and out has a last axis of samples, (neurons, samples); weights exist once. The processes
are Lava's own but for the shape of their ports, and so is what they compute:

  - `BatchSparse` runs Lava's model of `Sparse` as it is, whose product takes a matrix of spikes as well
    as a vector, twice as fast for each synapse;
  - `BatchDelaySparse` lets Lava's `DelaySparse` sort synapses by delay once, and not at every step;
  - `BatchLIF` computes what Lava's `LIFReset` does, in fewer passes over less memory;
  - `BatchConvolution` stands where a convolution, written out, would take too much memory.

The tests hold the last three to Lava's models, bit by bit.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset
from lava.proc.sparse.models import AbstractPyDelaySparseModel, PySparseModelBitAcc
from lava.proc.sparse.process import DelaySparse, Sparse
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

AT_ONCE = 1 << 16  # numbers whose intermediate results stay in a core's cache
FLOAT32_IS_EXACT = 1 << 24  # below it, for whole numbers
WRAP_AT = 1 << 23


class BatchSparse(Sparse):
    """Lava's `Sparse` with ports of (neurons, `samples`)."""

    def __init__(self, *, samples: int, **options: Any) -> None:
        super().__init__(**options)
        rows, columns = self.weights.shape
        self.s_in = InPort(shape=(columns, samples))
        self.a_out = OutPort(shape=(rows, samples))
        self.a_buff = Var(shape=(rows, samples), init=0)


class BatchDelaySparse(DelaySparse):
    """Lava's `DelaySparse` with ports of (neurons, `samples`)."""

    def __init__(self, *, samples: int, max_delay: int, **options: Any) -> None:
        super().__init__(max_delay=max_delay, **options)
        rows, columns = self.weights.shape
        self.s_in = InPort(shape=(columns, samples))
        self.a_out = OutPort(shape=(rows, samples))
        self.a_buff = Var(shape=(max_delay + 1, rows, samples), init=0)


class BatchLIF(LIFReset):
    """Lava's `LIFReset`, of any shape."""


class BatchConvolution(AbstractProcess):
    """
    Sums of a convolution of spikes, (neurons, `samples`) in the C order of (channels, h, w).

    They are sent one step and `delay` steps later.

    `weight` is (out channels, in channels / groups, kernel h, kernel w), as PyTorch has it, and `largest`
    the largest magnitude of what a spike can carry.
    """

    def __init__(
        self,
        *,
        samples: int,
        weight: NDArray[np.int32],
        largest: int,
        delay: int,
        source_view: tuple[int, int, int],
        target_view: tuple[int, int, int],
        **geometry: Any,
    ) -> None:
        super().__init__(
            samples=samples,
            weight=weight,
            largest=largest,
            delay=delay,
            source_view=source_view,
            target_view=target_view,
            **geometry,
        )
        self.s_in = InPort(shape=(math.prod(source_view), samples))
        self.a_out = OutPort(shape=(math.prod(target_view), samples))


@implements(proc=BatchSparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class BatchSparseModel(PySparseModelBitAcc):
    """Lava's model, unchanged."""

    implements_process = None  # Lava has a model implement no other process than its parent does


@implements(proc=BatchDelaySparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class BatchDelaySparseModel(AbstractPyDelaySparseModel):
    """Lava's model, which sorts its synapses by delay once; weights are cut to their bits already."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    a_buff: NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)
    weights: csr_matrix = LavaPyType(csr_matrix, np.int32)
    delays: csr_matrix = LavaPyType(csr_matrix, np.int32)
    num_message_bits: NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.by_delay: Any = None

    def run_spk(self) -> None:
        self.a_out.send(self.a_buff[0])
        spikes = self.s_in.recv()
        if self.by_delay is None:
            longest = len(self.a_buff) - 1
            self.by_delay = self.get_delay_wgts_mat(self.weights, self.delays, longest).tocsr()
        self.a_buff[:-1] = self.a_buff[1:]
        self.a_buff[-1] = 0
        self.a_buff += self.by_delay.dot(spikes).reshape(self.a_buff.shape)


@implements(proc=BatchLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class BatchLIFModel(PyLifResetModelBitAcc):
    """
    Lava's model with its decays and sums written for speed.

    A decay is a product of at most 37 bits, so float64 holds it and, divided by 4096, its fraction, too;
    what becomes int32 is cut toward zero, as Lava's shift of the magnitude is. `AT_ONCE` numbers are
    worked on together, whose intermediate results do not leave the cache.

    Lava's own code computes the first sample as well, at every step, and the only one where there are
    no others. A difference ends the run.
    """

    implements_process = None

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def scale_bias(self) -> None:
        if not self.isbiasscaled:  # nobody changes it
            super().scale_bias()
            self.effective_bias: NDArray[np.int32] = self.effective_bias.astype(np.int32)

    def subthr_dynamics(self, activation_in: NDArray[np.int32]) -> None:
        if self.v.shape[-1] == 1:
            super().subthr_dynamics(activation_in)
            return
        first = SimpleNamespace(
            **vars(self)
            | {name: _of_first(getattr(self, name)) for name in ("du", "dv", "effective_bias")}
            | {"u": _of_first(self.u).copy(), "v": _of_first(self.v).copy()}
        )
        PyLifResetModelBitAcc.subthr_dynamics(first, _of_first(activation_in))
        self._integrate(activation_in)
        for state in ("u", "v"):
            if not np.array_equal(_of_first(getattr(self, state)), getattr(first, state)):
                raise RuntimeError(f"'{state}' of the first sample is not what Lava's LIF computes")

    def reset_voltage(self, spike_vector: NDArray[np.bool_]) -> None:
        self.v *= ~spike_vector

    def _integrate(self, currents: NDArray[np.int32]) -> None:
        keep_u, keep_v = (
            (self.decay_unity - np.asarray(decay, np.float64) - offset) / self.decay_unity
            for decay, offset in ((self.du, self.ds_offset), (self.dv, self.dm_offset))
        )
        neurons, samples = self.v.shape
        together = max(1, AT_ONCE // samples)
        for start in range(0, neurons, together):
            here = slice(start, start + together)
            u, v = self.u[here], self.v[here]
            x = currents[here] << self.act_shift
            if keep_u.any():
                x += (u * _of_neurons(keep_u, here)).astype(np.int32)
            if x.max() > WRAP_AT or x.min() <= -WRAP_AT:
                x += 2 * WRAP_AT * ((x <= -WRAP_AT).astype(np.int32) - (x > WRAP_AT))
            u[:] = x
            x += (v * _of_neurons(keep_v, here)).astype(np.int32)
            x += self.effective_bias[here]
            np.minimum(x, WRAP_AT - 1, out=x)
            np.maximum(x, 1 - WRAP_AT, out=v)


def _of_first(values: Any) -> Any:
    """Return what belongs to the first sample of (neurons, samples); a number belongs to all."""
    return values[:, 0] if np.ndim(values) else values


def _of_neurons(values: NDArray[np.float64], here: slice) -> NDArray[np.float64]:
    return values[here] if values.ndim else values


@implements(proc=BatchConvolution, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class BatchConvolutionModel(PyLoihiProcessModel):
    """
    Gathers the spikes under the kernel, and multiplies matrices of floats that hold every sum exactly.

    No sum of products, in whatever order, is larger than that of the magnitudes.
    """

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.source, self.target = proc_params["source_view"], proc_params["target_view"]
        self.stride, self.padding, self.dilation = (
            proc_params[name] for name in ("stride", "padding", "dilation")
        )
        self.samples = proc_params["samples"]
        weight, groups = proc_params["weight"], proc_params["groups"]
        largest = int(np.abs(weight).sum((1, 2, 3)).max(initial=0)) * proc_params["largest"]
        self.dtype = np.float32 if largest < FLOAT32_IS_EXACT else np.float64
        self.kernel = weight.shape[2:]
        self.weight = weight.reshape(groups, len(weight) // groups, -1).astype(self.dtype)
        silence = np.zeros((math.prod(self.target), self.samples), np.int32)
        self.waiting = [silence] * (1 + proc_params["delay"])
        channels, height, width = self.source
        self.padded = np.zeros(
            (channels, height + 2 * self.padding[0], width + 2 * self.padding[1], self.samples),
            self.dtype,
        )

    def run_spk(self) -> None:
        self.a_out.send(self.waiting.pop(0))
        self.waiting.append(self.convolve(self.s_in.recv()))

    def convolve(self, spikes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the sums of (neurons, samples) spikes, of as many samples."""
        (top, left), (_, height, width) = self.padding, self.source
        images = spikes.reshape(*self.source, self.samples)
        self.padded[:, top : top + height, left : left + width] = images
        sums = np.empty((*self.target, self.samples), np.int32)
        for row in range(self.target[1]):
            sums[:, row] = self._row(row)
        return sums.reshape(-1, self.samples)

    def _row(self, row: int) -> NDArray[Any]:
        """Return the sums of one row of the image, (out channels, width, samples)."""
        groups, _, taps = self.weight.shape
        width = self.target[2]
        (kernel_height, kernel_width), (down, right) = self.kernel, self.dilation
        first, step = row * self.stride[0], self.stride[1]
        under = np.empty(
            (self.source[0], kernel_height, kernel_width, width, self.samples), self.dtype
        )
        for i in range(kernel_height):
            line = self.padded[:, first + i * down]
            for j in range(kernel_width):
                begin = j * right
                under[:, i, j] = line[:, begin : begin + (width - 1) * step + 1 : step]
        sums: NDArray[Any] = self.weight @ under.reshape(groups, taps, -1)
        return sums.reshape(-1, width, self.samples)
