"""`hf-sqa compare` and `hf_sqa.compare`: from files to a verdict, nothing dropped in silence, exit codes for a build server."""

import csv
import json
import shutil

import numpy as np
import pandas
import pytest
import soundfile
from made_clips import RATE, make_clip
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.cli import app
from hf_sqa.scoring import score_corpus

NUM_SENTENCES = 8
PLAIN = {"device": "cpu", "num_workers": 0}


@pytest.fixture(scope="module")
def builds(tmp_path_factory, tiny_scorer):
    """Folders `a` and `b` of the same sentences in two formats, and `c`, where the tiny model likes each one less than in `a`."""
    folder = tmp_path_factory.mktemp("builds")
    clips = [make_clip(index, 0.7) for index in range(NUM_SENTENCES)]
    noise = 0.3 * np.random.default_rng(0).standard_normal(len(clips[0])).astype(np.float32)
    plain = [tiny_scorer({"array": clip, "sampling_rate": RATE})["mos"] for clip in clips]
    noisy = [tiny_scorer({"array": clip + noise, "sampling_rate": RATE})["mos"] for clip in clips]
    better, worse = (clips, [clip + noise for clip in clips])
    if np.mean(noisy) > np.mean(plain):  # the weights are random, and so is their taste
        better, worse = worse, better
    for name, suffix, chosen in (("a", "wav", better), ("b", "flac", better), ("c", "wav", worse)):
        for index, clip in enumerate(chosen):
            path = folder / name / "talk" / f"{index}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.clip(clip, -1, 1), RATE, subtype="PCM_16")
    return folder


@pytest.fixture
def run(tiny_folder):
    def invoke(*arguments, model=tiny_folder):
        options = [] if model is None else ["--model", str(model), "--device", "cpu", "--num-workers", "0"]
        return CliRunner().invoke(app, ["compare", *map(str, arguments), *options], env={"COLUMNS": "200"})

    return invoke


@pytest.fixture(scope="module")
def compared(builds, tiny_folder):
    return hf_sqa.compare(builds / "a", builds / "b", builds / "c", model=str(tiny_folder), **PLAIN)


def test_folders_are_paired_by_names_whatever_the_format(compared, builds, tiny_scorer):
    (found,) = compared.by_model.values()

    assert [(system.name, system.num_clips) for system in found.systems] == [("a", 8), ("b", 8), ("c", 8)]
    assert all(pair.is_paired and pair.num_pairs == NUM_SENTENCES for pair in found.pairs)
    assert found.pair("a", "b").difference.value == pytest.approx(0, abs=1e-4)
    first = next(row for row in compared.rows if row["system"] == "c" and row["item"] == "talk/3")
    assert first["mos"] == pytest.approx(tiny_scorer(builds / "c" / "talk" / "3.wav")["mos"], abs=1e-5)


def test_the_worse_system_is_told(compared):
    (found,) = compared.by_model.values()

    assert found.pair("a", "c").better == "a"
    assert [sorted(group) for group in found.groups] == [["a", "b"], ["c"]]
    assert compared.verdict == found.verdict and found.verdict.startswith("Best: ")


def test_a_gate_fails_for_what_is_worse_and_passes_what_is_not(run, builds):
    worse, equal = (run(builds / "a", builds / name, "--fail-if-worse") for name in ("c", "b"))

    assert worse.exit_code == 1 and "Failed: by " in worse.stderr and "a is better than c" in worse.stderr
    assert (equal.exit_code, "No difference is shown" in equal.stdout) == (0, True)
    assert run(builds / "a", builds / "c", "--fail-if-worse", "--tolerance", 4).exit_code == 0
    assert run(builds / "c", builds / "a", "--fail-unless-better").exit_code == 0
    assert run(builds / "b", builds / "a", "--fail-unless-better").exit_code == 1


def test_a_lost_recording_fails_the_gate_and_is_named(run, builds, tmp_path):
    shutil.copytree(builds / "b", tmp_path / "b")
    soundfile.write(tmp_path / "b" / "talk" / "2.flac", np.zeros(RATE), RATE)

    gate, plain = run(builds / "a", tmp_path / "b", "--fail-if-worse"), run(builds / "a", tmp_path / "b")

    assert gate.exit_code == 1 and "2.flac of b has no score (silent), and a has one" in gate.stderr.replace("\n", "")
    assert plain.exit_code == 1
    assert "1 of 16 recordings have no score and are not compared" in plain.stderr and "(silent)" in plain.stderr


def test_too_few_files_say_so_and_decide_nothing(run, builds, tmp_path):
    for name in ("a", "c"):
        (tmp_path / name).mkdir()
        for index in range(3):
            shutil.copy(builds / name / "talk" / f"{index}.wav", tmp_path / name)

    gate, plain = run(tmp_path / "a", tmp_path / "c", "--fail-if-worse"), run(tmp_path / "a", tmp_path / "c")

    assert (gate.exit_code, plain.exit_code) == (2, 0)
    assert "Nothing can be decided" in gate.stderr
    assert "Nothing can be said" in plain.stdout and "3 pairs; 5 units are needed" in plain.stdout and "[" not in plain.stdout


@pytest.fixture
def table(builds, tmp_path):
    """One table of two systems in one folder, whose file names do not match."""
    path = tmp_path / "all.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "codec", "sentence", "talker"])
        for name in ("a", "c"):
            for index in range(NUM_SENTENCES):
                shutil.copy(builds / name / "talk" / f"{index}.wav", tmp_path / f"{name}_s{index}_t{index % 6}.wav")
                writer.writerow([f"{name}_s{index}_t{index % 6}.wav", name, f"s{index}", f"t{index % 6}"])
    return path


def test_systems_of_one_table_are_told_by_a_column_and_paired_by_the_sentence(table, tiny_folder):
    compared = hf_sqa.compare(table, model=str(tiny_folder), systems="codec", cluster="talker", **PLAIN)
    (pair,) = next(iter(compared.by_model.values())).pairs

    assert (pair.first, pair.second, pair.is_paired, pair.num_pairs, pair.difference.num_units) == ("a", "c", True, 8, 6)
    assert compared.paired_by == "sentence"


def test_a_regular_expression_finds_sentence_and_talker_in_names(table, tiny_folder):
    folders = [table.parent / name for name in ("one", "other")]
    for name, folder in zip("ac", folders, strict=True):
        folder.mkdir()
        for path in table.parent.glob(f"{name}_*.wav"):
            shutil.copy(path, folder)
    found = hf_sqa.compare(*folders, model=str(tiny_folder), pair_by="_(s[0-9]+)_", cluster="_(t[0-9]+)", **PLAIN)
    (pair,) = next(iter(found.by_model.values())).pairs

    assert (pair.is_paired, pair.num_pairs, pair.difference.num_units) == (True, 8, 6)
    assert hf_sqa.compare(*folders, model=str(tiny_folder), **PLAIN).by_model.popitem()[1].pairs[0].is_paired is False


def test_tables_of_scores_are_compared_without_a_model(run, tmp_path):
    for name, shift in (("before", 0.0), ("after", 0.5)):
        rows = [
            {"file": f"{name}/{index}.wav", "mos": 2 + 0.1 * index + shift + 0.01 * (index % 3), "status": "ok"}
            for index in range(9)
        ]
        rows.append({"file": f"{name}/9.wav", "mos": None, "status": "failed", "code": "missing", "reason": "gone"})
        pandas.DataFrame(rows)[["file", "mos", "status", "code", "reason"]].to_csv(tmp_path / f"{name}.csv", index=False)

    result = run(tmp_path / "before.csv", tmp_path / "after.csv", "--json", tmp_path / "all.json", model=None)

    told = json.loads((tmp_path / "all.json").read_text())
    (pair,) = told["models"]["given scores"]["pairs"]
    assert (pair["num_pairs"], pair["better"]) == (9, "after")
    assert pair["difference"]["value"] == pytest.approx(0.5)
    assert [row["code"] for row in told["failed"]] == ["missing", "missing"]
    assert result.exit_code == 1 and "2 of 20 recordings" in result.stderr


@pytest.fixture
def rated(table):
    """The same table with ratings that prefer `c`, of which one is missing."""
    frame = pandas.read_csv(table)
    frame["mos"] = [(4.0 if codec == "c" else 3.0) + 0.1 * (row % 3) for row, codec in enumerate(frame["codec"])]
    frame.loc[5, "mos"] = np.nan
    frame.to_csv(table, index=False)
    return table


def test_a_table_that_brings_ratings_is_compared_by_these_and_by_a_model_where_one_is_named(run, rated):
    given, scored = run(rated, "--systems", "codec", model=None), run(rated, "--systems", "codec")

    assert "By given scores, paired by sentence" in given.stdout and "c is better than a" in given.stdout
    assert given.exit_code == 1 and "1 of 16 recordings have no score" in given.stderr
    assert "a is better than c" in scored.stdout and "given scores" not in scored.stdout


def test_a_rating_by_another_name_is_named(run, rated):
    pandas.read_csv(rated).rename(columns={"mos": "naturalness"}).to_csv(rated, index=False)

    result = run(rated, "--systems", "codec", "--score", "naturalness", model=None)

    assert "mean naturalness" in result.stdout and "c is better than a" in result.stdout


@pytest.mark.parametrize("option", [{"model": "distilled-sqa-xs"}, {"mode": "published"}], ids=str)
def test_scores_that_are_there_and_a_model_to_score_by_are_refused_together(runs, option):
    with pytest.raises(ValueError, match=f"Expected no `{next(iter(option))}` .* scored already.*leave it out"):
        hf_sqa.compare(runs / "a", runs / "c", **option)


@pytest.fixture(scope="module")
def runs(builds, tiny_scorer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a", "c"):
        score_corpus(builds / name, folder / name, scorer=tiny_scorer, num_workers=0)
    return folder


def test_finished_runs_are_compared_as_the_folders_are(runs, builds, compared):
    (direct,) = compared.by_model.values()
    (found,) = hf_sqa.compare(runs / "a", runs / "c").by_model.values()

    assert found.pairs[0].num_pairs == NUM_SENTENCES
    assert found.pairs[0].difference.value == pytest.approx(direct.pair("a", "c").difference.value, abs=1e-5)


def test_what_does_not_compare_is_refused(runs, builds, run):
    mixed, alone = run(runs / "a", builds / "c", model=None), run(builds / "a")

    assert (mixed.exit_code, alone.exit_code) == (2, 2)
    assert "such scores do not compare" in mixed.stderr
    assert "Expected two systems or more, got a" in alone.stderr
    assert run(builds / "a", builds / "gone").exit_code == 2
    assert "Expected a column of" in run(builds / "a", builds / "c", "--systems", "codec").stderr


def test_several_models_say_whether_they_agree(builds, tiny_folder, make_tiny, tmp_path):
    other = make_tiny(seed=3)
    other.save_pretrained(tmp_path / "other")
    other.make_feature_extractor().save_pretrained(tmp_path / "other")
    models = [str(tiny_folder), str(tmp_path / "other")]
    compared = hf_sqa.compare(builds / "a", builds / "c", model=models, **PLAIN)

    choices = [found.pairs[0].better for found in compared.by_model.values()]
    assert len(choices) == 2 and choices[0] == "a"
    expected = {"a": "The models agree.", "c": "They contradict each other on a and c", None: "Shown by some of them only: a and c"}
    assert compared.agreement.startswith(expected[choices[1]])
    assert compared.verdict.count("By ") == 2 and compared.verdict.endswith(compared.agreement)
    assert len(compared.rows) == 4 * NUM_SENTENCES


def test_models_that_contradict_each_other_are_named():
    from hf_sqa.metrics import compare_systems
    from hf_sqa.scoring.comparison import ComparedSystems

    scores, systems, items = np.arange(20) / 10, ["a"] * 10 + ["b"] * 10, [*range(10), *range(10)]
    by_model = {
        "one": compare_systems(scores, systems, items=items),
        "two": compare_systems(-scores, systems, items=items),
        "three": compare_systems(np.tile(scores[:10], 2), systems, items=items),
    }

    agreement = ComparedSystems("mos", by_model, [], "file name").agreement

    assert agreement == "They contradict each other on a and b (one: b is better; two: a is better; three: no difference)."


def test_a_plot_is_drawn(run, builds, tmp_path):
    result = run(builds / "a", builds / "c", "--plot", tmp_path / "ab.png", "--output", tmp_path / "rows.csv")

    assert result.exit_code == 0, result.output
    assert (tmp_path / "ab.png").read_bytes().startswith(b"\x89PNG")
    assert list(pandas.read_csv(tmp_path / "rows.csv")) == [
        *("model", "system", "item", "cluster", "file", "mos", "status", "code", "reason")
    ]


def test_sources_of_one_name_are_told_apart(tmp_path, builds, tiny_folder):
    for name in ("x", "y"):
        shutil.copytree(builds / "a", tmp_path / name / "out")
    found = hf_sqa.compare(tmp_path / "x" / "out", tmp_path / "y" / "out", model=str(tiny_folder), **PLAIN)
    named = hf_sqa.compare(f"old={builds / 'a'}", f"new={builds / 'c'}", model=str(tiny_folder), **PLAIN)

    assert [system.name for system in next(iter(found.by_model.values())).systems] == ["x/out", "y/out"]
    assert [system.name for system in next(iter(named.by_model.values())).systems] == ["old", "new"]
