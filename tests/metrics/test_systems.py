"""Which system is better: differences that are there are shown, those that are not are not, and too few clips say so."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, ttest_rel

from hf_sqa.metrics import compare_systems
from hf_sqa.metrics.systems import holm, in_per_cent


def _two(first, second, **options):
    items = [*range(len(first)), *range(len(second))]
    options = {"items": items, **options}
    return compare_systems([*first, *second], ["a"] * len(first) + ["b"] * len(second), **options)


@pytest.fixture
def sentences(rng):
    """Forty sentences that differ much, and a second system that is better by 0.2 on each, give or take 0.2."""
    first = 3 + 0.8 * rng.standard_normal(40)
    return first, first + 0.2 + 0.2 * rng.standard_normal(40)


def test_a_small_difference_is_shown_by_pairs_and_not_without(sentences):
    paired, unpaired = _two(*sentences), _two(*sentences, items=None)

    assert paired.pairs[0].better == "b" and paired.groups == [["b"], ["a"]]
    assert unpaired.pairs[0].better is None and unpaired.groups == [["b", "a"]]
    assert paired.pairs[0].difference.value == pytest.approx(np.mean(sentences[1] - sentences[0]))
    assert paired.verdict.startswith("b is better than a: mean score")
    assert unpaired.verdict.startswith("No difference is shown")


def test_a_verdict_is_told_from_the_side_of_the_better_system_whichever_comes_first(sentences):
    low, high = sentences

    verdict = _two(high, low).verdict

    assert verdict.startswith(f"a is better than b: mean score {np.mean(high):.3f} (a) and {np.mean(low):.3f} (b)")
    assert f"difference {np.mean(high - low):+.3f} [+" in verdict and "probability over 99.9 % that a is better" in verdict


def test_the_p_value_of_pairs_is_that_of_students_test_also_beyond_the_draws(sentences, rng):
    far = sentences[0] + 1 + 0.3 * rng.standard_normal(40)

    for second in (sentences[1], far):
        pair = _two(sentences[0], second).pairs[0]
        assert np.log10(pair.p_value) == pytest.approx(np.log10(ttest_rel(sentences[0], second).pvalue), rel=0.15)
        assert pair.probability == pytest.approx(1 - pair.p_value / 2)


def test_the_share_won_counts_pairs_or_all_combinations(sentences):
    first, second = sentences
    statistic = mannwhitneyu(second, first).statistic

    assert _two(first, second).pairs[0].share_won == pytest.approx(np.mean(second > first))
    assert _two(first, second, paired=False).pairs[0].share_won == pytest.approx(statistic / 40**2)


def test_equal_systems_are_told_apart_in_one_of_twenty_cases():
    rng = np.random.default_rng(4)
    shown = 0
    for _ in range(300):
        first = rng.standard_normal(20)
        shown += _two(first, first + 0.5 * rng.standard_normal(20), num_draws=500, rng=rng).pairs[0].better is not None

    assert 0.02 <= shown / 300 <= 0.09


def test_talkers_are_drawn_whole(rng):
    """Six talkers, each liking one system: by sentences the difference is certain, by talkers it is not."""
    talkers = np.repeat(np.arange(6), 30)
    liking = np.array([0.8, -0.5, 0.7, -0.3, 0.6, 0.2])[talkers]
    first = rng.standard_normal(180)
    second = first + liking + 0.1 * rng.standard_normal(180)

    assert _two(first, second).pairs[0].better == "b"
    assert _two(first, second, clusters=[*talkers, *talkers]).pairs[0].better is None
    assert _two(first, second, clusters=[*talkers, *talkers]).pairs[0].difference.num_units == 6


def test_clips_without_partner_are_left_out_of_pairs_and_counted(sentences):
    first, second = sentences
    compared = _two(first, [*second, 1.0, np.nan])

    assert compared.pairs[0].num_pairs == 40 and compared.pairs[0].num_alone == (0, 1)
    assert compared.pairs[0].difference.value == pytest.approx(np.mean(second - first))
    assert (compared.systems[1].num_clips, compared.systems[1].num_failed) == (41, 1)


def test_several_clips_of_a_sentence_are_averaged_before_they_are_paired():
    scores, systems = [1.0, 3.0, 2.5, 4.0], ["a", "a", "b", "b"]
    pair = compare_systems(scores, systems, items=["x", "x", "x", "y"]).pairs[0]

    assert (pair.num_pairs, pair.difference.value) == (1, 0.5)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_sentences_say_so_instead_of_an_interval(count):
    compared = _two(np.linspace(1, 2, 4), np.linspace(3, 4, 4)[:count], paired=None)

    assert np.isnan(compared.systems[0].mean.low) and not compared.groups
    assert ("4 pairs; 5 units" if count == 4 else "Nothing can be") in compared.verdict
    assert all(np.isnan(pair.p_value) and pair.better is None and np.isnan(pair.difference.low) for pair in compared.pairs)


def test_five_clips_beside_many_of_another_kind_are_too_few_below_five(rng):
    many = rng.standard_normal(100)

    assert _two(many, many[:4] + 9, items=None).pairs[0].better is None
    assert _two(many, many[:5] + 9, items=None).pairs[0].better == "b"


def test_systems_that_are_equal_for_every_sentence_are_not_told_apart(rng):
    scores = rng.standard_normal(10)
    pair = _two(scores, scores).pairs[0]

    assert (pair.better, pair.difference.low, pair.difference.high, pair.p_value) == (None, 0, 0, 1)


def test_groups_begin_with_the_best_and_end_before_what_differs_from_it(rng):
    sentence = rng.standard_normal(50)
    levels = {"low": 1.0, "best": 4.0, "like best": 3.99, "middle": 2.5}
    scores = np.concatenate([level + sentence + 0.2 * rng.standard_normal(50) for level in levels.values()])
    compared = compare_systems(scores, np.repeat(list(levels), 50).tolist(), items=list(range(50)) * 4)

    assert [sorted(group) for group in compared.groups] == [["best", "like best"], ["middle"], ["low"]]
    assert [system.name for system in compared.systems] == list(levels)
    assert compared.pair("low", "best").better == "best"
    assert len(compared.pairs) == 6


def test_a_system_without_scores_is_there_and_in_no_group(sentences):
    scores = [*sentences[0], *sentences[1], np.nan]
    compared = compare_systems(scores, ["a"] * 40 + ["b"] * 40 + ["c"], items=[*range(40), *range(40), 0])

    assert (compared.systems[2].num_clips, compared.systems[2].num_failed) == (0, 1)
    assert compared.groups == [["b"], ["a"]] and len(compared.pairs) == 1


def test_p_values_of_several_pairs_are_adjusted_after_holm():
    adjusted = holm(np.array([0.01, np.nan, 0.04, 0.03, 0.005]))

    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.06, 0.06, 0.02])


def test_a_probability_is_never_quite_certain():
    assert [in_per_cent(value) for value in (0.0, 0.004, 0.5, 0.973, 1.0, np.nan)] == [
        *("under 0.1 %", "0.4 %", "50 %", "97.3 %", "over 99.9 %", "unknown")
    ]


def test_the_same_seed_gives_the_same_intervals(sentences):
    assert _two(*sentences) == _two(*sentences)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence_level": 1.0}, "confidence_level"),
        ({"num_draws": 0}, "num_draws"),
        ({"items": [1, 2]}, "one entry of `items` per clip"),
        ({"items": [1, 2, 3, 4], "paired": True}, "Expected sentences that 'a' and 'b' share"),
        ({"items": [1, 2, 1, 2], "clusters": ["p", "q", "p", "r"]}, "one cluster for each sentence"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        _two([1.0, 2.0], [3.0, 4.0], **options)


def test_a_clip_without_a_system_is_refused():
    with pytest.raises(ValueError, match="a system for every clip, got none for 1 of 2"):
        compare_systems([1.0, 2.0], ["a", None])


def test_a_verdict_tells_of_clips_that_count_in_the_means_and_not_in_the_difference():
    old, new = [3.1, 3.4, 2.8, 3.3, 3.6, 2.9, 1.0], [3.1, 3.4, 2.8, 3.3, 3.6, 2.9]
    items = [*range(7), *range(6)]

    one = compare_systems(old + new, ["old"] * 7 + ["new"] * 6, items=items)
    none = compare_systems(old[:6] + new, ["old"] * 6 + ["new"] * 6, items=[*range(6), *range(6)])

    assert "difference +0.000" in one.verdict and one.verdict.endswith(
        "6 pairs; 1 clip without a partner counts in the means only."
    )
    assert none.verdict.endswith("6 pairs.")
