"""Packages that read data sets, imported where they are needed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

from neurocompile.errors import MissingDependencyError, Problem


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed `packages`, on which samples may depend."""
    return {package: version(package) for package in packages}


def needed(module: str, extra: str, what: str) -> Any:
    """
    Return `module`, which `what` needs and the extra `extra` installs.

    Raises `MissingDependencyError` where it is missing, and where it does not fit the packages around it.
    """
    package = module.partition(".")[0]
    named = {"sklearn": "scikit-learn"}.get(package, package)
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            Problem(
                "",
                f"{what} needs {named}",
                f"it cannot be imported ({error})",
                f"pip install 'neurocompile[{extra}]'",
            )
        ) from error
    except RuntimeError as error:  # torchvision's operators, where torch is another build
        raise MissingDependencyError(
            Problem(
                "",
                f"{what} needs {named}",
                f"the installed one does not fit PyTorch ({error})",
                f"install torch and {named} from the same index",
            )
        ) from error
