"""What matters, in one screen: does it match, how accurate, at what cost, and where it first differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from neurocompile.page.absent import absent, unexamined
from neurocompile.page.drawn import Costs
from neurocompile.page.energy_part import energy_of_target
from neurocompile.page.markup import (
    Html,
    Numeric,
    element,
    join,
    pairs,
    paragraph,
    percent,
    quantity,
    table,
)
from neurocompile.statistics import Share
from neurocompile.verification.report import Cause, Comparison, Divergence, Report

EQUAL, UNEQUAL, NEAR, NONE = "✓", "✗", "≈", "○"
MOST_CAUSES = 3
BAR_WIDTH = 150
FLOATS = {"torch", "float"}  # they compute with the same numbers, not in the same order


def summary(report: Report, costs: Costs | None) -> Html:
    """Return the cards on top of the page."""
    return element(
        "section",
        _card("Does it match?", verdict(report), _pairs(report)),
        _card("Accuracy at each stage, with its 95 % interval", accuracy(report)),
        _card("The first difference", first_difference(report), class_="card third"),
        _card("What it costs", _costs(report, costs), class_="card third"),
        _card("Budgets", _budgets(report), _unmeasured(report), class_="card third"),
        class_="cards",
        id="summary",
        aria_label="Summary",
    )


def _card(title: str, *content: object, class_: str = "card") -> Html:
    return element("div", element("h2", title), *content, class_=class_)


def marked(mark: str, told: object, kind: str) -> Html:
    """Return a sentence that begins with its symbol."""
    symbol = element("span", mark, class_="mark", aria_hidden="true")
    return element("span", symbol, told, class_=kind)


def samples_of(report: Report) -> str:
    """Return which samples these are, in words."""
    each = "sample" if report.samples == 1 else "samples"
    what = (
        f"all {quantity(report.samples)} {each}"
        if report.whole
        else f"{quantity(report.samples)} {each}, a part"
    )
    return f"{what} of {report.data or 'data without a name'}"


def verdict(report: Report) -> Html:
    """Return the verdict in a sentence."""
    differing = [pair for pair in report.comparisons if pair.failed]
    integers = [pair for pair in report.comparisons if pair.must_match]
    missed = [budget for budget in report.budgets if budget.failed]
    if differing:
        found = marked(UNEQUAL, f"No: integers differ between {_names(differing)}.", "bad")
    elif missed:
        found = marked(
            UNEQUAL,
            f"A budget was missed: {', '.join(budget.name for budget in missed)}."
            + (" Integers are equal." if integers else ""),
            "bad",
        )
    elif integers:
        slots = sum(pair.slots for pair in integers)
        found = marked(
            EQUAL, f"Yes: integers are equal at all {quantity(slots)} compared places.", "good"
        )
    else:
        found = _without_integers(report.overall)
    return element("p", found, class_="verdict")


def _without_integers(pair: Comparison) -> Html:
    """Return what there is to say where no two stages must be equal."""
    told = "; no two stages of integers were compared."
    if not pair.slots:
        return marked(NONE, f"No spikes were compared{told}", "warn")
    if pair.mismatches:
        share = percent(pair.mismatches / pair.slots, 3)
        differ = f"{pair.reference} and {pair.candidate} differ at {share} of places"
        return marked(NEAR, f"{differ}{told}", "warn")
    return marked(
        EQUAL, f"{pair.reference} and {pair.candidate} fire the same spikes{told}", "good"
    )


def verdict_words(report: Report) -> str:
    """Return the verdict in a few words."""
    if any(pair.failed for pair in report.comparisons):
        return f"{UNEQUAL} no, integers differ"
    if any(budget.failed for budget in report.budgets):
        return f"{UNEQUAL} a budget was missed"
    if any(pair.must_match for pair in report.comparisons):
        return f"{EQUAL} yes, integers are equal"
    return f"{NONE} only floats with integers"


def _names(comparisons: Iterable[Comparison]) -> str:
    return ", ".join(f"{pair.reference} and {pair.candidate}" for pair in comparisons)


def pair_verdict(pair: Comparison) -> Html:
    """Return what a comparison found, in a symbol and a few words."""
    if pair.failed:
        return marked(UNEQUAL, "differ, must not", "bad")
    noise = {pair.reference, pair.candidate} <= FLOATS
    if pair.mismatches:
        return marked(NEAR, "differ: float noise" if noise else "differ: rounded", "warn")
    if pair.output_mismatches:
        outputs = f"outputs differ by up to {pair.output_difference:.3g}"
        return marked(EQUAL, f"all spikes equal, {outputs}" if pair.slots else outputs, "good")
    return marked(EQUAL, "equal", "good")


def per_spike(pair: Comparison) -> float | None:
    """Return the differing places of a pair for each spike of its reference; None if it fired none."""
    spikes = sum(layer.spikes_reference for layer in pair.layers)
    return pair.mismatches / spikes if spikes else None


def _pairs(report: Report) -> Html:
    rows = [
        [
            f"{pair.reference} / {pair.candidate}",
            pair_verdict(pair),
            Numeric(percent(pair.mismatches / pair.slots, 3)) if pair.slots else "no spikes",
            "-" if (each := per_spike(pair)) is None else Numeric(percent(each)),
            Numeric(percent(pair.same_decisions.value)) if pair.same_decisions else "-",
        ]
        for pair in report.comparisons
    ]
    if not rows:
        return absent(report, "no two stages were compared")
    return table(
        "Differing places (sample, step, neuron), of all places and for each spike of the first stage; "
        "samples decided alike",
        ["stages", "", "of places", "of spikes", "alike"],
        rows,
    )


def interval(share: Share) -> str:
    """Return the 95 % interval of a share in words."""
    low, high = share.interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def accuracy(report: Report) -> Html:
    """Return the accuracy of each stage."""
    shares = [stage.accuracy for stage in report.stages if stage.accuracy is not None]
    if not shares:
        return absent(report, "accuracy", "accuracy", "decisions")
    lowest = min(share.interval[0] for share in shares)
    floor = max(0.0, (int(lowest * 20) - 1) / 20)
    rows = [
        [stage.name, "not measured", "", ""]
        if stage.accuracy is None
        else [
            stage.name,
            Numeric(percent(stage.accuracy.value)),
            interval(stage.accuracy),
            whisker(stage.accuracy, floor),
        ]
        for stage in report.stages
    ]
    return join(
        (
            table(
                f"Of {samples_of(report)}; the drawing reaches from {100 * floor:.0f} to 100 %",
                ["stage", "right", "95 % interval", ""],
                rows,
            ),
            undecided(report),
        )
    )


def undecided(report: Report) -> Html:
    """Return which stages leave samples undecided, empty if none does."""
    found = [
        f"{stage.name} {quantity(stage.undecided.count)} of {quantity(stage.undecided.of)}"
        for stage in report.stages
        if stage.undecided is not None and stage.undecided.count
    ]
    if not found:
        return Html("")
    told = f"Undecided samples, in which no output is largest: {', '.join(found)}. "
    return paragraph(
        marked(NONE, f"{told}They count as the first class of the largest.", "warn"), class_="small"
    )


def whisker(share: Share, floor: float) -> Html:
    """Return a dot with its interval on a line from `floor` to 1."""
    low, high = share.interval
    x = [
        round(4 + (BAR_WIDTH - 8) * (at - floor) / (1 - floor), 1)
        for at in (low, share.value, high)
    ]
    return element(
        "svg",
        element("rect", x=0, y=8, width=BAR_WIDTH, height=2, class_="track"),
        element("path", d=f"M{x[0]} 4V14M{x[0]} 9H{x[2]}M{x[2]} 4V14", class_="interval"),
        element("circle", cx=x[1], cy=9, r=4, class_="dot"),
        width=BAR_WIDTH,
        height=18,
        viewBox=f"0 0 {BAR_WIDTH} 18",
        class_="whisker",
        aria_hidden="true",
    )


def first_difference(report: Report) -> Html:
    """Return the first difference that matters most, with its cause."""
    failed = next((pair for pair in report.comparisons if pair.failed), None)
    pair = failed or report.overall
    divergence = pair.first_divergence
    if divergence is None and failed is None:
        pair = next((item for item in report.comparisons if item.first_divergence), report.overall)
        divergence = pair.first_divergence
    if failed is None:
        pair, divergence = _explained(report) or (pair, divergence)
    if divergence is None:
        if pair.mismatches:
            return absent(report, "where spikes first differ", "divergences")
        if pair.output_mismatches:
            return paragraph(
                f"{pair.reference} / {pair.candidate}: all spikes are equal, outputs differ by up to "
                f"{pair.output_difference:.3g} at {quantity(pair.output_mismatches)} places."
            )
        return paragraph(
            marked(
                EQUAL, f"None: {pair.reference} and {pair.candidate} fire the same spikes.", "good"
            )
            if pair.slots
            else marked(NONE, "No spikes were compared.", "warn")
        )
    cause = cause_of(report, pair, divergence)
    return join(
        (
            paragraph(
                element("strong", f"{pair.reference} / {pair.candidate}: "),
                sentence_of(divergence, pair.reference, pair.candidate),
            ),
            _reasons(cause, pair)
            if cause
            else unexamined(
                report, "its cause", "causes", f"cause of {pair.reference}/{pair.candidate}"
            ),
        )
    )


def _explained(report: Report) -> tuple[Comparison, Divergence] | None:
    """Return the pair that says most of the whole way and whose first difference has a known cause."""
    for pair in (report.overall, *reversed(report.comparisons)):
        found = pair.first_divergence
        if found is not None and cause_of(report, pair, found) is not None:
            return pair, found
    return None


def sentence_of(at: Divergence, reference: str, candidate: str) -> str:
    """Return where two stages differ, in a sentence."""
    spikes = (at.reference_spike, at.candidate_spike)
    if spikes == (1, 0):
        told = f"{reference} fired and {candidate} did not"
    elif spikes == (0, 1):
        told = f"{candidate} fired and {reference} did not"
    else:
        told = f"{reference} fired {spikes[0]}, {candidate} {spikes[1]}"
    sentence = f"sample {at.sample}, step {at.step}, layer {at.layer}, neuron {at.neuron}: {told}"
    if at.membrane is not None and at.threshold is not None:
        sentence += f". Membrane {_against(at.membrane, at.threshold, 'a threshold of ')}"
        if at.reference_membrane is not None and at.reference_threshold is not None:
            sentence += (
                f"; in {reference} {_against(at.reference_membrane, at.reference_threshold)}"
            )
    return sentence + "."


def _against(membrane: float, threshold: float, what: str = "") -> str:
    """Return a membrane and its threshold; how far apart they are where six digits do not show it."""
    told = (f"{membrane:.6g}", f"{threshold:.6g}")
    apart = membrane - threshold
    hidden = apart and told[0] == told[1]
    side = f" ({abs(apart):.3g} {'above' if apart > 0 else 'below'} it)" if hidden else ""
    return f"{told[0]} at {what}{told[1]}{side}"


def cause_of(report: Report, pair: Comparison, divergence: Divergence) -> Cause | None:
    """Return the cause of this very divergence."""
    place = (divergence.sample, divergence.step, divergence.layer, divergence.neuron)
    for cause in report.examination.causes if report.examination else ():
        found = cause.divergence
        if (cause.reference, cause.candidate) == (pair.reference, pair.candidate) and (
            found.sample,
            found.step,
            found.layer,
            found.neuron,
        ) == place:
            return cause
    return None


def without_contributions(cause: Cause, *, must_match: bool) -> str:
    """Return what there is to say of a difference that nothing was found to have caused."""
    if must_match:
        return (
            f"{cause.candidate} computed another number than {cause.reference} from the same integers: "
            "no rounding explains it."
        )
    return "Nothing that was quantised moved the margin."


def _reasons(cause: Cause, pair: Comparison) -> Html:
    told = _moved(cause, pair)
    return join((told, paragraph(element("strong", cause.note)))) if cause.note else told


def _moved(cause: Cause, pair: Comparison) -> Html:
    if not cause.contributions:
        return paragraph(without_contributions(cause, must_match=pair.must_match))
    largest = sorted(cause.contributions, key=lambda item: -abs(item.amount))[:MOST_CAUSES]
    told = "; ".join(f"{item.cause} {item.amount:+.4g}" for item in largest)
    left = len(cause.contributions) - len(largest)
    return paragraph(
        f"The margin moved from {cause.margin_reference:+.4g} to {cause.margin_candidate:+.4g}, most by: ",
        told,
        f"; {left} smaller causes below." if left > 0 else ".",
    )


def _costs(report: Report, costs: Costs | None) -> Html:
    if costs is None:
        return absent(report, "what the program takes of its target", "resources")
    items: list[tuple[object, object]] = []
    for key in ("neurons", "synapses", "weights", "cores", "chips", "words"):
        if key in costs.totals:
            found = costs.totals[key]
            name = "memory words" if key == "words" else key
            items.append((name, f"{quantity(found.value)} ({found.status})"))
    if "cores" not in costs.totals:
        items.append(("cores", "this target has no cores"))
    memory = weight_memory(report.facts)
    items.append(("weights' memory", memory or "not measured"))
    chosen = energy_of_target(report)
    if chosen is not None:
        items.append(
            (
                "energy (an estimate)",
                f"{quantity(chosen.picojoules / 1000)} nJ a sample, {chosen.stage}",
            )
        )
    else:
        items.append(("energy", "not measured"))
    return pairs(items)


def weight_memory(facts: Mapping[str, Any]) -> str:
    """Return the memory of all weights, by the facts of quantisation; empty if they do not say."""
    found = facts.get("quantisation", {})
    layers = found.get("layers", {}) if isinstance(found, dict) else {}
    if not isinstance(layers, dict):
        return ""
    bits = [
        layer["memory_bits"]
        for layer in layers.values()
        if isinstance(layer, dict) and isinstance(layer.get("memory_bits"), int)
    ]
    return f"{quantity(-(-sum(bits) // 8))} bytes" if bits else ""


def _budgets(report: Report) -> Html:
    if not report.budgets:
        return paragraph("None was set.", class_="faint")
    return element(
        "div",
        *(
            paragraph(
                marked(
                    UNEQUAL if budget.failed else EQUAL,
                    budget.text,
                    "bad" if budget.failed else "good",
                )
            )
            for budget in report.budgets
        ),
    )


def _unmeasured(report: Report) -> Html:
    count = len(report.not_measured)
    if not count:
        return Html("")
    things = "thing was" if count == 1 else "things were"
    return paragraph(
        element("a", f"{count} {things} not measured", href="#not-measured"), class_="small"
    )
