"""Fixtures of the tests of why spikes differ: random integer networks, and programs with their graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.data import Samples
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.integer import (
    READOUT_THRESHOLD,
    Arithmetic,
    Geometry,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.ir import Network
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import GRAPH, Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.samples import source_of_samples
from neurocompile.target import find
from neurocompile.verification.examine import examine
from neurocompile.verification.report import Examination
from neurocompile.verification.stages import Runner, plan_of
from neurocompile.verification.stream import count_all

CHIPS = (Arithmetic(), Arithmetic(fraction_bits=8, decay_bits=10, rounding="down"))
POWERS = (0.25, 0.5, 1.0, 2.0, 16.0)
ROUNDING = (
    Arithmetic(),
    Arithmetic(rounding="nearest", membrane_bits=12),
    Arithmetic(fraction_bits=4, decay_bits=8, current_bits=10, rounding="down"),
    Arithmetic(
        current_bits=11, membrane_bits=12, current_overflow="saturate", membrane_overflow="wrap"
    ),
)


class Maker:
    """
    Makes random integer networks: an image and a vector, a sum, feedback, delays of every kind.

    Unless they are to be `rounded`, no state ever is: decays are halves, and five steps are few enough for that.
    """

    def __init__(self, seed: int, *, rounded: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.rounded = rounded
        self.steps, self.samples = (9 if rounded else 5), 3
        chips = ROUNDING if rounded else CHIPS
        self.arithmetic = chips[self.random.integers(len(chips))]

    def one_of(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]

    def leak(self) -> int:
        one = self.arithmetic.decay_one
        if self.rounded:
            return int(self.random.integers(0, one + 1))
        return int(self.one_of(0, one // 2, one))

    def neurons(self, name: str, shape: tuple[int, ...], **given: Any) -> IntegerNeurons:
        one, units = self.arithmetic.decay_one, self.arithmetic.state_units
        threshold = self.random.integers(2, 12, (shape[0], *[1] * (len(shape) - 1)))
        scales = self.random.choice(POWERS, threshold.shape)
        own: dict[str, Any] = {
            "du": np.array(
                self.one_of(one - 1, max(0, self.leak() - 1) if self.rounded else one // 2 - 1)
            ),
            "dv": np.array(self.leak()),
            "threshold": self.one_of(threshold, np.array(5)),
            "bias_mantissa": self.random.integers(-2, 3, threshold.shape),
            "bias_exponent": int(self.random.integers(0, 4))
            if self.rounded
            else self.arithmetic.fraction_bits,
            "scale": self.one_of(scales, np.array(4.0)),
            "start": self.random.integers(-2, 3, threshold.shape) * units,
            "pulse": self.random.integers(-2, 3, threshold.shape),
            "origin": self.one_of(np.zeros(()), np.array(0.5)),
            "inclusive": bool(self.one_of(False, True)),
            "most": int(self.one_of(1, 1, 3)),
            "refractory": int(self.one_of(0, 0, 2)),
            "reset": self.one_of("zero", "subtract"),
            "floor": np.array(self.one_of(self.arithmetic.no_floor, -3 * units)),
            "arithmetic": self.arithmetic,
        }
        if self.one_of(False, True):
            own["subtracts"] = np.array(2 * units)
        return IntegerNeurons(name, shape, **{**own, **given})

    def readout(self, name: str, shows: Any) -> IntegerNeurons:
        plain = {"refractory": 0, "most": 1, "reset": "zero", "inclusive": False}
        return self.neurons(
            name,
            (2,),
            threshold=np.array(READOUT_THRESHOLD),
            shows=shows,
            floor=np.array(self.arithmetic.no_floor),
            start=np.zeros((), np.int64),
            origin=np.zeros(()),
            **plain,
        )

    def weights(self, *shape: int) -> Any:
        return self.random.integers(-4, 6, shape)

    def network(self) -> IntegerNetwork:
        """An image and a vector, a convolution, a sum, feedback, delays of each kind, two read-outs."""
        image = IntegerInput("image", (2, 3, 3), 8.0, -8, 8, exact=True)
        vector = IntegerInput("vector", (4,), 1.0, 0, 1, exact=True)
        populations = (
            image,
            vector,
            self.neurons("conv", (2, 3, 3)),
            self.neurons("side", (2, 3, 3), most=1),
            IntegerRelay("sum", (2, 3, 3), 4),
            self.neurons("hidden", (5,)),
            self.readout("now", "input"),
            self.readout("kept", "membrane"),
        )
        same = np.eye(18, dtype=np.int64)
        synapses = (
            IntegerSynapses(
                "host",
                "image",
                "conv",
                self.weights(2, 2, 3, 3) * (1 if self.rounded else 4),
                Geometry(padding=(1, 1)),
                exponent=-2,
                on_host=True,
            ),
            IntegerSynapses("apart", "conv", "side", self.weights(2, 1, 1, 1), Geometry(groups=2)),
            IntegerSynapses("vector>side", "vector", "side", self.weights(18, 4), exponent=1),
            IntegerSynapses("conv>sum", "conv", "sum", same),
            IntegerSynapses("side>sum", "side", "sum", same),
            IntegerSynapses(
                "late",
                "sum",
                "hidden",
                self.weights(5, 18),
                delay=self.random.integers(0, 3, (2, 3, 3)),
            ),
            IntegerSynapses(
                "back",
                "hidden",
                "hidden",
                self.weights(5, 5),
                delay=self.random.integers(1, 4, (5, 5)),
            ),
            IntegerSynapses("far back", "hidden", "conv", self.weights(18, 5), delay=np.array(1)),
            IntegerSynapses("hidden>now", "hidden", "now", self.weights(2, 5)),
            IntegerSynapses("hidden>kept", "hidden", "kept", self.weights(2, 5)),
        )
        return IntegerNetwork(
            populations, synapses, {"first": "now", "second": "kept", "third": "hidden"}
        )

    def payloads(self) -> dict[str, Any]:
        return {
            "image": self.random.integers(-8, 9, (self.samples, self.steps, 2, 3, 3)),
            "vector": self.random.integers(0, 2, (self.samples, self.steps, 4)),
        }

    def real_inputs(self, network: IntegerNetwork, payloads: dict[str, Any]) -> dict[str, Any]:
        """Return what the integers `payloads` stand for, by input."""
        return {item.name: payloads[item.name] / item.scale for item in network.inputs}


@pytest.fixture(scope="session")
def maker() -> type[Maker]:
    """Makes random integer networks, by a seed."""
    return Maker


@pytest.fixture
def program_of(opened: Callable[[Program], Program]) -> Callable[..., Program]:
    """Compiles a network and keeps its graph with the program, as an export does; options are those of compiling."""

    def make(
        network: Network, *, target: str = "fixedpoint", bits: int = 8, **options: Any
    ) -> Program:
        asked = CompileOptions(**{"recipe": Recipe(bits), "validate": False, **options})
        program = compile_network(network, find(target), asked)
        return opened(
            replace(
                program,
                facts={**program.facts, "source": {"kind": "module", "name": "net"}},
                extra_files={**program.extra_files, GRAPH: network_to_nir(network)},
            )
        )

    return make


@pytest.fixture
def look() -> Callable[..., tuple[Examination, dict[str, str]]]:
    """Examines a program on inputs (samples, steps, *shape), all of them unless told."""

    def make(
        program: Program,
        inputs: Any,
        labels: NDArray[np.int64] | None = None,
        *,
        count: int | None = None,
        **options: Any,
    ) -> tuple[Examination, dict[str, str]]:
        samples = Samples(inputs, labels)
        source = source_of_samples(samples)
        runner = Runner(program, plan_of(program))
        tally = count_all(runner, source, progress_of=lambda _name: lambda _done, _of: None)
        return examine(runner, source, tally, count=count or source.count, **options)

    return make
