"""Local quality: where a recording sounds bad, from a file and live."""

import numpy as np
import pytest
import soundfile
import torch

import hf_sqa
from hf_sqa.blocks.faults import Fault
from hf_sqa.blocks.timeline import faults_of, named_faults, worst_of
from hf_sqa.models.distilled_sqa.local_distilled_sqa import FrameScorer, LocalHead, load_head

RATE = 16_000


def timeline(*values, start=0.0):
    """Rows of half a second; `None` is silence."""
    rows = [{"start": start + 0.5 * at, "end": start + 0.5 * (at + 1), "mos": value} for at, value in enumerate(values)]
    return [row for row in rows if row["mos"] is not None]


def voiced(seconds, rng):
    """Sound whose level moves as that of speech does."""
    time = np.arange(round(seconds * RATE)) / RATE
    envelope = np.abs(np.sin(2 * np.pi * 1.7 * time)) ** 2
    return (0.2 * envelope * (np.sin(2 * np.pi * 180 * time) + 0.3 * rng.normal(size=len(time)))).astype(np.float32)


@pytest.fixture(scope="module")
def student():
    return hf_sqa.pipeline("distilled-sqa-m", device="cpu")


class TestFaults:
    def test_a_fault_reaches_to_where_the_curve_has_risen_by_half(self):
        (fault,) = faults_of(timeline(4, 4, 4, 2, 2, 4, 4, 4, 4), "mos")

        # From 4 at 1.25 s to 2 at 1.75 s: 45 % of the depth is reached at 1.475 s.
        assert fault == {"start": pytest.approx(1.475, abs=0.01), "end": pytest.approx(2.525, abs=0.01), "mos": 2}

    def test_what_is_alike_throughout_has_no_fault_and_yet_a_worst_stretch(self):
        rows = timeline(3.1, 3.0, 3.2, 2.9, 3.1, 3.0)

        assert faults_of(rows, "mos") == []
        assert worst_of(rows, "mos")["mos"] == 2.9

    def test_two_faults_are_two(self):
        assert [fault["mos"] for fault in faults_of(timeline(4, 4, 2, 4, 4, 4, 1, 4, 4), "mos")] == [2, 1]

    def test_a_silence_between_two_low_points_belongs_to_the_fault(self):
        (fault,) = faults_of(timeline(4, 4, 4, 2, None, None, None, 2, 4, 4, 4, 4), "mos")

        assert fault["start"] < 1.75 and fault["end"] > 3.75

    def test_better_than_the_rest_is_no_fault(self):
        assert faults_of(timeline(3, 3, 3, 5, 5, 3, 3), "mos") == []

    def test_nothing_spoken_has_nothing_worst(self):
        assert worst_of([], "mos") is None and faults_of([], "mos") == []


class TestNamedFaults:
    def test_a_named_fault_has_the_lowest_score_of_its_stretch(self):
        rows = timeline(4, 4, 4, 3.4, 3.2, 4, 2.9, 4)

        assert named_faults(rows, [Fault(1.5, 2.4, "noise")], "mos") == [{"start": 1.5, "end": 2.4, "mos": 3.2, "kind": "noise"}]

    def test_a_gap_where_nobody_speaks_has_the_score_beside_it(self):
        (fault,) = named_faults(timeline(4, 4, 3.1, None, None, None, 3.3, 4), [Fault(1.6, 2.9, "gap")], "mos")

        assert fault["mos"] == 3.1

    def test_what_only_the_curve_tells_is_another_fault_and_not_told_twice(self):
        rows = timeline(4, 4, 4, 1.5, 1.5, 4, 4, 4, 4, 1.6, 4, 4)

        faults = named_faults(rows, [Fault(4.4, 5.2, "clipping")], "mos")

        assert [(fault["kind"], fault["mos"]) for fault in faults] == [("other", 1.5), ("clipping", 1.6)]

    def test_where_nobody_speaks_at_all_there_is_none(self):
        assert named_faults([], [Fault(0.0, 1.0, "noise")], "mos") == []


class TestTimeline:
    def test_noise_for_two_seconds_is_where_the_student_is_worst(self, student, shared, rng):
        clip, rate = soundfile.read(shared / "data" / "p808" / "wideband" / "c0_f1.flac", dtype="float32")
        speech = np.tile(clip, 3)
        speech[5 * rate : 7 * rate] += rng.normal(0, speech.std(), 2 * rate).astype(np.float32)

        result = student(speech, sampling_rate=rate, return_timeline=True)

        (fault,) = result["faults"]
        assert fault["kind"] == "noise" and min(fault["end"], 7) - max(fault["start"], 5) > 1.7
        assert 4 < result["worst"]["start"] < 6 and 6 < result["worst"]["end"] < 8

    def test_the_score_is_the_same_with_and_without(self, student, rng):
        sound = voiced(9, rng)

        assert student(sound, sampling_rate=RATE, return_timeline=True)["mos"] == student(sound, sampling_rate=RATE)["mos"]

    def test_points_are_at_most_half_a_second_apart_and_silence_is_left_out(self, student, rng):
        sound = voiced(12, rng)
        sound[5 * RATE : 9 * RATE] = 0

        rows = student(sound, sampling_rate=RATE, return_timeline=True)["timeline"]

        assert all(row["end"] - row["start"] <= 0.5 for row in rows)
        assert not any(6.5 <= row["start"] < 7.5 for row in rows) and any(row["start"] > 9 for row in rows)

    def test_a_model_without_a_head_scores_pieces(self, tiny_scorer, rng):
        result = tiny_scorer(voiced(3, rng), sampling_rate=RATE, return_timeline=True)

        assert [row["start"] for row in result["timeline"]] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
        assert set(result["worst"]) == {"start", "end", "mos"}

    def test_a_recording_without_a_score_has_an_empty_timeline(self, tiny_scorer):
        row = tiny_scorer(np.zeros(RATE, np.float32), sampling_rate=RATE, on_error="row", return_timeline=True)

        assert (row["timeline"], row["worst"], row["faults"]) == ([], None, [])

    def test_a_checkpoint_that_was_trained_further_has_no_head(self, student):
        config = type(student.model.config)(**{**student.model.config.to_dict(), "checkpoint_name": None})

        assert load_head(student.model.config) is not None and load_head(config) is None


class TestMeter:
    @pytest.mark.parametrize("rate", [RATE, 8000, 48_000])
    def test_portions_of_any_size_give_the_timeline_of_the_file(self, student, rng, rate):
        sound = voiced(11.3 * rate / RATE, rng)
        offline = student(sound, sampling_rate=rate, return_timeline=True)["timeline"]
        meter, rows, position = hf_sqa.QualityMeter(student, sampling_rate=rate), [], 0

        while position < len(sound):
            size = int(rng.integers(1, 9000))
            rows += meter.feed(sound[position : position + size])
            position += size
        rows += meter.close()

        spoken = [row for row in rows if row["mos"] is not None]
        assert [(row["start"], row["end"]) for row in spoken] == [(row["start"], row["end"]) for row in offline]
        np.testing.assert_allclose([row["mos"] for row in spoken], [row["mos"] for row in offline], atol=1e-4)
        assert meter.running["mos"] == pytest.approx(np.mean([row["mos"] for row in offline]), abs=1e-4)

    @pytest.mark.parametrize("rate", [RATE, 8000])
    def test_a_meter_that_is_closed_takes_no_more_and_has_nothing_left(self, tiny_scorer, rng, rate):
        meter = hf_sqa.QualityMeter(tiny_scorer, sampling_rate=rate)
        rows = [*meter.feed(voiced(2, rng)), *meter.close()]

        assert rows and meter.close() == []
        with pytest.raises(ValueError, match="after `close"):
            meter.feed(np.zeros(100, np.float32))

    @pytest.mark.parametrize(
        ("samples", "words"),
        [
            (np.zeros((2, 16_000), np.int16), r"up to 64 channels, got shape \(2, 16000\)"),
            (np.zeros((100, 0), np.float32), r"got shape \(100, 0\)"),
            ([100, -200, 300], "integers of 8, 16 or 32 bits"),  # 64 bits, whose full scale would make silence of them
            (np.zeros(100, bool), "float or integer numbers"),
        ],
        ids=["axes swapped", "no channel", "int64", "bool"],
    )
    def test_samples_that_would_be_misread_are_refused(self, tiny_scorer, samples, words):
        with pytest.raises(ValueError, match=words):
            hf_sqa.QualityMeter(tiny_scorer).feed(samples)

    def test_a_model_without_a_head_gives_the_same_live_too(self, tiny_scorer, rng):
        sound = voiced(4, rng)
        offline = tiny_scorer(sound, sampling_rate=RATE, return_timeline=True)["timeline"]
        meter = hf_sqa.QualityMeter(tiny_scorer)

        rows = [*meter.feed(sound[:10_001]), *meter.feed(sound[10_001:]), *meter.close()]

        np.testing.assert_allclose([row["mos"] for row in rows], [row["mos"] for row in offline], atol=1e-4)

    def test_what_it_keeps_does_not_grow(self, student, rng):
        torch.manual_seed(0)
        scorer = FrameScorer(student.model, LocalHead(len(load_head(student.model.config).center)))
        kept = []
        for _ in range(3):
            scorer.feed(voiced(20, rng))
            kept.append(len(scorer._steps) + len(scorer._buffer) + len(scorer._activity._active))

        assert kept[2] <= kept[0] + RATE

    def test_integers_and_channels_are_taken(self, student, rng):
        sound = voiced(3, rng)
        mono, stereo = hf_sqa.QualityMeter(student), hf_sqa.QualityMeter(student)
        integers = np.round(sound * 32767).astype(np.int16)

        of_integers = [*mono.feed(integers), *mono.close()]
        of_channels = [*stereo.feed(np.stack([integers, integers], axis=1)), *stereo.close()]

        assert of_integers == of_channels and of_integers[0]["mos"] is not None

    def test_samples_that_are_no_number_are_refused(self, student):
        with pytest.raises(ValueError, match="finite samples"):
            hf_sqa.QualityMeter(student).feed(np.array([0.0, np.nan]))
        with pytest.raises(ValueError, match=r"between 0\.1 and 10"):
            hf_sqa.QualityMeter(student, hop_seconds=0)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_model_of_any_rate_gives_a_timeline_at_the_rate_of_the_recording(rate, speech_like):
    from hf_sqa.models.nisqa import NISQA, NISQAConfig

    torch.manual_seed(0)
    model = NISQA(NISQAConfig.tiny()).eval()
    scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")

    row = scorer(speech_like(3.0, rate), sampling_rate=rate, return_timeline=True)

    assert [point["start"] for point in row["timeline"]][:2] == pytest.approx([0.0, 0.5], abs=1e-3)
    assert row["timeline"][-1]["end"] <= 3.0
