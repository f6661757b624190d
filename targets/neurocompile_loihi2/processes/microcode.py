"""
A neuron that Lava does not have: what needs a microcode program on the chip.

It can take something off the membrane instead of clearing it, fire at its threshold or several times a
step, stop its membrane at a floor, rest after a spike, start a sample from another membrane than 0, and
work at some machine steps only. Otherwise it is Lava's fixed-point LIF; the formulas are those that the
engine of the `fixedpoint` target states.
"""

from __future__ import annotations

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
from numpy.typing import NDArray

DECAY_BITS = 12
STATE_FRACTION_BITS = 6
WRAP_AT = 1 << 23
STATE_MAXIMUM = (1 << 23) - 1


class Microcode(AbstractProcess):
    """
    LIF neurons that work on step t (from 1) of sample k at machine step `(k * period + t - 1) * stride + first`.

    `period` is in steps, `steps` of which are worked on; else the neurons send nothing and keep their
    state, and what arrives is lost. At the first step of a sample the state is cleared. Arrays broadcast
    to `shape`; `vth` is in weight units, `bias`, `start`, `floor` and `subtracts` in state units, the
    latter None where spikes reset the membrane to zero. `most` is how often neurons may fire in one
    step, `refractory` how many steps they rest afterwards.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        du: Any,
        dv: Any,
        vth: Any,
        bias: Any,
        start: Any,
        subtracts: Any,
        floor: Any,
        inclusive: bool,
        most: int,
        refractory: int,
        first: int,
        stride: int,
        steps: int,
        period: int,
    ) -> None:
        super().__init__(
            shape=shape,
            du=du,
            dv=dv,
            vth=vth,
            bias=bias,
            start=start,
            subtracts=subtracts,
            floor=floor,
            inclusive=inclusive,
            most=most,
            refractory=refractory,
            first=first,
            stride=stride,
            steps=steps,
            period=period,
        )
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.u = Var(shape=shape, init=0)
        self.v = Var(shape=shape, init=0)
        self.resting = Var(shape=shape, init=0)


@implements(proc=Microcode, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class MicrocodeModel(PyLoihiProcessModel):
    """Computes in int64 what the chip would compute in 24 and 32 bits."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    u: NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)
    v: NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)
    resting: NDArray[np.int32] = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        for name in ("first", "stride", "steps", "period", "inclusive", "most", "refractory"):
            setattr(self, name, proc_params[name])
        self.subtract = proc_params["subtracts"] is not None
        self.keep_u, self.keep_v, self.bias, self.begin, self.threshold, self.taken, self.least = (
            np.asarray(values, dtype=np.int64)
            for values in (
                (1 << DECAY_BITS) - 1 - np.asarray(proc_params["du"], dtype=np.int64),
                (1 << DECAY_BITS) - np.asarray(proc_params["dv"], dtype=np.int64),
                proc_params["bias"],
                proc_params["start"],
                np.asarray(proc_params["vth"], dtype=np.int64) << STATE_FRACTION_BITS,
                proc_params["subtracts"] if self.subtract else 0,
                proc_params["floor"],
            )
        )

    def run_spk(self) -> None:
        current = self.a_in.recv().astype(np.int64)
        since, between = divmod(self.time_step - self.first, self.stride)
        step = since % self.period
        if since < 0 or between or step >= self.steps:
            self.s_out.send(np.zeros(self.v.shape, np.int32))
            return
        first = step == 0
        u = np.zeros_like(current) if first else self.u.astype(np.int64)
        v = np.zeros_like(current) if first else self.v.astype(np.int64)

        x = _int32(_truncated(u * self.keep_u) + _int32(current << STATE_FRACTION_BITS))
        u = np.where(x > WRAP_AT, x - 2 * WRAP_AT, np.where(x <= -WRAP_AT, x + 2 * WRAP_AT, x))
        v = _truncated(v * self.keep_v) + u + self.bias
        if first:
            v = v + self.begin  # `start` is what Lava calls to run a model
        v = np.clip(v, np.maximum(self.least, -STATE_MAXIMUM), STATE_MAXIMUM)
        resting = np.zeros_like(v) if first else self.resting.astype(np.int64)
        v = np.where(resting > 0, 0, v)
        fired = np.where(resting > 0, 0, self._count(v))

        self.u[:] = u
        self.v[:] = np.where(fired > 0, v - fired * self.taken if self.subtract else 0, v)
        self.resting[:] = np.where(fired > 0, self.refractory, np.maximum(resting - 1, 0))
        self.s_out.send(fired.astype(np.int32))

    def _count(self, v: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how often each neuron's threshold fits into `v`, at most as often as it may fire."""
        if self.most == 1:
            return (v >= self.threshold if self.inclusive else v > self.threshold).astype(np.int64)
        fits: NDArray[np.int64] = (v if self.inclusive else v - 1) // self.threshold
        return np.clip(fits, 0, self.most)


def _truncated(product: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `product / 4096`, rounded toward zero."""
    towards_zero: NDArray[np.int64] = np.sign(product) * (np.abs(product) >> DECAY_BITS)
    return towards_zero


def _int32(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `values` as they are left in 32 bits."""
    return values.astype(np.int32).astype(np.int64)
