"""
What `test_common_statistics.py` runs in two processes, which meet in a folder.

Each takes its part of the folder's `given.pt`, and leaves what it got in `0.pt` and `1.pt`.
"""

from __future__ import annotations

import multiprocessing
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from neurocompile.training.config import FdgSettings, LossSettings, TwoSettings, resolve
from neurocompile.training.fdg import adapt_temperature
from neurocompile.training.losses import loss_of
from neurocompile.training.networks import build
from neurocompile.training.neurons import LIF
from neurocompile.training.normalisation import (
    ScaledBatchNorm2d,
    processes,
    synchronise,
    unmoved_statistics,
)
from neurocompile.training.time_weights import MomentAccuracies, updated

DEADLINE = timedelta(seconds=60)


def work(rank: int, folder: Path) -> None:
    """Do all of it, as process `rank` of two."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2, timeout=DEADLINE
    )
    assert processes() == 2
    given = torch.load(folder / "given.pt", weights_only=True)
    part = slice(None, given["first"]) if rank == 0 else slice(given["first"], None)
    result: dict[str, Any] = {
        name: _normalise(norm, given, part)
        for name, norm in (
            ("bn", nn.BatchNorm2d(3, dtype=torch.float64)),
            ("tdbn", ScaledBatchNorm2d(3, 0.7, dtype=torch.float64)),
        )
    }
    moments = MomentAccuracies(4)
    moments.add(given["outputs"][part], given["labels"][part])
    result["accuracies"] = moments.mean()
    result["time weights"] = updated(torch.ones(4), moments.mean(), TwoSettings(start_epoch=0), 1)
    result["temperature"], result["cosines"] = _adapt(given, part)
    torch.save(result, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def _normalise(norm: nn.BatchNorm2d, given: dict[str, Any], part: slice) -> dict[str, Any]:
    network = nn.Sequential(norm)
    with torch.no_grad():
        norm.weight[:] = given["weight"]
        norm.bias[:] = given["bias"]
    names = [name for name, _ in network.named_parameters()]
    synchronise(network)
    assert [name for name, _ in network.named_parameters()] == names
    assert next(network.parameters()) is norm.weight
    x = given["x"][part].clone().requires_grad_()
    outputs = network(x)
    outputs.backward(given["arriving"][part])
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with unmoved_statistics(network):
        alone = network(x)
    unmoved = all(torch.equal(network.state_dict()[name], state[name]) for name in state)
    return {
        "outputs": outputs.detach(),
        "gradient": x.grad,
        "of parameters": [parameter.grad for parameter in network.parameters()],
        "state": state,
        "alone": alone.detach(),
        "unmoved": unmoved,
        "evaluated": network.eval()(x).detach(),
    }


def _adapt(given: dict[str, Any], part: slice) -> tuple[float, list[float]]:
    torch.manual_seed(0)
    stages = 'network.stages=[{"channels":3,"kernel":3},{"channels":3,"kernel":3}]'
    settings = resolve(preset="digits", overrides=[stages, "timesteps=2", "surrogate.name=dspike"])
    network = build(settings, (3, 4, 4), 3)
    synchronise(network)
    surrogate = next(module for module in network.modules() if isinstance(module, LIF)).surrogate
    x = given["x"][part].float()[:, None].expand(-1, 2, -1, -1, -1)
    temperature, report = adapt_temperature(
        network,
        surrogate,
        loss_of(LossSettings(), 0),
        x,
        given["labels"][part],
        FdgSettings(epsilon=0.5),
        seed=0,
    )
    return temperature, list(report.cosines.values())


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(rank, Path(sys.argv[1]))) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(2 * DEADLINE.total_seconds())
    sys.exit(max(worker.exitcode or 0 if not worker.is_alive() else 1 for worker in workers))
