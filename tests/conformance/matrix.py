"""
Write docs/conformance.md from what recordings and compiled networks do: `make conformance-docs`.

No cell of it is written by hand. A test holds the page to what this file would write now.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from primitives import PRIMITIVES, TARGETS, Figure, Primitive, Weights, measure
from replay import CASES, Case, Outcome, load, replay

PAGE = Path(__file__).parents[2] / "docs/conformance.md"

FRAMEWORKS = {
    "snntorch": "snnTorch 1.0.0",
    "norse": "Norse 1.1.0",
    "spikingjelly": "SpikingJelly 2.0.0",
    "sinabs": "sinabs 3.1.3",
    "rockpool": "Rockpool 3.1.0",
    "spyx": "Spyx 1.0.0",
}

HEAD = """# Conformance

Written by `make conformance-docs`; `make test` fails where it is out of date. `docs/frameworks.md` says
what each framework runs and exports, and why a row reads as it does.

## Frameworks

Each row is a network that the framework exported to NIR and ran itself. neurocompile read the file with
the options of the row and fired what its reference simulator fires, from the same inputs. **exact**: no
spike of any layer differs, of the number of places (sample, step, neuron) given. **refused**: no network
came of it, for the reason given. **not in the file**: the exporter leaves out what was run and no option can
say it, so that this share of the spikes differs. *ties* counts membranes that were exactly at a multiple of
their threshold, where `>` and `>=` part.
"""

MIDDLE = """
## Primitives of NIR

Each row is a network of that primitive with a layer of LIF neurons around it, compiled for the target and
run on the integer engine, which Lava's simulator repeats spike for spike. *integers* have weights,
thresholds and leaks that the chip holds as they are; *real numbers* have weights from a normal
distribution, which 8 bits round. Figures are the share of spikes that differ from the float reference, for
read-outs the mean error in parts of the largest output.

Input and Output are what a network is fed and read through, and have no row.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for framework, title in FRAMEWORKS.items():
        cases = [case for case in CASES if case.framework == framework]
        rows = [_row(case, replay(case)) for case in (*_unsaid(cases[0]), *cases)]
        head: Sequence[str] = ("neuron", "how it ran", "options", "result", "ties")
        parts += [f"\n### {title}\n\n", _table(head, rows)]
    head = ("primitive", "setting", *(f"{target}: {kind}" for target in TARGETS for kind in KINDS))
    parts += [MIDDLE, "\n", _table(head, [_of_primitive(primitive) for primitive in PRIMITIVES])]
    return "".join(parts)


WEIGHTS: tuple[Weights, ...] = ("whole", "real")
KINDS = ("integers", "real numbers")


def _unsaid(case: Case) -> Iterable[Case]:
    """Yield a case with fewer options, where that is refused."""
    choices: tuple[Mapping[str, Any], ...] = ({}, {"profile": case.framework})
    for options in choices:
        fewer = replace(case, options=options)
        if replay(fewer).refusal:
            yield fewer


def _row(case: Case, outcome: Outcome) -> Sequence[str]:
    ties = str(int(load(case.framework, case.file)["ties"]))
    flags = f"`{case.flags}`" if case.options else "none"
    return case.neuron, case.setting, flags, _result(case, outcome), ties


def _result(case: Case, outcome: Outcome) -> str:
    if outcome.refusal:
        return f"refused: {outcome.refusal}"
    if outcome.exact:
        return f"exact ({outcome.places})"
    share = percent(outcome.mismatches / outcome.places)
    return (
        f"not in the file: {case.unsaid}; {share} differ" if case.unsaid else f"**{share} differ**"
    )


def _of_primitive(primitive: Primitive) -> Sequence[str]:
    figures = [
        _figure(measure(primitive, weights, target), rounded=weights == "real")
        for target in TARGETS
        for weights in WEIGHTS
    ]
    return primitive.kind, primitive.setting, *figures


def _figure(figure: Figure, *, rounded: bool) -> str:
    if figure.refusal:
        return f"refused: {figure.refusal}"
    if figure.exact and not rounded:
        return "exact"
    # Rounded weights that happened to change nothing are no promise.
    differs = percent(figure.differs) if figure.differs else f"below {percent(1 / figure.places)}"
    parts = [differs] if rounded or figure.differs else []
    if figure.output_error:
        parts.append(f"output {percent(figure.output_error)}")
    return "lossy: " + ", ".join(parts)


def percent(share: float) -> str:
    """Return a share with two digits, so that the last bit of a sum shows nowhere."""
    return f"{100 * share:.2g} %"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def main() -> None:
    """Write the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    text = page()
    if parser.parse_args().check:
        raise SystemExit(PAGE.read_text() != text)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
