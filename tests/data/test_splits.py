"""Splits keep the distribution of scores, leak nothing, and are the same for the same seed."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from hf_sqa.data.splits import (
    TRAINING_SETS,
    ks_distance,
    nested_subsets,
    stratified_split,
    training_set,
)


@pytest.fixture
def rated(rng):
    """1000 clips of two corpora with different scores, 50 talkers, 100 sources."""
    corpus = np.repeat(["easy", "hard"], [600, 400])
    mos = np.where(corpus == "easy", rng.normal(4, 0.5, 1000), rng.normal(2, 0.5, 1000)).clip(1, 5).round(2)
    return {"mos": mos, "corpus": corpus, "talker_id": rng.integers(50, size=1000), "source_id": np.arange(1000) // 10}


def test_ks_distance_of_a_case_worked_by_hand():
    # Up to 2: 2/4 of the first and 1/4 of the second; up to 3: 4/4 and 1/4.
    assert ks_distance([1, 2, 3, 3], [2, 4, 5, 5]) == 0.75
    assert ks_distance([1, 2], [2, 1]) == 0
    assert ks_distance([1, 1], [5]) == 1
    assert np.isnan(ks_distance([1], []))


def test_ks_distance_is_that_of_scipy(rng):
    first, second = rng.integers(1, 6, 70), rng.integers(2, 6, 31)
    assert ks_distance(first, second) == pytest.approx(ks_2samp(first, second).statistic, abs=1e-12)


def test_one_of_every_five_neighbours_in_score_is_held_out():
    scores = np.arange(1, 5, 0.04)
    split = stratified_split({"mos": scores}, corpus_column=None, seed=3)
    assert len(split.train) == 80 and len(split.validation) == 20
    assert np.array_equal(split.validation // 5, np.arange(20))
    assert np.array_equal(np.sort(np.concatenate([split.train, split.validation])), np.arange(100))


def test_scores_are_alike_on_both_sides_in_each_corpus(rated):
    split = stratified_split(rated)
    assert len(split.validation) == 200
    # One clip from each stretch: the shares differ by one stretch at most, 1/120 and 1/80, over 0.8 for train against validation.
    assert split.ks_by_corpus["easy"] <= 1 / 120 / 0.8 + 1e-9 and split.ks_by_corpus["hard"] <= 1 / 80 / 0.8 + 1e-9
    assert (rated["corpus"][split.validation] == "easy").sum() == 120
    assert split.ks_distance == pytest.approx(ks_2samp(rated["mos"][split.train], rated["mos"][split.validation]).statistic)


def test_the_same_seed_gives_the_same_split_and_another_seed_another(rated):
    one, again, other = (stratified_split(rated, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.validation, again.validation)
    assert not np.array_equal(one.validation, other.validation)


@pytest.mark.parametrize("columns", ["talker_id", ["talker_id"], "source_id"])
def test_no_group_is_on_both_sides(rated, columns):
    split = stratified_split(rated, group_columns=columns)
    column = rated[columns if isinstance(columns, str) else columns[0]]
    assert not set(column[split.train]) & set(column[split.validation])
    assert 0.15 < len(split.validation) / 1000 < 0.25
    assert split.ks_distance < 0.1
    assert split.groups == (len(set(column[split.train])), len(set(column[split.validation])))
    assert "none in both" in str(split)


def test_clips_that_hang_together_by_way_of_others_stay_together():
    # Talkers a and b share the sentence 1, b and c the sentence 2: only d stands alone.
    data = {"mos": [1, 2, 2, 3, 3, 4], "talker": list("abbcdd"), "sentence": [1, 1, 2, 2, 3, 3]}
    split = stratified_split(data, group_columns=["talker", "sentence"], corpus_column=None, validation_share=1 / 3)
    assert split.validation.tolist() == [4, 5]
    with pytest.raises(ValueError, match="Expected two groups or more to split by everybody, got one"):
        stratified_split(data | {"everybody": ["all"] * 6}, group_columns="everybody", corpus_column=None)


def test_a_split_of_few_large_groups_has_two_parts():
    data = {"mos": np.tile([1.0, 3, 5], 20), "talker": np.repeat(["a", "b"], 30)}
    split = stratified_split(data, group_columns="talker", corpus_column=None)
    assert len(split.train) == len(split.validation) == 30 and split.ks_distance == 0


def test_smaller_subsets_are_parts_of_larger_ones_and_like_the_whole(rated):
    drawn = nested_subsets(rated, [50, 100, 500])
    assert [len(rows) for rows in drawn.values()] == [50, 100, 500]
    assert set(drawn[50]) < set(drawn[100]) < set(drawn[500])
    for size, rows in drawn.items():
        assert (rated["corpus"][rows] == "easy").sum() == 0.6 * size
        assert ks_distance(rated["mos"][rows], rated["mos"]) < 3 / size**0.5 * 0.2
    assert np.array_equal(nested_subsets(rated, [500])[500], drawn[500])
    with pytest.raises(ValueError, match="from 1 to the 1000 clips there are"):
        nested_subsets(rated, [1001])


def test_a_corpus_of_ten_takes_its_whole_share_of_a_subset_of_three():
    rows = nested_subsets({"mos": np.arange(10.0), "corpus": ["a"] * 5 + ["b"] * 5}, [3])[3]
    assert len(rows) == 3 == len(set(rows))


def test_pandas_and_datasets_give_the_rows_that_a_dict_gives(rated):
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    expected = stratified_split(rated, group_columns="talker_id").validation
    for data in (pandas.DataFrame(rated), datasets.Dataset.from_dict(rated)):
        assert np.array_equal(stratified_split(data, group_columns="talker_id").validation, expected)


def test_what_cannot_be_split_is_refused(rated):
    with pytest.raises(ValueError, match="Expected a column 'quality', got mos, corpus"):
        stratified_split(rated, score_column="quality")
    with pytest.raises(ValueError, match="got NaN for 1 of 2; drop those first"):
        stratified_split({"mos": [1, float("nan")]}, corpus_column=None)
    with pytest.raises(ValueError, match="value in 'talker' of every clip, got none for 2 of 3"):
        stratified_split({"mos": [1, 2, 3], "talker": ["a", None, ""]}, group_columns="talker", corpus_column=None)
    with pytest.raises(ValueError, match="`validation_share` between 0 and 1, got 20"):
        stratified_split(rated, validation_share=20)
    with pytest.raises(ValueError, match="Expected enough clips for two parts, got 2"):
        stratified_split({"mos": [1, 2]}, corpus_column=None)


@pytest.fixture(scope="module")
def corpora_of_the_paper():
    """The corpora of the paper's Table 2 with their published numbers of clips."""
    counts = {
        **{"VoiceMOS": 7106, "IUB_COSINE": 18000, "IUB_VOiCES": 18000, "Tencent_withoutReverb": 8366, "tencent_with_reverb": 3197},
        **{"NISQA_TEST_FOR": 240, "NISQA_TEST_LIVETALK": 232, "NISQA_TEST_P501": 240, "NISQA_TRAIN_LIVE": 1020},
        **{"NISQA_TRAIN_SIM": 10000, "NISQA_VAL_LIVE": 200, "NISQA_VAL_SIM": 2500, "PSTN": 58709},
    }
    corpus = np.repeat(list(counts), list(counts.values()))
    split = np.full(len(corpus), "test", dtype="U10")
    split[:4974], split[4974 : 4974 + 1066] = "train", "validation"
    for own in ("train", "val"):
        split[np.char.startswith(corpus, f"NISQA_{own.upper()}_")] = {"train": "train", "val": "validation"}[own]
    return {"mos": np.random.default_rng(1).uniform(1, 5, len(corpus)), "corpus": corpus, "split": split}


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_the_training_sets_of_the_paper_have_its_counts(name, corpora_of_the_paper):
    split = training_set(name, corpora_of_the_paper)
    printed = {
        **{"w2v_ger": (185, 47), "w2v_cn": (2424, 606), "w2v_en": (7515, 1879), "w2v_all": (11429, 2858)},
        **{"w2v_1k": (1884, 472), "w2v_10k": (8995, 2248), "w2v_50k": (56217, 14005), "w2v_base": (4974, 1066)},
        **{"nq_base1": (70764, 9713), "nq_base2": (70764, 9713)},
    }
    assert (len(split.train), len(split.validation)) == printed[name]
    assert not set(split.train) & set(split.validation)
    assert split.ks_distance < 0.06
    sources = {"w2v_ger": ("LIVETALK",), "w2v_cn": ("encent",), "w2v_en": ("PSTN",), "w2v_base": ("VoiceMOS",)}
    if name in sources:
        rows = np.concatenate([split.train, split.validation])
        assert all(sources[name][0] in corpus for corpus in corpora_of_the_paper["corpus"][rows])


@pytest.mark.parametrize("name", ["nq_base1", "nq_base2"])
def test_the_baselines_train_and_validate_on_the_parts_that_nisqa_made_for_it(name, corpora_of_the_paper):
    split = training_set(name, corpora_of_the_paper)
    corpus = corpora_of_the_paper["corpus"]

    parts = [dict(zip(*np.unique(corpus[rows], return_counts=True), strict=True)) for rows in (split.train, split.validation)]
    nisqa = [{name: count for name, count in part.items() if name.startswith("NISQA")} for part in parts]
    assert nisqa == [{"NISQA_TRAIN_LIVE": 1020, "NISQA_TRAIN_SIM": 10000}, {"NISQA_VAL_LIVE": 200, "NISQA_VAL_SIM": 2500}]
    assert all(part[name] > 0 for part in parts for name in ("PSTN", "Tencent_withoutReverb", "tencent_with_reverb"))


def test_the_large_set_draws_from_chinese_and_english_alike(corpora_of_the_paper):
    """The shares of the corpora are those of their sizes, in both parts."""
    split = training_set("w2v_50k", corpora_of_the_paper)
    corpus = corpora_of_the_paper["corpus"]

    for rows in (split.train, split.validation):
        share = np.mean(corpus[rows] == "PSTN")
        assert share == pytest.approx(58709 / 70272, abs=1e-3)


def test_a_training_set_that_the_corpora_cannot_give_is_refused(corpora_of_the_paper):
    few = {"mos": [3.0] * 200, "corpus": ["NISQA_TEST_LIVETALK"] * 200}
    with pytest.raises(ValueError, match=r"w2v_ger needs 185 \+ 47 = 232 clips of livetalk, got 200"):
        training_set("w2v_ger", few)
    with pytest.raises(ValueError, match="w2v_1k needs corpora named like pstn, tencent; the corpora here are NISQA_TEST_LIVETALK"):
        training_set("w2v_1k", few)
    with pytest.raises(ValueError, match=r"Expected one of w2v_ger, .* got 'w2v_fr'"):
        training_set("w2v_fr", few)
    bvcc = {"mos": [3.0] * 3, "corpus": ["bvcc"] * 3, "split": ["train", "train", "validation"]}
    with pytest.raises(ValueError, match="other counts in the paper: expected train 4974, got 2; validation 1066, got 1"):
        training_set("w2v_base", bvcc)
