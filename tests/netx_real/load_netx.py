"""
What netx itself makes of `.net` files; run by `compare.py`, in netx's environment.

    python load_netx.py run FOLDER        network.net, in.npz -> out.npz
    python load_netx.py weights FOLDER    in.npz -> out.npz

`run` streams samples (samples, steps, *input shape), channels first, through the network that netx builds,
one after the other, and writes the output's spikes and the last layer's membranes at the end. `weights`
writes what Lava's Dense holds of matrices that netx has prepared, and what it should hold. "name.n" has n
columns of weights, and then those of the layer's own spikes: two of Lava's.

netx imports slayer and PyTorch, and uses neither to run a network of LIF neurons: two empty modules stand
for them.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

torch: Any = types.ModuleType("torch")
torch.tensor = object
sys.modules["torch"] = torch
resonators: Any = types.ModuleType("lava.lib.dl.slayer.neuron.rf")
resonators.neuron_params = None
sys.modules["lava.lib.dl.slayer.neuron.rf"] = resonators

from lava.lib.dl.netx import hdf5  # noqa: E402
from lava.lib.dl.netx.utils import optimize_weight_bits  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc import io  # noqa: E402
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights  # noqa: E402


def run(folder: Path) -> dict[str, Any]:
    """Return `output` (samples, steps, *output shape) and `membrane` (*output shape)."""
    with np.load(folder / "in.npz") as file:
        inputs, graded = file["inputs"], bool(file["graded"])
    samples, steps = inputs.shape[:2]
    network = hdf5.Network(
        net_config=str(folder / "network.net"),
        reset_interval=steps,
        reset_offset=1,  # without neurons of its own, the input layer does not count
        input_message_bits=8 if graded else 0,
    )
    depth = len(network)
    stream = inputs.reshape(samples * steps, *inputs.shape[2:]).astype(int)
    if len(network.inp.shape) == 3:
        stream = stream.transpose(0, 3, 2, 1)  # to width, height, channels
    stream = stream.reshape(len(stream), *network.inp.shape)
    source = io.source.RingBuffer(data=np.moveaxis(stream, 0, -1))
    sink = io.sink.RingBuffer(shape=network.out.shape, buffer=samples * steps + depth)
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    try:
        network.run(
            condition=RunSteps(samples * steps + depth),
            run_cfg=Loihi2SimCfg(select_tag="fixed_pt"),
        )
        recorded = np.moveaxis(sink.data.get().astype(np.uint8), -1, 0)[depth:]
        membrane = network.layers[-1].neuron.v.get()
    finally:
        network.stop()
    if recorded.ndim == 4:
        recorded, membrane = recorded.transpose(0, 3, 2, 1), membrane.transpose(2, 1, 0)
    output = recorded.reshape(samples, steps, *recorded.shape[1:])
    return {"output": output, "membrane": membrane}


def weights(folder: Path) -> dict[str, Any]:
    """Return `kept/<name>` and `meant/<name>` for each matrix of the file."""
    result: dict[str, Any] = {}
    with np.load(folder / "in.npz") as file:
        for name in file:
            prepared, bits, exponent, _ = optimize_weight_bits(file[name])
            kept = []
            for part in np.hsplit(prepared, [int(name.partition(".")[2])]):
                if part.size:
                    mode = determine_sign_mode(part)
                    clipped = clip_weights(part, sign_mode=mode, num_bits=8)
                    kept.append(truncate_weights(clipped, sign_mode=mode, num_weight_bits=bits))
            result |= {f"kept/{name}": np.hstack(kept), f"meant/{name}": file[name] << -exponent}
    return result


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2])
    np.savez(place / "out.npz", **(run if task == "run" else weights)(place))
