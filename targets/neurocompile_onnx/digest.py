"""What tells the integers of a program from those of others: models carry it, and say whose they are."""

from __future__ import annotations

import hashlib
import json

from neurocompile.manifest import describe_network, tensors_of
from neurocompile.program import Program


def digest_of(program: Program) -> str:
    """
    Return a SHA-256 of the network and its steps, in hexadecimal digits.

    It is of names, types, shapes and numbers, little-endian: the same on every machine.
    """
    described = {**describe_network(program.network), "steps": program.steps}
    found = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, values in sorted(tensors_of(program.network).items()):
        stored = values.astype(values.dtype.newbyteorder("<"), copy=False)
        found.update(f"\n{name} {stored.dtype.str} {stored.shape}\n".encode())
        found.update(stored.tobytes())
    return found.hexdigest()
