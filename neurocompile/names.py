"""Names for what a pass adds."""

from __future__ import annotations

from collections.abc import Container


def free_name(taken: Container[str], wanted: str) -> str:
    """Return `wanted`, or the first of "wanted.2", "wanted.3", ... that is not `taken`."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}.{number}"
    return name
