"""`hf-sqa distill` and `hf-sqa prune` as typed: what they print, where the result goes, and the exit codes."""

import json
import signal
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.cli import app
from tests.made_speech import WINDOW
from tests.processes import command, wait_until

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def recipe(speech, teacher_folder, tmp_path):
    content = {
        "student": {"family": "distilled_sqa", "config": _student()},
        "teachers": [{"checkpoint": teacher_folder()}],
        "speech": {"folder": str(speech), "validation_share": 0.3},
        "degradations": {"none": 1},
        "labels": {"folder": str(tmp_path / "labels"), "num_windows": 320},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 32, "use_cpu": True},
        "output_dir": str(tmp_path / "student"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_student_is_distilled_and_tested(recipe, tmp_path):
    labelled = run("distill", recipe, "--labels-only")
    result = run("distill", recipe, "training.max_steps=2")

    assert labelled.exit_code == result.exit_code == 0, result.output
    assert "train 256, validation 64" in labelled.output
    assert "with the teachers, validation talkers" in result.output and "utt_lcc" in result.output
    assert AutoModelForAudioQuality.from_pretrained(tmp_path / "student").config.num_mel_bins == 16
    assert yaml.safe_load((tmp_path / "student" / "distillation.yaml").read_text())["training"]["max_steps"] == 2


def test_what_cannot_be_distilled_is_a_usage_error(recipe):
    unknown, missing = run("distill", recipe, "student.sise=3"), run("distill", "nowhere.yaml")

    assert (unknown.exit_code, missing.exit_code) == (2, 2)
    assert "Unknown key 'sise'" in unknown.output
    assert "no file 'nowhere.yaml'" in missing.output


@pytest.mark.parametrize("option", ["--dry-run", "--labels-only"])
def test_a_codec_that_is_not_there_ends_the_command_in_one_line(recipe, option, monkeypatch):
    monkeypatch.delenv("HF_SQA_LYRA", raising=False)
    content = yaml.safe_load(recipe.read_text()) | {"degradations": {"mine.yaml": 1}}
    recipe.write_text(yaml.safe_dump(content))
    (recipe.parent / "mine.yaml").write_text("steps: [{kind: lyra}]")
    monkeypatch.chdir(recipe.parent)

    result = run("distill", recipe, option)

    assert result.exit_code == 2
    assert result.stderr.startswith("hf-sqa: The codec 'lyra' needs") and result.stderr.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_while_labelling_keeps_what_is_done(recipe, nursery, tmp_path):
    process = nursery.start(command("distill", recipe, "labels.num_windows=64000", "--labels-only"), folder=ROOT)
    wait_until(lambda: list(tmp_path.glob("labels/labels/*/*.safetensors")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert process.returncode == 130, errors
    assert "labels done are kept" in errors
    assert list(tmp_path.glob("labels/labels/*/train-00000.safetensors"))
    assert not list(tmp_path.glob("labels/**/.*"))


def test_a_model_is_pruned_and_reported(speech, teacher_folder, tmp_path):
    result = run(
        *("prune", "--model", teacher_folder(0, intermediate_size=24), "--target", 0.7, "--calibration", speech),
        *("--output", tmp_path / "pruned", "--num-steps", 2, "--repair-steps", 2, "--num-windows", 32),
    )

    assert result.exit_code == 0, result.output
    assert "step 2:" in result.output and "agreement before repair LCC" in result.output
    report = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    model = AutoModelForAudioQuality.from_pretrained(tmp_path / "pruned")
    assert sum(parameter.numel() for parameter in model.parameters()) == report["steps"][-1]["num_parameters"]
    assert report["steps"][-1]["share"] <= 0.7


def test_what_cannot_be_pruned_is_a_usage_error(speech, teacher_folder, tmp_path):
    result = run("prune", "--model", teacher_folder(), "--target", 1.5, "--calibration", speech, "--output", tmp_path / "pruned")

    assert result.exit_code == 2
    assert "above 0 and below 1, got 1.5" in result.output
    assert not (tmp_path / "pruned").exists()


def _student():
    return {
        "window_samples": WINDOW,
        "hop_samples": WINDOW,
        "num_mel_bins": 16,
        "num_conv_layers": 2,
        "conv_layer_channels": [4, 6],
        "conv_time_strides": [2, 2],
        "conv_frequency_strides": [1, 2],
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    }
