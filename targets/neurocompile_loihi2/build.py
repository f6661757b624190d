"""Build the Lava processes of a layout; runs in the worker, where Lava is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.process.process import AbstractProcess
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.lif.process import LIFReset
from lava.proc.sparse.process import Sparse
from lava.utils.weightutils import SignMode
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity, kron

from neurocompile_loihi2.processes.streams import FileSource, MembraneRecorder, SpikeRecorder
from neurocompile_loihi2.unroll import unroll
from neurocompile_loihi2.worker_setup import CONTROL, Setup


@dataclass(frozen=True)
class Built:
    """The processes of a network, kept alive together; `entry` is one to run them by."""

    entry: AbstractProcess
    processes: tuple[AbstractProcess, ...]


def build(setup: Setup, arrays: Mapping[str, NDArray[Any]], directory: Path) -> Built:
    """
    Return the connected processes of `setup`.

    Neurons are `LIFReset`, whose reset falls on the first step of a sample at their depth, so that
    samples follow each other without a pause. With `replicas`, that many samples run side by side
    in block-diagonal matrices, which share nothing.
    """
    return _Builder(setup, arrays, directory).build()


class _Builder:
    def __init__(self, setup: Setup, arrays: Mapping[str, NDArray[Any]], directory: Path) -> None:
        self.setup = setup
        self.arrays = arrays
        self.directory = directory
        self.processes: list[AbstractProcess] = []
        self.populations = {entry["name"]: entry for entry in setup.layout["populations"]}
        self.ports: dict[str, Any] = {}
        self.neurons: dict[str, LIFReset] = {}

    def build(self) -> Built:
        for entry in self.setup.layout["populations"]:
            if entry["process"] == "Source":
                if self.setup.is_fed(entry["name"]):
                    self.ports[entry["name"]] = self._source(
                        entry["name"], self._shape(entry)
                    ).s_out
            else:
                self._add_neurons(entry)
        for connection in self.setup.layout["connections"]:
            self._connect(connection)
        for name in self.setup.record:
            self._record(name)
        return Built(self.processes[-1], tuple(self.processes))

    def _shape(self, population: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of a process: flat with all replicas, unless Conv processes need images."""
        shape = tuple(population["shape"])
        if self.setup.convolution == "conv":
            return shape
        return (self.setup.replicas * int(np.prod(shape)),)

    def _source(self, name: str, shape: tuple[int, ...]) -> FileSource:
        source: FileSource = self._kept(FileSource(**self._stream(name, shape)))
        return source

    def _stream(self, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        return {
            "path": str(self.directory / self.setup.file_of(name)),
            "control": str(self.directory / CONTROL),
            "rows": self.setup.rows,
            "shape": shape,
        }

    def _kept(self, process: Any) -> Any:
        self.processes.append(process)
        return process

    def _add_neurons(self, entry: Mapping[str, Any]) -> None:
        shape = self._shape(entry)
        bias = self.arrays[f"bias/{entry['name']}"]
        if self.setup.convolution != "conv":
            bias = np.tile(bias.ravel(), self.setup.replicas)
        period, depth = self.setup.period, entry["depth"]
        neurons = LIFReset(
            shape=shape,
            du=entry["du"],
            dv=entry["dv"],
            vth=entry["vth"],
            bias_mant=bias,
            bias_exp=entry["bias_exp"],
            reset_interval=period,
            reset_offset=(depth + 1) % period,
        )
        self.neurons[entry["name"]] = self._kept(neurons)
        self.ports[entry["name"]] = neurons.s_out

    def _connect(self, connection: Mapping[str, Any]) -> None:
        target = self.populations[connection["target"]]
        arriving = self.neurons[connection["target"]].a_in
        if connection["process"] == "Source":
            self._source(connection["source"], self._shape(target)).s_out.connect(arriving)
            return
        leaving = self.ports[connection["source"]]
        source = self.populations[connection["source"]]
        weight = self.arrays[f"weight/{connection['name']}"].astype(np.int32)
        bits = connection["message_bits"]
        if self.setup.convolution == "conv":
            if connection["process"] == "Convolution":
                process = self._kept(_convolution(connection, source, weight))
                leaving.connect(process.s_in)
                process.a_out.connect(arriving)
            else:
                process = self._kept(
                    Dense(
                        weights=weight,
                        num_weight_bits=8,
                        weight_exp=0,
                        sign_mode=SignMode.MIXED,
                        num_message_bits=bits,
                    )
                )
                leaving.flatten().connect(process.s_in)
                process.a_out.reshape(tuple(target["shape"])).connect(arriving)
            return
        matrix = (
            unroll(weight, tuple(source["shape"]), tuple(target["shape"]), **_geometry(connection))
            if connection["process"] == "Convolution"
            else csr_matrix(weight)
        )
        process = self._kept(
            Sparse(
                weights=_replicate(matrix, self.setup.replicas),
                num_weight_bits=8,
                weight_exp=0,
                sign_mode=SignMode.MIXED,
                num_message_bits=bits,
            )
        )
        leaving.connect(process.s_in)
        process.a_out.connect(arriving)

    def _record(self, name: str) -> None:
        kind, _, layer = name.rpartition("/")
        shape = self._shape(self.populations[layer])
        if kind == "membrane":
            recorder = self._kept(MembraneRecorder(**self._stream(name, shape)))
            recorder.state.connect_var(self.neurons[layer].v)
        else:
            recorder = self._kept(SpikeRecorder(**self._stream(name, shape)))
            self.ports[layer].connect(recorder.a_in)


def _replicate(matrix: csr_matrix, replicas: int) -> csr_matrix:
    return csr_matrix(
        kron(identity(replicas, dtype=np.int32), matrix, format="csr"), dtype=np.int32
    )


def _geometry(connection: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stride": tuple(connection["stride"]),
        "padding": tuple(connection["padding"]),
        "dilation": tuple(connection["dilation"]),
        "groups": connection["groups"],
    }


def _convolution(
    connection: Mapping[str, Any], source: Mapping[str, Any], weight: NDArray[Any]
) -> Conv:
    return Conv(
        weight=weight,
        input_shape=tuple(source["shape"]),
        num_message_bits=connection["message_bits"],
        **_geometry(connection),
    )
