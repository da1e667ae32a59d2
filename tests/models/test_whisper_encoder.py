"""Whisper as an encoder: its own features, recordings of any length, and the families on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.modeling_utils
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
    pipeline,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids

import hf_sqa
from hf_sqa.audio import load_recording
from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.blocks.speech_encoder import build_encoder, last_hidden_state, load_encoder, load_encoder_config
from hf_sqa.export.onnx import export_onnx
from hf_sqa.models.mosa_net import MOSANet, MOSANetConfig
from hf_sqa.models.mtq_net import MTQNet
from hf_sqa.models.utmos import UTMOS
from hf_sqa.models.wav2vec2_mos import Wav2Vec2ForMOS, Wav2Vec2ForMOSConfig
from hf_sqa.models.xlsr_sqa import XLSRSQA

REAL = Path(__file__).parents[3] / "shared" / "checkpoints" / "whisper_base_encoder"
RATE = 16_000
#: A Whisper that takes a second where published ones take thirty.
STRETCH = RATE
POSITIONS = 50


def tiny_config(**changes) -> WhisperConfig:
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 5}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    encoder = {"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 20}
    return WhisperConfig(**(encoder | decoder | tokens | {"max_source_positions": POSITIONS, "max_target_positions": 8} | changes))


def new_encoder(layer: int | None = None, **changes):
    torch.manual_seed(0)
    return build_encoder(tiny_config(**changes), layer).eval()


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def padded(*waveforms: torch.Tensor, fill: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch `(B, T)` and its mask; padding holds `fill`, which nothing may see."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True, padding_value=fill)
    return batch, (torch.arange(batch.shape[1]) < lengths[:, None]).long()


def with_head(model_class, **options):
    """A tiny model of a family on a tiny Whisper."""
    torch.manual_seed(0)
    config_class = model_class.config_class
    whisper = {"encoder_config": tiny_config().to_dict()}
    if model_class is XLSRSQA:
        options.setdefault("layers", (1, 3))
    return model_class(config_class.tiny(**whisper | options)).eval()


every_family_on_it = pytest.mark.parametrize("model_class", [Wav2Vec2ForMOS, MOSANet, MTQNet, XLSRSQA])


# -- features ------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("seconds", [0.02, 0.4, 0.7303, 1.0])
def test_features_are_those_of_whisper_up_to_the_end_of_the_recording(seconds):
    encoder, waveform = new_encoder(), noise(seconds)
    extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    spectra = extractor(waveform.numpy(), sampling_rate=RATE, return_tensors="pt").input_features

    ours = encoder.log_mel(torch.nn.functional.pad(waveform, (0, STRETCH - len(waveform)))[None])
    features = last_hidden_state(encoder, waveform[None])

    torch.testing.assert_close(ours, spectra, rtol=0, atol=1e-4)
    theirs = encoder.encoder(spectra).last_hidden_state
    assert features.shape[1] == int(np.ceil(len(waveform) / 320))
    torch.testing.assert_close(features, theirs[:, : features.shape[1]], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.skipif(not REAL.is_dir(), reason=f"Whisper's weights not at {REAL}")
def test_features_of_the_real_weights_are_those_of_whisper(speech_like):
    waveform = speech_like(3.0)
    encoder = load_encoder(str(REAL), load_encoder_config(str(REAL))).eval()
    original = WhisperEncoder.from_pretrained(REAL, dtype=torch.float32).eval()
    spectra = WhisperFeatureExtractor.from_pretrained(REAL)(waveform, sampling_rate=RATE, return_tensors="pt").input_features

    features = last_hidden_state(encoder, torch.from_numpy(np.asarray(waveform, np.float32))[None])

    theirs = original(spectra).last_hidden_state[:, :150]
    assert features.shape == (1, 150, 512) and features.dtype == torch.float32
    assert (features - theirs).norm() < 1e-4 * theirs.norm()


@torch.no_grad()
def test_a_longer_recording_is_cut_into_stretches_whose_frames_follow_each_other():
    encoder, waveform = new_encoder(), noise(2.31)

    together = last_hidden_state(encoder, waveform[None])

    apart = [last_hidden_state(encoder, piece[None]) for piece in waveform.split(STRETCH)]
    torch.testing.assert_close(together, torch.cat(apart, dim=1), rtol=0, atol=1e-5)
    assert together.shape[1] == 50 + 50 + 16


@torch.no_grad()
@pytest.mark.parametrize("fill", [0.3, float("nan")])
def test_padding_and_longer_neighbours_change_no_frame(fill):
    encoder, waveforms = new_encoder(), (noise(0.3, 1), noise(3.0, 2), noise(1.0, 3), noise(1.5, 4))

    together = last_hidden_state(encoder, *padded(*waveforms, fill=fill))

    for row, waveform in zip(together, waveforms, strict=True):
        alone = last_hidden_state(encoder, waveform[None])[0]
        torch.testing.assert_close(row[: len(alone)], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_stretches_without_samples_are_not_computed(monkeypatch):
    encoder, computed = new_encoder(), []
    log_mel = encoder.log_mel
    monkeypatch.setattr(encoder, "log_mel", lambda stretches: (computed.append(len(stretches)), log_mel(stretches))[1])

    last_hidden_state(encoder, *padded(noise(0.3), noise(3.0), noise(1.5)))

    assert computed == [1 + 3 + 2]


@torch.no_grad()
def test_layers_come_before_the_last_norm_and_attentions_by_stretch():
    encoder, batch = new_encoder(), padded(noise(0.3), noise(1.5))
    encoder.set_attn_implementation("eager")

    outputs = encoder(*batch, output_hidden_states=True, output_attentions=True)

    assert [tuple(layer.shape) for layer in outputs.hidden_states] == [(2, 75, 16)] * 4
    torch.testing.assert_close(encoder.encoder.layer_norm(outputs.hidden_states[3][1]), outputs.last_hidden_state[1])
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(3, 2, POSITIONS, POSITIONS)] * 3
    assert not encoder.encoder.layer_norm._forward_pre_hooks


@torch.no_grad()
def test_digital_silence_has_finite_features():
    assert last_hidden_state(new_encoder(), torch.zeros(1, 20_000)).isfinite().all()


@torch.no_grad()
def test_half_precision_computes_the_spectra_in_full():
    encoder, waveform = new_encoder(), noise(0.5)
    expected = last_hidden_state(encoder, waveform[None])
    narrow = encoder.to(torch.bfloat16)
    spectra = narrow.log_mel(torch.nn.functional.pad(waveform, (0, STRETCH - len(waveform)))[None])

    features = last_hidden_state(narrow, waveform[None])

    assert spectra.dtype == torch.float32 and features.dtype == torch.bfloat16
    torch.testing.assert_close(features.float(), expected, rtol=0, atol=0.1)  # frames reach 3


# -- published weights -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["bare", "model", "with a head"])
def published(request, tmp_path):
    """`(folder, WhisperEncoder)` of each kind of checkpoint, in half precision as large-v3 is."""
    classes = {"bare": WhisperEncoder, "model": WhisperModel, "with a head": WhisperForConditionalGeneration}
    torch.manual_seed(1)
    source = classes[request.param](tiny_config(apply_spec_augment=True)).eval().half()
    source.save_pretrained(tmp_path)
    encoder = source if request.param == "bare" else getattr(source, "model", source).encoder
    return str(tmp_path), encoder.float()


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 2])
def test_training_starts_from_every_kind_of_whisper_checkpoint(published, layer):
    folder, original = published
    waveform = noise(1.0)

    model = Wav2Vec2ForMOS.from_encoder(folder, layer=layer)

    spectra = model.encoder.log_mel(waveform[None])
    outputs = original(spectra, output_hidden_states=True)
    expected = outputs.last_hidden_state if layer is None else outputs.hidden_states[layer]
    torch.testing.assert_close(last_hidden_state(model.encoder, waveform[None]), expected, rtol=0, atol=1e-4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert folder not in model.config.to_json_string()


@torch.no_grad()
def test_a_shorter_stretch_has_the_first_positions_and_a_longer_one_none(published):
    folder, _ = published

    model = Wav2Vec2ForMOS.from_encoder(folder, layer=2, encoder_options={"max_source_positions": 20})

    torch.testing.assert_close(model.encoder.encoder.embed_positions.weight, sinusoids(POSITIONS, 16)[:20])
    assert model.encoder.stretch_samples == 20 * 320
    with pytest.raises(ValueError, match=r"of another shape: encoder\.embed_positions\.weight"):
        Wav2Vec2ForMOS.from_encoder(folder, layer=2, encoder_options={"max_source_positions": 51})


def test_a_model_of_half_precision_weights_is_saved_and_loaded_in_single_precision(published, tmp_path):
    model = Wav2Vec2ForMOS.from_encoder(published[0], layer=2, mix_layers=True)
    model.save_pretrained(tmp_path / "model")

    loaded = AutoModelForAudioQuality.from_pretrained(tmp_path / "model")

    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


class RecordedReads:
    """`safe_open` that notes which tensors are read."""

    names: list[str] = []

    def __init__(self, *args, **kwargs):
        self.file = safe_open(*args, **kwargs)

    def get_slice(self, name: str):
        return RecordedSlice(name, self.file.get_slice(name))

    def get_tensor(self, name: str) -> torch.Tensor:
        self.names.append(name)
        return self.file.get_tensor(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, attribute: str):
        return getattr(self.file, attribute)


class RecordedSlice:
    def __init__(self, name: str, part):
        self.name, self.part = name, part

    def __getitem__(self, index):
        RecordedReads.names.append(self.name)
        return self.part[index]

    def __getattr__(self, attribute: str):
        return getattr(self.part, attribute)


def test_only_the_encoders_layers_wanted_are_read_from_the_file(published, monkeypatch):
    folder, _ = published
    monkeypatch.setattr(transformers.modeling_utils, "safe_open", RecordedReads)
    monkeypatch.setattr(RecordedReads, "names", [])

    load_encoder(folder, load_encoder_config(folder, {"apply_spec_augment": False}), layer=1)

    read = {name for name in RecordedReads.names if "decoder" not in name}
    assert len(read) == len(RecordedReads.names), "the decoder was read"
    assert {name.split("layers.")[1][0] for name in read if "layers." in name} == {"0"}
    assert any(name.endswith("conv2.weight") for name in read)


def test_a_missing_tensor_of_the_encoder_is_named_and_so_is_one_without_a_place(published):
    folder, _ = published
    file = Path(folder) / "model.safetensors"
    tensors = load_file(file)
    fc1 = next(name for name in tensors if name.endswith("layers.1.fc1.bias") and "decoder" not in name)

    save_file({name: tensor for name, tensor in tensors.items() if name != fc1}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: .*layers\.1\.fc1\.bias.*complete whisper encoder"):
        Wav2Vec2ForMOS.from_encoder(folder)
    save_file(tensors | {fc1.replace("layers.1", "layers.7"): tensors[fc1].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.7\.fc1\.bias"):
        Wav2Vec2ForMOS.from_encoder(folder)


def test_masked_spectra_in_training_are_refused_instead_of_ignored(published):
    with pytest.raises(ValueError, match="apply_spec_augment=False"):
        Wav2Vec2ForMOS.from_encoder(published[0], encoder_options={"apply_spec_augment": True})


def test_skipped_layers_go_by_the_name_that_other_encoders_have(published):
    model = Wav2Vec2ForMOS.from_encoder(published[0], encoder_options={"layerdrop": 0.05})

    assert model.config.encoder_config.encoder_layerdrop == 0.05 == model.encoder.encoder.layerdrop


def test_a_checkpoint_that_is_no_speech_encoder_is_refused_still(tmp_path):
    AutoModel.from_config(
        transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path)

    with pytest.raises(ValueError, match="got 'bert'"):
        Wav2Vec2ForMOS.from_encoder(str(tmp_path))


# -- families --------------------------------------------------------------------------------------------------------------------


def inputs_of(model, *waveforms: torch.Tensor):
    extractor = model.make_feature_extractor()
    return extractor([waveform.numpy() for waveform in waveforms], sampling_rate=RATE, padding=True, return_tensors="pt")


@torch.no_grad()
@every_family_on_it
def test_padding_and_batch_do_not_change_a_score(model_class):
    model, waveforms = with_head(model_class), (noise(0.6, 1), noise(2.4, 2), noise(1.3, 3))

    together = model(**inputs_of(model, *waveforms)).logits

    alone = torch.cat([model(**inputs_of(model, waveform)).logits for waveform in waveforms])
    assert model.pads_safely
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert alone.std(dim=0).min() > 1e-6, "scores tell recordings apart"


@torch.no_grad()
@every_family_on_it
def test_a_model_on_whisper_is_saved_and_loaded_with_its_scores(model_class, tmp_path):
    model = with_head(model_class)
    model.save_pretrained(tmp_path)
    inputs = inputs_of(model, noise(0.6, 1), noise(1.3, 3))

    loaded, report = AutoModelForAudioQuality.from_pretrained(tmp_path, output_loading_info=True)

    assert type(loaded) is model_class and not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5)


@every_family_on_it
def test_half_precision_moves_no_score_by_more_than_two_hundredths(model_class, tmp_path):
    model = with_head(model_class)
    model.save_pretrained(tmp_path)
    recordings = [load_recording(noise(s).numpy(), sampling_rate=RATE, input_sampling_rate=RATE) for s in (0.6, 1.3)]

    half = AutoModelForAudioQuality.from_pretrained(tmp_path, dtype=torch.bfloat16)

    assert half.encoder.dtype == torch.bfloat16
    extractor = model.make_feature_extractor()
    for exact, narrow in zip(*(m.score_recordings(recordings, extractor) for m in (model, half)), strict=True):
        np.testing.assert_allclose(narrow.scores, exact.scores, rtol=0, atol=0.02)


@every_family_on_it
def test_a_model_in_half_precision_computes_spectra_of_the_waveform_as_it_is(model_class, monkeypatch):
    model = with_head(model_class, **({"encoder_input": "raw"} if issubclass(model_class, MOSANet) else {})).to(torch.bfloat16)
    recording = load_recording(noise(0.6).numpy(), sampling_rate=RATE, input_sampling_rate=RATE)
    seen, log_mel = [], model.encoder.log_mel
    monkeypatch.setattr(model.encoder, "log_mel", lambda stretches: (seen.append(stretches), log_mel(stretches))[1])

    model.score_recordings([recording], model.make_feature_extractor())

    torch.testing.assert_close(seen[0][0, : recording.num_samples].float(), noise(0.6), rtol=0, atol=0)


@pytest.mark.parametrize("model_class", [MOSANet, MTQNet])
def test_the_trunk_is_trained_on_whisper_frozen_and_fine_tuned(model_class):
    inputs, labels = padded(noise(0.6), noise(1.3)), torch.ones(2, with_head(model_class).config.num_labels)
    for freeze in (True, False):
        model = with_head(model_class, freeze_encoder=freeze).train()

        model(*inputs, labels=labels).loss.backward()

        encoder = {name: p for name, p in model.encoder.named_parameters() if "embed_positions" not in name}
        assert all((p.grad is None) if freeze else p.grad.any() for p in encoder.values())
        assert model.trunk.bottleneck.weight.grad.any()


@pytest.mark.parametrize("model_class", [MOSANet, MTQNet])
def test_mosa_net_and_mtq_net_start_from_a_published_whisper(model_class, published):
    config = model_class.config_class.tiny()

    model = model_class.from_encoder(published[0], config)

    weights = published[1].state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.encoder.encoder.state_dict().items())
    assert model.trunk.bottleneck.in_features == 16


def test_mtq_net_takes_over_a_mosa_net_on_another_encoder(published):
    teacher = MOSANet(MOSANetConfig.tiny(id2label={0: "pesq"}))

    model, info = MTQNet.with_knowledge_from(teacher, encoder=published[0])

    weights = published[1].state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.encoder.encoder.state_dict().items())
    assert torch.equal(model.trunk.dense.weight, teacher.trunk.dense.weight) and "trunk.dense.weight" in info["copied"]


@torch.no_grad()
def test_xlsr_sqa_reads_layers_of_a_published_whisper(published):
    model = XLSRSQA.from_encoder(published[0], layers=(1, 2))
    waveform = noise(1.0)

    features = model.features(waveform[None], None, torch.tensor([len(waveform)]))

    layers = published[1](model.encoder.log_mel(waveform[None]), output_hidden_states=True).hidden_states
    for ours, layer in zip(features, (1, 2), strict=True):
        torch.testing.assert_close(ours, layers[layer], rtol=0, atol=1e-4)


@torch.no_grad()
def test_features_of_thirty_seconds_as_whisper_gives_them_are_cut_at_the_end_of_the_recording():
    model, batch = with_head(MOSANet, encoder_input="raw"), padded(noise(0.6, 1), noise(0.9, 2))
    spectra = WhisperFeatureExtractor(feature_size=20, chunk_length=1)(
        [noise(0.6, 1).numpy(), noise(0.9, 2).numpy()], sampling_rate=RATE, return_tensors="pt"
    ).input_features
    features = model.encoder.encoder(spectra).last_hidden_state

    given, alone = model(*batch, ssl_features=features).logits, model(batch[0][1:], ssl_features=features[1:]).logits

    assert features.shape[1] == POSITIONS
    torch.testing.assert_close(given, model(*batch).logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, given[1:], rtol=0, atol=1e-5)


def test_mosa_net_plus_is_mosa_net_with_whisper_in_the_place_of_hubert():
    config, original = MOSANetConfig.plus(), MOSANetConfig()

    encoder = config.encoder_config
    assert (encoder.model_type, encoder.hidden_size, encoder.num_hidden_layers) == ("whisper", 1024, 24)
    assert config.score_names == ["mos", "intelligibility"] and config.score_activations == ["sigmoid", "sigmoid"]
    trunk = ("fft_size", "hop_samples", "conv_channels", "lstm_hidden_size", "hidden_size", "bottleneck_relu", "dropout")
    assert [getattr(config, option) for option in trunk] == [getattr(original, option) for option in trunk]
    with torch.device("meta"):
        assert MOSANet(config).trunk.bottleneck.in_features == 1024


@torch.no_grad()
def test_mosa_net_plus_predicts_on_the_scales_of_tmhint_qi():
    sizes = {name: getattr(MOSANetConfig.tiny(), name) for name in ("fft_size", "sinc_kernel_size", "conv_channels")}
    torch.manual_seed(0)
    model = MOSANet(MOSANetConfig.plus(encoder_config=tiny_config().to_dict(), **sizes)).eval()
    for head, bias in zip(model.score_heads.values(), (9.0, -9.0), strict=True):
        head.frame_score.bias.fill_(bias)

    logits = model(noise(0.6)[None]).logits[0]

    assert logits.tolist() == pytest.approx([5.0, 0.0], abs=0.1)


@torch.no_grad()
def test_features_of_a_frozen_whisper_are_kept_and_give_the_same_scores(tmp_path, monkeypatch):
    model = with_head(Wav2Vec2ForMOS, freeze_encoder=True)
    batch = padded(noise(0.6), noise(1.3))
    expected = model(*batch).logits
    monkeypatch.setenv("HF_SQA_FEATURE_CACHE", str(tmp_path))

    first, again = model(*batch).logits, model(*batch).logits

    assert len(list(tmp_path.rglob("*.npy"))) == 2
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_repository_with_code_scores_by_the_stock_pipeline(tmp_path):
    model = with_head(Wav2Vec2ForMOS)
    model.save_pretrained(tmp_path)
    model.make_feature_extractor().save_pretrained(tmp_path)
    hf_sqa.pipeline(str(tmp_path), device="cpu").save_pretrained(tmp_path / "saved", with_code=True)
    waveform = noise(1.3).numpy()

    scores = pipeline("audio-quality", model=str(tmp_path / "saved"), device="cpu", trust_remote_code=True)(
        waveform, sampling_rate=RATE
    )

    assert scores["mos"] == pytest.approx(float(model(**inputs_of(model, noise(1.3))).logits), abs=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_modules_that_fine_tuning_freezes_are_there(device):
    from hf_sqa.training.model import freeze

    w2v_bert = {"model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    others = [Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig.tiny(**options)) for options in ({}, {"encoder_config": w2v_bert})]
    for model in (with_head(Wav2Vec2ForMOS), *others):
        freeze(model, model.fine_tuning_defaults(device).freeze)

        assert any(parameter.requires_grad for parameter in model.encoder.parameters()) == (device == "cuda")


def test_a_family_that_needs_convolutions_on_the_waveform_refuses_whisper():
    with pytest.raises(StrictDataclassError, match=r"convolutions take the waveform.*got whisper"):
        with_head(UTMOS)


@pytest.mark.slow
def test_the_onnx_graph_agrees_for_parts_of_a_stretch_and_several(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")

    assert export_onnx(with_head(Wav2Vec2ForMOS), tmp_path) < 1e-3
