"""Pruning: nothing is lost that was not there, the target is met by a model that loads, and it goes on where it was cut."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub.errors import StrictDataclassError

from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.data.windows import WindowCache
from hf_sqa.distillation.labels import label_windows
from hf_sqa.models.distilled_sqa import DistilledSQAConfig
from hf_sqa.models.mosa_net import MOSANet, MOSANetConfig
from hf_sqa.models.nisqa import NISQA, NISQAConfig
from hf_sqa.models.wav2vec2_mos import Wav2Vec2ForMOS, Wav2Vec2ForMOSConfig
from hf_sqa.models.xlsr_sqa import XLSRSQA, XLSRSQAConfig
from hf_sqa.pruning.calibration import Calibration, load_calibration
from hf_sqa.pruning.importance import Measured, PruningOptions, _candidates, measure
from hf_sqa.pruning.prune import prune
from hf_sqa.runs import Locked, locked
from tests.made_speech import RATE, WINDOW, write_talker

OPTIONS = PruningOptions(target=0.7, num_steps=2, repair_steps=4, batch_size=4)
TINY_WHISPER = {
    **{"model_type": "whisper", "d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 24},
    **{"num_mel_bins": 8, "max_source_positions": 64, "encoder_layerdrop": 0.0, "apply_spec_augment": False},
}
FORMS = {
    "published": {"conv_final_channels": 12, "intermediate_size": 24},
    "mel, separable": {
        "num_mel_bins": 40,
        "separable_convs": True,
        "num_conv_layers": 3,
        "conv_layer_channels": [6, 10, 12],
        "conv_time_strides": [2, 1, 2],
        "conv_frequency_strides": [2, 2, 2],
        "intermediate_size": 24,
    },
}


@pytest.fixture(scope="module")
def calibration():
    rng = np.random.default_rng(0)
    windows = []
    for _ in range(14):
        noise = np.convolve(rng.standard_normal(WINDOW), rng.standard_normal(1 + rng.integers(30)), mode="same")
        windows.append((noise * np.repeat(rng.random(16) ** rng.uniform(0, 6), WINDOW // 16)).astype(np.float32))
    windows[3] = windows[3][: WINDOW // 2]
    return Calibration(windows[:8], windows[8:])


@pytest.fixture(scope="module")
def make_model(make_tiny, calibration):
    """`make_model(form)`: a tiny model whose scores of the calibration windows are spread about the middle of the scale."""

    @torch.no_grad()
    def make(form="published"):
        model = make_tiny(0, **FORMS[form])
        head = model.transformer.pooling.score_head
        raw = torch.logit((scores_of(model, calibration.repair).double() - 1) / 4)
        scale = 1.5 / raw.std()
        head.weight.mul_(scale)
        head.bias.sub_((raw.mean() * scale).float())
        assert scores_of(model, calibration.held_out).std() > 0.3
        return model

    return make


@pytest.fixture(params=FORMS)
def model(request, make_model):
    return make_model(request.param)


def make_encoder_model(kind, **options):
    torch.manual_seed(0)
    if kind == "whisper":
        config = XLSRSQAConfig(
            encoder_config=TINY_WHISPER, layers=(3,), num_frames=32, hidden_size=12, num_hidden_layers=1, **options
        )
        return XLSRSQA(config).eval()
    if kind is XLSRSQA:
        return XLSRSQA(XLSRSQAConfig.tiny(**options)).eval()
    config = Wav2Vec2ForMOSConfig.tiny(**options)
    config.encoder_config.num_hidden_layers = 4
    return Wav2Vec2ForMOS(type(config)(encoder_config=config.encoder_config, **options)).eval()


def everything(layout):
    return {name: np.arange(group.size) for name, group in layout.groups.items()}


@torch.no_grad()
def scores_of(model, windows):
    return torch.cat([model.score_windows(torch.from_numpy(one)[None]) for one in windows])


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_with_everything_kept_the_scores_are_the_same(model, calibration):
    layout = model.pruning_layout()
    same = layout.pruned(everything(layout), measure(layout, calibration.repair, OPTIONS).means)

    torch.testing.assert_close(scores_of(same, calibration.held_out), scores_of(model, calibration.held_out), rtol=0, atol=1e-5)


def test_units_that_always_give_the_same_can_go_without_a_trace(model, calibration):
    layer = model.transformer.layers[1]
    with torch.no_grad():
        layer.fc1.weight[[2, 5, 7]] = 0
        layer.fc1.bias[[2, 5, 7]] = torch.tensor([0.7, -1.0, 0.2])
    layout = model.pruning_layout()
    measured = measure(layout, calibration.repair, OPTIONS)
    keep = everything(layout)
    keep["units.1"] = np.delete(keep["units.1"], [2, 5, 7])

    smaller = layout.pruned(keep, measured.means)

    assert num_parameters(smaller) == num_parameters(model) - 3 * (2 * 12 + 1)
    torch.testing.assert_close(scores_of(smaller, calibration.held_out), scores_of(model, calibration.held_out), rtol=0, atol=1e-5)


def test_a_channel_that_always_gives_the_same_can_go_from_the_last_convolution(model, calibration):
    trunk, last = model.trunk, len(model.trunk.layers) - 1
    with torch.no_grad():
        produced = trunk.mixes[str(last)] if str(last) in trunk.mixes else trunk.layers[last]
        produced.weight[[1, 4]] = 0
    layout = model.pruning_layout()
    keep = everything(layout)
    keep[f"trunk.{last}"] = np.delete(keep[f"trunk.{last}"], [1, 4])

    smaller = layout.pruned(keep, measure(layout, calibration.repair, OPTIONS).means)

    torch.testing.assert_close(scores_of(smaller, calibration.held_out), scores_of(model, calibration.held_out), rtol=0, atol=1e-5)


@pytest.mark.parametrize("criterion", ["gradient", "energy"])
def test_units_nobody_listens_to_are_worth_nothing(model, calibration, criterion):
    with torch.no_grad():
        model.transformer.layers[0].fc2.weight[:, [3, 8]] = 0
        model.transformer.layers[1].self_attn.out_proj.weight[:, :6] = 0
    importance = measure(model.pruning_layout(), calibration.repair, replace(OPTIONS, criterion=criterion)).importance

    assert {3, 8} <= set(np.flatnonzero(importance["units.0"] < 1e-9))
    assert importance["heads.1"][0] < 1e-9 < importance["heads.1"][1]


def test_a_layer_is_worth_what_the_score_moves_without_it(model, calibration):
    importance = measure(model.pruning_layout(), calibration.repair, OPTIONS).importance["layers"]
    before = scores_of(model, calibration.repair)
    del model.transformer.layers[0]

    moved = float((scores_of(model, calibration.repair) - before).square().mean().sqrt())

    assert importance[0] == pytest.approx(moved, rel=1e-3)


def test_the_result_has_the_weights_asked_for_and_loads_like_any_model(model, calibration, tmp_path):
    result = prune(model, calibration, OPTIONS, folder=tmp_path)

    total = num_parameters(model)
    assert num_parameters(result.model) <= 0.7 * total
    assert [step.num_parameters for step in result.steps] == sorted((s.num_parameters for s in result.steps), reverse=True)
    loaded = AutoModelForAudioQuality.from_pretrained(tmp_path / "step-02")
    torch.testing.assert_close(
        scores_of(loaded, calibration.held_out), scores_of(result.model, calibration.held_out), rtol=0, atol=1e-5
    )
    report = json.loads((tmp_path / "pruning.json").read_text())
    assert report["steps"][-1]["share"] == pytest.approx(num_parameters(result.model) / total)
    assert all(step["removed"] and {"lcc", "rmse"} == set(step["after_repair"]) for step in report["steps"][:1])


def test_repair_brings_the_scores_back(make_model, calibration):
    model = make_model()

    result = prune(model, calibration, PruningOptions(target=0.6, num_steps=1, repair_steps=40, batch_size=8, learning_rate=2e-3))

    assert result.steps[0].after_repair["rmse"] < 0.8 * result.steps[0].before_repair["rmse"]


def test_the_scores_of_listeners_draw_the_repair_their_way(make_model, calibration):
    """With labels far above what the unpruned model says, scores after the repair are higher than without labels."""
    high = replace(calibration, labels=np.full((len(calibration.repair), 1), 4.9, np.float32))
    scores = {}
    for weight in (0.0, 5.0):
        options = PruningOptions(target=0.7, num_steps=1, repair_steps=20, batch_size=4, learning_rate=2e-3, label_weight=weight)
        scores[weight] = scores_of(prune(make_model(), high, options).model, calibration.held_out).mean()

    assert scores[5.0] > scores[0.0] + 0.05


def test_labels_that_are_to_count_must_be_there(make_model, calibration):
    with pytest.raises(ValueError, match="Expected rated calibration speech with `label_weight`"):
        prune(make_model(), calibration, PruningOptions(target=0.7, label_weight=1.0))


def test_a_table_brings_the_scores_of_its_listeners(speech, make_tiny, tmp_path):
    recordings = sorted(speech.rglob("*.wav"))
    lines = ["audio,mos,talker_id", *(f"{path},{1 + number / 8},{number}" for number, path in enumerate(recordings))]
    (tmp_path / "rated.csv").write_text("\n".join(lines) + "\n")

    calibration = load_calibration(str(tmp_path / "rated.csv"), make_tiny())

    assert calibration.labels.shape == (len(calibration.repair), 1)
    assert set(calibration.labels[:, 0].tolist()) <= {1 + number / 8 for number in range(len(recordings))}


def test_the_model_given_stays_as_it_is(model, calibration):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune(model, calibration, replace(OPTIONS, num_steps=1))

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_pruning_that_was_cut_goes_on_to_the_same_model(make_model, calibration, tmp_path):
    model = make_model()

    def cut(number, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(model, calibration, OPTIONS, folder=tmp_path, on_step=cut)
    told = []
    resumed = prune(model, calibration, OPTIONS, folder=tmp_path, on_step=lambda number, step: told.append(number))
    whole = prune(model, calibration, OPTIONS)

    assert told == [1]
    assert all(torch.equal(tensor, resumed.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())


def test_a_folder_with_another_pruning_is_refused(make_model, calibration, tmp_path):
    prune(make_model(), calibration, replace(OPTIONS, num_steps=1), folder=tmp_path)

    with pytest.raises(ValueError, match="one with other options or of another model"):
        prune(make_model(), calibration, replace(OPTIONS, num_steps=1, target=0.5), folder=tmp_path)


def test_a_pruning_of_another_model_or_on_other_speech_is_refused(make_model, calibration, tmp_path):
    once = replace(OPTIONS, num_steps=1)
    prune(make_model(), calibration, once, folder=tmp_path)
    other = make_model()
    with torch.no_grad():
        next(other.parameters()).mul_(1.1)

    for model, speech in ((other, calibration), (make_model(), replace(calibration, repair=calibration.repair[:-1]))):
        with pytest.raises(ValueError, match="one with other options or of another model"):
            prune(model, speech, once, folder=tmp_path)


def test_a_pruning_killed_while_it_wrote_its_report_goes_on_and_leaves_nothing(make_model, calibration, tmp_path, monkeypatch):
    def killed(path, *_, **__):
        path.with_name(f".{path.name}-part").write_text("{")  # a kill leaves it, an error does not
        raise KeyboardInterrupt

    whole = prune(make_model(), calibration, OPTIONS, folder=tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setitem(prune.__globals__, "write_whole", killed)  # the module has the name of its function
        prune(make_model(), calibration, OPTIONS, folder=tmp_path / "cut")

    resumed = prune(make_model(), calibration, OPTIONS, folder=tmp_path / "cut")

    assert all(torch.equal(tensor, resumed.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())
    names = [{path.relative_to(tmp_path / run) for path in (tmp_path / run).rglob("*")} for run in ("cut", "whole")]
    assert names[0] == names[1]


def test_a_folder_with_something_else_is_not_pruned_into(make_model, calibration, tmp_path):
    (tmp_path / "model.safetensors").write_text("mine")

    with pytest.raises(FileExistsError, match=r"holds 'model\.safetensors'"):
        prune(make_model(), calibration, OPTIONS, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_damaged_report_of_a_pruning_is_called_so(make_model, calibration, tmp_path):
    for content in ("", "[]", '{"steps": [{"share": 1}]}'):
        (tmp_path / "pruning.json").write_text(content)
        with pytest.raises(ValueError, match=r"pruning\.json' is damaged"):
            prune(make_model(), calibration, OPTIONS, folder=tmp_path)


def test_two_processes_do_not_prune_into_one_folder(make_model, calibration, tmp_path):
    with locked(tmp_path / ".lock"), pytest.raises(Locked, match="Another process is writing into"):
        prune(make_model(), calibration, OPTIONS, folder=tmp_path)


def test_pruning_stops_before_agreement_falls_too_low(make_model, calibration):
    result = prune(make_model(), calibration, replace(OPTIONS, target=0.5, repair_steps=0, min_agreement=0.9999))

    assert result.stopped is not None and "below 0.9999; this is the model of the step before" in result.stopped
    assert result.steps == []
    assert num_parameters(result.model) == num_parameters(make_model())


def test_a_target_below_the_least_of_every_place_is_refused(make_model, calibration):
    with pytest.raises(ValueError, match=r"leaves 4 channels, 4 units, 1 heads, 1 layers in every place.*is the least"):
        prune(make_model(), calibration, replace(OPTIONS, target=0.01, num_steps=1))


def test_only_the_kinds_allowed_go(make_model, calibration):
    model = make_model()
    result = prune(model, calibration, replace(OPTIONS, target=0.9, num_steps=1, kinds=("channels",)))

    assert set(result.steps[0].removed) == {"channels"}
    assert result.model.config.num_hidden_layers == model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.0}, "above 0 and below 1, got 1.0"),
        ({"target": 0.5, "criterion": "size"}, "gradient, energy, got 'size'"),
        ({"target": 0.5, "kinds": ("bits",)}, "out of channels, units, heads, layers, got bits"),
        ({"target": 0.5, "num_steps": 0}, "`num_steps` of 1 or more"),
        ({"target": 0.5, "min_agreement": 2.0}, "a correlation, above 0 and below 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PruningOptions(**options)


def test_a_family_that_cannot_be_pruned_is_refused(calibration):
    with pytest.raises(ValueError, match="Expected a DistilledSQA, or a model with a transformer encoder"):
        prune(NISQA(NISQAConfig.tiny()), calibration, OPTIONS)


def test_an_encoder_loses_layers_and_equally_many_units_in_each(calibration, tmp_path):
    model = make_encoder_model(Wav2Vec2ForMOS)

    result = prune(model, calibration, replace(OPTIONS, target=0.75, num_steps=1, batch_size=2), folder=tmp_path)

    config = result.model.config.encoder_config
    assert num_parameters(result.model) <= 0.75 * num_parameters(model)
    assert config.num_hidden_layers < 4 or config.intermediate_size < 32
    loaded = AutoModelForAudioQuality.from_pretrained(tmp_path / "step-01").eval()
    batch = torch.from_numpy(np.stack([one for one in calibration.held_out if len(one) == WINDOW]))
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch).logits, result.model(batch).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [XLSRSQA, Wav2Vec2ForMOS, "whisper"])
def test_heads_of_an_encoder_that_always_give_the_same_can_go_without_a_trace(kind, tmp_path):
    model = make_encoder_model(kind, freeze_encoder=True)
    layout = model.pruning_layout()
    batch = torch.randn(2, WINDOW, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for index in range(len(layout.layers)):  # the second head gives its bias
            attention = layout._attention(index)
            attention.v_proj.weight[attention.head_dim :] = 0
            attention.v_proj.bias[attention.head_dim :] = 0.3 + index
        expected = model(batch).logits
    means = {name: torch.zeros(layout.layers[0].get_submodule(layout.parts.narrowing).in_features) for name in layout.groups}
    for index in range(len(layout.layers)):
        means[f"heads.{index}"] = torch.full((layout._attention(index).out_proj.in_features,), 0.3 + index)

    keep = everything(layout) | {"heads.0": np.array([0]), f"heads.{len(layout.layers) - 1}": np.array([0])}
    pruned = layout.pruned(keep, means)

    heads = pruned.config.encoder_config.layer_num_heads
    assert heads == [1, *[2] * (len(heads) - 2), 1] and not pruned.config.freeze_encoder
    with torch.no_grad():
        torch.testing.assert_close(pruned(batch).logits, expected, rtol=0, atol=1e-5)
    pruned.save_pretrained(tmp_path)
    loaded = AutoModelForAudioQuality.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch).logits, expected, rtol=0, atol=1e-5)
    assert loaded.pruning_layout().groups["heads.0"].size == 1


@pytest.mark.parametrize("kind", [XLSRSQA, "whisper"])
def test_heads_go_where_heads_alone_are_allowed_and_the_encoder_is_repaired(kind, calibration):
    model = make_encoder_model(kind, freeze_encoder=True)
    layout = model.pruning_layout()
    one_head = layout.groups["heads.0"].weights_each
    options = replace(OPTIONS, target=1 - 1.5 * one_head / num_parameters(model), kinds=("heads",), num_steps=1, batch_size=2)

    result = prune(model, calibration, replace(options, repair_steps=2, learning_rate=1e-3))

    heads = result.model.config.encoder_config.layer_num_heads
    assert sum(heads) == 2 * len(heads) - 2
    kept = [index for index, count in enumerate(heads) if count == 2]
    for index in kept:
        before, after = (each.encoder.encoder.layers[index].state_dict() for each in (model, result.model))
        assert any(not torch.equal(before[name], after[name]) for name in before)


def test_heads_that_an_encoder_cannot_have_are_refused():
    tiny = XLSRSQAConfig.tiny(layers=(1, 2)).encoder_config.to_dict()
    for change, message in (
        ({"layer_num_heads": [1]}, "2 numbers from 1 to 2, one for each block"),
        ({"layer_num_heads": [3, 1]}, "2 numbers from 1 to 2"),
        ({"layer_num_heads": [1, 1], "model_type": "wavlm"}, "whose attention adds positions head by head"),
    ):
        with pytest.raises((ValueError, StrictDataclassError), match=message):
            XLSRSQAConfig.tiny(encoder_config=tiny | change, layers=(1, 2))


def test_features_are_taken_behind_the_same_block_after_others_in_front_are_gone():
    model = make_encoder_model(XLSRSQA, layers=(2, 4))
    layout = model.pruning_layout()

    keep = everything(layout) | {"layers": np.array([1, 2, 3])}
    pruned = layout.pruned(keep, {name: torch.zeros(24) for name in layout.groups})

    assert tuple(pruned.config.layers) == (1, 3)
    assert pruned.config.encoder_config.num_hidden_layers == 3
    assert torch.equal(
        pruned.encoder.encoder.layers[0].attention.k_proj.weight, model.encoder.encoder.layers[1].attention.k_proj.weight
    )


def test_the_layer_that_a_mosa_net_reads_stays_the_same_block():
    model = MOSANet(MOSANetConfig.tiny(encoder_layer=2)).eval()
    layout = model.pruning_layout()

    keep = everything(layout) | {"layers": np.array([1])}
    pruned = layout.pruned(keep, {name: torch.zeros(24) for name in layout.groups})

    assert pruned.config.encoder_layer == pruned.config.encoder_config.num_hidden_layers == 1
    assert torch.equal(
        pruned.encoder.encoder.layers[0].attention.k_proj.weight, model.encoder.encoder.layers[1].attention.k_proj.weight
    )


def test_blocks_between_which_features_are_taken_do_not_all_go():
    layout = make_encoder_model(XLSRSQA, layers=(1, 2)).pruning_layout()

    assert not layout.may_drop(0, set()) and not layout.may_drop(1, set())


def test_no_larger_part_of_the_layers_goes_in_a_step_than_of_the_weights_unless_nothing_else_is_left():
    """Two layers may each be worth nothing alone, and everything together."""
    layout = make_encoder_model(XLSRSQA, layers=(2, 4)).pruning_layout()
    sizes = {name: group.size for name, group in layout.groups.items()}
    cheap_layers = {name: np.full(size, 0.0 if name == "layers" else 1.0) for name, size in sizes.items()}
    measured = Measured(cheap_layers, {})
    kinds = PruningOptions(target=0.5)

    order = [name for name, _ in _candidates(layout, measured, kinds, share=0.5)]

    allowed = sizes["layers"] // 2
    assert allowed < sizes["layers"] - 1
    assert order[:allowed] == ["layers"] * allowed
    assert order[-(sizes["layers"] - 1 - allowed) :] == ["layers"] * (sizes["layers"] - 1 - allowed)
    between = set(order[allowed : -(sizes["layers"] - 1 - allowed)])
    assert between == {"units.0", *(f"heads.{index}" for index in range(4))}


def test_a_mix_of_layers_keeps_them_all():
    assert "layers" not in make_encoder_model(Wav2Vec2ForMOS, mix_layers=True).pruning_layout().groups


def test_recordings_are_cut_into_windows_and_talkers_kept_apart(speech, make_tiny):
    calibration = load_calibration(speech, make_tiny(), num_windows=40)

    assert 4 <= len(calibration.held_out) <= 10
    assert max(len(one) for one in calibration.repair) == WINDOW
    assert not {one.tobytes() for one in calibration.repair} & {one.tobytes() for one in calibration.held_out}


def test_windows_of_distillation_serve_as_calibration(make_maker, make_teacher, make_tiny, tmp_path):
    list(label_windows(WindowCache(tmp_path, make_maker()), [make_teacher()], 320))

    calibration = load_calibration(tmp_path, make_tiny(), num_windows=40)

    assert (len(calibration.repair), len(calibration.held_out)) == (30, 10)


def test_one_recording_is_too_few(make_tiny, tmp_path):
    write_talker(tmp_path / "a" / "a.wav", 0)
    soundfile.write(tmp_path / "a" / "silent.wav", np.zeros(RATE), RATE)

    with pytest.raises(ValueError, match=r"two recordings or more to calibrate on.*got 1 in .*\(1 cannot be read\)"):
        load_calibration(tmp_path, make_tiny())


def test_too_short_a_calibration_is_refused(make_tiny, tmp_path):
    for talker in range(2):
        write_talker(tmp_path / f"t{talker}" / "a.wav", talker, seconds=1)

    with pytest.raises(ValueError, match=r"4 calibration windows of 0\.64 s or more on both sides"):
        load_calibration(tmp_path, make_tiny())


def test_the_configuration_of_a_pruned_model_says_every_size(make_model):
    layout = make_model().pruning_layout()
    keep = everything(layout)
    keep["heads.0"], keep["layers"], keep["units.1"] = np.array([1]), np.array([0, 1]), np.arange(5)

    config = layout.config_for(keep)

    assert isinstance(config, DistilledSQAConfig)
    assert (config.layer_num_heads, config.layer_intermediate_sizes, config.head_size) == ([1, 2], [24, 5], 6)
