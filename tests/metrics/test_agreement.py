"""Agreement metrics: scipy on random data, P.1401 by hand, and what is undefined."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kendalltau, pearsonr, spearmanr

from hf_sqa.metrics import METRICS, agreement, fit_mapping, ktau, lcc, mae, mse, rmse, rmse_star, srcc


@pytest.fixture
def tied(rng):
    """Predictions and labels in steps of half a point: many ties on both sides."""
    labels = np.round(2 * rng.uniform(1, 5, 400)) / 2
    return np.round(2 * (labels + rng.normal(0, 0.8, 400))) / 2, labels


@pytest.mark.parametrize(("ours", "scipys"), [(lcc, pearsonr), (srcc, spearmanr), (ktau, kendalltau)])
def test_correlations_agree_with_scipy_on_ties(ours, scipys, tied):
    assert ours(*tied) == pytest.approx(scipys(*tied).statistic, abs=1e-12)


def test_errors_by_hand():
    # errors 0.5, -0.5, 1.0: squares 0.25 + 0.25 + 1 = 1.5, magnitudes 2.0, over three points
    given = [1.5, 1.5, 4.0], [1.0, 2.0, 3.0]
    assert mse(*given) == pytest.approx(0.5)
    assert rmse(*given) == pytest.approx(math.sqrt(0.5))
    assert mae(*given) == pytest.approx(2 / 3)


def test_first_order_mapping_by_hand():
    # Predictions 1 2 3 4, labels 1 3 2 4: means 2.5, Sxy = 4, Sxx = 5, so slope 0.8 and offset 2.5 - 0.8 * 2.5 = 0.5.
    # Mapped 1.3 2.1 2.9 3.7, errors 0.3 -0.9 0.9 -0.3, squares 0.09 + 0.81 + 0.81 + 0.09 = 1.8; N - d = 4 - 1 = 3.
    result = agreement([1, 2, 3, 4], [1, 3, 2, 4], mapping="first")
    assert fit_mapping([1, 2, 3, 4], [1, 3, 2, 4], "first").convert().coef == pytest.approx([0.5, 0.8])
    assert result["utt_rmse_mapped"] == pytest.approx(math.sqrt(1.8 / 3))
    assert result["mapping_order"] == 1


def test_rmse_star_by_hand():
    # The errors above, half-widths 0.2 0.5 1.0 0.3: what exceeds them is 0.1 0.4 0 0, squares 0.01 + 0.16 = 0.17, over N - d = 3.
    result = agreement([1, 2, 3, 4], [1, 3, 2, 4], mapping="first", ci95=[0.2, 0.5, 1.0, 0.3])
    assert result["utt_rmse_star"] == pytest.approx(math.sqrt(0.17 / 3))


def test_third_order_mapping_takes_four_degrees_of_freedom():
    # Labels are the cube of the predictions plus errors orthogonal to 1, x, x², x³, which the fit leaves as they are:
    # 1 -4 6 -4 1, the fourth difference. Squares 1 + 16 + 36 + 16 + 1 = 70, times 0.01; N - d = 1.
    predictions = np.arange(5.0)
    labels = predictions**3 + 0.1 * np.array([1, -4, 6, -4, 1])
    assert agreement(predictions, labels, mapping="third")["utt_rmse_mapped"] == pytest.approx(math.sqrt(0.70), abs=1e-6)
    assert math.isnan(agreement(predictions[:4], labels[:4], mapping="third")["utt_rmse_mapped"])


@pytest.mark.parametrize(
    "shape", [lambda x: -x, lambda x: np.sin(3 * x), lambda x: (x - 3) ** 2, lambda x: 5 / (1 + np.exp(9 - 3 * x))]
)
def test_a_third_order_mapping_never_falls_and_is_the_best_that_does_not(shape, rng):
    predictions = rng.uniform(1, 5, 60)
    labels = shape(predictions) + rng.normal(0, 0.3, 60)
    mapping = fit_mapping(predictions, labels, "third")
    assert np.diff(mapping(np.linspace(predictions.min(), predictions.max(), 5000))).min() >= -1e-12

    position = (predictions - predictions.min()) / np.ptp(predictions)
    powers, grid = position[:, None] ** np.arange(4), np.linspace(0, 1, 300)
    searched = minimize(
        lambda c: np.sum((powers @ c - labels) ** 2),
        [labels.mean(), 0, 0, 0],
        jac=lambda c: 2 * powers.T @ (powers @ c - labels),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda c: c[1] + 2 * c[2] * grid + 3 * c[3] * grid**2},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert np.sum((mapping(predictions) - labels) ** 2) == pytest.approx(searched.fun, rel=1e-4)


def test_a_mapping_of_inverted_predictions_is_their_mean():
    # The best line that does not fall is flat at 2.5: squares 2 (1.5² + 0.5²) = 5 over 4 - 1.
    assert agreement([4, 3, 2, 1], [1, 2, 3, 4], mapping="first")["utt_rmse_mapped"] == pytest.approx(math.sqrt(5 / 3))


def test_systems_are_averaged_first_and_correlated_second():
    # System means: predictions 2 3 4, labels 1 3 2. Deviations -1 0 1 and -1 1 0: Sxy 1, Sxx 2, Syy 2, LCC 0.5.
    result = agreement([1, 3, 2, 4, 4, 4], [1, 1, 4, 2, 1, 3], systems=list("aabbcc"), conditions=list("xxxxyy"))
    assert result["sys_lcc"] == pytest.approx(0.5)
    assert result["utt_lcc"] != pytest.approx(0.5)
    # Condition means: predictions 2.5 4, labels 2 2: errors 0.5 and 2.
    assert result["con_rmse"] == pytest.approx(math.sqrt((0.25 + 4) / 2))
    assert math.isnan(result["con_lcc"])
    assert (result["num_systems"], result["num_conditions"]) == (3, 2)


def test_the_interval_of_a_system_mean_is_that_of_independent_labels():
    # Four systems of two clips with half-width 0.6 each: sqrt(2 * 0.36) / 2 = 0.424; flat mapping of constants, errors +-1 twice,
    # excess 0.576; N - d = 3.
    result = agreement([3] * 8, [2, 2, 4, 4, 2, 2, 4, 4], systems=list("aabbccdd"), mapping="first", ci95=[0.6] * 8)
    assert result["sys_rmse_star"] == pytest.approx((1 - math.sqrt(0.72) / 2) * math.sqrt(4 / 3))


def test_equal_system_means_are_tied_although_they_round_differently():
    predictions = [0.1, 0.2, 0.15, 0.15, 0.3]
    assert (0.1 + 0.2) / 2 != 0.15
    assert agreement(predictions, [1, 1, 2, 2, 3], systems=list("aabbc"))["sys_ktau"] == pytest.approx(2 / math.sqrt(6))


def test_a_constant_has_no_correlation():
    result = agreement([3.1, 3.1, 3.1], [1, 2, 3])
    assert all(math.isnan(result[f"utt_{name}"]) for name in ("lcc", "srcc", "ktau"))
    assert result["utt_mse"] == pytest.approx((2.1**2 + 1.1**2 + 0.1**2) / 3)


def test_two_points_correlate_perfectly_and_one_point_not_at_all():
    two, one = agreement([1, 2], [3, 5]), agreement([1.0], [3.0])
    assert [two[f"utt_{name}"] for name in ("lcc", "srcc", "ktau")] == [1.0, 1.0, 1.0]
    assert all(math.isnan(one[f"utt_{name}"]) for name in ("lcc", "srcc", "ktau"))
    assert one["utt_rmse"] == 2.0


def test_nothing_to_compare_gives_nan_and_counts():
    result = agreement([], [], systems=[], mapping="third", ci95=[])
    assert (result["num_scored"], result["num_systems"]) == (0, 0)
    assert all(math.isnan(result[f"{level}_{name}"]) for level in ("utt", "sys") for name in (*METRICS, "rmse_mapped", "rmse_star"))


def test_failed_and_unrated_clips_are_left_out_and_counted():
    result = agreement([1, np.nan, 3, 4, np.nan], [1, 2, np.nan, 3, None], systems=["a", "a", "a", None, "b"])
    assert (result["num_scored"], result["num_failed"], result["num_unrated"]) == (2, 1, 2)
    assert (result["num_systems"], result["num_without_system"]) == (1, 1)
    assert result["utt_mae"] == 0.5


def test_a_label_without_an_interval_is_left_out_of_rmse_star_only():
    result = agreement([1, 2, 3, 4], [1, 3, 2, 4], mapping="first", ci95=[0.2, 0.5, 1.0, np.nan])
    assert result["utt_rmse_star"] == pytest.approx(math.sqrt(0.17 / 2))
    assert result["utt_rmse_mapped"] == pytest.approx(math.sqrt(1.8 / 3))
    assert result["num_without_ci95"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictions": [1, 2, 3]}, "as many predictions as labels, got 3 and 2"),
        ({"predictions": [1, np.inf]}, "finite or NaN, got inf at position 1"),
        ({"predictions": [[1], [2]]}, "one score at a time"),
        ({"systems": ["a"]}, "one entry of `systems` per clip, 2, got 1"),
        ({"mapping": "second"}, "'first', 'third' or None, got 'second'"),
        ({"ci95": [0.1, 0.1]}, "a `mapping` beside `ci95`"),
        ({"ci95": [0.1, -0.1], "mapping": "first"}, "half-widths"),
    ],
)
def test_wrong_input_is_refused_with_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        agreement(**{"predictions": [1, 2], "labels": [1, 2]} | options)


def test_single_metrics_refuse_nan():
    with pytest.raises(ValueError, match="`agreement` leaves such clips out"):
        rmse_star([1, np.nan], [1, 2], 0.1)
