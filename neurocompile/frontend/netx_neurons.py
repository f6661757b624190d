"""
The neurons of a `.net` layer: CUBA, with integers for all, for each channel or for each neuron.

    u = (4096 - iDecay) / 4096 u + arriving       v = (4096 - vDecay) / 4096 v + u + bias
    fire and reset to 0 where v > vThMant

A bias goes past the current here. Where that has memory, the bias becomes the leak voltage of `ir.LIF`,
(1 - decay) leak = bias, and elsewhere that of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neurocompile.frontend.read_netx import Integers, LayerFields
from neurocompile.integer import READOUT_THRESHOLD, STATE_FRACTION_BITS, Comparison, Shape
from neurocompile.ir import LIF, Float, Integrator

ONE = 4096  # of decays: 12 bits
SATURATED = -((1 << 23) - 1) / (1 << STATE_FRACTION_BITS)  # weight units: no membrane is lower

CUBA = ("CUBA", "LOIHI")  # the second is what slayer's predecessor wrote
OTHERS = {
    "SDNN": "sigma-delta neurons, which send differences",
    "ALIF": "neurons with an adaptive threshold",
    "RF": "resonate-and-fire neurons",
    "RF_IZ": "resonate-and-fire neurons",
    "RF_PHASE": "resonate-and-fire neurons",
    "ADRF": "adaptive resonate-and-fire neurons",
    "ADRF_IZ": "adaptive resonate-and-fire neurons",
}
EXTRAS = (
    ("refDelay", 1, "they rest after a spike"),
    ("gradedSpike", 0, "their spikes are graded"),
    ("weight_exp", 0, "their weights are shifted, which netx ignores"),
    ("wgtExp", 0, "their weights are shifted"),
)


@dataclass(frozen=True)
class Neurons:
    """
    The integers of a layer's neurons, each of their `shape` or for all; `bias` is (channels,).

    `threshold` is None if they never fire, for the reason `because`.
    """

    shape: Shape
    threshold: Integers | None
    voltage_decay: Integers
    current_decay: Integers
    bias: Float
    because: str = ""

    @property
    def fires(self) -> bool:
        return self.threshold is not None

    @property
    def weight_bias(self) -> Float:
        """The biases that are those of the weights, by channel."""
        return np.where(self._remembers(), 0.0, self.bias)

    @property
    def leak_bias(self) -> Float:
        """The biases that go past a current with memory, by neuron."""
        by_channel = np.where(self._remembers(), self.bias, 0.0)
        return np.broadcast_to(by_channel.reshape(-1, *(1 for _ in self.shape[1:])), self.shape)

    @property
    def stuck(self) -> int:
        """How many neurons have a bias past the current, but no leak that it could be."""
        return int(((self.leak_bias != 0) & (self.voltage_decay == 0)).sum())

    def _remembers(self) -> NDArray[np.bool_]:
        """Return, by channel, whether a current of it has memory."""
        memory = np.broadcast_to(self.current_decay < ONE, self.shape)
        return np.asarray(memory.reshape(self.shape[0], -1).any(1))

    def without_current(self) -> Neurons:
        """Return the same neurons, but for the memory of their currents."""
        return replace(self, current_decay=np.array(ONE))

    def node(self, comparison: Comparison) -> LIF | Integrator:
        """Return the neurons in weight units; `comparison` is how membranes meet their threshold."""
        leaving = np.broadcast_to(self.voltage_decay, self.shape) / ONE
        decay, ones, zeros = 1 - leaving, np.ones(self.shape), np.zeros(self.shape)
        leak = np.divide(self.leak_bias, leaving, out=np.zeros(self.shape), where=leaving > 0)
        remembered = 1 - np.broadcast_to(self.current_decay, self.shape) / ONE
        current = remembered if remembered.any() else None
        if self.threshold is None:
            return Integrator(decay, ones, leak, current)
        return LIF(
            decay,
            ones,
            leak,
            np.broadcast_to(self.threshold, self.shape).astype(np.float64),
            zeros,
            current_decay=current,
            comparison=comparison,
            floor=np.full(self.shape, SATURATED),
        )


def read_neurons(layer: LayerFields, shape: Shape, bias: Integers | None) -> Neurons | None:
    """
    Return the neurons of a layer, of `shape`; None, or incomplete ones, where there is a problem.

    `bias` is (channels,), None if it could not be read. Vectors may have no neurons: theirs integrate.
    """
    if "neuron" not in layer:
        if bias is not None and bias.any():
            layer.unsupported("needs neurons, to have a bias", "it has none")
        if len(shape) > 1:
            layer.damaged("needs neurons", "it has none")
        zero, none = np.array(0), np.zeros(shape[:1])
        return Neurons(shape, None, zero, np.array(ONE), none, "which has no neurons")
    values = layer.values["neuron"]
    if not isinstance(values, Mapping):
        layer.damaged("needs a group of datasets in 'neuron'", "it is a dataset")
        return None
    fields = LayerFields(layer.name, values, layer.found)
    kind = fields.text("type")
    if kind is None:
        return None
    if kind not in CUBA:
        layer.unsupported(
            f"has '{kind}' neurons", OTHERS.get(kind, "none that is known"), "use CUBA neurons"
        )
        return None
    _check_extras(fields)
    threshold = _per_neuron(fields, "vThMant", shape)
    current, voltage = (_per_neuron(fields, key, shape, ONE) for key in ("iDecay", "vDecay"))
    if threshold is None or current is None or voltage is None or bias is None:
        return None
    silent = threshold >= READOUT_THRESHOLD
    if silent.any() and not silent.all():
        layer.unsupported(
            f"needs thresholds below {READOUT_THRESHOLD}, or none",
            f"{int(silent.sum())} of {silent.size} neurons never fire",
        )
        return None
    neurons = Neurons(
        shape,
        None if silent.all() else threshold,
        voltage,
        current,
        np.broadcast_to(bias, shape[:1]).astype(np.float64),
        f"whose threshold of {threshold.max()} no membrane reaches",
    )
    if neurons.stuck:
        layer.unsupported(
            "needs a leak of its membranes, beside a bias and a current with memory",
            f"vDecay is 0 for {neurons.stuck} of its neurons",
            "set iDecay to 4096, or vDecay above 0",
        )
    return neurons


def _per_neuron(
    fields: LayerFields, key: str, shape: Shape, most: int | None = None
) -> Integers | None:
    """Return integers from 0 to `most` that broadcast to `shape`."""
    values = fields.integers(key, least=0)
    if values is None:
        return None
    if most is not None and values.max() > most:
        fields.damaged(f"needs '{key}' from 0 to {most}", f"one is {values.max()}")
        return None
    if values.size == 1:
        return values.reshape(())
    if values.shape == shape:
        return values
    if values.size == shape[0]:
        return values.reshape(-1, *(1 for _ in shape[1:]))
    fields.damaged(
        f"needs '{key}' for all, each channel or each neuron of {shape}",
        f"it has the shape {values.shape}",
    )
    return None


def _check_extras(fields: LayerFields) -> None:
    """Refuse what neurons of lava-dl can have besides, if it is in use."""
    for key, usual, means in EXTRAS:
        if key in fields:
            values = fields.integers(key)
            if values is not None and (values != usual).any():
                fields.unsupported(f"needs neurons with {key} {usual}", means)
