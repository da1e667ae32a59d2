"""NISQA: the published scores, the front end, padding, conversion, training, and what a checkpoint promises."""

from __future__ import annotations

import collections
import datetime
import importlib.util
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline

from hf_sqa.audio import load_recording
from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.blocks.foreign_checkpoint import InertRecord, read_foreign_checkpoint
from hf_sqa.blocks.precision import reverse_rows
from hf_sqa.models.nisqa import NISQA, BiasAwareLoss, NISQAConfig, NISQAFeatureExtractor
from hf_sqa.models.nisqa.convert_nisqa import convert, original_name
from hf_sqa.models.nisqa.modeling_nisqa import adaptive_max_pool

SHARED = Path(__file__).parents[3] / "shared"
CONFERENCINGSPEECH = "conferencingspeech2022/"
CHECKPOINTS = {
    "nisqa": "nisqa/nisqa.tar",
    "nisqa_mos_only": "nisqa/nisqa_mos_only.tar",
    "nisqa_tts": "nisqa/nisqa_tts.tar",
    "nq_base1": CONFERENCINGSPEECH + "training_base_model_dff_vanilla_ep_050.tar",
    "nq_base2": CONFERENCINGSPEECH + "baseline2_retraining_NISQA_full_ep_080.tar",
}
NAMES = {
    "nisqa": "nisqa-v2",
    "nisqa_mos_only": "nisqa-v2-mos-only",
    "nisqa_tts": "nisqa-v1-tts",
    "nq_base1": "nq-base1",
    "nq_base2": "nq-base2",
}
VARIANTS = {
    "self_att": {},
    "lstm_last": {
        "segment_encoder": "standard",
        "segment_feature_size": 6,
        "time_encoder": "lstm",
        "pooling": "last_step_bi",
        "segment_hop_frames": 1,
        "id2label": {0: "mos"},
    },
    "dense_avg": {"segment_encoder": "dff", "segment_feature_size": 6, "time_encoder": "lstm", "pooling": "avg"},
    "lstm_att": {"segment_feature_size": 5, "time_encoder": "lstm"},
}


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"needs {SHARED / path}, which is not part of the project")
    return SHARED / path


@pytest.fixture(scope="module")
def reference():
    return json.loads(shared("reference/reference.json").read_text())


@pytest.fixture(scope="module")
def make_inputs():
    spec = importlib.util.spec_from_file_location("make_inputs", shared("reference/make_inputs.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published():
    """Converted checkpoints by key, each built once."""
    models = {}

    def get(key: str) -> tuple[NISQA, NISQAFeatureExtractor]:
        if key not in models:
            model = convert(shared("checkpoints/" + CHECKPOINTS[key]))
            models[key] = model, NISQAFeatureExtractor.from_config(model.config)
        return models[key]

    return get


def noise(num_samples: int, seed: int = 0, gain: float = 0.1) -> np.ndarray:
    return (gain * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def tiny(variant: str = "self_att", seed: int = 0, **options) -> NISQA:
    """A random model whose batch norms have seen data, so that features differ between inputs."""
    torch.manual_seed(seed)
    model = NISQA(NISQAConfig.tiny(**VARIANTS[variant], **options))
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(10 * torch.randn(4, 40, 16) - 40)
    return model.eval()


def extractor(model: NISQA) -> NISQAFeatureExtractor:
    return NISQAFeatureExtractor.from_config(model.config)


# Published scores


def reference_waveform(name: str, reference, make_inputs) -> tuple[np.ndarray, int]:
    if name.startswith("genspeech-mfall-dir3-"):
        return soundfile.read(shared(f"data/genspeech/{name.rsplit('-', 1)[1]}.wav"), dtype="float32")
    entry = reference["inputs"][name]
    return make_inputs.f32(make_inputs.make(entry["kind"], entry["n"] / entry["sr"], entry["sr"])), entry["sr"]


@pytest.mark.parametrize("key", CHECKPOINTS)
def test_published_checkpoints_give_the_scores_of_the_original(key, published, reference, make_inputs):
    model, feature_extractor = published(key)
    assert model.config.checkpoint_name == NAMES[key]
    checked = 0
    for name, expected in reference["nisqa"][key].items():
        if isinstance(expected, dict) and "error" in expected:
            continue  # longer than the original's limit of segments
        waveform, sampling_rate = reference_waveform(name, reference, make_inputs)
        spectrum = torch.from_numpy(feature_extractor.log_mel([waveform], sampling_rate))
        with torch.inference_mode():
            scores = model.score_spectrum(spectrum).numpy()
        expected = list(expected.values()) if isinstance(expected, dict) else [expected]
        np.testing.assert_allclose(scores, expected, atol=1e-4, err_msg=f"{key} {name}")
        checked += 1
    assert checked >= 20


def test_columns_follow_the_published_order(published):
    model, _ = published("nisqa")
    assert model.config.score_names == ["mos", "noisiness", "discontinuity", "coloration", "loudness"]
    assert published("nisqa_tts")[0].config.score_names == ["mos"]


def test_recordings_beyond_the_original_limit_of_segments_are_scored(published, reference, make_inputs):
    model, feature_extractor = published("nisqa")
    waveform, sampling_rate = reference_waveform("noise_65s", reference, make_inputs)
    recording = load_recording({"array": waveform, "sampling_rate": sampling_rate})
    scores = model.score_recordings([recording], feature_extractor)[0].scores
    # Stationary noise: 65 s of it sound like 20 s.
    np.testing.assert_allclose(scores, list(reference["nisqa"]["nisqa"]["noise_20s"].values()), atol=0.03)


# Front end


def textbook_log_mel(waveform: np.ndarray, sampling_rate: int, top_hz: float = 20_000.0) -> np.ndarray:
    """The specification written down once more, slowly: double precision, whole zero-padded windows, filters from their formula."""
    fft_size, hop, window = 4096, int(sampling_rate * 0.01), int(sampling_rate * 0.02)
    padded = np.pad(waveform.astype(np.float64), fft_size // 2, mode="reflect")
    taper = np.zeros(fft_size)
    left = (fft_size - window) // 2
    taper[left : left + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = [padded[start : start + fft_size] * taper for start in range(0, len(waveform) + 1, hop)]
    magnitude = np.abs(np.fft.rfft(np.array(frames)))

    def to_mel(hz):  # Slaney: linear up to 1000 Hz, logarithmic above
        return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4))

    mels = np.linspace(0, to_mel(np.array(top_hz)), 50)
    edges = np.where(mels < 15, 200 * mels / 3, 1000 * np.exp(np.log(6.4) * (mels - 15) / 27))
    hz = np.arange(fft_size // 2 + 1) * sampling_rate / fft_size
    amplitude = np.zeros((len(magnitude), 48))
    for band in range(48):
        low, centre, high = edges[band : band + 3]
        triangle = np.maximum(0, np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)))
        amplitude[:, band] = magnitude @ triangle * 2 / (high - low)
    decibels = 20 * np.log10(np.maximum(amplitude, 1e-4))
    return np.maximum(decibels, decibels.max() - 80)


@pytest.mark.parametrize("sampling_rate", [8000, 16_000, 22_050, 44_100, 48_000])
def test_spectrum_is_the_specified_one_at_the_native_rate(sampling_rate):
    waveform = noise(sampling_rate // 2 + 37) * np.linspace(0, 1, sampling_rate // 2 + 37, dtype=np.float32)
    spectrum = NISQAFeatureExtractor().log_mel([waveform], sampling_rate)
    expected = textbook_log_mel(waveform, sampling_rate)
    assert spectrum.shape == expected.shape and spectrum.dtype == np.float32
    np.testing.assert_allclose(spectrum, expected, atol=0.01)


def test_spectrum_does_not_depend_on_how_the_recording_is_cut_into_blocks():
    waveform, feature_extractor = noise(30_011), NISQAFeatureExtractor()
    whole = feature_extractor.log_mel([waveform], 16_000)
    for sizes in ([1] * 400 + [29_611], [159, 1, 20_000, 9851], [10_000, 0, 20_010, 1], [30_010, 1]):
        blocks = np.split(waveform, np.cumsum(sizes)[:-1])
        np.testing.assert_allclose(feature_extractor.log_mel(blocks, 16_000), whole, atol=1e-3)


def test_quiet_parts_are_raised_to_80_db_below_the_loudest():
    waveform = np.concatenate([np.zeros(8000, np.float32), noise(8000, gain=0.9)])
    spectrum = NISQAFeatureExtractor().log_mel([waveform], 16_000)
    assert spectrum.min() == pytest.approx(max(-80.0, spectrum.max() - 80), abs=1e-4)
    silence = NISQAFeatureExtractor().log_mel([np.zeros(8000, np.float32)], 16_000)
    assert (silence == -80).all()


def test_one_batch_may_hold_recordings_at_different_rates():
    feature_extractor = NISQAFeatureExtractor()
    low, high = noise(16_000), noise(96_000, seed=1)
    batch = feature_extractor([low, high], [16_000, 48_000], return_tensors="pt")
    assert batch["input_features"].shape == (2, 201, 48)
    assert batch["attention_mask"].sum(dim=1).tolist() == [101, 201]
    np.testing.assert_array_equal(batch["input_features"][0, :101], feature_extractor.log_mel([low], 16_000))


def test_a_missing_rate_is_refused():
    with pytest.raises(ValueError, match="Expected `sampling_rate` beside the waveform"):
        NISQAFeatureExtractor()(noise(16_000))


def test_a_rate_too_high_for_the_transform_is_refused():
    with pytest.raises(ValueError, match=r"between 100 and 204800 Hz .* got 384000 Hz"):
        NISQAFeatureExtractor()(noise(384_000), sampling_rate=384_000)


def test_an_extractor_with_a_rate_of_its_own_refuses_others():
    feature_extractor = NISQAFeatureExtractor(native_rate=False)
    assert feature_extractor(noise(48_000))["input_features"][0].shape == (101, 48)
    with pytest.raises(ValueError, match="Expected audio sampled at 48000 Hz, got 16000 Hz"):
        feature_extractor(noise(48_000), sampling_rate=16_000)


def test_stereo_is_refused():
    with pytest.raises(ValueError, match="Expected mono waveforms"):
        NISQAFeatureExtractor()([noise(32_000).reshape(2, -1)], sampling_rate=16_000)


@pytest.mark.parametrize("num_samples", [0, 1, 160, 2239])
def test_a_recording_too_short_for_a_segment_says_how_long_it_has_to_be(num_samples):
    with pytest.raises(ValueError, match=rf"at least 2240 samples \(0.140 s at 16000 Hz\).* got {num_samples} samples"):
        NISQAFeatureExtractor()([noise(num_samples)], sampling_rate=16_000)
    assert NISQAFeatureExtractor()(noise(2240), sampling_rate=16_000)["input_features"][0].shape == (15, 48)


# Model


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_and_neighbours_do_not_change_a_score(variant):
    model = tiny(variant)
    feature_extractor = extractor(model)
    lengths = [2240, 2240 + 3 * 160, 2240 + 4 * 160, 9000, 16_000, 12_345]
    waveforms = [noise(length, seed) for seed, length in enumerate(lengths)]
    batch = feature_extractor(waveforms, sampling_rate=16_000, pad_to_multiple_of=64, return_tensors="pt")
    batch["input_features"][batch["attention_mask"] == 0] = 1e4
    with torch.no_grad():
        together = model(**batch).logits
        alone = [
            model(**feature_extractor(waveform, sampling_rate=16_000, return_tensors="pt")).logits[0] for waveform in waveforms
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=0)
    assert together.std(dim=0).min() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_recordings_are_scored_as_forward_scores_them(variant, monkeypatch):
    monkeypatch.setattr("hf_sqa.models.nisqa.modeling_nisqa.LSTM_STEPS_PER_CALL", 7)
    monkeypatch.setattr("hf_sqa.models.nisqa.modeling_nisqa.SEGMENTS_PER_CALL", {"cpu": 5})
    model = tiny(variant)
    feature_extractor = extractor(model)
    recordings = [
        load_recording({"array": noise(rate, seed), "sampling_rate": rate})
        for seed, rate in enumerate((8000, 16_000, 44_100, 48_000))
    ]
    results = model.score_recordings(recordings, feature_extractor)
    for recording, result in zip(recordings, results, strict=True):
        inputs = feature_extractor(recording.waveform, sampling_rate=recording.sampling_rate, return_tensors="pt")
        expected = model(**inputs).logits[0].detach().numpy()
        np.testing.assert_allclose(result.scores, expected, atol=1e-5)
        assert result.segment_starts.tolist() == [0] and result.segment_ends.tolist() == [recording.num_samples]


def test_segments_are_counted_as_in_the_original():
    model = tiny()
    for num_frames in range(15, 40):
        segments = model.cut_segments(torch.zeros(1, num_frames, 16))
        assert segments.shape == (1, -(-(num_frames - 14) // 4), 16, 15)
    ramp = torch.arange(40.0)[None, :, None].expand(1, 40, 16)
    assert model.cut_segments(ramp)[0, 2, 0].tolist() == list(range(8, 23))


def test_too_few_frames_are_refused_with_and_without_a_mask():
    model = tiny()
    with pytest.raises(ValueError, match="at least 15 frames"):
        model(torch.zeros(1, 14, 16))
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, 10:] = 0
    with pytest.raises(ValueError, match=r"at least 15 frames in every recording.*got 10"):
        model(torch.zeros(2, 20, 16), mask)


def test_other_shapes_of_input_are_refused():
    with pytest.raises(ValueError, match=r"shape \(batch_size, num_frames, 16\), got \(1, 40, 48\)"):
        tiny()(torch.zeros(1, 40, 48))


def test_pooling_agrees_with_torch():
    hidden = torch.randn(2, 3, 48, 15)
    for size in ((24, 7), (12, 5), (6, 3), (48, 15), (1, 1), (5, 4)):
        torch.testing.assert_close(adaptive_max_pool(hidden, size), F.adaptive_max_pool2d(hidden, size), atol=0, rtol=0)


def test_an_lstm_is_one_layer_without_attention():
    model = tiny("dense_avg")
    spectra = torch.randn(2, 40, model.config.num_mel_bins)

    states = model(spectra, output_hidden_states=True).hidden_states

    assert len(states) == 2 and states[1].shape[2] == 2 * model.config.hidden_size
    with pytest.raises(ValueError, match="got one with an LSTM: it has none"):
        model(spectra, output_attentions=True)


def test_reversing_leaves_padding_in_place():
    features = torch.tensor([[1.0, 2, 3, 9, 9], [1, 2, 3, 4, 5]])[..., None]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    assert reverse_rows(features, mask.sum(dim=1))[..., 0].tolist() == [[3, 2, 1, 9, 9], [5, 4, 3, 2, 1]]


def test_the_two_directions_equal_a_bidirectional_lstm():
    model = tiny("dense_avg")
    encoder = model.time_encoder
    both = torch.nn.LSTM(6, 8, batch_first=True, bidirectional=True)
    for name, tensor in encoder.forward_lstm.named_parameters():
        getattr(both, name).data = tensor.data
    for name, tensor in encoder.backward_lstm.named_parameters():
        getattr(both, name + "_reverse").data = tensor.data
    features, lengths = torch.randn(3, 11, 6), torch.tensor([11, 4, 7])
    packed = torch.nn.utils.rnn.pack_padded_sequence(features, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)
    mask = torch.arange(11) < lengths[:, None]
    torch.testing.assert_close(encoder(features, mask)[mask], expected[mask], atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_reaches_every_parameter(variant):
    torch.manual_seed(0)
    model = NISQA(NISQAConfig.tiny(**VARIANTS[variant])).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    features, mask = 10 * torch.randn(4, 60, 16) - 40, torch.ones(4, 60, dtype=torch.long)
    mask[1, 30:] = 0
    labels = torch.full((4, model.config.num_labels), 3.0)
    labels[0] = torch.nan
    output = model(features, mask, labels)
    output.loss.backward()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # A softmax does not see what is added to all of its inputs.
        if not name.endswith(("attention_score.bias", "k_proj.bias")):
            assert not torch.equal(parameter, before[name]), name


def test_padding_does_not_reach_the_batch_norms():
    statistics = []
    for filler in (0.0, 1e4):
        torch.manual_seed(0)
        model = NISQA(NISQAConfig.tiny(segment_dropout=0.0, dropout=0.0)).train()
        features, mask = 10 * torch.randn(2, 60, 16) - 40, torch.ones(2, 60, dtype=torch.long)
        mask[1, 30:] = 0
        features[1, 30:] = filler
        model(features, mask)
        statistics.append(torch.cat([layer.norm.running_mean for layer in model.segment_encoder.layers]))
    torch.testing.assert_close(statistics[0], statistics[1])


def test_labels_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected labels of shape \(2, 5\)"):
        tiny()(torch.zeros(2, 40, 16), labels=torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_encoder": "cnn"}, "`segment_encoder` to be one of adapt, standard, dff"),
        ({"pooling": "last_step_bi"}, "a transformer has no last state"),
        ({"segment_encoder": "dff"}, "Expected `segment_feature_size`"),
        ({"num_attention_heads": 3}, "multiple of `num_attention_heads`"),
        ({"segment_hop_frames": 16}, "must not leave gaps"),
        ({"conv_pool_sizes": [[24, 7], [12, 5]]}, "three pairs"),
        ({"conv_channels": [16, 32]}, "three numbers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(StrictDataclassError, match=message):
        NISQAConfig(**options)


def test_misspelled_options_are_refused():
    with pytest.raises(TypeError, match="did you mean 'segment_dropout'"):
        NISQAConfig(segment_dropuot=0.1)


# Checkpoints


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_model_scores_bit_for_bit_the_same(variant, tmp_path):
    model = tiny(variant)
    extractor(model).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    preprocessing = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preprocessing["feature_size"] == 16 and preprocessing["fft_size"] == 1024
    assert preprocessing["max_frequency_hz"] == 20_000 and preprocessing["segment_frames"] == 15
    waveform = noise(16_000)
    expected = model(**extractor(model)(waveform, sampling_rate=16_000, return_tensors="pt")).logits
    junk = [torch.full((1000,), 7.0) for _ in range(50)]
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == model.config.to_dict() | {"dtype": "float32"} or junk
    feature_extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(feature_extractor, NISQAFeatureExtractor)
    inputs = feature_extractor(waveform, sampling_rate=16_000, return_tensors="pt")
    for auto_class in (AutoModelForAudioQuality, AutoModel):
        loaded = auto_class.from_pretrained(tmp_path)
        assert isinstance(loaded, NISQA) and not loaded.training
        torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=0, atol=1e-5)


def test_weights_missing_from_a_checkpoint_to_train_are_initialised(tmp_path):
    model = tiny("dense_avg")
    model.save_pretrained(tmp_path, state_dict={name: tensor for name, tensor in model.state_dict().items() if "pools" in name})
    loaded = NISQA.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    for name, tensor in loaded.state_dict().items():
        assert torch.isfinite(tensor.float()).all() and tensor.abs().max() < 2, name
    for name, parameter in loaded.named_parameters():
        if "norm" not in name and parameter.numel() > 1:
            assert parameter.std() > 0, name


def test_bfloat16_stays_within_two_hundredths(published, reference, make_inputs, tmp_path):
    model, feature_extractor = published("nisqa")
    model.save_pretrained(tmp_path)
    half = NISQA.from_pretrained(tmp_path, dtype=torch.bfloat16)
    names = ("noise_3s", "chirp_3s", "voiced_3s", "genspeech-mfall-dir3-ref", "genspeech-mfall-dir3-speex")
    recordings = []
    for name in names:
        waveform, sampling_rate = reference_waveform(name, reference, make_inputs)
        recordings.append(load_recording({"array": waveform, "sampling_rate": sampling_rate}))
    for one, other in zip(
        model.score_recordings(recordings, feature_extractor), half.score_recordings(recordings, feature_extractor), strict=True
    ):
        np.testing.assert_allclose(one.scores, other.scores, atol=0.02)


def test_the_stock_pipeline_works_once_the_extractor_has_a_rate():
    model = tiny()
    stock = pipeline(
        "audio-classification",
        model=model,
        feature_extractor=NISQAFeatureExtractor.from_config(NISQAConfig.tiny(sampling_rate=16_000)),
        top_k=None,
        device="cpu",
    )
    waveform = noise(16_000)
    recording = load_recording({"array": waveform, "sampling_rate": 16_000})
    expected = model.score_recordings([recording], model.make_feature_extractor())[0].scores
    found = {row["label"]: row["score"] for row in stock({"raw": waveform, "sampling_rate": 16_000})}
    np.testing.assert_allclose([found[name] for name in model.config.score_names], expected, atol=1e-5)


# Conversion

ORIGINAL_ARGS = {
    "model": "NISQA_DIM",
    "td_2": "skip",
    "double_ended": False,
    "ms_sr": None,
    "ms_n_fft": 1024,
    "ms_hop_length": 0.01,
    "ms_win_length": 0.02,
    "ms_n_mels": 16,
    "ms_fmax": 20000,
    "ms_seg_length": 15,
    "ms_seg_hop_length": 4,
    "cnn_model": "adapt",
    "cnn_fc_out_h": None,
    "cnn_dropout": 0.2,
    "cnn_kernel_size": (3, 3),
    "cnn_c_out_1": 4,
    "cnn_c_out_2": 6,
    "cnn_c_out_3": 8,
    "cnn_pool_1": [8, 7],
    "cnn_pool_2": [4, 5],
    "cnn_pool_3": [2, 3],
    "td": "self_att",
    "td_sa_pos_enc": False,
    "td_sa_d_model": 8,
    "td_sa_nhead": 1,
    "td_sa_num_layers": 2,
    "td_sa_h": 12,
    "td_sa_dropout": 0.1,
    "pool": "att",
    "pool_att_h": 12,
}


def original_state_dict(model: NISQA) -> dict[str, torch.Tensor]:
    """Tensors of a model under the names of the original, which its code loads."""
    parts: dict[str, list[torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        parts.setdefault(original_name(name, model.config), []).append(tensor)
    return {source: torch.cat(tensors) if len(tensors) > 1 else tensors[0].clone() for source, tensors in parts.items()}


def original_checkpoint(**changes) -> dict:
    """What the original code would save for the tiny model."""
    return {"args": ORIGINAL_ARGS | changes, "model_state_dict": collections.OrderedDict(original_state_dict(tiny()))}


@pytest.mark.parametrize("zipped", [True, False])
def test_every_tensor_goes_there_and_back(zipped, tmp_path):
    content = original_checkpoint()
    torch.save(content, tmp_path / "mine.tar", _use_new_zipfile_serialization=zipped)
    converted = convert(tmp_path / "mine.tar")
    assert converted.config.checkpoint_name == "mine"
    for name, tensor in tiny().state_dict().items():
        assert torch.equal(converted.state_dict()[name], tensor), name
    back = original_state_dict(converted)
    assert back.keys() == content["model_state_dict"].keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in content["model_state_dict"].items())
    assert back["time_dependency.model.layers.1.self_attn.in_proj_weight"].shape == (24, 8)


@pytest.mark.parametrize("key", CHECKPOINTS)
def test_every_published_tensor_goes_there_and_back(key, published):
    original = read_foreign_checkpoint(shared("checkpoints/" + CHECKPOINTS[key]))["model_state_dict"]
    back = original_state_dict(published(key)[0])
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in original.items())


def save_and_convert(content, folder: Path) -> NISQA:
    torch.save(content, folder / "broken.tar")
    return convert(folder / "broken.tar")


def test_a_missing_tensor_is_named(tmp_path):
    content = original_checkpoint()
    del content["model_state_dict"]["cnn.model.bn3.running_var"]
    with pytest.raises(ValueError, match=r"lacks the tensor 'cnn.model.bn3.running_var'"):
        save_and_convert(content, tmp_path)


def test_a_tensor_of_another_shape_is_named(tmp_path):
    content = original_checkpoint()
    content["model_state_dict"]["pool_layers.2.model.linear1.weight"] = torch.zeros(12, 9)
    with pytest.raises(ValueError, match=r"'pool_layers.2.model.linear1.weight' to give shape \(12, 8\).*got \(12, 9\)"):
        save_and_convert(content, tmp_path)


def test_an_unknown_tensor_is_named(tmp_path):
    content = original_checkpoint()
    content["model_state_dict"]["cnn.model.conv7.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"Unknown tensors in the checkpoint: cnn\.model\.conv7\.weight"):
        save_and_convert(content, tmp_path)


class Payload:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_payload_is_refused_and_does_not_run(zipped, tmp_path):
    content = original_checkpoint(name=Payload(tmp_path / "ran"))
    torch.save(content, tmp_path / "evil.tar", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"names (posix|nt)\.system.* neither imported nor run"):
        convert(tmp_path / "evil.tar")
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_with_a_payload_does_not_run(tmp_path):
    (tmp_path / "evil.tar").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(ValueError, match="neither imported nor run"):
        convert(tmp_path / "evil.tar")
    assert not (tmp_path / "ran").exists()


def test_objects_of_known_libraries_are_left_unread(tmp_path):
    when = datetime.datetime(2022, 2, 28)
    content = original_checkpoint(now=when) | {"results": np.arange(5.0)}
    torch.save(content, tmp_path / "mine.tar")
    read = read_foreign_checkpoint(tmp_path / "mine.tar")
    assert isinstance(read["args"]["now"], InertRecord)
    assert not isinstance(read["results"], np.ndarray)
    assert isinstance(convert(tmp_path / "mine.tar"), NISQA)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "NISQA_DE"}, "option 'model' of the checkpoint to be 'NISQA' or 'NISQA_DIM', got 'NISQA_DE'"),
        ({"td_2": "lstm"}, "option 'td_2'"),
        ({"td_sa_pos_enc": True}, "option 'td_sa_pos_enc'"),
        ({"cnn_kernel_size": (3, 1)}, "3 by 3"),
    ],
)
def test_an_architecture_of_another_kind_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_and_convert(original_checkpoint(**change), tmp_path)


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none at"):
        convert(tmp_path / "absent.tar")
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(ValueError, match="Cannot read"):
        convert(tmp_path / "text.tar")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.tar")
    with pytest.raises(ValueError, match="found no 'args'"):
        convert(tmp_path / "other.tar")


# Bias-aware loss


def test_bias_aware_loss_on_an_example_worked_by_hand():
    loss = BiasAwareLoss(["lab", "crowd"], anchor_corpus="lab")
    corpora = ["lab", "lab", "crowd", "crowd", "crowd"]
    predictions = torch.tensor([[1.0], [3.0], [1.0], [2.0], [3.0]])
    labels = torch.tensor([[1.0], [4.0], [2.0], [2.5], [3.0]])  # the crowd rates 1.5 + 0.5 times the prediction
    # Before the update: (0 + 1 + 1 + 0.25 + 0) / 5.
    assert loss(predictions, labels, corpora).item() == pytest.approx(0.45)
    # r = 3.5 / sqrt(4 * 5) = 0.783 > 0.7: the crowd gets its line, the anchor keeps the identity.
    loss.update(predictions, labels, corpora)
    assert loss.offset[:, 0].tolist() == pytest.approx([0.0, 1.5]) and loss.slope[:, 0].tolist() == pytest.approx([1.0, 0.5])
    # The crowd is now met exactly; the lab's error of 1 remains: 1 / 5.
    assert loss(predictions, labels, corpora).item() == pytest.approx(0.2)


def test_bias_aware_loss_waits_for_a_correlation_and_then_keeps_fitting():
    loss = BiasAwareLoss(["a"])
    labels = torch.tensor([[1.0], [2.0], [3.0]])
    loss.update(torch.tensor([[2.0], [2.0], [2.0]]), labels, ["a"] * 3)
    loss.update(-labels, labels, ["a"] * 3)
    assert not loss.is_fitting.any() and loss.slope.item() == 1
    loss.update(2 * labels, labels, ["a"] * 3)
    assert loss.slope.item() == pytest.approx(0.5)
    loss.update(-labels, labels, ["a"] * 3)  # latched: fitted although the correlation is gone
    assert loss.slope.item() == pytest.approx(-1.0)


def test_bias_aware_loss_skips_missing_labels_and_corpora_that_lack_some():
    loss = BiasAwareLoss(["a", "b"], num_labels=2)
    logits = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, torch.nan], [2.0, 4.0], [3.0, 5.0]])
    value = loss(logits, labels, ["a", "b", "b"])
    assert value.item() == pytest.approx((4 + 4) / 2)  # first score met, second off by 2 in both rated rows
    value.backward()
    assert torch.isfinite(logits.grad).all()
    loss.update(logits.detach(), labels, ["a", "b", "b"])
    assert loss.slope[0, 1] == 1 and loss.offset[1, 1].item() == pytest.approx(2.0)


def test_bias_aware_loss_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="one of a, b, got 'c'"):
        BiasAwareLoss(["a", "b"], anchor_corpus="c")
    with pytest.raises(ValueError, match="got c too"):
        BiasAwareLoss(["a"])(torch.zeros(1, 1), torch.zeros(1, 1), ["c"])
    with pytest.raises(ValueError, match=r"shape \(1, 1\)"):
        BiasAwareLoss(["a"])(torch.zeros(1), torch.zeros(1), ["a"])


# Export


def test_a_model_exported_with_its_mask_scores_any_batch_and_length(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tiny(num_hidden_layers=1)
    inputs = {"input_features": torch.randn(2, 60, 16), "attention_mask": torch.ones(2, 60, dtype=torch.long)}
    dynamic = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in inputs}
    torch.onnx.export(model, kwargs=inputs, dynamo=True, dynamic_shapes=dynamic, verbose=False).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch_size, num_frames in ((1, 15), (3, 133)):
        mask = torch.ones(batch_size, num_frames, dtype=torch.long)
        mask[-1, max(15, num_frames // 2) :] = 0
        feed = {"input_features": 10 * torch.randn(batch_size, num_frames, 16) - 40, "attention_mask": mask}
        with torch.no_grad():
            expected = model(**feed).logits.numpy()
        scores = session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})[0]
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_exporting_a_masked_lstm_is_refused():
    model = tiny("dense_avg")
    inputs = (torch.randn(2, 60, 16), torch.ones(2, 60, dtype=torch.long))
    with pytest.raises(Exception, match="without `attention_mask`"):
        torch.export.export(model, inputs, strict=False)
