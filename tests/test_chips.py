"""Chips that are files: what they say, what is refused, and that nothing leaves the ranges they give."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from neurocompile_fixedpoint.definition import execute
from neurocompile_fixedpoint.lower import FixedPointTarget
from neurocompile_fixedpoint.plan import make_plan
from neurocompile_loihi2.limits import LIMITS

from neurocompile import api
from neurocompile.chips import (
    LARGEST_FILE,
    Chip,
    _shown,
    differ,
    for_spec,
    parse_chip,
    problems_of,
    read_chip,
)
from neurocompile.cli import main
from neurocompile.describe import describe
from neurocompile.errors import (
    FormatError,
    MissingDependencyError,
    OptionError,
    ProgramFormatError,
    RangeError,
    UnsupportedError,
)
from neurocompile.frontend.network_to_nir import network_to_nir
from neurocompile.integer import (
    LOIHI2,
    NO_FLOOR,
    Arithmetic,
    IntegerInput,
    IntegerNetwork,
    IntegerNeurons,
    IntegerRelay,
    IntegerSynapses,
)
from neurocompile.ir import Input, Network, Output
from neurocompile.limits import Limits, contradictions
from neurocompile.manifest import MANIFEST, read_files, seal
from neurocompile.passes.prove_ranges import find_bounds
from neurocompile.pipeline import CompileOptions, compile_network
from neurocompile.program import Program, load
from neurocompile.quantisation.recipe import Recipe
from neurocompile.target import find
from neurocompile.validation import probe_inputs

OneLayer = Callable[..., IntegerNetwork]
CHIPS = ("loihi2", "core16", "core4")
EXAMPLES = 60


@pytest.fixture(scope="module")
def family() -> FixedPointTarget:
    target = find("fixedpoint")
    assert isinstance(target, FixedPointTarget)
    return target


@pytest.fixture(scope="module")
def text(family: FixedPointTarget) -> str:
    """The file of a chip that is well."""
    return family.chips["core16"]


@pytest.fixture
def chip(text: str) -> Callable[..., Chip]:
    """Makes core16 with some lines replaced."""

    def make(**lines: str) -> Chip:
        return parse_chip(with_lines(text, **lines).encode(), "a.toml")

    return make


def with_lines(text: str, **lines: str) -> str:
    """Return `text` with what the keys (section__key) are, replaced; an empty text removes a line."""
    for name, value in lines.items():
        section, _, key = name.rpartition("__")
        before, mark, rest = text.partition(f"[{section}]\n") if section else ("", "", text)
        assert bool(mark) == bool(section), name
        changed = []
        found = False
        for line in rest.splitlines(keepends=True):
            hit = not found and line.startswith(f"{key} = ")
            found = found or hit
            changed.append(line if not hit else f"{key} = {value}\n" if value else "")
        assert found, name
        text = before + mark + "".join(changed)
    return text


@pytest.fixture(scope="module")
def network(chain: Callable[..., Network], dense: Any, lif: Any) -> Network:
    """Two layers of neurons and a read-out, with spikes as input."""
    generator = np.random.default_rng(5)
    return chain(
        (6,),
        {
            "fc1": dense(generator.normal(0, 0.7, (8, 6))),
            "lif1": lif((8,)),
            "fc2": dense(generator.normal(0, 0.5, (5, 8))),
            "lif2": lif((5,)),
            "fc3": dense(generator.normal(0, 0.5, (3, 5))),
        },
        steps=4,
    )


@pytest.fixture
def compiled(family: FixedPointTarget, network: Network) -> Callable[..., Program]:
    def make(name: str, **recipe: Any) -> Program:
        target = for_spec(family, name)
        bits = min(8, target.limits.weight_bits)
        return compile_network(network, target, CompileOptions(recipe=Recipe(bits, **recipe)))

    return make


@pytest.fixture
def source(network: Network, tmp_path: Path) -> Path:
    path = tmp_path / "network.nir"
    path.write_bytes(network_to_nir(network, None))
    return path


# What files say


def test_the_file_of_loihi_2_says_what_its_limits_are(family: FixedPointTarget) -> None:
    chip = parse_chip(family.chips["loihi2"].encode(), "loihi2")

    assert chip.limits == LIMITS
    assert chip.limits.arithmetic == LOIHI2


def test_a_file_is_a_chip(chip: Callable[..., Chip], text: str) -> None:
    found = chip()

    assert found.name == "core16"
    assert found.text == text
    assert found.limits == Limits(
        weight_bits=8,
        weight_step=1,
        current_maximum=(2**15 - 1) // 2,  # what 16 bits hold with one of a fraction
        threshold_maximum=2**14 - 1,
        bias_mantissa_bits=12,
        bias_exponent_maximum=4,
        decay_bits=8,
        state_maximum=2**15 - 1,
        payload_bits=8,
        fraction_bits=1,
        current_bits=16,
        rounding="nearest",
        current_overflow="saturate",
        membrane_overflow="saturate",
    )
    assert found.limits.arithmetic == Arithmetic(1, 8, 16, 16, "nearest", "saturate", "saturate")


def test_sums_may_be_narrower_than_the_state_that_holds_them(text: str) -> None:
    line = "largest_input_sum = 4095\n[inputs]"

    chip = parse_chip(text.replace("[inputs]", line).encode(), "a.toml")

    assert chip.limits.current_maximum == 4095


def test_everything_that_is_wrong_with_a_file_is_said_at_once(text: str) -> None:
    broken = with_lines(
        text,
        name='"a name"',
        weights__bits="40",
        weights__step="true",
        states__rounding='"neerest"',
        thresholds__bits="",
        neurons__resets='["zero", "soft"]',
        neurons__feedback='"yes"',
        neurons__floors="1",
    )
    broken = broken.replace("[biases]", "[bias]").replace("spikes_per_step", "spikes_per_stap")

    with pytest.raises(FormatError) as raised:
        parse_chip(broken.encode(), "a.toml")

    said = [str(problem) for problem in raised.value.problems]
    for expected in (
        "'a.toml': name must be a short text of letters, digits",
        "'a.toml': [weights] bits must be a whole number from 2 to 16, but it is 40",
        "'a.toml': [weights] step must be a whole number from 1 to 16, but it is True",
        "'a.toml': [states] rounding must be one of zero, down, nearest, but it is 'neerest': did you mean",
        "'a.toml': [thresholds] bits must be a whole number from 1 to 31, but it is missing",
        "'a.toml': [neurons] resets must be a list of some of zero, subtract, but it is ['zero', 'soft']",
        "'a.toml': [neurons] feedback must be true or false, but it is 'yes'",
        "'a.toml': [neurons] floors must be true or false, but it is 1",
        "'a.toml': bias is no section: did you mean 'biases'?",
        "'a.toml': [biases] mantissa_bits must be a whole number from 2 to 24, but it is missing",
        "'a.toml': [neurons] spikes_per_stap is no key: did you mean 'spikes_per_step'?",
    ):
        assert any(line.startswith(expected) for line in said), (expected, said)
    assert len(said) == 13  # the exponent of a bias and the spikes are missing as well


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({"weights__step": "3"}, "the step of weights must be a power of two, but it is 3"),
        (
            {"thresholds__bits": "15"},
            "the largest threshold must be from 1 to 16383 weight units, as a membrane of 16 bits with",
        ),
        (
            {"states__current_bits": "8"},
            "a current of 8 bits must hold the heaviest weight, but it holds 63 weight units",
        ),
        (
            {"biases__mantissa_bits": "2", "biases__largest_exponent": "0"},
            "a bias must be able to reach a weight unit",
        ),
        (
            {"neurons__spikes_per_step": "300"},
            r"\[neurons\] spikes_per_step must fit a graded spike, at most 255, but it is 300",
        ),
    ],
)
def test_what_no_chip_can_have_is_refused(
    chip: Callable[..., Chip], lines: dict[str, str], said: str
) -> None:
    if lines.get("biases__mantissa_bits"):
        lines = {**lines, "states__fraction_bits": "4", "thresholds__bits": "8"}

    with pytest.raises(FormatError, match=said):
        chip(**lines)


def test_an_input_sum_must_fit_the_current_that_holds_it(text: str) -> None:
    line = "largest_input_sum = 16384\n[inputs]"

    with pytest.raises(FormatError, match="largest input sum must be from 1 to 16383 weight units"):
        parse_chip(text.replace("[inputs]", line).encode(), "a.toml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name = ", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
        (b"#" * (LARGEST_FILE + 1), "has at most 8192 bytes"),
        (
            b"\n" + b"a." * 250 + b"a = 1",
            "lines of at most 500 characters, but line 2 of .* has 505",
        ),
        (b"x = [\n" + b"[" * 400 + b"\n" + b"[" * 400, "is no TOML"),
        (b"[weights]\nbits = 0x" + b"f" * 480, r"from 2 to 16, but it is \d{100}\.\.\."),
        (b"", "but it is missing"),
        (b"weights = 8", "weights must be a section, but it is 8"),
        (b'"\\u001b[31m" = 1', r"'\\x1b\[31m' is no key"),
        (b'summary = "a\\u001b[31m"', r"summary must be a short text of one line"),
        (b"name = " + b"1" * 490, "name must be a short text"),
    ],
)
def test_files_of_strangers_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "chip.toml"
    path.write_bytes(content)

    with pytest.raises(FormatError, match=said) as raised:
        read_chip(path)

    assert "\x1b" not in str(raised.value)


def test_unknown_keys_without_number_are_told_in_few_lines(text: str) -> None:
    keys = "".join(f"k{number} = 1\n" for number in range(500))

    with pytest.raises(FormatError) as raised:
        parse_chip((keys + text).encode(), "a.toml")

    said = [str(problem) for problem in raised.value.problems]
    assert said[0].startswith("'a.toml': k0 is no key")
    assert said[-1] == "'a.toml': and 492 others are no keys either"
    assert len(said) == 9


@pytest.mark.parametrize("prefix", ["0x", "0b", "0o"])
def test_numbers_that_python_writes_out_for_nobody_are_shown(prefix: str) -> None:
    value = int(prefix + "1" * 20000, 0)

    assert _shown({"0x": value, "0b": 1 << 20000, "0o": value}[prefix]).startswith("a number of ")
    assert _shown([value]) == "too long"


def test_specs_that_are_no_paths_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)

    for spec, said in (
        ("a" * 5000, "cannot read the chip 'aaa"),
        ("", "there is no chip ''"),
        (str(loop), "symbolic links"),
        ("a\0b", "cannot read the chip 'a\\x00b'"),
    ):
        code = main(["check", str(source), "--target", "fixedpoint", "--spec", spec])

        assert code == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error) < 500


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(FormatError, match="must be a file"):
            read_chip(path)
    with pytest.raises(FormatError, match="cannot read the chip"):
        read_chip(tmp_path / "none")


def test_a_chip_is_named_or_a_file(family: FixedPointTarget, text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text.replace('"core16"', '"mine"'))

    named, read = for_spec(family, "core4"), for_spec(family, file)

    assert isinstance(named, FixedPointTarget)
    assert isinstance(read, FixedPointTarget)
    assert named.chip is not None
    assert read.chip is not None
    assert (named.chip.name, read.chip.name) == ("core4", "mine")
    assert named.name == read.name == "fixedpoint"
    assert read.limits.state_maximum == 2**15 - 1
    with pytest.raises(
        OptionError, match=r"there is no chip 'core61'.* did you mean core16\?.*core4"
    ):
        for_spec(family, "core61")


def test_a_target_that_is_one_chip_takes_no_file() -> None:
    with pytest.raises(OptionError, match="target 'loihi2' is one chip, and takes no --spec"):
        for_spec(find("loihi2"), "core4")


# What chips cannot do


@pytest.mark.parametrize(
    ("neurons", "said"),
    [
        ({"reset": "subtract"}, "needs a membrane that has its threshold taken off by a spike"),
        ({"most": 2}, "needs 2 spikes in a step, but core4's neurons fire 1 at most: limit them"),
        ({"inclusive": True}, "needs to fire at its threshold"),
        ({"refractory": 1}, "needs refractory steps"),
        ({"floor": -4}, "needs a floor below its membranes"),
        ({"du": 7}, "needs a current that remembers"),
        (
            {"dv": [1, 2]},
            "needs leaks of its own for each channel, but core4 has one for each populat",
        ),
    ],
)
def test_what_neurons_cannot_do_is_refused_by_name(
    family: FixedPointTarget, one_layer: OneLayer, neurons: dict[str, Any], said: str
) -> None:
    core4 = parse_chip(family.chips["core4"].encode(), "core4")
    usual = {"du": 15, "dv": 8, "arithmetic": core4.limits.arithmetic}

    fine = one_layer([[1], [2]], threshold=[3, 4], **usual)
    network = one_layer([[1], [2]], threshold=[3, 4], **{**usual, **neurons})

    assert problems_of(fine, core4) == []
    (problem,) = problems_of(network, core4)
    assert problem.layer == "out"
    assert said in str(problem)


@pytest.mark.parametrize(
    ("name", "subtracts", "may"),
    [
        ("core16", 2 * 50, True),  # a fraction of one bit
        ("core16", 50, False),
        ("loihi2", 50, True),
    ],
)
def test_what_a_spike_takes_off_may_have_to_be_the_threshold(
    family: FixedPointTarget, one_layer: OneLayer, name: str, subtracts: int, may: bool
) -> None:
    chip = parse_chip(family.chips[name].encode(), name)
    network = one_layer(
        [[1]],
        du=chip.limits.arithmetic.memoryless,
        dv=8,
        threshold=50,
        reset="subtract",
        subtracts=subtracts,
        arithmetic=chip.limits.arithmetic,
    )

    told = [str(problem) for problem in problems_of(network, chip)]

    said = "needs another amount than its threshold taken off by a spike"
    assert told == (
        [] if may else [f"layer 'out' {said}, but core16's neurons subtract their threshold"]
    )


def test_what_a_spike_takes_off_is_one_of_two_things(text: str) -> None:
    with pytest.raises(FormatError, match=r"\[neurons\] subtracts must be one of threshold, any"):
        parse_chip(text.replace("[neurons]\n", "[neurons]\nsubtracts = 3\n").encode(), "a.toml")


@pytest.fixture
def summed(dense: Any, lif: Any) -> Network:
    """A layer that hears the sum of two layers, which a relay could send."""
    generator = np.random.default_rng(3)
    nodes = {
        "input": Input((4,)),
        "one": dense(generator.normal(0, 1, (6, 4))),
        "lif1": lif((6,)),
        "two": dense(generator.normal(0, 1, (6, 6))),
        "lif2": lif((6,)),
        "three": dense(generator.normal(0, 1, (40, 6))),
        "lif3": lif((40,)),
        "output": Output((40,)),
    }
    names = list(nodes)
    edges = (*pairwise(names), ("lif1", "three"))
    return Network(nodes, edges, 4)


def test_a_chip_without_graded_spikes_gets_sums_through_duplicated_synapses(
    family: FixedPointTarget, summed: Network
) -> None:
    def relays(name: str, sums: Any) -> list[int]:
        options = CompileOptions(recipe=Recipe(4), sums=sums)
        program = compile_network(summed, for_spec(family, name), options)
        return [
            item.largest for item in program.network.populations if isinstance(item, IntegerRelay)
        ]

    assert relays("loihi2", "auto") == [2]
    assert relays("core4", "auto") == relays("core4", "duplicate") == []
    with pytest.raises(
        UnsupportedError,
        match="needs to send sums of up to 2 spikes as one, but core4's neurons send 1 at most: "
        "send them through duplicated synapses with --sums duplicate",
    ):
        relays("core4", "graded")


def test_delays_and_feedback_are_refused_by_name(
    family: FixedPointTarget, one_layer: OneLayer
) -> None:
    core4 = parse_chip(family.chips["core4"].encode(), "core4")
    usual = {"du": 15, "dv": 8, "arithmetic": core4.limits.arithmetic}
    network = one_layer([[1]], delay=2, **usual)
    back = IntegerSynapses("back", "out", "out", np.array([[1]]), delay=np.array(1))
    network = replace(network, synapses=(*network.synapses, back))

    found = [str(problem) for problem in problems_of(network, core4)]

    assert found == [
        "layer 'w' needs a delay of 2 steps, but core4 has none",
        "layer 'back' needs connections to the same layer or an earlier one, but core4 has none",
    ]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.array(3), "population"),
        (np.full((2, 1, 1), 3), "population"),
        (np.arange(2).reshape(2, 1, 1), "channel"),
        (np.arange(8).reshape(2, 2, 2), "neuron"),
    ],
)
def test_what_differs_is_told(values: Any, found: str) -> None:
    assert differ(values, (2, 2, 2)) == found


# Programs for them


@pytest.mark.parametrize("name", CHIPS)
def test_a_program_carries_its_chip_and_is_proven_again(
    compiled: Callable[..., Program],
    family: FixedPointTarget,
    opened: Callable[[Program], Program],
    tmp_path: Path,
    name: str,
) -> None:
    program = opened(compiled(name))
    program.save(tmp_path / "program")

    again = opened(load(tmp_path / "program"))

    assert again.target == "fixedpoint"
    assert again.facts["chip"]["name"] == name
    assert again.extra_files["chip.toml"].decode() == family.chips[name]
    limits = for_spec(family, name).limits
    assert {neurons.arithmetic for neurons in again.network.neurons} == {limits.arithmetic}
    inputs = np.random.default_rng(1).integers(0, 2, (5, 4, 6)).astype(float)
    found, expected = again.run(inputs, "all"), program.run(inputs, "all", "fixedpoint:definition")
    assert np.array_equal(found.output, expected.output)
    for layer in found.spikes:
        assert np.array_equal(found.spikes[layer], expected.spikes[layer])


def test_loihi_2_as_a_file_makes_the_same_integers(
    compiled: Callable[..., Program], family: FixedPointTarget, network: Network
) -> None:
    own = compile_network(network, family, CompileOptions())

    named = compiled("loihi2")

    assert named.bounds == own.bounds
    for group, other in zip(named.network.synapses, own.network.synapses, strict=True):
        assert np.array_equal(group.weight, other.weight)


def test_a_chip_with_one_threshold_for_a_population_wants_one_scale(
    family: FixedPointTarget, network: Network, chip: Callable[..., Chip]
) -> None:
    target = family.for_chip(chip(neurons__thresholds='"population"'))
    options = CompileOptions(recipe=Recipe(scales="channel"), validate=False)

    with pytest.raises(
        UnsupportedError,
        match="layer 'lif1' needs thresholds of its own for each channel, but core16 has one for each "
        "population: quantise with --scales layer",
    ):
        compile_network(network, target, options)
    compile_network(network, target, replace(options, recipe=Recipe()))


def resealed(directory: Path, change: Callable[[dict[str, Any], dict[str, bytes]], Any]) -> None:
    """Change a program's manifest and files, and make all checksums right again."""
    manifest = json.loads((directory / MANIFEST).read_text())
    files = read_files(directory, manifest)
    for key in ("format", "version", "checksum", "checksums"):
        manifest.pop(key)
    change(manifest, files)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / MANIFEST).write_text(seal(manifest, files))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m, _: m["arithmetic"].update(current_bits=24),
            "arithmetic is not that of its limits",
        ),
        (lambda m, _: m["arithmetic"].update(membrane_bits=64), "'membrane_bits' is 64"),
        (lambda m, _: m["arithmetic"].update(decay_bits=0), "'decay_bits' is 0"),
        (lambda m, _: m["arithmetic"].update(rounding="up"), "'up' is none of"),
        (lambda m, _: m["arithmetic"].update(current_overflow="trap"), "'trap' is none of"),
        (lambda m, _: m["arithmetic"].update(fraction_bits="1"), "is not a complete program"),
        (
            lambda m, _: m["limits"].update(state_maximum=2**15),
            "arithmetic|membrane must be that of",
        ),
        (lambda m, _: m["limits"].update(current_maximum=2**20), "largest input sum must be from"),
        (
            lambda m, _: m["limits"].update(weight_bits=40),
            "a chip needs 'weight_bits' from 2 to 16",
        ),
        (lambda m, _: m["limits"].update(weight_bits=9), "limits are not those of its 'chip.toml'"),
        (lambda _, f: f.update({"chip.toml": b"name = 1"}), "chip.toml"),
        (
            lambda _, f: f.update(
                {"chip.toml": f["chip.toml"].replace(b"step = 1 ", b"step = 2 ")}
            ),
            "limits are not those of its 'chip.toml'",
        ),
        (
            lambda _, f: f.update({"chip.toml": f["chip.toml"].replace(b'["zero", ', b"[")}),
            "layer 'lif1' needs a membrane that is cleared by a spike, but core16's neurons know subtr",
        ),
        (
            lambda _, f: f.update({"chip.toml": f["chip.toml"].replace(b'"core16"', b'"other"')}),
            "manifest's chip is not that of its 'chip.toml'",
        ),
        (lambda m, _: m.pop("chip"), "manifest's chip is not that of its 'chip.toml'"),
        (lambda m, _: m.update(chip=[1]), "manifest's chip is not that of its 'chip.toml'"),
        (lambda _, f: f.pop("chip.toml"), "tells of a chip, and there is no 'chip.toml'"),
        (lambda m, _: m["arithmetic"].update(x=1), "the arithmetic lacks or adds x"),
        (lambda m, _: m["arithmetic"].update(fraction_bits=True), "True is no integer"),
        (lambda m, _: m["limits"].update(fraction_bits=True), "limits are none: fraction_bits"),
        (
            lambda m, _: [m["limits"].pop(key) for key in ("fraction_bits", "rounding")],
            "limits lack or add fraction_bits, rounding",
        ),
        (lambda m, _: m["limits"].update(x=1), "limits lack or add x"),
        (
            lambda m, _: m["populations"][1].update(pulse=1 << 62),
            "layer 'lif1' needs a pulse of at most",
        ),
    ],
)
def test_a_program_that_contradicts_its_chip_is_refused(
    compiled: Callable[..., Program], tmp_path: Path, change: Any, said: str
) -> None:
    compiled("core16").save(tmp_path / "program")
    resealed(tmp_path / "program", change)

    with pytest.raises(ProgramFormatError, match=said):
        load(tmp_path / "program")


def test_a_program_is_not_broken_where_only_the_reader_of_its_chip_is_missing(
    compiled: Callable[..., Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled("core16").save(tmp_path / "program")

    def missing(_: str) -> None:
        raise MissingDependencyError("files of chips need tomli on Python 3.10")

    monkeypatch.setattr("neurocompile.chips._parse_toml", missing)

    with pytest.raises(MissingDependencyError, match="need tomli"):
        load(tmp_path / "program")


def test_loihi_2_runs_no_integers_of_other_chips(compiled: Callable[..., Program]) -> None:
    loihi2 = find("loihi2")
    options = {name: option.choices[0] for name, option in loihi2.options.items()}
    program = replace(compiled("core16"), target="loihi2", options=options)

    assert "needs the arithmetic of another chip than Loihi 2" in str(loihi2.check(program)[0])
    with pytest.raises(UnsupportedError, match="needs the arithmetic of another chip"):
        program.executor()


def test_membranes_that_wrap_may_not_saturate(family: FixedPointTarget, network: Network) -> None:
    options = CompileOptions(recipe=Recipe(4), membranes="saturating")

    with pytest.raises(
        OptionError, match="--membranes saturating is for chips whose membranes sat"
    ):
        compile_network(network, for_spec(family, "core4"), options)


def test_integers_of_a_source_that_computes_as_loihi_2_stay_there(
    family: FixedPointTarget, chain: Callable[..., Network], dense: Any, lif: Any
) -> None:
    nodes = {"fc": dense([[2.0, 4.0]]), "lif": lif((1,), threshold=6.0)}
    network = replace(chain((2,), nodes), weight_unit=1.0)

    compile_network(network, for_spec(family, "loihi2"), CompileOptions())
    with pytest.raises(OptionError, match="Loihi 2's integers needs a chip that computes alike"):
        compile_network(network, for_spec(family, "core16"), CompileOptions())


def test_a_description_tells_of_another_arithmetic(compiled: Callable[..., Program]) -> None:
    lines = describe(compiled("core16").network)

    assert lines[-1].startswith("arithmetic  fraction_bits 1, decay_bits 8, current_bits 16")
    assert "floor" not in "".join(lines)
    assert describe(compiled("loihi2").network)[-1].startswith("outputs")


# The command line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--percentile", "50"], "--percentile needs --method percentile"),
        (["--method", "mse", "--percentile", "99.9"], "--percentile needs --method percentile"),
        (["--minimise", "membrane"], "--minimise needs --method search"),
        (["--calibration-samples", "64"], "--calibration-samples needs --calibrate"),
        (["--bits", "lif1=4", "--bits", "lif1=5"], "--bits must say once what lif1 is"),
        (["-O", "kernels=auto", "-O", "kernels=auto"], "-O must say once what kernels is"),
        (["--bits", "lif1=\u0664"], "--bits needs LAYER=N"),
        (["--memory", "\u0662k"], "--memory needs bytes"),
    ],
)
@pytest.mark.parametrize("command", ["export", "check"])
def test_options_that_would_do_nothing_are_refused(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: list[str],
    said: str,
) -> None:
    output = ["-o", str(tmp_path / "program")] if command == "export" else []

    code = main([command, str(source), "--target", "fixedpoint", *options, *output])

    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "program").exists()


@pytest.mark.parametrize(
    "recipe",
    [Recipe(percentile=50), Recipe(objective="membrane"), Recipe(method="mse", samples=8)],
)
def test_a_recipe_with_what_would_do_nothing_is_refused(source: Path, recipe: Recipe) -> None:
    with pytest.raises(OptionError, match="it would change nothing"):
        api.export(source, target="fixedpoint", recipe=recipe)


def test_a_program_says_how_it_was_quantised(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "program"
    options = ["--weight-bits", "5", "--bits", "lif2=8", "--scales", "channel"]

    main(["export", str(source), "--target", "fixedpoint", *options, "-o", str(out)])

    told = json.loads((out / MANIFEST).read_text())["quantisation"]
    asked = {
        "weight_bits": 5,
        "bits": {"lif2": 8},
        "method": "auto",
        "scales": "channel",
        "percentile": 99.9,
        "objective": "spikes",
        "rounding": "nearest",
        "correct_biases": False,
        "memory": None,
        "samples": 64,
        "membranes": "proven",
    }
    assert {key: told[key] for key in asked} == asked
    chosen = {name: layer["chosen"] for name, layer in told["layers"].items() if "chosen" in layer}
    usual = {"weights": "nearest", "bias_corrected": False}
    assert chosen == {
        "lif1": {"method": "mse", "weight_bits": 5, "scales": 8, **usual},
        "lif2": {"method": "max", "weight_bits": 8, "scales": 5, **usual},
        "fc3": {"method": "mse", "weight_bits": 5, "scales": 3, **usual},
    }
    assert (
        "quantised by mse for lif1, fc3; max for lif2 (--method auto), one scale for each channel\n"
    ) in capsys.readouterr().out


def test_a_network_is_exported_for_a_chip_with_the_bits_it_has(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "program"

    code = main(
        ["export", str(source), "--target", "fixedpoint", "--spec", "core4", "-o", str(out)]
    )

    assert code == 0
    program = load(out)
    assert program.facts["quantisation"]["weight_bits"] == 4
    assert "the chip is 'core4' (an example: 4-bit weights" in capsys.readouterr().out
    weights = np.concatenate([group.weight.ravel() for group in program.network.synapses])
    assert (weights.min(), weights.max()) == (-8, 7)  # 4 bits, whose heaviest weights mse clips


def test_bits_that_a_chip_has_not_are_refused(source: Path) -> None:
    with pytest.raises(OptionError, match="weight bits must be from 2 to 4, but 8 are asked for"):
        api.export(source, target="fixedpoint", spec="core4", weight_bits=8)


def test_a_broken_file_ends_with_code_2_and_nothing_is_written(
    source: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "mine.toml", tmp_path / "program"
    file.write_text(text.replace("[decays]", "[decay]"))

    code = main(
        ["export", str(source), "--target", "fixedpoint", "--spec", str(file), "-o", str(out)]
    )

    assert code == 2
    assert "decay is no section: did you mean 'decays'?" in capsys.readouterr().err
    assert not out.exists()


def test_targets_lists_the_chips_that_come_with_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0

    assert "chips that fixedpoint can be (--spec): loihi2, core16, core4" in capsys.readouterr().out


# Proofs and engines


@pytest.fixture
def narrow(chip: Callable[..., Chip]) -> Chip:
    """A chip whose thresholds have all bits of its membranes, which have no fraction."""
    return chip(
        states__fraction_bits="0",
        states__membrane_bits="8",
        states__current_bits="9",
        thresholds__bits="7",
        biases__mantissa_bits="8",
    )


def test_a_layer_with_the_largest_threshold_still_fires(
    narrow: Chip, family: FixedPointTarget, chain: Callable[..., Network], dense: Any, lif: Any
) -> None:
    """1.5 is above the threshold of 1, though 189 of an integer membrane end at 127."""
    network = chain((3,), {"fc": dense([[0.5, 0.5, 0.5]]), "lif": lif((1,))}, steps=4)
    inputs = {"input": np.ones((1, 4, 3), np.int64)}

    program = compile_network(network, family.for_chip(narrow), CompileOptions())
    trace = execute(program.network, inputs, samples=1, steps=4, record=["lif"])

    assert narrow.limits.threshold_maximum == 126
    assert program.network.neurons[0].threshold == 126
    assert trace.spikes["lif"].ravel().tolist() == [1, 1, 1, 1]


def test_no_limit_lets_a_threshold_lie_at_the_end_of_membranes(narrow: Chip) -> None:
    (problem,) = contradictions(replace(narrow.limits, threshold_maximum=127))

    assert "the largest threshold must be from 1 to 126 weight units" in str(problem)


@pytest.mark.parametrize(
    ("threshold", "inclusive", "hides"), [(126, 0, 1), (127, 0, 0), (127, 1, 1)]
)
def test_only_a_membrane_that_fires_at_its_end_may_saturate(
    narrow: Chip, one_layer: OneLayer, threshold: int, inclusive: bool, hides: bool
) -> None:
    limits = narrow.limits
    network = one_layer(
        [[100, 100]],
        du=255,
        dv=0,
        threshold=threshold,
        inclusive=bool(inclusive),
        arithmetic=limits.arithmetic,
    )

    ((bound,), problems) = find_bounds(network, limits, steps=1)

    assert bound.membrane == (0 if hides else 200)
    assert bool([problem for problem in problems if "needs a membrane of" in str(problem)]) != hides


def draw_limits(data: Any) -> Limits:
    """Draw the limits of any chip that can exist."""

    def choose(*options: Any) -> Any:
        return data.draw(st.sampled_from(options))

    membrane_bits, current_bits = choose(8, 10, 12, 16, 20), choose(8, 10, 12, 16, 20)
    fraction_bits = choose(0, 1, 2, 4)
    end = (1 << (membrane_bits - 1)) - 1
    limits = Limits(
        weight_bits=choose(2, 4, 8),
        weight_step=choose(1, 2, 4),
        current_maximum=((1 << (current_bits - 1)) - 1) >> fraction_bits,
        threshold_maximum=((end - 1) >> fraction_bits) >> choose(0, 1),
        bias_mantissa_bits=choose(6, 10),
        bias_exponent_maximum=choose(0, 3, 7),
        decay_bits=choose(1, 3, 8, 12),
        state_maximum=end,
        payload_bits=choose(3, 8),
        fraction_bits=fraction_bits,
        current_bits=current_bits,
        rounding=choose("zero", "down", "nearest"),
        current_overflow=choose("wrap", "saturate"),
        membrane_overflow=choose("wrap", "saturate"),
    )
    if list(contradictions(limits)):
        reject()
    return limits


def test_no_state_leaves_the_range_that_is_proven_on_any_chip() -> None:
    tried: Counter[str] = Counter()

    @settings(max_examples=4 * EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: Any) -> None:
        def choose(*options: Any) -> Any:
            return data.draw(st.sampled_from(options))

        limits = draw_limits(data)
        arithmetic = limits.arithmetic
        one, unit = arithmetic.decay_one, arithmetic.state_units
        generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        highest = limits.threshold_maximum
        threshold = int(highest * choose(0.1, 0.5, 1.0)) or 1
        subtract = choose(False, True)
        floor = choose(NO_FLOOR, -(arithmetic.membrane_end // 3))
        neurons = IntegerNeurons(
            "out",
            (3,),
            du=np.array(choose(one - 1, one - 1, 0, one // 3)),
            dv=np.array(choose(0, one // 2, one - 1, 1, one)),
            threshold=np.array(threshold),
            bias_mantissa=generator.integers(-20, 21, 3),
            bias_exponent=choose(0, 1),
            scale=np.ones(()),
            shows=choose("spikes", "spikes", "membrane"),
            reset="subtract" if subtract else "zero",
            subtracts=np.array(unit * threshold * choose(1, 1, 2)),
            inclusive=choose(False, True),
            most=choose(1, 1, 2),
            floor=np.array(floor),
            refractory=choose(0, 0, 2),
            arithmetic=arithmetic,
        )
        if neurons.readout:
            neurons = replace(
                neurons,
                threshold=np.array(highest),
                reset="zero",
                inclusive=False,
                most=1,
                refractory=0,
                floor=np.array(arithmetic.no_floor),
            )
        weight = generator.integers(-40, 41, (3, 4)) * choose(0, 1, 1, 1) + choose(-20, 0, 0, 20)
        top = limits.largest_weight(limits.weight_bits)
        step = limits.weight_step
        weight = np.clip(weight // step * step, -top, top)
        source = IntegerInput("in", (4,), 1.0, 0, choose(1, 3), True)
        network = IntegerNetwork(
            (source, neurons), (IntegerSynapses("w", "in", "out", weight),), {"out": "out"}
        )
        steps = 10
        (bound,), problems = find_bounds(network, limits, steps=steps)
        if problems:
            tried["refused"] += 1
            return
        tried["proven"] += 1
        constant = np.repeat(generator.integers(0, 2, (16, 1, 4)), steps, 1)
        extremes = np.concatenate([constant, generator.integers(0, 2, (16, steps, 4))])
        # All that lifts or all that lowers a neuron, at every step.
        worst = np.repeat(np.concatenate([weight > 0, weight < 0])[:, np.newaxis], steps, 1)
        inputs = {"in": np.concatenate([extremes, worst]) * source.maximum}
        trace = execute(
            network,
            inputs,
            samples=len(inputs["in"]),
            steps=steps,
            record=["out", "membrane/out"],
            before_reset=True,
        )
        wide = replace(arithmetic, membrane_bits=48, current_bits=48)
        endless = replace(
            neurons,
            arithmetic=wide,
            floor=neurons.floor if neurons.floored else np.array(wide.no_floor),
        )
        unbounded = execute(
            replace(network, populations=(source, endless)),
            inputs,
            samples=len(inputs["in"]),
            steps=steps,
            record=["out"],
        )

        assert np.array_equal(trace.spikes["out"], unbounded.spikes["out"])
        counts = trace.counters["out"]
        membranes = trace.membrane["out"]
        assert counts["current_wraps"] == counts["u_wraps"] == counts["v_saturations_low"] == 0
        assert -membranes.min() <= bound.membrane
        hides = neurons.plain or (neurons.reset == "zero" and neurons.most == 1)
        if neurons.readout or not hides or limits.membrane_overflow == "wrap":
            assert counts["v_saturations_high"] == 0
            assert membranes.max() <= bound.membrane
            tried[f"{limits.rounding} {limits.membrane_overflow}"] += 1

    check()

    assert tried["proven"] >= EXAMPLES
    kinds = [f"{way} {end}" for way in ("zero", "down", "nearest") for end in ("wrap", "saturate")]
    assert {kind for kind in kinds if not tried[kind]} == set()


@settings(max_examples=EXAMPLES // 2, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_compiled_networks_do_what_the_definition_says_on_any_chip(
    data: Any, draw_network: Callable[..., Network], family: FixedPointTarget
) -> None:
    pytest.importorskip("numba")
    from neurocompile_fixedpoint.compiled import CompiledEngine

    network = draw_network(data)
    limits = draw_limits(data)
    bits = min(limits.weight_bits, 8)
    try:
        program = compile_network(
            network,
            replace(family, limits=limits),
            CompileOptions(recipe=Recipe(bits), validate=False),
        )
    except RangeError:
        reject()
    node = network.nodes["input"]
    assert isinstance(node, Input)
    values = next(iter(probe_inputs(network, None, steps=network.steps or 4).values()))
    payloads = program.payloads(values)
    samples, steps = values.shape[:2]
    record = [
        name for item in program.network.neurons for name in (item.name, f"membrane/{item.name}")
    ]
    expected = execute(program.network, payloads, samples=samples, steps=steps, record=record)

    found = CompiledEngine(program.network, make_plan(program.network)).execute(
        payloads, samples=samples, steps=steps, record=record
    )

    assert found.counters == expected.counters
    for name, states in expected.membrane.items():
        assert np.array_equal(found.membrane[name], states)
    for counts in expected.counters.values():
        assert counts["u_wraps"] == counts["current_wraps"] == counts["v_saturations_low"] == 0
        if limits.membrane_overflow == "wrap":
            assert counts["v_saturations_high"] == 0
