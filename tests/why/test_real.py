"""The populations of a program in real numbers, found again from its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neurocompile
from neurocompile import program as programs
from neurocompile.chips import for_spec
from neurocompile.data import InputRange
from neurocompile.errors import UnsupportedError
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.ir import (
    Conv2d,
    Dense,
    Flatten,
    Input,
    MaxPool2d,
    Network,
    Node,
    Output,
    Threshold,
)
from neurocompile.pipeline import CompileOptions, Passes, compile_network, run_passes
from neurocompile.populations import SumPopulation
from neurocompile.program import GRAPH, Program
from neurocompile.quantisation.recipe import Recipe
from neurocompile.target import find
from neurocompile.verification.real import ranged, real_populations, target_of
from neurocompile.verification.stages import folded_network

Make = Callable[..., Any]


def same(program: Program, expected: Any) -> None:
    """Check that the populations found again are those that were compiled."""
    found = real_populations(program, folded_network(program))
    assert [item.name for item in found.populations] == [item.name for item in expected.populations]
    for item, other in zip(found.populations, expected.populations, strict=True):
        for name, value in vars(other).items():
            if name != "range":
                np.testing.assert_array_equal(getattr(item, name), value, err_msg=name)
    for group, other in zip(found.synapses, expected.synapses, strict=True):
        assert group.name == other.name
        np.testing.assert_array_equal(group.operator.weight, other.operator.weight)
        np.testing.assert_array_equal(group.delay, other.delay)


@settings(max_examples=15)
@given(data=st.data())
def test_populations_are_found_again(draw_network: Make, data: Any) -> None:
    network = draw_network(data)
    target = find("fixedpoint")
    options = CompileOptions(recipe=Recipe(8), validate=False)
    program = compile_network(network, target, options)
    program = replace(
        program,
        facts={**program.facts, "source": {"kind": "module", "name": "net"}},
        extra_files={**program.extra_files, GRAPH: network_to_nir(network)},
    )

    options = replace(options, target_options={"kernels": "auto"})
    same(program, run_passes(network, target, Passes(options)).populations)


@pytest.fixture
def residual(lif: Make) -> Network:
    """Two layers whose sum is pooled by its largest, thresholds without memory, and an input with a range."""
    shape = (2, 4, 4)
    weight = np.random.default_rng(0).integers(-4, 9, (4, 2, 3, 3)) / 8
    nodes: dict[str, Node] = {
        "input": Input(shape, InputRange(-1.0, 1.0, 1 / 8)),
        "conv1": Conv2d(weight[:2], np.full(2, 0.1), padding=(1, 1)),
        "lif1": lif(shape),
        "conv2": Conv2d(weight[2:], np.zeros(2), padding=(1, 1)),
        "lif2": lif(shape),
        "conv3": Conv2d(weight, np.zeros(4), padding=(1, 1)),
        "lif3": lif((4, 4, 4)),
        "pool": MaxPool2d((2, 2), (2, 2)),
        "flatten": Flatten(),
        "fc": Dense(np.ones((3, 16)) / 4, np.array([-0.5, 0.0, 0.5])),
        "signs": Threshold(np.array([0.5, -0.5, 1.0])),
        "output": Output((3,)),
    }
    edges = [
        ("input", "conv1"),
        ("conv1", "lif1"),
        ("lif1", "conv2"),
        ("conv2", "lif2"),
        ("lif1", "conv3"),
        ("lif2", "conv3"),
        ("conv3", "lif3"),
        ("lif3", "pool"),
        ("pool", "flatten"),
        ("flatten", "fc"),
        ("fc", "signs"),
        ("signs", "output"),
    ]
    return Network(nodes, tuple(edges), 4)


@pytest.mark.parametrize("sums", ["graded", "duplicate"])
def test_how_sums_were_sent_is_known_again(program_of: Make, residual: Network, sums: Any) -> None:
    program = program_of(residual, sums=sums)

    assert program.facts["choices"] == {"sums": sums, "first_layer": "auto"}
    found = real_populations(program, folded_network(program))
    assert [item.name for item in found.populations] == [
        item.name for item in program.network.populations
    ]
    assert any(isinstance(item, SumPopulation) for item in found.populations) == (sums == "graded")


def test_a_program_from_disk_has_the_same(
    program_of: Make, residual: Network, tmp_path: Path, opened: Make
) -> None:
    program_of(residual, sums="graded").save(tmp_path / "program")
    program = opened(programs.load(tmp_path / "program"))

    same(program, real_populations(program, folded_network(program)))
    assert program.facts["choices"]["sums"] == "graded"


def test_a_program_that_does_not_tell_its_choices_is_refused_where_they_matter(
    program_of: Make, residual: Network
) -> None:
    """Were sums duplicated by choice, "auto" makes other populations: nothing is guessed."""
    auto = program_of(residual)
    relays = len(auto.network.populations)
    other = next(
        made
        for made in (program_of(residual, sums=sums) for sums in ("graded", "duplicate"))
        if len(made.network.populations) != relays
    )
    facts = {name: value for name, value in other.facts.items() if name != "choices"}

    old = replace(other, facts=facts)

    with pytest.raises(UnsupportedError, match="in the program's graph and in its integers"):
        real_populations(old, folded_network(old))
    # Where "auto" made it, nothing has to be told.
    facts = {name: value for name, value in auto.facts.items() if name != "choices"}
    assert real_populations(replace(auto, facts=facts), folded_network(auto))


def test_another_graph_is_refused_with_every_difference(
    program_of: Make, residual: Network
) -> None:
    program = program_of(residual)
    nodes = dict(residual.nodes)
    nodes["fc"] = Dense(np.ones((2, 16)) / 4, np.zeros(2))
    nodes["signs"] = Threshold(np.ones(2))
    nodes["output"] = Output((2,))

    with pytest.raises(UnsupportedError) as caught:
        real_populations(program, Network(nodes, residual.edges, 4))

    assert [problem.layer for problem in caught.value.problems] == ["signs", "fc"]
    assert "the shapes are (2,) and (3,)" in str(caught.value)


def test_inputs_take_what_the_integers_do(program_of: Make, residual: Network) -> None:
    network = ranged(residual, program_of(residual).network)

    node = network.nodes["input"]
    assert isinstance(node, Input)
    assert node.range == InputRange(-1.0, 1.0, 1 / 8)


def test_a_chip_is_found_in_the_program(
    tmp_path: Path, opened: Make, chain: Make, lif: Make, look: Make
) -> None:
    random = np.random.default_rng(0)
    network = chain(
        (3,),
        {
            "fc": Dense(random.normal(size=(20, 3)), random.normal(size=20) / 9),
            "lif": lif((20,), decay=0.8, threshold=0.8),
            "out": Dense(np.ones((2, 20)) / 4, np.zeros(2)),
        },
        steps=8,
    )
    path = tmp_path / "net.nir"
    path.write_bytes(network_to_nir(network))
    names = list(find("fixedpoint").chips)  # type: ignore[attr-defined]
    for name in names[1:]:
        program = opened(neurocompile.export(path, target="fixedpoint", spec=name, weight_bits=4))

        assert target_of(program).limits == for_spec(find("fixedpoint"), name).limits
        assert real_populations(program, folded_network(program))
        found, missing = look(
            program, random.integers(0, 2, (30, 8, 3)).astype(float), alternatives=True
        )
        assert found.causes
        assert not [what for what in missing if "cause" in what]
        assert len(found.alternatives) > 1
