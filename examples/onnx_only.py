"""
Run a program's ONNX models with ONNX Runtime and numpy alone, without neurocompile.

    neurocompile export runs/digits --target onnx -o program
    python examples/onnx_only.py program             # on scikit-learn's digits
    python examples/onnx_only.py program data.npz    # on `input` (samples, steps or 1, ...) and `label`

What a caller must know is in the models' metadata, in words and in JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Values = NDArray[Any]


def load(file: Path) -> tuple[Any, Mapping[str, Any]]:
    """Return a session of a model, and what its metadata say."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["neurocompile"])


def as_integers(x: Values, entry: Mapping[str, Any], dtype: str) -> Values:
    """Return the integers that stand for real inputs; the proof covers no others than these."""
    integers = np.rint(x * entry["scale"])
    if integers.min() < entry["minimum"] or integers.max() > entry["maximum"]:
        raise SystemExit(
            f"inputs must be {entry['minimum']} to {entry['maximum']} / {entry['scale']:g}"
        )
    return np.asarray(integers, dtype)


def run_whole(directory: Path, x: Values) -> Values:
    """Return the output (samples, steps, *shape) of whole samples, in one call."""
    session, about = load(directory / "sequence.onnx")
    (source,), (shown, *_) = about["inputs"].values(), about["outputs"].values()
    integers = as_integers(x, source, type_of(session, source["tensor"]))
    (output,) = session.run([shown["tensor"]], {source["tensor"]: integers})
    return in_source_units(output, shown)


def run_in_steps(directory: Path, x: Values) -> Values:
    """Return the same, one call for each step: states come out of one and go into the next."""
    session, about = load(directory / "step.onnx")
    (source,), (shown, *_) = about["inputs"].values(), about["outputs"].values()
    integers = as_integers(x, source, type_of(session, source["tensor"]))
    states = {
        state["tensor"]: np.full((len(x), *state["shape"]), state["initial"], state["type"])
        for state in about["states"]
    }
    following = {state["next"]: state["tensor"] for state in about["states"]}
    outputs = []
    for step in range(x.shape[1]):
        now = {source["tensor"]: integers[:, step], **states}
        output, *left = session.run([shown["tensor"], *following], now)
        states = dict(zip(following.values(), left, strict=True))
        outputs.append(output)
    return in_source_units(np.stack(outputs, axis=1), shown)


def type_of(session: Any, tensor: str) -> str:
    """Return the type of an input, in numpy's words."""
    (kind,) = (item.type for item in session.get_inputs() if item.name == tensor)
    return str(kind).removeprefix("tensor(").removesuffix(")")


def in_source_units(output: Values, shown: Mapping[str, Any]) -> Values:
    """Return spikes as they are, and integers of a read-out as the real numbers they stand for."""
    if shown["shows"] == "spikes":
        return output
    return np.asarray(output / np.array(shown["scale"]) + np.array(shown["origin"]))


def samples(data: Path | None) -> tuple[Values, Values]:
    """Return inputs (samples, steps or 1, *shape) and labels."""
    if data is None:
        from sklearn.datasets import load_digits  # the images come with it; nothing else does

        images, labels = load_digits(return_X_y=True)
        return images.reshape(-1, 1, 1, 8, 8) / 16, labels
    with np.load(data, allow_pickle=False) as file:
        return file["input"], file["label"]


def main(directory: Path, data: Path | None = None) -> float:
    """Return the accuracy of a classifier with one input and one output."""
    x, labels = samples(data)
    _, about = load(directory / "sequence.onnx")
    if x.shape[1] == 1:
        x = np.repeat(x, about["steps"], axis=1)  # images are shown at every step
    output = run_whole(directory, x)
    assert np.array_equal(output, run_in_steps(directory, x)), "steps and whole samples differ"
    accuracy = float((output.mean(1).argmax(1) == labels).mean())
    print(f"{100 * accuracy:.2f} % of {len(x)} samples, {x.shape[1]} steps")
    return accuracy


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    if len(arguments) not in (1, 2):
        sys.exit("usage: python onnx_only.py PROGRAM [DATA.npz]")
    if missing := [str(path) for path in arguments if not path.exists()]:
        sys.exit(f"there is no {', no '.join(missing)}")
    if not (arguments[0] / "sequence.onnx").is_file():
        sys.exit(f"'{arguments[0]}' has no sequence.onnx: export with --target onnx")
    main(*arguments)
