"""What every family promises, on its `tiny()` configuration. No family is named here: a new one is covered from its first line."""

import copy
import gc
import inspect
import re

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

import hf_sqa
from hf_sqa.audio import load_recording
from hf_sqa.auto import AutoModelForAudioQuality, families
from hf_sqa.export.onnx import export_onnx
from hf_sqa.modeling import AudioQualityPreTrainedModel

SECONDS = (1.0, 1.7, 2.3)
RATE = 16_000
#: Frames as of the seven convolutions of a tiny encoder, from three: the exporter reasons about the length behind each.
SHORT_ENCODER = {
    **{"conv_dim": [8] * 3, "conv_kernel": [10, 15, 9], "conv_stride": [5, 8, 8]},
    "num_feat_extract_layers": 3,
}


@pytest.fixture(scope="module", params=list(families()), ids=str)
def family(request):
    """`(configuration class, model class)` of one family."""
    return families()[request.param]


@pytest.fixture(scope="module")
def original(family):
    """A tiny random model, shared: tests that change it take a copy."""
    config_class, model_class = family
    torch.manual_seed(0)
    return model_class(config_class.tiny()).eval()


@pytest.fixture
def model(original):
    return copy.deepcopy(original)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    model.make_feature_extractor().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def waveforms(speech_like):
    return [speech_like(seconds) for seconds in SECONDS]


def inputs_of(model, waveforms):
    return model.make_feature_extractor()(waveforms, sampling_rate=RATE, padding=True, return_tensors="pt")


def labels_of(model, batch_size):
    return torch.full((batch_size, model.config.num_labels), 3.0)


@torch.no_grad()
def scores_of(model, waveforms):
    return model(**inputs_of(model, waveforms)).logits


def recordings_of(model, waveforms):
    return [load_recording(waveform, sampling_rate=model.config.sampling_rate, input_sampling_rate=RATE) for waveform in waveforms]


def test_logits_have_one_column_per_named_score(model, waveforms):
    logits = scores_of(model, waveforms[:1])

    assert logits.shape == (1, len(model.config.score_names))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("hook", ["from_encoder", "with_knowledge_from"])
def test_what_a_family_cannot_be_made_from_is_refused_by_its_name(family, hook):
    config_class, model_class = family
    if getattr(model_class, hook).__func__ is not getattr(AudioQualityPreTrainedModel, hook).__func__:
        pytest.skip("the family can be made so")

    with pytest.raises(ValueError, match=f"for {config_class.model_type}"):
        getattr(model_class, hook)("elsewhere")


def test_saved_and_reloaded_weights_are_identical_and_so_are_the_scores(model, folder, waveforms):
    expected, weights = scores_of(model, waveforms[:1]), model.state_dict()
    del model
    gc.collect()
    junk = [torch.full((size,), float("nan")) for size in (64, 320, 4096, 76_800, 400_000) for _ in range(20)]
    del junk

    reloaded, info = AutoModelForAudioQuality.from_pretrained(folder, output_loading_info=True)

    assert not info["missing_keys"] and not info["unexpected_keys"], info
    assert all(not tensor.is_meta for tensor in [*reloaded.parameters(), *reloaded.buffers()])
    torch.testing.assert_close(reloaded.state_dict(), weights, rtol=0, atol=0)
    torch.testing.assert_close(scores_of(reloaded.eval(), waveforms[:1]), expected, rtol=0, atol=1e-5)


def test_a_checkpoint_without_its_head_still_initialises_every_tensor(model, tmp_path):
    names = [name for name, _ in model.named_parameters()]
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in names[-2:]}
    model.save_pretrained(tmp_path, state_dict=state)

    with pytest.raises(ValueError, match=rf"do not fit the configuration \(missing: {re.escape(min(names[-2:]))}"):
        type(model).from_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path, ignore_mismatched_sizes=True)

    for name, tensor in reloaded.state_dict().items():
        assert torch.isfinite(tensor.float()).all(), name
        assert tensor.float().abs().max() < 1e4, name


def test_a_score_does_not_depend_on_the_batch(model, waveforms):
    recordings = recordings_of(model, waveforms)
    extractor = model.make_feature_extractor()

    alone = [model.score_recordings([recording], extractor)[0].scores for recording in recordings]
    together = [scored.scores for scored in model.score_recordings(recordings, extractor)]

    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_padding_and_neighbours_do_not_change_a_score_where_the_family_says_so(model, waveforms):
    if not model.pads_safely:
        pytest.skip(f"{type(model).__name__} says that padding changes its scores; it is scored in equal lengths")

    alone = torch.cat([scores_of(model, [waveform]) for waveform in waveforms])

    torch.testing.assert_close(scores_of(model, waveforms), alone, rtol=0, atol=1e-5)


def test_every_parameter_receives_a_gradient_and_moves(model, waveforms):
    model.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    # Equal lengths, so that families which cannot pad are trained as they are meant to be.
    batch = [waveforms[0], waveforms[0][::-1].copy()]

    loss = model(**inputs_of(model, batch), labels=labels_of(model, 2) + torch.randn(2, model.config.num_labels)).loss
    loss.backward()
    optimizer.step()

    still = [name for name, parameter in model.named_parameters() if name in before and torch.equal(parameter, before[name])]
    # Added to every logit of a softmax, this bias has no gradient but what rounding leaves.
    assert [name for name in still if not name.endswith("attention_score.bias")] == []


def test_unrated_scores_add_no_error_and_no_gradient(model, waveforms):
    labels = torch.full((1, model.config.num_labels), float("nan"))

    loss = model(**inputs_of(model, waveforms[:1]), labels=labels).loss
    loss.backward()

    assert loss.item() == 0.0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_labels_of_the_wrong_shape_are_refused(model, waveforms):
    labels = torch.zeros(2, model.config.num_labels + 1)

    with pytest.raises(ValueError, match=r"Expected labels of shape .*got \(2,"):
        model(**inputs_of(model, [waveforms[0]] * 2), labels=labels)


def test_a_misspelled_option_is_refused_with_a_suggestion(family):
    config_class, _ = family

    with pytest.raises((TypeError, StrictDataclassError), match="did you mean 'score_min'"):
        config_class.tiny(score_mim=0.0)


def test_a_number_of_labels_without_names_is_refused(family):
    config_class, _ = family

    with pytest.raises((TypeError, StrictDataclassError), match="declared by name"):
        config_class.tiny(num_labels=17)


def test_a_scale_upside_down_is_refused(family):
    config_class, _ = family

    with pytest.raises(StrictDataclassError, match="Expected `score_min` below `score_max`"):
        config_class.tiny(score_min=5.0, score_max=1.0)


def test_the_auto_classes_give_the_same_model(folder, model):
    loaded = [auto.from_pretrained(folder) for auto in (AutoModel, AutoModelForAudioClassification, AutoModelForAudioQuality)]

    assert {type(one) for one in loaded} == {type(model)}
    assert type(AutoConfig.from_pretrained(folder)) is type(model.config)
    assert type(AutoFeatureExtractor.from_pretrained(folder)) is type(model.make_feature_extractor())


def test_the_stock_pipeline_and_ours_agree(folder, model, speech_like):
    ours = pipeline("audio-quality", model=str(folder), device="cpu")
    stock = pipeline("audio-classification", model=str(folder), device="cpu", top_k=None)
    rate = model.make_feature_extractor().sampling_rate  # the stock pipeline resamples by torchaudio, which nobody needs

    for seconds in SECONDS:
        recording = {"raw": speech_like(seconds, rate), "sampling_rate": rate}
        expected = {row["label"]: row["score"] for row in stock(dict(recording))}
        assert ours(recording) == pytest.approx(expected, abs=1e-4)


def test_bfloat16_stays_within_two_hundredths(folder, waveforms):
    exact = hf_sqa.pipeline(str(folder), device="cpu")
    narrow = hf_sqa.pipeline(str(folder), device="cpu", dtype=torch.bfloat16)

    for waveform in waveforms:
        expected = exact(waveform, sampling_rate=RATE)
        assert narrow(waveform, sampling_rate=RATE) == pytest.approx(expected, abs=0.02)


def test_lora_attaches_trains_saves_reloads_and_merges(model, folder, waveforms, tmp_path):
    peft = pytest.importorskip("peft")
    targets = sorted({name.split(".")[-1] for name, _ in model.named_modules() if name.split(".")[-1] in {"q_proj", "v_proj"}})
    targets = targets or sorted(
        {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "score_head" not in name}
    )
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    inputs, labels = inputs_of(model, [waveforms[0]] * 2), labels_of(model, 2)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(3):
        adapted(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.eval()
    with torch.no_grad():
        expected = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")

    base = AutoModelForAudioQuality.from_pretrained(folder)
    reloaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(reloaded(**inputs).logits, expected, rtol=0, atol=1e-6)
        merged = reloaded.merge_and_unload()
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=0, atol=1e-4)


def test_an_adapter_on_any_layer_counts_in_evaluation_as_it_does_once_merged(model, waveforms):
    peft = pytest.importorskip("peft")
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
    layers = [name for name, module in model.named_modules() if type(module) in kinds and getattr(module, "groups", 1) == 1]
    recordings, extractor = recordings_of(model, waveforms), model.make_feature_extractor()

    def everything(model):
        scored = {mode: model.score_recordings(recordings, extractor, mode=mode) for mode in model.modes}
        return {"batch": scores_of(model, waveforms[:1]).numpy()} | {
            mode: np.stack([scores.scores for scores in rows]) for mode, rows in scored.items()
        }

    before = everything(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False)).eval()

    apart = everything(adapted.base_model.model)

    merged = everything(adapted.merge_and_unload())
    for way, scores in apart.items():
        assert np.abs(merged[way] - before[way]).max() > 1e-3, way
        np.testing.assert_allclose(scores, merged[way], rtol=0, atol=1e-4, err_msg=way)


def test_a_family_that_calls_the_fused_attention_takes_it_by_name(model, folder, waveforms, monkeypatch):
    called = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *given, **options: (called.append(1), fused(*given, **options))[1],
    )
    expected = scores_of(model, waveforms)
    assert bool(called) <= type(model)._supports_sdpa
    for implementation in ["eager", *(["sdpa"] if type(model)._supports_sdpa else [])]:
        called.clear()

        loaded = type(model).from_pretrained(folder, attn_implementation=implementation).eval()

        torch.testing.assert_close(scores_of(loaded, waveforms), expected, rtol=0, atol=1e-5)
        assert bool(called) <= (implementation == "sdpa"), "the fused attention ran though another one was asked for"


def test_checkpointing_keeps_less_and_gives_the_same_gradients(model, waveforms):
    if not type(model).supports_gradient_checkpointing:
        pytest.skip(f"{type(model).__name__} says that it has no layers to checkpoint")
    model.requires_grad_(True).train()
    labels = labels_of(model, 2) + torch.arange(2)[:, None]
    inputs = inputs_of(model, [waveforms[0], waveforms[0][::-1].copy()])

    def gradients_and_kept():
        kept = []
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda kept: kept):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}, sum(
            kept
        )

    expected, kept = gradients_and_kept()
    model.activation_checkpointing_enable()
    found, kept_less = gradients_and_kept()

    assert model.is_gradient_checkpointing and kept_less < kept
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_hidden_states_and_attentions_are_returned_where_forward_takes_them(model, waveforms):
    if "output_hidden_states" not in inspect.signature(model.forward).parameters:
        pytest.skip(f"{type(model).__name__} says that it returns scores alone")
    model.set_attn_implementation("eager")  # of some encoders, no other gives weights
    inputs = inputs_of(model, waveforms[:2] if model.pads_safely else waveforms[:1])

    with torch.no_grad():
        plain = model(**inputs)
        full = model(**inputs, output_hidden_states=True, output_attentions=True)

    assert plain.hidden_states is None and plain.attentions is None
    torch.testing.assert_close(full.logits, plain.logits, rtol=0, atol=1e-5)
    assert full.hidden_states and all(states.dim() == 3 and states.isfinite().all() for states in full.hidden_states)
    num_frames = full.hidden_states[-1].shape[1]
    assert full.attentions and all(weights.shape[-2:] == (num_frames, num_frames) for weights in full.attentions)
    for weights in full.attentions:  # every real frame spreads a weight of one
        sums = weights.sum(dim=-1)
        assert ((sums - 1).abs() < 1e-4).logical_or(sums == 0).all() and (sums > 0).any()


@pytest.mark.slow
def test_the_onnx_graph_agrees_on_three_sizes_of_input(family, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    config_class, model_class = family
    config = config_class.tiny()
    if getattr(config, "encoder_config", None) is not None:
        config = config_class.tiny(encoder_config=config.encoder_config.to_diff_dict() | SHORT_ENCODER)
    torch.manual_seed(0)
    model = model_class(config)

    difference = export_onnx(model, tmp_path)

    assert difference < 1e-3
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == list(model.onnx_inputs())
    assert [one.name for one in session.get_outputs()] == ["logits"]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_model_in_any_precision_takes_input_of_any(precision, model, waveforms):
    model = copy.deepcopy(model).to(precision)
    inputs = inputs_of(model, waveforms[:1])
    exact = scores_of(model.float(), waveforms[:1])
    model = model.to(precision)

    for given in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        cast = {name: tensor.to(given) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
        with torch.no_grad():
            scores = model(**cast).logits
        torch.testing.assert_close(scores.float(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("with_code", [False, True], ids=["weights", "with code"])
def test_a_saved_pipeline_loads_again_with_the_same_score(with_code, folder, waveforms, tmp_path):
    pipe = hf_sqa.pipeline(str(folder), device="cpu")
    expected = pipe(waveforms[0], sampling_rate=RATE)

    pipe.save_pretrained(tmp_path / "saved", with_code=with_code)

    assert not {"custom_pipelines", "auto_map"} & set(pipe.model.config.to_dict())
    ours = hf_sqa.pipeline(str(tmp_path / "saved"), device="cpu")
    theirs = pipeline("audio-quality", model=str(tmp_path / "saved"), device="cpu", trust_remote_code=with_code or None)
    for again in (ours, theirs):
        assert again(waveforms[0], sampling_rate=RATE) == pytest.approx(expected, abs=1e-5)
    pipe.model.save_pretrained(tmp_path / "later")
    assert "custom_pipelines" not in (tmp_path / "later" / "config.json").read_text()
