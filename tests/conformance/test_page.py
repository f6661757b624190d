"""The page of conformance says what is so, and says it of everything."""

from __future__ import annotations

from collections.abc import Callable

import matrix
import numpy as np
import pytest
from primitives import PRIMITIVES, Primitive, compiled, inputs, unlisted

from neurocompile.program import Program


def test_the_page_is_up_to_date() -> None:
    assert matrix.PAGE.read_text() == matrix.page(), "run `make conformance-docs`"


def test_every_primitive_of_nir_has_a_row() -> None:
    assert not list(unlisted())


ON_LAVA = [  # every way of firing, and of time: a program takes seconds there
    primitive
    for primitive in PRIMITIVES
    if primitive.firing
    or (primitive.kind, primitive.setting)
    in {("Delay", "a step for each element"), ("NIRGraph", "recurrent")}
]


@pytest.mark.lava
@pytest.mark.parametrize("primitive", ON_LAVA, ids=lambda primitive: primitive.id)
def test_lava_fires_what_the_page_counts(
    primitive: Primitive, opened: Callable[[Program], Program]
) -> None:
    """The figures are those of the integer engine: Lava's simulator fires the same."""
    program = opened(compiled(primitive, "real", "loihi2"))
    values = inputs(primitive)[:2, :20]

    ours, definition = program.run(values, ["all"]), program.run(values, ["all"], on="fixedpoint")

    np.testing.assert_array_equal(ours.output, definition.output)
    for layer, spikes in definition.spikes.items():
        np.testing.assert_array_equal(ours.spikes[layer], spikes, err_msg=layer)
