"""What verify prints: a verdict in words for each pair, and a summary that narrow terminals can show."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from neurocompile.statistics import Share
from neurocompile.verification.report import (
    Alternative,
    BudgetResult,
    Cause,
    Comparison,
    Contribution,
    Divergence,
    Energy,
    Examination,
    LayerBlame,
    LayerComparison,
    MembraneTrace,
    ReadoutBlame,
    Report,
    StageSummary,
)
from neurocompile.verification.terminal import (
    heading,
    joules,
    margin,
    percent,
    print_report,
    suggestion,
    verdict,
)

FIRST = Divergence(4, 2, "lif2", 7, 1, 0, 0.98, 1.0, 1.25, 1.0)


def pair(
    names: tuple[str, str], mismatches: int = 0, outputs: int = 0, *, held: bool = False
) -> Comparison:
    """Return a comparison of 1000 places in two layers, in which the second one differs."""
    first = None if not mismatches else FIRST
    return Comparison(
        *names,
        must_match=held,
        layers=(
            LayerComparison("lif1", 400, 0, 0.1, 0.1, spikes_reference=20),
            LayerComparison("lif2", 600, mismatches, 0.1, 0.1, spikes_reference=30),
        ),
        output_slots=50,
        output_mismatches=outputs,
        output_difference=0.5 if outputs else 0.0,
        first_divergence=first,
        differing_samples=Share(3 if mismatches else 0, 20),
        same_decisions=Share(19 if mismatches else 20, 20),
    )


@pytest.fixture
def report() -> Report:
    """Floats that were rounded, and a chip that runs the integers."""
    comparisons = (
        pair(("torch", "float")),
        pair(("float", "fixedpoint"), 30, 40),
        pair(("fixedpoint", "chip"), held=True),
    )
    return Report(
        target="chip",
        samples=20,
        steps=5,
        stages=tuple(
            StageSummary(name, name in ("fixedpoint", "chip"), Share(right, 20), None, None, 0)
            for name, right in (("torch", 20), ("float", 20), ("fixedpoint", 19), ("chip", 19))
        ),
        comparisons=comparisons,
        overall=pair(("torch", "chip"), 30, 40),
        counters={},
        facts={},
        data="digits:test",
    )


@pytest.fixture
def printed() -> Callable[..., str]:
    """What a report looks like on a terminal of so many columns."""

    def show(report: Report, width: int = 100, *, terminal: bool = False) -> str:
        stream = io.StringIO()
        console = Console(
            file=stream, width=width, force_terminal=terminal, highlight=False, emoji=False
        )
        print_report(report, console)
        return stream.getvalue()

    return show


def words(text: str) -> str:
    """Return `text` without its line breaks and columns."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (pair(("a", "b")), "identical, all spikes and outputs"),
        (pair(("a", "b"), held=True), "identical, all spikes and outputs"),
        (replace(pair(("a", "b")), layers=()), "identical, all outputs"),
        (
            pair(("a", "b"), 3, 2, held=True),
            "FAILED, spikes at 3 of 1000 places and 2 of 50 outputs differ that must not",
        ),
        (pair(("a", "b"), 0, 2, held=True), "FAILED, 2 of 50 outputs differ that must not"),
        (
            pair(("a", "b"), 3, 2),
            (
                "rounded, spikes differ at 0.3 % of places (6 % of spikes), in 3 of 20 samples; 1 of 20 decided "
                "otherwise"
            ),
        ),
        (pair(("a", "b"), 0, 2), "rounded, all spikes equal, outputs differ by up to 0.5"),
        (
            replace(pair(("a", "b"), 0, 2), layers=()),
            "rounded, outputs differ by up to 0.5",
        ),
    ],
)
def test_verdicts_are_words(comparison: Comparison, expected: str) -> None:
    assert verdict(comparison) == expected


def test_only_the_same_floats_differ_by_float_noise(
    report: Report, printed: Callable[..., str]
) -> None:
    """PyTorch that was trained in integers computes with other numbers than the float network."""
    noisy = replace(report, comparisons=(pair(("torch", "float"), 3), *report.comparisons[1:]))
    trained = replace(noisy, stages=(replace(report.stages[0], integers=True), *report.stages[1:]))

    assert "torch / float: float noise, spikes differ at 0.3 % of places" in words(printed(noisy))
    assert "float / fixedpoint: rounded, spikes differ at 3 %" in words(printed(noisy))
    assert "torch / float: rounded, spikes differ at 0.3 % of places" in words(printed(trained))


def test_a_part_of_the_data_has_intervals(report: Report, printed: Callable[..., str]) -> None:
    sampled = replace(pair(("float", "fixedpoint"), 30), interval=(0.021, 0.0392))
    part = replace(report, comparisons=(sampled,), whole=False)

    told = "spikes differ at 3 % of places (2.1 % to 3.92 %; 60 % of spikes), in 3 of 20 samples"
    assert told in words(printed(part))
    assert "2.1 %" not in words(printed(replace(part, whole=True)))


def test_pairs_that_must_match_come_first(report: Report, printed: Callable[..., str]) -> None:
    text = words(printed(report))

    order = [text.index(f"{name}: ") for name in ("fixedpoint / chip", "torch / float")]
    assert order == sorted(order)
    assert "chip on digits:test: 20 samples, 5 steps" in text
    assert "accuracy torch 100.00 %, float 100.00 %, fixedpoint 95.00 %, chip 95.00 %" in text


def test_both_margins_of_the_first_spike_are_told(
    report: Report, printed: Callable[..., str]
) -> None:
    text = words(printed(report))

    assert (
        "float / fixedpoint: sample 4, step 2, layer 'lif2', neuron 7: fixedpoint did not fire, "
        "float fired fixedpoint: membrane 0.98, 0.02 below threshold 1; float: membrane 1.25, 0.25 above "
        "threshold 1"
    ) in text
    assert "because" not in text  # nobody measured why


def test_integers_that_failed_are_told_before_all_else(
    report: Report, printed: Callable[..., str]
) -> None:
    failed = pair(("fixedpoint", "chip"), 2, held=True)
    report = replace(report, comparisons=(*report.comparisons[:-1], failed))

    text = words(printed(report))

    assert "matches fixedpoint / chip: FAILED, spikes at 2 of 1000 places differ" in text
    assert "first spike fixedpoint / chip: sample 4" in text
    assert "float / fixedpoint: sample" not in text


def test_a_cause_is_told_by_what_it_moved_most(report: Report, printed: Callable[..., str]) -> None:
    trace = MembraneTrace((), (), 1.0, 1.0, (), ())
    parts = {"weights": -0.2, "biases": 0.0, "decay": -0.01, "state": 0.001, "a": -1e-4, "b": -2e-4}
    contributions = tuple(Contribution(*item) for item in parts.items())
    cause = Cause("float", "fixedpoint", FIRST, 0.25, -0.02, contributions, trace)
    elsewhere = replace(cause, divergence=replace(FIRST, neuron=8))
    found = Examination((4,), causes=(elsewhere, cause))

    text = words(printed(replace(report, examination=found)))

    assert "because of weights -0.2, decay -0.01, state +0.001, b -0.0002, others -0.0001" in text
    missing = Examination((4,), causes=(elsewhere,))
    assert "because" not in printed(replace(report, examination=missing))


def test_layers_are_ranked_on_the_samples_that_were_examined(
    report: Report, printed: Callable[..., str]
) -> None:
    blame = tuple(
        LayerBlame(f"lif{number}", Share(30, 600), Share(10 - number, 600), Share(20, 600))
        for number in range(7)
    )
    readout = ReadoutBlame("out", Share(3, 16), Share(1, 16), 0.25, 0.125)
    found = Examination(tuple(range(16)), blame=blame, readouts=(readout,), candidate="chip")

    text = words(printed(replace(report, examination=found)))

    assert (
        "layers float / chip on 16 examined samples: lif0: 1.67 % its own error, 3.33 % inherited (5 % of "
        "places differ) lif1: 1.5 %"
    ) in text
    assert "and 2 more with less of their own" in text
    assert (
        "out: by its own error 1 of 16 samples are decided otherwise, 3 in all; its outputs are off by "
        "0.125, 0.25 in all"
    ) in text
    one = Examination((4,), readouts=(readout,))
    assert "layers float / fixedpoint on 1 examined sample: out:" in words(
        printed(replace(report, examination=one))
    )


@pytest.fixture
def alternatives() -> tuple[Alternative, Alternative]:
    """What there is, and what is clearly better than it in spikes, but right less often."""
    return (
        Alternative(
            "as it is", "", Share(30, 1000), Share(15, 16), 100, 16, Share(14, 16), 0.5
        ),
        Alternative(
            "8 bits", "--weight-bits 8", Share(2, 1000), Share(14, 16), 200, 16, Share(14, 16), 0.25,
            (-0.04, -0.015), better=True,
        ),
    )  # fmt: skip


def test_the_first_alternative_that_is_clearly_better_is_suggested(
    report: Report, printed: Callable[..., str], alternatives: tuple[Alternative, Alternative]
) -> None:
    fewest = replace(alternatives[1], name="by chance", mismatches=Share(1, 1000), better=False)
    found = Examination((4,), alternatives=(alternatives[0], fewest, alternatives[1]))

    text = words(printed(replace(report, examination=found)))

    assert (
        "suggested 8 bits, on 16 examined samples: spikes differ at 0.2 % of places instead of 3 % (95 %: -4 "
        "to -1.5 points), 14 of 16 decided as by the float network as before, outputs off by 0.25 instead of "
        "0.5, 14 of 16 right instead of 15, which is fewer, weights 200 bytes instead of 100; export with "
        "--weight-bits 8"
    ) in text


def test_nothing_is_suggested_that_chance_may_have_made(
    alternatives: tuple[Alternative, Alternative],
) -> None:
    own, other = alternatives
    unclear = replace(other, better=False)

    assert suggestion((own, unclear)) == (
        "nothing: of 1 alternative none is clearly better on 16 examined samples"
    )
    assert suggestion((own, unclear, unclear)).startswith("nothing: of 2 alternatives none is")


def test_networks_that_fire_nothing_have_suggestions_for_their_outputs(
    alternatives: tuple[Alternative, Alternative],
) -> None:
    own, other = (
        replace(item, mismatches=Share(0, 0), accuracy=None, difference=None)
        for item in alternatives
    )

    told = suggestion((own, replace(other, same_decisions=Share(16, 16))))

    assert told == (
        "8 bits, on 16 examined samples: 16 of 16 decided as by the float network instead of 14, outputs off "
        "by 0.25 instead of 0.5, weights 200 bytes instead of 100; export with --weight-bits 8"
    )


def test_what_to_do_about_differences_is_told_where_nothing_was_tried(
    report: Report, printed: Callable[..., str]
) -> None:
    missing = {"alternatives": "not asked for (--suggest)", "torch": "left out"}
    report = replace(report, not_measured=missing)
    equal = tuple(pair((item.reference, item.candidate)) for item in report.comparisons)

    text = words(printed(report))

    assert "suggested nothing was tried: --suggest compiles it in other ways and measures" in text
    assert "not measured torch: left out" in text
    assert "not asked for" not in text
    assert "suggested" not in printed(replace(report, comparisons=equal))
    refused = replace(report, not_measured={"alternatives": "training chose the integers"})
    assert "not measured alternatives: training chose" in words(printed(refused))


def test_the_note_of_a_cause_is_told(report: Report, printed: Callable[..., str]) -> None:
    trace = MembraneTrace((), (), 1.0, 1.0, (), ())
    tie = Cause("float", "fixedpoint", FIRST, 0, 0, (), trace, "a tie: float64's last bit decides")

    def told(cause: Cause) -> str:
        return words(printed(replace(report, examination=Examination((4,), causes=(cause,)))))

    text = told(tie)
    assert "above threshold 1 a tie: float64's last bit decides" in text
    assert "because" not in text
    assert "because of nothing that was quantised" in told(replace(tie, note=""))
    both = told(replace(tie, contributions=(Contribution("weights", -0.5),)))
    assert "because of weights -0.5 a tie:" in both


def test_undecided_samples_and_versions_are_told(
    report: Report, printed: Callable[..., str]
) -> None:
    *others, last = report.stages
    undecided = Share(3, 20)
    report = replace(
        report,
        stages=(
            replace(others[0], undecided=Share(0, 20)),
            others[1],
            replace(others[2], undecided=undecided),
            replace(last, undecided=undecided),
        ),
        versions={"neurocompile": "1.0", "lava-nc": "0.10.0"},
    )

    text = words(printed(report))

    assert (
        "undecided fixedpoint, chip: in 3 of 20 samples no output is the largest, and the first of the "
        "largest counts"
    ) in text
    assert text.endswith("versions neurocompile 1.0, lava-nc 0.10.0")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", range(40, 80))
def test_no_line_ends_between_a_number_and_its_unit(
    width: int, terminal: bool, report: Report, printed: Callable[..., str]
) -> None:
    report = replace(report, energy=(Energy("chip", "by hand", (), 1500.0, 2.5e6),), whole=False)

    lines = printed(report, width, terminal=terminal).splitlines()

    assert not [line for line in lines if line.strip().startswith(("%", "nJ", "uJ"))]
    assert "2.5 uJ" in words("\n".join(lines))
    if not terminal:  # what is kept in a file has no blanks at the ends of its lines
        assert [line for line in lines if line != line.rstrip()] == []
        assert all(ord(letter) < 128 for line in lines for letter in line)


def test_what_it_costs_what_was_missed_and_what_nobody_measured_is_told(
    report: Report, printed: Callable[..., str]
) -> None:
    report = replace(
        report,
        whole=False,
        budgets=(BudgetResult("--min-accuracy", 0.98, 0.95, None, True, "--min-accuracy missed"),),
        resources={
            "totals": {
                "neurons": {"value": 12, "status": "exact"},
                "cores": {"value": 3, "status": "estimated"},
                "chips": {"value": 1, "status": "estimated"},
            }
        },
        energy=(Energy("float", "-", (), 1, 1), Energy("chip", "by hand", (), 1500.0, 2.5e6)),
        remarks=("'lif1' saturated its membranes 3 times",),
        not_measured={"torch": "left out", "distances": "no elephant", "accuracy": "left out"},
    )

    text = words(printed(report))

    assert "20 samples, a part of the data, 5 steps" in text
    assert "fixedpoint 95.00 % (76.4 to 99.1)" in text
    assert "budgets --min-accuracy missed" in text
    assert "costs 12 neurons, 3 cores (estimated), 1 chip (estimated)" in text
    assert "about 1.5 nJ a sample, 2.5 uJ as an ANN: an estimate, by the rule in the report" in text
    assert "remarks 'lif1' saturated its membranes 3 times" in text
    assert "not measured torch, accuracy: left out distances: no elephant" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_nothing_is_cut_off_on_narrow_terminals(
    width: int, report: Report, printed: Callable[..., str]
) -> None:
    text = printed(report, width)

    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "\x1b" not in text  # no colours in a pipe
    assert words(text).count("float / fixedpoint") == 3  # the table, the verdict, the first spike
    assert words(text).count("3 %") >= 1


def test_names_from_other_peoples_files_are_printed_as_text(
    report: Report, printed: Callable[..., str]
) -> None:
    name = "[red]\x1b[2Jlif:smile:"
    bad = replace(report.comparisons[0], layers=(LayerComparison(name, 10, 1, 0, 0),))

    text = printed(replace(report, comparisons=(bad,), data=name, remarks=(name,)), 120)

    assert text.count(r"[red]\x1b[2Jlif:smile:") == 3
    assert "\x1b" not in text


def test_a_network_of_which_nothing_is_known_is_printed_too(
    report: Report, printed: Callable[..., str]
) -> None:
    bare = replace(
        report,
        samples=1,
        steps=1,
        data="",
        comparisons=(replace(pair(("float", "fixedpoint")), layers=(), same_decisions=None),),
        stages=tuple(replace(stage, accuracy=None) for stage in report.stages),
    )

    text = words(printed(bare))

    assert heading(bare) == "chip: 1 sample, 1 step"
    assert "differing places" not in text
    assert "none of these must match: rounding is measured, not judged" in text
    assert text.index("float / fixedpoint: identical") < text.index("none of these")
    assert "float / fixedpoint: identical, all outputs" in text


def test_numbers_are_short() -> None:
    assert [percent(share) for share in (0, 0.5, 0.045593, 1e-4, 3e-7)] == [
        "0 %", "50 %", "4.56 %", "0.01 %", "3.0e-05 %",
    ]  # fmt: skip
    assert [joules(amount) for amount in (0, 12.34, 5678, 4e6, 2e9, 7e12)] == [
        "0 pJ", "12.3 pJ", "5.68 nJ", "4 uJ", "2 mJ", "7 J",
    ]  # fmt: skip
    assert margin(1.0, 1.0) == "membrane 1 at threshold 1"
