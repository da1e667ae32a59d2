"""The recipes of docs/engines.md run where the engine is installed, and call what users call; that of Ray is in test_command.py."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas
import pytest

from hf_sqa.scoring import score_batch
from tests.processes import PATIENCE

RECIPES = Path(__file__).parents[2] / "examples" / "engines"


@pytest.fixture
def recipe():
    """`recipe(name)`: the names that a recipe defines."""
    return lambda name: types.SimpleNamespace(**runpy.run_path(str(RECIPES / f"{name}.py")))


@pytest.fixture(scope="module")
def paths(clips):
    return [str(path) for path in sorted(clips.glob("*.wav"))][:5]


@pytest.fixture
def settings(tiny_folder):
    return {"model": str(tiny_folder), "device": "cpu", "suffix": ""}


def test_a_batch_gets_scores_and_loses_nothing_but_its_audio(paths, settings, tiny_scorer):
    batch = {"audio": [paths[0], "gone.wav", None, Path(paths[1]).read_bytes()], "id": list("abcd")}

    scored = score_batch(batch, **settings)

    assert scored["id"] == list("abcd") and "audio" not in scored
    assert scored["status"] == ["ok", "failed", "failed", "ok"]
    assert scored["code"] == [None, "missing", "bad_row", None]
    assert scored["mos"][0] == pytest.approx(tiny_scorer(paths[0])["mos"], abs=1e-5)
    assert scored["mos"][1] is None
    assert scored["mos"][3] == pytest.approx(tiny_scorer(paths[1])["mos"], abs=1e-5)


def test_a_batch_without_the_column_says_which_it_has(settings):
    with pytest.raises(ValueError, match=r"Expected a column 'audio' of recordings, got path"):
        score_batch({"path": ["a.wav"]}, **settings)


def test_datasets_map(recipe, paths, settings, tiny_scorer):
    import datasets

    dataset = datasets.Dataset.from_dict({"audio": paths, "speaker": list("abcde")})
    dataset = dataset.cast_column("audio", datasets.Audio(decode=False))

    scored = recipe("with_datasets").add_scores(dataset, **settings)

    assert scored["speaker"][:] == list("abcde")
    assert np.allclose(scored["mos"][:], [tiny_scorer(path)["mos"] for path in paths], atol=1e-5)
    assert "audio" not in scored.column_names


def test_spark_gives_frames_of_its_schema(recipe, paths, settings, monkeypatch):
    recipe = recipe("with_spark")
    monkeypatch.setitem(recipe.score_frames.__globals__, "score_batch", lambda batch, **more: score_batch(batch, **settings | more))
    frames = [pandas.DataFrame({"id": [f"k{i}"], "path": [path], "more": [1]}) for i, path in enumerate(paths)]

    scored = pandas.concat(recipe.score_frames(iter(frames)))

    assert list(scored.columns) == [column.split()[0] for column in recipe.SCHEMA.split(", ")]
    assert scored["id"].tolist() == ["k0", "k1", "k2", "k3", "k4"]
    assert scored["mos"].between(1, 5).all()


@pytest.mark.slow
def test_data_juicer_runs_the_recipe_as_a_user_would(paths, tiny_folder, tiny_scorer, tmp_path):
    pytest.importorskip("data_juicer")
    rows = [{"text": "<__dj__audio>", "audios": [path]} for path in (paths[0], "gone.wav", paths[1])]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    process = {
        "dataset_path": str(tmp_path / "in.jsonl"),
        "export_path": str(tmp_path / "out" / "out.jsonl"),
        "np": 1,
        "audio_key": "audios",
        "custom_operator_paths": [str(RECIPES / "with_data_juicer.py")],
        "process": [{"speech_quality_mapper": {"model": str(tiny_folder)}}],
    }
    (tmp_path / "process.yaml").write_text(json.dumps(process))
    command = [sys.executable, "-m", "data_juicer.tools.process_data", "--config", str(tmp_path / "process.yaml")]

    result = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )

    assert result.returncode == 0, result.stderr
    scored = [json.loads(line) for line in (tmp_path / "out" / "out.jsonl").read_text().splitlines()]
    assert [row["code"] for row in scored] == [None, "missing", None]
    scores = [next(value for name, value in row.items() if name.startswith("mos__")) for row in scored]
    assert scores[0] == pytest.approx(tiny_scorer(paths[0])["mos"], abs=1e-5) and scores[1] is None


@pytest.mark.slow
def test_spark_runs_the_recipe_as_a_user_would(paths, tmp_path):
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    pandas.DataFrame({"id": ["a", "b", "c"], "path": [paths[0], "gone.wav", paths[1]]}).to_parquet(tmp_path / "in.parquet")
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [sys.executable, str(RECIPES / "with_spark.py"), str(tmp_path / "in.parquet"), str(tmp_path / "out")]

    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)

    assert result.returncode == 0, result.stderr
    scored = pandas.read_parquet(tmp_path / "out").set_index("id").sort_index()
    expected = score_batch({"audio": [paths[0], paths[1]]}, suffix="")["mos"]
    assert np.allclose(scored.loc[["a", "c"], "mos"], expected, atol=1e-5)
    assert scored.loc["b", "code"] == "missing" and scored.loc[["a", "c"], "code"].isna().all()


@pytest.mark.slow
def test_nemo_curator_runs_the_stage_and_a_filter_behind_it(paths, tmp_path):
    pytest.importorskip("nemo_curator")
    code = f"""
import json
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.audio.common import PreserveByValueStage
from nemo_curator.tasks import AudioTask
from with_nemo_curator import SpeechQualityStage

def scored(*filters):
    pipeline = Pipeline(name="quality")
    for stage in (SpeechQualityStage(), *filters):
        pipeline.add_stage(stage)
    tasks = [AudioTask(data={{"audio_filepath": path}}) for path in {[*paths[:2], "gone.wav"]!r}]
    return [dict(task.data) for task in pipeline.run(RayDataExecutor(), initial_tasks=tasks)]

print("RESULT", json.dumps([scored(), scored(PreserveByValueStage("mos", 1, "ge"))]))
"""
    environment = {**os.environ, "PYTHONPATH": f"{os.getcwd()}:{RECIPES}", "RAY_worker_niceness": "0"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, env=environment)

    assert result.returncode == 0, result.stderr
    everything, kept = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("RESULT"))[7:])
    codes = {row["audio_filepath"]: row["code"] for row in everything}
    assert codes == {paths[0]: None, paths[1]: None, "gone.wav": "missing"}
    assert {row["audio_filepath"] for row in kept} == set(paths[:2])
