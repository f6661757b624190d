"""The energy estimate, with the rule it was counted by."""

from __future__ import annotations

from neurocompile.page.absent import absent
from neurocompile.page.markup import (
    Html,
    details,
    element,
    join,
    paragraph,
    quantity,
    table,
)
from neurocompile.page.plots import Plot, axis, bars, draw, height_of, named_axis
from neurocompile.verification.report import Energy, Report


def energy(report: Report) -> Html:
    """Return every estimate of the report."""
    if not report.energy:
        return absent(report, "an energy estimate", "energy")
    warning = paragraph(
        element("strong", "An estimate from counted operations, not a measurement of any chip."),
    )
    shown = energy_of_target(report)
    rules = list(dict.fromkeys(item.rule for item in report.energy))
    totals = table(
        "Energy of one sample, estimated",
        ["stage", "nJ", "the same network dense, nJ", "rule"],
        [
            [
                item.stage,
                item.picojoules / 1000,
                item.dense_picojoules / 1000,
                f"rule {rules.index(item.rule) + 1}",
            ]
            for item in report.energy
        ],
    )
    told = [paragraph(f"Rule {at + 1}: {rule}", class_="small") for at, rule in enumerate(rules)]
    plots = [
        details(
            f"{item.stage}, rule {rules.index(item.rule) + 1}",
            _plot(item, at),
            open_=item is shown,
            class_="block",
        )
        for at, item in enumerate(report.energy[:12])
    ]
    return join((warning, totals, *told, *plots))


def _plot(item: Energy, at: int) -> Html:
    names = [layer.name for layer in item.layers]
    if not names:
        return Html("")
    values = {
        kind: [layer.picojoules / 1000 if layer.kind == kind else 0.0 for layer in item.layers]
        for kind in ("mac", "ac")
    }
    return draw(
        Plot(
            f"energy-{at}",
            f"Estimated energy by layer, {item.stage}",
            "nJ for each sample: multiply-accumulates where values arrive, accumulates where spikes do.",
            [bars("multiply-accumulates", values["mac"], 0), bars("accumulates", values["ac"], 1)],
            table(
                "Operations of one sample, a mean",
                ["layer", "kind", "operations", "nJ"],
                [
                    [layer.name, layer.kind, quantity(layer.operations), layer.picojoules / 1000]
                    for layer in item.layers
                ],
            ),
            {
                "barmode": "stack",
                "xaxis": axis("nJ a sample, estimated", rangemode="tozero"),
                "yaxis": named_axis(names),
            },
            height_of(names),
        )
    )


def energy_of_target(report: Report) -> Energy | None:
    """Return the estimate for what is deployed, else the first; None if there is none."""
    last = report.overall.candidate
    found = [item for item in report.energy if item.stage == last] or [*report.energy]
    return found[0] if found else None


def loads_of(report: Report) -> tuple[dict[str, float], str]:
    """Return the load of each layer: operations where they were counted, else spikes; and the unit."""
    last = report.overall.candidate
    chosen = energy_of_target(report)
    if chosen is not None:
        return (
            {layer.name: layer.operations for layer in chosen.layers},
            f"synaptic operations a sample in {chosen.stage}",
        )
    return (
        {layer.name: layer.spikes_candidate / report.samples for layer in report.overall.layers},
        f"spikes a sample in {last}",
    )
