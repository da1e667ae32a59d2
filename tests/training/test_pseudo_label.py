"""Pseudo-labels: what is stored, what survives a kill, what is refused, and how they join rated rows."""

import csv
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.data import load_corpus
from hf_sqa.runs import Locked, locked
from hf_sqa.training.pseudo_label import pseudo_label, read_pseudo_labels, with_pseudo_labels
from tests.processes import command

RATE = 16_000


class Watched:
    """A teacher that counts what it scores, and may stop as Ctrl-C or a kill would."""

    def __init__(self, scorer, stop_after=None):
        self._scorer, self._stop_after = scorer, stop_after
        self.model, self.identity = scorer.model, scorer.identity
        self.num_scored = 0

    def __call__(self, recordings, **options):
        for row in self._scorer(recordings, **options):
            if self.num_scored == self._stop_after:
                raise KeyboardInterrupt
            self.num_scored += 1
            yield row


@pytest.fixture
def folder(tmp_path, rng):
    """Six recordings of a second, of growing noise."""
    for index in range(6):
        noise = 0.02 * (index + 1) * rng.standard_normal(RATE)
        soundfile.write(tmp_path / f"{index}.wav", np.clip(0.2 * np.sin(np.arange(RATE) / 20) + noise, -1, 1), RATE)
    return tmp_path


@pytest.fixture
def paths(folder):
    return [str(folder / f"{index}.wav") for index in range(6)]


@pytest.fixture(scope="session")
def other_scorer(make_tiny):
    model = make_tiny(seed=5)
    return hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_table_holds_the_teachers_scores_and_who_it_is(paths, folder, tiny_scorer, suffix):
    table = pseudo_label(paths, tiny_scorer, folder / f"labels.{suffix}")

    read = read_pseudo_labels(folder / f"labels.{suffix}")
    assert [row["mos"] for row in read.rows] == pytest.approx([tiny_scorer(path)["mos"] for path in paths], abs=1e-5)
    assert [row["audio"] for row in read.rows] == [f"{index}.wav" for index in range(6)]
    assert read.teacher == table.teacher and table.teacher["teacher_weights"] == tiny_scorer.identity()["weights"]
    assert read.rows == table.rows and read.num_failed == 0
    assert [path.name for path in folder.glob(".*")] == [f".labels.{suffix}.lock"]


def test_the_table_is_one_that_corpora_are_loaded_from(paths, folder, tiny_scorer):
    table = pseudo_label(paths, tiny_scorer, folder / "labels.csv")

    data = load_corpus(folder / "labels.csv", scale=(1, 5))

    assert data["mos"] == [row["mos"] for row in table.rows]


def test_an_interrupted_run_goes_on_where_it_stopped_and_ends_with_the_same_table(paths, folder, tiny_scorer):
    whole = pseudo_label(paths, tiny_scorer, folder / "whole.csv")
    first, second = Watched(tiny_scorer, stop_after=4), Watched(tiny_scorer)

    with pytest.raises(KeyboardInterrupt):
        pseudo_label(paths, first, folder / "labels.csv")
    journal = folder / ".labels.csv.journal"
    assert len(journal.read_text().splitlines()) == 1 + 4 and not (folder / "labels.csv").exists()
    with journal.open("a") as file:
        file.write('{"audio": "4.wav", "mos": 3.')  # a line that a kill cut short
    table = pseudo_label(paths, second, folder / "labels.csv")

    assert (second.num_scored, table.num_reused) == (2, 4)
    assert (folder / "labels.csv").read_text() == (folder / "whole.csv").read_text()
    assert whole.rows == table.rows


def test_a_second_interruption_keeps_what_both_runs_did(paths, folder, tiny_scorer):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pseudo_label(paths, Watched(tiny_scorer, stop_after=2), folder / "labels.csv")
    last = Watched(tiny_scorer)
    pseudo_label(paths, last, folder / "labels.csv")

    assert last.num_scored == 2


def test_a_complete_table_is_not_scored_again_and_grows_by_new_recordings(paths, folder, tiny_scorer):
    pseudo_label(paths[:4], tiny_scorer, folder / "labels.parquet")
    again, more = Watched(tiny_scorer), Watched(tiny_scorer)

    pseudo_label(paths[:4], again, folder / "labels.parquet")
    table = pseudo_label(paths, more, folder / "labels.parquet")

    assert (again.num_scored, more.num_scored, len(table.rows)) == (0, 2, 6)


def test_labelling_a_part_keeps_the_rows_of_the_rest(paths, folder, tiny_scorer):
    whole = pseudo_label(paths, tiny_scorer, folder / "labels.csv")

    part = pseudo_label(paths[2:4], tiny_scorer, folder / "labels.csv")

    assert sorted(part.rows, key=lambda row: row["audio"]) == whole.rows
    assert [row["audio"] for row in part.rows[:2]] == ["2.wav", "3.wav"]


def test_a_changed_recording_is_scored_again(paths, folder, tiny_scorer):
    pseudo_label(paths, tiny_scorer, folder / "labels.csv")
    soundfile.write(paths[2], 0.3 * np.random.default_rng(1).standard_normal(RATE), RATE)
    again = Watched(tiny_scorer)

    table = pseudo_label(paths, again, folder / "labels.csv")

    assert again.num_scored == 1
    assert table.rows[2]["mos"] == pytest.approx(tiny_scorer(paths[2])["mos"], abs=1e-5)


def test_another_teacher_is_refused_for_a_table_and_for_a_journal(paths, folder, tiny_scorer, other_scorer):
    pseudo_label(paths, tiny_scorer, folder / "labels.csv")
    with pytest.raises(KeyboardInterrupt):
        pseudo_label(paths, Watched(tiny_scorer, stop_after=3), folder / "cut.csv")

    for name in ("labels.csv", "cut.csv"):
        with pytest.raises(ValueError, match=r"Expected the teacher that gave the \d rows .* choose another `output`"):
            pseudo_label(paths, other_scorer, folder / name)
    assert pseudo_label(paths, Watched(tiny_scorer), folder / "cut.csv").num_reused == 3

    anew = pseudo_label(paths, other_scorer, folder / "labels.csv", overwrite=True)
    assert anew.num_reused == 0 and anew.rows[0]["mos"] == pytest.approx(other_scorer(paths[0])["mos"], abs=1e-5)


def test_a_failure_is_a_row_with_its_reason_and_is_tried_again(paths, folder, tiny_scorer):
    (folder / "broken.wav").write_bytes(b"RIFF no audio")
    names = [*paths[:2], str(folder / "broken.wav"), str(folder / "absent.wav")]

    table = pseudo_label(names, tiny_scorer, folder / "labels.csv")
    read = read_pseudo_labels(folder / "labels.csv")

    assert table.num_failed == 2 and table.reasons["missing"] == 1
    assert all(math.isnan(row["mos"]) and row["reason"] for row in read.rows[2:])
    soundfile.write(folder / "absent.wav", 0.1 * np.ones(RATE) * np.sin(np.arange(RATE) / 9), RATE)
    assert pseudo_label(names, tiny_scorer, folder / "labels.csv").num_failed == 1


def test_a_table_of_something_else_is_not_overwritten(paths, folder, tiny_scorer):
    (folder / "mine.csv").write_text("audio,mos\na.wav,3\n")

    with pytest.raises(ValueError, match="one without utterance_id"):
        pseudo_label(paths, tiny_scorer, folder / "mine.csv")
    assert (folder / "mine.csv").read_text() == "audio,mos\na.wav,3\n"
    assert not (folder / ".mine.csv.journal").exists()


def test_a_second_process_is_refused(paths, folder, tiny_scorer):
    with locked(folder / ".labels.csv.lock"), pytest.raises(Locked, match="Another process is writing"):
        pseudo_label(paths, tiny_scorer, folder / "labels.csv")


@pytest.fixture
def rated(folder):
    with (folder / "rated.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["audio", "g_mos", "pesq"], *[[f"{index}.wav", 3 + index / 10, 2 + index / 10] for index in range(6)]]
        )
    return load_corpus(folder / "rated.csv")


def test_pseudo_labels_join_rated_rows_by_the_place_of_the_audio(rated, paths, folder, tiny_scorer):
    table = pseudo_label(paths[::-1], tiny_scorer, folder / "sub" / "labels.csv")

    joined = with_pseudo_labels(rated, folder / "sub" / "labels.csv")

    assert joined["mos"] == [row["mos"] for row in table.rows[::-1]]
    assert joined["g_mos"] == rated["g_mos"] and joined["pesq"] == rated["pesq"]
    assert "for 6 of 6 rows" in joined.info.description and table.teacher["teacher_weights"] in joined.info.description


def test_rows_that_moved_are_found_by_corpus_and_name(rated, folder, tiny_scorer):
    table = pseudo_label(rated, tiny_scorer, folder / "labels.jsonl")
    elsewhere = [
        {"audio": f"/nowhere/{row['utterance_id']}.flac", **{n: row[n] for n in ("utterance_id", "corpus")}} for row in rated
    ]

    joined = with_pseudo_labels(elsewhere, table)

    assert [row["mos"] for row in joined] == [row["mos"] for row in table.rows]


def test_a_row_without_a_pseudo_label_is_unrated(rated, paths, folder, tiny_scorer):
    (folder / "3.wav").rename(folder / "gone.wav")
    pseudo_label(paths, tiny_scorer, folder / "labels.csv")

    joined = with_pseudo_labels(rated, folder / "labels.csv")

    assert [math.isnan(value) for value in joined["mos"]] == [False, False, False, True, False, False]


def test_labels_of_other_recordings_and_unknown_scores_are_refused(rated, paths, folder, tiny_scorer):
    (folder / "other").mkdir()
    os.link(paths[0], folder / "other" / "x.wav")
    other = pseudo_label([str(folder / "other" / "x.wav")], tiny_scorer, folder / "other.csv")

    with pytest.raises(ValueError, match=r"None of the 6 rows .* label these recordings first"):
        with_pseudo_labels(rated, other)
    with pytest.raises(ValueError, match=r"Expected pseudo-labels pesq in .* got mos"):
        with_pseudo_labels(rated, other, score_names=["pesq"])


def test_an_unfinished_table_says_how_to_complete_it(paths, folder, tiny_scorer):
    with pytest.raises(KeyboardInterrupt):
        pseudo_label(paths, Watched(tiny_scorer, stop_after=1), folder / "labels.csv")

    with pytest.raises(FileNotFoundError, match="is not finished: run `hf-sqa pseudo-label`"):
        read_pseudo_labels(folder / "labels.csv")


# The command


def run(*arguments):
    from hf_sqa.cli import app

    return CliRunner().invoke(app, ["pseudo-label", *map(str, arguments)])


def test_the_command_labels_folders_and_tables_without_scores(paths, folder, tiny_folder):
    (folder / "list.csv").write_text("audio,talker\n0.wav,anna\n1.wav,bela\n")

    of_folder = run(folder, "--teacher", tiny_folder, "-o", folder / "a.csv")
    of_table = run(folder / "list.csv", "--teacher", tiny_folder, "-o", folder / "b.parquet")

    assert of_folder.exit_code == of_table.exit_code == 0, of_folder.output + of_table.output
    assert "6 of 6 recordings labelled with mos" in of_folder.output
    rows = read_pseudo_labels(folder / "b.parquet").rows
    assert [(row["audio"], row["utterance_id"], row["corpus"]) for row in rows] == [("0.wav", "0", "list"), ("1.wav", "1", "list")]


def test_the_command_exits_with_1_for_failures_and_2_for_what_cannot_be_done(paths, folder, tiny_folder):
    (folder / "list.csv").write_text("audio\n0.wav\nabsent.wav\n")

    failed = run(folder / "list.csv", "--teacher", tiny_folder, "-o", folder / "a.csv")
    wrong_suffix = run(folder, "--teacher", tiny_folder, "-o", folder / "a.txt")
    wrong_teacher = run(folder, "--teacher", folder / "no-model", "-o", folder / "b.csv")

    assert failed.exit_code == 1 and "1 could not be scored (1 missing)" in failed.output
    assert wrong_suffix.exit_code == 2 and "to end in .csv, .jsonl, .parquet" in wrong_suffix.output
    assert wrong_teacher.exit_code == 2 and "cannot be used" in wrong_teacher.output


#: Strikes the process itself, once fifty rows are in the journal: from outside, nobody knows when a signal arrives.
STRUCK = """
import contextlib, importlib, os
module = importlib.import_module("hf_sqa.training.pseudo_label")
journal, rows = module.journal, []

@contextlib.contextmanager
def watched(*arguments):
    with journal(*arguments) as append:
        def append_and_strike(row):
            append(row)
            rows.append(row)
            if len(rows) == 50:
                os.kill(os.getpid(), {how:d})
        yield append_and_strike

module.journal = watched
"""


@pytest.mark.slow
@pytest.mark.parametrize("how, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_killed_command_goes_on_where_it_was(how, code, folder, nursery, tiny_scorer, tiny_folder):
    for index in range(6, 80):
        os.link(folder / f"{index % 6}.wav", folder / f"{index}.wav")
    journal = folder / ".labels.csv.journal"
    labelling = command("pseudo-label", folder, "--teacher", tiny_folder, "-o", folder / "labels.csv")
    process = nursery.start(STRUCK.format(how=how) + labelling)
    errors = process.communicate()[1]
    assert process.returncode == code, errors
    complete = [line for line in journal.read_text().splitlines(keepends=True)[1:] if line.endswith("\n")]
    assert 50 <= len(complete) < 80 and all(json.loads(line)["status"] == "ok" for line in complete)
    again = Watched(tiny_scorer)
    names = sorted(str(path) for path in folder.glob("*.wav"))

    table = pseudo_label(names, again, folder / "labels.csv")

    assert again.num_scored == 80 - len(complete) == 80 - table.num_reused
    assert {Path(row["audio"]).name for row in table.rows} == {Path(name).name for name in names}
