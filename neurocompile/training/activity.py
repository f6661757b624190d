"""What the neurons of a trained network do on the test set: rates, and who never or always fires."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integer = NDArray[np.int64]

MOST_NAMED = 8  # neurons that are listed one by one


@dataclass(frozen=True)
class LayerActivity:
    """
    A layer's spikes, summed over `samples`: `counts` (steps, *shape), at most `samples` each.

    A neuron is dead if it never fired, and saturated if it fired at every step of every sample.
    """

    name: str
    counts: Integer
    samples: int

    @property
    def rate(self) -> float:
        """Spikes per neuron, step and sample."""
        return float(self.counts.mean()) / self.samples

    @property
    def rate_per_step(self) -> list[float]:
        """Spikes per neuron and sample at each step."""
        steps = self.counts.reshape(len(self.counts), -1)
        return [float(rate) for rate in steps.mean(1) / self.samples]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Which neurons never fired, (*shape)."""
        never: NDArray[np.bool_] = self.counts.sum(0) == 0
        return never

    @property
    def saturated(self) -> NDArray[np.bool_]:
        """Which neurons fired at every step of every sample, (*shape)."""
        always: NDArray[np.bool_] = self.counts.sum(0) == self.samples * len(self.counts)
        return always

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `metrics.json`, with the first few neurons by index."""
        return {
            "name": self.name,
            "shape": list(self.counts.shape[1:]),
            "rate": self.rate,
            "rate_per_step": self.rate_per_step,
            "dead": _named(self.dead),
            "saturated": _named(self.saturated),
        }


def activity_of(counts: Mapping[str, Integer], samples: int) -> tuple[LayerActivity, ...]:
    """Return the activity of each layer, given its spikes (steps, *shape) summed over `samples`."""
    return tuple(LayerActivity(name, values, samples) for name, values in counts.items())


def remarks(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each layer (as `to_json`) with dead or saturated neurons, naming them."""
    lines = []
    for layer in layers:
        neurons = math.prod(layer["shape"])
        for what, which in (("never", layer["dead"]), ("always", layer["saturated"])):
            if which["count"]:
                lines.append(
                    f"{layer['name']}: {which['count']} of {neurons} neurons {what} fired "
                    f"({_text(which, layer['shape'])})"
                )
    return lines


def _whole_channels(which: NDArray[np.bool_]) -> list[int]:
    """Return the channels all of whose neurons are meant; layers without pixels have none."""
    if which.ndim < 2:
        return []
    return np.flatnonzero(which.reshape(len(which), -1).all(1)).tolist()


def _single_neurons(which: NDArray[np.bool_]) -> list[list[int]]:
    """Return the first few neurons by index that are in no whole channel."""
    rest = which.copy()
    rest[_whole_channels(which)] = False
    return [[int(place) for place in index] for index in np.argwhere(rest)[:MOST_NAMED]]


def _named(which: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "count": int(which.sum()),
        "channels": _whole_channels(which),
        "neurons": _single_neurons(which),
    }


def _text(which: Mapping[str, Any], shape: Sequence[int]) -> str:
    channels, neurons = which["channels"], which["neurons"]
    parts = []
    if channels:
        some = ", ".join(str(channel) for channel in channels[:MOST_NAMED])
        more = ", ..." if len(channels) > MOST_NAMED else ""
        parts.append(f"all of {'channels' if len(channels) > 1 else 'channel'} {some}{more}")
    if neurons:
        some = ", ".join("/".join(map(str, index)) for index in neurons)
        rest = which["count"] - len(channels) * math.prod(shape[1:])
        parts.append(f"{some}{', ...' if rest > len(neurons) else ''}")
    return "; ".join(parts)
