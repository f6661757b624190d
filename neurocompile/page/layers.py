"""What differs in which layer and step: plots and tables of all layers."""

from __future__ import annotations

from collections.abc import Sequence

from neurocompile.page.absent import absent, examined, examined_pair, on_samples, unexamined
from neurocompile.page.markup import (
    Html,
    Numeric,
    element,
    join,
    paragraph,
    percent,
    quantity,
    table,
)
from neurocompile.page.plots import Plot, axis, bars, draw, height_of, lines, named_axis
from neurocompile.page.summary import interval
from neurocompile.statistics import Share
from neurocompile.verification.report import Alternative, Comparison, Distances, Report

SCALE = [[0, "@low"], [1, "@high"]]
MOST_STEPS = 2000  # of a plot over time
MOST_FIELDS = 20_000  # of a plot by layer and step
MOST_CELLS = 3000  # of its table


def mismatches(report: Report) -> Html:
    """Return how many places differ, by layer and stages, and by step."""
    pair = report.overall
    if not pair.layers:
        return absent(report, "no layer's spikes were compared", "layers", "comparisons")
    return join((_by_layer(pair), _by_pair(report), _not_compared(report), _by_step(report, pair)))


def _by_layer(pair: Comparison) -> Html:
    names = [layer.name for layer in pair.layers]
    told = any(layer.missing or layer.extra for layer in pair.layers) or not pair.mismatches
    missing = [100 * layer.missing / layer.slots if layer.slots else None for layer in pair.layers]
    extra = [100 * layer.extra / layer.slots if layer.slots else None for layer in pair.layers]
    both = [100 * layer.mismatches / layer.slots if layer.slots else None for layer in pair.layers]
    traces = (
        [
            bars(f"missing in {pair.candidate}", missing, 0),
            bars(f"extra in {pair.candidate}", extra, 1),
        ]
        if told
        else [bars("differ", both, 0)]
    )
    return draw(
        Plot(
            "mismatches",
            f"Places that differ, {pair.reference} against {pair.candidate}",
            "Share of (sample, step, neuron) places by layer: spikes that only the reference fired "
            "(missing) and only the candidate (extra).",
            traces,
            table(
                "Differences by layer",
                ["layer", "places", "differ", "missing", "extra", "share", "for each spike"],
                [
                    [
                        layer.name,
                        layer.slots,
                        layer.mismatches,
                        layer.missing,
                        layer.extra,
                        Numeric(percent(layer.mismatches / layer.slots, 3)) if layer.slots else "-",
                        "-" if layer.per_spike is None else layer.per_spike,
                    ]
                    for layer in pair.layers
                ],
            ),
            {
                "barmode": "stack",
                "xaxis": axis("% of places", rangemode="tozero"),
                "yaxis": named_axis(names),
            },
            height_of(names),
        )
    )


def _by_pair(report: Report) -> Html:
    names = list(dict.fromkeys(layer.name for pair in report.comparisons for layer in pair.layers))
    found = [{layer.name: layer for layer in pair.layers} for pair in report.comparisons]
    rows = []
    for name in names:
        row: list[object] = [name]
        for layers in found:
            layer = layers.get(name)
            if layer is None or not layer.slots:
                row.append("-")
            else:
                row.append(percent(layer.mismatches / layer.slots, 3))
        rows.append(row)
    return table(
        "Places that differ, by layer and pair of stages",
        ["layer", *(f"{pair.reference} / {pair.candidate}" for pair in report.comparisons)],
        rows,
    )


def _not_compared(report: Report) -> Html:
    """Return which layers some pairs of stages leave out, and why; empty if there are none."""
    ends = tuple(f" in {pair.reference} / {pair.candidate}" for pair in report.comparisons)
    told = [
        f"{name} ({reason})" for name, reason in report.not_measured.items() if name.endswith(ends)
    ]
    return paragraph(f"Not compared: {'; '.join(told)}.", class_="absent") if told else Html("")


def _by_step(report: Report, pair: Comparison) -> Html:
    layers = [layer for layer in pair.layers if layer.by_step and layer.slots]
    if not layers:
        return absent(report, "differences by step", "by_step")
    longest = max(len(layer.by_step) for layer in layers)
    each = -(-longest * len(layers) // MOST_FIELDS)  # steps taken together
    shares = [
        [
            100 * sum(part) * len(layer.by_step) / (len(part) * layer.slots)
            for part in (layer.by_step[at : at + each] for at in range(0, longest, each))
            if part
        ]
        for layer in layers
    ]
    steps = -(-longest // each)
    starts = list(range(0, longest, each))
    columns = max(4, min(64, MOST_CELLS // len(layers)))
    names = [layer.name for layer in layers]
    traces = [
        {
            "type": "heatmap",
            "x": starts,
            "y": list(range(len(names))),
            "z": shares,
            "colorscale": SCALE,
            "zmin": 0,
            "showscale": steps > 12,
            "colorbar": {"title": {"text": "%"}, "outlinewidth": 1},
            "xgap": 1 if steps <= 64 else 0,
            "ygap": 1,
            "text": [[f"{value:.3g}" for value in row] for row in shares] if steps <= 12 else None,
            "texttemplate": "%{text}" if steps <= 12 else None,
            "textfont": {"color": "@ink"},
            "hoverinfo": "x+z",
        }
    ]
    return draw(
        Plot(
            "by-step",
            "Places that differ at each step",
            f"{pair.reference} against {pair.candidate}: % of (sample, neuron) places, by layer and step"
            + (f"; {each} steps are taken together." if each > 1 else "."),
            traces,
            table(
                "% of places that differ, by step",
                ["layer", *(f"step {step}" for step in starts[:columns])],
                [
                    [name, *(Numeric(f"{value:.3g}") for value in row[:columns])]
                    for name, row in zip(names, shares, strict=True)
                ],
            ),
            {"xaxis": axis("step", dtick=1 if steps <= 16 else None), "yaxis": named_axis(names)},
            height_of(names),
        )
    )


def blame(report: Report) -> Html:
    """Return own against inherited errors."""
    found = report.examination.blame if report.examination else ()
    if not found:
        return unexamined(report, "own and inherited errors", "blame")
    names = [layer.name for layer in found]
    reference, _ = examined_pair(report)
    return draw(
        Plot(
            "blame",
            "Own and inherited errors, the worst own error first",
            f"{examined(report)}. Own: the layer alone, run on the input spikes of {reference}, differs. "
            f"Inherited: differences that vanish when its inputs are those of {reference}. They need not add "
            "up to the total.",
            [
                bars("own", [100 * layer.own.value for layer in found], 0),
                bars("inherited", [100 * layer.inherited.value for layer in found], 1),
            ],
            table(
                f"Errors of layers, {examined(report)}",
                ["layer", "own", "inherited", "total", "places"],
                [
                    [
                        layer.name,
                        Numeric(percent(layer.own.value, 3)),
                        Numeric(percent(layer.inherited.value, 3)),
                        Numeric(percent(layer.total.value, 3)),
                        layer.total.of,
                    ]
                    for layer in found
                ],
            ),
            {
                "barmode": "group",
                "xaxis": axis("% of places", rangemode="tozero"),
                "yaxis": named_axis(names),
            },
            height_of(names, 2),
        )
    )


def readouts(report: Report) -> Html:
    """Return what read-outs themselves do to outputs and decisions."""
    found = report.examination.readouts if report.examination else ()
    if not found:
        return unexamined(report, "errors of read-outs", "readouts", "blame of read-outs")
    reference, _ = examined_pair(report)
    return table(
        f"Read-outs, {examined(report)}. Decided otherwise than by {reference}: as the network runs (total), and "
        f"by the read-out alone, run on the spikes of {reference} (own); errors are means, in the source's units",
        [
            "read-out",
            "decided otherwise, own",
            "decided otherwise, total",
            "output error, own",
            "output error, total",
        ],
        [
            [
                item.name,
                counted(item.own),
                counted(item.total),
                item.own_error,
                item.total_error,
            ]
            for item in found
        ],
    )


def counted(share: Share | None) -> Numeric:
    """Return a count of samples, with the interval of what it would be of all."""
    if share is None:
        return Numeric("not measured")
    if not share.of:
        return Numeric("no classes")
    return Numeric(f"{quantity(share.count)} of {quantity(share.of)} ({interval(share)})")


def rates(report: Report) -> Html:
    """Return firing rates of the reference and the candidate."""
    pair = report.overall
    if not pair.layers:
        return absent(report, "firing rates", "rates")
    names = [layer.name for layer in pair.layers]
    return draw(
        Plot(
            "rates",
            "Firing rates",
            f"Spikes for each neuron and step in {pair.reference} and {pair.candidate}.",
            [
                bars(pair.reference, [layer.rate_reference for layer in pair.layers], 0),
                bars(pair.candidate, [layer.rate_candidate for layer in pair.layers], 1),
            ],
            table(
                "Firing rates by layer and stage, spikes for each neuron and step",
                [
                    "layer",
                    *(stage.name for stage in report.stages),
                    "spikes that a neuron's count differs by",
                ],
                [
                    [
                        layer.name,
                        *(stage.rates.get(layer.name, "-") for stage in report.stages),
                        layer.count_difference,
                    ]
                    for layer in pair.layers
                ],
            ),
            {
                "barmode": "group",
                "xaxis": axis("spikes for each neuron and step", rangemode="tozero"),
                "yaxis": named_axis(names),
            },
            height_of(names, 2),
        )
    )


def accuracy_over_steps(report: Report) -> Html:
    """Return accuracy after each number of steps."""
    stages = [stage for stage in report.stages if stage.accuracy_over_steps]
    if not stages:
        return absent(report, "accuracy over steps", "accuracy", "accuracy_over_steps", "decisions")
    traces = []
    longest = max(len(stage.accuracy_over_steps or ()) for stage in stages)
    apart = 0.05 if longest <= 20 else 0.0  # so that the intervals of stages do not hide each other
    for number, stage in enumerate(stages):
        shares = (stage.accuracy_over_steps or ())[:MOST_STEPS]
        traces.append(
            lines(
                stage.name,
                [
                    step + 1 + apart * (number - (len(stages) - 1) / 2)
                    for step in range(len(shares))
                ],
                [100 * share.value for share in shares],
                number,
                low=[100 * share.interval[0] for share in shares],
                high=[100 * share.interval[1] for share in shares],
            )
        )
    return draw(
        Plot(
            "accuracy",
            "Accuracy over time steps",
            "Share of right decisions after so many steps, with 95 % intervals; stages are drawn a little "
            "beside each other.",
            traces,
            table(
                "Accuracy after each step; 95 % interval",
                ["steps", *(stage.name for stage in stages)],
                [
                    [
                        str(step + 1),
                        *(_share_text(stage.accuracy_over_steps, step) for stage in stages),
                    ]
                    for step in range(min(longest, 256))
                ],
            ),
            {"xaxis": axis("steps", dtick=1 if longest <= 16 else None), "yaxis": axis("% right")},
            360,
        )
    )


def _share_text(shares: object, step: int) -> str:
    if not isinstance(shares, tuple) or step >= len(shares):
        return "-"
    low, high = shares[step].interval
    return f"{percent(shares[step].value)} ({100 * low:.2f} to {100 * high:.2f} %)"


def stages(report: Report) -> Html:
    """Return what each stage did."""
    return table(
        "Stages",
        ["stage", "numbers", "right", "undecided samples", "spikes", "steps to the decision"],
        [
            [
                stage.name,
                "integers" if stage.integers else "real",
                Numeric(percent(stage.accuracy.value)) if stage.accuracy else "not measured",
                "not measured"
                if stage.undecided is None
                else Numeric(
                    f"{quantity(stage.undecided.count)} of {quantity(stage.undecided.of)}"
                ),
                stage.spikes,
                "not measured" if stage.steps_to_decision is None else stage.steps_to_decision,
            ]
            for stage in report.stages
        ],
    )


def outputs(report: Report) -> Html:
    """Return how outputs and decisions differ, for each pair of stages."""
    return table(
        "Outputs, samples and decisions of each pair",
        [
            "stages",
            "outputs that differ",
            "of",
            "largest difference",
            "places that differ, 95 % interval",
            "samples with a difference",
            "same decisions",
        ],
        [
            [
                f"{pair.reference} / {pair.candidate}",
                pair.output_mismatches,
                pair.output_slots,
                pair.output_difference,
                f"{100 * pair.interval[0]:.3f} to {100 * pair.interval[1]:.3f} %"
                if pair.interval
                else "-",
                Numeric(percent(pair.differing_samples.value)) if pair.differing_samples else "-",
                Numeric(percent(pair.same_decisions.value)) if pair.same_decisions else "-",
            ]
            for pair in report.comparisons
        ],
    )


def distances(report: Report) -> Html:
    """Return distances of spike trains and errors of membranes."""
    found = report.examination.distances if report.examination else ()
    if not found:
        return unexamined(report, "distances of spike trains", "distances")
    first = found[0]
    return join(
        (
            table(
                f"{examined(report)}. Distances of spike trains (van Rossum, time constant {quantity(first.tau)} steps; "
                f"Victor-Purpura, {quantity(first.cost)} for a shift by a step) and errors of membranes "
                "before reset, in thresholds",
                ["layer", "van Rossum", "Victor-Purpura", "membrane, mean", "membrane, largest"],
                [
                    [
                        layer.name,
                        layer.van_rossum,
                        layer.victor_purpura,
                        *(
                            "not measured" if value is None else value
                            for value in (layer.membrane_mean, layer.membrane_largest)
                        ),
                    ]
                    for layer in found
                ],
            ),
            paragraph(
                f"Means over neurons and examined samples.{_drawn(found)}", class_="faint small"
            ),
        )
    )


def _drawn(found: Sequence[Distances]) -> str:
    """Return which means are estimates, since not all pairs of spike trains were computed."""
    told = [
        f"{layer.name} (from {quantity(layer.drawn)} drawn of {quantity(layer.pairs)} different pairs of trains)"
        for layer in found
        if layer.drawn is not None and layer.drawn < layer.pairs
    ]
    return f" Estimates are the distances of {', '.join(told)}." if told else ""


def alternatives(report: Report) -> Html:
    """Return other ways to quantise, measured."""
    found = report.examination.alternatives if report.examination else ()
    if not found:
        return unexamined(report, "other ways to quantise (--suggest)", "alternatives")
    names = [item.name for item in found]
    reference, _ = examined_pair(report)
    on = on_samples(report, min(item.samples for item in found))
    return join(
        (
            _clearly(found),
            draw(
                Plot(
                    "alternatives",
                    f"Other ways to quantise, measured {on}",
                    f"Share of places that differ from {reference}, {on}.",
                    [bars("differ", [100 * item.mismatches.value for item in found], 0)],
                    table(
                        f"Alternatives, {on}; intervals are of 95 %, decisions and outputs are held against "
                        f"those of {reference}",
                        [
                            "what",
                            "options of export",
                            "places that differ",
                            "change against the first row, points",
                            "clearly better",
                            "right",
                            "same decisions",
                            "output error",
                            "weights, bytes",
                        ],
                        [
                            [
                                item.name,
                                _options(item.options),
                                Numeric(percent(item.mismatches.value, 3)),
                                _change(item),
                                "yes" if item.better else "no",
                                counted(item.accuracy),
                                counted(item.same_decisions),
                                "not measured" if item.output_error is None else item.output_error,
                                item.weight_bytes,
                            ]
                            for item in found
                        ],
                        aligned=False,
                    ),
                    {
                        "xaxis": axis("% of places that differ", rangemode="tozero"),
                        "yaxis": named_axis(names),
                    },
                    height_of(names),
                )
            ),
        )
    )


def _clearly(found: Sequence[Alternative]) -> Html:
    """Return which alternatives are better beyond chance."""
    better = [item.name for item in found if item.better]
    if not better and all(item.difference is None for item in found):
        return Html("")  # nobody held them against the program's own
    return paragraph(
        f"Clearly better than the program as it is: {'; '.join(better)}."
        if better
        else "None of these is clearly better than the program as it is, beyond what so few samples leave to "
        "chance."
    )


def _options(given: str) -> Html:
    """Return options of a command, each in one piece."""
    first, *others = (given or "-").split(" --")
    parts = (first, *(f"--{part}" for part in others))
    return join(join((element("span", part, class_="whole"), " ")) for part in parts)


def _change(item: Alternative) -> Numeric:
    """Return the interval of the change of the share of differing places, in points."""
    if item.difference is None:
        return Numeric("-")
    low, high = item.difference
    return Numeric(f"{100 * low:+.3f} to {100 * high:+.3f}")
