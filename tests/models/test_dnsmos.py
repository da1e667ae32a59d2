"""DNSMOS: parity with the package `speechmos`, its windows and the slip in them, tiling, sharing, the published files."""

import struct

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

import hf_sqa
from hf_sqa import DNSMOS, DNSMOSConfig
from hf_sqa.audio import AudioError, load_recording
from hf_sqa.models.dnsmos.configuration_dnsmos import POLYNOMIALS
from hf_sqa.models.dnsmos.convert_dnsmos import P808_FILE, P835_FILES, WHEEL, convert, convert_initializers, read_initializers
from hf_sqa.models.dnsmos.networks_dnsmos import MelPower, relative_levels
from hf_sqa.training.model import freeze
from tests.parity.signals import signal

RATE = 16_000
SKIPPED = [*range(7, 24), *range(119, 123)]


@pytest.fixture(scope="module")
def published():
    """The converted default variant."""
    try:
        return convert()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return DNSMOS(DNSMOSConfig.tiny()).eval()


def scored(model, waveform, **options):
    recording = load_recording(waveform, input_sampling_rate=RATE)
    return model.score_recordings([recording], model.make_feature_extractor(), **options)[0]


# ---- Parity


def test_every_window_of_a_long_recording_has_the_score_of_the_package(published, shared):
    reference = np.load(shared / "reference" / "dnsmos_intermediates.npz")
    expected = np.column_stack([reference["voiced_20s_sig_bak_ovrl"], reference["voiced_20s_p808"]])

    whole = scored(published, signal("voiced_20s")[0], mode="whole")

    np.testing.assert_allclose(whole.segment_scores[:11], expected, rtol=0, atol=1e-4)
    # What the package gives when its slices are cut by whole numbers.
    np.testing.assert_allclose(whole.segment_scores[:11].mean(axis=0), [2.41050, 3.32393, 1.96994, 2.84370], rtol=0, atol=1e-4)
    kept = np.flatnonzero(reference["voiced_20s_kept"])
    np.testing.assert_array_equal(published.window_starts(320_000)[0], kept * RATE)


def test_the_mel_levels_are_those_of_librosa(published, shared):
    expected = np.load(shared / "reference" / "dnsmos_intermediates.npz")["voiced_3s_mel0"]
    window = np.tile(signal("voiced_3s")[0], 4)[:144_160]
    window = torch.from_numpy(np.concatenate([window[:-160], np.zeros(160, np.float32)]))

    levels = relative_levels(published.mel_power.of_spans(window[None]))[0]

    np.testing.assert_allclose(levels.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", list(P835_FILES))
def test_the_networks_give_the_raw_outputs_of_onnxruntime(variant, published):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = convert(variant)
    model.config.score_polynomials = None
    waveform = np.resize(signal("noisy_3s")[0], 144_160)[None]
    p835, p808 = (
        onnxruntime.InferenceSession(WHEEL.file(name), providers=["CPUExecutionProvider"])
        for name in (P835_FILES[variant], P808_FILE)
    )
    padded = np.concatenate([waveform[:, :-160], np.zeros((1, 160), np.float32)], axis=1)

    with torch.no_grad():
        found = model.score_windows(torch.from_numpy(waveform))[0].numpy()
        levels = relative_levels(model.mel_power.of_spans(torch.from_numpy(padded))).numpy()

    expected = [*p835.run(None, {"input_1": waveform})[0][0], p808.run(None, {"input_1": levels})[0][0, 0]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


# ---- Windows


def test_the_published_windows_are_skipped_where_rounding_makes_them_a_sample_too_short():
    model = DNSMOS(DNSMOSConfig.tiny(window_samples=144_160, hop_samples=16_000, skip_windows=True))

    starts, repeats = model.window_starts(200 * RATE)

    assert repeats == 1
    assert sorted(set(range(191)) - set((starts // RATE).tolist())) == SKIPPED


@pytest.mark.parametrize(
    ("seconds", "expected", "repeats"),
    [
        (1, 7, 16),
        (3, 3, 4),
        (4.505, 1, 2),
        (7.8, 6, 2),
        (8.6, 7, 2),
        (9.01, 1, 1),
        (10.99, 1, 1),
        (20, 7, 1),
        (33.9, 7, 1),
        (34, 8, 1),
    ],
)
def test_there_are_as_many_windows_as_in_the_package(seconds, expected, repeats):
    model = DNSMOS(DNSMOSConfig.tiny(window_samples=144_160, hop_samples=16_000, skip_windows=True))

    starts, found = model.window_starts(round(seconds * RATE))

    assert (len(starts), found) == (expected, repeats)


@pytest.mark.parametrize("seconds", [9.01, 9.5, 10.99, 20, 33.9, 125.3])
def test_no_sample_is_left_out_where_windows_are_sound(seconds):
    model = DNSMOS(DNSMOSConfig.tiny(window_samples=144_160, hop_samples=16_000))
    num_samples = round(seconds * RATE)

    starts, _ = model.window_starts(num_samples)

    assert starts[0] == 0 and (np.diff(starts) <= 16_000).all() and (np.diff(starts) > 0).all()
    assert 0 <= num_samples - (starts[-1] + 144_160) < 320  # less than two spectra
    quirk = DNSMOS(DNSMOSConfig.tiny(window_samples=144_160, hop_samples=16_000, skip_windows=True))
    np.testing.assert_array_equal(quirk.window_starts(num_samples, "whole")[0], starts)


def test_what_lies_in_skipped_windows_is_heard_in_mode_whole_only(rng):
    torch.manual_seed(0)
    config = DNSMOSConfig.tiny(window_samples=144_160, hop_samples=16_000, skip_windows=True, id2label={0: "mos"})
    model = DNSMOS(config).eval()
    clean = (0.01 * rng.standard_normal(20 * RATE)).astype(np.float32)
    noisy = clean.copy()
    noisy[round(15.1 * RATE) :] *= 100

    (before,), (after,) = scored(model, clean).scores, scored(model, noisy).scores
    (whole_before,), (whole_after,) = scored(model, clean, mode="whole").scores, scored(model, noisy, mode="whole").scores

    assert after == pytest.approx(before, abs=1e-5)
    assert abs(whole_after - whole_before) > 0.01


@pytest.mark.parametrize("num_samples", [6_400, 6_401, 3_200, 1_650, 700, 6_560, 9_920, 20_000, 90_000])
def test_shared_convolutions_give_the_scores_of_windows_one_by_one(num_samples, tiny, rng):
    waveform = (0.1 * rng.standard_normal(num_samples)).astype(np.float32)
    starts, repeats = tiny.window_starts(num_samples)
    tiled = np.tile(waveform, repeats)
    windows = torch.from_numpy(np.stack([tiled[start : start + tiny.config.window_samples] for start in starts]))

    with torch.no_grad():
        expected = tiny.score_windows(windows).mean(dim=0).numpy()
        shared = tiny(torch.from_numpy(waveform)[None]).logits[0].numpy()

    trained = tiny(torch.from_numpy(waveform)[None]).logits[0].detach().numpy()
    np.testing.assert_allclose(shared, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(trained, expected, rtol=0, atol=1e-5)
    if num_samples > RATE // 4:  # shorter recordings are refused
        np.testing.assert_allclose(scored(tiny, waveform).scores, expected, rtol=0, atol=1e-5)


def test_a_short_recording_is_appended_to_itself_and_has_one_segment(tiny, rng):
    waveform = (0.1 * rng.standard_normal(4_500)).astype(np.float32)

    found = scored(tiny, waveform)

    assert (found.segment_starts.tolist(), found.segment_ends.tolist()) == ([0], [4_500])
    np.testing.assert_allclose(found.segment_scores[0], found.scores, rtol=0, atol=1e-6)


def test_a_batch_with_padding_tiles_every_row_by_its_own_length(tiny, rng):
    rows = [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in (2_000, 6_560, 9_000)]
    inputs = tiny.make_feature_extractor()(rows, sampling_rate=RATE, padding=True, return_tensors="pt")

    with torch.no_grad():
        together = tiny(**inputs).logits
        alone = torch.cat([tiny(torch.from_numpy(row)[None]).logits for row in rows])

    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_nothing_and_silence_get_no_score(tiny):
    with pytest.raises(ValueError, match="at least one sample in every recording"):
        tiny.window_starts(0)
    with pytest.raises(ValueError, match="at least one sample"):
        tiny(torch.zeros(1, 0))
    scorer = hf_sqa.AudioQualityPipeline(model=tiny, feature_extractor=tiny.make_feature_extractor(), device="cpu")
    for samples, code in ((np.zeros(RATE, np.float32), "silent"), (np.zeros(0, np.float32), "empty")):
        with pytest.raises(AudioError) as refused:
            scorer(samples, sampling_rate=RATE)
        assert refused.value.code == code


def test_the_mode_of_another_family_is_refused(tiny, rng):
    with pytest.raises(ValueError, match="one of published, whole"):
        scored(tiny, (0.1 * rng.standard_normal(8_000)).astype(np.float32), mode="fast")


# ---- Scores and options


def test_a_polynomial_applies_to_every_window_before_the_mean(tiny, rng):
    waveform = (0.1 * rng.standard_normal(30_000) * np.linspace(0, 5, 30_000)).astype(np.float32)
    squared = DNSMOS(DNSMOSConfig.tiny(score_polynomials={"bak": [1.0, 2.0, 3.0]})).eval()
    squared.load_state_dict(tiny.state_dict())
    raw = scored(tiny, waveform).segment_scores

    found = scored(squared, waveform).scores

    assert np.std(raw[:, 1]) > 1e-3
    np.testing.assert_allclose(found[1], np.mean(1 + 2 * raw[:, 1] + 3 * raw[:, 1] ** 2), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found[[0, 2, 3]], raw.mean(axis=0)[[0, 2, 3]], rtol=0, atol=1e-5)


def test_one_network_alone_has_the_scores_that_it_is_asked_for():
    assert not hasattr(DNSMOS(DNSMOSConfig.tiny(id2label={0: "mos"})), "p808_network")
    assert not hasattr(DNSMOS(DNSMOSConfig.tiny(id2label={0: "p808_mos"})), "network")


@pytest.mark.parametrize("names", [{0: "mos"}, {0: "p808_mos"}, {0: "sig", 1: "p808_mos"}], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_fine_tuning_freezes_is_there_and_leaves_the_dense_layers(names, device):
    model = DNSMOS(DNSMOSConfig.tiny(id2label=names))

    freeze(model, model.fine_tuning_defaults(device).freeze)

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[-2] for name in trained} >= {"score_head"}
    assert any("convs" in name for name in trained) == (device == "cuda")
    assert not any(name.startswith("spectrum") for name in trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id2label": {0: "p808_mos", 1: "sig"}}, "to be the last score"),
        ({"fft_size": 512}, "twice `fft_hop_samples`"),
        ({"window_samples": 16_000}, "`window_samples` to be a multiple of twice"),
        ({"hop_samples": 1_000}, "`hop_samples` to be a multiple of twice"),
        ({"hop_samples": 16_000}, "windows must not leave gaps"),
        ({"conv_pools": (3, 2)}, "ascending"),
        ({"p808_conv_pools": (1, 2, 3, 5)}, "`p808_conv_pools` to name one or more of the 4 convolutions"),
        ({"score_polynomials": {"quality": [0.0, 1.0]}}, "for scores of this model"),
        ({"score_polynomials": {"sig": [1.0]}}, "as coefficients"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        DNSMOSConfig.tiny(**options)


# ---- The published files


def test_the_variants_differ_in_weights_and_polynomials(published):
    personalised = convert("dnsmos-personalized")

    assert personalised.config.score_polynomials == POLYNOMIALS["dnsmos-personalized"]
    assert not torch.equal(personalised.network.score_head.weight, published.network.score_head.weight)
    assert torch.equal(personalised.p808_network.score_head.weight, published.p808_network.score_head.weight)
    assert published.config.skip_windows and published.config.checkpoint_name == "dnsmos"


def test_an_unknown_variant_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'dnsmos-personalized'"):
        convert("dnsmos-personalised")


def test_a_tensor_that_is_missing_or_unknown_is_named(published):
    p835, p808 = (read_initializers(WHEEL.file(name)) for name in (P835_FILES["dnsmos"], P808_FILE))

    with pytest.raises(ValueError, match="lacks the tensor 'conv2d_3/kernel:0'"):
        convert_initializers({name: tensor for name, tensor in p835.items() if name != "conv2d_3/kernel:0"}, p808, published)
    with pytest.raises(ValueError, match="Unknown tensors in the checkpoint: more"):
        convert_initializers(p835, p808 | {"more": np.zeros(2, np.float32)}, published)
    with pytest.raises(ValueError, match=r"'conv2d_5/bias:0' to give shape \(32,\), got \(5,\)"):
        convert_initializers(p835, p808 | {"conv2d_5/bias:0": np.zeros(5, np.float32)}, published)


def test_tensors_of_an_onnx_file_are_those_that_onnx_reads(tmp_path):
    onnx = pytest.importorskip("onnx")
    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    tensors = [
        onnx.numpy_helper.from_array(values, "raw"),
        onnx.helper.make_tensor("listed", onnx.TensorProto.FLOAT, values.shape, values.flatten().tolist()),
        onnx.numpy_helper.from_array(np.array([1, 2]), "whole numbers"),
        onnx.numpy_helper.from_array(np.float32(3), "no dimensions"),
    ]
    graph = onnx.helper.make_graph([], "graph", [], [], initializer=tensors)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")

    found = read_initializers(tmp_path / "model.onnx")

    assert sorted(found) == ["listed", "no dimensions", "raw"]
    np.testing.assert_array_equal(found["raw"], values)
    np.testing.assert_array_equal(found["listed"], values)
    assert found["no dimensions"].shape == () and found["no dimensions"] == 3


@pytest.mark.parametrize(
    "content",
    [
        b"not an ONNX file",
        b"",
        struct.pack("<B", 0x3A) + b"\xff\xff\xff\x0f",  # a graph of 33 MB that ends at once
        b"\x08" + b"\xff" * 12,  # a number without an end
    ],
)
def test_a_file_that_is_no_onnx_file_is_refused(content, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(ValueError, match="Expected an ONNX file"):
        read_initializers(tmp_path / "model.onnx")


def test_without_the_wheel_and_a_network_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    import importlib.metadata

    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    for module in ("hf_sqa.short_names", "hf_sqa.wheels"):
        monkeypatch.setattr(f"{module}.cached_assets_path", lambda library, namespace, subfolder: tmp_path / namespace / subfolder)

    with pytest.raises(FileNotFoundError, match=r"`hf-sqa download dnsmos` fetches them; so does `pip install --no-deps speechmos"):
        hf_sqa.pipeline("dnsmos", device="cpu")


def test_the_short_name_is_the_converted_checkpoint(published):
    scorer = hf_sqa.pipeline("dnsmos", device="cpu")
    waveform = signal("voiced_3s")[0]

    found = scorer(waveform, sampling_rate=RATE)

    assert scorer.model.config.score_polynomials == POLYNOMIALS["dnsmos"]
    expected = dict(zip(published.config.score_names, scored(published, waveform).scores, strict=True))
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_mel_filters_are_those_of_a_transform_of_odd_length():
    filters = MelPower(DNSMOSConfig())
    filters.reset_parameters()

    # The peaks lie in ascending bins, and the last one at 7,975 Hz, below half the rate, still counts.
    peaks = filters.bands.argmax(dim=0)
    assert (peaks.diff() >= 0).all() and filters.bands.shape == (161, 120)
    assert filters.bands[-1].any()
