"""Labels of a degraded recording and its original: known values, alignment, and NaN with a reason."""

import itertools
import math
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from hf_sqa.audio import load_recording
from hf_sqa.metrics import estimate_delay, full_reference_scores, lcc, speech_distortion_index

pytest.importorskip("pesq")
pytest.importorskip("pystoi")
RATE = 16_000


@pytest.fixture
def clean(speech_like):
    return speech_like(3.0)


@pytest.fixture
def noisy(clean, rng):
    return (clean + 0.02 * rng.standard_normal(len(clean))).astype(np.float32)


def test_a_clean_pair_has_the_best_scores(clean):
    result = full_reference_scores(clean, clean, RATE)
    assert result.scores["pesq"] == pytest.approx(4.644, abs=0.001)  # the top of P.862.2
    assert result.scores["stoi"] == pytest.approx(1.0, abs=1e-9)
    assert result.scores["sdi"] == 0.0
    assert (result.reasons, result.delay_seconds, result.compared_seconds) == ({}, 0.0, 3.0)


def test_narrowband_pesq_of_a_clean_pair_is_the_top_of_p_862_1(clean):
    assert full_reference_scores(clean, clean, RATE, labels=["pesq"], pesq_band="nb").scores["pesq"] == pytest.approx(
        4.549, abs=0.001
    )


def test_labels_are_those_of_the_packages(clean, noisy):
    from pesq import pesq
    from pystoi import stoi

    scores = full_reference_scores(noisy, clean, RATE).scores
    assert scores["pesq"] == pytest.approx(pesq(RATE, clean, noisy, "wb"), abs=1e-6)
    assert scores["stoi"] == pytest.approx(stoi(clean, noisy, RATE), abs=1e-9)


def test_speech_distortion_index_by_hand():
    # Power 1 raised to 2, as the reference has: (0, sqrt 2) against (1, 1), (1 + (sqrt 2 - 1)²) / 2 = 2 - sqrt 2.
    assert speech_distortion_index(np.array([0.0, 1.0]), np.array([1.0, 1.0])) == pytest.approx(2 - math.sqrt(2))


def test_speech_distortion_index_knows_no_volume_and_its_ends(clean, rng):
    clean = clean.astype(np.float64)
    assert speech_distortion_index(0.1 * clean, clean) == pytest.approx(0, abs=1e-12)
    assert speech_distortion_index(-clean, clean) == pytest.approx(4)
    assert speech_distortion_index(rng.standard_normal(len(clean)), clean) == pytest.approx(2, abs=0.05)
    noise = rng.standard_normal(len(clean))
    noise *= np.sqrt(np.sum(clean**2) / np.sum(noise**2))
    assert speech_distortion_index(clean + noise, clean) == pytest.approx(2 - math.sqrt(2), abs=0.03)  # an SNR of 0 dB


def test_snr_by_hand():
    # Reference energy 100 * 0.25, noise energy 100 * 0.0025: a ratio of 100, 20 dB.
    reference = np.tile([0.5, -0.5], 50)
    noise = np.tile([0.05, 0.05], 50)
    result = full_reference_scores(reference + noise, reference, RATE, labels=["snr_db"], max_delay_seconds=0)
    assert result.scores["snr_db"] == pytest.approx(20)


@pytest.mark.parametrize("delay", [0, 37, 8000, -1234])
def test_a_delay_is_found_and_removed(delay, clean, noisy):
    later = np.concatenate([np.zeros(delay, np.float32), noisy]) if delay >= 0 else noisy[-delay:]
    result = full_reference_scores(later, clean, RATE)
    assert result.delay_seconds == delay / RATE
    here = slice(max(-delay, 0), None)
    in_time = full_reference_scores(noisy[here], clean[here], RATE)
    assert result.scores == pytest.approx(in_time.scores, abs=1e-6)
    assert result.compared_seconds == pytest.approx(3.0 - max(-delay, 0) / RATE)


def test_an_inverted_recording_is_aligned_too(clean):
    assert estimate_delay(-np.concatenate([np.zeros(500), clean]), clean, RATE) == 500


def test_either_recording_may_be_the_longer(clean, noisy):
    half = len(clean) // 2
    longer_reference = full_reference_scores(noisy[:half], clean, RATE)
    longer_degraded = full_reference_scores(noisy, clean[:half], RATE)
    assert longer_reference.compared_seconds == longer_degraded.compared_seconds == 1.5
    assert longer_reference.scores == longer_degraded.scores == full_reference_scores(noisy[:half], clean[:half], RATE).scores


def test_other_rates_are_resampled(speech_like):
    clean = speech_like(2.0, 48_000)
    scores = full_reference_scores(0.5 * clean, clean, 48_000).scores
    assert scores["pesq"] > 4.6
    assert scores["stoi"] == pytest.approx(1.0, abs=1e-6)


def test_silence_as_reference_is_nan_with_a_reason(clean):
    result = full_reference_scores(clean, np.zeros_like(clean), RATE, labels=["pesq", "stoi", "sdi", "snr_db"])
    assert all(math.isnan(score) for score in result.scores.values())
    assert set(result.reasons.values()) == {"the reference recording is silent"}
    assert math.isnan(result.delay_seconds)


def test_what_cannot_be_measured_is_nan_with_a_reason(clean, noisy):
    broken = noisy.copy()
    broken[100] = np.nan
    cases = {
        "the degraded recording has a NaN or infinite sample at 100": (broken, clean),
        "the degraded recording is silent": (np.zeros_like(clean), clean),
        "the degraded recording is empty": (clean[:0], clean),
    }
    for reason, pair in cases.items():
        assert full_reference_scores(*pair, RATE).reasons == dict.fromkeys(["pesq", "stoi", "sdi"], reason)


def test_too_short_a_recording_loses_pesq_and_stoi_but_not_sdi(clean, noisy):
    result = full_reference_scores(noisy[:3000], clean[:3000], RATE, max_delay_seconds=0.01)
    assert result.reasons["pesq"].startswith("PESQ judges 0.25 s or more, got 0.19 s")
    assert result.reasons["stoi"].startswith("STOI needs 0.4 s of speech")
    assert result.scores["sdi"] > 0


def test_pesq_of_a_long_recording_is_the_mean_of_its_pieces(clean, noisy):
    """51 utterances or more would crash the interpreter; they do not fit in 20 s."""
    pair = np.tile(noisy, 7), np.tile(clean, 7)
    seconds = len(pair[0]) / RATE
    edges = np.linspace(0, len(pair[0]), math.ceil(seconds / 12) + 1).astype(int)
    options = {"labels": ["pesq"], "max_delay_seconds": 0}

    result = full_reference_scores(*pair, RATE, **options)

    pieces = [
        full_reference_scores(*(wave[start:end] for wave in pair), RATE, **options).scores["pesq"]
        for start, end in itertools.pairwise(edges)
    ]
    assert seconds > 20 and len(pieces) > 1
    assert result.scores["pesq"] == pytest.approx(np.mean(pieces))


def test_a_piece_without_speech_does_not_count(clean, noisy):
    speech, silence = [np.resize(wave, 12 * RATE) for wave in (noisy, clean)], np.zeros(12 * RATE)
    options = {"labels": ["pesq"], "max_delay_seconds": 0}

    alone = full_reference_scores(*speech, RATE, **options)
    before_silence = full_reference_scores(*(np.concatenate([wave, silence]) for wave in speech), RATE, **options)

    assert before_silence.scores["pesq"] == pytest.approx(alone.scores["pesq"])


def test_densest_speech_of_twenty_seconds_does_not_crash_pesq(rng):
    bursts = np.tile(np.concatenate([0.2 * rng.standard_normal(3300), np.zeros(3300)]), 49)[: 20 * RATE]
    assert full_reference_scores(0.5 * bursts, bursts, RATE, labels=["pesq"]).scores["pesq"] > 4


def test_silent_noise_has_no_snr(clean):
    result = full_reference_scores(clean, clean, RATE, labels=["snr_db"])
    assert math.isnan(result.scores["snr_db"])
    assert result.reasons["snr_db"].startswith("the noise is silent")


def test_wideband_pesq_of_telephone_speech_is_nan_with_a_reason(speech_like):
    clean = speech_like(2.0, 8000)
    result = full_reference_scores(clean, clean, 8000, labels=["pesq"])
    assert result.reasons["pesq"] == "wideband PESQ needs 16000 Hz or more, got 8000 Hz; ask for pesq_band='nb'"
    assert full_reference_scores(clean, clean, 8000, labels=["pesq"], pesq_band="nb").scores["pesq"] == pytest.approx(
        4.549, abs=0.001
    )


@pytest.mark.parametrize(("package", "label"), [("pesq", "pesq"), ("pystoi", "stoi")])
def test_a_missing_package_is_named(package, label, clean, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'hf-sqa\[labels\]'`; or leave '{label}' out"):
        full_reference_scores(clean, clean, RATE, labels=[label])
    assert full_reference_scores(clean, clean, RATE, labels=["sdi"]).scores == {"sdi": 0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degraded": np.zeros((2, 100))}, r"`degraded` of shape \(num_samples,\) in floating point"),
        ({"reference": np.zeros(100, np.int16)}, "got .* of int16"),
        ({"labels": ["visqol"]}, "got 'visqol'"),
        ({"pesq_band": "fb"}, "one of wb, nb, got 'fb'"),
        ({"sampling_rate": 0}, "in Hz, got 0"),
        ({"max_delay_seconds": -1}, "0 or more, got -1"),
    ],
)
def test_wrong_options_are_refused_with_what_to_do(options, message):
    given = {"degraded": np.zeros(100), "reference": np.zeros(100), "sampling_rate": RATE} | options
    with pytest.raises(ValueError, match=message):
        full_reference_scores(**given)


def test_a_pool_of_processes_can_measure(clean, noisy):
    pickle.loads(pickle.dumps(full_reference_scores))
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        there = pool.submit(full_reference_scores, noisy, clean, RATE).result()
    assert there == full_reference_scores(noisy, clean, RATE)


@pytest.mark.slow
def test_wideband_pesq_agrees_with_listeners_by_condition(shared):
    """The wideband study of p808, each clip against the clean one of its talker, averaged over the talkers of a condition."""
    import csv

    folder = shared / "data" / "p808"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["study"] == "wideband"]
    clean = {row["talker"]: load_recording(folder / row["filepath"]).waveform for row in rows if row["condition_id"] == "c0"}
    scores, labels, delays = {}, {}, set()
    for row in rows:
        degraded = load_recording(folder / row["filepath"]).waveform
        result = full_reference_scores(degraded, clean[row["talker"]], RATE, labels=["pesq"])
        delays.add(round(result.delay_seconds * RATE) if row["condition_id"] != "c0" else 0)
        scores.setdefault(row["condition_id"], []).append(result.scores["pesq"])
        labels.setdefault(row["condition_id"], []).append(float(row["mos"]))
    assert len(scores) == 13
    assert delays == {0, 275}  # all conditions but the clean one went through one filter
    assert lcc([np.mean(scores[c]) for c in scores], [np.mean(labels[c]) for c in scores]) >= 0.95
