"""
Networks that other frameworks exported and ran, read by our importer and fired spike for spike.

The numbers of most recordings are exact in float32 and reach thresholds exactly, so that no spike is a
matter of rounding. Where a leak is an exponential, no membrane comes nearer than 1e-4 to its threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import replay
from replay import CASES, RECORDINGS, Case

SAFE_MARGIN = 1e-4
MEMBRANE_ERROR = 2e-5  # of float32 against float64

EXACT = [case for case in CASES if not case.unsaid]
UNSAID = [case for case in CASES if case.unsaid]


def named(case: Case) -> str:
    return case.id


def test_every_recording_has_a_case() -> None:
    files = {f"{path.parent.name}/{path.stem}" for path in RECORDINGS.glob("*/*.npz")}
    assert files == {f"{case.framework}/{case.file}" for case in CASES}


@pytest.mark.parametrize("case", EXACT, ids=named)
def test_every_spike_is_the_framework_s(case: Case) -> None:
    outcome = replay.replay(case)

    assert not outcome.refusal, outcome.refusal
    assert outcome.mismatches == 0, f"{outcome.mismatches} of {outcome.places}: {outcome.first}"
    assert outcome.places >= 1000
    assert outcome.membrane_error < MEMBRANE_ERROR


@pytest.mark.parametrize("case", UNSAID, ids=named)
def test_what_a_file_does_not_say_is_not_known(case: Case) -> None:
    """These are the frameworks' omissions; where one is mended, the page of conformance changes."""
    outcome = replay.replay(case)

    assert outcome.refusal or outcome.mismatches


@pytest.mark.parametrize("case", CASES, ids=named)
def test_recordings_are_lively_and_decided(case: Case) -> None:
    """Layers fire and rest; and the smallest margin is a margin, unless it is an exact tie."""
    recorded = replay.load(case.framework, case.file)
    layers = [values for name, values in recorded.items() if name.startswith("spikes/")]

    assert all(0 < (values > 0).mean() < 1 for values in layers)
    assert recorded["ties"] > 0 or recorded["margin"] > SAFE_MARGIN


# What the numbers of a recording can tell apart: another reading must differ.
OTHERS = [
    ("snntorch", "leaky_zero_next", {"fires": "at"}),
    ("snntorch", "leaky_zero_next", {"reset": "subtract"}),
    ("snntorch", "leaky_subtract_next", {"reset_at": "spike"}),
    ("snntorch", "leaky_subtract_next", {"reset": "zero"}),
    ("snntorch", "synaptic_zero_next", {"reset_at": "spike"}),
    ("snntorch", "rleaky_zero_next", {"reset_at": "spike"}),
    ("spikingjelly", "lif", {"fires": "above"}),
    ("spikingjelly", "if", {"fires": "above"}),
    ("spikingjelly", "cuba_lif", {"synapse": "next"}),
    ("norse", "lifbox", {"fires": "at"}),
    ("norse", "iaf", {"fires": "at"}),
    ("sinabs", "iaf", {"max_spikes": 1}),
    ("sinabs", "iaf", {"fires": "above"}),
    ("sinabs", "iaf_clipped", {"min_membrane": "none"}),
    ("sinabs", "lif", {"input_gain": "1"}),
    ("rockpool", "lif_neuron", {"max_spikes": 1}),
    ("rockpool", "lif_neuron", {"reset": "zero"}),
    ("spyx", "lif", {"profile": "literal", "reset": "subtract"}),
    ("spyx", "if", {"fires": "at"}),
]


@pytest.mark.parametrize(("framework", "file", "changes"), OTHERS)
def test_a_wrong_reading_is_noticed(framework: str, file: str, changes: dict[str, Any]) -> None:
    (case,) = (case for case in EXACT if (case.framework, case.file) == (framework, file))

    outcome = replay.replay(case, **changes)

    assert not outcome.refusal, outcome.refusal
    assert outcome.mismatches > 0


@pytest.mark.parametrize("case", EXACT[:1], ids=named)
def test_one_changed_spike_is_found(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = dict(replay.load(case.framework, case.file))
    spikes = recorded["spikes/lif1"].copy()
    spikes[1, 20, 3] ^= 1
    recorded["spikes/lif1"] = spikes
    monkeypatch.setitem(vars(replay), "load", lambda *_names: recorded)

    outcome = replay.replay(case)

    assert outcome.mismatches == 1
    assert outcome.first == "layer 'lif1', sample 1, step 20, neuron [3]"


# Where the file leaves open what a framework can do, and the profile takes what it does by default.
NOT_BY_DEFAULT = {("rockpool", "lif_neuron_single")}


@pytest.mark.parametrize("case", EXACT, ids=named)
def test_a_profile_alone_reads_a_file_rightly_or_refuses_it(case: Case) -> None:
    options = {name: None for name in case.options if name != "profile"}

    outcome = replay.replay(case, **options)

    right = outcome.refusal or outcome.exact
    assert right or (case.framework, case.file) in NOT_BY_DEFAULT, outcome.first


@pytest.mark.parametrize("case", EXACT, ids=named)
def test_no_file_is_read_without_knowing_its_framework(case: Case) -> None:
    options = dict.fromkeys(case.options)

    outcome = replay.replay(case, **{**options, "profile": "auto"})

    assert "choose with --profile" in outcome.refusal


def test_recordings_are_small() -> None:
    sizes = [path.stat().st_size for path in RECORDINGS.glob("*/*.npz")]
    assert sum(sizes) < 600_000
    assert np.max(sizes) < 50_000
