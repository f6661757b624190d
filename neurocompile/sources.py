"""
What can be compiled: a run directory, checkpoint, NIR or `.net` file, or a PyTorch module in memory.

The kinds differ in what they leave open. A NIR file asks for `ImportOptions`, a module for the shape of
its inputs; what belongs to another kind is refused rather than ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neurocompile.data import InputRange
from neurocompile.errors import (
    MissingDependencyError,
    OptionError,
    Problem,
    ProgramFormatError,
    raise_all,
)
from neurocompile.frontend.from_netx import from_netx
from neurocompile.frontend.from_nir import Imported, from_nir
from neurocompile.frontend.import_options import ImportOptions, flag
from neurocompile.integer import Shape
from neurocompile.manifest import MANIFEST

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["checkpoint", "nir", "netx", "module"]

SUFFIXES: Mapping[str, Kind] = {".nir": "nir", ".net": "netx"}
OF_NETX = ("fires",)  # import options that a .net file leaves open as well


@dataclass(frozen=True)
class Read:
    """
    What a source means.

    `graph` is its NIR file, None where there is none and the network must be written; `facts` go into
    the manifest, `files` into the program's directory.
    """

    imported: Imported
    graph: bytes | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A path or module to read, what kind it is, and what messages call it."""

    kind: Kind
    name: str
    origin: Any  # a Path, or an nn.Module
    input_shape: Shape = ()
    layout: str = "auto"

    def read(
        self, choices: ImportOptions, *, steps: int | None, input_range: InputRange | None
    ) -> Read:
        """
        Return the network.

        `steps` and `input_range` are for modules, whose proof depends on them. Raises `OptionError` for
        choices that are not this kind's, and what its reader raises.
        """
        self._check(choices)
        match self.kind:
            case "nir":
                imported = from_nir(self.origin, **choices.to_json())
                return Read(imported, self.origin.read_bytes())
            case "netx":
                return Read(from_netx(self.origin, fires=choices.fires))
            case "checkpoint":
                return _read_checkpoint(self.origin)
            case "module":
                from neurocompile.frontend.from_module import from_module

                return Read(
                    from_module(
                        self.origin,
                        self.input_shape,
                        steps=steps,
                        input_range=input_range,
                        layout=self.layout,
                    )
                )

    @property
    def graph(self) -> Path | None:
        """The NIR file, if it is one."""
        return self.origin if self.kind == "nir" else None

    def _check(self, choices: ImportOptions) -> None:
        if self.kind == "nir":
            return
        because = {
            "checkpoint": "a checkpoint knows how it was trained",
            "netx": "a .net file says how its neurons work",
            "module": "a module says how its neurons work",
        }[self.kind]
        own = [flag(name) for name in OF_NETX] if self.kind == "netx" else []
        refused = [name for name in choices.given if name not in own]
        if refused:
            raise OptionError(Problem("", f"{', '.join(refused)} is for .nir files", because))


def source_of(
    source: Path | str | nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    layout: str = "auto",
) -> Source:
    """
    Return what `source` is, without reading it; `input_shape` and `layout` are for modules.

    Raises `OptionError` where there is nothing to read, and `ProgramFormatError` for a program.
    """
    torch = sys.modules.get("torch")  # who has a module has imported it
    if torch is not None and isinstance(source, torch.nn.Module):
        if input_shape is None:
            raise OptionError(
                Problem(
                    "",
                    "a module needs the shape of its inputs",
                    "none is given",
                    "give input_shape, without batch and time",
                )
            )
        name = type(source).__name__
        return Source("module", name, source, tuple(input_shape), layout)
    if not isinstance(source, Path | str):
        kind = type(source).__name__
        raise OptionError(
            Problem("", "a source must be a path or a PyTorch module", f"it is {kind}")
        )
    path = Path(source)
    given = {"input_shape": input_shape is not None, "layout": layout != "auto"}
    raise_all(
        OptionError,
        (
            Problem("", f"{name} is for PyTorch modules", f"'{path}' is a path")
            for name, is_given in given.items()
            if is_given
        ),
    )
    if not path.exists():
        raise OptionError(
            Problem(
                "",
                f"there is no '{path}'",
                remedy="give a run directory, a checkpoint, a .nir or a .net file",
            )
        )
    if path.is_dir() and (path / MANIFEST).is_file():
        raise ProgramFormatError(
            Problem(
                "",
                f"'{path}' is a program already",
                remedy="export the run or the file that it came from",
            )
        )
    return Source(SUFFIXES.get(path.suffix, "checkpoint"), path.name, path)


def need_torch(what: str) -> None:
    """Raise `MissingDependencyError` unless PyTorch, which `what` needs, is there."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            Problem(
                "",
                f"{what} needs PyTorch",
                "it is not installed",
                "pip install 'neurocompile[train]'",
            )
        ) from error
    del torch


def need_lightning(what: str) -> None:
    """
    Raise `MissingDependencyError` unless PyTorch Lightning, which `what` needs, can be imported.

    Lightning imports a torchvision that it finds; one that was built for another PyTorch breaks both.
    """
    need_torch(what)
    try:
        import pytorch_lightning
    except ImportError as error:
        raise MissingDependencyError(
            Problem(
                "",
                f"{what} needs PyTorch Lightning",
                f"it cannot be imported ({error})",
                "pip install 'neurocompile[train]'",
            )
        ) from error
    except RuntimeError as error:
        raise MissingDependencyError(
            Problem(
                "",
                f"{what} needs PyTorch Lightning",
                f"a package that it imports does not fit PyTorch ({error})",
                "install torch and torchvision from the same index, or remove torchvision",
            )
        ) from error
    del pytorch_lightning


def _read_checkpoint(path: Path) -> Read:
    need_torch("reading a checkpoint")
    from neurocompile.frontend.from_checkpoint import from_checkpoint

    folded = from_checkpoint(path)
    facts = {"folding": dict(folded.folding), "reference": dict(folded.description)}
    return Read(folded.imported, folded.nir, facts, dict(folded.reference))
