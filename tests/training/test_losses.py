"""Losses by hand: what is charged, what is not, and what a missing label changes."""

import math

import numpy as np
import pytest
import torch

from hf_sqa.blocks.losses import ranking_loss, score_loss
from hf_sqa.configuration import AudioQualityConfig
from hf_sqa.training.losses import BiasAware, RatingsGaussian, loss_options, make_training_loss
from hf_sqa.training.recipe import LossOptions

NAN = math.nan


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mse", (0.04 + 4) / 2), ("l1", (0.2 + 2) / 2), ("huber", (0.02 + 1.5) / 2), ("clipped", 4 / 2)],
)
def test_a_loss_is_the_mean_over_the_rated_scores(kind, expected):
    loss = score_loss(column(3.2, 1.0, 4.0), column(3.0, 3.0, NAN), AudioQualityConfig(score_loss=kind))

    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["mse", "l1", "huber", "clipped"])
def test_an_unrated_score_has_no_gradient(kind):
    logits = column(3.2, 1.0).requires_grad_()

    score_loss(logits, column(NAN, 3.0), AudioQualityConfig(score_loss=kind, ranking_weight=1.0)).backward()

    assert logits.grad[0] == 0
    assert logits.grad[1] != 0


def test_an_error_within_the_margin_costs_nothing_and_beyond_it_all():
    config = AudioQualityConfig(score_loss="clipped", clip_margin=0.25)

    assert float(score_loss(column(3.24), column(3.0), config)) == 0
    assert float(score_loss(column(3.5), column(3.0), config)) == pytest.approx(0.25)


def test_the_ranking_loss_charges_differences_beyond_the_margin():
    # Errors 0.5, 0, -0.25: differences of pairs 0.5, 0.75, 0.25; minus 0.3: 0.2, 0.45, 0.
    loss = ranking_loss(column(2.5, 3.0, 3.75), column(2.0, 3.0, 4.0), margin=0.3)

    assert float(loss) == pytest.approx((0.2 + 0.45) / 3, rel=1e-5)


def test_the_ranking_loss_does_not_see_a_common_offset():
    labels = column(1.0, 2.0, 4.0)

    assert float(ranking_loss(labels + 1.5, labels, margin=0.0)) == pytest.approx(0, abs=1e-6)


def test_the_ranking_loss_of_one_clip_is_zero_with_a_gradient_of_zero():
    logits = column(3.0).requires_grad_()

    loss = ranking_loss(logits, column(2.0))
    loss.backward()

    assert loss.item() == 0 and logits.grad.item() == 0


def test_pairs_with_an_unrated_clip_are_left_out():
    with_gap = ranking_loss(column(2.5, 9.0, 3.0), column(2.0, NAN, 3.0), margin=0.0)

    assert float(with_gap) == pytest.approx(0.5)


def test_few_disagreeing_ratings_count_less():
    # Standard errors² 0.1 and 0.4, median 0.25; with residual 0.5² = 0.25: weights 0.5/0.35 and 0.5/0.65.
    weights = RatingsGaussian(0.5).weights(np.array([0.1, 0.4]))

    assert weights == pytest.approx([0.5 / 0.35, 0.5 / 0.65])


def test_an_unknown_variance_is_taken_for_the_median_one():
    assert RatingsGaussian(0.5).weights(np.array([0.1, 0.3, NAN]))[2] == pytest.approx(1)
    assert RatingsGaussian(0.5).weights(np.full(3, NAN)).tolist() == [1, 1, 1]


class Rows:
    corpora = ["a", "a", "a", "b", "b", "b"]
    labels = np.array([[1], [2], [3], [2], [3], [4]], np.float32)


def test_bias_aware_lines_are_fitted_to_the_epoch_before():
    loss = BiasAware(Rows.corpora, 1, anchor_corpus="a", min_correlation=0.0)
    logits = torch.tensor([[1.0], [2.0], [3.0], [1.0], [2.0], [3.0]])  # b is rated a point higher for the same quality
    rows = torch.arange(6)
    before = float(loss({"logits": logits}, torch.from_numpy(Rows.labels), rows, Rows, epoch=0))
    loss.begin_epoch(1, Rows, lambda seen: seen)
    after = float(loss({"logits": logits}, torch.from_numpy(Rows.labels), rows, Rows, epoch=1))

    assert before == pytest.approx(0.5)
    assert after == pytest.approx(0, abs=1e-6)
    assert loss.lines.offset[:, 0].tolist() == pytest.approx([0, 1], abs=1e-6)


def test_bias_aware_validation_takes_predictions_as_they_are():
    loss = BiasAware(Rows.corpora, 1, anchor_corpus=None, min_correlation=0.0)
    loss.lines.offset.fill_(1.0)

    assert float(loss({"logits": column(3.0)}, column(3.0), torch.tensor([0]), None, epoch=3)) == 0


def test_an_epoch_in_the_middle_of_which_a_run_went_on_is_not_fitted_to():
    loss = BiasAware(Rows.corpora, 1, anchor_corpus=None, min_correlation=0.0)
    loss({"logits": column(1.0, 2.0)}, column(2.0, 3.0), torch.tensor([0, 1]), Rows, epoch=1)

    loss.begin_epoch(1, Rows, lambda seen: seen)

    assert loss.lines.offset.tolist() == [[0], [0]]


def test_a_learned_variance_needs_a_family_that_has_one():
    from hf_sqa import NISQAConfig, Wav2Vec2ForMOSConfig

    gaussian = LossOptions(kind="gaussian")

    assert loss_options(gaussian, Wav2Vec2ForMOSConfig) == {"predict_log_variance": True, "score_loss": "mse"}
    with pytest.raises(ValueError, match=r"Expected a family that predicts a variance.*got nisqa"):
        loss_options(gaussian, NISQAConfig)


@pytest.mark.parametrize("loss", [LossOptions(kind="clipped"), LossOptions(kind="mse", ranking_weight=0.5)])
def test_losses_on_frames_are_not_mixed_with_those_on_recordings(loss):
    from hf_sqa import MOSANetConfig

    with pytest.raises(ValueError, match="whose loss is on frames too"):
        loss_options(loss, MOSANetConfig)


def test_the_model_s_own_losses_need_nothing_more():
    assert make_training_loss(LossOptions(kind="huber"), ["a"], 1) is None
    assert make_training_loss(LossOptions(kind="gaussian"), ["a"], 1) is None
