"""
The recordings of other frameworks, and how neurocompile reads and repeats each.

A recording was made by `record/with_<framework>.py` in that framework's own environment: the bytes of
the file that its exporter wrote, the input, and the spikes that it fired.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocompile.errors import NeurocompileError
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.ir import LIF
from neurocompile.reference import Trace, simulate

HERE = Path(__file__).parent
# Recordings of another seed, as `make conformance` makes them, pass the same tests.
RECORDINGS = Path(os.environ.get("NEUROCOMPILE_RECORDINGS", HERE / "recordings"))

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """
    One recording, read with `options`.

    `unsaid` is what the framework ran and neither its file nor any option can say: spikes differ.
    Spikes that a framework shows `late` steps after they were decided pass a delay behind our neurons.
    """

    framework: str
    file: str
    neuron: str
    setting: str
    options: Options = field(default_factory=dict)
    unsaid: str = ""
    late: int = 0

    @property
    def id(self) -> str:
        said = "-".join(f"{value}" for name, value in self.options.items() if name != "profile")
        return f"{self.framework}-{self.file}" + (f"-{said}" if said else "")

    @property
    def flags(self) -> str:
        """The options as the command line spells them."""
        return " ".join(f"--{key.replace('_', '-')} {value}" for key, value in self.options.items())


@dataclass(frozen=True)
class Outcome:
    """What came of a case: the reason of a refusal, or counted spikes and the furthest membrane."""

    refusal: str = ""
    places: int = 0
    mismatches: int = 0
    first: str = ""
    membrane_error: float = 0.0

    @property
    def exact(self) -> bool:
        return not self.refusal and not self.mismatches


@cache
def load(framework: str, file: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a recording."""
    with np.load(RECORDINGS / framework / f"{file}.npz") as arrays:
        return {name: arrays[name] for name in arrays}


def read(case: Case, **changes: Any) -> Imported:
    """Import the recorded file with the options of `case`, some of them changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{case.file}.nir"
        path.write_bytes(load(case.framework, case.file)["nir"].tobytes())
        return from_nir(path, **{**case.options, **changes})


def replay(case: Case, **changes: Any) -> Outcome:
    """Return how the recording and the reference simulator compare."""
    try:
        imported = read(case, **changes)
    except NeurocompileError as error:
        return Outcome(refusal="; ".join(str(problem) for problem in error.problems))
    recorded = load(case.framework, case.file)
    trace = simulate(imported.network, recorded["input"], membranes=True)
    places = mismatches = 0
    first, furthest = "", 0.0
    for name, values in recorded.items():
        kind, _, layer = name.partition("/")
        if kind == "spikes":
            wrong = delayed(trace.spikes[layer], case.late) != values
            places += wrong.size
            mismatches += int(wrong.sum())
            if wrong.any() and not first:
                sample, step, *neuron = np.argwhere(wrong)[0].tolist()
                first = f"layer '{layer}', sample {sample}, step {step}, neuron {neuron}"
        elif kind in ("membrane", "after"):
            ours = membrane(imported, trace, layer, after=kind == "after")[: len(values)]
            furthest = max(furthest, float(np.abs(ours - values).max()))
    if not any(name.startswith("spikes/") for name in recorded) or not mismatches:
        furthest = max(furthest, float(np.abs(trace.output - recorded["output"]).max()))
    return Outcome("", places, mismatches, first, furthest)


def delayed(spikes: NDArray[Any], steps: int) -> NDArray[Any]:
    """Return spikes some steps later, none before."""
    silent = np.zeros_like(spikes[:, :steps])
    return np.concatenate([silent, spikes[:, : spikes.shape[1] - steps]], axis=1)


def membrane(imported: Imported, trace: Trace, layer: str, *, after: bool) -> NDArray[np.float64]:
    """Return the membrane that decided about spikes, or what the reset left of it."""
    before, spikes = trace.membrane[layer], trace.spikes[layer]
    node = imported.network.nodes[layer]
    if not after or not isinstance(node, LIF):
        return before
    if node.reset == "subtract":
        left: NDArray[np.float64] = before - spikes * node.taken
        if f"{layer}.held" in trace.spikes:  # snnTorch gives back what it took before it compared
            left += node.threshold * delayed(trace.spikes[f"{layer}.held"], 1)
        return left
    return np.where(spikes > 0, node.reset_to, before)


def _snntorch() -> list[Case]:
    cases = []
    kinds = {"leaky": "Leaky", "synaptic": "Synaptic", "rleaky": "RLeaky", "rsynaptic": "RSynaptic"}
    for kind, neuron in kinds.items():
        for reset in ("zero", "subtract"):
            for at in ("next", "spike"):
                if kind == "rsynaptic" and at == "spike":
                    continue
                setting = f"reset_mechanism={reset!r}, reset_delay={at == 'next'}"
                options = {"profile": "snntorch", "reset": reset, "reset_at": at}
                cases.append(Case("snntorch", f"{kind}_{reset}_{at}", neuron, setting, options))
    subtract = {"profile": "snntorch", "reset": "subtract", "reset_at": "next"}
    zero = {"profile": "snntorch", "reset": "zero", "reset_at": "next"}
    return [
        *cases,
        Case("snntorch", "leaky_of_each_kind", "Leaky", "a beta and a threshold each", subtract),
        Case("snntorch", "leaky_beta_0.9", "Leaky", "beta 0.9", subtract),
        Case(
            "snntorch",
            "leaky_subtract_spike_weak",
            "Leaky",
            "reset_mechanism='subtract', reset_delay=False, membranes below 2 thresholds",
            {**subtract, "reset_at": "spike"},
        ),
        Case("snntorch", "leaky_beta_1", "Leaky", "beta 1", subtract),
        Case("snntorch", "rleaky_one_to_one", "RLeaky", "all_to_all=False", zero),
        Case("snntorch", "conv", "Leaky", "Conv2d, AvgPool2d, Flatten, Linear", zero),
        Case(
            "snntorch",
            "padded_pool",
            "Leaky",
            "AvgPool2d(2, stride=3, padding=1)",
            zero,
            unsaid="the padding of pools is not exported",
        ),
        Case(
            "snntorch",
            "leaky_without_reset",
            "Leaky",
            "reset_mechanism='none'",
            zero,
            unsaid="that nothing is reset",
        ),
    ]


def _spikingjelly() -> list[Case]:
    files = {
        "if": ("IFNode", ""),
        "if_v_reset": ("IFNode", "v_reset=-0.25"),
        "lif": ("LIFNode", "tau=2"),
        "lif_input_kept": ("LIFNode", "decay_input=False"),
        "lif_v_reset": ("LIFNode", "v_reset=-0.25"),
        "lif_v_reset_input_kept": ("LIFNode", "v_reset=-0.25, decay_input=False"),
        "lif_tau_3": ("LIFNode", "tau=3"),
        "parametric_lif": ("ParametricLIFNode", "init_tau=2"),
        "cuba_lif": ("CUBALIFNode", ""),
        "cuba_lif_v_reset": ("CUBALIFNode", "v_reset=-0.25"),
        "conv": ("LIFNode", "Conv2d, AvgPool2d with padding, Flatten, Linear"),
    }
    options = {"profile": "spikingjelly", "dt": 1e-4}
    cases = [Case("spikingjelly", file, *about, options) for file, about in files.items()]
    of_one = Case(
        "spikingjelly",
        "lif_step_of_one",
        "LIFNode",
        "tau=4, exported with dt=1",
        {**options, "dt": 1.0},
    )
    return [*cases, of_one]


def _norse() -> list[Case]:
    exact = {"profile": "norse", "dt": 2.0**-10}
    zero = {**exact, "reset": "zero"}
    default = {"profile": "norse", "dt": 1e-3, "reset": "zero"}
    lost = "v_reset is not exported"
    return [
        Case("norse", "lifbox", "LIFBoxCell", "", zero),
        Case(
            "norse", "lifbox_defaults", "LIFBoxCell", "dt and time constant as by default", default
        ),
        Case(
            "norse",
            "lifbox_subtract",
            "LIFBoxCell",
            "reset_method=reset_subtract",
            {**exact, "reset": "subtract"},
        ),
        Case("norse", "lifbox_v_leak", "LIFBoxCell", "v_leak=0.25", zero),
        Case("norse", "lifbox_v_reset", "LIFBoxCell", "v_reset=-0.25", zero, unsaid=lost),
        Case("norse", "iaf", "IAFCell", "", zero),
        Case("norse", "iaf_v_reset", "IAFCell", "v_reset=-0.25", zero, unsaid=lost),
        Case("norse", "lif", "LIFCell", "", zero),
        Case("norse", "lif_defaults", "LIFCell", "dt and time constants as by default", default),
        Case("norse", "li_readout", "LIBoxCell", "a read-out", zero),
        Case("norse", "conv", "LIFBoxCell", "Conv2d", zero),
    ]


def _sinabs() -> list[Case]:
    base = {"profile": "sinabs"}
    iaf = {**base, "reset": "subtract", "max_spikes": "any", "min_membrane": "none"}
    lif = {**iaf, "input_gain": "leak"}
    clipped = {**iaf, "min_membrane": "threshold"}
    return [
        Case("sinabs", "iaf", "IAFSqueeze", "", iaf),
        Case("sinabs", "iaf_clipped", "IAFSqueeze", "min_v_mem=-1", clipped),
        Case(
            "sinabs",
            "iaf_clipped_at_half",
            "IAFSqueeze",
            "min_v_mem=-0.5",
            {**iaf, "min_membrane": -0.5},
        ),
        Case(
            "sinabs", "iaf_single", "IAFSqueeze", "spike_fn=SingleSpike", {**iaf, "max_spikes": 1}
        ),
        Case(
            "sinabs", "iaf_zero", "IAFSqueeze", "reset_fn=MembraneReset()", {**iaf, "reset": "zero"}
        ),
        Case("sinabs", "lif", "LIFSqueeze", "a time constant each", lif),
        Case("sinabs", "lif_scalar", "LIFSqueeze", "one time constant", lif),
        Case(
            "sinabs", "lif_input_kept", "LIFSqueeze", "norm_input=False", {**lif, "input_gain": "1"}
        ),
        Case(
            "sinabs",
            "lif_single_clipped",
            "LIFSqueeze",
            "norm_input=False, spike_fn=SingleSpike, min_v_mem=-1",
            {**lif, "input_gain": "1", "max_spikes": 1, "min_membrane": "threshold"},
        ),
        Case(
            "sinabs", "lif_zero", "LIFSqueeze", "reset_fn=MembraneReset()", {**lif, "reset": "zero"}
        ),
        Case(
            "sinabs",
            "lif_tau_syn",
            "LIFSqueeze",
            "tau_syn=3",
            lif,
            unsaid="the synaptic time constant is not exported",
        ),
        Case(
            "sinabs",
            "exp_leak_readout",
            "ExpLeakSqueeze",
            "a read-out",
            {**clipped, "input_gain": "1"},
        ),
        Case("sinabs", "conv", "IAFSqueeze", "Conv2d, SumPool2d, Flatten, Linear", clipped),
    ]


def _rockpool() -> list[Case]:
    options = {"profile": "rockpool", "dt": 1e-3}
    return [
        Case("rockpool", "lif_neuron", "LIFNeuronTorch", "", options),
        Case(
            "rockpool",
            "lif_neuron_single",
            "LIFNeuronTorch",
            "max_spikes_per_dt=1",
            {**options, "max_spikes": 1},
        ),
        Case(
            "rockpool",
            "lif_neuron_bias",
            "LIFNeuronTorch",
            "bias=0.1",
            options,
            unsaid="the bias is not exported",
        ),
        Case("rockpool", "lif", "LIFTorch", "", options),
        Case(
            "rockpool",
            "lif_recurrent",
            "LIFTorch",
            "has_rec=True",
            options,
            unsaid="recurrent weights are not exported",
        ),
        Case("rockpool", "exp_syn_readout", "ExpSynTorch", "a read-out", options),
    ]


def _spyx() -> list[Case]:
    options = {"profile": "spyx", "dt": 1.0}
    files = {
        "if": ("IF", ""),
        "lif": ("LIF", "beta=0.5"),
        "cuba_lif": ("CuBaLIF", ""),
        "psu_lif": ("PSU_LIF", ""),
        "rif": ("RIF", ""),
        "rlif": ("RLIF", ""),
        "rcuba_lif": ("RCuBaLIF", ""),
        "conv": ("LIF", "Conv, SumPool"),
    }
    cases = [
        Case("spyx", file, *about, options, late=int(file != "psu_lif"))
        for file, about in files.items()
    ]
    return [
        *cases,
        Case(
            "spyx",
            "lif_small_step",
            "LIF",
            "exported with dt=1/1024",
            {**options, "dt": 2.0**-10},
            late=1,
        ),
        Case(
            "spyx",
            "flatten",
            "Flatten",
            "of an image",
            options,
            late=1,
            unsaid="the weights behind it expect the channels last, NIR flattens them first",
        ),
    ]


CASES = (*_snntorch(), *_norse(), *_spikingjelly(), *_sinabs(), *_rockpool(), *_spyx())
