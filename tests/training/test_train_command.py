"""`hf-sqa train`, as a user types it."""

import csv
import json
import signal

import pytest
import yaml
from typer.testing import CliRunner

from hf_sqa.cli import app
from hf_sqa.training.model import build_model
from hf_sqa.training.recipe import Model
from tests.processes import command, wait_until

runner = CliRunner()


@pytest.fixture
def written(recipe, table, tiny, tmp_path):
    """A recipe file for a tiny checkpoint on generated clips."""
    start = tmp_path / "start"
    model = tiny()
    model.save_pretrained(start)
    model.make_feature_extractor().save_pretrained(start)
    content = recipe(model={"checkpoint": str(start)}, data={"train": [{"table": str(table(16))}]}, max_steps=4)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(*arguments):
    return runner.invoke(app, ["train", *map(str, arguments)])


def test_a_recipe_is_trained_and_told(written, tmp_path):
    result = run(written, "training.max_steps=2", f"output_dir={tmp_path / 'mine'}")

    assert result.exit_code == 0, result.output
    assert "12 clips trained on, 4 validated; best step 2 of 2" in result.stdout
    assert "utt_srcc" in result.stdout
    assert json.loads((tmp_path / "mine" / "training_result.json").read_text())["num_steps"] == 2
    assert yaml.safe_load((tmp_path / "mine" / "recipe.yaml").read_text())["training"]["max_steps"] == 2


def test_a_result_scores_recordings(written, tmp_path):
    run(written, "training.max_steps=2", f"output_dir={tmp_path / 'mine'}")

    result = runner.invoke(app, ["score", "--model", str(tmp_path / "mine"), str(tmp_path / "clips" / "clip000.flac")])

    assert result.exit_code == 0, result.output


def evaluation(*sources):
    return "evaluation=" + json.dumps(sources)


def test_the_test_sets_of_a_recipe_are_scored_after_training(written, tmp_path, monkeypatch):
    labels = str(tmp_path / "clips" / "labels.csv")
    sources = evaluation({"table": labels, "filter": {"split": "validation"}}, {"table": labels})
    command = (written, "training.max_steps=2", f"output_dir={tmp_path / 'mine'}", sources)

    result = run(*command)

    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "mine" / "results.csv").open()))
    counts = {row["test_set"]: row["num_clips"] for row in rows if row["level"] == "utt"}
    assert counts == {"labels": "4", "labels (2)": "16"}
    assert {row["metric"] for row in rows} == {"lcc", "srcc", "ktau", "mse", "rmse", "mae"}
    assert "| labels (2) | 16 |" in (tmp_path / "mine" / "results.md").read_text()
    assert "labels (2)" in result.stdout

    def scored_again(*args, **options):
        raise AssertionError("these test sets are done")

    monkeypatch.setattr("hf_sqa.evaluation.after_training.evaluate_checkpoint", scored_again)
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert list(csv.DictReader((tmp_path / "mine" / "results.csv").open())) == rows


def test_a_missing_test_set_is_reported_before_the_training(written, tmp_path):
    result = run(written, f"output_dir={tmp_path / 'mine'}", evaluation({"table": "/does/not/exist.csv"}))

    assert result.exit_code == 2
    assert "/does/not/exist.csv" in result.stderr
    assert "say where it is by `evaluation.0.table=...`" in result.stderr and "add `'evaluation=[]'`" in result.stderr
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("change", ["data.train.0.root=/nowhere", "data.train.0.table=/nowhere.csv"])
def test_a_missing_corpus_is_told_with_the_option_that_names_it(change, tmp_path):
    data = {"train": [{"corpus": "bvcc/main", "root": "corpora/bvcc"} if "root" in change else {"table": "mine.csv"}]}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"model": {"family": "nisqa"}, "data": data}))

    result = run(tmp_path / "recipe.yaml", f"output_dir={tmp_path / 'mine'}", change)

    assert result.exit_code == 2
    assert "/nowhere" in result.stderr and f"`{change.partition('=')[0]}=...`" in result.stderr


@pytest.mark.parametrize(
    ("encoder", "line"),
    [
        ("tiny", "tiny, wav2vec2 with 2 layers"),
        ("facebook/wav2vec2-xls-r-300m", "it will be fetched from the Hub"),
        (None, "encoder: random weights"),
    ],
)
def test_a_dry_run_says_where_the_encoder_comes_from(encoder, line, tiny, tmp_path):
    start = tmp_path / "tiny"
    tiny("xlsr_sqa").encoder.save_pretrained(start)
    model = {"family": "xlsr_sqa", "config": {"layers": [1]}, "encoder": str(start) if encoder == "tiny" else encoder}
    if encoder is None:
        model["config"]["encoder_config"] = tiny("xlsr_sqa").config.encoder_config.to_dict()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": model, "data": {"train": [{"table": "mine.csv"}]}}))

    result = run(tmp_path / "recipe.yaml", "--dry-run")

    assert result.exit_code == 0, result.output
    assert line in result.stdout


def test_a_dry_run_refuses_a_layer_that_the_encoder_lacks(tiny, tmp_path):
    tiny("xlsr_sqa").encoder.save_pretrained(tmp_path / "tiny")
    model = {"family": "xlsr_sqa", "config": {"layers": [7]}, "encoder": str(tmp_path / "tiny")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": model, "data": {"train": [{"table": "mine.csv"}]}}))

    result = run(tmp_path / "recipe.yaml", "--dry-run")

    assert result.exit_code == 2
    assert "Expected `layers` between 0 and 2" in result.stderr


def test_a_random_encoder_is_announced(tiny):
    model = Model(family="xlsr_sqa", config={"layers": [1], "encoder_config": tiny("xlsr_sqa").config.encoder_config.to_dict()})

    with pytest.warns(UserWarning, match="begins with random weights"):
        build_model(model)


def test_a_dry_run_looks_for_the_test_sets(written):
    result = run(written, evaluation({"corpus": "pstn", "root": "nowhere"}), "--dry-run")

    assert "pstn: 'nowhere' is not there" in result.stdout


def test_a_trained_model_does_not_go_by_the_name_of_the_weights_it_began_with(written, tiny, tmp_path):
    model = tiny(checkpoint_name="published", score_mapping={"mos": [1.0, 5.0, 0.0, 0.9]})
    model.save_pretrained(tmp_path / "start")

    run(written, "training.max_steps=2", f"output_dir={tmp_path / 'mine'}")

    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config.get("checkpoint_name") is None and config.get("score_mapping") is None


def test_a_dry_run_shows_the_recipe_and_what_is_there(written, tmp_path):
    result = run(written, "data.train+={corpus: pstn, root: nowhere}", "--dry-run")

    assert result.exit_code == 0, result.output
    assert "max_steps: 4" in result.stdout
    assert "pstn: 'nowhere' is not there" in result.stdout
    assert "The recipe works" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "there is no file 'nowhere.yaml'"),
        (["{recipe}", "training.learningrate=1"], "did you mean 'learning_rate'"),
        (["{recipe}", "data.train.0.table=lost.csv"], "there is no file 'lost.csv'"),
        (["{recipe}", "training"], "dotted.key=value"),
    ],
)
def test_what_cannot_be_used_exits_with_2_and_one_line(written, arguments, message):
    result = run(*[one.replace("{recipe}", str(written)) for one in arguments])

    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_another_run_in_the_folder_is_refused_until_told_to_overwrite(written):
    assert run(written, "training.max_steps=2").exit_code == 0

    refused = run(written, "training.max_steps=1")
    overwritten = run(written, "training.max_steps=1", "--overwrite")

    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    assert overwritten.exit_code == 0, overwritten.output


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_says_where_it_was_saved(written, nursery, tmp_path):
    options = ("training.max_steps=100000", "training.eval_strategy=steps", "training.eval_steps=1", "training.save_steps=1000000")
    child = nursery.start(command("train", written, *options))
    wait_until(lambda: "step 1:" in child.so_far("stderr"), child)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate()

    assert child.returncode == 130, told
    assert "interrupted: saved in" in told
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    steps = int(checkpoint.name.split("-")[1])
    assert steps > 0
