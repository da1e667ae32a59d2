"""A mapping from scores to a listening test: fitted, bounded, saved with the checkpoint, applied by the pipeline."""

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError

import hf_sqa
from hf_sqa.blocks.score_mapping import apply_score_mapping
from hf_sqa.finetune.calibration import cross_fitted_mapping, fit_score_mapping, make_folds


def test_a_straight_line_is_found_exactly():
    predictions = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 4.0])

    mapping = fit_score_mapping(predictions, 0.5 + 1.1 * predictions)

    assert mapping == pytest.approx([1.0, 4.0, 0.5, 1.1])
    assert apply_score_mapping(2.2, mapping) == pytest.approx(0.5 + 1.1 * 2.2)


def test_a_rising_cubic_is_found_exactly():
    predictions = np.linspace(1, 5, 20)
    labels = 3 + 0.2 * (predictions - 3) ** 3 + 0.1 * (predictions - 3)

    mapped = apply_score_mapping(predictions, fit_score_mapping(predictions, labels, "third"))

    assert mapped == pytest.approx(labels, abs=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_a_third_order_mapping_falls_nowhere_not_even_beyond_its_clips(seed):
    rng = np.random.default_rng(seed)
    predictions = rng.uniform(2, 4, 20)
    labels = np.clip(predictions + rng.normal(0, 0.8, 20), 1, 5)

    mapping = fit_score_mapping(predictions, labels, "third")

    assert np.diff(apply_score_mapping(np.linspace(-3, 9, 2000), mapping)).min() >= -1e-9


def test_beyond_its_clips_a_mapping_goes_on_straight_and_no_steeper_than_its_mean():
    # x³ on [0, 2]: slopes 0 and 12 at the ends, 4 on average
    mapping = [0.0, 2.0, 0.0, 0.0, 0.0, 1.0]

    assert apply_score_mapping([-1.0, 1.0, 3.0], mapping).tolist() == [0.0, 1.0, 12.0]


def test_a_clip_without_a_score_has_none_after_mapping():
    assert np.isnan(apply_score_mapping([np.nan], [1.0, 5.0, 0.0, 1.0])).all()


def test_a_cross_fitted_score_does_not_know_its_own_label():
    rng = np.random.default_rng(0)
    predictions, labels = rng.uniform(1, 5, 24), rng.uniform(1, 5, 24)
    labels += predictions
    folds = np.arange(24) % 4
    changed = np.where(folds == 2, 1.5 * labels, labels)

    parts = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(4)]

    first, second = (cross_fitted_mapping(predictions, truth, predictions, parts) for truth in (labels, changed))

    assert (first[folds == 2] == second[folds == 2]).all()
    assert (first[folds != 2] != second[folds != 2]).all()


def test_folds_split_no_group_and_are_nearly_equal():
    groups = [f"talker {number}" for number in (0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4)]

    folds = make_folds(np.arange(12.0), 3, groups=groups)

    assert all(len({fold for fold, one in zip(folds, groups, strict=True) if one == group}) == 1 for group in groups)
    assert np.bincount(folds).tolist() == [4, 4, 4]


def test_folds_of_single_clips_have_the_same_scores():
    labels = np.linspace(1, 5, 40)

    folds = make_folds(labels, 4)

    means = [labels[folds == fold].mean() for fold in range(4)]
    assert np.ptp(means) < 0.25
    assert np.bincount(folds).tolist() == [10] * 4


@pytest.mark.parametrize(
    ("predictions", "labels", "order", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "first", "6 rated and scored clips or more to calibrate with the first order, got 3"),
        (range(8), range(8), "third", "12 .* got 8; rate some more, or take the first order"),
        ([2.0] * 8, range(8), "first", "scores of the model that differ, got 2 for all 8 clips"),
        (range(8), [3.0] * 8, "first", "labels that differ, got 3 for all 8"),
        (range(8), range(8, 0, -1), "first", "do not rise with the ratings of these 8 clips"),
        (range(8), range(8), "second", "'first' or 'third', got 'second'"),
    ],
)
def test_what_cannot_be_calibrated_says_why(predictions, labels, order, message):
    with pytest.raises(ValueError, match=message):
        fit_score_mapping(list(predictions), list(labels), order)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"mos": [1.0, 5.0, 6.0, -1.0]}, "falls"),
        ({"mos": [1.0, 5.0, 0.0, 1.0, -0.3]}, "falls"),
        ({"mos": [5.0, 1.0, 0.0, 1.0]}, "lower end first"),
        ({"mos": [1.0, 5.0]}, "got 2 numbers"),
        ({"noisiness": [1.0, 5.0, 0.0, 1.0]}, "scores of this model \\(mos\\), got 'noisiness'"),
    ],
)
def test_a_configuration_refuses_a_mapping_that_is_none(mapping, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        hf_sqa.DistilledSQAConfig.tiny(score_mapping=mapping)


def test_the_pipeline_maps_the_score_of_a_recording_and_of_every_segment(make_tiny, speech_like, tmp_path):
    model = make_tiny()
    waveform = {"array": speech_like(1.5), "sampling_rate": 16_000}
    plain = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")(waveform, return_segments=True)
    model.config.score_mapping = {"mos": [1.0, 5.0, 0.25, 0.5]}
    model.save_pretrained(tmp_path)
    model.make_feature_extractor().save_pretrained(tmp_path)

    mapped = hf_sqa.pipeline(str(tmp_path), device="cpu")(waveform, return_segments=True)

    assert mapped["mos"] == pytest.approx(0.25 + 0.5 * plain["mos"], abs=1e-5)
    assert [one["mos"] for one in mapped["segments"]] == pytest.approx(
        [0.25 + 0.5 * one["mos"] for one in plain["segments"]], abs=1e-5
    )


def test_a_mapping_changes_the_identity_of_the_scores(make_tiny, speech_like):
    model = make_tiny()
    score = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")
    before = dict(score.identity())
    model.config.score_mapping = {"mos": [1.0, 5.0, 0.25, 0.5]}

    after = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu").identity()

    assert after["preprocessing"] != before["preprocessing"]
    assert after["weights"] == before["weights"]
