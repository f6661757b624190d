"""The plots of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neurocompile.page.absent import on_samples
from neurocompile.page.entries import Entry
from neurocompile.page.markup import (
    Html,
    element,
    join,
    paragraph,
    percent,
    table,
)
from neurocompile.page.measures import UNKNOWN, energy_of, first_accuracy, right
from neurocompile.page.plots import Plot, Trace, axis, bars, draw, height_of, lines, named_axis
from neurocompile.page.summary import interval
from neurocompile.statistics import Share

MOST_STEPS = 1000  # of a plot over time
TRAINED = "by training"


def _absent(what: str) -> Html:
    return paragraph(f"Not measured: {what}.", class_="absent")


def accuracy(entries: Sequence[Entry]) -> Html:
    """Return accuracies with their intervals."""
    known = [entry for entry in entries if entry.accuracy is not None]
    if not known:
        return _absent("accuracy, in none of these")
    rows: list[list[object]] = []
    traces: list[Trace] = []
    names = [entry.label for entry in known]
    for number, (title, shares) in enumerate(
        (
            ("deployed", [entry.accuracy if entry.report else None for entry in known]),
            ("first stage", [first_accuracy(entry) for entry in known]),
            (TRAINED, [None if entry.report else entry.accuracy for entry in known]),
        )
    ):
        if any(share is not None for share in shares):
            traces.append(_dots(title, shares, number))
    for entry in known:
        first = first_accuracy(entry)
        rows.append(
            [
                entry.label,
                right(entry),
                UNKNOWN if first is None else f"{percent(first.value)} ({interval(first)})",
            ]
        )
    return draw(
        Plot(
            "accuracy",
            "Accuracy",
            "Share of right decisions with its 95 % interval, of what is deployed and of the first stage, on what "
            "was verified; that of a training run is of its own test samples.",
            traces,
            table("Accuracy, 95 % interval", ["", "deployed, or by training", "first stage"], rows),
            {"xaxis": axis("% right"), "yaxis": named_axis(names, showgrid=True)},
            height_of(names, 2),
        )
    )


def _dots(title: str, shares: Sequence[Share | None], number: int) -> Trace:
    known = [(at, share) for at, share in enumerate(shares) if share is not None]
    apart = (-0.16, 0.16, 0.0)[number]
    trace = lines(
        title,
        [100 * share.value for _, share in known],
        [at + apart for at, _ in known],
        number,
    )
    trace["mode"] = "markers"
    trace["error_x"] = {
        "type": "data",
        "symmetric": False,
        "array": [100 * (share.interval[1] - share.value) for _, share in known],
        "arrayminus": [100 * (share.value - share.interval[0]) for _, share in known],
        "color": f"@s{number}",
        "thickness": 1.5,
    }
    trace["hoverinfo"] = "x+name"
    return trace


def over_steps(entries: Sequence[Entry]) -> Html:
    """Return accuracies over time steps."""
    columns: list[tuple[str, tuple[Share, ...]]] = []
    for entry in entries:  # a training run knows single steps, not what they add up to
        report = entry.report
        stages = report.stages if report else ()
        last = report.overall.candidate if report else ""
        for stage in stages:
            if stage.name == last and stage.accuracy_over_steps:
                columns.append((entry.label, stage.accuracy_over_steps[:MOST_STEPS]))
    longest = max((len(shares) for _, shares in columns), default=0)
    apart = 0.04 if longest <= 20 else 0.0
    traces = [
        lines(
            label,
            [step + 1 + apart * (number - (len(columns) - 1) / 2) for step in range(len(shares))],
            [100 * share.value for share in shares],
            number,
            low=[100 * share.interval[0] for share in shares],
            high=[100 * share.interval[1] for share in shares],
        )
        for number, (label, shares) in enumerate(columns)
    ]
    if not traces:
        return _absent("accuracy over steps, in none of these")
    return draw(
        Plot(
            "over-steps",
            "Accuracy over time steps",
            "Share of right decisions after so many steps, of what is deployed, with 95 % intervals; "
            "drawn a little beside each other.",
            traces,
            table(
                "% right after each step",
                ["steps", *(name for name, _ in columns)],
                [
                    [
                        str(step + 1),
                        *(
                            percent(shares[step].value) if step < len(shares) else "-"
                            for _, shares in columns
                        ),
                    ]
                    for step in range(min(longest, 256))
                ],
            ),
            {"xaxis": axis("steps", dtick=1 if longest <= 16 else None), "yaxis": axis("% right")},
            360,
        )
    )


def _by_layer(
    key: str,
    title: str,
    says: str,
    unit: str,
    values: Sequence[tuple[str, Mapping[str, float]]],
) -> Html:
    names = list(dict.fromkeys(name for _, layers in values for name in layers))
    return draw(
        Plot(
            key,
            title,
            says,
            [
                bars(label, [layers.get(name) for name in names], number)
                for number, (label, layers) in enumerate(values)
            ],
            table(
                f"{title}, {unit}",
                ["layer", *(label for label, _ in values)],
                [[name, *(layers.get(name, UNKNOWN) for _, layers in values)] for name in names],
            ),
            {
                "barmode": "group",
                "xaxis": axis(unit, rangemode="tozero"),
                "yaxis": named_axis(names),
            },
            height_of(names, max(2, len(values))),
        )
    )


def mismatches(entries: Sequence[Entry]) -> Html:
    """Return differences by layer."""
    values = [
        (
            entry.label,
            {
                layer.name: 100 * layer.mismatches / layer.slots
                for layer in entry.report.overall.layers
                if layer.slots
            },
        )
        for entry in entries
        if entry.report is not None and entry.report.overall.layers
    ]
    if not values:
        return _absent("places that differ, in none of these")
    return _by_layer(
        "mismatches",
        "Places that differ, by layer",
        "First stage against the target.",
        "% of places",
        values,
    )


def own(entries: Sequence[Entry]) -> Html:
    """Return own errors by layer."""
    values = [
        (
            entry.label,
            {layer.name: 100 * layer.own.value for layer in entry.report.examination.blame},
            on_samples(entry.report),
        )
        for entry in entries
        if entry.report is not None and entry.report.examination and entry.report.examination.blame
    ]
    if not values:
        return _absent("own errors of layers, in none of these")
    return _by_layer(
        "own",
        "Own errors, by layer",
        "The layer alone, run on the reference's input spikes: "
        + "; ".join(f"{label} {on}" for label, _, on in values)
        + ".",
        "% of places",
        [(label, layers) for label, layers, _ in values],
    )


def resources(entries: Sequence[Entry]) -> Html:
    """Return resources by layer."""
    known = [entry for entry in entries if entry.costs is not None]
    if not known:
        return _absent("resources, in none of these")
    parts = []
    for key, title in (("neurons", "Neurons"), ("synapses", "Synapses"), ("cores", "Cores")):
        values = [
            (
                entry.label,
                {
                    layer.name: float(layer.figures[key].value)
                    for layer in entry.costs.layers
                    if key in layer.figures
                },
            )
            for entry in known
            if entry.costs is not None
        ]
        values = [(label, layers) for label, layers in values if layers]
        if not values:
            parts.append(paragraph(f"{title}: none of these targets has any.", class_="absent"))
            continue
        statuses = sorted(
            {
                layer.figures[key].status
                for entry in known
                for layer in (entry.costs.layers if entry.costs else ())
                if key in layer.figures
            }
        )
        parts.append(
            _by_layer(
                f"resources-{key}",
                f"{title}, by layer",
                f"Known as: {', '.join(statuses)}.",
                key,
                values,
            )
        )
    return join(parts)


def energy(entries: Sequence[Entry]) -> Html:
    """Return energy estimates by layer."""
    known = [(entry, found) for entry in entries if (found := energy_of(entry)) is not None]
    if not known:
        return _absent("energy estimates, in none of these")
    rules = list(dict.fromkeys(found.rule for _, found in known))
    return join(
        (
            paragraph(
                element("strong", "Estimates from counted operations, no measurement of any chip.")
            ),
            *(paragraph(rule, class_="small") for rule in rules),
            paragraph("The rules differ: such numbers cannot be compared.", class_="bad")
            if len(rules) > 1
            else "",
            _by_layer(
                "energy",
                "Estimated energy, by layer",
                "Of one sample.",
                "nJ",
                [
                    (
                        entry.label,
                        {layer.name: layer.picojoules / 1000 for layer in found.layers},
                    )
                    for entry, found in known
                ],
            ),
        )
    )


def training(entries: Sequence[Entry]) -> Html:
    """Return test accuracies over epochs."""
    known = [
        (entry.label, entry.training.accuracy_per_epoch)
        for entry in entries
        if entry.training is not None and entry.training.accuracy_per_epoch
    ]
    if not known:
        return _absent("training curves; none of these is a training run")
    longest = max(len(values) for _, values in known)
    return draw(
        Plot(
            "training",
            "Test accuracy over epochs",
            "Of the training runs among these.",
            [
                lines(
                    label,
                    list(range(1, len(values) + 1)),
                    [100 * value for value in values],
                    number,
                )
                for number, (label, values) in enumerate(known)
            ],
            table(
                "% right after each epoch",
                ["epoch", *(label for label, _ in known)],
                [
                    [
                        str(epoch + 1),
                        *(
                            percent(values[epoch]) if epoch < len(values) else "-"
                            for _, values in known
                        ),
                    ]
                    for epoch in range(min(longest, 1000))
                ],
            ),
            {"xaxis": axis("epoch", dtick=1 if longest <= 16 else None), "yaxis": axis("% right")},
            340,
        )
    )
