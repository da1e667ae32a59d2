"""MOSA-Net: parity with Keras, batches, losses, the converter and what it refuses."""

import copy
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel

from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.blocks.precision import reverse_rows
from hf_sqa.models.mosa_net import MOSANet, MOSANetConfig, trunk_mosa_net
from hf_sqa.models.mosa_net.heads_mosa_net import Scores, TaskHead, utterance_and_frame_loss
from hf_sqa.models.mosa_net.sincnet import sinc_band_edges, sinc_filters
from hf_sqa.models.mosa_net.trunk_mosa_net import Frames, MagnitudeSpectrum, lay_end_to_end, peak_normalize

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "checkpoints" / "layout_faithful" / "mosa_net"
#: Name in the file of the recorded outputs, at both levels, in column order.
OUTPUTS = (("PESQ_score", "Frame_score"), ("STOI_score", "Frame_stoi"), ("SDI_score", "Frame_sdi"))
LENGTHS = (16_000, 9_001, 27_200, 400)

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs shared/checkpoints/layout_faithful/mosa_net")


def padded(waveforms, fill=0.3):
    """Batch `(B, T)` and its mask; padding holds `fill`, which nothing may see."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=fill)
    return batch, (torch.arange(batch.shape[1]) < lengths[:, None]).long()


@pytest.fixture
def waveforms():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) * 0.1 for length in LENGTHS]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MOSANet(MOSANetConfig.tiny()).eval()


@pytest.fixture(scope="module")
def converted():
    from hf_sqa.models.mosa_net.convert_mosa_net import convert

    return convert(REFERENCE / "wsj.h5", sinc_edges="python3")


@pytest.fixture(scope="module")
def recorded():
    return {name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "wsj_io.npz").items()}


# Parity


@needs_reference
@torch.no_grad()
def test_scores_equal_those_of_the_keras_graph(converted, recorded):
    filter_bank = converted.trunk.filter_bank(recorded["wav"][..., 0])

    scores = converted.score_heads(converted.trunk.join(recorded["ps"], filter_bank, recorded["ssl"]))

    for column, (utterance, frame) in enumerate(OUTPUTS):
        torch.testing.assert_close(scores.logits[:, column], recorded[f"out_{utterance}"][:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(scores.frame_logits[..., column], recorded[f"out_{frame}"][..., 0], rtol=0, atol=3e-4)


@needs_reference
@torch.no_grad()
def test_a_padded_batch_gives_the_keras_scores_too(converted, recorded):
    waveform = recorded["wav"][..., 0]
    longer = torch.cat([waveform, torch.randn(1, 4000)], dim=1)
    batch, lengths = torch.cat([longer, longer]), torch.tensor([waveform.shape[1], longer.shape[1]])
    filter_bank = converted.trunk.filter_bank(batch, lengths)
    spectrum = torch.nn.functional.pad(recorded["ps"], (0, 0, 0, 16)).repeat(2, 1, 1)
    features = torch.nn.functional.pad(recorded["ssl"], (0, 0, 0, 12)).repeat(2, 1, 1)
    frame_lengths = (torch.tensor([65, 81]), converted.trunk.filter_bank.num_frames(lengths), torch.tensor([51, 63]))

    scores = converted.score_heads(converted.trunk.join(spectrum, filter_bank, features, frame_lengths))

    for column, (utterance, _) in enumerate(OUTPUTS):
        torch.testing.assert_close(scores.logits[:1, column], recorded[f"out_{utterance}"][:, 0], rtol=0, atol=1e-5)


@needs_reference
@torch.no_grad()
def test_the_attention_penalty_equals_the_keras_regulariser(converted, recorded):
    import h5py

    frames = converted.trunk.join(recorded["ps"], recorded["sinc"], recorded["ssl"])
    penalties = converted.score_heads(frames, with_penalties=True).penalties
    with h5py.File(REFERENCE / "wsj.h5") as file:
        # The attention's scalar bias is not ours to keep; in the original it is regularised like the weights.
        biases = [file[f"model_weights/{name}/{name}/{name}_Mul_ba:0"][0] for name in ("Attention", "Attention2", "Attention3")]

    total = 1e-4 * (penalties.sum() + sum(abs(float(bias)) for bias in biases))

    assert float(total) == pytest.approx(float(recorded["reg"]), rel=2e-5)


@needs_reference
@pytest.mark.parametrize("edges, file", [("python2", "sinc_py2.npz"), ("python3", "sinc_py3.npz")])
def test_band_edges_are_those_of_either_python(edges, file):
    expected = np.load(REFERENCE / file)

    lower, width = sinc_band_edges(257, 16_000, edges)

    np.testing.assert_array_equal(lower, expected["b1"])
    np.testing.assert_array_equal(width, expected["band"])


@needs_reference
def test_filters_and_their_outputs_are_the_recorded_ones(converted, recorded):
    np.testing.assert_allclose(sinc_filters(257, 251, 16_000, "python3").T, recorded["filters"][:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(converted.trunk.filter_bank(recorded["wav"][..., 0]), recorded["sinc"], rtol=0, atol=1e-4)


@needs_reference
@pytest.mark.parametrize("num_samples", [4000, 16123, 24500])
def test_spectrum_equals_librosa(num_samples):
    recorded = np.load(REFERENCE / "stft_librosa072.npz")
    waveform = torch.from_numpy(recorded[f"y{num_samples}"])[None]

    spectrum = MagnitudeSpectrum(512, 256)(peak_normalize(waveform))

    torch.testing.assert_close(spectrum[0], torch.from_numpy(recorded[f"s{num_samples}"]), rtol=0, atol=1e-5)


def test_the_last_band_starts_where_the_integer_division_puts_it():
    highest = {edges: float(sinc_band_edges(257, 16_000, edges)[0][-1]) * 16_000 for edges in ("python2", "python3")}

    assert highest == pytest.approx({"python2": 7621.17, "python3": 7917.17}, abs=0.01)


# Batches


@torch.no_grad()
@pytest.mark.parametrize("convolve_together", [False, True], ids=["row by row", "padded"])
def test_a_batch_gives_the_scores_of_one_by_one_at_both_levels(model, waveforms, monkeypatch, convolve_together):
    alone = [model(waveform[None]) for waveform in waveforms]
    if convolve_together:
        monkeypatch.setattr(trunk_mosa_net, "ROWS_PER_CALL", {})

    together = model(*padded(waveforms))

    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), rtol=0, atol=1e-6)
    for row, one in zip(together.frame_logits, alone, strict=True):
        num_frames = one.frame_logits.shape[1]
        torch.testing.assert_close(row[:num_frames], one.frame_logits[0], rtol=0, atol=1e-5)
        assert row[num_frames:].isnan().all()


@torch.no_grad()
def test_the_voicemos_variant_gives_the_scores_of_one_by_one_too(waveforms):
    sizes = MOSANetConfig.tiny().to_dict()
    names = ("encoder_config", "fft_size", "sinc_kernel_size", "conv_channels", "lstm_hidden_size", "hidden_size")
    torch.manual_seed(0)
    model = MOSANet(MOSANetConfig.voicemos(**{name: sizes[name] for name in names})).eval()

    alone = torch.cat([model(waveform[None]).logits for waveform in waveforms])

    torch.testing.assert_close(model(*padded(waveforms)).logits, alone, rtol=0, atol=1e-6)
    assert model.config.score_names == ["mos"] and ((alone > 0) & (alone < 5)).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["peak", "raw", "standardized"])
def test_padding_does_not_reach_the_encoder_whatever_its_input(waveforms, kind):
    torch.manual_seed(0)
    model = MOSANet(MOSANetConfig.tiny(encoder_input=kind)).eval()

    alone = torch.cat([model(waveform[None]).logits for waveform in waveforms])

    torch.testing.assert_close(model(*padded(waveforms)).logits, alone, rtol=0, atol=1e-6)


@torch.no_grad()
def test_precomputed_features_give_the_scores_of_the_encoder(model, waveforms):
    batch, mask = padded(waveforms)
    lengths = mask.sum(dim=1)
    features = model.encoder(peak_normalize(batch, lengths), attention_mask=mask).last_hidden_state
    expected = model(batch, mask).logits

    torch.testing.assert_close(model(batch, mask, ssl_features=features).logits, expected, rtol=0, atol=1e-6)
    frame_mask = torch.arange(features.shape[1]) < model.encoder._get_feat_extract_output_lengths(lengths)[:, None]
    given = model(batch, mask, ssl_features=features, ssl_attention_mask=frame_mask.long()).logits
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_gain_of_a_recording_does_not_change_its_score(model, waveforms):
    torch.testing.assert_close(model(waveforms[0][None] * 0.01).logits, model(waveforms[0][None]).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_digital_silence_has_a_finite_score(model):
    assert torch.isfinite(model(torch.zeros(1, 16_000)).logits).all()


def test_frames_are_counted_as_in_the_paper(model):
    assert model(torch.zeros(1, 16_000)).frame_logits.shape == (1, 63 + 63 + 49, 3)


def test_rows_are_laid_end_to_end_and_reversed_within_their_length():
    first, second = torch.tensor([[1.0, 2, 9], [1, 2, 3]])[..., None], torch.tensor([[5.0, 6], [5, 6]])[..., None]

    joined = lay_end_to_end(first, second, torch.tensor([2, 3]))[..., 0]

    assert joined[0, :4].tolist() == [1, 2, 5, 6] and joined[1].tolist() == [1, 2, 3, 5, 6]
    assert reverse_rows(joined[..., None], torch.tensor([4, 5]))[..., 0].tolist()[0][:4] == [6, 5, 2, 1]


# Loss


def test_a_head_weighs_frames_as_worked_by_hand():
    """Two frames (1, 0) and (0, 1), weights log 3 times the identity: each frame gives itself 3/4 and the other 1/4."""
    head = TaskHead(2, "linear", 1.0)
    with torch.no_grad():
        head.attention.weight.copy_(math.log(3) * torch.eye(2))
        head.frame_score.weight.copy_(torch.tensor([[4.0, 0.0]]))
        head.frame_score.bias.fill_(1.0)
    frames = Frames(torch.eye(2)[None], None)

    scores, attention = head(frames, keep_attention=True)

    torch.testing.assert_close(scores, torch.tensor([[4.0, 2.0]]))
    torch.testing.assert_close(attention, torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
    # A A' = [[.625, .375], [.375, .625]]: twice .375² + twice .375² from the identity, and 2 log² 3 of weights
    assert head.penalty(attention, None).item() == pytest.approx(4 * 0.375**2 + 2 * math.log(3) ** 2)


def test_loss_adds_recordings_and_frames_as_worked_by_hand():
    scores = Scores(torch.tensor([[2.0, 0.5], [3.0, 0.5]]), torch.tensor([[[1.0, 0.5], [3, 0.5]], [[3, 0.5], [9, 9]]]), None)
    mask = torch.tensor([[True, True], [True, False]])
    labels = torch.tensor([[1.0, float("nan")], [5.0, 0.0]])

    # first score: ((1 + (0 + 4) / 2) + (4 + 4)) / 2 = 5.5; second, rated once: 0.25 + 0.25
    config = MOSANetConfig.tiny(id2label={0: "first", 1: "second"})
    assert float(utterance_and_frame_loss(scores, mask, labels, config)) == pytest.approx(6.0)
    config.frame_loss_weight = 0.0
    assert float(utterance_and_frame_loss(scores, mask, labels, config)) == pytest.approx(2.75)
    # errors of the first score are halved: a quarter of 5.5
    config.frame_loss_weight, config.score_scales = 1.0, [2.0, 1.0]
    assert float(utterance_and_frame_loss(scores, mask, labels, config)) == pytest.approx(5.5 / 4 + 0.5)


def test_the_clipped_loss_has_its_margin_for_recordings_and_for_frames():
    scores, labels = Scores(torch.tensor([[2.0]]), torch.tensor([[[2.0], [2.0]]]), None), torch.tensor([[2.75]])

    # an error of 0.75 within the margin of 1, and beyond that of 0.5: once for the recording, once for its frames
    for margin, expected in ((1.0, 0.0), (0.5, 2 * 0.75**2)):
        config = MOSANetConfig.tiny(id2label={0: "mos"}, score_loss="clipped", clip_margin=margin)
        assert float(utterance_and_frame_loss(scores, None, labels, config)) == pytest.approx(expected)


def test_the_penalty_belongs_to_training_and_to_rated_recordings(waveforms):
    torch.manual_seed(0)
    model = MOSANet(MOSANetConfig.tiny(attention_penalty_weight=1.0, dropout=0.0)).eval()
    batch, labels = waveforms[0][None], torch.zeros(1, 3)
    plain = model(batch, labels=labels).loss

    penalised = model.train()(batch, labels=labels).loss
    unrated = model(batch, labels=torch.full((1, 3), float("nan"))).loss

    assert penalised > plain + 1
    assert unrated.item() == 0.0


def test_channels_of_the_features_are_on_one_scale_once_measured_and_stay_so_when_loaded(waveforms, tmp_path):
    torch.manual_seed(0)
    model = MOSANet(MOSANetConfig.tiny(standardize_ssl_features=True)).eval()
    needed_them = model.needs_bands

    model.measure_bands(waveform.numpy() for waveform in waveforms)

    seen = []
    model.trunk.bottleneck.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        scores = [model(waveform[None]).logits for waveform in waveforms]
    frames = torch.cat(seen)
    torch.testing.assert_close(frames.mean(dim=0), torch.zeros(frames.shape[1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(frames.std(dim=0, correction=0), torch.ones(frames.shape[1]), rtol=0, atol=1e-3)
    model.save_pretrained(tmp_path)
    loaded = MOSANet.from_pretrained(tmp_path)
    assert needed_them and not model.needs_bands and not loaded.needs_bands
    with torch.no_grad():
        torch.testing.assert_close(loaded(waveforms[0][None]).logits, scores[0], rtol=0, atol=1e-5)


def test_a_model_that_measures_nothing_says_so_and_silence_is_no_measure(model):
    standardizing = MOSANet(MOSANetConfig.tiny(standardize_ssl_features=True))

    with pytest.raises(ValueError, match="Expected a model that normalises its input"):
        model.measure_bands([])
    with pytest.raises(ValueError, match="Expected training speech of at least"):
        standardizing.measure_bands([np.zeros(5, np.float32)])


def test_heads_begin_at_the_scores_asked_for(model, waveforms):
    beginning = copy.deepcopy(model)
    for head in beginning.score_heads.values():
        torch.nn.init.zeros_(head.frame_score.weight)

    beginning.begin_at([2.9, 0.8, 0.4])  # PESQ, STOI behind a sigmoid, SDI

    with torch.no_grad():
        torch.testing.assert_close(beginning(waveforms[0][None]).logits, torch.tensor([[2.9, 0.8, 0.4]]))


def test_a_head_whose_score_nobody_rated_begins_where_it_was(model):
    beginning = copy.deepcopy(model)
    first, *others = beginning.score_heads.values()
    before = first.frame_score.bias.clone()

    beginning.begin_at([float("nan"), 0.8, 0.4])

    assert torch.equal(first.frame_score.bias, before)
    assert all(head.frame_score.bias.isfinite().all() for head in others)


def test_a_frozen_encoder_stays_frozen_through_loading_and_training(model, waveforms, tmp_path):
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForAudioQuality.from_pretrained(tmp_path).train()

    assert not any(parameter.requires_grad for parameter in reloaded.encoder.parameters())
    assert not reloaded.encoder.training and reloaded.trunk.training
    reloaded(waveforms[0][None], labels=torch.zeros(1, 3)).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in reloaded.trunk.parameters())


def test_training_on_a_batch_gives_the_gradient_of_its_recordings(waveforms):
    torch.manual_seed(0)
    model = MOSANet(MOSANetConfig.tiny(dropout=0.0)).train()
    labels = torch.tensor([[2.0, 0.5, 0.1], [3.0, 0.9, 0.4]])

    def gradient(*inputs, labels):
        model.zero_grad()
        model(*inputs, labels=labels).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    alone = [gradient(waveforms[row][None], labels=labels[row : row + 1]) for row in range(2)]

    together = gradient(*padded(waveforms[:2]), labels=labels)

    torch.testing.assert_close(together, sum(alone) / 2, rtol=1e-3, atol=1e-4)


# Converter


@pytest.fixture
def keras_file(tmp_path):
    """A copy of the reference file that a test may spoil."""
    if not REFERENCE.is_dir():
        pytest.skip("needs shared/checkpoints/layout_faithful/mosa_net")
    path = tmp_path / "wsj.h5"
    shutil.copyfile(REFERENCE / "wsj.h5", path)
    return path


def spoil(path, edit):
    import h5py

    with h5py.File(path, "r+") as file:
        edit(file["model_weights"])


def convert(path, **options):
    from hf_sqa.models.mosa_net.convert_mosa_net import convert

    return convert(path, **options)


def without(layer, weight):
    """Remove a tensor from a file, and from what its layer announces."""

    def edit(root):
        del root[layer][weight]
        root[layer].attrs["weight_names"] = [name for name in root[layer].attrs["weight_names"] if name.decode() != weight]

    return edit


@pytest.mark.parametrize(
    "layer, weight",
    [
        ("Attention2", "Attention2/Attention2_Mul_Wa:0"),
        ("Frame_sdi", "Frame_sdi/bias:0"),
        ("conv2d_7", "conv2d_7/kernel:0"),
        ("bidirectional_1", "bidirectional_1/backward_cu_dnnlstm_1/bias:0"),
        ("time_distributed_3", "time_distributed_3/kernel:0"),
    ],
)
def test_a_missing_tensor_is_named(keras_file, layer, weight):
    spoil(keras_file, without(layer, weight))

    with pytest.raises(ValueError, match=f"lacks the tensor '{layer}/.*{weight.rsplit('/', 1)[1].removesuffix(':0')}"):
        convert(keras_file)


def test_a_tensor_that_a_layer_announces_in_vain_is_named(keras_file):
    spoil(keras_file, lambda root: root["Attention"].pop("Attention/Attention_Mul_Wa:0"))

    with pytest.raises(ValueError, match=r"Attention/Attention_Mul_Wa:0.*damaged"):
        convert(keras_file)


@pytest.mark.parametrize(
    "name",
    [
        "Attention/Attention/Attention_Mul_Wa:0",
        "Attention3/Attention3/Attention3_Mul_ba:0",
        "conv2d_4/conv2d_4/kernel:0",
        "time_distributed_1/time_distributed_1/bias:0",
        "bidirectional_1/bidirectional_1/forward_cu_dnnlstm_1/kernel:0",
        "bidirectional_1/bidirectional_1/forward_cu_dnnlstm_1/recurrent_kernel:0",
        "bidirectional_1/bidirectional_1/backward_cu_dnnlstm_1/bias:0",
    ],
)
def test_a_tensor_of_another_shape_is_named(keras_file, name):
    def edit(root):
        shape = root[name].shape
        del root[name]
        root[name] = np.zeros((shape[0] + 1, *shape[1:]), np.float32)

    spoil(keras_file, edit)

    with pytest.raises(ValueError, match=name.split("/", 1)[1].removesuffix(":0").split("/")[-1]):
        convert(keras_file)


@pytest.mark.parametrize("announced", [True, False])
def test_an_extra_tensor_is_named(keras_file, announced):
    def edit(root):
        root["dropout_1/surprise:0"] = np.zeros(3, np.float32)
        if announced:
            root["dropout_1"].attrs["weight_names"] = [b"surprise:0"]

    spoil(keras_file, edit)

    with pytest.raises(ValueError, match=r"Unknown tensors.*dropout_1/surprise"):
        convert(keras_file)


def test_layers_numbered_from_elsewhere_give_the_same_model(keras_file):
    expected = convert(keras_file).state_dict()

    def edit(root):
        names = {f"conv2d_{k}": f"conv2d_{k + 12}" for k in range(1, 13)}
        names |= {"time_distributed_1": "time_distributed_9", "time_distributed_3": "time_distributed_11"}
        for old in sorted(names, key=lambda name: -int(name.rsplit("_", 1)[1])):
            root.move(old, names[old])
            root[names[old]].move(old, names[old])
            root[names[old]].attrs["weight_names"] = [
                weight.replace(old.encode(), names[old].encode()) for weight in root[names[old]].attrs["weight_names"]
            ]
        root.attrs["layer_names"] = [names.get(name.decode(), name.decode()).encode() for name in root.attrs["layer_names"]]

    spoil(keras_file, edit)

    for name, tensor in convert(keras_file).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_plain_lstm_file_gives_the_same_model(keras_file):
    """A plain layer holds transposed matrices and one bias; the recorded ones are re-laid as Keras's own converter does."""
    expected = convert(keras_file).state_dict()

    def edit(root):
        for direction in ("forward", "backward"):
            group = root[f"bidirectional_1/bidirectional_1/{direction}_cu_dnnlstm_1"]
            prefix = f"trunk.{direction}_lstm."
            bias = expected[prefix + "bias_ih_l0"] + expected[prefix + "bias_hh_l0"]
            for name, array in (
                ("kernel:0", expected[prefix + "weight_ih_l0"].T),
                ("recurrent_kernel:0", expected[prefix + "weight_hh_l0"].T),
                ("bias:0", bias),
            ):
                del group[name]
                group[name] = array.numpy()

    spoil(keras_file, edit)
    converted = convert(keras_file).state_dict()

    torch.testing.assert_close(converted["trunk.forward_lstm.weight_ih_l0"], expected["trunk.forward_lstm.weight_ih_l0"])
    torch.testing.assert_close(converted["trunk.backward_lstm.weight_hh_l0"], expected["trunk.backward_lstm.weight_hh_l0"])
    assert not converted["trunk.forward_lstm.bias_hh_l0"].any()


def test_the_voicemos_file_is_told_by_its_heads(keras_file):
    def edit(root):
        gone = ("Attention2", "Attention3", "Frame_stoi", "Frame_sdi")
        for layer in gone:
            del root[layer]
        root.attrs["layer_names"] = [name for name in root.attrs["layer_names"] if name.decode() not in gone]

    spoil(keras_file, edit)
    model = convert(keras_file)

    assert model.config.score_names == ["mos"] and list(model.config.score_scales) == [5.0]
    assert model.config.smooth_ssl_features and not model.config.bottleneck_relu and model.config.encoder_input == "raw"


def test_a_converted_model_is_saved_and_loaded_with_its_filters(keras_file, tmp_path):
    model = convert(keras_file)
    assert model.config.sinc_edges == "python2" and model.config.precomputed_features
    model.save_pretrained(tmp_path / "saved")
    batch, features = torch.randn(1, 16_000), torch.randn(1, 49, 1024)

    reloaded = AutoModelForAudioQuality.from_pretrained(tmp_path / "saved").eval()

    with torch.no_grad():
        torch.testing.assert_close(
            reloaded(batch, ssl_features=features).logits, model(batch, ssl_features=features).logits, rtol=0, atol=1e-6
        )


@pytest.fixture
def encoder_folder(tmp_path):
    """`encoder_folder(hidden_size)`: folder of a shallow HuBERT with features of that width."""

    def make(hidden_size):
        values = MOSANetConfig.tiny().encoder_config.to_dict()
        values |= {"hidden_size": hidden_size, "num_hidden_layers": 1, "num_conv_pos_embedding_groups": 16}
        encoder = AutoModel.from_config(type(MOSANetConfig.tiny().encoder_config)(**values))
        encoder.save_pretrained(tmp_path / f"encoder{hidden_size}")
        return str(tmp_path / f"encoder{hidden_size}")

    return make


@torch.no_grad()
def test_a_file_converted_with_its_encoder_scores_waveforms(keras_file, encoder_folder, waveforms):
    folder = encoder_folder(1024)

    model, without_encoder = convert(keras_file, encoder=folder), convert(keras_file)

    features = AutoModel.from_pretrained(folder).eval()(peak_normalize(waveforms[0][None])).last_hidden_state
    expected = without_encoder(waveforms[0][None], ssl_features=features).logits
    torch.testing.assert_close(model(waveforms[0][None]).logits, expected, rtol=0, atol=1e-5)
    assert not model.config.precomputed_features


def test_an_encoder_of_another_width_is_refused_with_the_tensor(keras_file, encoder_folder):
    with pytest.raises(ValueError, match=r"'time_distributed_1/kernel' to give shape \(512, 512\)"):
        convert(keras_file, encoder=encoder_folder(512))


def test_files_that_are_no_keras_files_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5")

    with pytest.raises(FileNotFoundError, match="Expected a Keras file at"):
        convert(tmp_path / "absent.h5")
    with pytest.raises(ValueError, match="which is not HDF5"):
        convert(tmp_path / "text.h5")


# Bad input


def test_audio_shorter_than_a_frame_is_refused_with_the_length_needed(model):
    with pytest.raises(ValueError, match=r"at least 400 samples \(25\.0 ms at 16000 Hz\).*got 399"):
        model(torch.zeros(1, 399))
    with pytest.raises(ValueError, match=r"at least 400 samples.*got 120"):
        model(*padded([torch.zeros(1000), torch.zeros(120)]))


def test_a_model_without_encoder_asks_for_features():
    model = MOSANet(MOSANetConfig.tiny(precomputed_features=True))

    with pytest.raises(ValueError, match=r"Expected `ssl_features`.*\(batch_size, num_frames, 16\)"):
        model(torch.zeros(1, 16_000))
    assert not any(name.startswith("encoder") for name in model.state_dict())


def test_features_of_the_wrong_shape_are_refused(model, waveforms):
    with pytest.raises(ValueError, match=r"`ssl_features` of shape \(1, num_frames, 16\), got \(1, 49, 17\)"):
        model(waveforms[0][None], ssl_features=torch.zeros(1, 49, 17))
    with pytest.raises(ValueError, match="`ssl_features` with 84 frames for 27200 samples, got 40"):
        model(*padded(waveforms), ssl_features=torch.zeros(4, 40, 16))


def test_features_whose_frames_cannot_be_counted_need_their_mask(waveforms):
    encoder_config = {"model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = MOSANet(MOSANetConfig.tiny(encoder_config=encoder_config, precomputed_features=True)).eval()

    with pytest.raises(ValueError, match="Expected `ssl_attention_mask` beside the `ssl_features` of a wav2vec2-bert encoder"):
        model(*padded(waveforms), ssl_features=torch.zeros(4, 84, 16))
    mask = torch.arange(84) < torch.tensor([49, 27, 84, 1])[:, None]
    assert torch.isfinite(model(*padded(waveforms), ssl_features=torch.zeros(4, 84, 16), ssl_attention_mask=mask).logits).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoder_layer": 3}, "`encoder_layer` between 0 and 2"),
        ({"encoder_config": {"model_type": "clip"}}, "without `hidden_size`"),
        ({"encoder_config": {"model_type": "wav2vec2-bert", "num_hidden_layers": 1}}, "encoder that takes waveforms"),
        ({"encoder_input": "loud"}, "`encoder_input` to be one of peak, raw, standardized, got 'loud'"),
        ({"sinc_edges": "python4"}, "`sinc_edges` to be one of python2, python3, got 'python4'"),
        ({"score_activations": ["linear"]}, "one entry of `score_activations` per score pesq, stoi, sdi"),
        ({"score_activations": ["linear", "tanh", "linear"]}, "got 'tanh'"),
        ({"score_scales": [1.0, 1.0, 0.0]}, "`score_scales` between"),
        ({"conv_channels": []}, "one positive size per block"),
        ({"sinc_kernel_size": 250}, "`sinc_kernel_size` to be odd"),
        ({"fft_size": 63}, "`fft_size` to be even"),
        ({"dropout": 1.0}, r"`dropout` in \[0, 1\)"),
        ({"frame_loss_weight": -1.0}, "`frame_loss_weight` between 0"),
        ({"sampling_rate": None}, "`sampling_rate` in Hz, got None"),
        ({"standardize_ssl_features": True, "precomputed_features": True}, "`standardize_ssl_features` of a model with an encoder"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(options, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        MOSANetConfig.tiny(**options)


def test_an_encoder_that_averages_over_time_does_not_pad_safely():
    group_norm = MOSANetConfig.tiny().encoder_config.to_dict() | {"feat_extract_norm": "group", "do_stable_layer_norm": False}

    assert MOSANet(MOSANetConfig.tiny()).pads_safely
    assert not MOSANet(MOSANetConfig.tiny(encoder_config=group_norm)).pads_safely
    assert MOSANet(MOSANetConfig.tiny(encoder_config=group_norm, precomputed_features=True)).pads_safely


def test_score_names_may_be_chosen_and_stoi_keeps_its_sigmoid():
    config = MOSANetConfig.tiny(id2label={0: "stoi", 1: "mos"})

    assert config.score_activations == ["sigmoid", "linear"] and config.score_scales == [1.0, 1.0]


def test_bfloat16_keeps_spectra_and_recurrence_exact(model, waveforms, tmp_path):
    model.save_pretrained(tmp_path)
    narrow = MOSANet.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()

    assert {p.dtype for p in narrow.trunk.parameters()} == {torch.float32}
    assert narrow.encoder.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(narrow(*padded(waveforms)).logits, model(*padded(waveforms)).logits, rtol=0, atol=0.02)
