"""Studies: what a file may say, and that no cell is lost, done twice or mixed up."""

import csv
import fcntl
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from hf_sqa import DistilledSQA, DistilledSQAConfig
from hf_sqa.cli import app
from hf_sqa.data import load_corpus
from hf_sqa.metrics import agreement
from hf_sqa.studies import (
    StudyData,
    collect_results,
    compare_cells,
    find_overlap,
    load_study,
    plan_runs,
    read_clips,
    read_results,
    run_study,
)
from tests.processes import PATIENCE, wait_until

RATE = 16_000
SIZES = {
    "window_samples": 10_240,
    "hop_samples": 10_240,
    "num_conv_layers": 5,
    "conv_initial_channels": 4,
    "conv_final_channels": 8,
}
SIZES |= {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def make_random(job):
    """A tiny model whose weights follow from the seed; notes that it was called."""
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        model = DistilledSQA(DistilledSQAConfig(**SIZES))
    model.save_pretrained(job.folder)
    model.make_feature_extractor().save_pretrained(job.folder)
    with (Path(job.options["log"]) / "made").open("a") as file:
        file.write(f"{job.model.name} {job.seed} {os.getpid()} {','.join(map(str, job.needed.values()))}\n")
    return {"train_seconds": 0.0}


def make_unless_broken(job):
    """Fails while there is a file `broken`."""
    if (Path(job.options["log"]) / "broken").exists():
        raise RuntimeError("the disk is full")
    return make_random(job)


def make_and_die(job):
    """Is killed in the middle of its second model."""
    if (Path(job.options["log"]) / "made").exists():
        (job.folder / "half").write_text("a model")
        os.kill(os.getpid(), signal.SIGKILL)
    return make_random(job)


def make_and_interrupt(job):
    """Ctrl-C comes in the middle of its second model."""
    if (Path(job.options["log"]) / "made").exists():
        raise KeyboardInterrupt
    return make_random(job)


def make_together(job):
    """Waits until another process makes a model too."""
    folder = Path(job.options["log"]) / "processes"
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    wait_until(lambda: len(list(folder.iterdir())) >= 2)
    return make_random(job)


MAKERS = {one.__name__: one for one in (make_random, make_unless_broken, make_and_die, make_and_interrupt, make_together)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two talkers, one a language, each with four sentences in three conditions: 24 clips of half a second."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    seconds = np.arange(RATE // 2) / RATE
    with (folder / "corpus.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "mos", "condition_id", "talker_id", "source_id", "language", "utterance_id"])
        for language, pitch in (("en", 110), ("fr", 190)):
            for sentence in range(4):
                for condition in range(3):
                    name = f"{language}{sentence}c{condition}"
                    voice = 0.2 * np.sin(2 * np.pi * (pitch + 15 * sentence) * seconds) * (1 - np.cos(2 * np.pi * 4 * seconds))
                    soundfile.write(folder / f"{name}.wav", voice + 10**-condition * 0.1 * rng.standard_normal(len(voice)), RATE)
                    rated = 1.5 + condition + 0.1 * sentence
                    writer.writerow([f"{name}.wav", rated, f"c{condition}", language, f"{language}{sentence}", language, name])
    return folder / "corpus.csv"


@pytest.fixture
def content(corpus, tmp_path):
    """A study of two models, two seeds and two test sets; models are random, made by the functions above."""
    return {
        "name": "miniature",
        "corpora": {"corpus": {"table": str(corpus)}},
        "parts": {"corpus": {"group": "source_id", "within": "language", "shares": {"train": 0.5, "test": 0.5}}},
        "sets": {
            "en-train": {"corpus": "corpus", "where": {"part": "train", "language": "en"}},
            "fr-train": {"corpus": "corpus", "where": {"part": "train", "language": "fr"}},
            "en": {"corpus": "corpus", "where": {"part": "test", "language": "en"}},
            "fr": {"corpus": "corpus", "where": {"part": "test", "language": ["fr"]}, "rated": "mos"},
        },
        "models": {
            "{language}": {
                "for": {"language": ["en", "fr"]},
                "maker": "make_random",
                "options": {"log": str(tmp_path)},
                "train": "{language}-train",
            },
        },
        "seeds": [0, 1],
        "test_sets": ["en", "fr"],
        "evaluation": {"num_draws": 20},
    }


def made(tmp_path):
    """What was made, in order: model and seed."""
    log = tmp_path / "made"
    return [" ".join(line.split()[:2]) for line in log.read_text().splitlines()] if log.exists() else []


# --- The file ---


def test_an_unknown_key_is_refused_with_the_nearest(content):
    content["test_set"] = ["en"]
    with pytest.raises(TypeError, match="Unknown key 'test_set' in the study; did you mean 'test_sets'"):
        load_study(content)


def test_an_unknown_key_of_a_model_is_refused(content):
    content["models"]["{language}"]["trian"] = "en-train"
    with pytest.raises(TypeError, match=r"Unknown key 'trian' in the model .*did you mean 'train'"):
        load_study(content)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["test_sets"].append("de"), "test set of 'en' to be defined, got 'de'"),
        (lambda c: c["sets"]["en"].update(corpus="corpse"), "did you mean 'corpus'"),
        (lambda c: c["corpora"]["corpus"].update(hub="x/y"), "one of `corpus`, `table` and `hub`"),
        (lambda c: c["parts"]["corpus"].update(shares={"train": 0.5, "test": 0.4}), "add up to 1"),
        (lambda c: c["models"].update({"a b": {"checkpoint": "default"}}), "names of letters, digits"),
        (lambda c: c["models"].update({"en": {"checkpoint": "default"}}), "a name of its own for every model, got 'en' twice"),
        (
            lambda c: c["models"].update({"x": {"checkpoint": "default", "train": "en"}}),
            "either a checkpoint or something to train",
        ),
        (lambda c: c["models"].update({"x": {"train": "en", "clips": "many"}}), "to be a whole number"),
        (lambda c: c["models"].update({"x": {"train": "en", "validation": 1.5}}), "a share between 0 and 1"),
        (lambda c: c["models"].update({"x": {"needs": ["y"]}, "y": {"needs": ["x"]}}), "without a circle, got x -> y -> x"),
        (lambda c: c.pop("models"), "Expected `models` in the study"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, told, content):
    change(content)
    with pytest.raises(ValueError, match=told):
        load_study(content)


def test_a_model_stands_for_every_combination_of_its_variables(content):
    content["models"] = {"{loss}-{n}": {"for": {"loss": ["l1", "mse"], "n": [4, 8]}, "train": "en-train", "clips": "{n}"}}

    models = load_study(content).models

    assert [(one.name, one.clips, one.variables["loss"]) for one in models] == [
        ("l1-4", 4, "l1"),
        ("l1-8", 8, "l1"),
        ("mse-4", 4, "mse"),
        ("mse-8", 8, "mse"),
    ]


def test_overrides_change_what_the_file_says(content):
    study = load_study(content, ["seeds=[7]", "evaluation.num_draws=30", "sets.en.where.language=fr"])

    assert (study.seeds, study.evaluation.num_draws, study.sets["en"].where["language"]) == ((7,), 30, "fr")


def test_an_override_below_a_value_is_refused(content):
    with pytest.raises(ValueError, match=r"Expected a section at 'name' to set 'name\.x', got 'miniature' there"):
        load_study(content, ["name.x=1"])


# --- The clips ---


def test_no_sentence_is_in_two_parts(content):
    data = StudyData(load_study(content))

    train, test = ({*data.select(one)["source_id"]} for one in ("en-train", "en"))

    assert len(train) == len(test) == 2 and not train & test


def test_smaller_draws_are_part_of_larger_ones_and_differ_by_seed(content):
    models = {"n{n}": {"for": {"n": [3, 6, 9]}, "train": "all", "clips": "{n}"}}
    study = load_study(content | {"models": models, "sets": content["sets"] | {"all": {"corpus": "corpus"}}})
    data = StudyData(study)

    def drawn(name, seed):
        return {*data.for_training(study.model(name), seed)[0]["utterance_id"]}

    assert drawn("n3", 0) < drawn("n6", 0) < drawn("n9", 0)
    assert len(drawn("n3", 0)) == 3 and drawn("n9", 0) != drawn("n9", 1)


def test_a_share_for_validation_keeps_groups_whole(content):
    models = {"x": {"train": "all", "validation": 0.25, "validation_group": "source_id"}}
    study = load_study(content | {"models": models, "sets": content["sets"] | {"all": {"corpus": "corpus"}}})

    train, validation = StudyData(study).for_training(study.model("x"), 0)

    assert len(train) + len(validation) == 24 and len(validation) == 6
    assert not {*train["source_id"]} & {*validation["source_id"]}


def test_a_set_may_be_of_several_corpora(content, corpus):
    content["corpora"]["more"] = {"table": str(corpus)}
    content["sets"]["both"] = {"corpus": ["corpus", "more"], "where": {"language": "fr"}}

    clips = StudyData(load_study(content)).select("both")

    assert len(clips) == 24 and {*clips["language"]} == {"fr"}


def test_the_training_sets_of_paper_one_are_drawn_from_a_set(content, monkeypatch):
    from hf_sqa.data import splits

    monkeypatch.setitem(splits.TRAINING_SETS, "w2v_all", splits.TrainingSet(12, 4, ()))
    content["sets"]["all"] = {"corpus": "corpus"}
    study = load_study(content | {"models": {"x": {"train": "all", "training_set": "w2v_all"}}})

    train, validation = StudyData(study).for_training(study.model("x"), 0)

    assert (len(train), len(validation)) == (12, 4)
    assert not {*train["utterance_id"]} & {*validation["utterance_id"]}


def test_a_training_set_that_the_paper_does_not_have_is_refused(content):
    content["models"] = {"x": {"train": "en", "training_set": "w2v_fr"}}
    with pytest.raises(ValueError, match=r"Expected `training_set` to be one of w2v_ger, .* got 'w2v_fr'"):
        load_study(content)


def test_data_of_a_recipe_of_its_own_count_as_seen(content, corpus):
    recipe = {"model": {"family": "distilled_sqa"}, "data": {"train": [{"table": str(corpus), "filter": {"language": "fr"}}]}}
    study = load_study(content | {"models": {"own": {"recipe": recipe}, "student": {"maker": "distill", "recipe": recipe}}})
    data = StudyData(study)

    seen = data.seen(study.model("own"), 0)

    assert [data.overlap(seen, data.select(name))["overlap"] for name in ("en", "fr")] == [None, "clips"]
    assert data.seen(study.model("student"), 0) is None


def test_what_a_teacher_has_seen_its_student_has_seen(content):
    content["models"] = {
        "teacher": {"maker": "make_random", "train": "fr", "test_sets": []},
        "student": {"maker": "make_random", "train": "en", "needs": ["teacher"]},
        "declared": {"maker": "distill", "trained_on": ["fr"]},
    }
    study = load_study(content)
    data = StudyData(study)

    for name, expected in (("student", ["clips", "clips"]), ("declared", [None, "clips"])):
        seen = data.seen(study.model(name), 0)
        assert [data.overlap(seen, data.select(test_set))["overlap"] for test_set in ("en", "fr")] == expected


def test_a_value_that_no_clip_has_is_refused(content):
    content["sets"]["en"]["where"]["language"] = "de"
    with pytest.raises(ValueError, match="language of the set 'en' to be one of en, fr, got 'de'"):
        StudyData(load_study(content)).select("en")


def test_overlap_tells_clips_from_sources_from_talkers(corpus):
    clips = load_corpus(corpus)

    def found(train, test):
        overlap = find_overlap([clips.select(train)], clips.select(test))
        return overlap["overlap"], overlap["overlap_clips"], overlap["overlap_sources"], overlap["overlap_talkers"]

    assert found([0, 1], [1, 2, 3]) == ("clips", 1, 2, 3)  # clips 0 to 2 are sentence 0, all of one talker
    assert found([0, 1], [2, 3]) == ("sources", 0, 1, 2)
    assert found([0, 1], [3, 4]) == ("talkers", 0, 0, 2)
    assert found([0, 1], [12, 13]) == (None, 0, 0, 0)


def test_a_copy_under_another_name_is_the_same_clip(corpus, tmp_path):
    shutil.copy(corpus.parent / "en0c0.wav", tmp_path / "renamed.wav")
    (tmp_path / "other.csv").write_text("audio,mos\nrenamed.wav,2.0\n")

    overlap = find_overlap([load_corpus(corpus)], load_corpus(tmp_path / "other.csv"))

    assert (overlap["overlap"], overlap["overlap_clips"]) == ("clips", 1)


def test_another_clip_of_the_same_length_is_not_the_same(corpus, tmp_path):
    soundfile.write(tmp_path / "new.wav", 0.1 * np.random.default_rng(5).standard_normal(RATE // 2), RATE)
    (tmp_path / "other.csv").write_text("audio,mos\nnew.wav,2.0\n")
    assert (tmp_path / "new.wav").stat().st_size == (corpus.parent / "en0c0.wav").stat().st_size

    assert find_overlap([load_corpus(corpus)], load_corpus(tmp_path / "other.csv"))["overlap"] is None


# --- Running ---


def test_the_table_has_every_model_seed_and_test_set_once(content, tmp_path):
    report = run_study(load_study(content), tmp_path / "out", makers=MAKERS)

    rows = [row for row in read_results(tmp_path / "out") if (row["level"], row["metric"]) == ("utt", "lcc")]
    assert (report.num_done, report.num_cells) == (8, 8)
    assert [(row["model"], row["seed"], row["test_set"]) for row in rows] == [
        (model, seed, test_set) for seed in (0, 1) for model in ("en", "fr") for test_set in ("en", "fr")
    ]
    assert [row["overlap"] for row in rows if row["seed"] == 0] == ["talkers", None, None, "talkers"]
    assert {row["num_train"] for row in rows} == {6} and {row["variable_language"] for row in rows} == {"en", "fr"}
    assert len({row["weights"] for row in rows}) == 2  # random weights follow from the seed alone


def test_values_are_those_of_the_predictions_kept(content, tmp_path):
    study = load_study(content)
    run_study(study, tmp_path / "out", makers=MAKERS)

    clips = read_clips(study, tmp_path / "out", "en", "fr", seed=1)

    expected = agreement([clip["predicted_mos"] for clip in clips], [clip["label_mos"] for clip in clips])["utt_mse"]
    (row,) = [
        row
        for row in read_results(tmp_path / "out" / "results.csv")
        if (row["model"], row["seed"], row["test_set"], row["level"], row["metric"]) == ("en", 1, "fr", "utt", "mse")
    ]
    assert row["value"] == pytest.approx(expected, abs=1e-9)
    same = compare_cells(clips, clips, metric="utt_lcc", num_draws=50)
    assert same.difference.value == 0 and same.better is None


def test_what_is_done_is_not_done_again(content, tmp_path):
    study = load_study(content)
    run_study(study, tmp_path / "out", makers=MAKERS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("*.*")}

    run_study(study, tmp_path / "out", makers=MAKERS)

    assert len(made(tmp_path)) == 4
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("*.*")}


def test_a_new_test_set_needs_no_new_training(content, tmp_path):
    run_study(load_study({**content, "test_sets": ["en"]}), tmp_path / "out", makers=MAKERS)

    report = run_study(load_study(content), tmp_path / "out", makers=MAKERS)

    assert len(made(tmp_path)) == 4 and report.num_done == 8


def test_a_changed_model_is_made_again_and_the_old_one_is_reported(content, tmp_path):
    run_study(load_study(content, ["seeds=[0]"]), tmp_path / "out", makers=MAKERS)
    content["sets"]["en-train"]["where"]["language"] = "fr"

    report = run_study(load_study(content, ["seeds=[0]"]), tmp_path / "out", makers=MAKERS)

    assert made(tmp_path) == ["en 0", "fr 0", "en 0"]
    assert [name.rpartition("-")[0] for name in report.stale] == ["en-s0"]


def test_a_failure_is_reported_and_does_not_stop_the_others(content, tmp_path):
    content["models"]["bad"] = {**content["models"]["{language}"], "maker": "make_unless_broken", "train": "en-train"}
    content["models"]["bad"].pop("for")
    content["models"] = dict(reversed(content["models"].items()))
    (tmp_path / "broken").touch()
    study = load_study(content, ["seeds=[0]"])

    first = run_study(study, tmp_path / "out", makers=MAKERS)
    (tmp_path / "broken").unlink()
    second = run_study(study, tmp_path / "out", makers=MAKERS)

    assert list(first.failures.values()) == ["RuntimeError: the disk is full"] and first.num_done == 4
    assert second.failures == {} and second.num_done == 6 and made(tmp_path) == ["en 0", "fr 0", "bad 0"]


def test_a_model_is_made_after_those_it_needs_and_from_them(content, tmp_path):
    one = {"maker": "make_random", "options": {"log": str(tmp_path)}}
    content["models"] = {"student": {**one, "needs": ["teacher"]}, "teacher": {**one, "seeds": [5], "test_sets": []}}
    study = load_study(content, ["seeds=[0]"])

    report = run_study(study, tmp_path / "out", makers=MAKERS)

    assert made(tmp_path) == ["teacher 5", "student 0"] and report.num_cells == 2
    given = (tmp_path / "made").read_text().splitlines()[1].split()[3]
    assert Path(given).name.startswith("teacher-s5-") and (Path(given) / "model.safetensors").is_file()


def test_what_needs_a_failed_model_is_not_tried(content, tmp_path):
    one = {"maker": "make_random", "options": {"log": str(tmp_path)}}
    content["models"] = {"student": {**one, "needs": ["teacher"]}, "teacher": {**one, "maker": "make_unless_broken"}}
    (tmp_path / "broken").touch()

    report = run_study(load_study(content, ["seeds=[0]"]), tmp_path / "out", makers=MAKERS)

    assert made(tmp_path) == [] and len(report.failures) == 2
    assert any("'teacher', which it needs, could not be made" in reason for reason in report.failures.values())


def test_published_models_stand_beside_trained_ones(content, tmp_path, tiny_folder):
    content["models"] = {
        "known": {"checkpoint": str(tiny_folder), "trained_on": ["fr"]},
        "unknown": {"checkpoint": str(tiny_folder)},
    }

    run_study(load_study(content), tmp_path / "out")

    rows = [row for row in read_results(tmp_path / "out") if (row["level"], row["metric"]) == ("utt", "srcc")]
    assert [(row["model"], row["seed"], row["test_set"], row["overlap"]) for row in rows] == [
        ("known", None, "en", None),
        ("known", None, "fr", "clips"),
        ("unknown", None, "en", "unknown"),
        ("unknown", None, "fr", "unknown"),
    ]


def test_a_variable_may_be_a_number_here_and_a_word_there(content, tmp_path):
    content["models"]["{language}"]["for"] = [{"language": "en", "amount": 5}, {"language": "fr", "amount": "all"}]

    run_study(load_study(content, ["seeds=[0]"]), tmp_path / "out", makers=MAKERS)

    assert {row["variable_amount"] for row in read_results(tmp_path / "out")} == {"5", "all"}


def test_a_maker_outside_the_package_is_refused(content, tmp_path):
    content["models"]["{language}"]["maker"] = "os:system"

    report = run_study(load_study(content, ["seeds=[0]"]), tmp_path / "out", makers=MAKERS)

    assert all("Expected the maker to be one of train" in reason for reason in report.failures.values()) and report.failures


def test_a_recipe_trains_for_real(content, tmp_path):
    content["recipe"] = {
        "model": {"family": "distilled_sqa", "config": SIZES},
        "training": {"max_steps": 1, "per_device_train_batch_size": 2, "disable_tqdm": True, "use_cpu": True},
    }
    content["models"] = {"lr-{lr}": {"for": {"lr": [0.0, 0.1]}, "train": "en-train", "validation": 0.34, "clips": 6}}
    content["models"]["lr-{lr}"]["set"] = {"training.learning_rate": "{lr}"}
    content["test_sets"], content["seeds"] = ["en"], [3]

    report = run_study(load_study(content), tmp_path / "out")

    assert report.failures == {}
    rows = [row for row in read_results(tmp_path / "out") if row["metric"] == "lcc" and row["level"] == "utt"]
    assert [(row["num_train"], row["num_validation"], row["variable_lr"]) for row in rows] == [(4, 2, 0.0), (4, 2, 0.1)]
    assert rows[0]["weights"] != rows[1]["weights"]
    folder = next((tmp_path / "out" / "models").glob("lr-0.1*"))
    assert (folder / "recipe.yaml").is_file() and not (folder / "run").exists() and not (folder / "checkpoints").exists()


# --- Several processes, and ends of all kinds ---


def test_a_run_that_another_process_holds_is_left_to_it(content, tmp_path):
    study = load_study(content, ["seeds=[0]"])
    first, second = plan_runs(study, StudyData(study))
    (tmp_path / "out" / "claims").mkdir(parents=True)
    with (tmp_path / "out" / "claims" / f"{first.name}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=run_study, args=(study, tmp_path / "out"), kwargs={"makers": MAKERS})
        thread.start()
        wait_until((tmp_path / "out" / "models" / second.name).exists)
        while_held = made(tmp_path)
    thread.join(PATIENCE)

    assert while_held == ["fr 0"]
    assert made(tmp_path) == ["fr 0", "en 0"]


def test_shards_share_the_runs_between_them(content, tmp_path):
    study = load_study(content)

    first = run_study(study, tmp_path / "out", makers=MAKERS, shard=(0, 2))
    halfway = made(tmp_path)
    second = run_study(study, tmp_path / "out", makers=MAKERS, shard=(1, 2))

    assert halfway == ["en 0", "en 1"] and made(tmp_path)[2:] == ["fr 0", "fr 1"]
    assert (first.num_done, second.num_done) == (4, 8)


def test_a_file_system_without_locks_needs_shards(content, tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    study = load_study(content, ["seeds=[0]"])

    with pytest.raises(OSError, match=r"no file locks at .* share the study by --shard i/n"):
        run_study(study, tmp_path / "out", makers=MAKERS)

    assert run_study(study, tmp_path / "out", makers=MAKERS, shard=(0, 1)).num_done == 4


@pytest.mark.parametrize("file_name", ["model.safetensors", "adapter_model.safetensors", "model-00001-of-00002.safetensors"])
def test_other_weights_to_start_from_are_another_run(file_name, content, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "start")
    (tmp_path / "start" / "model.safetensors").rename(tmp_path / "start" / file_name)
    content["recipe"] = {"model": {"checkpoint": str(tmp_path / "start")}}
    study = load_study(content, ["seeds=[0]"])
    before = [run.name for run in plan_runs(study, StudyData(study))]
    with (tmp_path / "start" / file_name).open("ab") as file:
        file.write(b" ")

    assert not {*before} & {run.name for run in plan_runs(study, StudyData(study))}


def test_ctrl_c_keeps_what_is_done_and_exits_with_130(content, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_sqa.studies.makers.MAKERS", MAKERS)
    content["models"]["{language}"]["maker"] = "make_and_interrupt"
    (tmp_path / "study.yaml").write_text(json.dumps(content))
    command = ["study", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out")]

    stopped = CliRunner().invoke(app, command)

    assert stopped.exit_code == 130 and "the same command resumes from there" in stopped.stderr
    assert collect_results(load_study(content), tmp_path / "out").num_done == 2


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(content, nursery, tmp_path):
    content["models"]["{language}"]["maker"] = "make_and_die"
    (tmp_path / "study.json").write_text(json.dumps(content))
    script = "import json; import tests.studies.test_study as t; from pathlib import Path; "
    script += f"folder = Path({str(tmp_path)!r}); study = t.load_study(json.loads((folder / 'study.json').read_text())); "
    script += "t.run_study(study, folder / 'out', makers=t.MAKERS)"

    killed = nursery.start(script)
    killed.communicate()
    before = made(tmp_path)
    left = [path.name for path in (tmp_path / "out" / "models").iterdir()]
    report = run_study(load_study(content), tmp_path / "out", makers={**MAKERS, "make_and_die": make_random})

    assert killed.returncode == -signal.SIGKILL and before == ["en 0"] and len(left) == 1
    assert made(tmp_path) == ["en 0", "fr 0", "en 1", "fr 1"] and report.num_done == 8


@pytest.mark.slow
def test_two_processes_share_a_study(content, tmp_path):
    content["models"]["{language}"]["maker"] = "make_together"

    report = run_study(load_study(content), tmp_path / "out", makers=MAKERS, num_processes=2)

    lines = [line.split() for line in (tmp_path / "made").read_text().splitlines()]
    assert len({line[2] for line in lines}) == 2
    assert sorted(" ".join(line[:2]) for line in lines) == ["en 0", "en 1", "fr 0", "fr 1"] and report.num_done == 8


# --- The command ---


def test_the_command_tells_what_is_left_without_doing_it(content, tmp_path):
    (tmp_path / "study.yaml").write_text(json.dumps(content))

    told = CliRunner().invoke(
        app, ["study", str(tmp_path / "study.yaml"), "seeds=[0]", "--output", str(tmp_path / "out"), "--dry-run"]
    )

    assert told.exit_code == 0 and "2 runs, 4 cells" in told.stdout and "to make; not tested; left: en, fr" in told.stdout
    assert not (tmp_path / "out").exists()


def test_the_command_tells_what_a_study_needs_without_a_folder(content, tmp_path):
    (tmp_path / "study.yaml").write_text(json.dumps(content))

    told = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "seeds=[0]", "--dry-run"])

    assert told.exit_code == 0 and "2 runs, 4 cells; --output says which of them are done in a folder" in told.stdout


def test_the_command_writes_tables_and_figures_and_exits_with_1_after_a_failure(content, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_sqa.studies.makers.MAKERS", MAKERS)
    content["models"]["bad"] = {**content["models"]["{language}"], "maker": "make_unless_broken", "train": "en-train"}
    content["models"]["bad"].pop("for")
    content["figures"] = [{"kind": "transfer_matrix", "file": "matrix.png"}, {"kind": "learning_curve"}]
    (tmp_path / "broken").touch()
    (tmp_path / "study.yaml").write_text(json.dumps(content))

    done = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "seeds=[0]", "--output", str(tmp_path / "out")])

    assert done.exit_code == 1
    assert "failed: RuntimeError: the disk is full" in done.stderr and "4 of 6 cells" in done.stderr
    assert "Not drawn: learning_curve.png: Expected curves of two sizes or more" in done.stderr
    assert {"matrix.png", "results.parquet", "results.csv", "results.md", "study.yaml"} <= {
        one.name for one in (tmp_path / "out").iterdir()
    }
    assert "§ trained on other speech of the same talkers" in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.yaml", "--output", "out"], "there is no file 'absent.yaml'"),
        (["study.yaml"], "Expected --output"),
        (["study.yaml", "--output", "out", "--shard", "2/2"], "Expected --shard as i/n"),
        (["study.yaml", "seeds", "--output", "out"], "Expected a change as dotted.key=value"),
    ],
)
def test_the_command_exits_with_2_for_what_it_cannot_do(arguments, told, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(json.dumps(content))

    done = CliRunner().invoke(app, ["study", *arguments])

    assert done.exit_code == 2 and told in done.stderr


def test_processes_of_a_launcher_train_alone(content, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_sqa.studies.makers.MAKERS", MAKERS)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    (tmp_path / "study.yaml").write_text(json.dumps(content))

    done = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "seeds=[0]", "--output", str(tmp_path / "out")])

    assert done.exit_code == 0 and done.stdout == "" and made(tmp_path) == ["en 0", "fr 0"]
    assert "WORLD_SIZE" not in os.environ and os.environ["CUDA_VISIBLE_DEVICES"] == "6"
