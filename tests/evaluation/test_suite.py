"""A model on rated test sets."""

import csv
import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from hf_sqa.cli import app
from hf_sqa.data import load_corpus
from hf_sqa.evaluation.suite import SuiteOptions, agreement_rows, evaluate_checkpoint, markdown_table

RATE = 16_000


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Twelve clips of four conditions and a file that is no audio, in a table."""
    folder, rng = tmp_path_factory.mktemp("rated"), np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    with (folder / "rated.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "mos", "condition_id", "talker_id", "split"])
        for index in range(12):
            condition = index % 4
            noise = 10 ** (-condition / 2) * 0.1 * rng.standard_normal(RATE)
            voice = 0.2 * np.sin(2 * np.pi * (120 + 10 * index) * time) * (1 - np.cos(2 * np.pi * 4 * time))
            soundfile.write(folder / f"{index}.wav", voice + noise, RATE)
            writer.writerow([f"{index}.wav", 1 + condition + 0.01 * index, f"c{condition}", f"t{index % 3}", "test"])
        (folder / "bad.wav").write_bytes(b"this is no audio at all")
        writer.writerow(["bad.wav", 3.0, "c0", "t0", "other"])
    return folder / "rated.csv"


@pytest.fixture(scope="module")
def result(rated, tiny_scorer):
    return evaluate_checkpoint(tiny_scorer, load_corpus(rated), test_set="rated", options=SuiteOptions(num_draws=200))


def test_predictions_are_those_of_the_pipeline(result, rated, tiny_scorer):
    expected = [row["mos"] for row in tiny_scorer([str(rated.parent / f"{index}.wav") for index in range(12)])]

    assert [clip["predicted_mos"] for clip in result.clips[:12]] == pytest.approx(expected, abs=1e-5)


def test_a_clip_that_cannot_be_scored_is_a_row_with_its_reason(result):
    bad = result.clips[12]

    assert bad["predicted_mos"] is None and bad["status"] == "failed" and "libsndfile cannot read it" in bad["reason"]
    assert result.num_failed == 1


def test_failed_clips_are_counted_and_left_out(result):
    assert {(row["num_clips"], row["num_failed"]) for row in result.rows} == {(12, 1)}


def test_intervals_of_clips_draw_conditions_whole(result):
    drawn = {row["level"]: (row["num_units"], row["unit"]) for row in result.rows}

    assert drawn == {"utt": (4, "condition_id"), "con": (4, "condition_id")}


def test_the_size_and_cost_of_the_model_are_told(result, tiny_scorer):
    assert result.num_parameters == tiny_scorer.model.num_parameters()
    assert 0 < result.cpu_seconds_per_second < 1


def test_a_correlation_has_the_value_worked_out_by_hand():
    clips = [{"predicted_mos": p, "label_mos": t, "status": "ok"} for p, t in ((1, 1), (2, 3), (3, 2), (4, 4))]

    rows = agreement_rows(clips, ["mos"], test_set="x", options=SuiteOptions(metrics=("srcc", "mse"), num_draws=50))

    assert [row["value"] for row in rows] == pytest.approx([0.8, 0.5])  # 1 - 6 * 2 / (4 * 15); (0 + 1 + 1 + 0) / 4


def test_an_interrupted_evaluation_keeps_the_clips_done(rated, tiny_scorer):
    def stop_after_five(done, total):
        if done == 5:
            raise KeyboardInterrupt

    result = evaluate_checkpoint(tiny_scorer, load_corpus(rated), options=SuiteOptions(num_draws=50), progress=stop_after_five)

    assert (len(result.clips), result.complete) == (5, False)


def test_a_score_without_labels_is_refused_with_both_lists(rated, tiny_scorer):
    with pytest.raises(
        ValueError, match=r"score of the model \(mos\) that 'rated' has labels for \(mos\), got 'mos', compared with 'g_mos'"
    ):
        evaluate_checkpoint(tiny_scorer, load_corpus(rated), test_set="rated", options=SuiteOptions(scores={"mos": "g_mos"}))


def test_an_unknown_cluster_is_refused_before_anything_is_scored(rated, tiny_scorer):
    scored = []

    with pytest.raises(ValueError, match=r"condition_id, talker_id.*or none\) as cluster, got 'system_id'"):
        evaluate_checkpoint(
            tiny_scorer, load_corpus(rated), options=SuiteOptions(cluster="system_id"), progress=lambda *done: scored.append(done)
        )

    assert not scored


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="got 'pearson'"):
        SuiteOptions(metrics=("pearson",))


def _row(**changes):
    row = {"model": "a", "seed": 0, "test_set": "x", "score": "mos", "level": "utt", "metric": "srcc"}
    return {**row, "value": 0.8, "low": 0.7, "high": 0.9, "num_clips": 10, "overlap": None, **changes}


def test_seeds_are_averaged_with_their_standard_deviation():
    table = markdown_table([_row(value=0.8), _row(value=0.9, seed=1)], metrics=("utt_srcc",))

    assert "| a | x | 10 | 0.850 ± 0.071 |" in table  # 0.1 / sqrt(2)


def test_overlap_is_marked_and_explained():
    rows = [_row(test_set="x", overlap="talkers"), _row(test_set="y", overlap="clips"), _row(test_set="z")]

    table = markdown_table(rows, metrics=("utt_srcc",), columns="test_set")

    assert "| a | 0.800 § | 0.800 † | 0.800 |" in table
    assert table.endswith("§ trained on other speech of the same talkers; † some of these recordings were trained on.\n")


def test_the_command_prints_a_table_and_writes_clips_and_rows(rated, tiny_folder, tmp_path):
    files = ["--output", str(tmp_path / "rows.csv"), "--predictions", str(tmp_path / "clips.jsonl")]

    done = CliRunner().invoke(
        app, ["evaluate", str(rated), "--model", str(tiny_folder), "--split", "test", "--num-draws", "100", *files]
    )

    assert done.exit_code == 0, done.stderr
    assert "12 " in done.stdout and "4 x condition_id" in done.stdout
    clips = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    assert len(clips) == 12 and all(clip["test_set"] == "rated" for clip in clips)
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert {row["metric"] for row in rows} == {"lcc", "srcc", "rmse"} and {row["complete"] for row in rows} == {"True"}


def test_the_command_joins_labels_of_another_table_and_keeps_the_clips_asked_for(rated, tiny_folder, tmp_path):
    further = "filename,g_mos\n" + "".join(f"{index},{1 + index / 4}\n" for index in range(12))
    (tmp_path / "further.csv").write_text(further)
    options = ["--join", str(tmp_path / "further.csv"), "--score", "mos=g_mos", "--filter", "condition_id=c0,c1", "--split", "test"]

    done = CliRunner().invoke(
        app, ["evaluate", str(rated), "--model", str(tiny_folder), *options, "--num-draws", "50", "--predictions", "-"]
    )

    assert done.exit_code == 0, done.stderr
    clips = [json.loads(line) for line in done.stdout.splitlines()]
    assert [clip["label_mos"] for clip in clips] == [1 + index / 4 for index in (0, 1, 4, 5, 8, 9)]


def test_the_command_exits_with_1_where_clips_failed(rated, tiny_folder):
    done = CliRunner().invoke(app, ["evaluate", str(rated), "--model", str(tiny_folder), "--num-draws", "50"])

    assert done.exit_code == 1
    assert "1 clips could not be scored; the first: " in done.stderr and "bad.wav" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.csv"], "there is no file 'absent.csv'"),
        (["{rated}", "--split", "train"], "to be one of other, test, got 'train'"),
        (["{rated}", "--filter", "colour=red"], "got 'colour'"),
        (["{rated}", "--filter", "red"], "Expected --filter as `column=value`"),
        (["{rated}", "--metrics", "pearson"], "got 'pearson'"),
        (["{rated}", "--output", "rows.xlsx"], "Expected --output to end in"),
    ],
)
def test_the_command_exits_with_2_for_what_it_cannot_do(arguments, told, rated, tiny_folder):
    arguments = [argument.format(rated=rated) for argument in arguments]

    done = CliRunner().invoke(app, ["evaluate", *arguments, "--model", str(tiny_folder)])

    assert done.exit_code == 2
    assert told in done.stderr
