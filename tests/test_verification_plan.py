"""Which stages are run and compared, for every kind of program and choice, and which floors they can miss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from neurocompile.errors import OptionError
from neurocompile.integer import IntegerNetwork
from neurocompile.passes.schedule import schedule
from neurocompile.program import REFERENCE, Program
from neurocompile.verification.budgets import Budgets, check_measurable
from neurocompile.verification.stages import Plan, plan_of

ProgramOf = Callable[..., Program]


@pytest.fixture
def program_of(one_layer: Callable[..., IntegerNetwork]) -> ProgramOf:
    """Makes a program for a target that is never run; `trained` in "real" numbers or "integers"."""

    def make(target: str = "fixedpoint", trained: str = "") -> Program:
        network = one_layer([[1]])
        facts: dict[str, Any] = {}
        if trained:
            facts["reference"] = {"quantised": {"bits": 4} if trained == "integers" else None}
        return Program(
            target=target,
            options={},
            network=network,
            schedule=schedule(network),
            bounds=(),
            steps=4,
            native_steps=None,
            facts=facts,
            extra_files={REFERENCE: b""} if trained else {},
        )

    return make


def pairs(plan: Plan) -> list[str]:
    """Return the pairs in order; those that must match with a "=", others with a "/"."""
    return [
        f"{pair.reference} {'=' if pair.must_match else '/'} {pair.candidate}"
        for pair in plan.pairs
    ]


def overall(plan: Plan) -> tuple[str, str]:
    return plan.overall.reference, plan.overall.candidate


FLOATS = ["float / quantised", "quantised / fixedpoint", "float / fixedpoint"]


@pytest.mark.parametrize(
    ("target", "trained", "expected", "first_and_last"),
    [
        ("fixedpoint", "", FLOATS, ("float", "fixedpoint")),
        ("loihi2", "", [*FLOATS, "fixedpoint = loihi2"], ("float", "loihi2")),
        ("fixedpoint", "real", ["torch / float", *FLOATS], ("torch", "fixedpoint")),
        (
            "loihi2", "real", ["torch / float", *FLOATS, "fixedpoint = loihi2"], ("torch", "loihi2"),
        ),
        (
            "fixedpoint", "integers",
            ["torch / float", *FLOATS, "torch = fixedpoint"], ("torch", "fixedpoint"),
        ),
        (
            "loihi2", "integers",
            ["torch / float", *FLOATS, "fixedpoint = loihi2", "torch = fixedpoint"],
            ("torch", "loihi2"),
        ),
        (
            "onnx", "",
            [*FLOATS, "fixedpoint = onnx", "onnx = onnx:sequence", "onnx = onnx:step"],
            ("float", "onnx"),
        ),
    ],
)  # fmt: skip
def test_all_that_there_is_is_compared_unless_asked_otherwise(
    target: str,
    trained: str,
    expected: list[str],
    first_and_last: tuple[str, str],
    program_of: ProgramOf,
) -> None:
    plan = plan_of(program_of(target, trained))

    assert pairs(plan) == expected
    assert overall(plan) == first_and_last
    assert plan.integers == {"fixedpoint", target, *plan.forms} | (
        {"torch"} if trained == "integers" else set()
    )


@pytest.mark.parametrize(
    ("against", "expected"),
    [
        (["torch"], ["torch / loihi2"]),
        (["float"], ["float / loihi2"]),
        (["quantised"], ["quantised / loihi2"]),
        (["fixedpoint"], ["fixedpoint = loihi2"]),
        (["loihi2", "float"], ["float / loihi2"]),
        (["quantised", "fixedpoint"], ["quantised / fixedpoint", "fixedpoint = loihi2"]),
        (["float", "fixedpoint"], ["float / fixedpoint", "fixedpoint = loihi2"]),
        (["torch", "fixedpoint"], ["torch / fixedpoint", "fixedpoint = loihi2"]),
        (["torch", "quantised"], ["torch / quantised", "quantised / loihi2"]),
        (["float", "quantised", "fixedpoint"], [*FLOATS, "fixedpoint = loihi2"]),
    ],
)
def test_chosen_stages_are_compared_in_order_and_the_target_is_always_one(
    against: list[str], expected: list[str], program_of: ProgramOf
) -> None:
    plan = plan_of(program_of("loihi2", "real"), against)

    assert pairs(plan) == expected
    assert plan.stages[-1] == "loihi2"


def test_what_was_trained_in_integers_is_held_to_the_integers_beside_it(
    program_of: ProgramOf,
) -> None:
    program = program_of("loihi2", "integers")

    assert pairs(plan_of(program, ["torch"])) == ["torch = loihi2"]
    assert pairs(plan_of(program, ["torch", "fixedpoint"])) == [
        "torch = fixedpoint", "fixedpoint = loihi2",
    ]  # fmt: skip


def test_a_form_of_the_target_is_held_against_the_target(program_of: ProgramOf) -> None:
    program = program_of("onnx")
    plan = plan_of(program, ["onnx:step"])

    assert (plan.stages, list(plan.forms)) == (("onnx",), ["onnx:step"])
    assert pairs(plan) == ["onnx = onnx:step"]
    assert plan.overall is plan.pairs[0]
    shown = {pair.candidate: pair.spikes for pair in plan_of(program).pairs}
    assert (shown["onnx"], shown["onnx:step"], shown["onnx:sequence"]) == (True, True, False)


def test_stages_that_are_not_there_are_all_named(program_of: ProgramOf) -> None:
    with pytest.raises(
        OptionError,
        match="cannot be compared with torch, loihi2: choose from float, quantised, fixedpoint, onnx, "
        "onnx:sequence, onnx:step",
    ):
        plan_of(program_of("onnx"), ["torch", "loihi2", "float"])
    with pytest.raises(OptionError, match="needs two stages, but only 'loihi2' is left: leave"):
        plan_of(replace(program_of("loihi2")), ["loihi2"])


def test_floors_of_stages_with_the_same_integers_are_refused(
    program_of: ProgramOf,
) -> None:
    """Any difference fails there anyhow: a floor would seem to be met."""
    budgets = Budgets(max_mismatch=0.005, min_accuracy=0.9, max_accuracy_drop=0.01)

    def problems(program: Program, against: list[str]) -> list[str]:
        plan = plan_of(program, against)
        try:
            check_measurable(
                budgets, plan, labelled=True, spiking=True, target=program.target, classes=3
            )
        except OptionError as error:
            return [str(problem) for problem in error.problems]
        return []

    told = (
        "can never be missed, but '{}' and 'loihi2' compute with the same integers, of which any difference "
        "fails: --against float compares with the float network"
    )
    for trained, against, first in (("", ["fixedpoint"], "fixedpoint"), ("integers", [], "torch")):
        assert problems(program_of("loihi2", trained), against) == [
            f"{name} {told.format(first)}" for name in ("--max-mismatch", "--max-accuracy-drop")
        ]
    assert problems(program_of("loihi2"), []) == []
    assert problems(program_of("loihi2", "integers"), ["float", "fixedpoint"]) == []


def test_floors_of_accuracy_need_classes(program_of: ProgramOf) -> None:
    with pytest.raises(OptionError) as caught:
        check_measurable(
            Budgets(min_accuracy=0.9, max_accuracy_drop=0.1),
            plan_of(program_of()),
            labelled=True,
            spiking=True,
            target="fixedpoint",
            classes=1,
        )

    assert [str(problem) for problem in caught.value.problems] == [
        "--min-accuracy needs classes, but the network has one output",
        "--max-accuracy-drop needs classes, but the network has one output",
    ]
