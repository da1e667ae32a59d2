"""The report says what is in the shards, comparison finds what got worse, the filter writes what stays."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas
import pytest
import scipy.stats
import soundfile
from made_clips import RATE, make_clip
from typer.testing import CliRunner

from hf_sqa.cli import app
from hf_sqa.scoring import open_source, score_corpus
from hf_sqa.scoring.filter import Rule, filter_rows
from hf_sqa.scoring.report import compare_runs, make_report
from hf_sqa.scoring.report_page import _scale, render
from hf_sqa.scoring.sinks import export

NUM_ROWS = 36


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of clips of four conditions and their manifest, with a missing file, a broken line and a key that occurs twice."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = []
    for index in range(NUM_ROWS):
        soundfile.write(folder / f"{index:02d}.wav", make_clip(index, 0.7), RATE)
        record = {"id": f"k{index}", "audio_filepath": f"{index:02d}.wav", "system": f"s{index % 4}", "text": "ein 'Wort' <b>"}
        lines.append(json.dumps(record))
    lines.append(json.dumps({"id": "k0", "audio_filepath": "00.wav", "system": "s0"}))
    lines.append(json.dumps({"id": "gone", "audio_filepath": "gone.wav", "system": "s1"}))
    lines.append("{broken")
    (folder / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def output(corpus, tiny_scorer, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "out"
    score_corpus(corpus / "m.jsonl", out, scorer=tiny_scorer, num_workers=0, rows_per_shard=10)
    return out


@pytest.fixture(scope="module")
def frame(output):
    return pandas.concat([pandas.read_parquet(path) for path in sorted((output / "shards").iterdir())], ignore_index=True)


@pytest.fixture(scope="module")
def column(frame):
    return next(name for name in frame if name.startswith("mos__"))


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "160"})

    return invoke


def test_the_report_counts_what_is_there(output, frame, column):
    report = make_report(output)

    scores = frame[column].dropna()
    assert (report.num_rows, dict(report.statuses)) == (39, {"ok": 37, "failed": 2})
    assert report.spreads["mos"].mean == pytest.approx(scores.mean())
    assert report.spreads["mos"].percentiles[5] == pytest.approx(np.percentile(scores, 5))
    assert report.hours == pytest.approx(37 * 0.7 / 3600)
    assert {key: count for key, (count, _) in report.reasons.items()} == {("failed", "missing"): 1, ("failed", "bad_row"): 1}
    assert report.num_repeated_keys == 1
    assert not report.missing_shards


def test_the_report_divides_by_what_went_along(output, frame, column):
    groups = {one.name: one for one in make_report(output).groups["system"]}

    assert set(groups) == {"s0", "s1", "s2", "s3", "(none)"}
    assert (groups["s1"].num_rows, groups["s1"].num_scored) == (10, 9)
    assert groups["s2"].mean == pytest.approx(frame[frame["system"] == "s2"][column].mean())


def test_groups_come_worst_first_with_intervals_of_their_means(output, frame, column, run):
    groups = make_report(output).groups["system"]
    means = [group.mean for group in groups if group.num_scored]
    worst = frame[frame["system"] == groups[0].name][column].dropna()

    assert means == sorted(means) and not groups[-1].num_scored
    assert (groups[0].low, groups[0].high) == pytest.approx(scipy.stats.t.interval(0.95, len(worst) - 1, worst.mean(), worst.sem()))
    shown = f"[{groups[0].low:.2f}, {groups[0].high:.2f}]"
    assert shown in run("report", output).stdout
    assert f"{groups[0].low:.2f} to {groups[0].high:.2f}" in render(make_report(output))


def test_scores_on_the_five_point_scale_are_drawn_on_all_of_it(output):
    report = make_report(output)
    groups = [replace(group, percentiles=dict.fromkeys(group.percentiles, 3.0)) for group in report.groups["system"]]

    assert _scale("mos", groups) == (0.9, 5.1)
    assert _scale("pesq", groups) is None
    assert _scale("mos", [replace(groups[0], percentiles=dict.fromkeys(groups[0].percentiles, 0.2))]) is None


def test_the_report_gives_the_mean_an_interval_and_says_which_groups_differ(output, frame, column, run):
    report = make_report(output, group_by=["system"])
    interval = scipy.stats.t.interval(0.95, 36, frame[column].mean(), frame[column].sem())

    assert (report.spreads["mos"].low, report.spreads["mos"].high) == pytest.approx(interval)
    named = re.findall(r"(s\d|\(none\)) \([\d.]+\)", report.verdicts["system"])
    assert sorted(named) == ["s0", "s1", "s2", "s3"]
    assert report.verdicts["system"] in re.sub("<.*?>", "", render(report)).replace("&gt;", ">")
    assert report.verdicts["system"] in run("report", output, "--group-by", "system").stdout


def test_thresholds_say_what_stays(output, frame, column):
    thresholds = make_report(output).thresholds

    assert thresholds[0][1] == 37 and thresholds[-1][1] == 0
    for at, kept, hours in thresholds:
        assert kept == (frame[column] >= at).sum()
        assert hours == pytest.approx(kept * 0.7 / 3600)


def test_worst_and_best_are_the_ends(output, frame, column):
    report = make_report(output)

    ordered = frame.dropna(subset=[column]).sort_values(column, kind="stable")
    assert [row["row"] for row in report.worst] == ordered["row"].tolist()[:20]
    assert report.best[0]["score"] == frame[column].max()


def test_a_run_that_is_not_finished_is_reported_as_such(output, tmp_path):
    shutil.copytree(output, tmp_path / "out")
    (tmp_path / "out" / "shards" / "000001.parquet").unlink()

    report = make_report(tmp_path / "out")

    assert report.missing_shards == [1]
    assert "not finished" in render(report)


def test_the_page_stands_alone_and_names_the_model(output):
    page = render(make_report(output))

    assert page.count("<svg") == 2
    assert not re.search(r'(src|href)="https?:', page)
    assert page.count("<audio") == 40
    run = json.loads((output / "run.json").read_text())
    assert run["identity"]["weights"] in page


def test_names_of_groups_are_not_markup(tiny_scorer, corpus, tmp_path):
    lines = [json.dumps({"path": str(corpus / f"{i:02d}.wav"), "system": "<script>$x$" if i % 2 else "b"}) for i in range(6)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    score_corpus(tmp_path / "m.jsonl", tmp_path / "out", scorer=tiny_scorer, num_workers=0)

    page = render(make_report(tmp_path / "out"))

    assert "<script>" not in page and "&lt;script&gt;$x$" in page


def test_the_command_prints_tables_and_writes_page_and_numbers(run, output, tmp_path):
    result = run("report", output, "--page", tmp_path / "r.html", "--json", tmp_path / "r.json")

    assert result.exit_code == 0, result.output
    assert "39 rows" in result.stdout and "failed: missing" in result.stdout and "By system" in result.stdout
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == 39


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["report", "{tmp}"], "holds no run.json"),
        (["report", "{out}", "--score", "pesq"], "Expected a score among mos, got 'pesq'"),
        (["report", "{out}", "--group-by", "age"], "Expected --group-by among system, got 'age'"),
        (["filter", "{out}"], "There is nothing to do"),
        (["filter", "{out}", "--min", "mos"], "Expected a score and a number"),
        (["filter", "{out}", "--min-mos", "3", "--write", "{tmp}/kept.doc"], "Expected a file ending in .jsonl"),
        (["filter", "{out}", "--min", "stoi=0.5"], "Expected a score among mos, got 'stoi'"),
    ],
)
def test_usage_errors_exit_with_2(arguments, message, run, output, tmp_path):
    result = run(*(argument.format(out=output, tmp=tmp_path) for argument in arguments))

    assert result.exit_code == 2
    assert message in result.stderr


class TestComparison:
    @pytest.fixture
    def worse(self, corpus, tiny_scorer, tmp_path):
        """The same keys, where system s2 became noise and one file cannot be read."""
        folder = tmp_path / "worse"
        shutil.copytree(corpus, folder)
        rng = np.random.default_rng(0)
        for index in range(2, NUM_ROWS, 4):
            clip = make_clip(index, 0.7)
            soundfile.write(folder / f"{index:02d}.wav", clip + 0.2 * rng.standard_normal(len(clip)), RATE)
        (folder / "05.wav").write_bytes(b"RIFF")
        score_corpus(folder / "m.jsonl", tmp_path / "worse_out", scorer=tiny_scorer, num_workers=0)
        return tmp_path / "worse_out"

    def test_a_run_beside_itself_is_no_worse(self, run, output, tmp_path):
        result = run("report", output, "--compare", output, "--page", tmp_path / "r.html")

        assert result.exit_code == 0, result.output
        assert "difference +0.000" in result.stdout and "No loss is shown" in result.stdout

    def test_differences_are_paired(self, output, worse, frame, column):
        other = pandas.concat([pandas.read_parquet(path) for path in sorted((worse / "shards").iterdir())], ignore_index=True)
        differences = (other[column] - frame[column]).dropna()

        comparison = compare_runs(worse, output)

        half = 2.0301 * differences.std() / 6  # Student's t of 35 degrees of freedom
        assert len(differences) == 36
        assert comparison.overall.mean == pytest.approx(differences.mean())
        assert comparison.overall.low == pytest.approx(differences.mean() - half, abs=1e-4)
        assert comparison.overall.high == pytest.approx(differences.mean() + half, abs=1e-4)

    def test_a_loss_in_one_group_and_a_lost_score_are_faults(self, run, output, worse, tmp_path):
        comparison = compare_runs(worse, output)
        direction = 1 if comparison.overall.mean < 0 else -1  # a random model may like noise
        pair = (worse, output) if direction == 1 else (output, worse)

        groups = {one.name: one for one in compare_runs(*pair).groups["system"]}
        result = run("report", pair[0], "--compare", pair[1], "--page", tmp_path / "r.html")

        assert groups["s2"].high < 0
        assert groups["s0"].mean == 0
        assert result.exit_code == 1
        assert "of system 's2' fell by" in result.stdout
        assert comparison.lost == ["k5"]
        assert "fell by" in (tmp_path / "r.html").read_text(encoding="utf-8")

    def test_a_loss_within_the_tolerance_is_none(self, output, worse):
        comparison = compare_runs(worse, output, tolerance=10.0)

        assert [fault for fault in comparison.faults if "fell" in fault] == []

    def test_another_mode_does_not_compare(self, run, output, corpus, tiny_scorer, tmp_path):
        score_corpus(corpus / "m.jsonl", tmp_path / "fast", scorer=tiny_scorer, num_workers=0, mode="fast")

        result = run("report", output, "--compare", tmp_path / "fast", "--page", tmp_path / "r.html")

        assert result.exit_code == 2
        assert "differ in mode, preprocessing" in result.stderr


class TestFilter:
    def test_rows_of_the_manifest_stay_as_they_are_with_the_scores_beside(self, run, output, corpus, frame, column, tmp_path):
        threshold = float(frame[column].median())

        result = run("filter", output, "--min-mos", threshold, "--write", tmp_path / "kept.jsonl")

        assert result.exit_code == 0, result.output
        kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
        expected = frame[frame[column] >= threshold]
        assert [row["id"] for row in kept] == expected["key"].tolist()
        assert all(row["audio_filepath"].endswith(".wav") and row[column] >= threshold for row in kept)
        assert kept[0]["text"] == "ein 'Wort' <b>"
        assert f"Kept:    {len(kept)} of 39 rows" in result.stdout
        assert f"{37 - len(kept)} rows" in result.stdout and "failed: missing" in result.stdout

    def test_annotation_keeps_every_row(self, run, output, frame, column, tmp_path):
        run("filter", output, "--min-mos", 2.0, "--without-warning", "short", "--annotate", tmp_path / "all.csv", "--rows-only")

        with (tmp_path / "all.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 39
        assert rows[-1]["gone_because"] == "failed: bad_row"
        assert {row["kept"] for row in rows} == {"False"}
        assert "warning: short" in {row["gone_because"] for row in rows}

    def test_bounds_count_the_first_rule_broken(self, output, frame, column):
        low, high = np.percentile(frame[column].dropna(), [25, 75])

        chosen = filter_rows(output, Rule({"mos": low}, {"mos": high}, min_seconds=0.5))

        assert chosen.rows[None] == ((frame[column] >= low) & (frame[column] <= high)).sum()
        assert chosen.rows[f"mos below {low:g}"] == (frame[column] < low).sum()
        assert chosen.rows.total() == 39

    def test_a_manifest_that_changed_is_not_mixed_up(self, output, corpus, tmp_path, run):
        shutil.copytree(output, tmp_path / "out")
        shutil.copy(corpus / "m.jsonl", tmp_path / "m.jsonl")
        lines = (tmp_path / "m.jsonl").read_text().splitlines()
        (tmp_path / "m.jsonl").write_text("\n".join(lines[3:]))
        run_file = json.loads((tmp_path / "out" / "run.json").read_text())
        (tmp_path / "out" / "run.json").write_text(json.dumps(run_file | {"source": str(tmp_path / "m.jsonl")}))

        result = run("filter", tmp_path / "out", "--min-mos", 1, "--write", tmp_path / "kept.jsonl")

        assert result.exit_code == 2
        assert "score the corpus again first" in result.stderr
        assert not (tmp_path / "kept.jsonl").exists()


class TestSinks:
    @pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
    def test_every_format_has_the_same_rows(self, kind, output, frame, column):
        path = export(output, kind)

        readers = {"jsonl": lambda p: pandas.read_json(p, lines=True), "csv": pandas.read_csv, "parquet": pandas.read_parquet}
        read = readers[kind](path)
        assert read["key"].tolist() == frame["key"].tolist()
        assert np.allclose(read[column].astype(float), frame[column], equal_nan=True)
        assert read["code"].dropna().tolist() == ["missing", "bad_row"]

    def test_a_datasets_folder_loads_and_holds_no_audio(self, output, frame):
        import datasets

        loaded = datasets.load_dataset(str(export(output, "datasets")), split="train")

        assert loaded["key"][:] == frame["key"].tolist()
        assert not any(isinstance(feature, datasets.Audio) for feature in loaded.features.values())

    def test_the_manifest_gets_columns_and_keeps_its_own(self, output, corpus, frame, column):
        path = export(output, "manifest", open_source(corpus / "m.jsonl"))

        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == 39
        assert rows[3]["text"] == "ein 'Wort' <b>" and rows[3][column] == pytest.approx(frame[column][3])
        assert rows[-1]["code"] == "bad_row"
