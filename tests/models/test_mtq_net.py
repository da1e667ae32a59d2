"""MTQ-Net: heads that come and go, knowledge taken over, losses, adapters."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel

from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.blocks.speech_encoder import AdaptableWavLMAttention
from hf_sqa.models.mosa_net.heads_mosa_net import Scores, utterance_and_frame_loss
from hf_sqa.models.mtq_net import MTQNet, MTQNetConfig

LENGTHS = (16_000, 9_001, 27_200)


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
    return MTQNet(MTQNetConfig.tiny()).eval()


@pytest.fixture
def teacher():
    """A tiny MOSANet, built without its module being named here: as MTQNet itself does."""
    from hf_sqa.auto import families

    config_class, model_class = families()["mosa_net"]
    torch.manual_seed(1)
    return model_class(config_class.tiny()).eval()


def wavlm_config(**options):
    values = MTQNetConfig.tiny().encoder_config.to_dict()
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim", "num_conv_pos_embeddings")
    kept += ("num_conv_pos_embedding_groups", "do_stable_layer_norm", "feat_extract_norm", "layerdrop", "mask_time_prob")
    return {"model_type": "wavlm"} | {name: values[name] for name in kept} | options


# Scores and heads


def test_the_default_configuration_names_targets_then_auxiliary_scores():
    config = MTQNetConfig()

    assert config.score_names == ["s_mos", "n_mos", "g_mos", "pesq", "stoi", "sdi"]
    assert config.target_score_names == ["s_mos", "n_mos", "g_mos"]
    assert config.encoder_config.model_type == "wavlm" and config.encoder_config.hidden_size == 1024
    assert config.score_loss == "huber" and config.huber_delta == 1.0
    assert MTQNetConfig(auxiliary_score_names=[]).score_names == ["s_mos", "n_mos", "g_mos"]


@torch.no_grad()
def test_a_batch_gives_the_scores_of_one_by_one(model, waveforms):
    alone = [model(waveform[None]) for waveform in waveforms]

    together = model(*padded(waveforms))

    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), rtol=0, atol=1e-6)
    for row, one in zip(together.frame_logits, alone, strict=True):
        torch.testing.assert_close(row[: one.frame_logits.shape[1]], one.frame_logits[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_dropping_the_auxiliary_heads_leaves_the_targets_as_they_are(model, waveforms):
    expected = model(*padded(waveforms)).logits[:, :3]

    lean = model.drop_auxiliary_heads()

    assert lean is model and list(model.score_heads) == ["s_mos", "n_mos", "g_mos"]
    assert model.config.id2label == {0: "s_mos", 1: "n_mos", 2: "g_mos"} and model.config.num_labels == 3
    torch.testing.assert_close(model(*padded(waveforms)).logits, expected, rtol=0, atol=0)
    assert model.drop_auxiliary_heads() is model


@torch.no_grad()
def test_saving_for_inference_drops_the_heads_in_the_folder_and_not_in_the_model(model, waveforms, tmp_path):
    expected = model(*padded(waveforms)).logits

    model.save_for_inference(tmp_path)
    saved, info = AutoModelForAudioQuality.from_pretrained(tmp_path, output_loading_info=True)

    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert saved.config.score_names == ["s_mos", "n_mos", "g_mos"]
    torch.testing.assert_close(saved.eval()(*padded(waveforms)).logits, expected[:, :3], rtol=0, atol=1e-6)
    torch.testing.assert_close(model(*padded(waveforms)).logits, expected, rtol=0, atol=0)
    assert model.config.num_labels == 6


def test_auxiliary_heads_train_the_trunk_but_not_the_targets_heads(model, waveforms):
    labels = torch.full((1, 6), float("nan"))
    labels[0, 3:] = 1.0

    model(waveforms[0][None], labels=labels).loss.backward()

    assert all(parameter.grad.any() for parameter in model.trunk.parameters())
    assert not any(parameter.grad.any() for parameter in model.score_heads["g_mos"].parameters())


# Loss, equations 1 to 3


@pytest.mark.parametrize(
    "kind, delta, expected",
    [
        # errors: recording 0.5 and 2; frames (0.5, 1) of the first, (3) of the second
        ("huber", 1.0, ((0.125 + (0.125 + 0.5) / 2) + (1.5 + 2.5)) / 2),
        ("huber", 0.5, ((0.125 + (0.125 + 0.375) / 2) + (0.875 + 1.375)) / 2),
        ("mse", 1.0, ((0.25 + (0.25 + 1) / 2) + (4 + 9)) / 2),
        ("l1", 1.0, ((0.5 + 1.5 / 2) + (2 + 3)) / 2),
    ],
)
def test_loss_is_that_of_the_paper_as_worked_by_hand(kind, delta, expected):
    scores = Scores(torch.tensor([[3.5], [1.0]]), torch.tensor([[[3.5], [4.0]], [[0.0], [7.0]]]), None)
    mask = torch.tensor([[True, True], [True, False]])
    labels = torch.tensor([[3.0], [3.0]])

    config = MTQNetConfig.tiny(id2label={0: "s_mos"}, score_loss=kind, huber_delta=delta)
    loss = utterance_and_frame_loss(scores, mask, labels, config)

    assert float(loss) == pytest.approx(expected)


def test_alpha_weighs_the_frames():
    scores = Scores(torch.tensor([[1.0]]), torch.tensor([[[2.0], [0.0]]]), None)

    configs = [MTQNetConfig.tiny(id2label={0: "s_mos"}, score_loss="mse", frame_loss_weight=alpha) for alpha in (0, 0.5)]
    losses = [float(utterance_and_frame_loss(scores, None, torch.zeros(1, 1), config)) for config in configs]

    assert losses == pytest.approx([1.0, 1.0 + 0.5 * 2.0])


@pytest.mark.parametrize("kind", ["huber", "mse", "l1"])
def test_the_loss_falls_when_a_batch_is_learned(waveforms, kind):
    torch.manual_seed(0)
    model = MTQNet(MTQNetConfig.tiny(score_loss=kind, dropout=0.0)).train()
    labels = torch.tensor([[3.0, 2.0, 2.5, 2.0, 0.8, 0.3]]).repeat(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(*padded(waveforms), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.7 * losses[0]


# Knowledge of a MOSANet


def test_every_tensor_of_both_models_is_accounted_for(teacher, tmp_path):
    teacher.save_pretrained(tmp_path)

    model, info = MTQNet.with_knowledge_from(tmp_path)

    assert sorted(info["copied"] + info["initialized"] + info["encoder"]) == sorted(model.state_dict())
    assert sorted(info["copied"] + info["left_out"]) == sorted(teacher.state_dict())
    assert {name.split(".")[1] for name in info["initialized"]} == {"s_mos", "n_mos", "g_mos"}
    for name in info["copied"]:
        assert torch.equal(model.state_dict()[name], teacher.state_dict()[name]), name


@torch.no_grad()
def test_auxiliary_heads_taken_over_score_as_the_teacher_does(teacher, waveforms):
    model, _ = MTQNet.with_knowledge_from(teacher)

    expected = teacher(*padded(waveforms)).logits
    torch.testing.assert_close(model(*padded(waveforms)).logits[:, 3:], expected, rtol=0, atol=1e-6)


def test_the_papers_knowledge_transfer_has_targets_only(teacher):
    model, info = MTQNet.with_knowledge_from(teacher, auxiliary_score_names=[])

    assert model.config.score_names == ["s_mos", "n_mos", "g_mos"]
    assert info["left_out"] and all(name.startswith("score_heads.") for name in info["left_out"])


def test_the_teacher_stays_as_it_is(teacher):
    before = copy.deepcopy(teacher.state_dict())

    model, _ = MTQNet.with_knowledge_from(teacher)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)

    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_another_encoder_keeps_the_bottleneck_only_if_the_width_is_the_same(teacher, tmp_path):
    for hidden_size, kept in ((16, True), (24, False)):
        encoder = AutoModel.from_config(MTQNet.config_class(encoder_config=wavlm_config(hidden_size=hidden_size)).encoder_config)
        encoder.save_pretrained(tmp_path / str(hidden_size))

        model, info = MTQNet.with_knowledge_from(teacher, encoder=str(tmp_path / str(hidden_size)))

        assert ("trunk.bottleneck.bias" in info["copied"]) == kept
        assert ("trunk.bottleneck.weight" in info["initialized"]) != kept
        assert model.config.encoder_config.model_type == "wavlm"
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(model.encoder.state_dict()[name], tensor), name
        assert sorted(info["copied"] + info["initialized"] + info["encoder"]) == sorted(model.state_dict())


def test_another_trunk_is_refused_with_the_tensor(teacher):
    with pytest.raises(ValueError, match=r"'trunk\.forward_lstm\.weight_ih_l0'.*as the teacher has them"):
        MTQNet.with_knowledge_from(teacher, lstm_hidden_size=7)


def test_a_model_of_another_family_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)

    with pytest.raises(ValueError, match=r"Expected a mosa_net model .*got a mtq_net model"):
        MTQNet.with_knowledge_from(tmp_path)


# Encoders


@torch.no_grad()
def test_any_pretrained_encoder_is_taken_as_it_is(tmp_path, waveforms):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(MTQNetConfig.tiny(encoder_config=wavlm_config()).encoder_config)
    encoder.save_pretrained(tmp_path)

    model = MTQNet.from_encoder(str(tmp_path), MTQNetConfig.tiny(encoder_input="raw"), encoder_options={"layerdrop": 0.0}).eval()

    assert model.config.encoder_config.model_type == "wavlm" and model.config.fft_size == 64
    features = encoder.eval()(waveforms[0][None]).last_hidden_state
    expected = model(waveforms[0][None], ssl_features=features).logits
    torch.testing.assert_close(model(waveforms[0][None]).logits, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_wavlm_with_its_projections_called_computes_the_same():
    torch.manual_seed(0)
    model = MTQNet(MTQNetConfig.tiny(encoder_config=wavlm_config())).eval()
    stock = AutoModel.from_config(model.config.encoder_config).eval()
    stock.load_state_dict(model.encoder.state_dict())
    batch, mask = torch.randn(2, 16_000), torch.ones(2, 16_000, dtype=torch.long)
    mask[1, 9_000:] = 0

    ours, theirs = (encoder(batch, attention_mask=mask).last_hidden_state for encoder in (model.encoder, stock))

    assert any(isinstance(module, AdaptableWavLMAttention) for module in model.encoder.modules())
    assert not any(isinstance(module, AdaptableWavLMAttention) for module in stock.modules())
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1, :27], theirs[1, :27], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_lora_on_the_encoder_trains_saves_reloads_and_merges(waveforms, tmp_path, kind):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = {"encoder_config": wavlm_config()} if kind == "wavlm" else {}
    model = MTQNet(MTQNetConfig.tiny(dropout=0.0, **options))
    model.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    batch, labels = torch.stack([waveforms[0], waveforms[0].flip(0)]), torch.full((2, 6), 3.0)
    for _ in range(10):
        loss = adapted(input_values=batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.eval().save_pretrained(tmp_path / "adapter")

    assert trainable and all("lora" in name for name in trainable)
    assert all(not torch.equal(parameter, before[name]) for name, parameter in trainable.items())
    with torch.no_grad():
        expected = adapted(input_values=batch).logits
        base = AutoModelForAudioQuality.from_pretrained(tmp_path / "base")
        reloaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        torch.testing.assert_close(reloaded(input_values=batch).logits, expected, rtol=0, atol=1e-6)
        merged = reloaded.merge_and_unload()
        torch.testing.assert_close(merged(input_values=batch).logits, expected, rtol=0, atol=1e-5)
    assert sorted(merged.state_dict()) == sorted(MTQNet(model.config).state_dict())


def test_a_fine_tuned_encoder_receives_gradients_and_a_frozen_one_none(waveforms):
    labels = torch.full((1, 6), 3.0)
    for frozen in (False, True):
        torch.manual_seed(0)
        model = MTQNet(MTQNetConfig.tiny(freeze_encoder=frozen)).train()
        model(waveforms[0][None], labels=labels).loss.backward()

        received = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.encoder.parameters()]
        assert all(received) if not frozen else not any(received)


def test_a_model_on_precomputed_features_trains_every_parameter(waveforms):
    torch.manual_seed(0)
    model = MTQNet(MTQNetConfig.tiny(precomputed_features=True)).train()
    features = torch.randn(3, 84, 16)

    model(*padded(waveforms), ssl_features=features, labels=torch.full((3, 6), 3.0)).loss.backward()

    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


# Bad input


@pytest.mark.parametrize(
    "options, message",
    [
        ({"id2label": {0: "pesq", 1: "g_mos"}}, "at least one target and then the auxiliary scores"),
        ({"id2label": {0: "pesq"}}, "at least one target"),
        ({"id2label": {0: "mos"}, "auxiliary_score_names": ["pesq"]}, r"auxiliary scores \['pesq'\]"),
        ({"encoder_layer": 9}, "`encoder_layer` between 0 and 2"),
        ({"encoder_config": {"model_type": "clip"}}, "without `hidden_size`"),
        ({"score_loss": "hinge"}, "`score_loss` to be one of"),
        ({"huber_delta": 0.0}, "`huber_delta` between"),
        ({"auxilliary_score_names": []}, "did you mean 'auxiliary_score_names'"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(options, message):
    with pytest.raises((StrictDataclassError, ValueError, TypeError), match=message):
        MTQNetConfig.tiny(**options)


def test_labels_without_the_auxiliary_columns_are_refused(model, waveforms):
    with pytest.raises(ValueError, match=r"labels of shape \(1, 6\).*got \(1, 3\).*NaN where a score was not rated"):
        model(waveforms[0][None], labels=torch.zeros(1, 3))


def test_audio_shorter_than_a_frame_is_refused_with_the_length_needed(model):
    with pytest.raises(ValueError, match="at least 400 samples"):
        model(torch.zeros(1, 200))


def test_two_configurations_of_one_encoder_are_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="`encoder` or `encoder_config`, got both"):
        MTQNet.with_knowledge_from(teacher, encoder=str(tmp_path), encoder_config=wavlm_config())
    with pytest.raises(ValueError, match="`config` or options, got both: dropout"):
        MTQNet.from_encoder(str(tmp_path), MTQNetConfig.tiny(), dropout=0.1)
