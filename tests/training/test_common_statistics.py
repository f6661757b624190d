"""Two processes, each with its share of a batch, compute what one computes with all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

FIRST, SAMPLES = 3, 8  # of the first process, and of both


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """Inputs and arriving gradients whose channels have means far from 0 and different spreads."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spread = torch.tensor([0.1, 1.0, 5.0])[:, None, None]
    x = draw(SAMPLES, 3, 4, 4) * spread + torch.tensor([10.0, -3.0, 0.0])[:, None, None]
    x[FIRST:] += 1  # what one process sees is not what the other does
    return {
        "first": FIRST,
        "x": x,
        "arriving": draw(SAMPLES, 3, 4, 4),
        "weight": draw(3),
        "bias": draw(3),
        "outputs": draw(SAMPLES, 4, 3),
        "labels": torch.randint(0, 3, (SAMPLES,), generator=generator),
    }


@pytest.fixture(scope="module")
def both(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes got."""
    folder = tmp_path_factory.mktemp("two")
    torch.save(given, folder / "given.pt")
    script = Path(__file__).with_name("two_processes.py")
    subprocess.run([sys.executable, script, folder], check=True, timeout=180)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize(("kind", "factor"), [("bn", 1.0), ("tdbn", 0.7)])
def test_outputs_gradients_and_statistics_are_those_of_one_process(
    both: list[dict[str, Any]], given: dict[str, Any], kind: str, factor: float
) -> None:
    norm = nn.BatchNorm2d(3, dtype=torch.float64)
    with torch.no_grad():
        norm.weight[:] = factor * given["weight"]
        norm.bias[:] = given["bias"]
    x = given["x"].clone().requires_grad_()
    outputs = norm(x)
    outputs.backward(given["arriving"])

    def joined(name: str) -> Tensor:
        return torch.cat([result[kind][name] for result in both])

    assert norm.weight.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(joined("outputs"), outputs.detach())
    torch.testing.assert_close(joined("gradient"), x.grad)
    of_weight, of_bias = (
        sum(result[kind]["of parameters"][place] for result in both) for place in (0, 1)
    )
    torch.testing.assert_close(of_weight, factor * norm.weight.grad)
    torch.testing.assert_close(of_bias, norm.bias.grad)
    norm.eval()
    torch.testing.assert_close(joined("evaluated"), norm(given["x"]).detach())
    for result in both:
        state = result[kind]["state"]
        torch.testing.assert_close(state["0.running_mean"], norm.running_mean)
        torch.testing.assert_close(state["0.running_var"], norm.running_var)
        assert state["0.num_batches_tracked"] == 1


def test_passes_that_are_no_training_are_each_process_s_own(
    both: list[dict[str, Any]], given: dict[str, Any]
) -> None:
    for result, x in zip(both, (given["x"][:FIRST], given["x"][FIRST:]), strict=True):
        own = nn.functional.batch_norm(x, None, None, given["weight"], given["bias"], training=True)
        torch.testing.assert_close(result["bn"]["alone"], own)
        assert result["bn"]["unmoved"]


def test_accuracies_of_moments_are_those_of_all_samples(
    both: list[dict[str, Any]], given: dict[str, Any]
) -> None:
    right = (given["outputs"].argmax(2) == given["labels"][:, None]).double().mean(0)

    for result in both:
        torch.testing.assert_close(result["accuracies"], right)
        assert float(result["time weights"].sum()) == pytest.approx(4)


def test_all_processes_take_the_same_temperature(both: list[dict[str, Any]]) -> None:
    first, second = both

    assert first["temperature"] == second["temperature"]
    assert first["cosines"] == second["cosines"]
    assert any(first["cosines"])
