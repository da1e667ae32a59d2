"""A study of small models: students, pruned teachers and the teacher in one table and one figure."""

import csv

import numpy as np
import pytest
import soundfile

from hf_sqa.models.xlsr_sqa import XLSRSQAConfig
from hf_sqa.studies import load_study, run_study
from tests.distillation.test_distillation import STUDENT
from tests.made_speech import RATE, write_talker


@pytest.fixture
def table(tmp_path):
    """Eight rated recordings."""
    rows = []
    for number in range(8):
        path = tmp_path / "rated" / f"{number}.wav"
        write_talker(path, 100 + number, seconds=1.0)
        speech, _ = soundfile.read(path)
        soundfile.write(path, speech + 0.02 * number * np.random.default_rng(number).standard_normal(len(speech)), RATE)
        rows.append([path.name, 5 - number / 2])
    with (tmp_path / "rated" / "rated.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["audio", "mos"], *rows])
    return tmp_path / "rated" / "rated.csv"


@pytest.fixture
def content(speech, table, teacher_folder, tmp_path):
    """A student, the teacher pruned, the teacher."""
    teacher, labels = teacher_folder(), str(tmp_path / "labels")
    return {
        "name": "small",
        "corpora": {"rated": {"table": str(table)}},
        "sets": {"rated": {"corpus": "rated"}},
        "recipe": {
            "student": {"family": "distilled_sqa", "config": STUDENT},
            "teachers": [{"checkpoint": teacher}],
            "speech": {"folder": str(speech), "validation_share": 0.3},
            "degradations": {"none": 1},
            "labels": {"folder": labels, "num_windows": 320},
            "training": {"num_train_epochs": 1, "per_device_train_batch_size": 32, "use_cpu": True},
        },
        "models": {
            "distilled-{size}": {
                "for": {"size": [8]},
                "series": "distilled",
                "maker": "distill",
                "set": {"student.config.hidden_size": "{size}", "training.num_train_epochs": 2},
            },
            "labels-only": {
                "series": "labels only",
                "train": "rated",
                "validation": "rated",
                "recipe": {
                    "model": {"family": "distilled_sqa", "config": STUDENT},
                    "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "use_cpu": True},
                },
            },
            "pruned": {
                "series": "pruned",
                "maker": "prune",
                "options": {
                    "checkpoint": teacher,
                    "target": 0.8,
                    "calibration": labels,
                    "num_windows": 24,
                    "num_steps": 1,
                    "repair_steps": 2,
                },
            },
            "teacher": {"checkpoint": teacher, "series": "teacher"},
        },
        "seeds": [0],
        "test_sets": ["rated"],
        "evaluation": {"num_draws": 20},
        "figures": [{"kind": "size", "file": "size.png", "metric": "lcc"}],
    }


def test_students_pruned_models_and_the_teacher_share_a_table_and_a_figure(content, tmp_path):
    report = run_study(load_study(content), tmp_path / "out")

    assert report.failures == {} and report.num_done == report.num_cells == 4
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file) if row["metric"] == "lcc"}
    assert set(rows) == {"distilled-8", "labels-only", "pruned", "teacher"}
    weights = {name: int(row["num_parameters"]) for name, row in rows.items()}
    assert weights["distilled-8"] < weights["pruned"] <= 0.8 * weights["teacher"]
    assert float(rows["pruned"]["with_unpruned_lcc"]) <= 1 and int(rows["distilled-8"]["num_train"]) > 200
    assert (tmp_path / "out" / "size.png").stat().st_size > 10_000


def test_a_teacher_of_the_study_is_heard_and_pruned_and_clips_of_the_study_are_mixed_in(content, tmp_path):
    """The teacher named in the recipe is nowhere: the one that was trained takes its place."""
    sizes = {"num_mfcc": 8, "num_mel_bins": 20, "num_frames": 24, "hidden_size": 12, "num_hidden_layers": 1}
    encoder = {"encoder_config": XLSRSQAConfig.tiny().encoder_config.to_dict(), "layers": [1, 2], "freeze_encoder": True}
    training = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no"}
    content["recipe"]["teachers"] = [{"checkpoint": str(tmp_path / "nowhere")}]
    content["recipe"]["training"] = training | {"per_device_train_batch_size": 32}
    pruned = content["models"]["pruned"] | {"needs": ["trained", "heard"], "trained_on": []}
    pruned["options"] = {name: value for name, value in pruned["options"].items() if name != "checkpoint"}
    trained = {"model": {"family": "xlsr_sqa", "config": sizes | encoder | {"num_attention_heads": 2}}, "training": training}
    content["models"] = {
        "trained": {"train": "rated", "recipe": trained},
        "heard": {"maker": "distill", "needs": ["trained"], "trained_on": []},
        "mixed": {"maker": "distill", "needs": ["trained"], "train": "rated", "set": {"labelled.share": 0.2}},
        "pruned": pruned,
    }

    with pytest.warns(UserWarning, match="begins with random weights"):
        report = run_study(load_study(content), tmp_path / "out")

    assert report.failures == {} and report.num_done == 4
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file) if row["metric"] == "lcc"}
    num_heard, num_mixed = int(rows["heard"]["num_train"]), int(rows["mixed"]["num_train"])
    assert num_mixed == round(num_heard / 0.8)
    assert int(rows["pruned"]["num_parameters"]) <= 0.8 * int(rows["trained"]["num_parameters"])
    assert {row["overlap"] for row in rows.values()} == {"clips"}  # all of them heard, or heard of, the rated clips


def test_pruning_without_speech_is_refused(content, tmp_path):
    del content["models"]["pruned"]["options"]["calibration"]

    report = run_study(load_study(content), tmp_path / "out")

    assert ["Expected `calibration` among the options" in reason for reason in report.failures.values()] == [True]


def test_the_study_of_paper_three_can_be_planned():
    study = load_study("train_scripts/studies/distillation_size.yaml")

    series = {"distilled", "plain shrunk", "labels only", "pruned", "distilled, as shipped", "teacher"}
    assert {model.series for model in study.models} == series
    assert study.seeds == (0, 1, 2) and [figure["kind"] for figure in study.figures] == ["size"]
