"""
The populations of a program in real numbers: its folded graph, behind the same passes as its integers.

Only what names the same populations and synapses as the program's integers is taken for theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from neurocompile import chips
from neurocompile import target as targets
from neurocompile.data import InputRange
from neurocompile.errors import NeurocompileError, OptionError, Problem, UnsupportedError, raise_all
from neurocompile.integer import IntegerInput, IntegerNetwork, image_shape
from neurocompile.ir import Input, Network
from neurocompile.pipeline import populations_of
from neurocompile.populations import PopulationNetwork
from neurocompile.program import Program


def real_populations(program: Program, network: Network) -> PopulationNetwork:
    """
    Return the populations of `program` with the real numbers of `network`, its folded graph.

    Raises `UnsupportedError` where they are not those of the integers, as of programs from before their
    manifests told all choices.
    """
    try:
        found = populations_of(
            ranged(network, program.network), target_of(program), sums_of(program)
        )
    except OptionError:
        raise
    except NeurocompileError as error:
        raise UnsupportedError(
            Problem("", "the program's graph does not compile again", first_reason(error))
        ) from error
    raise_all(UnsupportedError, list(_differences(found, program.network)))
    return found


def first_reason(error: NeurocompileError) -> str:
    """Return the first reason of `error` in a line, and how many more there are."""
    more = len(error.problems) - 1
    return f"{error.problems[0]}" + (f" (and {more} more)" if more else "")


def target_of(program: Program) -> targets.Target:
    """Return the target that `program` was compiled for, as its chip where it carries one."""
    target = targets.find(program.target)
    content = program.extra_files.get(chips.CHIP)
    if content is None:
        return target
    if not isinstance(target, chips.FamilyTarget):
        raise OptionError(
            Problem("", f"target '{target.name}' has no family of chips", "the program has a chip")
        )
    chip: targets.Target = target.for_chip(chips.parse_chip(content, chips.CHIP))
    return chip


def choice(program: Program, name: str, known: Iterable[str]) -> Any:
    """Return what `program` was compiled with, "auto" where it does not say."""
    choices = program.facts.get("choices")
    told = choices.get(name) if isinstance(choices, Mapping) else None
    return told if told in tuple(known) else "auto"


def sums_of(program: Program) -> Any:
    """Return how `program` was told to send sums."""
    return choice(program, "sums", ("auto", "graded", "duplicate"))


def ranged(network: Network, integers: IntegerNetwork) -> Network:
    """Return `network` with inputs that take what those of `integers` do."""
    nodes = dict(network.nodes)
    for item in integers.inputs:
        node = nodes.get(item.name)
        if isinstance(node, Input):
            nodes[item.name] = replace(node, range=_range(item))
    return network.replaced(nodes)


def _range(item: IntegerInput) -> InputRange:
    step = 1 / item.scale if item.exact else 0.0
    return InputRange(item.minimum / item.scale, item.maximum / item.scale, step)


def _differences(real: PopulationNetwork, integers: IntegerNetwork) -> Iterable[Problem]:
    """Yield where the populations or synapses of both are not the same, by names and shapes."""
    sides = [(real.populations, "graph"), (integers.populations, "integers")]
    ours, theirs = ({item.name: item.shape for item in items} for items, _ in sides)
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        if ours.get(name) != theirs.get(name):
            yield Problem(
                name,
                "must be the same population in the program's graph and in its integers",
                f"the shapes are {ours.get(name)} and {theirs.get(name)}",
                "export it again",
            )
    groups = {group.name: group for group in real.synapses}
    for group in integers.synapses:
        other = groups.pop(group.name, None)
        weight = None if other is None else other.operator.weight
        if (
            other is None
            or weight is None
            or (other.source, other.target, weight.shape)
            != (group.source, group.target, group.weight.shape)
            or (other.source_view, other.target_view)
            != tuple(map(image_shape, integers.views(group)))
        ):
            yield Problem(
                group.name,
                "must be the same synapses in the program's graph and in its integers",
                remedy="export it again",
            )
    for name in groups:
        yield Problem(name, "has no integers in the program", remedy="export it again")
