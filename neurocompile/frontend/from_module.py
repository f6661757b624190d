"""
Understand a PyTorch module with spiking neurons: which discrete-time network is it?

A module knows what a NIR file does not say: how its neurons reset, when, and whether they fire at their
threshold or above it. So it is not exported and read back, but run once, on tensors that record what
is done with them (`modules.recording`), and taken apart:

    run       once, in evaluation, in the layout in which it takes time
    one step  what every step does alike, as a graph of layers (`modules.step_graph`)
    folding   batch norms into the layers around them, in float64 (`fold_batchnorm`)
    network   layers and neurons as nodes (`modules.layers`, `modules.neurons`, `modules.lowering`)
    proof     the module and the network are run on the same random inputs: their spikes are equal,
              but for membranes that rounding puts on the other side of a threshold, or it is refused

Neurons of snnTorch, SpikingJelly and our own are known; neither package is needed here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neurocompile.data import InputRange
from neurocompile.errors import (
    EquivalenceError,
    NeurocompileError,
    OptionError,
    Problem,
    UnsupportedError,
    raise_all,
)
from neurocompile.frontend.fold_batchnorm import fold_batchnorm
from neurocompile.frontend.from_nir import Imported
from neurocompile.frontend.modules.evaluation_copy import evaluation_copy
from neurocompile.frontend.modules.lowering import Lowered, lower
from neurocompile.frontend.modules.recording import (
    STEPS,
    Layout,
    Recorder,
    RefusedError,
    Traced,
    Value,
    is_leaf,
)
from neurocompile.frontend.modules.starting import starts_like
from neurocompile.frontend.modules.step_graph import step_graph
from neurocompile.frontend.value_bounds import ValueBounds
from neurocompile.integer import Shape
from neurocompile.ir import (
    LIF,
    Float,
    Input,
    Network,
    Scale,
)
from neurocompile.reference import simulate
from neurocompile.training.networks import SpikingNetwork, weights_of
from neurocompile.training.neurons import LIF as OwnLIF  # noqa: N811 - a class, for all its letters
from neurocompile.validation import affordable_samples

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
PROOF_SAMPLES = 4
FEWEST_SAMPLES = 2  # of networks whose samples are long: each compares millions of spikes
PROOF_STEPS = 8
PROOF_MULTIPLICATIONS = 1e10  # of the network, in float64: about a second
PROOF_SEED = 20260214
ROUNDING = 1e-4  # of float32 membranes, relative to the larger of their size and the threshold's
SPIKES = InputRange(0, 1, 1)


@dataclass(frozen=True)
class _Run:
    """A module that was run: what it recorded, what it returned, and how it takes time."""

    recorder: Recorder
    layout: Layout
    extra: int
    output: Value


def from_module(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    steps: int | None = None,
    input_range: InputRange | None = None,
    layout: str = "auto",
) -> Imported:
    """
    Return the network that `module` is in evaluation, for inputs of `input_shape` (no batch, no time).

    `layout` says how the module takes time, where it can not be told: "step" (a call is one step, for
    (batch, *shape)), "time first" and "batch first" (a call is a whole sample), "constant" (the module
    makes its own steps of one input), or "merged" (batch times steps, with the number of steps).
    `steps` is how many a sample has, which a module with a time axis and a loop of its own must be
    told. Without an `input_range`, inputs are spikes. `inferred` says what was found.

    Raises `UnsupportedError` with everything that has no exact counterpart, `OptionError` for inputs
    that the module does not take, and `EquivalenceError` if the network fires other spikes.
    """
    shape = tuple(int(size) for size in input_shape)
    problems = []
    if layout not in ("auto", *LAYOUTS):
        remedy = f"choose from {', '.join(LAYOUTS)}"
        problems.append(Problem("", f"there is no layout '{layout}'", remedy=remedy))
    if steps is not None and steps < 1:
        problems.append(Problem("", "needs at least 1 step", f"it is {steps}"))
    if not shape or min(shape) < 1:
        problems.append(
            Problem("", "needs an input shape without batch and time", f"it is {shape}")
        )
    raise_all(OptionError, problems)
    copied = evaluation_copy(module).cpu()
    if is_leaf(copied) or _has_no_parts(copied):
        copied = nn.Sequential(copied)
    run = _run(copied, shape, steps, layout)
    network, folded = _network(run, shape, steps, input_range)
    proof = _prove(copied, run, network)  # which has not run yet, as its copies have
    inferred = {
        "layout": _words(run),
        "neurons": "; ".join(
            f"{name}: {called.neurons.kind}" for name, called in run.recorder.called.items()
        ),
        "input": "spikes, 0 or 1, as no range is given"
        if input_range is None
        else str(input_range),
        "proof": proof,
    }
    if folded:
        inferred["batch norms"] = f"{folded} folded, in float64"
    if run.output.note:
        inferred["output"] = f"of every step; the module takes the {run.output.note} of them"
    if network.feedback:
        late = "; ".join(f"{source} -> {target}" for source, target in sorted(network.feedback))
        inferred["feedback"] = f"{late}, one step later"
    return Imported(network, inferred, weights_of(module))


def _has_no_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is None or bool(
        Recorder(module, (1,)).neurons.get(id(module))
    )


# Running ----------------------------------------------------------------------------------------


def _run(module: nn.Module, shape: Shape, steps: int | None, layout: str) -> _Run:
    """Return the run in the given layout, or in the first that fits the module."""
    if not Recorder(module, shape).neurons:
        raise UnsupportedError(
            Problem(
                "",
                "needs layers of spiking neurons",
                "there are none of snnTorch, SpikingJelly or our own",
                "a network without spikes must be converted and trained first",
            )
        )
    recorder = Recorder(module, shape)
    raise_all(
        UnsupportedError,
        (
            Problem(recorder.names[number], *found.broken)
            for number, found in recorder.neurons.items()
            if found.broken
        ),
    )
    chosen = [layout] if layout != "auto" else _layouts(module)
    failures: list[NeurocompileError] = []
    for candidate in chosen:
        try:
            run = _attempt(evaluation_copy(module), shape, steps, candidate)  # type: ignore[arg-type]
        except NeurocompileError as error:
            failures.append(error)
            continue
        # That it makes one step of its own is what a module looks like that forgets its state
        if layout != "auto" or candidate != "constant" or run.recorder.steps != 1 or steps == 1:
            return run
    # The first layout is the likeliest; others are only guesses
    raise failures[0]


def _layouts(module: nn.Module) -> list[str]:
    """Return the layouts in which a module may take time, the likeliest first."""
    if isinstance(module, SpikingNetwork):
        return ["batch first"]
    if any(isinstance(part, OwnLIF) for part in module.modules()):
        return ["merged", "batch first", "time first"]
    timings = {found.timing for found in Recorder(module, (1,)).neurons.values()}
    if "time first" in timings:
        return ["time first", "batch first", "constant"]
    return ["step", "constant", "time first", "batch first"]


def _attempt(module: nn.Module, shape: Shape, steps: int | None, layout: Layout) -> _Run:
    recorder = Recorder(module, shape)
    times = STEPS if layout == "step" else steps or recorder.times
    _forget(module)
    generator = torch.Generator().manual_seed(PROOF_SEED)
    x = torch.rand(times, recorder.batch, *shape, generator=generator)
    x = x.to(next((p.dtype for p in module.parameters()), torch.float32))
    extra = _states_taken(module) if layout == "step" else 0
    try:
        results = recorder.run(layout, x, extra)
        if layout == "step":
            _check_calls(recorder)  # what is used twice in a step makes other steps different, too
        output = _output(recorder, layout, results)
        _check_calls(recorder)
        if layout == "constant" and steps not in (None, recorder.steps):
            raise RefusedError(
                "",
                f"must take the {steps} steps asked for",
                f"it takes {recorder.steps} of its own",
            )
    except RefusedError as error:
        raise UnsupportedError(error.problem) from None
    except NeurocompileError:
        raise
    except Exception as error:
        where = {"step": "(batch, *shape)", "constant": "(batch, *shape)"}.get(
            layout, "with a time axis"
        )
        raise OptionError(
            Problem(
                "",
                f"the module must take an input of shape {shape}, {where}",
                f"it raises {type(error).__name__}: {_one_line(error)}",
                "give the shape of one step without the batch, and the layout",
            )
        ) from error
    return _Run(recorder, layout, extra, output)


def _states_taken(module: nn.Module) -> int:
    """Return how many parameters a module's forward pass needs behind its input."""
    parameters = [
        parameter
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return sum(parameter.default is parameter.empty for parameter in parameters[1:])


def _output(recorder: Recorder, layout: Layout, results: Sequence[Any]) -> Value:
    """Return what the module shows of every step."""
    if layout == "step":
        chosen = [_chosen(result) for result in results]
        found = _series(recorder, chosen)
    else:
        found = _over_time(recorder, results[0])
    if found is None:
        raise RefusedError(
            "",
            "must return a tensor that it makes alike at every step",
            "what it returns depends on more than one step, or on none",
            "return the spikes or the read-out of every step, or their sum or mean",
        )
    return found


def _over_time(recorder: Recorder, result: Any) -> Value | None:
    if isinstance(result, list | tuple) and (found := _series(recorder, list(result))) is not None:
        recorder.steps = len(result)
        return found
    if isinstance(result, list | tuple) and any(isinstance(part, list | tuple) for part in result):
        candidates = [_over_time(recorder, part) for part in result]
        return _one_of([value for value in candidates if value is not None])
    chosen = _chosen(result)
    if not isinstance(chosen, Traced):
        return None
    value = chosen.value
    if value.time in ("all", "over"):
        return value
    counts = {len(called.inputs) for called in recorder.called.values()}
    if value.total and counts == {len(value.total)}:
        recorder.steps = len(value.total)
        return value
    if counts == {1} and value.time == 0:
        recorder.steps = 1
        return value
    if isinstance(value.time, int) and counts == {value.time + 1}:
        recorder.steps = value.time + 1
        return Value(value.expr, value.time, note="last")
    return None


def _series(recorder: Recorder, parts: list[Any]) -> Value | None:
    if not parts or not all(isinstance(part, Traced) for part in parts):
        return None
    values = [part.value for part in parts]
    if len(parts) == 1 and values[0].time == 0:
        return Value(values[0].expr, 0)
    return recorder.series(values)


def _chosen(result: Any) -> Any:
    """Return the tensor that a module shows, where it returns states or spikes besides."""
    if not isinstance(result, list | tuple):
        return result
    parts = [part for part in result if isinstance(part, Traced)]
    if not parts:
        return None
    one = _one_of([part.value for part in parts])
    return next(part for part in parts if part.value is one)


def _one_of(values: Sequence[Value]) -> Value | None:
    """Return the only value that is no state; of states alone, the first."""
    shown = [value for value in values if value.expr.kind not in ("membrane", "current")]
    if len({id(value.expr) for value in shown}) > 1:
        names = ", ".join(f"the {value.expr.kind} of '{value.expr.name}'" for value in shown)
        raise RefusedError("", "must return one tensor besides states", f"it returns {names}")
    return next(iter((*shown, *values)), None)


def _check_calls(recorder: Recorder) -> None:
    """Refuse neurons that a step does not use exactly once, and steps that do something else."""
    for name, called in recorder.called.items():
        if called.neurons.timing != "step":
            continue
        if recorder.steps is not None and len(called.inputs) != recorder.steps:
            raise RefusedError(
                name,
                f"must be used once in each of the {recorder.steps} steps",
                f"it is used {len(called.inputs)} times",
                "make one for each place, or say how the module takes time with its layout",
            )
        different = {id(expr) for expr in called.inputs[1:]}
        if len(different) > 1:
            raise RefusedError(
                name,
                "must get the same in every step",
                f"its input is made in {len(different)} ways in {len(called.inputs)} steps",
            )
        first, last = called.inputs[0], called.inputs[-1]
        if not starts_like(recorder, first, last):
            raise RefusedError(
                name,
                "must get the same in every step",
                "the first one is made in another way",
                "start with spikes of 0",
            )


def _forget(module: nn.Module) -> None:
    """Put neurons into the state that they have before a sample."""
    for part in module.modules():
        memories = getattr(part, "_memories", None)
        starts = getattr(part, "_memories_rv", None)
        if isinstance(memories, dict) and isinstance(starts, dict):
            memories.update(copy.deepcopy(starts))
        elif type(part).__module__.startswith("snntorch"):
            for name in ("spk", "syn", "mem"):
                if isinstance(getattr(part, name, None), Tensor):
                    setattr(part, name, torch.zeros(0))


# The network ------------------------------------------------------------------------------------


def _network(
    run: _Run, shape: Shape, steps: int | None, limits: InputRange | None
) -> tuple[Network, int]:
    """Return the network of a run, and the number of batch norms that were folded into it."""
    written = step_graph(run.recorder, run.output.expr)
    problems = list(written.problems)
    graph = written.graph
    norms = sum("BatchNorm" in type(part).__name__ for part in graph.modules())
    try:
        graph = fold_batchnorm(graph)
    except UnsupportedError as error:
        problems += error.problems
    lowered = lower(graph, run.recorder.called, shape, limits)
    raise_all(UnsupportedError, dict.fromkeys((*problems, *lowered.problems)))
    network = Network(
        lowered.nodes,
        tuple(lowered.edges),
        _steps(run, steps),
        frozenset(lowered.feedback),
    )
    raise_all(UnsupportedError, _too_large(network, lowered))
    return network, norms


def _steps(run: _Run, given: int | None) -> int | None:
    """Return how many steps a sample has: as asked for, or as the module's own loop takes."""
    own = run.layout == "constant" or (
        run.layout in ("time first", "batch first")
        and any(called.neurons.timing == "step" for called in run.recorder.called.values())
    )
    if own and run.layout == "constant":
        return run.recorder.steps
    return given


def _too_large(network: Network, lowered: Lowered) -> Iterable[Problem]:
    """Yield the neurons whose inputs may be larger than those for which they are exact."""
    bounds = ValueBounds(network)
    for name, largest in lowered.limited.items():
        _, most = bounds.into(name)
        excess = most - largest
        if (excess > 0).any():
            worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
            yield Problem(
                name,
                f"needs inputs of at most {largest[worst]:g} to subtract its threshold at once",
                f"one may get {most[worst]:g}: snnTorch would then fire too late",
                "use reset_delay=True or reset_mechanism='zero'",
            )


# The proof --------------------------------------------------------------------------------------


def _prove(module: nn.Module, run: _Run, network: Network) -> str:
    """
    Run the module and its network on the same random inputs, and say in words that they agree.

    Raises `EquivalenceError` if spikes or read-outs differ by more than rounding explains.
    """
    steps = run.recorder.steps if _has_fixed_steps(run) else None
    steps = steps or min(network.steps or PROOF_STEPS, PROOF_STEPS)
    inputs = _probe(network, steps, constant=run.layout == "constant")
    spikes, outputs = _record(module, run, inputs)
    trace = simulate(network, inputs, membranes=True)
    alive = np.ones(len(inputs), bool)
    compared = rounded = 0
    problems: list[Problem] = []
    for step in range(steps):
        for name in network.of_type(LIF):  # in an order in which each follows its sources
            if name not in spikes:
                continue
            node = network.nodes[name]
            assert isinstance(node, LIF)
            ours, theirs = (
                trace.spikes[name][:, step] * _graded(network, name),
                spikes[name][:, step],
            )
            differs = (ours != theirs) & alive.reshape(-1, *[1] * (ours.ndim - 1))
            compared += int(alive.sum()) * ours[0].size
            if not differs.any():
                continue
            membrane = trace.membrane[name][:, step]
            size = np.maximum(np.maximum(abs(membrane), abs(node.threshold)), 1e-6)
            close = abs(membrane - node.threshold) <= ROUNDING * size
            if (differs & ~close).any():
                count = int((differs & ~close).sum())
                problems.append(
                    Problem(
                        name,
                        "must fire the spikes of the module",
                        f"{count} of {differs.size} differ at step {step}",
                        "it computes something that could not be seen: write it as a NIR graph",
                    )
                )
            rounded += int(differs.sum())
            alive &= ~differs.reshape(len(differs), -1).any(1)
        if problems:
            break
    raise_all(EquivalenceError, problems)
    raise_all(EquivalenceError, _compare_outputs(run, outputs, trace.output, alive))
    words = f"{compared} spikes of {len(inputs)} random samples are the module's"
    return f"{words}, {rounded} but for rounding" if rounded else words


def _graded(network: Network, name: str) -> Float:
    """Return what the module's neurons send for a spike."""
    scale = network.nodes.get(f"{name}.graded")
    factor = scale.scale if isinstance(scale, Scale) else np.ones(())
    return factor.astype(np.float32).astype(np.float64)


def _has_fixed_steps(run: _Run) -> bool:
    return run.layout == "constant" or any(
        run.layout in ("time first", "batch first") and called.neurons.timing == "step"
        for called in run.recorder.called.values()
    )


def _probe(network: Network, steps: int, *, constant: bool) -> NDArray[np.float32]:
    """Return random inputs (samples, steps, *shape) over the range that the network can see."""
    (name,) = network.of_type(Input)
    node = network.nodes[name]
    assert isinstance(node, Input)
    limits = node.range or SPIKES
    generator = np.random.default_rng(PROOF_SEED)
    samples = affordable_samples(
        network,
        steps=steps,
        least=FEWEST_SAMPLES,
        most=PROOF_SAMPLES,
        multiplications=PROOF_MULTIPLICATIONS,
    )
    shape = (samples, 1 if constant else steps, *node.shape)
    values = generator.uniform(limits.minimum, limits.maximum, shape)
    if limits.step:
        values = limits.minimum + np.rint((values - limits.minimum) / limits.step) * limits.step
    return np.repeat(values, steps if constant else 1, axis=1).astype(np.float32)


def _record(
    module: nn.Module, run: _Run, inputs: NDArray[np.float32]
) -> tuple[dict[str, NDArray[Any]], Any]:
    """Return the spikes of the module itself, (samples, steps, *shape), and what it returned."""
    _forget(module)
    spikes: dict[str, list[Tensor]] = {}
    parts = dict(module.named_modules())

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            spikes.setdefault(name, []).append(first.detach().clone())

        return keep

    handles = [parts[name].register_forward_hook(hook(name)) for name in run.recorder.called]
    x = torch.from_numpy(inputs).to(next((p.dtype for p in module.parameters()), torch.float32))
    try:
        with torch.no_grad():
            returned = _called(module, run, x)
    finally:
        for handle in handles:
            handle.remove()
    samples, steps = inputs.shape[:2]
    return {
        name: _samples_first(run.recorder.called[name].neurons.timing, given, samples, steps)
        for name, given in spikes.items()
    }, returned


def _called(module: nn.Module, run: _Run, x: Tensor) -> Any:
    """Return what the module returns for `x` (samples, steps, *shape); of each step, as a list."""
    match run.layout:
        case "step":
            states: tuple[Any, ...] = (None,) * run.extra
            results = []
            for now in x.unbind(1):
                result = module(now, *states)
                if run.extra:
                    states = tuple(result[-run.extra :])
                    result = tuple(result[: -run.extra])
                results.append(result)
            return results
        case "time first":
            return module(x.transpose(0, 1).contiguous())
        case "batch first":
            return module(x)
        case "merged":
            return module(x.flatten(0, 1), x.shape[1])
    return module(x[:, 0])


def _samples_first(timing: str, given: list[Tensor], samples: int, steps: int) -> NDArray[Any]:
    if timing == "step":
        return torch.stack(given, 1).numpy()
    (only,) = given
    if timing == "time first":
        return only.transpose(0, 1).numpy()
    return only.reshape(samples, steps, *only.shape[1:]).numpy()


def _compare_outputs(
    run: _Run, returned: Any, expected: NDArray[np.float64], alive: NDArray[np.bool_]
) -> Iterable[Problem]:
    """Yield where a module that returns one tensor returns another than the network makes."""
    if run.layout == "step":
        shown = all(isinstance(part, Tensor) for part in returned)
        values = torch.stack(returned, 1) if shown else None
    elif not isinstance(returned, Tensor):
        values = None
    elif run.output.note in ("sum", "mean"):
        values = returned
        expected = expected.sum(1) if run.output.note == "sum" else expected.mean(1)
    elif run.output.time != "all":
        values = None
    elif run.layout == "merged":
        values = returned.reshape(expected.shape)
    else:
        values = returned.transpose(0, 1) if run.output.lead == "tn" else returned
    if values is None or values.shape != expected.shape:
        return
    difference = abs(values.double().numpy() - expected)[alive]
    largest = float(difference.max(initial=0.0))
    if largest > ROUNDING * max(1.0, float(abs(expected).max(initial=0.0))):
        yield Problem(
            "",
            "the network must return what the module does",
            f"they differ by {largest:.3g}",
            "it computes something that could not be seen: write it as a NIR graph",
        )


def _words(run: _Run) -> str:
    return {
        "step": "one call for each step",
        "time first": "one call, time first",
        "batch first": "one call, time behind the batch",
        "merged": "one call, batch times steps",
        "constant": f"one call, which takes {run.recorder.steps} steps of one input",
    }[run.layout]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
