"""Students of the default model that come with the package: by name, without a network, and in place of the default."""

import importlib.metadata
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from typer.testing import CliRunner

import hf_sqa
from hf_sqa import checkpoints, short_names
from hf_sqa.cli import app
from hf_sqa.hub.listing import shipped_models
from tests.processes import command

ROOT = Path(__file__).parents[2]
SAMPLE = hf_sqa.__path__[0] + "/assets/sample.flac"
STUDENTS = short_names.students()


@pytest.fixture
def without_distillmos(monkeypatch):
    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    monkeypatch.setattr(short_names, "_converted", lambda name, converter: converter())


def test_three_students_are_shipped_in_three_megabytes():
    assert list(STUDENTS) == ["distilled-sqa-xs", "distilled-sqa-s", "distilled-sqa-m"]
    assert sum(path.stat().st_size for folder in STUDENTS.values() for path in folder.iterdir()) < 3e6
    listed = {model.name: model for model in shipped_models()}
    for name in STUDENTS:
        assert listed[name].license and "installed" in listed[name].note


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_has_a_name_and_the_score_its_card_promises(name):
    scorer = hf_sqa.pipeline(f"hf-sqa/{name}", device="cpu")
    card = ModelCard.load(STUDENTS[name] / "README.md")

    promised = float(re.search(r"# \{'mos': ([\d.]+)\}", card.text)[1])
    assert scorer(SAMPLE)["mos"] == pytest.approx(promised, abs=0.006)
    assert scorer.identity()["id"] == name and scorer.identity()["weights"] in card.text
    assert hf_sqa.pipeline(name, device="cpu").identity() == scorer.identity()


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_kept_in_half_precision_and_computes_in_single(name):
    model = hf_sqa.AutoModelForAudioQuality.from_pretrained(STUDENTS[name], dtype="auto")

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with safe_open(STUDENTS[name] / "model.safetensors", "pt") as file:
        kept = {key: file.get_tensor(key).dtype for key, _ in model.named_parameters()}
    assert set(kept.values()) == {torch.float16}


def test_a_student_needs_no_network_and_no_other_package(nursery):
    program = (
        "from huggingface_hub import constants; assert constants.HF_HUB_OFFLINE\n"
        "import sys; sys.modules['distillmos'] = None\n"
        "import hf_sqa\n"
        f"print(hf_sqa.pipeline('audio-quality', model='hf-sqa/distilled-sqa-s', device='cpu')({SAMPLE!r})['mos'])"
    )
    shutil.rmtree(nursery.home, ignore_errors=True)

    child = nursery.start(program)
    child.communicate()

    assert child.returncode == 0, child.stderr
    assert 1 <= float(child.stdout) <= 5
    assert [path for path in nursery.home.rglob("*") if path.is_file()] == []


def test_a_mistyped_name_without_a_network_is_answered_with_the_nearest():
    found = r"there is no folder 'hf-sqa/distilled-sqa-z' here.*; did you mean 'hf-sqa/distilled-sqa-\w+'\?"

    with pytest.raises(OSError, match=found):
        hf_sqa.pipeline("hf-sqa/distilled-sqa-z", device="cpu")


def test_without_distillmos_a_student_stands_in_and_says_so(without_distillmos):
    with pytest.warns(UserWarning, match=r"its student 'distilled-sqa-m' takes its place.*`pip install --no-deps distillmos"):
        scorer = hf_sqa.pipeline(device="cpu")

    assert scorer.identity()["id"] == "distilled-sqa-m"
    assert checkpoints.resolve_checkpoint("hf-sqa/distilled-sqa-s") == str(STUDENTS["distilled-sqa-s"])
    with pytest.raises(FileNotFoundError, match="pip install --no-deps distillmos"):
        checkpoints.resolve_checkpoint("distill-mos-v7")


def test_how_far_off_the_stand_in_is_was_measured():
    results = json.loads((ROOT / "model_cards" / "results.json").read_text(encoding="utf-8"))

    (rmse,) = [row["value"] for row in results[short_names.STAND_IN]["teacher"] if row["metric"] == "utt_rmse"]
    assert pytest.approx(rmse, abs=0.01) == short_names.STAND_IN_RMSE


def test_info_checks_whichever_model_is_the_default(without_distillmos):
    with pytest.warns(UserWarning, match="takes its place"):
        result = CliRunner().invoke(app, ["info"])

    assert result.exit_code == 0, result.output
    assert re.search(r"sample +distilled-sqa-m scored 2\.\d+, expected 2\.\d+: works", result.stdout)


def test_the_command_line_says_so_in_one_sentence(nursery, tmp_path):
    program = (
        f"from huggingface_hub import constants; constants.HF_ASSETS_CACHE = {str(tmp_path)!r}\n"
        "import importlib.metadata as metadata, sys\n"
        "def absent(name, found=metadata.distribution):\n"
        "    if name == 'distillmos':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "metadata.distribution = absent\n"
    )

    child = nursery.start(program + command("score", SAMPLE))
    child.communicate()

    assert child.returncode == 0 and "sample.flac" in child.stdout
    assert "hf-sqa: The default model, Distill-MOS v7, is not available, so its student 'distilled-sqa-m' takes" in child.stderr
    assert "Scores differ by 0.3 MOS" in child.stderr and "HF_HUB_OFFLINE is set" in child.stderr
    assert ".py" not in child.stderr


def test_the_task_may_come_first_as_in_transformers():
    named = hf_sqa.pipeline("audio-quality", model="distilled-sqa-xs", device="cpu")
    second = hf_sqa.pipeline("audio-quality", "distilled-sqa-xs", device="cpu")

    assert named.identity() == second.identity() == hf_sqa.pipeline("distilled-sqa-xs", device="cpu").identity()
    with pytest.raises(ValueError, match="Expected the task 'audio-quality' before a model, got 'text-generation'"):
        hf_sqa.pipeline("text-generation", model="distilled-sqa-xs")


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    Path(tmp_path, "hf-sqa", "distilled-sqa-s").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert checkpoints.resolve_checkpoint("hf-sqa/distilled-sqa-s") == "hf-sqa/distilled-sqa-s"
