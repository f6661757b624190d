"""
Processes that stream between Lava and files: what goes in, which spikes and membranes come out.

Lava fetches the contents of a Var one element a message, some 50 microseconds each; a memory-mapped
file costs nothing per element, bounds the memory, and can be refilled between two runs of the same
runtime. A control file holds two numbers: the machine step before the first of this run, and the
step that the source has reached, which tells a watching parent that the simulation is alive.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

BASE, REACHED = 0, 1


class FileSource(AbstractProcess):
    """Sends row `step - base` of an int32 file of shape (rows, *shape) at each step."""

    def __init__(self, *, path: str, control: str, rows: int, shape: tuple[int, ...]) -> None:
        super().__init__(path=path, control=control, rows=rows, shape=shape)
        self.s_out = OutPort(shape=shape)


class SpikeRecorder(AbstractProcess):
    """Writes what it receives at each step into a file of shape (rows, *shape): int32 if `graded`, else uint8."""

    def __init__(
        self, *, path: str, control: str, rows: int, shape: tuple[int, ...], graded: bool
    ) -> None:
        super().__init__(path=path, control=control, rows=rows, shape=shape, graded=graded)
        self.a_in = InPort(shape=shape)


class MembraneRecorder(AbstractProcess):
    """Writes a Var, after each step, into `columns` (all if None) of an int32 file of shape (rows, *shape)."""

    def __init__(
        self, *, path: str, control: str, rows: int, shape: tuple[int, ...], columns: Any = None
    ) -> None:
        super().__init__(path=path, control=control, rows=rows, shape=shape, columns=columns)
        self.state = RefPort(shape=shape if columns is None else (len(columns), *shape[1:]))


class Tie(AbstractProcess):
    """Receives a number from parts of a network that are not connected otherwise, and drops it."""

    def __init__(self, *, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.a_in = InPort(shape=shape)


class _Mapped:
    """The mapped file and control file of one process, opened in the process that uses them."""

    def __init__(self, parameters: Any, dtype: Any, mode: Literal["r", "r+"]) -> None:
        shape = (parameters["rows"], *parameters["shape"])
        self.rows = np.memmap(parameters["path"], dtype=dtype, mode=mode, shape=shape)
        self.control = np.memmap(parameters["control"], dtype=np.int64, mode="r+", shape=(2,))

    def row(self, step: int) -> int:
        return step - 1 - int(self.control[BASE])


@implements(proc=FileSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class FileSourceModel(PyLoihiProcessModel):
    """Reads the file of a `FileSource`."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.mapped = _Mapped(proc_params, np.int32, "r")

    def run_spk(self) -> None:
        self.mapped.control[REACHED] = self.time_step
        self.s_out.send(np.array(self.mapped.rows[self.mapped.row(self.time_step)]))


@implements(proc=SpikeRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SpikeRecorderModel(PyLoihiProcessModel):
    """Fills the file of a `SpikeRecorder`."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.mapped = _Mapped(proc_params, np.int32 if proc_params["graded"] else np.uint8, "r+")

    def run_spk(self) -> None:
        self.mapped.rows[self.mapped.row(self.time_step)] = self.a_in.recv()


@implements(proc=MembraneRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class MembraneRecorderModel(PyLoihiProcessModel):
    """Fills the file of a `MembraneRecorder`, in the management phase after each step."""

    state: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.mapped = _Mapped(proc_params, np.int32, "r+")
        columns = proc_params["columns"]
        self.columns = slice(None) if columns is None else columns

    def post_guard(self) -> bool:
        return True

    def run_post_mgmt(self) -> None:
        self.mapped.rows[self.mapped.row(self.time_step), self.columns] = self.state.read()


@implements(proc=Tie, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class TieModel(PyLoihiProcessModel):
    """Keeps the channels of a `Tie` empty."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        self.a_in.recv()
