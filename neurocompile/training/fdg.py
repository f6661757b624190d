"""
The temperature of Dspike follows the finite difference gradient (Li et al., NeurIPS 2021).

A spiking network has a true slope only in the large: what the loss does when a weight moves by so much
that spikes flip. For each weight w_i of the first layer, with spikes as in the forward pass,

    FDG_i = (L(w + eps e_i) - L(w - eps e_i)) / (2 eps)

and of the temperatures b, b + db and b - db that one is taken whose surrogate gradient of the same batch
points most in the direction of FDG, by the cosine.

That is two forward passes for each weight. But a weight changes one channel of the first layer, and
batch norm and neurons work channel by channel: so many weights are moved at once, each in a copy of its
channel alone, and what comes after runs only for those that make another spike. For the others both
losses are the same, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, fx, nn
from torch.nn import functional

from neurocompile.errors import OptionError, Problem
from neurocompile.training.config import FdgSettings
from neurocompile.training.networks import SpikingNetwork, trace
from neurocompile.training.neurons import LIF
from neurocompile.training.normalisation import processes, scale_of, unmoved_statistics
from neurocompile.training.surrogates import Dspike, Masked, Surrogate

VALUES_AT_ONCE = 1 << 24  # of copied channels: 64 MiB

LossOf = Callable[[Tensor, Tensor], Tensor]  # of O(t), (batch, steps, classes), and labels


@dataclass(frozen=True)
class FdgReport:
    """
    What the temperature followed: the cosine of each candidate, by temperature.

    Of the `weights` that were moved, `felt` changed the loss.
    """

    temperature: float
    cosines: dict[float, float]
    weights: int
    felt: int

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "temperature": self.temperature,
            "cosines": [[b, cosine] for b, cosine in self.cosines.items()],
            "weights": self.weights,
            "felt": self.felt,
        }


def adapt_temperature(
    network: SpikingNetwork,
    surrogate: Surrogate,
    loss: LossOf,
    inputs: Tensor,
    labels: Tensor,
    settings: FdgSettings,
    seed: int,
) -> tuple[float, FdgReport]:
    """
    Return the temperature that fits best on `inputs` (batch, steps, *input shape), and why.

    `surrogate` is the one that the neurons of `network` share, or what it masks: `Dspike`. No mask is drawn.
    `loss` is of O(t) and `labels`. If there are more weights than `settings.weights`, `seed` draws some. Ties
    and a gradient of zero keep the temperature. Everything is left as it was: weights, gradients, stored
    statistics, modes, random numbers, the temperature. Several processes each have their own batch, and
    all return what fits the mean of their losses. Raises `OptionError` for another surrogate, or a network
    whose first layer is no plain convolution or linear layer.
    """
    dspike = _dspike(surrogate)
    with _as_in_training(network, dspike):
        moved = _Moved(network, loss, inputs, labels)
        chosen = _drawn(moved.weight.numel(), settings.weights, seed).to(moved.weight.device)
        true = _mean_over_processes(moved.differences(chosen, settings.epsilon))
        now = dspike.temperature
        others = (round(now + sign * settings.step, 6) for sign in (1, -1))
        cosines = {}
        for candidate in (now, *(b for b in others if settings.minimum <= b <= settings.maximum)):
            dspike.temperature = candidate
            surrogate_gradient = _mean_over_processes(moved.gradient()[chosen])
            cosines[candidate] = float(functional.cosine_similarity(true, surrogate_gradient, 0))
        dspike.temperature = now
    best = max(cosines, key=lambda b: (cosines[b], b == now))
    return best, FdgReport(best, cosines, len(chosen), int(true.count_nonzero()))


def _dspike(surrogate: Surrogate) -> Dspike:
    base = surrogate.base if isinstance(surrogate, Masked) else surrogate
    if not isinstance(base, Dspike):
        raise OptionError(
            Problem(
                "",
                "the finite difference gradient needs a surrogate with a temperature",
                f"the surrogate is {base}",
                "set surrogate.name=dspike",
            )
        )
    return base


class _Moved:
    """A network on one batch, and what its loss becomes if weights of its first layer are moved."""

    def __init__(
        self, network: SpikingNetwork, loss: LossOf, inputs: Tensor, labels: Tensor
    ) -> None:
        self.network, self.loss = network, loss
        self.inputs, self.labels = inputs, labels
        self.steps = inputs.shape[1]
        self.graph = trace(network.body)
        self.first = _first_layer(self.graph)
        self.layer: nn.Conv2d | nn.Linear = _module(self.graph, self.first)  # type: ignore[assignment]
        self.weight = self.layer.weight
        self.channelwise = list(_channelwise(self.graph, self.first))
        self.cut = self.channelwise[-1] if self.channelwise else self.first
        interpreter = fx.Interpreter(self.graph, garbage_collect_values=False)
        with torch.no_grad():
            interpreter.run(inputs.flatten(0, 1), self.steps)
        nodes = list(self.graph.graph.nodes)
        known = set(nodes[: nodes.index(self.cut) + 1])
        self.known = {node: value for node, value in interpreter.env.items() if node in known}

    def gradient(self) -> Tensor:
        """Return the surrogate gradient of the first layer's weights, (weights,)."""
        loss = self.loss(self.network(self.inputs), self.labels)
        (gradient,) = torch.autograd.grad(loss, self.weight)
        return gradient.flatten()

    @torch.no_grad()
    def differences(self, chosen: Tensor, epsilon: float) -> Tensor:
        """
        Return the finite difference gradient of the `chosen` weights, (chosen,).

        They move by `epsilon` standard deviations of all weights.
        """
        eps = epsilon * (float(self.weight.std(correction=0)) or 1.0)
        before = self.known[self.first]
        unmoved = self._loss_with(0, self.known[self.cut][:, 0])
        result = []
        at_once = max(1, VALUES_AT_ONCE // (2 * before[:, 0].numel()))
        for part in torch.split(chosen, at_once):
            channels = part // self.weight[0].numel()
            change = eps * self._seen_by(part, channels)
            up, down = (
                self._passed_on(before[:, channels] + sign * change, channels) for sign in (1, -1)
            )
            now = self.known[self.cut][:, channels]
            for place, channel in enumerate(channels.tolist()):
                above, below = (
                    unmoved
                    if torch.equal(values[:, place], now[:, place])
                    else self._loss_with(channel, values[:, place])
                    for values in (up, down)
                )
                result.append((above - below) / (2 * eps))
        return torch.stack(result)

    def _seen_by(self, part: Tensor, channels: Tensor) -> Tensor:
        """Return what each weight of `part` is multiplied with, (samples, weights, *size)."""
        x = self.known[self.first.args[0]]  # type: ignore[index]
        inside = part % self.weight[0].numel()
        if isinstance(self.layer, nn.Linear):
            seen: Tensor = x[:, inside]
            return seen
        layer = self.layer
        _, width, height, length = layer.weight.shape
        taps = x.new_zeros(len(part), x.shape[1], height * length)
        groups = channels // (layer.out_channels // layer.groups)
        source = groups * width + inside // (height * length)
        taps[torch.arange(len(part), device=x.device), source, inside % (height * length)] = 1
        return functional.conv2d(
            x,
            taps.reshape(len(part), -1, height, length),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
        )

    def _passed_on(self, values: Tensor, channels: Tensor) -> Tensor:
        """Return what batch norm and neurons make of copies of `channels`, (samples, copies, *size)."""
        for node in self.channelwise:
            module = _module(self.graph, node)
            if isinstance(module, nn.BatchNorm2d):
                scale, shift = scale_of(module), module.bias
                values = functional.batch_norm(
                    values, None, None, scale[channels], shift[channels], True, 0.0, module.eps
                )
            else:
                assert module is not None
                values = module(values, self.steps)
        return values

    def _loss_with(self, channel: int, values: Tensor) -> Tensor:
        """Return the loss where `values` stand in a channel of what the cut makes."""
        known = {**self.known, self.cut: self.known[self.cut].clone()}
        known[self.cut][:, channel] = values
        outputs = fx.Interpreter(self.graph).run(
            self.inputs.flatten(0, 1), self.steps, initial_env=known
        )
        return self.loss(outputs.reshape(-1, self.steps, *outputs.shape[1:]), self.labels)


def _first_layer(graph: fx.GraphModule) -> fx.Node:
    found = "there is none"
    for node in graph.graph.nodes:
        if node.op == "get_attr" and graph.get_parameter(str(node.target)).requires_grad:
            found = f"'{node.target}' is trained before"
            break
        module = _module(graph, node)
        weight = getattr(module, "weight", None)
        if weight is not None and weight.requires_grad:
            plain = getattr(module, "padding_mode", "zeros") == "zeros"
            if type(module) in (nn.Conv2d, nn.Linear) and plain:
                assert isinstance(node, fx.Node)
                return node
            found = f"'{node.target}' is a {type(module).__name__}"
            break
    raise OptionError(
        Problem(
            "",
            "the finite difference gradient needs a convolution or a linear layer that is trained first",
            found,
            "leave surrogate.adapt out",
        )
    )


def _channelwise(graph: fx.GraphModule, first: fx.Node) -> Iterator[fx.Node]:
    """Yield the batch norm and the neurons behind the first layer, where nothing else hears it."""
    node = first
    for kind in (nn.BatchNorm2d, LIF):
        users = list(node.users)
        if len(users) == 1 and isinstance(_module(graph, users[0]), kind):
            node = users[0]
            yield node


def _module(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _drawn(weights: int, most: int, seed: int) -> Tensor:
    """Return the places of the weights to move, in order."""
    if weights <= most:
        return torch.arange(weights)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(weights, generator=generator)[:most].sort().values


def _mean_over_processes(values: Tensor) -> Tensor:
    if processes() > 1:
        values = values.contiguous()
        distributed.all_reduce(values)
        values /= processes()
    return values


@contextmanager
def _as_in_training(network: nn.Module, dspike: Dspike) -> Iterator[None]:
    """Let `network` compute as in training, without masks, and leave no trace of it."""
    modes = {module: module.training for module in network.modules()}
    surrogates = (getattr(module, "surrogate", None) for module in network.modules())
    masks = {mask: mask.probability for mask in surrogates if isinstance(mask, Masked)}
    temperature = dspike.temperature
    network.train()
    for mask in masks:
        mask.probability = 0.0
    try:
        with unmoved_statistics(network):
            yield
    finally:
        dspike.temperature = temperature
        for mask, probability in masks.items():
            mask.probability = probability
        for module, mode in modes.items():
            module.training = mode
