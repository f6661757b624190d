"""What differs in which layer and step: plots and tables of all layers."""

from __future__ import annotations

from neurocompile.page.absent import absent, unexamined
from neurocompile.page.markup import Html, Numeric, join, paragraph, percent, quantity, table
from neurocompile.page.plots import Plot, axis, bars, draw, height_of, lines, named_axis
from neurocompile.verification.report import Comparison, Report

SCALE = [[0, "@low"], [1, "@high"]]
MOST_STEPS = 2000  # of a plot over time
MOST_FIELDS = 20_000  # of a plot by layer and step
MOST_CELLS = 3000  # of its table


def mismatches(report: Report) -> Html:
    """Return how many places differ, by layer and stages, and by step."""
    pair = report.overall
    if not pair.layers:
        return absent(report, "no layer's spikes were compared", "layers", "comparisons")
    return join((_by_layer(pair), _by_pair(report), _by_step(report, pair)))


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
    return draw(
        Plot(
            "blame",
            "Own and inherited errors, the worst own error first",
            "Own: the layer alone, run on the reference's input spikes, differs. Inherited: differences "
            "that vanish when its inputs are the reference's. They need not add up to the total.",
            [
                bars("own", [100 * layer.own.value for layer in found], 0),
                bars("inherited", [100 * layer.inherited.value for layer in found], 1),
            ],
            table(
                "Errors of layers over the examined samples",
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
        return absent(
            report,
            "accuracy over steps, for the data have no labels",
            "accuracy",
            "accuracy_over_steps",
        )
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
        ["stage", "numbers", "right", "spikes", "steps to the decision"],
        [
            [
                stage.name,
                "integers" if stage.integers else "real",
                Numeric(percent(stage.accuracy.value)) if stage.accuracy else "not measured",
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
                f"Distances of spike trains (van Rossum, time constant {quantity(first.tau)} steps; "
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
            paragraph("Means over neurons and examined samples.", class_="faint small"),
        )
    )


def alternatives(report: Report) -> Html:
    """Return other ways to quantise, measured."""
    found = report.examination.alternatives if report.examination else ()
    if not found:
        return unexamined(report, "other ways to quantise (--suggest)", "alternatives")
    names = [item.name for item in found]
    return draw(
        Plot(
            "alternatives",
            "Other ways to quantise, measured on the examined samples",
            "Share of places that differ from the float network.",
            [bars("differ", [100 * item.mismatches.value for item in found], 0)],
            table(
                "Alternatives",
                ["what", "options of export", "differ", "right", "weights, bytes"],
                [
                    [
                        item.name,
                        item.options,
                        Numeric(percent(item.mismatches.value, 3)),
                        Numeric(percent(item.accuracy.value)) if item.accuracy else "not measured",
                        item.weight_bytes,
                    ]
                    for item in found
                ],
            ),
            {
                "xaxis": axis("% of places that differ", rangemode="tozero"),
                "yaxis": named_axis(names),
            },
            height_of(names),
        )
    )
