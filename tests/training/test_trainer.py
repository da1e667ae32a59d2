"""`AudioQualityTrainer`: what it validates, what it learns from, and what it says of data that cannot be used."""

import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_sqa.metrics import agreement
from hf_sqa.training import AudioQualityTrainer, AudioQualityTrainingArguments, TrainingError, load_recipe, run_recipe
from hf_sqa.training.trainer import choose_metric, corpus_agreement


def arguments(tmp_path, **options):
    defaults = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 2, "use_cpu": True}
    defaults |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    return AudioQualityTrainingArguments(output_dir=str(tmp_path / "trainer"), **defaults | options)


@pytest.fixture
def trainer(tiny, rows, tmp_path):
    """`trainer(train, validation, family, **options)`."""

    def make(train=None, validation=None, model=None, **options):
        model = model or tiny()
        names = model.config.score_names
        return AudioQualityTrainer(
            model,
            arguments(tmp_path, **options),
            train_dataset=rows(8, names) if train is None else train,
            eval_dataset=rows(6, names) if validation is None else validation,
        )

    return make


# ---- Validation


def test_validation_metrics_are_those_of_the_scores_one_by_one(trainer, rows, tiny):
    model, validation = tiny(), rows(12)
    found = trainer(model=model, validation=validation).evaluate()

    extractor = model.make_feature_extractor()
    with torch.no_grad():
        alone = [
            float(model.eval()(**extractor(row["audio"]["array"], sampling_rate=16_000, return_tensors="pt")).logits)
            for row in validation
        ]
    expected = agreement(alone, [row["mos"] for row in validation], systems=[row["system_id"] for row in validation])
    for name in ("utt_srcc", "utt_lcc", "utt_mse", "sys_srcc", "sys_rmse", "num_scored"):
        assert found[f"eval_{name}"] == pytest.approx(expected[name], abs=1e-5), name


def test_several_scores_have_metrics_of_their_own_and_a_mean(trainer, tiny):
    model = tiny("nisqa")
    found = trainer(model=model).evaluate()

    each = [found[f"eval_{name}_utt_mse"] for name in model.config.score_names]
    assert found["eval_utt_mse"] == pytest.approx(np.mean(each))


def test_a_family_that_cannot_be_padded_is_validated_in_equal_lengths(trainer, rows, tiny):
    model = tiny(mask_padding=False)
    assert not model.pads_safely
    validation = rows(9)

    predictions = trainer(model=model, validation=validation).predict(validation).predictions

    extractor = model.make_feature_extractor()
    with torch.no_grad():
        for row, predicted in zip(validation, predictions, strict=True):
            alone = model.eval()(**extractor(row["audio"]["array"], sampling_rate=16_000, return_tensors="pt")).logits
            assert predicted == pytest.approx(alone[0].numpy(), abs=1e-5)


def test_missing_labels_take_no_part_in_loss_or_metrics(trainer, rows, tiny):
    model = tiny("nisqa")
    validation = rows(6, model.config.score_names)
    for row in validation[3:]:
        row["loudness"] = None

    found = trainer(model=model, validation=validation).evaluate()

    assert found["eval_loudness_num_unrated"] == 3 and found["eval_mos_num_unrated"] == 0
    assert np.isfinite(found["eval_loss"])


def test_a_recording_that_cannot_be_read_is_named_once_and_counted(recipe, rows, tiny, tmp_path, caplog):
    soundfile.write(tmp_path / "good.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    data = rows(8)
    data[3]["audio"] = {"path": str(tmp_path / "good.wav"), "bytes": None}

    class Spoil(TrainerCallback):
        """Spoils the file in the third epoch."""

        def on_epoch_begin(self, args, state, control, **kwargs):
            if round(state.epoch or 0) == 2:
                (tmp_path / "good.wav").write_bytes(b"RIFF")

    result = run_recipe(
        recipe(max_steps=10),
        train_dataset=data,
        validation_dataset=rows(6),
        model=tiny(),
        callbacks=[Spoil()],
        announce=lambda line: None,
    )

    assert result.num_steps == 10
    assert result.excluded == {"undecodable": 1}
    assert list(result.failures) == [str(tmp_path / "good.wav")]
    assert sum("good.wav" in record.message for record in caplog.records) == 1


def test_an_unreadable_clip_in_validation_is_a_row_without_a_prediction(trainer, rows):
    validation = rows(6)
    validation[2]["audio"] = {"path": "nowhere.wav", "bytes": None}
    it = trainer(validation=validation)

    found = it.evaluate()

    assert found["eval_num_failed"] == 1 and found["eval_num_scored"] == 5
    assert np.isnan(it.predict(it.eval_dataset).predictions[2]).all()


# ---- Choosing the best


def test_systems_decide_where_there_are_three(trainer, rows):
    assert trainer().args.metric_for_best_model == "sys_srcc"
    few = [row | {"system_id": f"system {index % 2}"} for index, row in enumerate(rows(6))]
    with pytest.warns(UserWarning, match=r"hold clips of 2 systems only.*chosen by utt_srcc"):
        assert trainer(validation=few).args.metric_for_best_model == "utt_srcc"


def test_labels_all_equal_are_warned_of_and_the_error_decides(trainer, rows):
    same = [row | {"mos": 3.0} for row in rows(6)]

    with pytest.warns(UserWarning, match="All labels of the validation data are 3: correlations with them are undefined"):
        made = trainer(validation=same)

    assert made.args.metric_for_best_model == "utt_mse" and made.args.greater_is_better is False


def test_one_system_only_is_warned_of(trainer, rows):
    one = [row | {"system_id": "only"} for row in rows(6)]

    with pytest.warns(UserWarning, match="hold clips of 1 system only"):
        trainer(validation=one)


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("sys_srcc", True), ("utt_mse", False), ("utt_mae", False), ("loss", False), ("noisiness_utt_lcc", True)],
)
def test_whether_more_is_better_follows_from_the_metric(tmp_path, metric, greater):
    assert arguments(tmp_path, metric_for_best_model=metric).greater_is_better is greater


def test_without_systems_clips_decide(rows):
    from hf_sqa.training.examples import RatedSpeech

    assert choose_metric(RatedSpeech([{**row, "system_id": None} for row in rows(6)], ["mos"], 16_000)) == "utt_srcc"


def test_training_stops_early_and_keeps_the_best(recipe, rows, tiny):
    result = run_recipe(
        recipe(max_steps=40, learning_rate=0.0, early_stopping_patience=3, metric_for_best_model="utt_mae"),
        train_dataset=rows(8),
        validation_dataset=rows(6),
        model=tiny(),
        announce=lambda line: None,
    )

    assert (result.best_step, result.num_steps) == (2, 8)  # nothing gets better without learning: three evaluations more


def test_training_stops_when_none_of_the_metrics_gets_better(recipe, rows, tiny):
    watched = {"early_stopping_patience": 2, "metric_for_best_model": "corpus_mapped_rmse"}
    corpora = {"train_dataset": rows(8), "validation_dataset": rows(8, corpora=("first", "second"))}
    quiet = {"model": tiny(), "announce": lambda line: None}

    result = run_recipe(
        recipe(max_steps=40, learning_rate=0.0, early_stopping_metrics=["corpus_lcc"], **watched), **corpora, **quiet
    )

    evaluations = [entry for entry in result.history if "eval_loss" in entry]
    assert len(evaluations) == 3  # without learning: the first, and two that are no better
    assert {"eval_corpus_lcc", "eval_corpus_mapped_rmse"} <= set(evaluations[0])


def test_nothing_is_stopped_by_a_metric_that_nobody_measures(recipe, rows, tiny):
    options = {"early_stopping_patience": 2, "early_stopping_metrics": ["corpus_pesq"]}

    with pytest.raises(ValueError, match=r"corpus_lcc, corpus_mapped_rmse, .* got 'corpus_pesq'"):
        run_recipe(recipe(**options), train_dataset=rows(8), validation_dataset=rows(6), model=tiny(), announce=lambda line: None)


def test_agreement_over_corpora_is_the_mean_of_each_by_itself():
    rng = np.random.default_rng(0)
    labels = rng.uniform(1, 5, 40)
    predictions = labels + rng.normal(0, 0.5, 40)
    corpora = ["a"] * 15 + ["b"] * 25

    agreed = corpus_agreement(predictions, labels, corpora)

    expected = []
    for rows in (slice(0, 15), slice(15, 40)):
        slope, offset = np.polyfit(predictions[rows], labels[rows], 1)
        errors = slope * predictions[rows] + offset - labels[rows]
        expected.append((np.corrcoef(predictions[rows], labels[rows])[0, 1], np.sqrt((errors**2).sum() / (len(errors) - 1))))
    assert tuple(agreed.values()) == pytest.approx(tuple(np.mean(expected, axis=0)))


# ---- Learning


def test_a_run_is_repeated_to_the_bit_and_another_seed_is_another_run(recipe, rows, with_dropout, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        run_recipe(
            recipe(max_steps=3, seed=seed, eval_strategy="no", save_strategy="no") | {"output_dir": str(tmp_path / name)},
            train_dataset=rows(8),
            model=with_dropout(),
            announce=lambda line: None,
        )

    one, again, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "again", "other"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_accumulated_small_batches_take_the_step_of_a_large_one(recipe, rows, tiny, tmp_path):
    for name, size, accumulated in (("one", 8, 1), ("two", 4, 2)):
        run_recipe(
            recipe(
                max_steps=3,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulated,
                bucket_by_length=False,
                eval_strategy="no",
                save_strategy="no",
            )
            | {"output_dir": str(tmp_path / name)},
            train_dataset=rows(16),
            model=tiny(),
            announce=lambda line: None,
        )

    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)


def test_a_frozen_module_stays_as_it_is(recipe, rows, tiny):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    run_recipe(
        recipe(model={"family": "wav2vec2_mos", "freeze": ["encoder"]}, max_steps=2),
        train_dataset=rows(8),
        validation_dataset=rows(6),
        model=model,
        announce=lambda line: None,
    )

    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"score_head"}


def test_freezing_what_is_not_there_names_what_is(recipe, rows, tiny):
    with pytest.raises(ValueError, match=r"Expected `model.freeze` to name modules, got 'backbone'; the outer ones are encoder,"):
        run_recipe(
            recipe(model={"family": "wav2vec2_mos", "freeze": ["backbone"]}),
            train_dataset=rows(8),
            validation_dataset=rows(6),
            model=tiny(),
        )


def test_a_lora_run_leaves_merged_weights_and_the_adapter_apart(recipe, rows, tiny, tmp_path):
    import hf_sqa

    peft = pytest.importorskip("peft")
    model = tiny()
    base = tiny()
    result = run_recipe(
        recipe(model={"family": "wav2vec2_mos", "lora": {"r": 2, "alpha": 4}}, max_steps=3, learning_rate=1e-2),
        train_dataset=rows(8),
        validation_dataset=rows(6),
        model=model,
        announce=lambda line: None,
    )

    merged = hf_sqa.AutoModelForAudioQuality.from_pretrained(result.output_dir).eval()
    apart = peft.PeftModel.from_pretrained(base, result.output_dir / "adapter").eval()
    inputs = base.make_feature_extractor()(rows(1)[0]["audio"]["array"], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, apart(**inputs).logits, rtol=0, atol=1e-5)
        assert not torch.allclose(merged(**inputs).logits, tiny().eval()(**inputs).logits)


def test_an_adapter_goes_on_from_its_base_and_from_no_other(recipe, rows, tiny, tmp_path):
    pytest.importorskip("peft")
    from hf_sqa.training import build_model

    for name, seed in (("base", 0), ("other", 1)):
        tiny(seed=seed).save_pretrained(tmp_path / name)
    made = run_recipe(
        recipe(model={"checkpoint": str(tmp_path / "base"), "lora": {"r": 2}}, max_steps=2),
        train_dataset=rows(8),
        validation_dataset=rows(6),
        announce=lambda line: None,
    )
    section = load_recipe({"model": {"checkpoint": str(made.output_dir / "adapter")}}).model
    merged = build_model(section).state_dict()

    shutil.rmtree(tmp_path / "base")
    (tmp_path / "other").rename(tmp_path / "base")

    result = load_file(made.output_dir / "model.safetensors")
    assert all(torch.allclose(merged[name], result[name], atol=1e-6) for name in result)
    with pytest.raises(ValueError, match=r"Expected the base that the adapter .* was trained on .*plausible and wrong"):
        build_model(section)


def test_clips_longer_than_the_limit_are_told_once_with_their_number(recipe, rows, tiny):
    told = []

    result = run_recipe(
        recipe(max_steps=2, max_seconds=1.05), train_dataset=rows(9), validation_dataset=rows(6), model=tiny(), announce=told.append
    )

    assert result.notes == [
        "6 of 9 training clips are longer than 1.05 s: a stretch of that length is drawn from each in every epoch"
    ]
    assert sum("longer than" in line for line in told) == 1


# ---- What cannot be used


def test_no_validation_rows_is_an_error_that_says_what_to_do(recipe, rows, tiny):
    with pytest.raises(ValueError, match=r"Expected validation rows, got none: .*data.split.*eval_strategy='no'"):
        run_recipe(recipe(), train_dataset=rows(8), model=tiny())


def test_text_in_the_labels_is_shown(recipe, rows, tiny):
    data = rows(8)
    data[5]["mos"] = "excellent"

    with pytest.raises(ValueError, match="Expected numbers in the column 'mos' of the training data, got 'excellent'"):
        run_recipe(recipe(), train_dataset=data, validation_dataset=rows(6), model=tiny())


def test_a_score_that_no_row_has_is_refused(recipe, rows, tiny):
    data = [row | {"loudness": None} for row in rows(8, tiny("nisqa").config.score_names)]

    with pytest.raises(ValueError, match=r"Expected ratings of every score .* got none of loudness: .*model.scores"):
        run_recipe(recipe(model={"family": "nisqa"}), train_dataset=data, validation_dataset=data, model=tiny("nisqa"))


def test_running_out_of_memory_names_the_batch_size_and_what_to_try(recipe, rows, tiny):
    model = tiny()
    forward = model.forward

    def hungry(*args, **kwargs):
        torch.empty(1 << 50)  # a real refusal of the allocator: a petabyte
        return forward(*args, **kwargs)

    model.forward = hungry
    with pytest.raises(TrainingError, match=r"batches of 4 clips\. Try training.per_device_train_batch_size=2 .*steps=2"):
        run_recipe(recipe(), train_dataset=rows(8), validation_dataset=rows(6), model=model, announce=lambda line: None)


def test_a_loss_that_is_no_number_stops_the_run_with_advice(recipe, rows, tiny):
    with pytest.raises(TrainingError, match=r"not a number any more: lower `training.learning_rate`"):
        run_recipe(
            recipe(learning_rate=1e30, max_steps=50, logging_strategy="steps", logging_steps=1, eval_strategy="no", optim="sgd"),
            train_dataset=rows(8),
            model=tiny(),
            announce=lambda line: None,
        )


def test_a_tracker_that_is_not_installed_is_named(recipe, rows, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)

    with pytest.raises(ImportError, match=r"needs the package trackio: `pip install trackio`"):
        run_recipe(recipe(report_to=["trackio"]), train_dataset=rows(8), validation_dataset=rows(6), model=tiny())


def test_tensorboard_is_written_when_asked_for(recipe, rows, tiny, tmp_path):
    pytest.importorskip("tensorboard")

    run_recipe(
        recipe(max_steps=2, report_to=["tensorboard"]),
        train_dataset=rows(8),
        validation_dataset=rows(6),
        model=tiny(),
        announce=lambda line: None,
    )

    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


# ---- The original


@pytest.mark.parametrize("name", ["w2v_small_like", "hubert_large_like"])
def test_ssl_mos_takes_the_original_s_training_steps(name, shared, recipe, tmp_path):
    """Recorded in the authors' code: three steps of SGD with momentum on three clips, no dropout, zeros for padding."""
    from hf_sqa.models.wav2vec2_mos.convert_wav2vec2_mos import convert

    folder = shared / "checkpoints" / "layout_faithful" / "ssl_mos" / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    model = convert(folder / "mos.pt", {"num_attention_heads": 4})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for attribute in ("dropout", "layerdrop"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    model.config.encoder_config.layerdrop = 0.0
    clips = [
        {
            "audio": {
                "array": (0.1 * np.random.RandomState(seed).randn(length) + 0.02).astype("float32"),
                "sampling_rate": 16_000,
            },
            "mos": label,
        }
        for length, seed, label in zip((16321, 9000, 12345), (100, 101, 102), (3.0, 2.0, 4.0), strict=True)
    ]

    run_recipe(
        recipe(
            max_steps=3,
            per_device_train_batch_size=3,
            batching="pad",
            bucket_by_length=False,
            optim="sgd",
            optim_args="momentum=0.9",
            learning_rate=1e-3,
            max_grad_norm=0.0,
            eval_strategy="no",
            save_strategy="no",
        ),
        train_dataset=clips,
        model=model,
        announce=lambda line: None,
    )

    batch = torch.zeros(3, 16321)
    for row, clip in enumerate(clips):
        batch[row, : len(clip["audio"]["array"])] = torch.from_numpy(clip["audio"]["array"])
    with torch.no_grad():
        scores = model.eval()(batch).logits[:, 0].numpy()
    np.testing.assert_allclose(scores, np.load(folder / "ref.npz")["after3"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hub_strategy": "every_save"}, "`hub_strategy` to be 'end', got 'every_save'"),
        ({"push_to_hub": True}, "`hub_model_id` as 'owner/name'"),
    ],
)
def test_what_cannot_be_checked_is_not_published(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        AudioQualityTrainingArguments(str(tmp_path), use_cpu=True, **options)


@pytest.mark.slow
def test_metrics_are_written_to_trackio_without_a_network(recipe, rows, tiny):
    folder = Path(pytest.importorskip("trackio.utils").TRACKIO_DIR)

    run_recipe(recipe(report_to=["trackio"]), train_dataset=rows(8), validation_dataset=rows(6), model=tiny())

    (database,) = folder.rglob("*.db")
    logged = sqlite3.connect(database).execute("select metrics from metrics").fetchall()
    assert any("eval/utt_srcc" in str(metrics) for (metrics,) in logged)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_bfloat16_on_a_machine_without_an_accelerator_is_for_the_processor(tmp_path):
    """transformers refuses it unless `use_cpu` is said too, and the recipes of the students say bf16 alone."""
    assert AudioQualityTrainingArguments(output_dir=str(tmp_path), bf16=True).use_cpu
    assert not AudioQualityTrainingArguments(output_dir=str(tmp_path)).use_cpu


def test_workers_are_started_afresh_and_give_the_same_batches(trainer, rows):
    """A fork of a process whose threads have computed may wait for them for ever."""
    alone, helped = (trainer(dataloader_num_workers=workers).get_train_dataloader() for workers in (0, 1))

    assert helped.multiprocessing_context.get_start_method() == "spawn"
    for one, other in zip(alone, helped, strict=True):
        tensors = {name for name, value in one.items() if isinstance(value, torch.Tensor)}
        assert tensors >= {"labels", "rows"} and all(torch.equal(one[name], other[name]) for name in tensors)
