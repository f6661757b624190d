"""
What `compile_deep.py` runs in processes of its own, as users do; the last line is JSON.

    compile_child.py export SOURCE TARGET PROGRAM    what `neurocompile export` does
    compile_child.py load PROGRAM                    what `neurocompile.load` does
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from child import peak_bytes

import neurocompile


def export(source: str, target: str, program: str) -> dict[str, Any]:
    """
    Run the command, and return the peak of the process; its seconds are its parent's to measure.

    Validation is left out, as it is by default for all but small networks.
    """
    from neurocompile.cli import main as command

    code = command(["export", source, "--target", target, "-o", program, "--no-validate"])
    if code:
        raise SystemExit(code)
    return {"peak": peak_bytes()}


def load(program: str) -> dict[str, Any]:
    """Return the seconds of a first `load`, its imports included, and the peak of the process."""
    started = time.perf_counter()
    neurocompile.load(program)
    return {"seconds": time.perf_counter() - started, "peak": peak_bytes()}


def main() -> None:
    verb, *arguments = sys.argv[1:]
    verbs: dict[str, Callable[..., dict[str, Any]]] = {"export": export, "load": load}
    print(json.dumps(verbs[verb](*arguments)))


if __name__ == "__main__":
    main()
