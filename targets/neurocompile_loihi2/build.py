"""Build the Lava processes of a layout; runs in the worker, where Lava is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.compiler.compiler_graphs import find_processes
from lava.magma.core.process.process import AbstractProcess
from lava.proc.conv.process import Conv
from lava.proc.graded.process import GradedVec
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity

from neurocompile_loihi2.processes.batch import (
    BatchConvolution,
    BatchDelaySparse,
    BatchLIF,
    BatchSparse,
)
from neurocompile_loihi2.processes.microcode import STATE_MAXIMUM, Microcode
from neurocompile_loihi2.processes.streams import (
    FileSource,
    MembraneRecorder,
    SpikeRecorder,
    Tie,
)
from neurocompile_loihi2.unroll import unroll
from neurocompile_loihi2.wiring import Wires, places
from neurocompile_loihi2.worker_setup import (
    CONTROL,
    MEMBRANE,
    Setup,
    Stream,
    source_stream,
)

SIGN_MODES = {"mixed": SignMode.MIXED, "excitatory": SignMode.EXCITATORY}
MEMORYLESS_DU = 4095
MEMORYLESS_DV = 4096


@dataclass(frozen=True)
class Built:
    """The processes of a network, kept alive together; `entry` is one to run them by."""

    entry: AbstractProcess
    processes: tuple[AbstractProcess, ...]


@dataclass(frozen=True)
class Part:
    """
    A process that is all of a population, or some of its neurons.

    `neurons` are their numbers in the population, or None for all.
    """

    process: Any
    neurons: NDArray[Any] | None = None


def build(setup: Setup, arrays: Mapping[str, NDArray[Any]], directory: Path) -> Built:
    """
    Return the connected processes of `setup`.

    Neurons are `LIFReset`, whose reset falls on the first step of a sample at their depth, so that
    samples follow each other without a pause. Populations are flat, and `replicas` samples run side
    by side on a last axis, (neurons, samples): as many networks that share nothing but their weights,
    which is what block-diagonal matrices would be. With Lava's `Conv`, which has no such axis, there
    is one sample.
    """
    return _Builder(setup, arrays, directory).build()


class _Builder:
    def __init__(self, setup: Setup, arrays: Mapping[str, NDArray[Any]], directory: Path) -> None:
        self.setup = setup
        self.arrays = arrays
        self.directory = directory
        self.processes: list[AbstractProcess] = []
        self.nodes: dict[tuple[str, int], list[Part]] = {}  # by name and machine steps behind it
        self.sizes: dict[str, int] = {}  # neurons
        self.samples = setup.side_by_side  # the last axis of everything, () where there is none

    def build(self) -> Built:
        layout = self.setup.layout
        for entry in layout["sources"]:
            self.sizes[entry["name"]] = math.prod(entry["shape"])
            stream = self.setup.streams[source_stream(entry["name"], entry["wait"])]
            self.nodes[entry["name"], entry["wait"]] = [Part(self._source(stream))]
        for entry in layout["populations"]:
            self.sizes[entry["name"]] = math.prod(entry["shape"])
            self.nodes[entry["name"], 0] = self._population(entry)
        for entry in layout["relays"]:
            self._add_relay(entry)
        for connection in layout["connections"]:
            self._connect(connection)
        for stream in (*self.setup.host, *self.setup.drives):
            self._arrive(self._source(stream).s_out, stream.population)
        for name, stream in zip(self.setup.record, self.setup.records, strict=True):
            self._record(name, stream)
        self._tie_together()
        return Built(self.processes[-1], tuple(self.processes))

    def _tie_together(self) -> None:
        """
        Connect parts of the network that do not hear each other.

        Lava builds the processes that it can reach from the one that it is started by, and no others.
        """
        parts: list[Any] = []
        reached: set[AbstractProcess] = set()
        for process in self.processes:
            if process not in reached and hasattr(process, "s_out"):
                parts.append(process)
                reached.update(find_processes(process))
        if len(parts) > 1:
            tie = self._kept(Tie(shape=(1, *self.samples)))
            for process in parts:
                Wires(process.s_out, np.zeros(1, np.int64), self.samples).connect(tie.a_in)

    def _kept(self, process: Any) -> Any:
        self.processes.append(process)
        return process

    def _source(self, stream: Stream) -> Any:
        return self._kept(FileSource(**self._file(stream)))

    def _file(self, stream: Stream) -> dict[str, Any]:
        return {
            "path": str(self.directory / self.setup.file_of(stream)),
            "control": str(self.directory / CONTROL),
            "rows": self.setup.rows,
            "shape": (stream.neurons, *self.samples),
        }

    def _population(self, entry: Mapping[str, Any]) -> list[Part]:
        name, size = entry["name"], self.sizes[entry["name"]]
        shape = (size, *self.samples)
        if entry["process"] == "GradedVec":
            return [Part(self._kept(GradedVec(shape=shape, vth=0, exp=0)))]
        if entry["process"] == "Microcode":
            return [Part(self._microcode(entry, shape))]
        if len(entry["parts"]) == 1:
            return [Part(self._neurons(entry, entry["parts"][0], np.arange(size)))]
        numbers = self.arrays[f"part/{name}"]
        parts = []
        for number, part in enumerate(entry["parts"]):
            chosen = np.flatnonzero(numbers == number)
            parts.append(Part(self._neurons(entry, part, chosen), chosen))
        return parts

    def _neurons(
        self, entry: Mapping[str, Any], part: Mapping[str, Any], chosen: NDArray[Any]
    ) -> Any:
        """Return the neurons of `entry` with the numbers `chosen`."""
        period = self.setup.period
        process = BatchLIF if self.samples else LIFReset
        return self._kept(
            process(
                shape=(len(chosen), *self.samples),
                du=self._parameter(entry, part, "du"),
                dv=self._parameter(entry, part, "dv"),
                vth=self._parameter(entry, part, "vth"),
                bias_mant=np.broadcast_to(
                    self._of_neurons("bias", entry), (self.sizes[entry["name"]], *self.samples)
                )[chosen],
                bias_exp=entry["bias_exp"],
                reset_interval=period,
                reset_offset=(entry["depth"] + 1) % period,
            )
        )

    def _microcode(self, entry: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
        (part,) = entry["parts"]
        bias, exponent = self._of_neurons("bias", entry).astype(np.int64), entry["bias_exp"]
        return self._kept(
            Microcode(
                shape=shape,
                du=self._parameter(entry, part, "du"),
                dv=self._parameter(entry, part, "dv"),
                vth=self._parameter(entry, part, "vth"),
                bias=bias << exponent if exponent >= 0 else bias >> -exponent,
                start=self._optional("start", entry, 0),
                subtracts=self._optional("subtracts", entry, None),
                floor=self._optional("floor", entry, -STATE_MAXIMUM),
                inclusive=entry["inclusive"],
                most=entry["most"],
                refractory=entry["refractory"],
                first=entry["depth"] + 1,
                stride=self.setup.stride,
                steps=self.setup.steps,
                period=self.setup.steps_apart,
            )
        )

    def _parameter(self, entry: Mapping[str, Any], part: Mapping[str, Any], name: str) -> Any:
        """Return a number, or the int32 array that Lava takes, too: one for each neuron."""
        return self._of_neurons(name, entry) if part[name] == "array" else part[name]

    def _optional(self, kind: str, entry: Mapping[str, Any], default: Any) -> Any:
        """Return an array that only some populations have."""
        return (
            self._of_neurons(kind, entry) if f"{kind}/{entry['name']}" in self.arrays else default
        )

    def _of_neurons(self, kind: str, entry: Mapping[str, Any]) -> NDArray[Any]:
        """Return an array of one number for each neuron, in a shape that takes in the samples."""
        values = self.arrays[f"{kind}/{entry['name']}"]
        return values.reshape(-1, *(1 for _ in self.samples))

    def _add_relay(self, entry: Mapping[str, Any]) -> None:
        """Add neurons that repeat another node's spikes, and the connection that feeds them."""
        size = self.sizes[entry["source"]]
        if entry["process"] == "GradedVec":
            relay = GradedVec(shape=(size, *self.samples), vth=0, exp=0)
        else:
            relay = LIF(shape=(size, *self.samples), du=MEMORYLESS_DU, dv=MEMORYLESS_DV, vth=0)
        self.nodes[entry["source"], entry["wait"]] = [Part(self._kept(relay))]
        connection = self._sparse(
            identity(size, dtype=np.int32, format="csr"),
            entry["delay"] * identity(size, dtype=np.int64, format="csr"),
            sign_mode=SignMode.EXCITATORY,
            message_bits=entry["message_bits"],
        )
        self._leave(entry["source"], entry["start"], connection.s_in)
        connection.a_out.connect(relay.a_in)

    def _connect(self, connection: Mapping[str, Any]) -> None:
        name, source, wait = connection["name"], connection["source"], connection["wait"]
        weight = self.arrays[f"weight/{name}"].astype(np.int32)
        way = connection["simulated_by"]
        if way == "Conv":
            self._convolve(connection, weight)
            return
        if way == "BatchConvolution":
            process = self._convolution(connection, weight)
            self._leave(source, wait, process.s_in)
            self._arrive(process.a_out, connection["target"])
            return
        convolves = connection["process"] == "Convolution"
        views = [tuple(connection[f"{end}_view"]) for end in ("source", "target") if convolves]
        matrix = (
            unroll(weight, *views, **_geometry(connection)) if convolves else csr_matrix(weight)
        )
        if isinstance(connection["delay"], int):
            delay = matrix.astype(np.int64)
            delay.data[:] = connection["delay"]
        else:
            matrix, delay = _delayed(matrix, self.arrays[f"delay/{name}/{wait}"].astype(np.int64))
        process = self._sparse(
            matrix,
            delay,
            sign_mode=SIGN_MODES[connection["sign_mode"]],
            message_bits=connection["message_bits"],
        )
        self._leave(source, wait, process.s_in)
        self._arrive(process.a_out, connection["target"])

    def _sparse(
        self, matrix: csr_matrix, delay: csr_matrix, *, sign_mode: SignMode, message_bits: int
    ) -> Any:
        """Return a connection; `delay` has the entries of `matrix`."""
        options = {
            "weights": matrix,
            "num_weight_bits": 8,
            "weight_exp": 0,
            "sign_mode": sign_mode,
            "num_message_bits": message_bits,
        }
        delayed = delay.data.any()
        if delayed:
            delay.eliminate_zeros()  # Lava takes every stored number for a delay
            options |= {"delays": delay, "max_delay": int(delay.data.max())}
        if not self.samples:
            return self._kept(DelaySparse(**options) if delayed else Sparse(**options))
        options["samples"] = self.setup.replicas
        return self._kept(BatchDelaySparse(**options) if delayed else BatchSparse(**options))

    def _convolution(self, connection: Mapping[str, Any], weight: NDArray[Any]) -> Any:
        return self._kept(
            BatchConvolution(
                samples=self.setup.replicas,
                weight=weight,
                largest=1 << connection["message_bits"],
                delay=connection["delay"],
                source_view=tuple(connection["source_view"]),
                target_view=tuple(connection["target_view"]),
                **_geometry(connection),
            )
        )

    def _convolve(self, connection: Mapping[str, Any], weight: NDArray[Any]) -> None:
        """
        Add a `Conv` process, which is channels last and flips its kernels.

            w_lava[o, h, w, i] = w[o, i, K - 1 - h, K - 1 - w]        x_lava[h, w, c] = x[c, h, w]
        """
        channels, height, width = connection["source_view"]
        process = self._kept(
            Conv(
                weight=np.ascontiguousarray(weight.transpose(0, 2, 3, 1)[:, ::-1, ::-1]),
                input_shape=(height, width, channels),
                num_message_bits=connection["message_bits"],
                **_geometry(connection),
            )
        )
        size = self.sizes[connection["source"]]
        image = np.arange(size).reshape(channels, height, width).transpose(1, 2, 0)
        self._leave(connection["source"], connection["wait"], process.s_in, image)
        channels, height, width = connection["target_view"]
        size = self.sizes[connection["target"]]
        flat = np.arange(size).reshape(height, width, channels).transpose(2, 0, 1).ravel()
        self._arrive(process.a_out, connection["target"], flat)

    def _leave(self, source: str, wait: int, port: Any, order: NDArray[Any] | None = None) -> None:
        """Lead the spikes of a node to `port`, whose place i takes neuron `order[i]` (None: i)."""
        for part in self.nodes[source, wait]:
            wires = order
            if part.neurons is not None:
                of_part = places(part.neurons, self.sizes[source])
                wires = of_part if order is None else of_part[order]
            leaving = part.process.s_out
            (leaving if wires is None else Wires(leaving, wires, self.samples)).connect(port)

    def _arrive(self, port: Any, target: str, order: NDArray[Any] | None = None) -> None:
        """Lead currents from `port`, where neuron i's is number `order[i]` (None: i), to a population."""
        for part in self.nodes[target, 0]:
            wires = order
            if part.neurons is not None:
                wires = part.neurons if order is None else order[part.neurons]
            (port if wires is None else Wires(port, wires, self.samples)).connect(part.process.a_in)

    def _record(self, name: str, stream: Stream) -> None:
        if name.startswith(MEMBRANE):
            for part in self.nodes[stream.population, 0]:
                recorder = self._kept(MembraneRecorder(**self._file(stream), columns=part.neurons))
                recorder.state.connect_var(part.process.v)
            return
        graded = stream.dtype != "uint8"
        recorder = self._kept(SpikeRecorder(**self._file(stream), graded=graded))
        self._leave(stream.population, 0, recorder.a_in)


def _delayed(matrix: csr_matrix, delay: NDArray[Any]) -> tuple[csr_matrix, csr_matrix]:
    """Return the synapses of `matrix` that have a delay (not -1), and the delays of these."""
    coordinates = matrix.tocoo()
    if delay.shape == matrix.shape:
        of_synapse = delay[coordinates.row, coordinates.col]
    else:
        of_synapse = delay.ravel()[coordinates.col]
    here = of_synapse >= 0
    at = (coordinates.row[here], coordinates.col[here])
    return tuple(
        csr_matrix((values[here], at), shape=matrix.shape)
        for values in (coordinates.data, of_synapse)
    )


def _geometry(connection: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stride": tuple(connection["stride"]),
        "padding": tuple(connection["padding"]),
        "dilation": tuple(connection["dilation"]),
        "groups": connection["groups"],
    }
