"""
Turn operations into populations of neurons and the synapses between them.

Everything between two populations is linear, so what arrives at a node is

    I(t) = sum_k M_k x_k(t - d_k) + c

over the populations x_k that reach it: walking along the edges, linear nodes compose their maps
(`neurocompile.linear`), fan-in adds, delays and feedback add to d, and c is what the nodes make of
silence. That removes pools, scales, reshapes, delays and chains of linear layers exactly. A neuron

    i = a i + I      u = d v + (1 - d) leak + g i

takes the gain into its synapses, and leak and c into its bias. Where the current remembers (a > 0), a
constant input builds up, to

    c (1 + a + ... + a^(t - 1))  =  c / (1 - a)  -  a^(t - 1) (c a / (1 - a))

which is a bias, and a pulse of input at the first step that the current forgets. What feeds an output
without firing becomes a read-out population.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.data import InputRange
from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.integer import Shape
from neurocompile.ir import (
    LIF,
    Conv2d,
    Delay,
    Dense,
    Flatten,
    Float,
    Input,
    Integrator,
    Linear,
    Network,
    Output,
    Reshape,
    frozen_array,
    output_shape,
)
from neurocompile.legal import LONGEST_DELAY
from neurocompile.linear import (
    LARGEST_MATRIX,
    Diagonal,
    Map,
    Matrix,
    TooLargeError,
    Window,
    added,
    compose,
    identity,
    map_of,
    masked,
    matrix_of,
    operator_of,
)
from neurocompile.names import free_name
from neurocompile.populations import (
    InputPopulation,
    Population,
    PopulationNetwork,
    ReadoutPopulation,
    SpikingPopulation,
    SynapseGroup,
)
from neurocompile.reference import apply_stateless

SPIKES = InputRange(0.0, 1.0, 1.0)
MOST_PATHS = 1024  # into one node: sums of sums multiply

Delays = NDArray[np.int64]


@dataclass(frozen=True)
class Path:
    """
    `linear` of what population `source` sent `delay` steps ago.

    `delay` is one number, one per source neuron, or, of a matrix, one per entry.
    """

    source: str
    linear: Map
    delay: Delays
    layers: tuple[str, ...] = ()  # the linear nodes on the way, nearest last


@dataclass(frozen=True)
class Arriving:
    """What arrives at a node, or leaves a linear one: a sum over paths, and a constant (*shape)."""

    paths: tuple[Path, ...]
    constant: Float


def assemble(network: Network) -> PopulationNetwork:
    """
    Return the populations and synapses of `network`; nothing else is left afterwards.

    An input whose range is not known carries spikes. Raises `UnsupportedError` with everything that
    cannot become a population or a synapse group.
    """
    walk = _Walk(network)
    populations: list[Population] = []
    named: list[tuple[str, Path]] = []
    outputs: dict[str, str] = {}
    problems: list[Problem] = []
    for name, node in network.nodes.items():
        try:
            if isinstance(node, Input):
                populations.append(InputPopulation(name, node.shape, node.range or SPIKES))
            elif isinstance(node, LIF):
                problems += _problems_of_neurons(name, node)
                arriving = _amplified(name, walk.into(name), node.gain)
                populations.append(_spiking(name, node, arriving.constant))
                named += [(name, path) for path in arriving.paths]
            elif isinstance(node, Integrator):
                problems += _problems_of_integrator(network, name, node)
                arriving = _amplified(name, walk.into(name), node.gain)
                bias, pulse = _steady(name, arriving.constant, node.current_decay)
                bias = bias + (1 - node.decay) * node.leak
                populations.append(
                    ReadoutPopulation(
                        name,
                        node.shape,
                        _narrow(bias),
                        decay=_narrow(node.decay),
                        current_decay=_narrow(node.current_decay),
                        pulse=_narrow(pulse),
                    )
                )
                named += [(name, path) for path in arriving.paths]
            elif isinstance(node, Output):
                shown = _shown_population(network, name)
                if shown is None:
                    taken = {*network.of_type(Input | LIF | Integrator), *outputs.values()}
                    first = network.sources(name)[0]
                    shown = first if first not in taken else free_name(taken, name)
                    arriving = walk.into(name)
                    populations.append(
                        ReadoutPopulation(shown, node.shape, _narrow(arriving.constant))
                    )
                    named += [(shown, path) for path in arriving.paths]
                outputs[name] = shown
        except _RefusedError as refused:
            problems += refused.problems
    raise_all(UnsupportedError, dict.fromkeys(problems))
    groups = _groups(network, populations, named)
    return PopulationNetwork(
        tuple(populations), groups, outputs, network.steps, network.weight_unit
    )


class _RefusedError(Exception):
    def __init__(self, *problems: Problem) -> None:
        self.problems = problems


class _Walk:
    """Follows the linear nodes back to the populations, each node once."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.leaving: dict[str, Arriving | _RefusedError] = {}
        for name, node in network.nodes.items():
            if isinstance(node, Linear):  # in order, so that no walk is long
                with suppress(_RefusedError):  # whoever hears it will say so
                    self.out_of(name)

    def into(self, name: str) -> Arriving:
        """Return what arrives at the node `name`."""
        network = self.network
        shape = _input_shape(network, name)
        paths: list[Path] = []
        constant: Float = np.zeros(shape)
        for source in network.sources(name):
            leaving = self.out_of(source)
            self._check_paths(name, len(paths) + len(leaving.paths))
            late = int((source, name) in network.feedback)
            paths += [replace(path, delay=path.delay + late) for path in leaving.paths]
            constant = constant + leaving.constant
        return Arriving(_merged(paths), constant)

    @staticmethod
    def _check_paths(name: str, count: int) -> None:
        if count > MOST_PATHS:
            raise _RefusedError(
                Problem(
                    name,
                    f"needs at most {MOST_PATHS} paths into it",
                    f"there are {count}",
                    "put neurons between the additions",
                )
            )

    def out_of(self, name: str) -> Arriving:
        """Return what leaves the node `name`."""
        if name not in self.leaving:
            try:
                self.leaving[name] = self._out_of(name)
            except _RefusedError as refused:
                self.leaving[name] = refused
        leaving = self.leaving[name]
        if isinstance(leaving, _RefusedError):
            raise leaving
        return leaving

    def _out_of(self, name: str) -> Arriving:
        node, shape = self.network.nodes[name], self.network.shapes[name]
        if isinstance(node, Input | LIF):
            own = Path(name, identity(shape), frozen_array(0, np.int64))
            result = Arriving((own,), np.zeros(shape))
        elif isinstance(node, Integrator):
            raise _RefusedError(
                Problem(
                    name,
                    "must feed an output and nothing else, as it does not fire",
                    f"it feeds {', '.join(self.network.targets(name))}",
                )
            )
        else:
            arriving = self.into(name)
            try:
                result = (
                    _delayed(name, node, arriving)
                    if isinstance(node, Delay)
                    else self._through(name, arriving)
                )
            except TooLargeError:
                raise _RefusedError(
                    Problem(
                        name,
                        "cannot be merged into one layer with those before it",
                        "only a matrix could hold the result exactly, and it would be too large",
                        "use windows without overlap that divide their input, or no padding",
                    )
                ) from None
        return result

    def _through(self, name: str, arriving: Arriving) -> Arriving:
        node = self.network.nodes[name]
        assert isinstance(node, Linear)
        linear = map_of(node, _input_shape(self.network, name))
        paths = [
            replace(
                path,
                linear=compose(linear, path.linear),
                layers=path.layers if isinstance(node, Flatten | Reshape) else (*path.layers, name),
            )
            for whole in arriving.paths
            for path in ([whole] if isinstance(linear, Diagonal) else _by_steps(whole))
        ]
        self._check_paths(name, len(paths))
        return Arriving(_merged(paths), _constant_of(node, arriving.constant))


def _constant_of(node: Linear, constant: Float) -> Float:
    """Return what `node` makes of a constant; of silence it is known: the bias, everywhere."""
    if constant.any():
        made: Float = apply_stateless(node, constant[np.newaxis])[0]
        return made
    silence: Float = np.zeros(output_shape(node, constant.shape))
    if not isinstance(node, Dense | Conv2d):
        return silence
    return silence + node.bias.reshape(-1, *[1] * (silence.ndim - 1))


def _delayed(name: str, node: Delay, arriving: Arriving) -> Arriving:
    if arriving.constant.any():
        raise _RefusedError(
            Problem(
                name,
                "cannot delay a bias, which acts from the first step on",
                "a layer with a bias is before it",
                "put the delay before that layer",
            )
        )
    paths: list[Path] = []
    for path in arriving.paths:
        layers = (*path.layers, name)
        if not node.steps.ndim or (node.steps == node.steps.flat[0]).all():
            late: Delays = path.delay + node.steps.flat[0]
            _check_delay(name, late)
            paths.append(replace(path, delay=late, layers=layers))
            continue
        own = node.steps.ravel()
        if _by_channel(path.linear, own):  # a convolution of some channels stays one
            for steps in np.unique(own):
                late = path.delay + steps
                _check_delay(name, late)
                part = masked(path.linear, own == steps)
                told = (*path.layers, f"{name}={steps}")
                paths.append(replace(path, linear=part, delay=late, layers=told))
            continue
        if isinstance(path.linear, Diagonal):
            late = np.broadcast_to(path.delay.ravel(), own.shape) + own
            linear: Map = path.linear
        else:
            rows, columns = path.linear.sizes
            if rows * max(rows, columns) > LARGEST_MATRIX:
                raise TooLargeError
            late = np.broadcast_to(path.delay, (rows, columns)) + own[:, np.newaxis]
            linear = Matrix(matrix_of(path.linear))
        _check_delay(name, late)
        paths.append(replace(path, linear=linear, delay=late, layers=layers))
    return Arriving(tuple(paths), arriving.constant)


def _by_channel(linear: Map, steps: Delays) -> bool:
    """Return whether `linear` is a convolution all of whose channels are late as a whole."""
    if not isinstance(linear, Window):
        return False
    image = steps.reshape(linear.target)
    return bool((image == image[:, :1, :1]).all())


def _check_delay(name: str, delay: Delays) -> None:
    if delay.max(initial=0) > LONGEST_DELAY:
        raise _RefusedError(
            Problem(
                name,
                f"needs delays of at most {LONGEST_DELAY} steps, with those before it",
                f"the longest is {delay.max()}",
                "use a larger dt, or shorter delays",
            )
        )


def _by_steps(path: Path) -> list[Path]:
    """Return `path` as paths whose delays need not be told synapse by synapse."""
    if path.delay.ndim < 2:
        return [path]
    assert isinstance(path.linear, Matrix)
    weight = path.linear.weight
    return [
        replace(
            path, linear=Matrix(np.where(path.delay == steps, weight, 0)), delay=np.array(steps)
        )
        for steps in np.unique(path.delay)
    ]


def _input_shape(network: Network, name: str) -> Shape:
    return network.shapes[network.sources(name)[0]]


def _merged(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return `paths` with those added up that start alike and have maps of one form."""
    result: list[Path] = []
    places: dict[tuple[Any, ...], list[int]] = {}
    for path in paths:
        alike = (path.source, path.delay.shape, path.delay.tobytes(), type(path.linear))
        for place in places.setdefault(alike, []):
            total = added(result[place].linear, path.linear)
            if total is not None:
                result[place] = replace(result[place], linear=total)
                break
        else:
            places[alike].append(len(result))
            result.append(path)
    return tuple(result)


def _amplified(name: str, arriving: Arriving, gain: Float) -> Arriving:
    if (gain == 1).all():
        return arriving
    uniform = bool((gain == gain.flat[0]).all())
    factors = Diagonal(frozen_array(gain.flat[0] if uniform else gain), gain.shape)
    try:
        paths = tuple(
            replace(path, linear=compose(factors, path.linear)) for path in arriving.paths
        )
    except TooLargeError:
        raise _RefusedError(
            Problem(
                name,
                "needs one input gain per channel behind so large a convolution",
                "it differs from neuron to neuron",
                "scale thresholds instead, or train with a gain for each channel",
            )
        ) from None
    return Arriving(paths, arriving.constant * gain)


def _steady(name: str, constant: Float, current_decay: Float | None) -> tuple[Float, Float]:
    """Return the bias and the first step's pulse that do what a `constant` input does."""
    if current_decay is None or not constant.any():
        return constant, np.zeros(())
    if ((current_decay == 1) & (constant != 0)).any():
        raise _RefusedError(
            Problem(
                name,
                "needs a current that leaks, to get a bias",
                "its current never leaks, and would grow without end",
                "remove the bias before it",
            )
        )
    bias = constant / np.where(current_decay == 1, 0.5, 1 - current_decay)
    return bias, -bias * current_decay


def _spiking(name: str, node: LIF, constant: Float) -> SpikingPopulation:
    start = np.zeros(()) if node.start is None else node.decay * node.start
    bias, pulse = _steady(name, constant, node.current_decay)
    return SpikingPopulation(
        name,
        node.shape,
        decay=_narrow(node.decay),
        threshold=_narrow(node.threshold),
        bias=_narrow(bias + (1 - node.decay) * node.leak, scalar=False),
        current_decay=_narrow(node.current_decay),
        start=_narrow(start),
        pulse=_narrow(pulse),
        origin=_narrow(node.origin),
        reset=node.reset,
        comparison=node.comparison,
        subtracts=None if node.subtracts is None else _narrow(node.subtracts),
        most_spikes=node.most_spikes,
        floor=None if node.floor is None else _narrow(node.floor),
        refractory=node.refractory,
    )


def _narrow(values: Float | None, *, scalar: bool = True) -> Float:
    """Return one number where all `values` are equal, (channels, 1, 1) where channels are."""
    if values is None:
        return frozen_array(0.0)
    if scalar and values.size and (values == values.flat[0]).all():
        return frozen_array(values.flat[0])
    if values.ndim == 3 and (values == values[:, :1, :1]).all():
        return values[:, :1, :1]
    return values


def _shown_population(network: Network, output: str) -> str | None:
    """Return the population whose spikes or membranes are the output; None if it needs a read-out."""
    sources = network.sources(output)
    if len(sources) > 1 or (sources[0], output) in network.feedback:
        return None
    return sources[0] if isinstance(network.nodes[sources[0]], LIF | Integrator) else None


def _groups(
    network: Network, populations: list[Population], named: list[tuple[str, Path]]
) -> tuple[SynapseGroup, ...]:
    """Return the synapse groups of all paths, each with a name of its own."""
    shapes = {population.name: population.shape for population in populations}
    assert len(shapes) == len(populations)
    paths = [(target, path) for target, path in _with_synaptic_delays(named)]
    short = [_short_name(network, path) for _, path in paths]
    names: set[str] = set()
    groups = []
    for (target, path), name in zip(paths, short, strict=True):
        unique = short.count(name) == 1
        layers = ">".join(path.layers)
        long = ">".join(part for part in (path.source, layers, target) if part)
        chosen = free_name(names, name if name and unique else long)
        names.add(chosen)
        operator, source_view, target_view = operator_of(path.linear)
        delay = path.delay
        if delay.ndim == 1:
            delay = delay.reshape(shapes[path.source])
        if isinstance(operator, Dense):
            source_view, target_view = shapes[path.source], shapes[target]
        groups.append(
            SynapseGroup(chosen, path.source, target, operator, source_view, target_view, delay)
        )
    return tuple(groups)


def _short_name(network: Network, path: Path) -> str:
    """Return the name of the only weights on the way, "" if they serve several ways."""
    weights = [
        layer for layer in path.layers if isinstance(network.nodes.get(layer), Dense | Conv2d)
    ]
    alone = len(weights) == 1 and len(network.sources(weights[0])) == 1
    return weights[0] if alone else ""


def _with_synaptic_delays(named: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Join matrices of one pair that differ in delay and overlap nowhere: a delay per synapse."""
    result: list[tuple[str, Path]] = []
    for target, path in named:
        for place, (other_target, other) in enumerate(result):
            if (target, path.source) != (other_target, other.source):
                continue
            one, two = other.linear, path.linear
            if not isinstance(one, Matrix) or not isinstance(two, Matrix):
                continue
            delays = [item.delay for item in (other, path)]
            if any(delay.ndim == 1 for delay in delays) or (one.weight * two.weight).any():
                continue
            delay = np.where(two.weight != 0, delays[1], delays[0])
            joined = Matrix(one.weight + two.weight)
            result[place] = (target, replace(other, linear=joined, delay=delay))
            break
        else:
            result.append((target, path))
    return result


def _problems_of_leaks(name: str, node: LIF | Integrator) -> Iterable[Problem]:
    for what, values in (
        ("leak factor", node.decay),
        ("current's leak factor", node.current_decay),
    ):
        if values is not None and ((values < 0) | (values > 1)).any():
            extreme = values.flat[int(np.abs(values - 0.5).argmax())]
            yield Problem(name, f"needs a {what} between 0 and 1", f"it is {extreme:g}")


def _problems_of_neurons(name: str, node: LIF) -> Iterable[Problem]:
    if (node.threshold < 0).any():
        yield Problem(
            name,
            "needs a threshold of at least its reset voltage",
            f"it is {-node.threshold.min():g} below",
        )
    yield from _problems_of_leaks(name, node)
    if node.reset == "zero" and node.reset_to.any():
        yield Problem(name, "needs a reset to zero", "it is still to be shifted there")
    if node.reset == "subtract" and (node.threshold == 0).any():
        yield Problem(name, "needs a threshold above 0 to subtract", "it is 0")
    if (node.taken < 0).any() and node.reset == "subtract":
        yield Problem(
            name, "needs spikes that lower the membrane", f"they raise it by {-node.taken.min():g}"
        )


def _problems_of_integrator(network: Network, name: str, node: Integrator) -> Iterable[Problem]:
    yield from _problems_of_leaks(name, node)
    others = [
        target for target in network.targets(name) if not isinstance(network.nodes[target], Output)
    ]
    shared = [
        target
        for target in network.targets(name)
        if isinstance(network.nodes[target], Output) and len(network.sources(target)) > 1
    ]
    if others or shared:
        yield Problem(
            name,
            "must feed an output alone, as it does not fire",
            f"it feeds {', '.join(network.targets(name))}",
            "end the network there",
        )
