"""
A verification for people, on a terminal: where each layer differs, and below it a summary in one screen.

Numbers are those of the report, cut to a few digits. Nothing here tells by colour alone: verdicts are
words. Names of layers come from other people's files, and are printed as text, never as markup.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurocompile.console import printable
from neurocompile.statistics import Share
from neurocompile.verification.alternatives import best_of
from neurocompile.verification.report import (
    Alternative,
    Cause,
    Comparison,
    Divergence,
    Energy,
    Examination,
    LayerBlame,
    LayerComparison,
    ReadoutBlame,
    Report,
    StageSummary,
)

FLOATS = frozenset({"torch", "float"})
RANKED = 5  # layers in the ranking
TOLD_CONTRIBUTIONS = 4
PLAIN_STATUS = "exact"
ALTERNATIVES, ASKED_BY = (
    "alternatives",
    "--suggest",
)  # in what was not measured: by which option it is
UNBROKEN = re.compile(r"(?<=\d) (?=%|[munp]?J\b)")  # between a number and its unit
JOINT = "\ue000"  # as wide as a space, and no line is broken there
PREFIXES = ((1e12, "J"), (1e9, "mJ"), (1e6, "uJ"), (1e3, "nJ"), (0.0, "pJ"))  # of picojoules


def print_report(report: Report, console: Console | None = None) -> None:
    """Print where the stages of `report` differ, how often they are right, and why."""
    console = console or Console(highlight=False, emoji=False)
    if console.is_terminal:
        with console.capture() as captured:
            _print(report, console)
        text = captured.get()
    else:  # a table fills its lines with blanks: no use to files
        shown = io.StringIO()
        _print(report, Console(file=shown, width=console.width, highlight=False, emoji=False))
        text = "".join(f"{line.rstrip()}\n" for line in shown.getvalue().splitlines())
    console.file.write(text.replace(JOINT, " "))
    console.file.flush()


def _print(report: Report, console: Console) -> None:
    for table in layer_tables(report, console.width):
        console.print(table)
        console.print()
    console.print(Text(heading(report), "bold"))
    summary = Table.grid(padding=(0, 2, 0, 0))
    summary.add_column(no_wrap=True)
    summary.add_column(overflow="fold")
    for label, lines in summary_of(report):
        for number, (text, style) in enumerate(lines):
            joined = UNBROKEN.sub(JOINT, printable(text))
            summary.add_row(Text("" if number else label, "bold"), Text(joined, style))
    console.print(summary)


def heading(report: Report) -> str:
    """Return what was verified, on what."""
    data = f" on {printable(report.data)}" if report.data else ""
    some = "" if report.whole else ", a part of the data"
    samples = f"{report.samples} sample{'' if report.samples == 1 else 's'}"
    steps = f"{report.steps} step{'' if report.steps == 1 else 's'}"
    return f"{report.target}{data}: {samples}{some}, {steps}"


def layer_tables(report: Report, width: int) -> Iterator[Table]:
    """Yield the shares of differing places, by layer and pair, in tables that fit into `width`."""
    pairs = [pair for pair in report.comparisons if pair.layers]
    names = list(dict.fromkeys(layer.name for pair in pairs for layer in pair.layers))
    shown = {name: printable(name) for name in names}
    first = max((len(name) for name in [*shown.values(), "differing"]), default=0)
    columns = [max(len(pair.reference), len(pair.candidate) + 2, 10) + 2 for pair in pairs]
    for start, stop in _fitting(columns, width - first):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("differing\nplaces", overflow="fold")
        for pair in pairs[start:stop]:
            title = Text(f"{pair.reference}\n/ {pair.candidate}")
            table.add_column(title, justify="right", no_wrap=True)
        for name in names:
            cells = [_of_layer(pair, name) for pair in pairs[start:stop]]
            table.add_row(Text(shown[name]), *cells)
        totals = [_cell(pair.mismatches, pair.slots) for pair in pairs[start:stop]]
        table.add_row(Text("all", "bold"), *totals)
        yield table


def _fitting(columns: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Yield from which to which of `columns` fit beside each other into `width`; one at least."""
    start, used = 0, 0
    for number, column in enumerate(columns):
        if number > start and used + column > width:
            yield start, number
            start, used = number, 0
        used += column
    if columns:
        yield start, len(columns)


def _of_layer(pair: Comparison, name: str) -> str:
    layers = {layer.name: layer for layer in pair.layers}
    found: LayerComparison | None = layers.get(name)
    return "-" if found is None else _cell(found.mismatches, found.slots)


def _cell(mismatches: int, slots: int) -> str:
    return percent(mismatches / slots) if mismatches else "0"


def summary_of(report: Report) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the parts of the summary: a label, and lines with the style in which they are printed."""
    yield "matches", list(_verdicts(report))
    if report.accuracy:
        yield "accuracy", [(_accuracy(report), "")]
    undecided = list(_undecided(report.stages))
    if undecided:
        yield "undecided", [(line, "yellow") for line in undecided]
    if report.budgets:
        lines = [(item.text, "red" if item.failed else "green") for item in report.budgets]
        yield "budgets", lines
    pairs = pairs_to_explain(report)
    if pairs:
        yield "first spike", [(line, "") for pair in pairs for line in explained(report, pair)]
    examination = report.examination
    if examination is not None and (examination.blame or examination.readouts):
        yield "layers", [(line, "") for line in _blamed(examination)]
    advice = _advice(report)
    if advice:
        yield "suggested", [(advice, "")]
    costs = [*_resources(report), *_energy(report.energy, report.stages[-1].name)]
    if costs:
        yield "costs", [(line, "") for line in costs]
    if report.remarks:
        yield "remarks", [(remark, "yellow") for remark in report.remarks]
    told = {
        name: reason
        for name, reason in report.not_measured.items()
        if name != ALTERNATIVES or ASKED_BY not in reason
    }
    if told:
        yield "not measured", [(line, "dim") for line in _not_measured(told)]
    if report.versions:
        versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
        yield "versions", [(versions, "dim")]


def _verdicts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield a verdict for each pair: first those that must match."""
    held = [pair for pair in report.comparisons if pair.must_match]
    for pair in held:
        yield f"{_named(pair)}: {verdict(pair)}", "bold red" if pair.failed else "green"
    integers = {stage.name for stage in report.stages if stage.integers}
    for pair in report.comparisons:
        if not pair.must_match:
            noise = {pair.reference, pair.candidate} <= FLOATS - integers
            yield f"{_named(pair)}: {verdict(pair, noise=noise, whole=report.whole)}", ""
    if not held:
        yield "none of these must match: rounding is measured, not judged", ""


def verdict(pair: Comparison, *, noise: bool = False, whole: bool = True) -> str:
    """
    Return in words whether the stages of `pair` match, and what differs.

    `noise` says that both compute with the same floats, of which only the order of sums differs; an
    interval is told where the samples are not the `whole` data.
    """
    if not pair.mismatches and not pair.output_mismatches:
        what = "all spikes and outputs" if pair.slots else "all outputs"
        return f"identical, {what}"
    if pair.must_match:
        parts = []
        if pair.mismatches:
            parts.append(f"spikes at {pair.mismatches} of {pair.slots} places")
        if pair.output_mismatches:
            parts.append(f"{pair.output_mismatches} of {pair.output_slots} outputs")
        return f"FAILED, {' and '.join(parts)} differ that must not"
    text = "float noise, " if noise else "rounded, "
    if not pair.mismatches:
        text += "all spikes equal, " if pair.slots else ""
        text += f"outputs differ by up to {pair.output_difference:.3g}"
    else:
        text += f"spikes differ at {percent(pair.mismatches / pair.slots)} of places"
        beside = []
        if pair.interval is not None and not whole:
            beside.append(" to ".join(percent(end) for end in pair.interval))
        spikes = sum(layer.spikes_reference for layer in pair.layers)
        if spikes:
            beside.append(f"{percent(pair.mismatches / spikes)} of spikes")
        text += f" ({'; '.join(beside)})" if beside else ""
        if pair.differing_samples is not None:
            text += f", in {pair.differing_samples.count} of {pair.differing_samples.of} samples"
    if pair.same_decisions is not None:
        others = pair.same_decisions.of - pair.same_decisions.count
        text += f"; {others} of {pair.same_decisions.of} decided otherwise" if others else ""
    return text


def _accuracy(report: Report) -> str:
    shares = {stage.name: stage.accuracy for stage in report.stages if stage.accuracy is not None}
    return ", ".join(
        f"{name} {100 * share.value:.2f} %{'' if report.whole else _reach(share)}"
        for name, share in shares.items()
    )


def _undecided(stages: Iterable[StageSummary]) -> Iterator[str]:
    """Yield in how many samples no output is largest, once for all stages of the same number."""
    names: dict[Share, list[str]] = {}
    for stage in stages:
        if stage.undecided is not None and stage.undecided.count:
            names.setdefault(stage.undecided, []).append(stage.name)
    for share, found in names.items():
        yield (
            f"{', '.join(found)}: in {share.count} of {share.of} samples no output is the largest, and the "
            "first of the largest counts"
        )


def _reach(share: Share) -> str:
    low, high = share.interval
    return f" ({100 * low:.1f} to {100 * high:.1f})"


def pairs_to_explain(report: Report) -> list[Comparison]:
    """Return the pairs whose first divergence is told: those that failed, else float against integers."""
    failed = [pair for pair in report.comparisons if pair.failed and pair.first_divergence]
    if failed:
        return failed
    known = {(pair.reference, pair.candidate): pair for pair in report.comparisons}
    chosen = known.get(("float", "fixedpoint"), report.overall)
    return [chosen] if chosen.first_divergence is not None else []


def explained(report: Report, pair: Comparison) -> Iterator[str]:
    """Yield where `pair` differs first, by what margins, and why."""
    first = pair.first_divergence
    assert first is not None
    yield (
        f"{_named(pair)}: sample {first.sample}, step {first.step}, layer '{first.layer}', neuron "
        f"{first.neuron}: {pair.candidate} {_fired(first.candidate_spike)}, "
        f"{pair.reference} {_fired(first.reference_spike)}"
    )
    sides = (
        (pair.candidate, first.membrane, first.threshold),
        (pair.reference, first.reference_membrane, first.reference_threshold),
    )
    margins = [
        f"{name}: {margin(membrane, threshold)}"
        for name, membrane, threshold in sides
        if membrane is not None and threshold is not None
    ]
    if margins:
        yield "; ".join(margins)
    cause = cause_of(report, pair, first)
    if cause is not None:
        contributions = _contributions(cause)
        if contributions or not cause.note:
            yield f"because of {contributions or 'nothing that was quantised'}"
        if cause.note:
            yield cause.note


def _fired(spikes: int) -> str:
    if spikes == 0:
        return "did not fire"
    return "fired" if spikes == 1 else f"fired {spikes} times"


def margin(membrane: float, threshold: float) -> str:
    """Return how far a membrane is from its threshold, in words."""
    distance = membrane - threshold
    if not distance:
        return f"membrane {membrane:.6g} at threshold {threshold:.6g}"
    side = "above" if distance > 0 else "below"
    return f"membrane {membrane:.6g}, {abs(distance):.3g} {side} threshold {threshold:.6g}"


def cause_of(report: Report, pair: Comparison, first: Divergence) -> Cause | None:
    """Return the cause that was found for the divergence `first` of `pair`, if it was examined."""
    place = (first.sample, first.step, first.layer, first.neuron)
    causes = () if report.examination is None else report.examination.causes
    for cause in causes:
        there = cause.divergence
        found = (there.sample, there.step, there.layer, there.neuron)
        if found == place and (cause.reference, cause.candidate) == (
            pair.reference,
            pair.candidate,
        ):
            return cause
    return None


def _contributions(cause: Cause) -> str:
    ordered = sorted(cause.contributions, key=lambda item: -abs(item.amount))
    moved = [item for item in ordered if item.amount]
    told = ", ".join(f"{item.cause} {item.amount:+.3g}" for item in moved[:TOLD_CONTRIBUTIONS])
    left = sum(item.amount for item in moved[TOLD_CONTRIBUTIONS:])
    return told + (f", others {left:+.3g}" if left else "")


def _blamed(examination: Examination) -> Iterator[str]:
    """Yield whose errors differing spikes and decisions are; the first line says in which samples."""
    yield (
        f"{examination.reference} / {examination.candidate} on "
        f"{_samples(len(examination.samples), 'examined ')}:"
    )
    yield from ranking(examination.blame)
    yield from (readout_blame(item) for item in examination.readouts)


def _samples(count: int, kind: str = "") -> str:
    return f"{count} {kind}sample{'' if count == 1 else 's'}"


def ranking(blame: Sequence[LayerBlame]) -> Iterator[str]:
    """Yield the layers with the most of their own error, and what they inherit."""
    for layer in blame[:RANKED]:
        yield (
            f"{layer.name}: {percent(layer.own.value)} its own error, "
            f"{percent(layer.inherited.value)} inherited ({percent(layer.total.value)} of places differ)"
        )
    if len(blame) > RANKED:
        yield f"and {len(blame) - RANKED} more with less of their own"


def readout_blame(readout: ReadoutBlame) -> str:
    """Return what a read-out does to decisions and outputs, by itself and with what it inherits."""
    return (
        f"{readout.name}: by its own error {readout.own.count} of {readout.own.of} samples are decided "
        f"otherwise, {readout.total.count} in all; its outputs are off by {readout.own_error:.3g}, "
        f"{readout.total_error:.3g} in all"
    )


def _advice(report: Report) -> str:
    """Return what to change, or how to find out; empty where there is nothing to say."""
    examination = report.examination
    if examination is not None and examination.alternatives:
        return suggestion(examination.alternatives)
    differs = any(pair.mismatches or _otherwise(pair.same_decisions) for pair in report.comparisons)
    if differs and ASKED_BY in report.not_measured.get(ALTERNATIVES, ""):
        return f"nothing was tried: {ASKED_BY} compiles it in other ways and measures them"
    return ""


def _otherwise(same: Share | None) -> bool:
    return same is not None and same.count < same.of


def suggestion(alternatives: Sequence[Alternative]) -> str:
    """Return the first alternative that is clearly better than the first of all, which is what there is."""
    present, *others = alternatives
    best = best_of(alternatives)
    on = f"on {_samples(present.samples, 'examined ')}" if present.samples else "there"
    if best is None:
        tried = f"{len(others)} alternative{'' if len(others) == 1 else 's'}"
        return f"nothing: of {tried} none is clearly better {on}"
    parts = []
    if present.mismatches.of:
        reach = _change(best.difference)
        parts.append(
            f"spikes differ at {percent(best.mismatches.value)} of places instead of "
            f"{percent(present.mismatches.value)}{reach}"
        )
    parts.append(
        _counts("decided as by the float network", best.same_decisions, present.same_decisions)
    )
    if best.output_error is not None and present.output_error is not None:
        parts.append(
            f"outputs off by {best.output_error:.3g} instead of {present.output_error:.3g}"
        )
    parts += [
        _counts("right", best.accuracy, present.accuracy),
        f"weights {best.weight_bytes} bytes instead of {present.weight_bytes}",
    ]
    text = f"{best.name}, {on}: {', '.join(part for part in parts if part)}"
    return f"{text}; export with {best.options}" if best.options else text


def _change(interval: tuple[float, float] | None) -> str:
    """Return the 95 % interval of a difference of shares, in points."""
    if interval is None:
        return ""
    low, high = (f"{100 * end:+.3g}" for end in interval)
    return f" (95 %: {low} to {high} points)"


def _counts(what: str, then: Share | None, now: Share | None) -> str:
    """Return how many samples are something with an alternative, and without."""
    if then is None or now is None:
        return ""
    change = "as before" if then.count == now.count else f"instead of {now.count}"
    fewer = ", which is fewer" if then.count < now.count else ""
    return f"{then.count} of {then.of} {what} {change}{fewer}"


def _resources(report: Report) -> Iterator[str]:
    totals = report.resources.get("totals", {})
    told = [
        f"{figure['value']} {_counted(name, figure['value'])}{_status(figure['status'])}"
        for name, figure in totals.items()
    ]
    if told:
        yield ", ".join(told)


def _counted(name: str, value: int) -> str:
    words = name.replace("_", " ")
    return words.removesuffix("s") if value == 1 else words


def _status(status: str) -> str:
    return "" if status == PLAIN_STATUS else f" ({status})"


def _energy(energies: Iterable[Energy], stage: str) -> Iterator[str]:
    for energy in energies:
        if energy.stage == stage:
            yield (
                f"about {joules(energy.picojoules)} a sample, {joules(energy.dense_picojoules)} as an "
                "ANN: an estimate, by the rule in the report"
            )
            return


def _not_measured(reasons: Mapping[str, str]) -> Iterator[str]:
    """Yield what was not measured, once for each reason."""
    for why in dict.fromkeys(reasons.values()):
        yield f"{', '.join(name for name, reason in reasons.items() if reason == why)}: {why}"


def joules(picojoules: float) -> str:
    """Return an energy with the unit that fits it."""
    unit, name = next(item for item in PREFIXES if picojoules >= item[0])
    return f"{picojoules / (unit or 1.0):.3g} {name}"


def percent(share: float) -> str:
    """Return a share in percent with three digits; what is not 0 does not look like 0."""
    if not share:
        return "0 %"
    return f"{100 * share:.3g} %" if share >= 1e-5 else f"{100 * share:.1e} %"


def _named(pair: Comparison) -> str:
    return f"{pair.reference} / {pair.candidate}"
