"""The benchmarks: their arithmetic, and that each of them runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import child
import engine
import harness
import networks
import numpy as np
import pytest
import torch

from neurocompile.reference import simulate

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".bench" / "peers"


def test_a_line_through_points_of_a_line_explains_all_of_them() -> None:
    fit = harness.fit_line([1, 2, 4], [5, 7, 11])

    assert (fit.slope, fit.intercept, fit.r_squared) == pytest.approx((2, 3, 1))


@pytest.mark.parametrize(("y", "slope", "explained"), [((0, 1, 1), 0.5, 0.75), ((0, 1, 0), 0, 0)])
def test_a_line_explains_what_is_not_left_over(
    y: tuple[int, ...], slope: float, explained: float
) -> None:
    fit = harness.fit_line([0, 1, 2], y)

    assert (fit.slope, fit.r_squared) == pytest.approx((slope, explained))


def test_cases_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []
    seconds = {"a": iter([90.0, 1.0, 5.0, 2.0]), "b": iter([80.0, 3.0, 3.0, 4.0])}

    def case(name: str) -> Callable[[], float]:
        def take() -> float:
            turns.append(name)
            return next(seconds[name])

        return take

    times = harness.interleave({name: case(name) for name in seconds}, rounds=3)

    assert "".join(turns) == "abababab"
    assert times["a"].seconds == (1.0, 5.0, 2.0)
    assert times["a"].median == 2.0
    assert times["b"].spread == "3 to 4 s"


@pytest.mark.parametrize(
    ("measured", "bounds", "met"),
    [
        (500.0, {"least": 500}, True),
        (499.0, {"least": 500}, False),
        (3.0, {"most": 3}, True),
        (3.1, {"most": 3}, False),
        (0.1, {}, True),
        (None, {}, False),
        (None, {"most": 3}, False),
    ],
)
def test_a_claim_is_met_by_what_was_measured(
    measured: float | None, bounds: dict[str, float], met: bool
) -> None:
    claim = harness.Claim("speed", measured, "x", **bounds)

    assert claim.met is met
    assert claim.row()[-1] == ("met" if met else "**not met**")


def test_a_report_opens_with_what_was_asked(tmp_path: Path) -> None:
    claims = [
        harness.Claim("speed", 612.3, "x", least=500, aimed=1000),
        harness.Claim("time", 4.0, " s", most=3),
    ]
    sections = [harness.Section("Speed", "Words.", ["| a |", "| --- |"], {"n": [1]}, claims)]
    measured = {"processor": "A chip", "cores": "2", "threads": "2", "versions": "Python 3"}

    page = harness.report("Title", "Introduction.", sections, measured, others=0.2)
    harness.write_report(tmp_path, "page", page, sections, measured)

    assert (tmp_path / "page.md").read_text() == page
    assert "A chip, 2 cores" in page
    assert "Other programs took 20 %" in page
    assert "too much" in page
    assert "| speed | >= 500x | 1000x | 612x | met |" in page
    assert "| time | <= 3 s |  | 4 s | **not met** |" in page
    assert page.index("| speed |") < page.index("## Speed")
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert [claim["met"] for claim in numbers["claims"]] == [True, False]
    assert numbers["sections"] == {"Speed": {"n": [1]}}


def test_a_quiet_machine_is_not_warned_of() -> None:
    measured = {"processor": "A chip", "cores": "2", "threads": "2", "versions": "Python 3"}

    assert "too much" not in harness.report("Title", "Text.", [], measured, others=0.01)


def test_our_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = iter([(0.0, 0.0, 0.0), (10.0, 6.0, 5.0)])  # all cores, busy, us
    monkeypatch.setattr(harness.Others, "_read", staticmethod(lambda: next(reads)))

    assert harness.Others().share() == pytest.approx(0.1)


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        harness.child(["-c", "raise SystemExit('no such thing')"])


def test_the_peak_of_a_child_is_not_its_parents() -> None:
    ours = np.ones(1 << 25)  # 256 MB
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import child; print(child.peak_bytes())"

    theirs = int(harness.run_python(["-c", code]))

    assert theirs < ours.nbytes < child.peak_bytes()


def test_kernels_are_counted_by_their_signatures() -> None:
    numba = pytest.importorskip("numba")

    def double(x: float) -> float:
        return 2 * x

    double.__module__ = "neurocompile_of_this_test"
    before = child.compiled_kernels()
    kernel = numba.njit(double)
    kernel(1)
    kernel(1.5)
    kernel(2)

    assert child.compiled_kernels() - before == 2


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_loop_in_pytorch_is_the_network(channels_last: bool) -> None:
    network = networks.small_network(5, size=12)
    inputs = networks.random_spikes(3, 5, (1, 12, 12))

    infer = networks.eager(network, channels_last=channels_last)
    output = infer(torch.tensor(inputs, dtype=torch.float32).transpose(0, 1))

    expected = simulate(network, inputs).output.transpose(1, 0, 2)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "least"),
    [("ResNet-19", 0.05), ("VGGSNN", 0.05), ("SNN-5", 0.02)],  # most of MNIST's pixels are black
)
def test_layers_of_the_deep_networks_fire_about_as_trained_ones(name: str, least: float) -> None:
    deep = networks.deep_network(name, 1 / 8)

    rates = networks.firing_rates(engine.compiled(deep.network), networks.deep_inputs(name, 2))

    assert min(rates.values()) > least
    assert max(rates.values()) < 0.26


LAVA = {engine.measure_throughput, engine.measure_one_sample}


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(measure, id=measure.__name__, marks=[pytest.mark.lava] * (measure in LAVA))
        for measure in engine.SECTIONS
    ],
)
def test_every_benchmark_runs(measure: Callable[[engine.Sizes], harness.Section]) -> None:
    section = measure(engine.QUICK)

    json.dumps(section.data)
    assert section.claims
    assert all(claim.what and len(claim.row()) == 5 for claim in section.claims)
    assert len({line.count("|") for line in section.table}) <= 1


@pytest.mark.lava
def test_the_peers_compute_the_same() -> None:
    if not (PEERS / "ready").is_file():
        pytest.skip("'make bench-peers' was not run here")
    import compare_peers

    section = compare_peers.measure(engine.QUICK, PEERS / "bin" / "python")

    assert len(section.data["outputs_that_agree"]) == 3
    assert set(section.data["outputs_that_agree"].values()) == {1.0}


def test_the_machine_is_named() -> None:
    named = harness.machine()

    assert named["processor"]
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in named["versions"]
