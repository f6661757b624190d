"""
Give every population its place in the pipeline.

A connection on the chip delivers one step later; the host's currents arrive at once. A population at
depth D therefore works on step t of a sample D machine steps after the input showed it. All paths
into a population must be equally deep, or spikes of different steps would meet.
"""

from __future__ import annotations

from neurocompile.errors import Problem, UnsupportedError, raise_all
from neurocompile.integer import IntegerNetwork, Schedule


def schedule(network: IntegerNetwork) -> Schedule:
    """
    Return the depth of every population.

    Raises `UnsupportedError` naming every population whose inputs are not equally deep.
    """
    depth: dict[str, int] = {}
    problems: list[Problem] = []
    for population in network.populations:
        arrivals = {
            group.name: depth[group.source] + (0 if group.on_host else 1)
            for group in network.into(population.name)
        }
        if len(set(arrivals.values())) > 1:
            ways = ", ".join(f"'{name}' after {steps}" for name, steps in sorted(arrivals.items()))
            problems.append(
                Problem(
                    population.name,
                    "needs inputs that arrive in the same step",
                    f"they arrive at different ones: {ways}",
                    "make the branches equally deep; balancing them is not supported yet",
                )
            )
        depth[population.name] = max(arrivals.values(), default=0)
    raise_all(UnsupportedError, problems)
    return Schedule(depth)
