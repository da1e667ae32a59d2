"""`hf-sqa score <corpus> --output <folder>/`, and the processes that share one output folder."""

import importlib.util
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

from hf_sqa.cli import app
from hf_sqa.cli.arguments import parse_part
from hf_sqa.scoring import open_source, score_corpus
from tests.processes import command, free_port, script, wait_until

RAY_RECIPE = Path(__file__).parents[2] / "examples" / "engines" / "with_ray.py"


@pytest.fixture
def run(tiny_folder):
    def invoke(*arguments):
        return CliRunner().invoke(app, ["score", "--model", str(tiny_folder), "--device", "cpu", *map(str, arguments)])

    return invoke


@pytest.fixture
def manifest(clips, tmp_path):
    path = tmp_path / "m.jsonl"
    lines = [json.dumps({"audio_filepath": str(clips / f"{i:02d}.wav"), "speaker": "a", "text": "t"}) for i in range(12)]
    path.write_text("\n".join([*lines[:6], "{", *lines[6:]]))
    return path


def rows(output):
    paths = sorted((output / "shards").glob("*.parquet"))
    return pandas.concat([pandas.read_parquet(path) for path in paths], ignore_index=True)


def test_a_folder_as_output_scores_a_corpus_and_says_what_was_done(run, manifest, tmp_path):
    result = run(manifest, "--output", f"{tmp_path}/out/", "--num-workers", 0, "--format", "csv")

    assert result.exit_code == 0, result.output
    assert "Scored 13 rows" in result.stderr and "12 ok, 1 failed" in result.stderr
    assert len(rows(tmp_path / "out")) == 13
    assert len(pandas.read_csv(tmp_path / "out" / "scores.csv")) == 13


def test_the_same_command_again_has_nothing_to_do(run, manifest, tmp_path):
    run(manifest, "--output", tmp_path / "out", "--num-workers", 0)

    result = run(manifest, "--output", tmp_path / "out", "--num-workers", 0)

    assert result.exit_code == 0
    assert "Nothing to do: 13 rows were there already." in result.stderr


def test_columns_are_kept_and_named_on_request(run, manifest, tmp_path):
    result = run(manifest, "--output", f"{tmp_path}/out/", "--num-workers", 0, "--keep", "text", "--suffix", "v7")

    assert result.exit_code == 0, result.output
    assert set(rows(tmp_path / "out")) >= {"text", "mos__v7"}
    assert "speaker" not in rows(tmp_path / "out")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output", "{tmp}/out/", "--sort", "best"], "--sort does not go with --output"),
        (["--output", "{tmp}/out/", "--segments"], "--segments does not go with --output"),
        (["--output", "{tmp}/out/", "--shards", "3/3"], "Expected --shards as i/n with i from 0 to n - 1"),
        (["--output", "{tmp}/out/", "--format", "xml"], "Expected --format to be one of jsonl, csv"),
        (["--output", "{tmp}/out/", "--keep", "age"], "Expected --keep to name columns of the source"),
        (["--output", "{tmp}/out/", "--dtype", "int8"], "Expected --dtype to be one of"),
        (["--output", "{tmp}/out/", "--mode", "fats"], "Expected `mode` to be one of published, fast"),
        (["--output", "{tmp}/out/", "--timeout", "0"], "Expected --timeout above 0"),
        (["--output", "{tmp}/out/", "--model", "no/such/model"], "cannot be used"),
        (["--output", "{tmp}/rows.csv", "--keep", "text"], "--keep needs a folder as --output"),
        (["--retry-failed"], "--retry-failed needs a folder as --output"),
    ],
)
def test_usage_errors_exit_with_2(arguments, message, run, manifest, tmp_path):
    result = run(manifest, *(argument.format(tmp=tmp_path) for argument in arguments))

    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["m.jsonl", "*.wav", "a.tar"])
def test_a_url_whose_package_is_missing_is_refused_by_its_name(name, run, tmp_path):
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("needs a Python without gcsfs")

    result = run(f"gs://bucket/{name}", "--output", f"{tmp_path}/out/", "--num-workers", 0)

    assert result.exit_code == 2, result.output
    assert "gcsfs" in result.stderr and "Traceback" not in result.output


def test_two_corpora_are_one_too_many(run, clips, tmp_path):
    assert "Expected one corpus" in run(clips, clips, "--output", f"{tmp_path}/out/").stderr


def test_a_part_is_i_of_n():
    assert parse_part("3/8") == (3, 8)
    for text in ("8/8", "1", "a/b", "-1/2", "1/0"):
        with pytest.raises(ValueError, match="Expected --shards"):
            parse_part(text)


@pytest.mark.slow
@pytest.mark.parametrize("sent, more", [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGINT, ("--num-processes", 2))])
def test_an_interrupt_keeps_the_finished_shards_and_exits_with_130(sent, more, clips, nursery, tiny_folder, tmp_path):
    lines = [json.dumps({"audio_filepath": str(clips / f"{i % 12:02d}.wav"), "id": str(i)}) for i in range(3000)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    options = ("--model", tiny_folder, "--device", "cpu", "--rows-per-shard", 10, "--hop-seconds", 0.05, *more)
    process = nursery.start(command("score", tmp_path / "m.jsonl", "--output", tmp_path / "out", *options))
    wait_until(lambda: len(list(tmp_path.glob("out/shards/0*"))) >= 2, process)
    process.send_signal(sent)
    _, errors = process.communicate()

    assert process.returncode == 130, errors
    assert "Interrupted: the shards that are finished are kept" in errors
    assert "Traceback" not in errors
    assert len(rows(tmp_path / "out")) % 10 == 0 and len(rows(tmp_path / "out")) >= 20


def assert_same_shards(one, other):
    """The same shards with the same rows, numbers to 1e-5."""
    assert [path.name for path in sorted(one.glob("shards/*.parquet"))] == [
        path.name for path in sorted(other.glob("shards/*.parquet"))
    ]
    pandas.testing.assert_frame_equal(rows(one), rows(other), rtol=0, atol=1e-5)


#: ASCII as encoding of names, as in bare containers, and a clock ahead of all others.
ODD = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TZ": "Pacific/Kiritimati"}


@pytest.fixture
def launched(once, clips, nursery, tiny_folder):
    """A folder with `m.jsonl`, its rows as `plain` has them, and `two` by `accelerate launch` of two processes, set up as `ODD`.

    Names, keys and columns are beyond ASCII; recordings are of 1970 and 2099.
    """
    launcher = Path(sys.executable).with_name("accelerate")
    if not launcher.exists():
        pytest.skip("needs accelerate")

    def fill(folder):
        for index, name in enumerate(["grüße 音.wav", "b.wav", "ça va.wav", "d.wav"]):
            shutil.copy(clips / f"{index:02d}.wav", folder / name)
            os.utime(folder / name, (4.1e9 * (index % 2),) * 2)
        lines = [json.dumps({"id": f"ключ {path.stem}", "path": path.name, "language": "ü"}) for path in sorted(folder.iterdir())]
        (folder / "m.jsonl").write_text("\n".join([*lines, "{ü"]), encoding="utf-8")
        options = {"rows_per_shard": 2, "num_workers": 0}
        score_corpus(folder / "m.jsonl", folder / "plain", model=str(tiny_folder), device="cpu", **options)

        launched = ["launch", "--multi_gpu", "--num_machines", 1, "--num_processes", 2, "--main_process_port", free_port()]
        launched += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "hf_sqa", "score", folder / "m.jsonl"]
        options = ["--output", folder / "two", "--model", tiny_folder, "--device", "cpu", "--rows-per-shard", 2, "--num-workers", 1]
        process = nursery.start(script(launcher, *launched, *options), PYTHONPATH=os.getcwd(), TQDM_DISABLE="1", **ODD)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        (folder / "errors.txt").write_text(errors)

    return once("launched", fill)


@pytest.mark.slow
def test_accelerate_launch_with_two_processes_gives_the_same_table(launched):
    errors = (launched / "errors.txt").read_text()

    assert "rank 0 of 2: Scored" in errors and "rank 1 of 2: Scored" in errors
    assert_same_shards(launched / "two", launched / "plain")
    assert len(rows(launched / "two")) == 5


@pytest.mark.slow
def test_a_locale_and_clock_that_know_no_umlauts_and_no_year_change_nothing(launched):
    assert_same_shards(launched / "two", launched / "plain")
    assert list(rows(launched / "two")["status"]) == ["ok", "ok", "ok", "ok", "failed"]
    assert rows(launched / "two")["key"][2] == "ключ grüße 音"
    assert set(rows(launched / "two")["language"][:4]) == {"ü"}


@pytest.mark.slow
def test_ray_with_two_actors_gives_the_same_table_and_its_cluster_maps_batches(
    manifest, clips, nursery, tiny_folder, tiny_scorer, tmp_path
):
    """In one process, as starting Ray costs most: the command starts a cluster, which the recipe of docs/engines.md uses."""
    pytest.importorskip("ray")
    score_corpus(manifest, tmp_path / "one", model=str(tiny_folder), device="cpu", rows_per_shard=3, num_workers=0)
    paths = [str(clips / f"{index:02d}.wav") for index in range(3)]
    (tmp_path / "few.jsonl").write_text("\n".join(json.dumps({"audio_filepath": path, "speaker": "a"}) for path in paths))
    settings = {"model": str(tiny_folder), "device": "cpu", "suffix": ""}

    options = ["--output", tmp_path / "two", "--model", tiny_folder, "--device", "cpu", "--rows-per-shard", 3, "--num-workers", 0]
    code = f"""
import runpy, sys
sys.path.insert(0, {os.getcwd()!r})
try:
    {command("score", manifest, *options, "--engine", "ray", "--actors", 2)}
except SystemExit as end:
    assert not end.code, end.code
import ray, ray.data
assert ray.is_initialized()
recipe = runpy.run_path({str(RAY_RECIPE)!r})
scored = recipe["add_scores"](ray.data.read_json({str(tmp_path / "few.jsonl")!r}), **{settings!r})
scored.write_parquet({str(tmp_path / "mapped")!r})
ray.shutdown()
"""
    process = nursery.start(code, PYTHONPATH=os.getcwd())
    process.communicate()

    assert process.returncode == 0, process.stderr
    assert_same_shards(tmp_path / "two", tmp_path / "one")
    mapped = pandas.read_parquet(tmp_path / "mapped")
    assert np.allclose(sorted(mapped["mos"]), sorted(tiny_scorer(path)["mos"] for path in paths), atol=1e-5)
    assert set(mapped["status"]) == {"ok"} and set(mapped["speaker"]) == {"a"}


def test_parts_of_an_array_of_jobs_are_the_whole(manifest, tiny_scorer, tmp_path):
    source = open_source(manifest)
    score_corpus(source, tmp_path / "one", scorer=tiny_scorer, rows_per_shard=2, num_workers=0)
    for index in range(3):
        score_corpus(source, tmp_path / "array", scorer=tiny_scorer, rows_per_shard=2, num_workers=0, part=(index, 3))

    assert_same_shards(tmp_path / "array", tmp_path / "one")
