"""What `check` prints: problems first, then tables that are readable at 100 columns and without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from neurocompile.checks.check_source import Check, Found, LayerCheck
from neurocompile.checks.needs import Decay, Need
from neurocompile.resources import LayerResources

COLUMNS = 100  # where the output is no terminal
STAGES = {"prove_ranges": "range proof", "lower_max_pooling": "max pooling"}  # for people
ROUNDING = "rounding: how many numbers changed, and by how much at most, beside a threshold"
UNITS = ((1e9, "G"), (1e6, "M"), (1e4, "k"))


def print_check(check: Check) -> None:
    """Print the whole report."""
    console = _console()
    _print_problems(check, console)
    for name, how in check.inferred.items():
        console.print(f"{name}: {how}", markup=False, highlight=False)
    if check.layers:
        _print(console, f"range proof, {check.steps} steps", _range_proof(check))
        _print_lines(console, _misses(check.layers))
        _print(console, "hardware ranges: needs / limit", _neurons(check.layers))
        _print(console, "synapses: needs / limit", _synapses(check.layers))
        rounding = {layer.name: layer.tally.to_json() for layer in check.layers}
        _print(console, ROUNDING, _rounding(rounding))
    if check.resources is not None:
        _print(console, "resources", _resources(check))
        for note in check.resources.notes:
            console.print(note, markup=False, highlight=False)
        if check.resources.limits:
            title = "limits; counts are exact, * is estimated by formulas inferred from published figures"
            _print(console, title, _limits(check))
    for what, why in check.not_checked:
        _print_lines(console, [f"not checked: {what}, because {why}"])
    _print_lines(console, [check.verdict])


def print_rounding(layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what rounding did to each of `layers`, as a manifest has it."""
    console = _console()
    console.print(ROUNDING, markup=False, highlight=False)
    console.print(_rounding(layers), highlight=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=COLUMNS)


def _print(console: Console, title: str, table: Table) -> None:
    console.print()
    console.print(title, markup=False, highlight=False)
    console.print(table, highlight=False)


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_problems(check: Check, console: Console) -> None:
    if not check.problems:
        return
    count = len(check.problems)
    _print_lines(console, [f"{count} problem{'s' if count > 1 else ''}"])
    told = False
    for found, others in _alike(check.problems):
        if found.assumed and not told:
            told = True
            _print_lines(console, ["to look further, it is assumed that"])
            _print_lines(console, [f"    {text}" for text in check.assumptions])
            _print_lines(console, ["and then"])
        stage = STAGES.get(found.stage, found.stage)
        so_for = f"; so for {', '.join(others)}" if others else ""
        _print_lines(console, [f"  - {stage}: {found.problem}{so_for}"])


def _alike(problems: Iterable[Found]) -> list[tuple[Found, list[str]]]:
    """Return the problems with those that differ in their layer only as one, and these layers."""
    first: dict[tuple[object, ...], tuple[Found, list[str]]] = {}
    for found in problems:
        key = (found.stage, found.assumed, replace(found.problem, layer=""))
        if key in first:
            first[key][1].append(f"'{found.problem.layer}'")
        else:
            first[key] = (found, [])
    return list(first.values())


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold", max_width=24)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _short(value: float) -> str:
    for unit, letter in UNITS:
        if abs(value) >= unit:
            scaled = value / (1e3 if letter == "k" else unit)
            return f"{scaled:.4g}{letter}" if scaled < 1e4 else f"{scaled:.3g}{letter}"
    return f"{value:.6g}"


def _name(layer: LayerCheck) -> str:
    return f"{layer.name} (assumed)" if layer.assumed else layer.name


def _range_proof(check: Check) -> Table:
    table = _table(
        "layer", "units per unit", "input sum", "limit", "membrane", "limit", "head-room"
    )
    table.add_column("shrunk by it", justify="right")
    for layer in check.layers:
        bound = layer.bound
        if bound is None:
            continue
        table.add_row(
            _name(layer),
            "..".join(dict.fromkeys(_short(scale) for scale in layer.scales)),
            str(bound.current),
            str(bound.current_limit),
            str(bound.membrane),
            str(bound.membrane_limit),
            f"{layer.room:.2f}x",
            f"{layer.shrunk:.2f}x" if layer.shrunk > 1 else "-",
        )
    return table


def _misses(layers: Iterable[LayerCheck]) -> Iterable[str]:
    for layer in layers:
        miss = layer.miss
        if miss is None:
            continue
        told = f"'{layer.name}' as it is"
        if miss.excess > 1:
            told += (
                f" would exceed its limits {miss.excess:.3g} times with all bits of its weights, and "
                f"fit at {miss.scale:.3g} weight units per unit"
            )
            if math.prod(layer.shape) > 1:
                told += f" ({miss.beyond} of its neurons, channel {miss.worst} most)"
        else:
            told += " would stay within its limits"
        steps = "with no number of steps" if miss.steps is None else f"with --steps {miss.steps}"
        yield f"{told}; it would pass {steps}"


def _span(need: Need | None) -> str:
    if need is None:
        return "-"
    span = str(need.low) if need.low == need.high else f"{need.low}..{need.high}"
    return span if need.most is None else f"{span} / {need.most}"


def _decay(decay: Decay | None) -> str:
    if decay is None:
        return "-"
    real = "..".join(f"{value:.6g}" for value in dict.fromkeys(decay.real))
    if decay.integers.error == 0:
        return f"{real} exact"
    return f"{real} off by {decay.integers.error:.1g}"


def _neurons(layers: Iterable[LayerCheck]) -> Table:
    table = _table("layer", "threshold", "bias", "2^", "leak factor", "current's", "payload bits")
    for layer in layers:
        numbers: Mapping[str, Need] = layer.needs.numbers
        exponent = numbers.get("bias_exponent")
        table.add_row(
            _name(layer),
            _span(numbers.get("threshold")),
            _span(numbers.get("bias_mantissa")),
            "-" if exponent is None else f"{exponent.low} / {exponent.most}",
            _decay(layer.needs.decays.get("leak")),
            _decay(layer.needs.decays.get("current_leak")),
            _span(numbers.get("payload_bits")),
        )
    return table


def _synapses(layers: Iterable[LayerCheck]) -> Table:
    table = _table("synapses", "from", "weights", "range", "off by", "to zero", "clipped", "wait")
    for layer in layers:
        for group in layer.needs.synapses:
            weight = group.weight
            table.add_row(
                f"{group.name} (host)" if group.on_host else group.name,
                group.source,
                f"{weight.low}..{weight.high}",
                f"{weight.least}..{weight.most}",
                f"{weight.error:.2g}",
                f"{group.zeroed} of {_short(group.count)}",
                str(group.clipped),
                str(group.wait),
            )
    return table


def _rounding(layers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return what rounding did to each of `layers`, as `quantisation.tally` tells it in JSON."""
    table = _table(
        "layer",
        "bits used",
        "weights to 0",
        "clipped",
        "rms",
        "thresholds",
        "biases",
        "leaks",
        "bytes",
    )
    for name, layer in layers.items():
        if "weights" not in layer:
            continue
        groups, numbers = layer["weights"], layer["numbers"]
        count, zeroed, clipped = (
            sum(group[key] for group in groups) for key in ("count", "zeroed", "clipped")
        )
        bits = (f"{group['used_bits']} of {group['bits']}" for group in groups)
        leaks = [numbers[kind] for kind in ("leak", "current_leak") if kind in numbers]
        table.add_row(
            name,
            ", ".join(dict.fromkeys(bits)),
            f"{zeroed} of {_short(count)}",
            str(clipped),
            f"{max((group['rms_error'] for group in groups), default=0):.2g}",
            _rounded(numbers.get("threshold")),
            _rounded(numbers.get("bias")),
            _rounded(max(leaks, key=lambda leak: float(leak["relative"] or 0), default=None)),
            _short(-(-layer["memory_bits"] // 8)),
        )
    return table


def _rounded(number: Mapping[str, Any] | None) -> str:
    """Return how many numbers of a kind changed, by how much, and how many did not fit."""
    if number is None:
        return "-"
    if not number["rounded"]:
        return "exact"
    share = number["relative"]
    by = "" if share is None else f" by {100 * share:.2g} %"
    clipped = f", {number['clipped']} cut" if number["clipped"] else ""
    return f"{_short(number['rounded'])}{by}{clipped}"


def _resources(check: Check) -> Table:
    assert check.resources is not None
    counted = ("neurons", "synapses", "axons", "fan_in", "fan_out")
    estimated = ("parts", "words_per_core", "cores")
    layers = check.resources.layers
    with_cores = any("cores" in layer.figures for layer in layers)
    columns = [name.replace("_", "-") for name in counted]
    if with_cores:
        columns += ["parts", "words/core*", "cores*", "decided by"]
    table = _table("layer", *columns)
    for layer in layers:
        row = [_figure(layer, name) for name in counted]
        if with_cores:
            row += [*(_figure(layer, name) for name in estimated), layer.tightest]
        table.add_row(layer.name, *row)
    totals = check.resources.totals
    total = [_short(totals[name].value) if name in totals else "" for name in counted]
    if with_cores:
        total += ["", "", _short(totals["cores"].value), ""]
    table.add_row("all", *total)
    return table


def _figure(layer: LayerResources, name: str) -> str:
    figure = layer.figures.get(name)
    return "-" if figure is None else _short(figure.value)


def _limits(check: Check) -> Table:
    assert check.resources is not None
    table = Table("limit", box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("status")
    table.add_column("source")
    for name, limit in check.resources.limits.items():
        table.add_row(name.replace("_", " "), str(limit.value), limit.status, limit.source)
    return table
