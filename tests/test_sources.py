"""Files of lava-dl and modules in memory go the whole way: exported, saved, loaded, run and verified."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocompile
from neurocompile.cli import main
from neurocompile.data import InputRange, Samples
from neurocompile.errors import (
    DataError,
    MissingDependencyError,
    NirFormatError,
    OptionError,
    ProgramFormatError,
    UnsupportedError,
)
from neurocompile.frontend.from_module import from_module
from neurocompile.frontend.from_netx import from_netx
from neurocompile.frontend.network_to_nir import identical, network_to_nir
from neurocompile.program import GRAPH, Program
from neurocompile.reference import simulate
from neurocompile.sources import need_lightning
from neurocompile.training.neurons import LIF
from neurocompile.verification.stages import folded_network

Capture = pytest.CaptureFixture[str]

_spec = importlib.util.spec_from_file_location(
    "stand_ins_of_sources", Path(__file__).parent / "frontend" / "stand_ins.py"
)
assert _spec is not None
assert _spec.loader is not None
stand_ins = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stand_ins)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.net` file of two dense layers, one recurrent, with a current, a bias and a delay."""
    generator = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("net") / "small.net"
    cuba = {"iDecay": 1024, "vDecay": 512, "vThMant": 90}
    with h5py.File(path, "w") as file:
        for number, (inputs, outputs) in enumerate([(6, 8), (8, 3)]):
            layer = file.create_group(f"layer/{number}")
            layer["type"] = "dense_rec" if number else "dense"
            layer["shape"] = np.array([outputs])
            layer["weight"] = 2 * generator.integers(-30, 60, (outputs, inputs))
            if number:
                layer["weight_rec"] = 2 * generator.integers(-30, 30, (outputs, outputs))
            else:
                layer["bias"] = generator.integers(-3, 9, outputs)
                layer["delay"] = generator.integers(0, 4, outputs)
            layer["neuron/type"] = "CUBA"
            for key, value in cuba.items():
                layer[f"neuron/{key}"] = value
        file["simulation/tSample"], file["simulation/Ts"] = 12, 1
    return path


def spikes(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(4).integers(0, 2, (5, 12, *shape))


def check_the_way(program: Program, directory: Path, inputs: Any) -> Program:
    """Check that the stored program is the one in hand, and that its stages fire the same spikes."""
    with neurocompile.load(directory) as loaded:
        assert loaded.extra_files == program.extra_files
        again = loaded.run(inputs, record="all")
        ours = program.run(inputs, record="all")
        report = neurocompile.verify(loaded, data=Samples(inputs, None))
    np.testing.assert_array_equal(again.output, ours.output)
    network = folded_network(loaded)
    assert loaded.extra_files[GRAPH] == network_to_nir(network)
    assert {pair.candidate for pair in report.comparisons} == {"quantised", "fixedpoint"}
    assert report.between("float", "fixedpoint").mismatches == 0
    assert np.mean([values.mean() for values in again.spikes.values()]) > 0.02
    return loaded


def test_a_net_file_goes_the_whole_way(net: Path, tmp_path: Path) -> None:
    program = neurocompile.export(net, target="fixedpoint", output=tmp_path / "out")

    loaded = check_the_way(program, tmp_path / "out", spikes((6,)))

    assert loaded.facts["source"] == {"kind": "netx", "name": "small.net"}
    assert loaded.native_steps == 12
    assert loaded.facts["import"]["inferred"]["fires"] == "above the threshold"
    assert identical(folded_network(loaded), from_netx(net).network)
    report = neurocompile.check(net, target="fixedpoint")
    assert report.ok
    assert report.source == "small.net"


def test_a_net_file_may_fire_at_its_thresholds(net: Path, tmp_path: Path) -> None:
    program = neurocompile.export(
        net,
        target="fixedpoint",
        output=tmp_path / "out",
        fires="at",
        input_range=InputRange(0, 3, 1),
    )

    loaded = check_the_way(program, tmp_path / "out", 3 * spikes((6,)))

    assert loaded.facts["import"]["options"]["fires"] == "at"
    assert "comparison='>='" in str(folded_network(loaded).nodes)
    assert "range=InputRange(minimum=0.0, maximum=3.0" in str(folded_network(loaded).nodes)


def test_the_command_line_takes_net_files(net: Path, tmp_path: Path, capsys: Capture) -> None:
    out, given = tmp_path / "out", tmp_path / "in.npz"
    np.savez(given, input=spikes((6,)))

    assert main(["export", str(net), "--target", "fixedpoint", "-o", str(out)]) == 0
    assert "fires: above the threshold" in capsys.readouterr().out
    assert main(["verify", str(out), "--input", str(given)]) == 0
    assert main(["check", str(net), "--target", "fixedpoint", "--json", f"{out}.json"]) == 0
    assert json.loads(Path(f"{out}.json").read_text())["source"] == "small.net"
    for command in ("export", "check"):
        assert main([command, "--help"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "a run directory, checkpoint, .nir or .net file" in told


def test_what_is_for_nir_files_is_refused(net: Path, tmp_path: Path, capsys: Capture) -> None:
    options = ["--dt", "1", "--reset", "zero", "--profile", "sinabs", "--fires", "at"]

    code = main(["export", str(net), "--target", "fixedpoint", "-o", str(tmp_path / "o"), *options])

    assert code == 2
    wanted = "--profile, --dt, --reset is for .nir files, but a .net file says how its neurons work"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    report = neurocompile.check(net, target="fixedpoint", dt=1.0)
    assert [found.problem.need for found in report.problems] == ["--dt is for .nir files"]
    assert report.layers  # it is read without


class Ours(nn.Module):
    """Two layers of our neurons, batch times steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.fc1, self.bn, self.lif1 = nn.Linear(6, 8), nn.BatchNorm1d(8), LIF(0.5, 0.5)
        self.fc2, self.lif2 = nn.Linear(8, 4), LIF(0.75, 0.25)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        spikes_of_first = self.lif1(self.bn(self.fc1(x)), steps)
        result: Tensor = self.lif2(self.fc2(spikes_of_first), steps)
        return result


class Theirs(nn.Module):
    """A step of snnTorch's neurons."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(6, 5)
        self.leaky = stand_ins.snntorch.Leaky(
            beta=0.5, threshold=0.25, reset_mechanism="zero", reset_delay=False, init_hidden=True
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.leaky(self.fc(x))
        return result


@pytest.mark.parametrize("module", [Ours(), Theirs()], ids=["ours", "snnTorch"])
def test_a_module_goes_the_whole_way(module: nn.Module, tmp_path: Path) -> None:
    limits = InputRange(0, 1, 1 / 8)

    program = neurocompile.export(
        module,
        input_shape=(6,),
        target="fixedpoint",
        steps=12,
        input_range=limits,
        output=tmp_path / "out",
    )

    inputs = np.random.default_rng(0).integers(0, 9, (5, 12, 6)) / 8
    with neurocompile.load(tmp_path / "out") as loaded:
        assert loaded.extra_files == program.extra_files
        result = loaded.run(inputs, record="all")
        report = neurocompile.verify(loaded, data=Samples(inputs, None))
        network = folded_network(loaded)
    assert loaded.facts["source"] == {"kind": "module", "name": type(module).__name__}
    assert "random samples" in loaded.facts["import"]["inferred"]["proof"]
    assert loaded.native_steps == 12
    expected = from_module(module, (6,), steps=12, input_range=limits).network
    assert identical(network, expected)
    assert 0 < result.output.mean() < 1
    float_output = simulate(network, inputs).output
    assert (result.output != float_output).mean() < 0.1  # weights of 8 bits
    assert not report.failed


def test_calibration_is_the_range_that_a_module_is_proven_on(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, input=np.full((2, 3, 6), 4))

    program = neurocompile.export(
        Ours(), input_shape=(6,), target="fixedpoint", calibrate=str(data), validate=False
    )

    told = program.facts["import"]["inferred"]["input"]
    assert "maximum=4.0" in told
    with pytest.raises(DataError, match=r"--calibrate needs samples of shape \(5,\)"):
        neurocompile.export(Ours(), input_shape=(5,), target="fixedpoint", calibrate=str(data))


def test_a_module_is_checked() -> None:
    report = neurocompile.check(Ours(), input_shape=(6,), target="loihi2")
    assert report.ok
    assert report.source == "Ours"
    assert report.inferred["layout"] == "one call, batch times steps"

    wrong = neurocompile.check(Ours(), input_shape=(6,), target="loihi2", layout="sideways", dt=1.0)
    assert [found.problem.need for found in wrong.problems] == [
        "--dt is for .nir files",
        "there is no layout 'sideways'",
    ]
    plain = neurocompile.check(nn.Linear(2, 2), input_shape=(2,), target="loihi2")
    assert [found.problem.need for found in plain.problems] == ["needs layers of spiking neurons"]


def test_arguments_of_another_kind_of_source_are_refused(net: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a module needs the shape of its inputs"):
        neurocompile.export(Ours(), target="fixedpoint")
    with pytest.raises(OptionError) as raised:
        neurocompile.check(net, target="fixedpoint", input_shape=(6,), layout="step")
    assert len(raised.value.problems) == 2
    with pytest.raises(OptionError, match="--reset is for .nir files, but a module says how"):
        neurocompile.export(Ours(), target="fixedpoint", input_shape=(6,), reset="zero")
    with pytest.raises(OptionError, match="must be a path or a PyTorch module, but it is int"):
        neurocompile.export(3, target="fixedpoint")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="needs layers of spiking neurons"):
        neurocompile.export(nn.Linear(2, 2), input_shape=(2,), target="fixedpoint")
    neurocompile.export(net, target="fixedpoint", output=tmp_path / "out")
    with pytest.raises(ProgramFormatError, match="is a program already"):
        neurocompile.export(tmp_path / "out", target="fixedpoint")


def test_a_program_whose_graph_is_another_is_refused(net: Path) -> None:
    program = neurocompile.export(net, target="fixedpoint")
    plain = neurocompile.export(Ours(), input_shape=(6,), target="fixedpoint")
    assert folded_network(program).nodes.keys() != folded_network(plain).nodes.keys()
    damaged = Program(
        **{
            name: getattr(program, name)
            for name in program.__dataclass_fields__
            if not name.startswith("_") and name != "extra_files"
        },
        extra_files={GRAPH: b"nothing"},
    )
    with pytest.raises(NirFormatError, match="is not a NIR file"):
        folded_network(damaged)


def test_files_are_read_without_torch(net: Path, tmp_path: Path) -> None:
    text = (
        "import sys, neurocompile; "
        f"neurocompile.export({str(net)!r}, target='fixedpoint', output={str(tmp_path / 'o')!r}); "
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (ModuleNotFoundError("No module named 'pytorch_lightning'"), "pip install 'neurocompile"),
        (RuntimeError("operator torchvision::nms does not exist"), "or remove torchvision"),
    ],
)
def test_a_lightning_that_cannot_be_imported_is_told(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, text: str
) -> None:
    class Refusing:
        def find_spec(self, name: str, *_others: object) -> None:
            if name == "pytorch_lightning":
                raise raised

    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])

    with pytest.raises(MissingDependencyError, match="training needs PyTorch Lightning") as told:
        need_lightning("training")

    assert text in str(told.value)
