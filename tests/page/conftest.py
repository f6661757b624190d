"""Reports made by hand: one with everything, one with almost nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from neurocompile.statistics import Share
from neurocompile.verification.report import (
    Alternative,
    BudgetResult,
    Cause,
    Comparison,
    Contribution,
    Distances,
    Divergence,
    Energy,
    Examination,
    Exhibit,
    Histogram,
    LayerBlame,
    LayerComparison,
    LayerEnergy,
    MembraneTrace,
    ReadoutBlame,
    Report,
    StageSummary,
)

SAMPLES, STEPS = 360, 4
LAYERS = (("lif1", (8, 8, 8)), ("lif2", (16, 4, 4)))
STAGES = ("torch", "float", "quantised", "fixedpoint", "loihi2")


@pytest.fixture(scope="session")
def report() -> Report:
    return _report()


@pytest.fixture(scope="session")
def bare() -> Report:
    """A report of a file without labels, of which nothing but spikes was compared."""
    pair = Comparison(
        "float", "fixedpoint", False, (LayerComparison("lif", 40, 0, 0.1, 0.1),), 40, 0, 0.0, None
    )
    return Report(
        target="fixedpoint",
        samples=2,
        steps=4,
        stages=(
            StageSummary("float", False, None, None, None, 8),
            StageSummary("fixedpoint", True, None, None, None, 8),
        ),
        comparisons=(pair,),
        overall=pair,
        counters={},
        facts={},
        not_measured={
            "examination": "--examine 0 was asked for",
            "accuracy": "the data has no labels",
        },
    )


@pytest.fixture(scope="session")
def hostile() -> Report:
    """A report whose names try to be markup, links, colours and directions."""
    name = "</script><script>alert(1)</script>"
    return _report(names=(name, "<img src=x onerror=alert(2)>\u202e\x00@ink%{x}\ud800"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser without a window, skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("NEUROCOMPILE_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if found is None:
        pytest.skip("no Chromium here; NEUROCOMPILE_CHROMIUM says where one is")
    quiet = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync"
    )
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=quiet.split())
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def deep(report: Report) -> Report:
    """A report of a network of 36 layers with residuals and one loop."""
    return _deep(report)


@pytest.fixture
def renamed(report: Report) -> Callable[..., Report]:
    """Return the full report with some fields changed."""
    return lambda **changes: replace(report, **changes)


def _report(names: tuple[str, str] = ("lif1", "lif2")) -> Report:
    shapes = [shape for _, shape in LAYERS]
    exhibits = tuple(_exhibit(sample, names, shapes) for sample in (0, 1, 7))
    pairs = [
        _pair("torch", "float", names, 0.0),
        _pair("float", "quantised", names, 0.03),
        _pair("quantised", "fixedpoint", names, 0.002),
        _pair("fixedpoint", "loihi2", names, 0.0, must_match=True),
        _pair("torch", "loihi2", names, 0.031),
    ]
    rights = (296, 296, 289, 288, 288)
    return Report(
        target="loihi2",
        samples=SAMPLES,
        steps=STEPS,
        data="digits:test",
        stages=tuple(
            StageSummary(
                stage,
                at > 2,
                Share(right, SAMPLES),
                tuple(Share(right - back, SAMPLES) for back in (60, 25, 8, 0)),
                1.4,
                201_000 + at,
                dict.fromkeys(names, 0.22 + at / 100),
                Share(2 if at > 2 else 0, SAMPLES),
            )
            for at, (stage, right) in enumerate(zip(STAGES, rights, strict=True))
        ),
        comparisons=tuple(pairs),
        overall=pairs[-1],
        counters={names[0]: {"saturated": 0}, names[1]: {"saturated": 12}},
        facts=_facts(names),
        remarks=("the membrane of 12 places saturated",),
        budgets=(
            BudgetResult(
                "max-mismatch",
                0.05,
                0.031,
                (0.03, 0.032),
                failed=False,
                text="--max-mismatch 5 % met: 3.1 % of spikes differ",
            ),
            BudgetResult(
                "min-accuracy",
                0.82,
                0.8,
                (0.757, 0.838),
                failed=True,
                text="--min-accuracy 82 % missed by 2 %: accuracy 80.00 %",
            ),
        ),
        examination=_examination(names),
        energy=tuple(_energy(stage, names) for stage in ("float", "loihi2")),
        resources=_resources(names),
        network=_network(names),
        exhibits=exhibits,
        not_measured={"alternatives.qat": "quantisation-aware training takes a training run"},
        versions={"neurocompile": "0.1.0", "lava-nc": "0.9.0"},
    )


def _exhibit(sample: int, names: tuple[str, str], shapes: Sequence[tuple[int, ...]]) -> Exhibit:
    draws = np.random.default_rng(sample)
    spikes: dict[str, dict[str, Any]] = {stage: {} for stage in STAGES}
    for name, shape in zip(names, shapes, strict=True):
        base = (draws.random((STEPS, *shape)) < 0.25).astype(np.uint8)
        noise = draws.random(base.shape) < (0.0 if sample == 0 else 0.02)
        for stage in STAGES:
            spikes[stage][name] = base if stage in ("torch", "float") else base ^ noise
    return Exhibit(
        sample,
        3,
        spikes,
        {stage: draws.normal(size=(STEPS, 10)) for stage in STAGES},
        {stage: 3 if stage in ("torch", "float") or sample != 7 else 8 for stage in STAGES},
    )


def _pair(
    reference: str,
    candidate: str,
    names: tuple[str, str],
    share: float,
    *,
    must_match: bool = False,
) -> Comparison:
    layers = []
    for name, (_, shape) in zip(names, LAYERS, strict=True):
        each = int(np.prod(shape))
        slots = SAMPLES * STEPS * each
        differ = round(slots * share)
        by_step = [differ // 4] * 3
        layers.append(
            LayerComparison(
                name,
                slots,
                differ,
                0.22,
                0.23,
                slots // 5,
                slots // 5 + 9,
                differ // 3,
                differ - differ // 3,
                (*by_step, differ - sum(by_step)),
                0.1,
            )
        )
    first = Divergence(7, 1, names[0], 37, 1, 0, 0.98, 1.0, 1.02, 1.0) if share else None
    return Comparison(
        reference,
        candidate,
        must_match,
        tuple(layers),
        SAMPLES * STEPS * 10,
        round(9000 * share),
        share * 3,
        first,
        (first,) if first else (),
        Share(round(SAMPLES * min(1, share * 20)), SAMPLES),
        Share(SAMPLES - round(SAMPLES * share), SAMPLES),
    )


def _examination(names: tuple[str, str]) -> Examination:
    edges = tuple(np.linspace(-1, 1, 33).tolist())
    heights = [int(400 * np.exp(-8 * ((left + 1 / 32) ** 2))) for left in edges[:-1]]
    after = (
        [0] * 4 + [sum(heights[at : at + 2]) if at % 2 == 0 else 0 for at in range(4, 28)] + [0] * 4
    )
    histograms = tuple(
        Histogram(name, edges, tuple(heights), tuple(after), 8, threshold=0.75) for name in names
    )
    causes = []
    for at, name in enumerate(names):
        parts = [
            Contribution("weights rounded", -0.061),
            Contribution("weights clipped", -0.004),
            Contribution("bias rounded", 0.012),
            Contribution("leak truncated", -0.003),
            Contribution("inputs rounded", 0.0),
            *([Contribution(f"spikes of '{names[0]}' differ", 0.016)] if at else []),
        ]
        moved = sum(part.amount for part in parts)
        divergence = Divergence(7, 1, name, 37, 1, 0, 1.02 + moved, 1.0, 1.02, 1.0)
        trace = MembraneTrace(
            (0.4, 1.02, 0.3, 0.7),
            (0.38, 1.02 + moved, 1.2, 0.3),
            1.0,
            1.0,
            (0, 1, 0, 0),
            (0, 0, 1, 0),
        )
        note = "weights are off by more than rounding explains: a bug" if at else ""
        causes.append(
            Cause("torch", "loihi2", divergence, 0.02, 0.02 + moved, tuple(parts), trace, note)
        )
    return Examination(
        samples=(0, 1, 7, 100),
        blame=tuple(
            LayerBlame(name, Share(90, 8192), Share(60 - 20 * at, 8192), Share(40 + 10 * at, 8192))
            for at, name in enumerate(names)
        ),
        causes=tuple(causes),
        distances=tuple(
            Distances(name, 0.31, 2.0, 0.44, 1.0, 0.02, 0.4, pairs=1024, drawn=drawn)
            for name, drawn in zip(names, (None, 256), strict=True)
        ),
        weights=histograms,
        membranes=histograms,
        alternatives=(
            Alternative(
                "as it is, 5 bits", "", Share(90, 8192), Share(3, 4), 4525, 4, Share(2, 4), 0.25
            ),
            Alternative(
                "8 bits",
                "--weight-bits 8",
                Share(4, 8192),
                Share(4, 4),
                7240,
                4,
                Share(4, 4),
                0.03125,
                (-0.015, -0.006),
                better=True,
            ),
            Alternative(
                "scales by channel",
                "--scales channel",
                Share(60, 8192),
                None,
                4525,
                4,
                None,
                None,
                (-0.009, 0.002),
            ),
        ),
        readouts=(ReadoutBlame("readout", Share(2, 4), Share(1, 4), 0.25, 0.125),),
        cause_samples=(0, 7),
    )


def _energy(stage: str, names: tuple[str, str]) -> Energy:
    return Energy(
        stage,
        "Multiply-accumulates at 4.6 pJ, accumulates at 0.9 pJ: constants of 45 nm (Horowitz 2014).",
        (
            LayerEnergy(names[0], "mac", 15_488.0, 71_244.8),
            LayerEnergy(names[1], "ac", 60_411.5, 54_370.4),
        ),
        125_615.2,
        1_402_000.0,
    )


def _facts(names: tuple[str, str]) -> dict[str, Any]:
    return {
        "source": {"kind": "checkpoint", "name": "run"},
        "import": {
            "options": {"profile": "auto", "dt": None},
            "inferred": {"dt": "0.0001, from the file's metadata", "reset": "zero, as asked for"},
        },
        "quantisation": {
            "weight_bits": 5,
            "method": "auto",
            "layers": {
                names[0]: {"memory_bits": 360, "chosen": {"method": "mse", "weight_bits": 5}},
                names[1]: {"memory_bits": 23040, "chosen": {"method": "mse", "weight_bits": 5}},
            },
        },
        "notes": ["4 of 512 neurons of 'lif1' can never fire, whatever arrives"],
        "versions": {"neurocompile": "0.1.0", "numpy": "2.4.6"},
    }


def _resources(names: tuple[str, str]) -> dict[str, Any]:
    def figures(neurons: int, cores: int, words: int) -> dict[str, Any]:
        exact = {
            "neurons": neurons,
            "synapses": 9 * neurons,
            "weights": 72,
            "axons": 64,
            "fan_in": 9,
            "fan_out": 72,
        }
        estimated = {"cores": cores, "words": words}
        return {
            "kind": "neurons",
            **{key: {"value": value, "status": "exact"} for key, value in exact.items()},
            **{key: {"value": value, "status": "estimated"} for key, value in estimated.items()},
            "tightest": "synapse memory",
            "remedy": "fewer weights, or fewer bits of them with --weight-bits",
            "fits": True,
        }

    def limit(value: int) -> dict[str, Any]:
        return {"value": value, "status": "published", "source": "a brief"}

    return {
        "layers": {names[0]: figures(512, 2, 300), names[1]: figures(256, 3, 21_000)},
        "totals": {
            "neurons": {"value": 778, "status": "exact"},
            "synapses": {"value": 48_000, "status": "exact"},
            "cores": {"value": 5, "status": "estimated"},
            "chips": {"value": 1, "status": "estimated"},
            "words": {"value": 21_300, "status": "estimated"},
        },
        "limits": {"neurons_per_core": limit(4096), "words_per_core": limit(16_000)},
        "notes": ["cores are estimates"],
    }


def _network(names: tuple[str, str]) -> dict[str, Any]:
    bound = {
        "current": 7936,
        "current_limit": 131_071,
        "membrane": 956_100,
        "membrane_limit": 8_388_607,
    }
    populations = [
        {"name": "input", "kind": "input", "shape": [1, 8, 8], "neurons": 64, "depth": 0},
        *(
            {
                "name": name,
                "kind": "neurons",
                "shape": list(shape),
                "neurons": int(np.prod(shape)),
                "depth": at + 1,
                "saturates": bool(at),
                "bound": bound,
                "head_room": 8.77,
            }
            for at, (name, (_, shape)) in enumerate(zip(names, LAYERS, strict=True))
        ),
        {"name": "readout", "kind": "read-out", "shape": [10], "neurons": 10, "depth": 3},
    ]
    order = ["input", *names, "readout"]
    edges = [*pairwise(order), (names[0], "readout"), (names[1], names[0])]
    synapses = [
        {
            "name": f"group{at}",
            "source": source,
            "target": target,
            "kind": "dense",
            "shape": [4, 4],
            "weights": 9,
            "synapses": 1000 + at,
            "delay": 0,
            "on_host": False,
        }
        for at, (source, target) in enumerate(edges)
    ]
    return {"populations": populations, "synapses": synapses, "outputs": {"output": "readout"}}


def _deep(report: Report) -> Report:
    names = [f"stage{at // 4}.block{at % 4}.lif" for at in range(36)]
    populations: list[dict[str, Any]] = [
        {"name": "input", "kind": "input", "shape": [3, 32, 32], "neurons": 3072, "depth": 0}
    ]
    synapses: list[dict[str, Any]] = []
    before = "input"
    for at, name in enumerate(names):
        populations.append(
            {
                "name": name,
                "kind": "neurons",
                "shape": [64, 16, 16],
                "neurons": 16_384,
                "depth": at + 1,
            }
        )
        synapses.append(
            {
                "name": f"conv{at}",
                "source": before,
                "target": name,
                "kind": "convolution",
                "synapses": 900_000,
            }
        )
        if at % 4 == 3:
            synapses.append(
                {
                    "name": f"skip{at}",
                    "source": names[at - 3],
                    "target": name,
                    "kind": "convolution",
                    "synapses": 9,
                }
            )
        before = name
    synapses.append(
        {
            "name": "loop",
            "source": names[9],
            "target": names[9],
            "kind": "dense",
            "synapses": 7,
            "delay": 1,
        }
    )
    layers = tuple(
        LayerComparison(
            name,
            1_000_000,
            at * at * 9,
            0.2,
            0.2,
            200_000,
            200_000,
            at * at * 4,
            at * at * 5,
            (at, at, 0, at * 9),
        )
        for at, name in enumerate(names)
    )
    pair = replace(report.overall, layers=layers, first_divergence=None)
    return replace(
        report,
        overall=pair,
        comparisons=(pair,),
        network={"populations": populations, "synapses": synapses, "outputs": {}},
        resources={},
        exhibits=(),
        examination=None,
        energy=(),
    )
