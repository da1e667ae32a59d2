"""Batches: what is cut, what is padded, and what becomes of a recording that cannot be read."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor

from hf_sqa.data.collator import AudioQualityCollator
from hf_sqa.training.examples import Augmentation, EpochBatches, RatedSpeech

EXTRACTOR = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)


def example(length, row=0, label=3.0, value=1.0, offset=0.5):
    return {
        "row": row,
        "labels": np.array([label], np.float32),
        "offset": offset,
        "failure": None,
        "waveform": np.full(length, value, np.float32),
        "sampling_rate": 16_000,
    }


def failed(row=0, label=3.0):
    return example(1, row, label) | {"waveform": None, "failure": ("lost.wav", "missing", "lost.wav: no such file")}


def test_padding_is_told_by_the_mask():
    batch = AudioQualityCollator(EXTRACTOR)([example(400), example(300, row=1)])

    assert batch["input_values"].shape == (2, 400)
    assert batch["attention_mask"].sum(dim=1).tolist() == [400, 300]
    assert batch["input_values"][1, 300:].abs().sum() == 0
    assert batch["labels"].shape == (2, 1)


def test_cropping_cuts_all_to_the_shortest():
    ramp = example(400) | {"waveform": np.arange(400, dtype=np.float32)}

    batch = AudioQualityCollator(EXTRACTOR, lengths="crop")([ramp, example(300)])

    assert batch["input_values"].shape == (2, 300)
    assert batch["input_values"][0, 0] == 50  # in the middle, as its offset of 0.5 says


def test_repeating_begins_again():
    ramp = example(300) | {"waveform": np.arange(300, dtype=np.float32)}

    batch = AudioQualityCollator(EXTRACTOR, lengths="repeat")([ramp, example(400)])

    assert batch["input_values"][0, 298:302].tolist() == [298, 299, 0, 1]


def test_windows_are_cut_or_followed_by_zeros_without_a_mask():
    batch = AudioQualityCollator(EXTRACTOR, window_samples=350)([example(400), example(300)])

    assert batch["input_values"].shape == (2, 350)
    assert "attention_mask" not in batch
    assert batch["input_values"][1, 300:].abs().sum() == 0


def test_clips_of_clearly_different_length_are_refused_where_equal_ones_were_promised():
    with pytest.raises(ValueError, match="Expected clips of equal length in a batch, got 4000 to 9000 samples"):
        AudioQualityCollator(EXTRACTOR, lengths="equal")([example(9000), example(4000)])


def test_an_unreadable_recording_keeps_its_place_without_a_label():
    batch = AudioQualityCollator(EXTRACTOR)([failed(row=7), example(400, row=8)])

    assert batch["input_values"].shape == (2, 400)
    assert torch.isnan(batch["labels"][0]).all() and batch["labels"][1] == 3
    assert batch["rows"].tolist() == [-1, 8]
    assert batch["failures"] == [("lost.wav", "missing", "lost.wav: no such file")]


def test_a_batch_of_which_nothing_could_be_read_is_still_a_batch():
    batch = AudioQualityCollator(EXTRACTOR)([failed(row=7), failed(row=8)])

    assert torch.isnan(batch["labels"]).all()
    assert torch.isfinite(batch["input_values"]).all()
    assert len(batch["failures"]) == 2


def test_several_rates_go_to_an_extractor_that_takes_them():
    from hf_sqa import NISQA, NISQAConfig

    extractor = NISQA(NISQAConfig.tiny()).make_feature_extractor()
    other = example(24_000) | {"sampling_rate": 48_000}

    batch = AudioQualityCollator(extractor)([example(8_000), other])

    assert batch["attention_mask"].sum(dim=1).tolist() == [51, 51]  # both half a second


# ---- Examples


def test_labels_that_are_missing_are_nan_and_rows_without_any_are_left_out_and_counted(rows):
    data = rows(4, scores=("mos", "noisiness"))
    data[1]["noisiness"] = None
    data[2]["mos"] = data[2]["noisiness"] = float("nan")

    examples = RatedSpeech(data, ["mos", "noisiness"], 16_000)

    assert len(examples) == 3
    assert np.isnan(examples.labels).tolist() == [[False, False], [False, True], [False, False]]
    assert examples.excluded == {"unrated": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mos": "good"}, "Expected numbers in the column 'mos' of the training data, got 'good'"),
        ({"mos": float("inf")}, "Expected finite scores"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(rows, change, message):
    data = rows(3)
    data[1] |= change

    with pytest.raises(ValueError, match=message):
        RatedSpeech(data, ["mos"], 16_000)


def test_a_score_without_a_column_is_named_with_the_columns_there_are(rows):
    with pytest.raises(ValueError, match=r"got none for loudness; its columns are .*mos"):
        RatedSpeech(rows(2), ["mos", "loudness"], 16_000)


def test_a_cut_is_another_one_every_epoch_and_the_same_in_every_run(rows):
    examples = RatedSpeech(rows(2), ["mos"], 16_000, max_seconds=0.3, seed=3)
    again = RatedSpeech(rows(2), ["mos"], 16_000, max_seconds=0.3, seed=3)

    first, second = examples[0, 0]["waveform"], examples[0, 1]["waveform"]

    assert len(first) == len(second) == 4_800
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again[0, 0]["waveform"])
    assert examples.num_longer() == 2


def test_augmentation_changes_a_share_of_the_clips_and_never_a_label(rows):
    from hf_sqa.degradations import Chain

    chain = Chain([{"kind": "white_noise", "snr_db": 10}])
    plain = RatedSpeech(rows(12), ["mos"], 16_000)
    noisy = RatedSpeech(rows(12), ["mos"], 16_000, augmentation=Augmentation(chain, 0.5))

    changed = [not np.array_equal(plain[row]["waveform"], noisy[row]["waveform"]) for row in range(12)]

    assert 2 <= sum(changed) <= 10
    assert np.array_equal(plain.labels, noisy.labels)


def test_corrupted_audio_is_an_example_with_a_reason(tmp_path):
    (tmp_path / "torn.wav").write_bytes(b"RIFF....WAVE")

    example = RatedSpeech([{"audio": str(tmp_path / "torn.wav"), "mos": 3.0}], ["mos"], 16_000)[0]

    source, code, message = example["failure"]
    assert example["waveform"] is None
    assert source.endswith("torn.wav") and code == "undecodable" and "torn.wav" in message


def test_audio_is_brought_to_the_rate_of_the_model(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(48_000), 48_000)

    example = RatedSpeech([{"audio": str(tmp_path / "a.wav"), "mos": 3.0}], ["mos"], 16_000)[0]

    assert len(example["waveform"]) == 16_000


# ---- Batches


@pytest.mark.parametrize("num_rows", [16, 17, 21, 23])
@pytest.mark.parametrize("options", [{}, {"seconds": np.linspace(1, 9, 23)}, {"groups": [index % 3 for index in range(23)]}])
def test_two_processes_divide_the_batches_of_one(num_rows, options):
    options = {name: value[:num_rows] for name, value in options.items()}
    one = EpochBatches(num_rows, 8, seed=1, **options)
    two = [EpochBatches(num_rows, 4, seed=1, process_index=index, num_processes=2, **options) for index in (0, 1)]
    for batches in (one, *two):
        batches.set_epoch(3)

    for whole, *parts in zip(one, *two, strict=True):
        assert sorted(key for part in parts for key in part if not key.is_filler) == sorted(whole)
        assert all(parts)
    assert len(one) == len(two[0]) == len(two[1])


def test_every_row_comes_once_an_epoch_in_another_order(rng):
    batches = EpochBatches(23, 4, seed=0, seconds=rng.random(23))
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        orders.append([draw.row for batch in batches for draw in batch])

    assert sorted(orders[0]) == sorted(orders[1]) == list(range(23))
    assert orders[0] != orders[1]


def test_similar_lengths_share_a_batch(rng):
    seconds = rng.random(64)

    spread = [np.ptp(seconds[rows]) for rows in EpochBatches(64, 8, seconds=seconds).global_batches(0)]

    assert max(spread) < 0.35 < np.ptp(seconds)


def test_only_rows_of_one_group_share_a_batch():
    groups = ["a", "b", "c"] * 7

    for rows in EpochBatches(21, 4, groups=groups).global_batches(0):
        assert len({groups[row] for row in rows}) == 1
