"""Why spikes differ: membranes around the first difference of each layer, and what moved them."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from neurocompile.page.absent import unexamined
from neurocompile.page.markup import (
    Html,
    details,
    element,
    join,
    label,
    paragraph,
    quantity,
    table,
)
from neurocompile.page.plots import Plot, Trace, axis, draw, lines
from neurocompile.page.summary import sentence_of, without_contributions
from neurocompile.verification.report import Cause, Report

MOST_CAUSES = 60
MOST_STEPS = 2400  # of all traces together
FEWEST_STEPS = 16  # of one
MOST_BARS = 24  # of a waterfall; smaller ones are summed up


def causes(report: Report) -> Html:
    """Return a block for each cause, the first one open."""
    found = report.examination.causes if report.examination else ()
    if not found:
        return unexamined(report, "causes of first differences", "causes", "cause")
    shown = found[:MOST_CAUSES]
    most = max(FEWEST_STEPS, MOST_STEPS // len(shown))
    exact = {(pair.reference, pair.candidate) for pair in report.comparisons if pair.must_match}
    blocks = [
        _block(_around(cause, most), at, must_match=(cause.reference, cause.candidate) in exact)
        for at, cause in enumerate(shown)
    ]
    hidden = len(found) - len(blocks)
    if hidden:
        blocks.append(paragraph(f"{hidden} causes more are in report.json only.", class_="faint"))
    return join((_looked(report), *blocks))


def _looked(report: Report) -> Html:
    """Return in how many samples causes were looked for, empty if the report does not say."""
    found = report.examination.cause_samples if report.examination else ()
    if not found:
        return Html("")
    samples = "sample" if len(found) == 1 else f"{quantity(len(found))} samples"
    return paragraph(
        f"Looked for in {samples}, some of them chosen because they differ: how often a cause is found "
        "here says nothing of how often it is one.",
        class_="faint small",
    )


def _around(cause: Cause, most: int) -> Cause:
    """Return the cause with at most `most` steps of its trace, around the differing one."""
    trace = cause.trace
    longest = max(len(trace.reference), len(trace.candidate))
    if longest <= most:
        return cause
    start = min(max(0, cause.divergence.step - trace.first_step - most // 2), longest - most)
    window = slice(start, start + most)
    return replace(
        cause,
        trace=replace(
            trace,
            reference=trace.reference[window],
            candidate=trace.candidate[window],
            reference_spikes=trace.reference_spikes[window],
            candidate_spikes=trace.candidate_spikes[window],
            first_step=trace.first_step + start,
        ),
    )


def _block(cause: Cause, at: int, *, must_match: bool) -> Html:
    place = cause.divergence
    return details(
        f"{cause.reference} / {cause.candidate}, layer {place.layer}: sample {place.sample}, "
        f"step {place.step}, neuron {place.neuron}",
        paragraph(sentence_of(place, cause.reference, cause.candidate)),
        paragraph(element("strong", cause.note)) if cause.note else "",
        _trace(cause, f"trace-{at}"),
        _waterfall(cause, f"cause-{at}", must_match=must_match),
        open_=at == 0,
        class_="block",
    )


def _trace(cause: Cause, key: str) -> Html:
    trace = cause.trace
    longest = max(len(trace.reference), len(trace.candidate))
    if not longest:
        return paragraph("Not measured: membranes of this neuron.", class_="absent")
    last = longest
    steps = list(range(trace.first_step, trace.first_step + last))
    ends = [steps[0] - 0.4, steps[-1] + 0.4]
    top = max(
        [
            *trace.reference[:last],
            *trace.candidate[:last],
            trace.reference_threshold,
            trace.candidate_threshold,
        ]
    )
    low = min([*trace.reference[:last], *trace.candidate[:last], 0.0])
    lift = (top - low or 1.0) * 0.08
    traces: list[Trace] = [
        lines(f"membrane, {cause.reference}", steps, trace.reference[:last], 0),
        lines(f"membrane, {cause.candidate}", steps, trace.candidate[:last], 2),
        _threshold(cause.reference, ends, trace.reference_threshold, 0, "longdash"),
        _threshold(cause.candidate, ends, trace.candidate_threshold, 2, "dashdot"),
        _spikes(
            cause.reference, trace.reference_spikes[:last], steps, top + lift, 0, "triangle-up"
        ),
        _spikes(
            cause.candidate,
            trace.candidate_spikes[:last],
            steps,
            top + 2 * lift,
            2,
            "triangle-down-open",
        ),
    ]
    first = cause.divergence.step
    more = f" Steps {steps[0]} to {steps[-1]} are shown."
    return draw(
        Plot(
            key,
            f"Membranes of neuron {cause.divergence.neuron} of {cause.divergence.layer}",
            "Before the reset, in the source's units, with both thresholds; triangles above are spikes. "
            f"The dotted upright line is step {first}.{more}",
            traces,
            table(
                "Membranes and spikes by step",
                [
                    "step",
                    f"membrane, {cause.reference}",
                    f"membrane, {cause.candidate}",
                    f"spikes, {cause.reference}",
                    f"spikes, {cause.candidate}",
                ],
                [
                    [
                        str(step),
                        *(
                            values[at] if at < len(values) else "-"
                            for values in (
                                trace.reference,
                                trace.candidate,
                                trace.reference_spikes,
                                trace.candidate_spikes,
                            )
                        ),
                    ]
                    for at, step in enumerate(steps)
                ],
            ),
            {
                "xaxis": axis("step", dtick=1 if last <= 20 else None, zeroline=False),
                "yaxis": axis("membrane"),
                "shapes": [
                    {
                        "type": "line",
                        "x0": first,
                        "x1": first,
                        "y0": 0,
                        "y1": 1,
                        "yref": "paper",
                        "line": {"color": "@ink", "dash": "dot", "width": 1},
                    }
                ],
            },
            360,
        )
    )


def _threshold(name: str, ends: list[float], value: float, number: int, dash: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label(f"threshold, {name}"),
        "x": ends,
        "y": [value, value],
        "line": {"color": f"@s{number}", "dash": dash, "width": 1.2},
        "hoverinfo": "y+name",
    }


def _spikes(
    name: str, spikes: tuple[int, ...], steps: list[int], y: float, number: int, symbol: str
) -> Trace:
    fired = [step for step, count in zip(steps, spikes, strict=False) if count]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(f"spikes, {name}"),
        "x": fired,
        "y": [y] * len(fired),
        "marker": {"symbol": symbol, "size": 11, "color": f"@s{number}"},
        "hoverinfo": "x+name",
        "showlegend": bool(fired),
    }


def _waterfall(cause: Cause, key: str, *, must_match: bool) -> Html:
    if not cause.contributions:
        return paragraph(without_contributions(cause, must_match=must_match), class_="absent")
    items = [(item.cause, item.amount) for item in cause.contributions]
    if len(items) > MOST_BARS:
        kept = {
            at
            for at, _ in sorted(enumerate(items), key=lambda item: -abs(item[1][1]))[
                : MOST_BARS - 1
            ]
        }
        rest = [amount for at, (_, amount) in enumerate(items) if at not in kept]
        shown = [item for at, item in enumerate(items) if at in kept]
        shown.append((f"{len(rest)} smaller ones", sum(rest)))
    else:
        shown = items
    total = sum(amount for _, amount in items)
    names = [
        f"margin, {cause.reference}",
        *(name for name, _ in shown),
        f"margin, {cause.candidate}",
    ]
    values = [cause.margin_reference, *(amount for _, amount in shown), cause.margin_candidate]
    plain = {"line": {"color": "@ink", "width": 1}}
    trace = {
        "type": "waterfall",
        "orientation": "h",
        "measure": ["absolute", *("relative" for _ in shown), "total"],
        "x": values,
        "y": list(range(len(names))),
        "increasing": {"marker": {"color": "@bar2", **plain}},
        "decreasing": {"marker": {"color": "@bar", **plain}},
        "totals": {"marker": {"color": "@s5", **plain}},
        "connector": {"line": {"color": "@faint", "width": 1, "dash": "dot"}},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return draw(
        Plot(
            key,
            "What moved the margin between membrane and threshold",
            f"From {cause.margin_reference:+.6g} in {cause.reference} by {total:+.6g} to "
            f"{cause.margin_candidate:+.6g} in {cause.candidate}; plus moves it toward firing.",
            [trace],
            table(
                "Contributions, in the source's units",
                ["cause", "amount"],
                [
                    [f"margin, {cause.reference}", cause.margin_reference],
                    *([name, amount] for name, amount in items),
                    ["sum of the contributions", quantity(total)],
                    [f"margin, {cause.candidate}", cause.margin_candidate],
                ],
            ),
            {
                "xaxis": axis("membrane minus threshold", zeroline=True, range=_span(values)),
                "yaxis": {
                    "tickmode": "array",
                    "tickvals": list(range(len(names))),
                    "ticktext": [
                        f"{label(name)}<br>{value:+.4g}"
                        for name, value in zip(names, values, strict=True)
                    ],
                    "range": [len(names) - 0.4, -0.6],
                    "automargin": True,
                    "showgrid": False,
                    "zeroline": False,
                },
            },
            120 + 36 * len(names),
        )
    )


def _span(values: list[float]) -> list[float]:
    """Return the ends of an axis on which all bars find room; `values` end in their sum."""
    reached = [0.0, values[-1], *accumulate(values[:-1])]
    low, high = min(reached), max(reached)
    room = 0.06 * (high - low or 1.0)
    return [low - room, high + room]
