"""The benchmark of training steps: that all contestants train the same network, and what it claims."""

from __future__ import annotations

from pathlib import Path

import pytest
import train_step
from harness import Times

PEERS = Path(__file__).parents[2] / ".bench" / "peers"


def test_the_loop_trains_the_same_network() -> None:
    case, _ = train_step.QUICK
    section = train_step.measure(case, None)

    assert set(section.data["ratios"]) == {"ours", "twin", "reference"}
    assert section.data["ratios"]["ours"] == 1
    assert section.data["losses"]["ours"] == pytest.approx(
        section.data["losses"]["reference"], rel=1e-4
    )
    assert section.data["losses"]["ours"] != pytest.approx(section.data["losses"]["twin"], rel=1e-4)
    assert all(0 < rate < 0.5 for rate in section.data["rates"].values())
    assert [claim.most for claim in section.claims] == [case.most, 1.0, 1.05, 2.0]


def test_the_frameworks_train_the_same_network() -> None:
    if not (PEERS / "ready").is_file():
        pytest.skip("'make bench-train' was not run here")

    section = train_step.measure(train_step.QUICK[1], PEERS / "bin" / "python")

    losses = dict(section.data["losses"])
    losses.pop("twin")
    assert set(losses) == {"ours", "reference", *train_step.PEERS}
    assert list(losses.values()) == pytest.approx([losses["ours"]] * len(losses), rel=1e-3)


def test_times_are_compared_within_rounds() -> None:
    """A round in which the machine was ten times slower changes nothing."""
    ours, theirs = Times((1.0, 12.0, 1.1)), Times((2.0, 20.0, 2.2))

    assert train_step.ratio(ours, theirs) == pytest.approx(0.5)


def test_a_contestant_that_fails_says_why() -> None:
    case = train_step.QUICK[0]
    broken = train_step.Case(case.title, {**case.settings, "stages": [[4, 2, 1]]}, 1.0, rounds=1)

    with pytest.raises(RuntimeError, match="ours failed:(.|\n)*kernels must be odd"):
        train_step.measure(broken, None)
