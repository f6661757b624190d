"""The benchmark of loading: that it runs, on both kinds of data, and what it says."""

from __future__ import annotations

from pathlib import Path

import loading
from loading import QUICK, Sizes, cases, measure


def test_it_tells_how_much_of_a_step_loading_takes(tmp_path: Path) -> None:
    sizes = Sizes(rounds=1, samples=5, batch=QUICK.batch, width=QUICK.width)

    section = measure(cases(tmp_path, sizes), sizes)

    assert [claim.most for claim in section.claims] == [loading.MOST_SHARE, None] * 2
    assert all(claim.measured is not None and claim.measured > 0 for claim in section.claims)
    assert len(section.table) == 4


def test_frames_come_from_a_file_and_are_those_of_the_presets(tmp_path: Path) -> None:
    frames, images = cases(tmp_path, QUICK)

    assert [tuple(inputs.shape) for inputs, _ in frames.loader()] == [(2, 10, 2, 48, 48)] * 16
    assert next(iter(images.loader()))[0].shape == (2, 1, 3, 32, 32)
    assert frames.settings.input.augment == ("flip", "roll")
    assert (tmp_path / "frames.npy").is_file()
