"""The build in program/ fires what is recorded in golden/; pytest starts paths at the project."""

from neurocompile.testing import assert_matches_golden


def test_spikes() -> None:
    assert_matches_golden("program", "golden")
