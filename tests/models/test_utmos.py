"""UTMOS: parity with the originals on their layouts, batches of any lengths, its loss, what a converter refuses."""

import importlib.util

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from hf_sqa import UTMOS, UTMOSConfig
from hf_sqa.blocks.losses import ranking_loss
from hf_sqa.models.utmos.convert_utmos import convert
from tests.conftest import SHARED

FIXTURES = SHARED / "checkpoints" / "layout_faithful" / "utmos"
FILES = {
    "speechmos": FIXTURES / "speechmos_strong_tiny" / "utmos22_strong.pt",
    "lightning": FIXTURES / "utmos22_lightning_tiny" / "epoch=0-step=0.ckpt",
}
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs shared/checkpoints/layout_faithful/utmos")
CLIPS = ((400, 11), (5333, 12), (16_000, 13), (24_321, 14), (48_000, 15))


@pytest.fixture(scope="module")
def wav():
    """The generator of the fixtures' clips."""
    spec = importlib.util.spec_from_file_location("make_wave", FIXTURES / "make_wave.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.wav


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return UTMOS(UTMOSConfig.tiny()).eval()


def batch(model, waveforms):
    return model.make_feature_extractor()(waveforms, sampling_rate=16_000, padding=True, return_tensors="pt")


# ---- Parity


@needs_fixtures
@pytest.mark.parametrize("layout", list(FILES))
@torch.no_grad()
def test_scores_and_frames_are_those_of_the_original(layout, wav):
    model, reference = convert(FILES[layout]), np.load(FILES[layout].parent / "ref.npz")

    for length, seed in CLIPS:
        outputs = model(torch.from_numpy(wav(length, seed))[None])
        np.testing.assert_allclose(outputs.logits[0].numpy(), reference[f"score_{length}"].ravel(), rtol=0, atol=5e-5)
        frames = (outputs.frame_logits[..., 0].numpy() - 3) / 2
        np.testing.assert_allclose(frames, reference[f"frames_{length}"], rtol=0, atol=2e-5)


@needs_fixtures
@pytest.mark.parametrize("layout", list(FILES))
@torch.no_grad()
def test_a_padded_batch_has_the_scores_that_the_original_gives_alone(layout, wav):
    model, reference = convert(FILES[layout]), np.load(FILES[layout].parent / "ref.npz")
    waveforms = [wav(length, seed) for length, seed in ((16_000, 21), (9_000, 22), (12_345, 23))]

    found = model(**batch(model, waveforms)).logits[:, 0].numpy()

    np.testing.assert_allclose(found, reference["batch_alone"].ravel(), rtol=0, atol=5e-5)
    assert np.abs(reference["batch_zero_padded"].ravel() - reference["batch_alone"].ravel()).max() > 0.1


@needs_fixtures
@torch.no_grad()
def test_the_authors_checkpoint_scores_for_other_listeners_and_domains_too(wav):
    model, reference = convert(FILES["lightning"]), np.load(FILES["lightning"].parent / "ref.npz")
    name = next(name for name in reference if name.endswith("_domain1_judge7"))
    length = int(name.split("_")[1])

    waveform = torch.from_numpy(wav(length, dict(CLIPS)[length]))[None]
    assert (model.config.domain_id, model.config.judge_id, model.config.num_judges) == (0, 288, 300)
    model.config.domain_id, model.config.judge_id = 1, 7
    found = model(waveform).logits[0]

    np.testing.assert_allclose(found.numpy(), reference[name].ravel(), rtol=0, atol=5e-5)


@needs_fixtures
def test_both_layouts_are_the_same_model_but_for_their_tables():
    looked_up, whole = convert(FILES["speechmos"]), convert(FILES["lightning"])

    for name, tensor in looked_up.state_dict().items():
        if "embedding" not in name:
            torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=0, atol=0)
    torch.testing.assert_close(looked_up.judge_embedding.weight[0], whole.judge_embedding.weight[288], rtol=0, atol=0)
    torch.testing.assert_close(looked_up.domain_embedding.weight[0], whole.domain_embedding.weight[0], rtol=0, atol=0)


# ---- Conversion


def original_tensors(model):
    """Tensors of a model in SpeechMOS's layout."""
    from hf_sqa.blocks.fairseq_encoder import fairseq_name
    from hf_sqa.models.utmos.convert_utmos import HEAD_NAMES

    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("encoder."):
            tensors["wav2vec2." + fairseq_name(name.removeprefix("encoder."), True)] = tensor.clone()
        else:
            tensors[HEAD_NAMES.get(name) or f"b{name}"] = tensor.clone()
    return tensors


@pytest.fixture
def original():
    """SpeechMOS's layout of a small model with one domain and one listener."""
    torch.manual_seed(0)
    options = {"num_domains": 1, "num_judges": 1, "judge_id": 0}
    encoder = UTMOSConfig.tiny().encoder_config.to_dict() | {"num_attention_heads": 12, "hidden_size": 24}
    model = UTMOS(UTMOSConfig.tiny(encoder_config=encoder, **options)).eval()
    return model, original_tensors(model)


def test_sizes_are_read_from_the_tensors(original, tmp_path, speech_like):
    model, tensors = original
    torch.save(tensors | {"wav2vec2.mask_emb": torch.zeros(24)}, tmp_path / "small.pt")

    converted = convert(tmp_path / "small.pt")

    waveform = torch.from_numpy(speech_like(1.0))[None]
    with torch.no_grad():
        torch.testing.assert_close(converted(waveform).logits, model(waveform).logits, rtol=0, atol=1e-5)
    assert converted.config.checkpoint_name == "small" and converted.config.lstm_hidden_size == 8


def test_a_tensor_that_is_missing_unknown_or_of_another_shape_is_named(original, tmp_path):
    _, tensors = original
    file = tmp_path / "damaged.pt"
    for change, message in (
        ({"projection.2.bias": None}, "lacks the tensor 'projection.2.bias'"),
        ({"domain_emb": None}, "lacks the table 'domain_emb'"),
        ({"more": torch.zeros(1)}, "Unknown tensors in the checkpoint: more"),
        ({"projection.2.bias": torch.zeros(2)}, r"'projection.2.bias' to give shape \(1,\), got \(2,\)"),
    ):
        torch.save({name: tensor for name, tensor in (tensors | change).items() if tensor is not None}, file)
        with pytest.raises(ValueError, match=message):
            convert(file)


def test_a_checkpoint_with_a_phoneme_encoder_is_refused_with_the_reason(tmp_path):
    state = {"feature_extractors.1.encoder.weight_ih_l0": torch.zeros(4, 4)}
    torch.save({"state_dict": state}, tmp_path / "with_phonemes.ckpt")

    with pytest.raises(ValueError, match="needs a transcription of every recording"):
        convert(tmp_path / "with_phonemes.ckpt")


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2], {"name": "utmos"}], ids=str)
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pt")

    with pytest.raises(ValueError, match="Expected a dict of tensors"):
        convert(tmp_path / "other.pt")


# ---- Batches


def test_frames_of_padding_have_no_score_and_the_mean_is_over_the_others(tiny, speech_like):
    waveforms = [speech_like(1.0), speech_like(0.6)]

    with torch.no_grad():
        outputs = tiny(**batch(tiny, waveforms))

    frames = outputs.frame_logits[..., 0]
    assert not torch.isnan(frames[0]).any() and torch.isnan(frames[1]).any()
    torch.testing.assert_close(outputs.logits[:, 0], frames.nanmean(dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_rows_of_any_lengths_in_any_order_keep_their_scores(norm, speech_like):
    torch.manual_seed(0)
    encoder = UTMOSConfig.tiny().encoder_config.to_dict() | {"feat_extract_norm": norm}
    model = UTMOS(UTMOSConfig.tiny(encoder_config=encoder)).eval()
    waveforms = [speech_like(seconds) for seconds in (0.9, 0.3, 0.9, 0.5, 0.3)]
    waveforms[2] = waveforms[2][::-1].copy()

    with torch.no_grad():
        together = model(**batch(model, waveforms)).logits
        alone = torch.cat([model(torch.from_numpy(waveform)[None]).logits for waveform in waveforms])

    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert alone.std() > 1e-4


def test_a_recording_shorter_than_a_frame_is_refused(tiny):
    with pytest.raises(ValueError, match="at least 400 samples"):
        tiny(torch.zeros(1, 399))
    with pytest.raises(ValueError, match=r"at least 400 samples.*got 300"):
        tiny(torch.zeros(2, 800), attention_mask=torch.arange(800)[None] < torch.tensor([[800], [300]]))


# ---- Loss


def clipped_error(predicted, rated, margin):
    error = predicted - rated
    return error.square() * (error.abs() > margin)


def test_the_loss_is_that_of_the_frames_and_of_the_pairs(tiny, speech_like):
    inputs, labels = (
        batch(tiny, [speech_like(1.0), speech_like(0.6), speech_like(0.6)[::-1].copy()]),
        torch.tensor([[1.0], [4.5], [3.0]]),
    )

    with torch.no_grad():
        outputs = tiny(**inputs, labels=labels)

    frames = [row[~torch.isnan(row)] for row in outputs.frame_logits[..., 0]]
    clipped = [clipped_error(row, label.expand_as(row), 0.5).mean() for row, label in zip(frames, labels, strict=True)]
    expected = torch.stack(clipped).mean() + 0.46 * ranking_loss(outputs.logits, labels, 0.2)
    assert outputs.loss > 0
    torch.testing.assert_close(outputs.loss, expected, rtol=0, atol=1e-5)


def test_losses_in_label_units_are_four_times_the_original_ones(rng):
    predicted, rated = (torch.from_numpy(rng.normal(3, 1, (12, 1))) for _ in range(2))
    predicted_there, rated_there = (predicted - 3) / 2, (rated - 3) / 2
    differences = (predicted_there - predicted_there.T) - (rated_there - rated_there.T)
    contrastive = (differences.abs() - 0.1).clamp(min=0).mean() / 2

    squared = clipped_error(predicted, rated, 0.5).mean()
    ours = squared + 0.5 * 11 / 12 * ranking_loss(predicted, rated, 0.2)

    torch.testing.assert_close(ours, 4 * (clipped_error(predicted_there, rated_there, 0.25).mean() + 0.5 * contrastive))


def test_recordings_without_a_rating_count_for_nothing(tiny, speech_like):
    waveforms, labels = [speech_like(0.5), speech_like(0.7)], torch.tensor([[4.0], [float("nan")]])

    with torch.no_grad():
        both = tiny(**batch(tiny, waveforms), labels=labels).loss
        one = tiny(**batch(tiny, waveforms[:1]), labels=labels[:1]).loss

    torch.testing.assert_close(both, one, rtol=0, atol=1e-5)


# ---- Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge_id": 5}, "`judge_id` below `num_judges` = 5"),
        ({"domain_id": 3}, "`domain_id` below `num_domains` = 3"),
        ({"sampling_rate": None}, "Expected `sampling_rate` in Hz"),
        ({"encoder_config": {"model_type": "bert"}}, "of one of wav2vec2"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        UTMOSConfig.tiny(**options)


def test_training_starts_from_a_pre_trained_encoder(tmp_path):
    from transformers import AutoModel

    encoder = AutoModel.from_config(UTMOSConfig.tiny().encoder_config)
    encoder.save_pretrained(tmp_path)

    model = UTMOS.from_encoder(str(tmp_path), judge_id=1, num_judges=2)

    assert model.config.judge_id == 1
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(model.encoder.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_frozen_encoder_stays_as_it_is(speech_like):
    model = UTMOS(UTMOSConfig.tiny(freeze_encoder=True)).train()

    model(**batch(model, [speech_like(0.5)]), labels=torch.tensor([[4.0]])).loss.backward()

    assert not model.encoder.training
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert model.score_head.weight.grad is not None
