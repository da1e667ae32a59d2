"""Recipes and studies that come with the package: found by name from any folder."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from hf_sqa.cli import app
from hf_sqa.distillation.recipe import load_distillation
from hf_sqa.shipped import about, find_file, shipped_files
from hf_sqa.studies import load_study
from hf_sqa.studies.plan import plan_runs
from hf_sqa.studies.study_data import StudyData
from hf_sqa.training import load_recipe


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_recipes_and_studies_are_found_by_name_in_any_folder(elsewhere):
    assert load_recipe("w2v-ger").model.family == "wav2vec2_mos"
    assert load_recipe("w2v-ger.yaml") == load_recipe(shipped_files("recipes")["w2v-ger"])
    assert load_distillation("distilled_sqa-s").student.family == "distilled_sqa"
    assert load_study("mtq_losses").name == "mtq_losses"


def test_a_file_of_one_s_own_comes_before_one_of_the_package(elsewhere):
    Path("w2v-ger").write_text("model: {family: nisqa}\n")

    assert load_recipe("w2v-ger").model.family == "nisqa"


@pytest.mark.parametrize(
    ("command", "name", "nearest"),
    [("train", "w2v-gerr", "w2v-ger"), ("distill", "distilled-sqa-s", "distilled_sqa-s"), ("study", "mtq_loses", "mtq_losses")],
)
def test_a_misspelled_name_is_told_the_nearest_one(command, name, nearest, elsewhere):
    result = run(command, name, *(["--output", "out"] if command == "study" else []))

    assert result.exit_code == 2
    assert f"did you mean {nearest!r}? Those that do are listed by `hf-sqa" in result.stderr


def test_a_recipe_of_the_other_command_is_told_its_command(elsewhere):
    result = run("train", "distilled_sqa-s")

    assert result.exit_code == 2
    assert "the recipe 'distilled_sqa-s' is one of a distillation; run it with `hf-sqa distill`" in result.stderr


def test_recipes_that_studies_name_are_found_too(elsewhere):
    study = {
        "name": "one",
        "corpora": {"mine": {"table": "mine.csv"}},
        "sets": {"all": {"corpus": "mine", "rated": "mos"}},
        "recipe": "no-such-recipe",
        "models": {"a": {"train": "all"}},
        "test_sets": ["all"],
        "seeds": [0],
    }
    soundfile.write("a.wav", np.zeros(16_000), 16_000)
    Path("mine.csv").write_text("audio,mos\na.wav,3\n")
    Path("study.yaml").write_text(yaml.safe_dump(study))

    with pytest.raises(FileNotFoundError, match="recipe by its name or as a YAML file, but there is no file 'no-such-recipe'"):
        plan_runs(load_study("study.yaml"), StudyData(load_study("study.yaml")))
    found = load_study("study.yaml", ["recipe=w2v-ger"])
    assert plan_runs(found, StudyData(found))[0].name.startswith("a")


def test_lists_name_each_file_once_and_say_what_it_is_for(elsewhere):
    train, distill, study = (run(command, "--list") for command in ("train", "distill", "study"))

    names = [line.split()[0] for listed in (train, distill) for line in listed.stdout.splitlines() if line[:1].isalpha()]
    assert sorted(set(names) & set(shipped_files("recipes"))) == sorted(shipped_files("recipes"))
    assert not {name for name in names if names.count(name) > 1 and name in shipped_files("recipes")}
    assert "distilled_sqa-s " in distill.stdout and "distilled_sqa-s " not in train.stdout
    assert all(name in study.stdout for name in shipped_files("studies"))
    assert "multi_gpu" in train.stdout and "accelerate launch" in train.stdout


@pytest.mark.parametrize("kind", ["recipes", "studies"])
def test_every_file_says_what_it_is_for(kind):
    silent = [name for name, path in shipped_files(kind).items() if len(about(path)) < 20]

    assert not silent


def test_a_path_is_no_name(elsewhere):
    with pytest.raises(FileNotFoundError, match=r"no file 'elsewhere/w2v-ger'.*did you mean 'w2v-ger'"):
        find_file("elsewhere/w2v-ger", "recipes")
