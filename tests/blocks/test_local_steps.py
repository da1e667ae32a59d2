"""How a curve of steps is cut, and laid where the model scores, by networks that are computed by hand."""

import json

import numpy as np
import pytest

from hf_sqa.blocks.local_steps import StepCut, StepScorer

RATE = 1000
CUT = StepCut(step=80, margin=160, window=8 * 960, doubt=(0.25, 0.0))


class Loudness(StepScorer):
    """A step scores 2, and 1 more for each 0.1 of its mean level; a window scores as it is told."""

    def __init__(self, cut=CUT, score=4.0, **options):
        super().__init__(cut, RATE, **options)
        self.score, self.heard = score, []

    def score_steps(self, samples):
        levels = np.abs(samples.reshape(-1, self.cut.step)).mean(axis=1)
        return np.stack([2 + 10 * levels, np.ones(len(levels))], axis=1)

    def score_window(self, samples):
        self.heard.append(len(samples))
        return self.score


def sound(seconds, level=0.1, rng=None):
    """A square wave whose peak is 1 in every chunk, so that the peak divides it by 1 throughout."""
    samples = level * np.resize([1.0, -1.0], round(seconds * RATE))
    samples[::480] = 1.0
    return samples.astype(np.float32) if rng is None else (samples * rng.uniform(0.5, 1, len(samples))).astype(np.float32)


def values(points):
    return [None if point.scores is None else float(point.scores[0]) for point in points]


def test_the_curve_is_moved_to_the_score_of_its_first_window_as_far_as_it_is_trusted():
    scorer, unmoved = Loudness(), Loudness(has_level=False)

    level, own = values(scorer.feed(sound(7.0), last=True)), values(unmoved.feed(sound(7.0), last=True))

    # One difference of doubt 0.25 against a prior of 1: four fifths of it.
    shift = (4.0 - np.mean(own)) / (1 + 0.25)
    assert level == pytest.approx([value + shift for value in own])
    assert scorer.heard == [7000] and unmoved.heard == []


def test_nothing_comes_before_the_level_is_known_and_then_all_that_waited():
    scorer = Loudness()

    early, late = scorer.feed(sound(7.6)), scorer.feed(sound(1.5))

    assert early == [] and [point.start for point in late] == pytest.approx(np.arange(0, 8, 0.5))


@pytest.mark.parametrize("seconds", [3.0, 7.68, 9.1, 71.3])
def test_portions_of_any_size_give_the_same_points(seconds, rng):
    samples = sound(seconds, rng=rng)
    samples[: round(0.3 * len(samples))] *= 1e-4  # nobody speaks at first
    whole, scorer, found, at = Loudness().feed(samples, last=True), Loudness(), [], 0

    while at < len(samples):
        size = int(rng.integers(1, 4000))
        found += scorer.feed(samples[at : at + size])
        at += size
    found += scorer.close()

    assert [(point.start, point.end) for point in found] == [(point.start, point.end) for point in whole]
    assert [value is None for value in values(found)] == [value is None for value in values(whole)]
    spoken = [pair for pair in zip(values(found), values(whole), strict=True) if pair[0] is not None]
    np.testing.assert_allclose(*zip(*spoken, strict=True), atol=1e-6)


def test_where_nobody_speaks_at_first_the_next_window_is_taken():
    samples = np.concatenate([np.zeros(8 * RATE, np.float32), sound(16)])
    scorer = Loudness()

    points = scorer.feed(samples, last=True)

    assert scorer.heard == [7680] and points[-1].scores[0] > 3.5


def test_a_long_recording_is_measured_again_and_the_differences_are_averaged():
    scorer = Loudness()

    points = scorer.feed(sound(60), last=True)

    assert scorer.heard == [7680, 7680]  # from 0 and from 30.72 s
    own = 2 + 10 * np.abs(sound(0.96)).mean()
    assert points[-1].scores[0] == pytest.approx(own + (4 - own) * 8 / 9, abs=0.05)  # twice 1 / 0.25 against 1


def test_a_window_with_a_fault_in_it_is_trusted_less():
    samples = sound(7.0)
    samples[3000:4500] *= 3
    by_cut = [Loudness(StepCut(80, 160, 7680, doubt)) for doubt in ((0.25, 0.0), (0.25, 100.0))]
    unmoved = values(Loudness(has_level=False).feed(samples, last=True))

    shifts = [values(scorer.feed(samples, last=True))[0] - unmoved[0] for scorer in by_cut]

    assert 0 < shifts[1] < 0.5 * shifts[0]


def test_scores_that_are_known_are_not_computed_again():
    scorer = Loudness(score=1.0)
    scorer.give([0, 5000], np.array([[4.0], [2.0]]))

    points = scorer.feed(sound(9), last=True)

    assert scorer.heard == [] and points[0].scores[0] > 3.5


def test_no_point_leaves_the_scale():
    assert max(values(Loudness(score=40.0).feed(sound(7.0), last=True))) == 5.0


def test_the_settings_of_a_cut_survive_json():
    assert StepCut.of_settings(json.loads(json.dumps(CUT.settings))) == CUT
