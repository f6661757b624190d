"""What tells the integers of a program from those of others: models carry it, and say whose they are."""

from __future__ import annotations

import hashlib
import json

from neurocompile.manifest import describe_network, tensors_of
from neurocompile.program import Program
from neurocompile.tensors import npz_bytes


def digest_of(program: Program) -> str:
    """Return a SHA-256 of the network and its steps, in hexadecimal digits."""
    described = {**describe_network(program.network), "steps": program.steps}
    content = json.dumps(described, sort_keys=True).encode() + npz_bytes(
        tensors_of(program.network)
    )
    return hashlib.sha256(content).hexdigest()
