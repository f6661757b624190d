"""
neurocompile: from a trained spiking network to a chip, with proof that the spikes are the same.

    import neurocompile

    run = neurocompile.train(preset="digits", output="runs/digits")
    program = neurocompile.export("runs/digits", target="loihi2", output="runs/digits-loihi2")
    report = neurocompile.verify(program, data="digits:test")

`neurocompile.evaluate(run, steps=16)` shows a trained network more or fewer steps than in training.
`neurocompile.check(...)` takes what `export` takes, and says what would keep it from succeeding.
`neurocompile.load(directory)` returns a stored program, whose `run(inputs)` runs it. Importing this
package needs nothing but numpy; torch, Lava and the rest are imported by the calls that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["__version__", "check", "evaluate", "export", "load", "train", "verify"]

if TYPE_CHECKING:
    from neurocompile.api import check, evaluate, export, train, verify
    from neurocompile.program import load


def __getattr__(name: str) -> Any:
    if name == "load":
        from neurocompile.program import load

        return load
    if name in ("train", "evaluate", "check", "export", "verify"):
        from neurocompile import api

        return getattr(api, name)
    raise AttributeError(f"module 'neurocompile' has no attribute '{name}'")
