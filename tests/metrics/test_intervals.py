"""Bootstrap intervals cover the truth, and a comparison finds what is there and only that."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from hf_sqa.metrics import METRICS, agreement, bootstrap_agreement, compare_models
from hf_sqa.metrics.intervals import _Sample


@pytest.fixture
def clips(rng):
    """300 clips of 15 systems; systems differ in how wrong their predictions are."""
    systems = np.repeat([f"s{number:02}" for number in range(15)], 20)
    labels = np.round(np.repeat(rng.uniform(1.5, 4.5, 15), 20) + rng.normal(0, 0.4, 300), 1)
    predictions = labels + np.repeat(rng.normal(0, 0.6, 15), 20) + rng.normal(0, 0.3, 300)
    return predictions, labels, systems


def test_a_draw_measured_from_counts_equals_the_metric_of_the_drawn_clips(clips, rng):
    predictions, labels, _ = clips
    predictions = np.round(predictions, 1)
    drawn = rng.integers(300, size=(5, 300))
    counts = np.stack([np.bincount(draw, minlength=300) for draw in drawn], axis=1).astype(float)
    expected = [[metric(predictions[draw], labels[draw]) for draw in drawn] for metric in METRICS.values()]
    np.testing.assert_allclose(_Sample(predictions, labels).measure(list(METRICS), counts), expected, atol=1e-12)


@pytest.mark.slow
def test_intervals_cover_the_truth_in_93_to_97_percent_of_draws():
    num_simulations, num_clips, correlation = 1000, 300, 0.8
    rng = np.random.default_rng(2)
    truth = {
        "utt_lcc": correlation,
        "utt_srcc": 6 / np.pi * np.arcsin(correlation / 2),  # of a bivariate normal
        "utt_rmse": math.sqrt(2 - 2 * correlation),
    }
    true_difference = 0.4 - (1 + 0.9**2 - 2 * 0.9 * 0.7)  # of the mean square errors of the two models below
    covered = dict.fromkeys([*truth, "difference"], 0)
    for _ in range(num_simulations):
        labels, first, second = rng.standard_normal((3, num_clips))
        first = correlation * labels + math.sqrt(1 - correlation**2) * first
        second = 0.9 * (0.7 * labels + math.sqrt(1 - 0.7**2) * second)
        for metric, interval in bootstrap_agreement(first, labels, metrics=list(truth), num_draws=200, rng=rng).items():
            covered[metric] += interval.low <= truth[metric] <= interval.high
        difference = compare_models(first, second, labels, metric="utt_mse", num_draws=200, rng=rng).difference
        covered["difference"] += difference.low <= true_difference <= difference.high
    shares = {name: count / num_simulations for name, count in covered.items()}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_clusters_are_drawn_whole():
    """Forty systems of ten clips whose errors are the system's: an interval by clips is far too short, one by systems covers."""
    rng = np.random.default_rng(3)
    covered = {"clips": 0, "systems": 0}
    systems = np.repeat(np.arange(40), 10)
    for _ in range(200):
        labels = rng.uniform(1, 5, 400)
        predictions = labels + np.repeat(rng.standard_normal(40), 10)
        for name, groups in (("clips", None), ("systems", systems)):
            interval = bootstrap_agreement(predictions, labels, metrics=["utt_mae"], systems=groups, num_draws=200, rng=rng)[
                "utt_mae"
            ]
            covered[name] += interval.low <= math.sqrt(2 / math.pi) <= interval.high  # mean magnitude of a normal
    assert covered["systems"] >= 0.9 * 200  # 95 % promised; 3 standard deviations of 200 draws are 4.6 points
    assert covered["clips"] <= 0.6 * 200


def test_bca_agrees_with_scipy(clips):
    predictions, labels, _ = clips

    def error(first, second, axis=-1):
        return np.sqrt(np.mean((first - second) ** 2, axis=axis))

    theirs = bootstrap((predictions, labels), error, paired=True, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0))
    ours = bootstrap_agreement(predictions, labels, metrics=["utt_rmse"], num_draws=20_000, rng=0)["utt_rmse"]
    # Two ends, each of 20,000 draws: they scatter by about 2 % of the width.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.05 * width)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.05)


def test_the_same_seed_gives_the_same_interval(clips):
    predictions, labels, systems = clips
    options = {"metrics": ["utt_lcc", "sys_srcc"], "systems": systems, "num_draws": 300}
    first, second, third = (
        bootstrap_agreement(predictions, labels, rng=seed, **options) for seed in (7, np.random.default_rng(7), 8)
    )
    assert first == second
    assert first != third


def test_values_are_those_of_agreement(clips):
    predictions, labels, systems = clips
    predictions[3], labels[7] = np.nan, np.nan
    result = agreement(predictions, labels, systems=systems)
    metrics = ["utt_srcc", "sys_lcc", "utt_mae", "sys_ktau"]
    intervals = bootstrap_agreement(predictions, labels, metrics=metrics, systems=systems, num_draws=200, rng=0)
    assert {metric: interval.value for metric, interval in intervals.items()} == {metric: result[metric] for metric in metrics}
    assert list(intervals) == metrics
    assert intervals["sys_lcc"].num_units == intervals["utt_srcc"].num_units == 15


def test_undefined_draws_are_counted_and_what_is_undefined_stays_nan():
    few = bootstrap_agreement([1, 2, 3], [1, 3, 2], metrics=["utt_lcc"], num_draws=1000, rng=0)["utt_lcc"]
    assert few.num_undefined > 0  # draws of one clip three times: 3 of 27
    for predictions, labels in (([], []), ([1.0], [2.0]), ([2.0, 2.0, 2.0], [1, 2, 3])):
        interval = bootstrap_agreement(predictions, labels, metrics=["utt_srcc"], num_draws=50, rng=0)["utt_srcc"]
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


def test_a_real_difference_is_found(clips, rng):
    _, labels, _ = clips
    good, poor = labels + rng.normal(0, 0.3, 300), labels + rng.normal(0, 0.6, 300)
    for metric in ("utt_srcc", "utt_rmse"):
        found = compare_models(good, poor, labels, metric=metric, names=("new", "old"), num_draws=2000, rng=0)
        assert found.better == "new"
        assert found.p_value < 0.01
        assert found.verdict.startswith(f"new agrees better with listeners: {metric} ")
        assert compare_models(poor, good, labels, metric=metric, names=("old", "new"), num_draws=2000, rng=0).better == "new"


def test_equals_are_told_apart_no_more_often_than_promised():
    rng = np.random.default_rng(5)
    p_values, found = [], 0
    for _ in range(300):
        labels, first, second = rng.standard_normal((3, 150))
        comparison = compare_models(labels + first, labels + second, labels, metric="utt_lcc", num_draws=200, rng=rng)
        p_values.append(comparison.p_value)
        found += comparison.better is not None
        assert (comparison.better is None) == (comparison.verdict.startswith("No difference shown"))
    assert found <= 0.09 * 300  # 5 % promised; 4 standard deviations of 300 draws are 5 points
    assert 0.4 < np.mean(p_values) < 0.6


def test_the_p_value_and_the_interval_say_the_same(clips):
    predictions, labels, _ = clips
    rng = np.random.default_rng(1)
    for noise in np.linspace(0, 0.5, 15):
        comparison = compare_models(predictions, predictions + rng.normal(0, noise, 300), labels, num_draws=1000, rng=rng)
        if abs(comparison.p_value - 0.05) > 0.005:
            assert (comparison.p_value < 0.05) == (comparison.better is not None)


def test_a_model_does_not_differ_from_itself(clips):
    predictions, labels, systems = clips
    comparison = compare_models(predictions, predictions, labels, metric="sys_srcc", systems=systems, num_draws=200, rng=0)
    assert (comparison.difference.low, comparison.difference.high, comparison.p_value, comparison.better) == (0, 0, 1, None)


def test_clips_that_one_model_failed_on_are_left_out_of_a_comparison_and_named(clips):
    predictions, labels, _ = clips
    broken = predictions.copy()
    broken[:10] = np.nan
    comparison = compare_models(predictions, broken, labels, names=("a", "b"), num_draws=200, rng=0)
    assert (comparison.num_clips, comparison.num_failed_a, comparison.num_failed_b) == (290, 0, 10)
    assert comparison.better is None
    assert "10 clips that b did not score" in comparison.verdict


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["srcc"]}, "such as 'utt_srcc', got 'srcc'"),
        ({"metrics": ["sys_lcc"]}, "`systems` for a metric that starts with 'sys_'"),
        ({"clusters": ["a"]}, "one entry of `clusters` per clip, 3, got 1"),
        ({"num_draws": 0}, "`num_draws` of 1 or more"),
        ({"confidence_level": 95}, "between 0 and 1"),
    ],
)
def test_wrong_options_are_refused_with_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_agreement([1, 2, 3], [1, 2, 3], **options)
