"""Writers of small files in the formats of the real data sets."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import sys
from collections.abc import Callable
from hashlib import md5
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocompile.datasets import events as event_sets

Write = Callable[[Path, NDArray[Any]], None]

EVENTS = np.dtype([("t", np.int64), ("x", np.int64), ("y", np.int64), ("p", np.int64)])

# As aedat reads it: what streams there are, in the tree of settings that DV writes.
DESCRIPTION = (
    '<dv version="2.0"><node name="outInfo" path="/"><node name="0" path="/0/">'
    '<attr key="compression" type="string">NONE</attr>'
    '<attr key="originalModuleName" type="string">capture</attr>'
    '<attr key="originalOutputName" type="string">events</attr>'
    '<attr key="typeDescription" type="string">events</attr>'
    '<attr key="typeIdentifier" type="string">EVTS</attr>'
    '<node name="info" path="/0/info/"><attr key="sizeX" type="int">128</attr>'
    '<attr key="sizeY" type="int">128</attr></node></node></node></dv>'
)


@pytest.fixture(scope="session")
def recording() -> Callable[..., NDArray[Any]]:
    """Makes random events (t, x, y, p) of a sensor, in the order of time."""

    def make(count: int, width: int, height: int, seed: int = 0) -> NDArray[Any]:
        draw = np.random.default_rng(seed)
        events = np.zeros(count, EVENTS)
        events["t"] = np.sort(draw.integers(0, 100_000, count))
        events["x"] = draw.integers(0, width, count)
        events["y"] = draw.integers(0, height, count)
        events["p"] = draw.integers(0, 2, count)
        return events

    return make


@pytest.fixture(scope="session")
def write_bin() -> Write:
    """Writes N-MNIST's format: 5 bytes an event, x, y, polarity and 23 bits of time."""

    def write(path: Path, events: NDArray[Any]) -> None:
        columns = [
            events["x"],
            events["y"],
            (events["p"] << 7) | (events["t"] >> 16),
            (events["t"] >> 8) & 255,
            events["t"] & 255,
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.stack(columns, 1).astype(np.uint8).tobytes())

    return write


@pytest.fixture(scope="session")
def write_npy() -> Write:
    """Writes DVS-Gesture as tonic has cut it: x, y, polarity and milliseconds."""

    def write(path: Path, events: NDArray[Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([events[name] for name in "xypt"], 1))

    return write


@pytest.fixture(scope="session")
def write_aedat4() -> Write:
    """Writes AEDAT 4, uncompressed: a description, then packets of events, all of them flatbuffers."""

    def table(identifier: bytes, fields: list[tuple[int, bytes]], rest: bytes) -> bytes:
        """Return a buffer with one table of the `fields` (place in the table, content), `rest` behind."""
        places = struct.pack(f"<{len(fields)}H", *(place for place, _ in fields))
        size = max(place + len(content) for place, content in fields)
        virtual = struct.pack("<HH", 4 + len(places), size) + places
        virtual += bytes(-len(virtual) % 8)
        body = bytearray(size)
        body[:4] = struct.pack("<i", len(virtual))
        for place, content in fields:
            body[place : place + len(content)] = content
        start = 8 + len(virtual)
        whole = struct.pack("<I", start) + identifier + virtual + body + rest
        return struct.pack("<I", len(whole)) + whole

    def description() -> bytes:
        text = DESCRIPTION.encode()
        string = struct.pack("<I", 20)  # from its own place, 4, to the string behind 24 bytes
        fields = [
            (16, struct.pack("<ii", 0, 0)),
            (8, struct.pack("<q", -1)),
            (4, string),
        ]
        return table(b"IOHE", fields, struct.pack("<I", len(text)) + text + b"\0")

    def packet(events: NDArray[Any]) -> bytes:
        layout = np.dtype(
            {
                "names": ["t", "x", "y", "p"],
                "formats": ["<i8", "<i2", "<i2", "?"],
                "offsets": [0, 8, 10, 12],
                "itemsize": 16,
            }
        )
        stored = np.zeros(len(events), layout)
        for name in EVENTS.names or ():
            stored[name] = events[name]
        # The vector's length is where its events, behind it, begin at a multiple of 8.
        fields = [(4, struct.pack("<I", 8) + bytes(4))]
        return table(b"EVTS", fields, struct.pack("<I", len(events)) + stored.tobytes())

    def write(path: Path, events: NDArray[Any]) -> None:
        content = b"#!AER-DAT4.0\r\n" + description()
        for start in range(0, max(1, len(events)), 100):
            part = packet(events[start : start + 100])
            content += struct.pack("<II", 0, len(part)) + part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return write


@pytest.fixture
def few_recordings(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, int], None]:
    """Lets an event set be complete with fewer recordings than it has."""

    def allow(name: str, train: int, test: int) -> None:
        few = dataclasses.replace(event_sets.SETS[name], fewest={"train": train, "test": test})
        monkeypatch.setattr(event_sets, "SETS", {**event_sets.SETS, name: few})

    return allow


VISION = Path(__file__).parents[2] / ".vision"


@pytest.fixture(scope="session")
def vision() -> Any:
    """
    Torchvision's data sets, also beside a build of PyTorch that lacks its operators.

    It lies in a folder of its own: Lightning imports whatever torchvision there is, and fails beside such a
    build.
    """
    pytest.importorskip("PIL")
    sys.path.append(str(VISION))
    try:
        return import_module("torchvision.datasets")
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        operators: Any = import_module("torch").library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return import_module("torchvision.datasets")


@pytest.fixture
def write_cifar(vision: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes pickles of CIFAR's format, and makes their MD5 sums the published ones."""

    def write(
        reader_name: str,
        root: Path,
        images: dict[str, NDArray[np.uint8]],
        labels: dict[str, list[int]],
        classes: list[str],
    ) -> None:
        reader = getattr(vision, reader_name)
        key = "labels" if reader_name == "CIFAR10" else "fine_labels"
        directory = root / reader.base_folder
        directory.mkdir(parents=True)

        def put(name: str, content: dict[str, Any]) -> str:
            (directory / name).write_bytes(pickle.dumps(content, protocol=2))
            return md5((directory / name).read_bytes()).hexdigest()  # noqa: S324  # as published

        for split, table in (("train", "train_list"), ("test", "test_list")):
            names = [name for name, _ in getattr(reader, table)]
            parts = np.array_split(np.arange(len(labels[split])), len(names))
            sums = []
            for name, part in zip(names, parts, strict=True):
                data = images[split][part].reshape(len(part), -1)
                content = {"data": data, key: [labels[split][index] for index in part]}
                sums.append([name, put(name, content)])
            monkeypatch.setattr(reader, table, sums)
        meta = dict(reader.meta)
        meta["md5"] = put(meta["filename"], {meta["key"]: classes})
        monkeypatch.setattr(reader, "meta", meta)

    return write
