"""`training.feature_cache`: the frozen encoder hears every clip once, and training is what it is without."""

import pytest
from transformers import TrainerCallback

from hf_sqa.training import dry_run_recipe, run_recipe

MODELS = {
    "one layer": {"family": "xlsr_sqa", "layers": (2,)},
    "two layers": {"family": "xlsr_sqa", "layers": (1, 2)},
    "own output": {"family": "wav2vec2_mos"},
    "mix of layers": {"family": "wav2vec2_mos", "mix_layers": True},
    "cross-domain": {"family": "mosa_net"},
}


@pytest.fixture
def trained(tiny, rows, recipe):
    """`trained(model options, recipe changes, **training)`: the result of a run, and how many clips its encoder heard."""

    def make(options, output_dir=None, callbacks=(), overwrite=True, train=None, **training):
        options = {"freeze_encoder": True, "id2label": {0: "mos"}} | options
        model = tiny(**options)
        heard = []
        model.encoder.register_forward_pre_hook(
            lambda module, args, kwargs: heard.extend((*args, *kwargs.values())[0]), with_kwargs=True
        )
        # Adam would make whole steps of the rounding in gradients that are zero but for it, as before a batch norm.
        described = recipe({"family": options["family"]}, optim="sgd", **training)
        if output_dir is not None:
            described["output_dir"] = str(output_dir)
        sets = {"train_dataset": train or rows(12), "validation_dataset": rows(16)[12:]}
        result = run_recipe(described, **sets, model=model, overwrite=overwrite, callbacks=callbacks, announce=lambda line: None)
        return result, len(heard)

    return make


def losses(result):
    return [entry[name] for entry in result.history for name in ("loss", "eval_loss") if name in entry]


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_the_encoder_hears_every_clip_once_and_the_losses_are_the_same(options, trained, tmp_path):
    without, num_heard_without = trained(options, tmp_path / "without")

    result, num_heard = trained(options, tmp_path / "with", feature_cache="run")

    assert losses(result) == pytest.approx(losses(without), abs=1e-4)
    assert num_heard == 12 + 4 < num_heard_without
    assert not (tmp_path / "with" / "features").exists()


def test_runs_share_a_named_folder(trained, tmp_path):
    folder = str(tmp_path / "cache")
    trained(MODELS["one layer"], tmp_path / "first", feature_cache=folder, seed=1)

    _, num_heard = trained(MODELS["one layer"], tmp_path / "second", feature_cache=folder, seed=2)
    _, num_heard_by_others = trained(MODELS["two layers"], tmp_path / "third", feature_cache=folder)

    assert num_heard == 0
    assert num_heard_by_others == 16


def test_a_run_that_was_cut_short_finds_its_features_again(trained, tmp_path):
    class PowerCut(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise OSError("the lights go out")

    options, run = MODELS["one layer"], tmp_path / "run"
    with pytest.raises(OSError, match="lights"):
        trained(options, run, callbacks=[PowerCut()], feature_cache="run")
    assert len(list((run / "features").rglob("*.npy"))) == 16

    result, num_heard = trained(options, run, overwrite=False, feature_cache="run")

    assert (result.num_steps, num_heard) == (8, 0)


def test_a_full_folder_takes_no_more_and_training_goes_on(trained, tmp_path):
    folder = tmp_path / "cache"
    without, _ = trained(MODELS["one layer"], tmp_path / "without")

    with pytest.warns(UserWarning, match=r"is full .* `training.feature_cache_gb`"):
        result, num_heard = trained(MODELS["one layer"], tmp_path / "with", feature_cache=str(folder), feature_cache_gb=2e-5)

    kept = list(folder.rglob("*.npy"))
    assert 0 < len(kept) < 16 < num_heard
    assert sum(file.stat().st_size for file in kept) < 2.5e4  # with the heads of the files
    assert losses(result) == pytest.approx(losses(without), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "training", "message"),
    [
        ({"freeze_encoder": False}, {}, "got an encoder that trains; freeze it"),
        ({}, {"max_seconds": 1.05}, "got 8 clips longer than `training.max_seconds`"),
        ({}, {"batching": "crop"}, "`training.batching=crop`, which cuts or repeats"),
        ({"feat_extract_norm": "group"}, {}, r"`training.batching=crop` \(chosen by `auto`"),
        ({"mask_time_prob": 0.1}, {}, "SpecAugment, which masks other frames"),
        ({"family": "distilled_sqa"}, {}, "got a DistilledSQA without a speech encoder"),
    ],
    ids=["encoder trains", "cut clips", "cropped clips", "group norm", "SpecAugment", "no encoder"],
)
def test_features_that_would_change_are_refused(options, training, message, tiny, rows, recipe):
    options = {"family": "wav2vec2_mos", "freeze_encoder": True} | options
    of_encoder = {name: options.pop(name) for name in ("feat_extract_norm", "mask_time_prob") if name in options}
    if options["family"] == "distilled_sqa":
        options.pop("freeze_encoder")
    model = tiny(**options)
    if of_encoder:
        encoder = model.config.encoder_config.to_dict() | {"apply_spec_augment": True, "do_stable_layer_norm": False} | of_encoder
        model = tiny(**options, encoder_config=encoder)

    with pytest.raises(ValueError, match=message):
        run_recipe(recipe(feature_cache="run", **training), train_dataset=rows(12), validation_dataset=rows(4), model=model)


def test_augmentation_is_refused_also_by_a_dry_run():
    recipe = {
        "model": {"family": "xlsr_sqa", "config": {"freeze_encoder": True}},
        "augmentation": {"steps": [{"kind": "white_noise", "snr_db": [0, 30]}]},
        "training": {"feature_cache": "nowhere/features", "max_seconds": 5},
    }

    with pytest.raises(ValueError, match="augmentation of the waveforms, which is drawn anew"):
        dry_run_recipe(recipe)
    del recipe["augmentation"]

    assert dry_run_recipe(recipe).num_steps == 2
