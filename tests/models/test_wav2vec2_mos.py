"""Wav2Vec2ForMOS: the original's numbers, every encoder, every refusal."""

from __future__ import annotations

import copy
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.modeling_utils
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCTC,
    AutoModelForPreTraining,
    PreTrainedConfig,
    Wav2Vec2FeatureExtractor,
)

from hf_sqa.audio import Recording, load_recording
from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.blocks.foreign_checkpoint import read_foreign_checkpoint
from hf_sqa.blocks.pooling import FrameAttention, LastPooling, MeanPooling, pool
from hf_sqa.blocks.speech_encoder import all_layers, build_encoder, load_encoder, load_encoder_config, min_num_samples
from hf_sqa.models.wav2vec2_mos import Wav2Vec2ForMOS, Wav2Vec2ForMOSConfig
from hf_sqa.models.wav2vec2_mos.convert_wav2vec2_mos import (
    _original_name,
    convert,
    convert_state_dict,
    fairseq_options,
    infer_encoder,
)
from tests.models.test_every_family import SHORT_ENCODER

SHARED = Path(__file__).parents[3] / "shared"
ORIGINALS = SHARED / "checkpoints" / "layout_faithful" / "ssl_mos"
needs_originals = pytest.mark.skipif(not ORIGINALS.is_dir(), reason=f"layout-faithful checkpoints not at {ORIGINALS}")
needs_key_tables = pytest.mark.skipif(not (SHARED / "specs" / "keys").is_dir(), reason=f"key tables not at {SHARED}/specs/keys")
both_originals = pytest.mark.parametrize("name", ["w2v_small_like", "hubert_large_like"])

# Of the recordings' README. Frames reach 6, and processors round the last digit otherwise, hence 1e-5 of the value as well.
FRAME_TOLERANCE, SCORE_TOLERANCE = 1e-5, 5e-5  # random heads give scores up to 10
BATCH_LENGTHS, BATCH_SEEDS, BATCH_LABELS = (16321, 9000, 12345), (100, 101, 102), (3.0, 2.0, 4.0)

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
WITHOUT_CHANCE = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
ENCODERS = {
    "wav2vec 2.0 base": {"model_type": "wav2vec2", **CONVOLUTIONS},
    "XLS-R": {"model_type": "wav2vec2", **CONVOLUTIONS, **LAYER_NORM},
    "HuBERT base": {"model_type": "hubert", **CONVOLUTIONS},
    "HuBERT large": {"model_type": "hubert", **CONVOLUTIONS, **LAYER_NORM},
    "WavLM base": {"model_type": "wavlm", **CONVOLUTIONS},
    "WavLM large": {"model_type": "wavlm", **CONVOLUTIONS, **LAYER_NORM},
    "data2vec-audio": {"model_type": "data2vec-audio", **CONVOLUTIONS},
    "UniSpeech": {"model_type": "unispeech", **CONVOLUTIONS},
    "UniSpeech-SAT": {"model_type": "unispeech-sat", **CONVOLUTIONS, **LAYER_NORM},
    "Conformer": {"model_type": "wav2vec2-conformer", **CONVOLUTIONS, **LAYER_NORM},
    "w2v-BERT 2.0": {"model_type": "wav2vec2-bert", "conv_depthwise_kernel_size": 5},
    "Whisper": {"model_type": "whisper", "encoder_ffn_dim": 24, "num_mel_bins": 12, "max_source_positions": 20},  # 0.4 s at once
}
every_encoder = pytest.mark.parametrize("kind", ENCODERS)


def encoder_config(kind: str, **changes) -> PreTrainedConfig:
    return AutoConfig.for_model(**ENCODERS[kind], **(SIZES | WITHOUT_CHANCE | changes))


def new_model(kind: str = "XLS-R", seed: int = 0, **options) -> Wav2Vec2ForMOS:
    torch.manual_seed(seed)
    options.setdefault("attention_size", 4)
    return Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig(encoder_config=encoder_config(kind), **options)).eval()


def noise(num_samples: int, seed: int) -> np.ndarray:
    """The input of the recordings, by the formula in their README."""
    return (0.1 * np.random.RandomState(seed).randn(num_samples) + 0.02).astype("float32")


def zero_padded_batch() -> torch.Tensor:
    batch = torch.zeros(len(BATCH_LENGTHS), max(BATCH_LENGTHS))
    for row, (length, seed) in enumerate(zip(BATCH_LENGTHS, BATCH_SEEDS, strict=True)):
        batch[row, :length] = torch.from_numpy(noise(length, seed))
    return batch


def inputs_of(model: Wav2Vec2ForMOS, *lengths: int) -> dict[str, torch.Tensor]:
    extractor = model.make_feature_extractor()
    return dict(
        extractor(
            [noise(length, seed) for seed, length in enumerate(lengths)], sampling_rate=16000, padding=True, return_tensors="pt"
        )
    )


def recording(num_samples: int) -> Recording:
    return load_recording(noise(num_samples, num_samples), sampling_rate=16000, input_sampling_rate=16000)


def score(model: Wav2Vec2ForMOS, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


# -- the original's numbers --------------------------------------------------------------------------------------------------


def original(name: str) -> tuple[Wav2Vec2ForMOS, dict[str, np.ndarray]]:
    return convert(ORIGINALS / name / "mos.pt", {"num_attention_heads": 4}), np.load(ORIGINALS / name / "ref.npz")


@needs_originals
@both_originals
@pytest.mark.parametrize("num_samples", [400, 719, 3200, 5333, 16000, 16321])
def test_frames_and_scores_match_the_original(name, num_samples):
    model, reference = original(name)
    waveform = torch.from_numpy(noise(num_samples, num_samples))[None]

    with torch.no_grad():
        frames = model.encoder(waveform).last_hidden_state
        scores = model(waveform).logits

    np.testing.assert_allclose(frames, reference[f"x_{num_samples}"], rtol=FRAME_TOLERANCE, atol=FRAME_TOLERANCE)
    np.testing.assert_allclose(scores[:, 0], reference[f"mos_{num_samples}"], rtol=0, atol=SCORE_TOLERANCE)


@needs_originals
@both_originals
def test_zero_padded_unmasked_batches_match_the_original(name):
    model, reference = original(name)
    batch = zero_padded_batch()
    mask = torch.arange(batch.shape[1])[None] < torch.tensor(BATCH_LENGTHS)[:, None]

    with torch.no_grad():
        frames = model.encoder(batch).last_hidden_state
    without_mask, with_mask = score(model, input_values=batch), score(model, input_values=batch, attention_mask=mask.long())

    assert not model.config.mask_padding
    np.testing.assert_allclose(frames, reference["bx"], rtol=FRAME_TOLERANCE, atol=FRAME_TOLERANCE)
    np.testing.assert_allclose(without_mask[:, 0], reference["bmos"], rtol=0, atol=SCORE_TOLERANCE)
    assert torch.equal(without_mask, with_mask)


@needs_originals
@both_originals
def test_masked_padding_gives_other_scores_than_the_original(name):
    model, reference = original(name)
    model.config.mask_padding = True
    batch = zero_padded_batch()
    mask = torch.arange(batch.shape[1])[None] < torch.tensor(BATCH_LENGTHS)[:, None]

    scores = score(model, input_values=batch, attention_mask=mask.long())

    assert np.abs(scores[1:, 0].numpy() - reference["bmos"][1:]).max() > 0.1


@needs_originals
@both_originals
def test_gradients_match_the_original_down_to_the_first_convolution(name):
    model, reference = original(name)
    ours = {
        ("ssl_model." if parameter.startswith("encoder.") else "") + _original_name(parameter, name.startswith("w2v")): value
        for parameter, value in model.named_parameters()
    }

    model(zero_padded_batch(), labels=torch.tensor(BATCH_LABELS)[:, None]).loss.backward()

    recorded = [entry for entry in reference.files if entry.startswith("grad/")]
    assert len(recorded) == 9
    for entry in recorded:
        expected = reference[entry]
        difference = np.abs(ours[entry.removeprefix("grad/")].grad.numpy() - expected).max()
        assert difference < 1e-4 * np.abs(expected).max(), entry


@needs_originals
@both_originals
def test_three_training_steps_lead_where_the_original_got(name):
    model, reference = original(name)  # in evaluation mode, as recorded: no dropout
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    for _ in range(3):
        optimizer.zero_grad()
        model(zero_padded_batch(), labels=torch.tensor(BATCH_LABELS)[:, None]).loss.backward()
        optimizer.step()

    np.testing.assert_allclose(score(model, input_values=zero_padded_batch())[:, 0], reference["after3"], rtol=0, atol=1e-4)


@needs_originals
@both_originals
def test_a_pre_training_checkpoint_tells_its_whole_configuration(name):
    specification = json.loads((ORIGINALS / name / "spec.json").read_text())

    model = convert(ORIGINALS / name / "base.pt")

    config = model.config.encoder_config
    assert config.model_type == specification["kind"]
    saved = json.loads(config.to_json_string(use_diff=False))
    assert {option: saved[option] for option in specification["hf_config"]} == specification["hf_config"]
    assert model.config.feature_grad_mult == specification["feature_grad_mult"]
    assert model.config.do_normalize == (name == "hubert_large_like")
    assert model.config.mask_padding, "weights to be fine-tuned are new ones"
    frames = model.encoder(torch.from_numpy(noise(16000, 1))[None]).last_hidden_state
    assert torch.isfinite(frames).all()


@needs_originals
@both_originals
def test_both_checkpoints_of_a_model_give_the_same_configuration(name):
    fine_tuned, base = convert(ORIGINALS / name / "mos.pt", {"num_attention_heads": 4}), convert(ORIGINALS / name / "base.pt")

    assert fine_tuned.config.encoder_config.to_dict() == base.config.encoder_config.to_dict()
    assert fine_tuned.config.feature_grad_mult == base.config.feature_grad_mult
    assert fine_tuned.config.checkpoint_name == "mos"


@needs_key_tables
@pytest.mark.parametrize(
    ("table", "num_layers", "num_heads", "norm"),
    [
        ("wav2vec_small_mos_ckpt_to_hf.csv", 12, 12, "group"),
        ("w2v_large_or_xlsr_mos_ckpt_to_hf.csv", 24, 16, "layer"),
    ],
)
def test_published_checkpoints_tell_their_architecture_and_every_tensor_has_its_place(table, num_layers, num_heads, norm):
    rows = [line.split(",") for line in (SHARED / "specs" / "keys" / table).read_text().splitlines()[1:]]
    published = {
        key.removeprefix("ssl_model."): torch.empty([int(size) for size in shape.split("x")], device="meta")
        for key, shape, _ in rows
    }

    config = Wav2Vec2ForMOSConfig(encoder_config=infer_encoder(published))
    with torch.device("meta"):
        model = Wav2Vec2ForMOS(config)
    converted = convert_state_dict(published, model)

    encoder = config.encoder_config
    assert (encoder.num_hidden_layers, encoder.num_attention_heads, encoder.feat_extract_norm) == (num_layers, num_heads, norm)
    assert set(converted) == set(model.state_dict())
    assert len(converted) == len(published) - 1  # the vector for masked frames
    assert {"encoder." + row[2]: row[0] for row in rows if row[0].startswith("ssl_model.") and "mask_emb" not in row[0]} == {
        name: "ssl_model." + _original_name(name, norm == "group") for name in converted if name.startswith("encoder.")
    }


# -- converters refuse ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ssl_mos_tensors() -> dict[str, torch.Tensor]:
    """A checkpoint as SSL-MOS writes it, made from our own tensors."""
    model = new_model("wav2vec 2.0 base", mask_padding=False)
    return {
        ("ssl_model." if name.startswith("encoder.") else "") + _original_name(name, grouped=True): tensor.clone()
        for name, tensor in model.state_dict().items()
    }


def saved(tensors: object, folder: Path) -> Path:
    torch.save(tensors, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def test_a_checkpoint_from_parallel_training_is_converted_too(ssl_mos_tensors, tmp_path):
    prefixed = {f"module.{name}": tensor for name, tensor in ssl_mos_tensors.items()}

    first = convert(saved(ssl_mos_tensors, tmp_path), {"num_attention_heads": 2})
    second = convert(saved(prefixed, tmp_path), {"num_attention_heads": 2})

    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_in_the_old_file_format_is_converted_too(ssl_mos_tensors, tmp_path):
    torch.save({"model": ssl_mos_tensors}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)

    model = convert(tmp_path / "old.pt", {"num_attention_heads": 2})

    assert torch.equal(model.score_head.weight, ssl_mos_tensors["output_layer.weight"])


@pytest.mark.parametrize(
    "name",
    [
        "output_layer.bias",
        "ssl_model.encoder.layers.1.fc2.bias",
        "ssl_model.encoder.layers.0.fc1.weight",
        "ssl_model.layer_norm.weight",
        "ssl_model.post_extract_proj.weight",
        "ssl_model.feature_extractor.conv_layers.0.2.weight",
        "ssl_model.encoder.pos_conv.0.weight_v",
    ],
)
def test_a_missing_tensor_is_refused_by_name(ssl_mos_tensors, tmp_path, name):
    tensors = {key: tensor for key, tensor in ssl_mos_tensors.items() if key != name}

    with pytest.raises(ValueError, match=name.removeprefix("ssl_model.")):
        convert(saved(tensors, tmp_path), {"num_attention_heads": 2})


def test_a_missing_block_is_refused(ssl_mos_tensors, tmp_path):
    tensors = {name: tensor for name, tensor in ssl_mos_tensors.items() if ".layers.1." not in name}

    with pytest.raises(ValueError, match=r"encoder\.layers\.1"):
        convert(saved(tensors, tmp_path), {"num_attention_heads": 2})


def test_a_tensor_of_another_shape_is_refused_by_name_and_both_shapes(ssl_mos_tensors, tmp_path):
    tensors = ssl_mos_tensors | {"ssl_model.encoder.layers.1.fc1.bias": torch.zeros(7)}

    with pytest.raises(ValueError, match=r"'encoder.layers.1.fc1.bias' to give shape \(24,\), got \(7,\)"):
        convert(saved(tensors, tmp_path), {"num_attention_heads": 2})


def test_an_unknown_tensor_is_refused_by_name(ssl_mos_tensors, tmp_path):
    tensors = ssl_mos_tensors | {"ssl_model.encoder.extra.weight": torch.zeros(3)}

    with pytest.raises(ValueError, match=r"Unknown tensors.*encoder\.extra\.weight"):
        convert(saved(tensors, tmp_path), {"num_attention_heads": 2})


def test_an_unpublished_size_asks_for_the_number_of_heads(ssl_mos_tensors, tmp_path):
    with pytest.raises(ValueError, match=r"hidden size of 768, 1024.*got 16.*num_attention_heads"):
        convert(saved(ssl_mos_tensors, tmp_path))


def test_unpublished_convolutions_ask_for_a_configuration(ssl_mos_tensors, tmp_path):
    tensors = ssl_mos_tensors | {"ssl_model.feature_extractor.conv_layers.6.0.weight": torch.zeros(8, 8, 3)}

    with pytest.raises(ValueError, match=r"kernels.*encoder_config"):
        convert(saved(tensors, tmp_path), {"num_attention_heads": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_attention_heads": 2, "hiden_dropout": 0.2}, "'hiden_dropout'"),
        (AutoConfig.for_model("data2vec-audio"), "wav2vec2 or hubert.*got 'data2vec-audio'"),
        (AutoConfig.for_model("wav2vec2", mask_time_prob=0.0), r"shape \(512, 1, 10\), got \(8, 1, 10\).*`encoder_config`"),
    ],
)
def test_an_encoder_configuration_that_does_not_fit_is_refused(ssl_mos_tensors, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert(saved(ssl_mos_tensors, tmp_path), options)


def test_a_whole_encoder_configuration_is_taken_as_it_is(ssl_mos_tensors, tmp_path):
    config = encoder_config("HuBERT base", hidden_dropout=0.3)

    model = convert(saved(ssl_mos_tensors, tmp_path), config)

    assert model.config.encoder_config.to_dict() == config.to_dict()


def test_several_scores_ask_for_their_names(ssl_mos_tensors, tmp_path):
    tensors = ssl_mos_tensors | {"output_layer.weight": torch.zeros(2, 16), "output_layer.bias": torch.zeros(2)}

    with pytest.raises(ValueError, match="id2label"):
        convert(saved(tensors, tmp_path), {"num_attention_heads": 2})
    model = convert(saved(tensors, tmp_path), {"num_attention_heads": 2}, id2label={0: "mos", 1: "loudness"})

    assert model.config.score_names == ["mos", "loudness"]


@pytest.mark.parametrize("content", [[1, 2], {"weights": torch.zeros(1), "note": "text"}, {"some.weight": torch.zeros(1)}])
def test_other_files_are_refused(content, tmp_path):
    with pytest.raises(ValueError, match=r"Expected a dict of tensors|lacks the tensor"):
        convert(saved(content, tmp_path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        convert(tmp_path / "nothing.pt")


class Payload:
    """Creates a file when unpickled by the standard unpickler."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("place", ["cfg", "model", "args"])
def test_a_payload_is_refused_and_not_run(ssl_mos_tensors, tmp_path, place, new_format):
    trace = tmp_path / "executed"
    content = {"model": ssl_mos_tensors, "cfg": None} | {place: Payload(trace)}
    torch.save(content, tmp_path / "payload.pt", _use_new_zipfile_serialization=new_format)

    with pytest.raises(ValueError, match="mkdir"):
        convert(tmp_path / "payload.pt")

    assert not trace.exists()


@pytest.mark.parametrize("call", ["cos\nsystem\n", "cbuiltins\neval\n", "cfairseq_evil\nf\n", "cnumpy_evil\nf\n"])
def test_names_outside_the_list_are_refused(tmp_path, call):
    trace = tmp_path / "executed"
    pickled = f"{call}(S'mkdir {trace}'\ntR.".encode()
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", pickled)
        archive.writestr("evil/version", "3")

    with pytest.raises(ValueError, match="neither imported nor run"):
        read_foreign_checkpoint(tmp_path / "evil.pt")

    assert not trace.exists()


def test_a_bare_pickle_is_refused(tmp_path):
    trace = tmp_path / "executed"
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Payload(trace)))

    with pytest.raises(ValueError, match="neither imported nor run"):
        read_foreign_checkpoint(tmp_path / "bare.pt")

    assert not trace.exists()


def test_a_torchscript_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/data.pkl", b"}.")
        archive.writestr("program/constants.pkl", b").")

    with pytest.raises(ValueError, match="TorchScript"):
        read_foreign_checkpoint(tmp_path / "program.pt")


def test_an_argparse_configuration_of_older_checkpoints_is_read(tmp_path):
    from argparse import Namespace

    args = Namespace(encoder_attention_heads=2, layer_norm_first=False, dropout=0.2, feature_grad_mult=0.5, normalize=True)
    torch.save({"args": args, "cfg": None, "model": {"mask_emb": torch.zeros(1)}}, tmp_path / "old.pt")

    options = fairseq_options(read_foreign_checkpoint(tmp_path / "old.pt"))

    assert options == {
        "num_attention_heads": 2,
        "do_stable_layer_norm": False,
        "hidden_dropout": 0.2,
        "feature_grad_mult": 0.5,
        "do_normalize": True,
    }


# -- encoders ------------------------------------------------------------------------------------------------------------------


@every_encoder
@pytest.mark.parametrize("layer", [None, 1])
def test_every_parameter_of_every_encoder_moves_in_one_step(kind, layer):
    model = new_model(kind, pooling="attention", layer=layer, feature_grad_mult=1.0).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    model(**inputs_of(model, 6000, 4000), labels=torch.tensor([[3.0], [2.0]])).loss.backward()
    optimizer.step()

    still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert still == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    # UniSpeech-SAT builds a vector for masked frames also if there are none; Conformer a convolution that it does not use. The
    # positions of Whisper are sines.
    assert {name.split(".")[1] if "masked" in name else name.split(".")[2] for name in still} == {
        "UniSpeech-SAT": {"masked_spec_embed"},
        "Conformer": {"pos_conv_embed"},
        "Whisper": {"embed_positions"},
    }.get(kind, set())


@every_encoder
def test_a_truncated_encoder_gives_the_layer_of_the_whole_one(kind):
    torch.manual_seed(0)
    whole = build_encoder(encoder_config(kind)).eval()
    inputs = inputs_of(new_model(kind), 5000)[whole.main_input_name]

    with torch.no_grad():
        layers = all_layers(whole, inputs)
        for layer in range(4):
            cut = build_encoder(encoder_config(kind), layer).eval()
            cut.load_state_dict(whole.state_dict(), strict=False)

            assert len(cut.encoder.layers) == layer
            torch.testing.assert_close(cut(inputs).last_hidden_state, layers[layer], rtol=0, atol=1e-6)


@every_encoder
def test_saved_models_load_through_the_auto_class_with_their_scores(kind, tmp_path):
    model = new_model(kind, layer=2, mix_layers=True, pooling="attention", id2label={0: "mos", 1: "noisiness"})
    model.save_pretrained(tmp_path)
    inputs = inputs_of(model, 6000, 4000)

    loaded, report = AutoModelForAudioQuality.from_pretrained(tmp_path, output_loading_info=True)

    assert type(loaded) is Wav2Vec2ForMOS
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(score(loaded, **inputs), score(model, **inputs), rtol=0, atol=1e-5)
    assert str(tmp_path) not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("layer", [None, 2])
@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCTC, AutoModelForPreTraining])
@pytest.mark.parametrize("kind", ["XLS-R", "wav2vec 2.0 base"])
def test_training_starts_from_bare_ctc_and_pre_training_checkpoints(auto_class, kind, layer, tmp_path):
    torch.manual_seed(1)
    config = encoder_config(kind, mask_time_prob=0.05, vocab_size=5, num_codevectors_per_group=4, codevector_dim=8)
    config.proj_codevector_dim, config.layerdrop = 8, 0.3
    source = auto_class.from_config(config).eval()
    source.save_pretrained(tmp_path)
    waveform = torch.from_numpy(noise(5000, 0))[None]

    model = Wav2Vec2ForMOS.from_encoder(str(tmp_path), layer=layer, pooling="attention")

    encoder = getattr(source, "wav2vec2", source)
    with torch.no_grad():
        outputs = encoder(waveform, output_hidden_states=True)
        expected = outputs.last_hidden_state if layer is None else outputs.hidden_states[layer]
        torch.testing.assert_close(model.encoder(waveform).last_hidden_state, expected, rtol=0, atol=1e-5)
    assert model.config.encoder_config.num_hidden_layers == 3
    assert model.config.encoder_config.mask_time_prob == 0.0
    assert not hasattr(model.encoder, "masked_spec_embed")
    assert str(tmp_path) not in model.config.to_json_string()


@pytest.mark.parametrize("kind", ["HuBERT base", "WavLM large", "data2vec-audio", "w2v-BERT 2.0"])
def test_training_starts_from_ctc_checkpoints_of_other_encoders(kind, tmp_path):
    torch.manual_seed(1)
    source = AutoModelForCTC.from_config(encoder_config(kind, vocab_size=5)).eval()
    source.save_pretrained(tmp_path)

    model = Wav2Vec2ForMOS.from_encoder(str(tmp_path), mix_layers=True)

    ours = model.encoder.state_dict()
    theirs = getattr(source, source.base_model_prefix).state_dict()
    assert set(theirs) - set(ours) <= {"encoder.layer_norm.weight", "encoder.layer_norm.bias"}
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def test_checkpoints_with_the_old_names_of_weight_norm_are_loaded_too(tmp_path):
    source = AutoModelForPreTraining.from_config(encoder_config("wav2vec 2.0 base"))
    source.save_pretrained(tmp_path)
    tensors = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    model = Wav2Vec2ForMOS.from_encoder(str(tmp_path))

    ours, theirs = model.encoder.state_dict(), source.wav2vec2.state_dict()
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_masking_in_training_is_there_for_whom_asks(tmp_path):
    AutoModel.from_config(encoder_config("XLS-R", mask_time_prob=0.05)).save_pretrained(tmp_path)

    model = Wav2Vec2ForMOS.from_encoder(str(tmp_path), encoder_options={"mask_time_prob": 0.05, "apply_spec_augment": True})

    assert torch.equal(model.encoder.masked_spec_embed, load_file(tmp_path / "model.safetensors")["masked_spec_embed"])


def test_a_checkpoint_without_one_of_the_encoders_tensors_is_refused_by_name(tmp_path):
    AutoModelForCTC.from_config(encoder_config("XLS-R", vocab_size=5)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["wav2vec2.encoder.layers.1.attention.k_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ValueError, match=r"missing: .*encoder\.layers\.1\.attention\.k_proj\.weight"):
        Wav2Vec2ForMOS.from_encoder(str(tmp_path))


def test_a_checkpoint_with_a_tensor_that_fits_nowhere_is_refused_by_name(tmp_path):
    AutoModelForCTC.from_config(encoder_config("XLS-R", vocab_size=5)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["wav2vec2.encoder.layers.3.attention.k_proj.weight"] = torch.zeros(16, 16)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ValueError, match=r"encoder\.layers\.3\.attention\.k_proj\.weight"):
        Wav2Vec2ForMOS.from_encoder(str(tmp_path))


class RecordedReads:
    """`safe_open` that notes which tensors are read."""

    def __init__(self, *args, **kwargs):
        self.file = safe_open(*args, **kwargs)

    names: list[str] = []

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


def test_only_the_layers_wanted_are_read_from_the_file(tmp_path, monkeypatch):
    AutoModelForCTC.from_config(encoder_config("XLS-R", vocab_size=5, num_hidden_layers=6)).save_pretrained(tmp_path)
    monkeypatch.setattr(transformers.modeling_utils, "safe_open", RecordedReads)
    monkeypatch.setattr(RecordedReads, "names", [])

    encoder = load_encoder(str(tmp_path), load_encoder_config(str(tmp_path)), layer=2)

    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        wanted = {name for name in file.keys() if not any(f".layers.{block}." in name for block in range(2, 6))}  # noqa: SIM118
    assert set(RecordedReads.names) == {name for name in wanted if not name.startswith("lm_head")}
    assert len(encoder.encoder.layers) == 2


# -- padding -------------------------------------------------------------------------------------------------------------------


def shift_by_padding(model: Wav2Vec2ForMOS) -> float:
    """Largest change of a score, in label units, when a recording is padded beside one twice as long."""
    alone, padded = inputs_of(model, 6000), inputs_of(model, 6000, 12000)
    return (score(model, **alone)[0] - score(model, **padded)[0]).abs().max().item()


@every_encoder
@pytest.mark.parametrize("pooling", ["mean", "attention", "last"])
def test_padding_changes_no_score_of_models_that_say_so_and_does_of_others(kind, pooling):
    model = new_model(kind, pooling=pooling)

    shift = shift_by_padding(model)

    safe = {"XLS-R", "HuBERT large", "WavLM large", "UniSpeech-SAT", "w2v-BERT 2.0", "Whisper"}
    assert model.pads_safely == (kind in safe)
    assert shift < 1e-5 if model.pads_safely else shift > 1e-4, shift


def test_unmasked_padding_changes_scores_and_is_said_to():
    model = new_model("XLS-R", mask_padding=False)
    recordings = [recording(length) for length in (6000, 12000, 6000)]

    together = [result.scores for result in model.score_recordings(recordings)]
    alone = [model.score_recordings([recording])[0].scores for recording in recordings]

    assert not model.pads_safely
    assert shift_by_padding(model) > 1e-4
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


@every_encoder
def test_neighbours_change_no_score_of_a_recording(kind):
    model = new_model(kind)
    recordings = [recording(length) for length in (6000, 12000, 6000, 5000)]

    together = [result.scores for result in model.score_recordings(recordings)]
    alone = [model.score_recordings([recording])[0].scores for recording in recordings]

    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


# -- scores --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound_scores", [False, True])
def test_frame_scores_average_to_the_score(bound_scores):
    model = new_model("XLS-R", bound_scores=bound_scores)

    with torch.no_grad():
        outputs = model(**inputs_of(model, 6000, 12000))

    assert outputs.frame_logits.shape == (2, 37, 1)
    assert outputs.frame_logits[0, :, 0].isnan().tolist() == [False] * 18 + [True] * 19  # 6000 samples give 18 frames
    torch.testing.assert_close(outputs.frame_logits.nanmean(dim=1), outputs.logits, rtol=0, atol=1e-6)


def test_bounded_scores_stay_on_the_scale_of_the_labels():
    model = new_model("XLS-R", bound_scores=True, score_min=0.0, score_max=100.0)
    with torch.no_grad():
        model.score_head.weight.mul_(1000)

        frames = model(**inputs_of(model, 6000)).frame_logits

    assert 0 <= frames.min() < 1 < 99 < frames.max() <= 100


def test_poolings_weigh_frames_as_their_names_say():
    frames = torch.tensor([[[1.0], [2.0], [6.0], [9.0]], [[1.0], [2.0], [6.0], [9.0]]])
    mask = torch.tensor([[True] * 4, [True, True, True, False]])

    assert pool(frames, MeanPooling()(frames, mask)).tolist() == [[4.5], [3.0]]
    assert pool(frames, LastPooling(2)(frames, mask)).tolist() == [[7.5], [4.0]]
    assert pool(frames, LastPooling(9)(frames, mask)).tolist() == [[4.5], [3.0]]
    weights = FrameAttention(1, 2)(frames, mask)
    assert weights[1, 3] == 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))


def test_the_mix_starts_as_the_mean_of_all_layers_and_learns():
    model = new_model("XLS-R", mix_layers=True)
    inputs = inputs_of(model, 6000)

    assert model.layer_mix.weights.tolist() == [0.25] * 4
    model.train()(**inputs, labels=torch.tensor([[3.0]])).loss.backward()

    with torch.no_grad():
        layers = all_layers(model.encoder, inputs["input_values"], inputs["attention_mask"])
    torch.testing.assert_close(model.layer_mix(layers), torch.stack(layers).mean(dim=0))
    assert (model.layer_mix.layer_scores.grad != 0).all()


def test_predicted_variance_is_trained_by_the_likelihood_of_the_labels():
    model = new_model("XLS-R", predict_log_variance=True, score_loss="mse", id2label={0: "mos", 1: "loudness"})
    inputs = inputs_of(model, 6000)
    labels = torch.tensor([[3.0, float("nan")]])

    outputs = model(**inputs, labels=labels)
    outputs.loss.backward()

    mean, log_variance = outputs.logits[0, 0].item(), outputs.log_variances[0, 0].item()
    assert outputs.loss.item() == pytest.approx(0.5 * ((3 - mean) ** 2 / np.exp(log_variance) + log_variance), rel=1e-5)
    assert model.log_variance_head.weight.grad[0].abs().sum() > 0
    assert model.log_variance_head.weight.grad[1].abs().sum() == 0
    assert model.score_head.weight.grad[1].abs().sum() == 0


def test_the_gradient_of_the_convolutions_is_multiplied_and_nothing_else():
    full, tenth = (new_model("wav2vec 2.0 base", feature_grad_mult=factor) for factor in (1.0, 0.1))
    for model in (full, tenth):
        model(**inputs_of(model, 6000), labels=torch.tensor([[3.0]])).loss.backward()

    for (name, one), (_, other) in zip(full.named_parameters(), tenth.named_parameters(), strict=True):
        factor = 0.1 if name.startswith("encoder.feature_extractor.") else 1.0
        torch.testing.assert_close(one.grad * factor, other.grad, rtol=1e-5, atol=1e-6)


def test_a_multiplier_of_zero_freezes_the_convolutions_also_after_loading(tmp_path):
    new_model(feature_grad_mult=0).save_pretrained(tmp_path)

    model = AutoModelForAudioQuality.from_pretrained(tmp_path)

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("encoder.feature_extractor.") for name in trained)
    assert "encoder.feature_projection.projection.weight" in trained


def test_the_multiplier_holds_after_loading_and_copying(tmp_path):
    model = new_model("wav2vec 2.0 base")
    model.save_pretrained(tmp_path)
    inputs = inputs_of(model, 6000)

    gradients = []
    for each in (model, AutoModelForAudioQuality.from_pretrained(tmp_path), copy.deepcopy(model)):
        each(**inputs, labels=torch.tensor([[3.0]])).loss.backward()
        gradients.append(each.encoder.feature_extractor.conv_layers[0].conv.weight.grad)

    assert model.config.feature_grad_mult == 0.1
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-6)  # a second multiplier would make it ten times less


def test_bfloat16_moves_no_score_by_more_than_two_hundredths(tmp_path):
    torch.manual_seed(0)
    model = Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig.tiny()).eval()
    with torch.no_grad():
        model.score_head.bias.fill_(3.0)
    model.save_pretrained(tmp_path)

    half = AutoModelForAudioQuality.from_pretrained(tmp_path, dtype=torch.bfloat16)

    assert half.dtype == torch.bfloat16 and half.score_head.weight.dtype == torch.float32
    recordings = [recording(length) for length in (6000, 12000)]
    for ours, theirs in zip(model.score_recordings(recordings), half.score_recordings(recordings), strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=0.02)


def test_attention_weights_and_layers_are_returned_when_asked_for():
    model = new_model("XLS-R")
    model.set_attn_implementation("eager")

    outputs = model(**inputs_of(model, 6000), output_attentions=True, output_hidden_states=True)

    assert [tuple(attention.shape) for attention in outputs.attentions] == [(1, 2, 18, 18)] * 3
    assert [tuple(layer.shape) for layer in outputs.hidden_states] == [(1, 18, 16)] * 4
    assert model(**inputs_of(model, 6000)).hidden_states is None


def test_new_heads_start_as_torch_starts_them():
    model = new_model("XLS-R")

    assert model.score_head.weight.abs().max() <= 0.25  # 1 / sqrt(16)
    assert model.score_head.weight.abs().max() > 0.1, "transformers' own would be normal with 0.02"
    assert 0.015 < model.encoder.encoder.layers[0].attention.q_proj.weight.std() < 0.025, "the encoder's own is kept"


# -- feature extractors --------------------------------------------------------------------------------------------------------


def test_the_feature_extractor_normalises_as_pre_training_did():
    assert new_model("wav2vec 2.0 base").make_feature_extractor().do_normalize is False
    assert new_model("XLS-R").make_feature_extractor().do_normalize is True
    assert new_model("XLS-R", do_normalize=False).make_feature_extractor().do_normalize is False


def test_w2v_bert_gets_spectra():
    model = new_model("w2v-BERT 2.0")

    inputs = inputs_of(model, 6000)

    assert model.main_input_name == "input_features"
    assert inputs["input_features"].shape == (1, 18, 160)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling_rate": 8000}, "sampling_rate=16000.*got 8000"),
        ({"do_normalize": False}, "do_normalize=True"),
        ({"return_attention_mask": False}, "return_attention_mask=True"),
    ],
)
def test_a_feature_extractor_that_prepares_something_else_is_refused(change, message):
    extractor = Wav2Vec2FeatureExtractor(**({"sampling_rate": 16000, "do_normalize": True, "return_attention_mask": True} | change))

    with pytest.raises(ValueError, match=message):
        new_model("XLS-R").score_recordings([recording(6000)], extractor)


def test_an_encoder_for_another_rate_is_refused(tmp_path):
    AutoModel.from_config(encoder_config("XLS-R")).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)

    with pytest.raises(ValueError, match=r"16000 Hz.*8000 Hz.*sampling_rate=8000"):
        Wav2Vec2ForMOS.from_encoder(str(tmp_path))


# -- bad input -----------------------------------------------------------------------------------------------------------------


def test_a_batch_too_short_for_a_frame_is_refused():
    with pytest.raises(ValueError, match=r"at least 400 samples.*got 399"):
        new_model("XLS-R")(torch.zeros(1, 399))


def test_a_row_too_short_for_a_frame_is_refused():
    mask = torch.ones(2, 800, dtype=torch.long)
    mask[1, 399:] = 0

    with pytest.raises(ValueError, match=r"at least 400 samples.*got 399"):
        new_model("XLS-R")(torch.zeros(2, 800), attention_mask=mask)


@pytest.mark.parametrize(("kind", "shortest"), [("XLS-R", 400), ("w2v-BERT 2.0", 560)])
def test_the_shortest_recording_gives_one_frame(kind, shortest):
    model = new_model(kind)

    assert min_num_samples(model.config.encoder_config) == shortest
    assert model(**inputs_of(model, shortest)).frame_logits.shape == (1, 1, 1)


@pytest.mark.parametrize("labels", [torch.zeros(2), torch.zeros(2, 2), torch.zeros(1, 1)])
@pytest.mark.parametrize("options", [{}, {"predict_log_variance": True, "score_loss": "mse"}])
def test_labels_of_another_shape_are_refused(labels, options):
    with pytest.raises(ValueError, match=r"labels of shape \(2, 1\)"):
        new_model("XLS-R", **options)(torch.zeros(2, 800), labels=labels)


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("XLS-R", {"input_features": torch.zeros(1, 9, 160)}, "`input_values` alone"),
        ("w2v-BERT 2.0", {"input_values": torch.zeros(1, 800)}, "`input_features` alone"),
        ("XLS-R", {"input_values": torch.zeros(800)}, r"shape \(batch_size, num_samples\)"),
        ("w2v-BERT 2.0", {"input_features": torch.zeros(9, 160)}, r"shape \(batch_size, num_spectra"),
    ],
)
def test_inputs_of_another_kind_or_shape_are_refused(kind, inputs, message):
    with pytest.raises(ValueError, match=message):
        new_model(kind)(**inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 4}, "`layer` between 0 and 3.*got 4"),
        ({"layer": -1}, "`layer` between 0 and 3.*got -1"),
        ({"pooling": "max"}, "`pooling` to be one of mean, attention, last"),
        ({"num_last_frames": 3}, "only beside `pooling='last'`"),
        ({"pooling": "last", "num_last_frames": 0}, "`num_last_frames` between 1 and"),
        ({"feature_grad_mult": 2.0}, "`feature_grad_mult` between 0 and 1, got 2.0"),
        ({"predict_log_variance": True}, "score_loss='mse'.*got 'l1'"),
        ({"sampling_rate": None}, "`sampling_rate` in Hz"),
        ({"layr": 1}, "did you mean 'layer'"),
        ({"encoder_config": PreTrainedConfig()}, "without `hidden_size`"),
        ({"encoder_config": {"model_type": "bert"}}, "one of wav2vec2, hubert.*got 'bert'"),
        ({"encoder_config": {"model_type": "wav2vec2", "layerdrop": 0.1}, "mix_layers": True}, "`layerdrop=0`"),
        ({"encoder_config": {"model_type": "wav2vec2", "add_adapter": True}, "layer": 2}, "adapter"),
        ({"encoder_config": {"model_type": "wav2vec2-bert"}, "feature_grad_mult": 0.1}, "no convolutions in front"),
        ({"encoder_config": {"model_type": "wav2vec2-bert"}, "do_normalize": False}, "every mel band"),
        ({"encoder_config": {"model_type": "whisper"}, "feature_grad_mult": 0.1}, "no convolutions in front"),
        ({"encoder_config": {"model_type": "whisper", "encoder_layerdrop": 0.1}, "mix_layers": True}, "`encoder_layerdrop=0`"),
        ({"encoder_config": {"model_type": "whisper"}, "layer": 5}, "`layer` between 0 and 4"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises((TypeError, ValueError, StrictDataclassError), match=message):
        Wav2Vec2ForMOSConfig(**({"encoder_config": encoder_config("XLS-R")} | options))


def test_an_option_the_encoder_lacks_is_refused(tmp_path):
    encoder_config("XLS-R").save_pretrained(tmp_path)

    with pytest.raises(ValueError, match="'layer_drop'"):
        Wav2Vec2ForMOS.from_encoder(str(tmp_path), encoder_options={"layer_drop": 0.1})


def test_the_defaults_are_those_of_ssl_mos():
    config = Wav2Vec2ForMOSConfig()

    encoder = config.encoder_config
    assert (encoder.hidden_size, encoder.num_hidden_layers, encoder.num_attention_heads) == (768, 12, 12)
    assert (encoder.hidden_dropout, encoder.attention_dropout, encoder.activation_dropout) == (0.1, 0.1, 0.0)
    assert (encoder.feat_proj_dropout, encoder.layerdrop, encoder.mask_time_prob) == (0.1, 0.05, 0.0)
    assert (config.feature_grad_mult, config.do_normalize, config.score_loss) == (0.1, False, "l1")
    assert (config.pooling, config.layer, config.mask_padding) == ("mean", None, True)


# -- adapters, export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["XLS-R", "Whisper"])
def test_lora_attaches_trains_saves_reloads_and_merges(kind, tmp_path):
    peft = pytest.importorskip("peft")
    base = new_model(kind, mix_layers=True, pooling="attention")
    base.save_pretrained(tmp_path / "base")
    inputs = inputs_of(base, 6000, 4000)
    settings = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["score_head", "layer_mix", "pooling"], init_lora_weights=False
    )

    adapted = peft.get_peft_model(AutoModelForAudioQuality.from_pretrained(tmp_path / "base"), settings)
    optimizer = torch.optim.SGD([parameter for parameter in adapted.parameters() if parameter.requires_grad], lr=0.1)
    before = score(adapted, **inputs)
    adapted(**inputs, labels=torch.tensor([[3.0], [2.0]])).loss.backward()
    optimizer.step()
    trained = score(adapted, **inputs)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(
        AutoModelForAudioQuality.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()

    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in names} == {"encoder", "score_head", "layer_mix", "pooling"}
    assert len([name for name in names if "lora_" in name]) == 3 * 2 * 2
    assert not torch.equal(before, trained)
    torch.testing.assert_close(score(loaded, **inputs), trained, rtol=0, atol=1e-5)
    merged = loaded.merge_and_unload()
    assert set(merged.state_dict()) == set(base.state_dict())
    torch.testing.assert_close(score(merged, **inputs), trained, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec 2.0 base", "Whisper"])
def test_gradient_checkpointing_gives_the_same_gradients(kind):
    model = new_model(kind).train()
    inputs, labels = inputs_of(model, 6000), torch.tensor([[3.0]])
    model(**inputs, labels=labels).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}

    model.zero_grad()
    model.activation_checkpointing_enable()
    model(**inputs, labels=labels).loss.backward()

    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_onnx_gives_the_same_scores_for_other_lengths_and_batch_sizes(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    encoder_config = Wav2Vec2ForMOSConfig.tiny().encoder_config.to_diff_dict() | SHORT_ENCODER | {"num_hidden_layers": 1}
    model = Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig.tiny(encoder_config=encoder_config)).eval()
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_values, attention_mask):
            return self.model(input_values, attention_mask=attention_mask).logits

    program = torch.onnx.export(
        Scores().eval(),
        tuple(inputs_of(model, 8000, 5000).values()),
        dynamo=True,
        dynamic_shapes={"input_values": dynamic, "attention_mask": dynamic},
        verbose=False,
    )
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")

    for lengths in ((6000,), (16000, 9000, 400), (12345, 12345)):
        inputs = inputs_of(model, *lengths)
        (scores,) = session.run(None, {name: inputs[name].numpy() for name in ("input_values", "attention_mask")})
        np.testing.assert_allclose(scores, score(model, **inputs), rtol=0, atol=1e-5)
