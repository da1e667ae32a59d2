"""`hf-sqa score`, in this process: what is named is scored, every recording is a row, and files say what the table says."""

import csv
import io
import json
import math
import os
import re

import numpy as np
import pandas
import pytest
import soundfile
from typer.testing import CliRunner

from hf_sqa.cli import app

RATE = 16_000
COLUMNS = ["file", "mos", "status", "code", "reason", "warnings", "duration_seconds", "sampling_rate"]


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """A folder of three recordings in depth, a silent one, garbage called .m4a, and a text file."""
    folder = tmp_path_factory.mktemp("calls")
    rng = np.random.default_rng(5)
    (folder / "deep" / "er").mkdir(parents=True)
    for index, name in enumerate(["a.wav", 'deep/b, "c".FLAC', "deep/er/d.ogg"]):
        seconds = 1.0 + 0.5 * index
        time = np.arange(round(seconds * RATE)) / RATE
        syllables = (1 - np.cos(2 * np.pi * 4 * time)) / 2  # a steady tone would be told from speech
        tone = 0.3 * syllables * np.sin(2 * np.pi * 200 * (index + 1) * time)
        file_format = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG"}[name.rsplit(".", 1)[1].lower()]
        soundfile.write(folder / name, tone + 0.05 * rng.standard_normal(len(time)), RATE, format=file_format)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    (folder / "deep" / "talk.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(500))
    (folder / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture
def run(tiny_folder):
    """`run(*arguments, input=b"")`: the command with the tiny model."""

    def invoke(*arguments, model=tiny_folder, input=None):
        options = ["--model", str(model), "--device", "cpu", "--num-workers", "0"]  # a process of its own takes a second to start
        return CliRunner().invoke(app, ["score", *options, *map(str, arguments)], input=input)

    return invoke


@pytest.fixture
def rows(run):
    """`rows(*arguments)`: what the command writes to standard output as JSON lines."""

    def read(*arguments, **options):
        result = run(*arguments, "--output", "-", **options)
        assert result.exit_code in {0, 1}, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    return read


def names(rows, folder):
    return [os.path.relpath(row["file"], folder) for row in rows]


class TestWhatIsScored:
    def test_a_file(self, rows, calls, tiny_scorer):
        (row,) = rows(calls / "a.wav")

        assert list(row) == COLUMNS
        assert row["mos"] == pytest.approx(tiny_scorer(str(calls / "a.wav"))["mos"], abs=1e-5)
        assert (row["status"], row["code"], row["reason"], row["warnings"]) == ("ok", None, None, [])
        assert (row["duration_seconds"], row["sampling_rate"]) == (1.0, RATE)

    def test_a_folder_is_searched_in_depth_and_only_for_audio(self, rows, calls):
        found = names(rows(calls), calls)

        assert found == ["a.wav", 'deep/b, "c".FLAC', "deep/er/d.ogg", "deep/talk.m4a", "silent.wav"]

    def test_a_glob(self, rows, calls):
        assert names(rows(f"{calls}/**/*.ogg", f"{calls}/a.*"), calls) == ["deep/er/d.ogg", "a.wav"]

    def test_a_name_that_looks_like_a_glob_is_a_file_if_it_exists(self, rows, calls, tmp_path):
        (tmp_path / "call [1].wav").write_bytes((calls / "a.wav").read_bytes())

        assert rows(tmp_path / "call [1].wav")[0]["status"] == "ok"

    def test_a_glob_without_a_match_is_a_row(self, rows, calls):
        good, bad = rows(calls / "a.wav", calls / "*.opus")

        assert good["status"] == "ok"
        assert (bad["code"], bad["file"]) == ("missing", f"{calls}/*.opus")
        assert "no file matches this pattern" in bad["reason"]

    def test_a_glob_that_matches_folders_only_says_so(self, rows, calls):
        (row,) = rows(calls / "dee*")

        assert (row["status"], row["code"]) == ("failed", "no_audio")
        assert "name the folders themselves" in row["reason"]

    def test_a_list(self, rows, calls, tmp_path):
        (tmp_path / "list.txt").write_text(f"# two calls\n{calls / 'a.wav'}\n\n  {calls / 'deep/er'}\r\n", encoding="utf-8-sig")

        assert names(rows(f"@{tmp_path / 'list.txt'}"), calls) == ["a.wav", "deep/er/d.ogg"]

    def test_a_list_may_name_a_file_that_begins_like_a_comment(self, rows, calls, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "#1.wav").write_bytes((calls / "a.wav").read_bytes())
        (tmp_path / "list.txt").write_text("#1.wav\n")

        assert [row["status"] for row in rows("@list.txt")] == ["ok"]

    def test_a_list_that_names_itself_does_not_go_round(self, rows, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "list.txt").write_text("@list.txt\n")

        assert [(row["file"], row["code"]) for row in rows("@list.txt")] == [("@list.txt", "missing")]

    def test_a_list_on_standard_input(self, rows, calls):
        assert names(rows("@-", input=f"{calls / 'a.wav'}\n".encode()), calls) == ["a.wav"]

    def test_audio_on_standard_input(self, rows, calls, tiny_scorer):
        (row,) = rows("-", input=(calls / "a.wav").read_bytes())

        assert (row["file"], row["mos"]) == ("-", pytest.approx(tiny_scorer(str(calls / "a.wav"))["mos"], abs=1e-5))

    def test_nothing_on_standard_input_is_a_row(self, rows):
        assert [(row["file"], row["code"]) for row in rows("-", input=b"")] == [("-", "empty")]

    def test_a_url_that_cannot_be_reached_is_a_row(self, rows):
        assert rows("http://127.0.0.1:9/a.wav")[0]["code"] == "unreachable"

    def test_what_is_named_twice_is_scored_once(self, rows, calls):
        assert names(rows(calls / "a.wav", calls / "deep", calls / "a.wav", calls / "deep/er/d.ogg"), calls) == [
            "a.wav",
            'deep/b, "c".FLAC',
            "deep/er/d.ogg",
            "deep/talk.m4a",
        ]

    def test_a_folder_without_audio_is_a_row(self, run, rows, tmp_path):
        (tmp_path / "notes.txt").write_text("no audio")

        (row,) = rows(tmp_path)

        assert (row["status"], row["code"]) == ("failed", "no_audio")
        assert "no audio file in this folder or below it" in row["reason"]
        assert run(tmp_path).exit_code == 1

    def test_a_missing_file_is_a_row(self, rows, calls):
        bad, good = rows(calls / "absent.wav", calls / "a.wav")

        assert (bad["status"], bad["code"], bad["mos"]) == ("failed", "missing", None)
        assert good["status"] == "ok"

    def test_a_name_that_is_not_utf8_is_scored_and_printed(self, run, rows, calls, tmp_path):
        (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes((calls / "a.wav").read_bytes())

        assert [row["file"] for row in rows(tmp_path)] == [f"{tmp_path}/caf\\xe9.wav"]
        for suffix in ("csv", "parquet"):
            assert run(tmp_path, "--output", tmp_path / f"out.{suffix}").exit_code == 0

    def test_garbage_called_m4a_is_a_row_with_the_remedy(self, rows, calls):
        (row,) = rows(calls / "deep" / "talk.m4a")

        assert (row["status"], row["code"]) == ("failed", "undecodable")
        assert "copy or record it again" in row["reason"]


class TestExitCodes:
    def test_0_if_all_are_scored(self, run, calls):
        assert run(calls / "a.wav").exit_code == 0

    def test_1_if_one_is_not_and_the_others_are_scored(self, run, calls):
        result = run(calls)

        assert result.exit_code == 1
        assert "2 of 5 recordings could not be scored; the rows say why." in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--sort", "wurst"], "Expected --sort to be one of worst, best, name, input, got 'wurst'"),
            (["--channel", "left"], "Expected --channel to be 'mean' or a channel number from 0, got 'left'"),
            (["--dtype", "int8"], "Expected --dtype to be one of auto, float32, bfloat16, float16, got 'int8'"),
            (["--mode", "fats"], "Expected `mode` to be one of published, fast for DistilledSQA, got 'fats'"),
            (["--hop-seconds", "0"], "Expected `hop_seconds` between 0.05 and 0.64"),
            (["--hop-seconds", "nan"], "Expected `hop_seconds` between 0.05 and 0.64"),
            (["--output", "scores.xlsx"], "Expected --output to end in .csv, .jsonl, .parquet, or to be '-', got 'scores.xlsx'"),
            (["--output", "no/such/folder/scores.csv"], "No such file or directory"),
            (["--plot", "plot.xyz"], "Expected --plot to end in .png, .pdf, .svg"),
            (["--plot", "no/such/folder/plot.png"], "in a folder that exists"),
            (["--device", "nonsense"], "nonsense"),
            (["--batch-size", "0"], "batch-size"),
            (["--hop-second", "1"], "hop-seconds"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_2_and_the_reason_if_nothing_can_be_done(self, arguments, message, run, calls, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        result = run(calls / "a.wav", *arguments)

        assert result.exit_code == 2
        assert message in re.sub(r"\s+", " ", result.stderr.replace("│", " "))
        assert "Traceback" not in result.output
        assert list(tmp_path.iterdir()) == []

    def test_2_for_a_list_that_does_not_exist(self, run):
        result = run("@absent.txt")

        assert result.exit_code == 2
        assert "Expected a text file with a recording a line after '@', got 'absent.txt', which does not exist." in result.stderr

    def test_2_for_a_list_that_is_audio(self, run, calls):
        result = run(f"@{calls / 'deep/er/d.ogg'}")

        assert result.exit_code == 2
        assert "to be a text file with a recording a line, got other bytes" in result.stderr

    def test_2_for_an_empty_list(self, run, tmp_path):
        (tmp_path / "list.txt").touch()

        result = run(f"@{tmp_path / 'list.txt'}")

        assert result.exit_code == 2
        assert "There is nothing to score: the list is empty." in result.stderr

    def test_2_and_one_line_for_a_model_that_does_not_exist_offline(self, run, calls):
        result = run(calls / "a.wav", model="no-one/no-such-model")

        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert result.stderr.startswith("hf-sqa: The model 'no-one/no-such-model' cannot be used: ")

    @pytest.mark.parametrize("content", [b"", b"garbage" * 100])
    def test_2_and_one_line_for_weights_that_are_damaged(self, content, run, calls, tiny_folder, tmp_path):
        for file in tiny_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "model.safetensors").write_bytes(content)

        result = run(calls / "a.wav", model=tmp_path)

        assert result.exit_code == 2, result.exception
        assert len(result.stderr.strip().splitlines()) == 1

    def test_2_for_a_plot_of_two(self, run, calls, tmp_path):
        result = run(calls / "a.wav", calls / "silent.wav", "--plot", tmp_path / "plot.png")

        assert result.exit_code == 2
        assert "--plot draws one recording, got 2; name one file." in result.stderr


class TestFiles:
    def test_csv_holds_every_row_and_quotes_names(self, run, calls, tmp_path):
        run(calls, "--output", tmp_path / "scores.csv")

        with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        assert list(rows[0]) == COLUMNS
        assert names(rows, calls)[1] == 'deep/b, "c".FLAC'
        assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed", "abstained"]
        assert rows[4]["mos"] == "" and rows[4]["code"] == "silent"
        assert 1.0 <= float(rows[0]["mos"]) <= 5.0

    def test_csv_joins_several_warnings(self, run, tmp_path, speech_like):
        soundfile.write(tmp_path / "doubtful.wav", speech_like(0.4, 8000), 8000)
        run(tmp_path / "doubtful.wav", "--output", tmp_path / "scores.csv")

        assert pandas.read_csv(tmp_path / "scores.csv")["warnings"][0] == "short;little_speech;narrowband"

    def test_json_lines_have_null_for_what_was_not_scored(self, run, calls, tmp_path):
        run(calls, "--output", tmp_path / "scores.jsonl")

        lines = (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()
        assert "NaN" not in lines[4]
        assert json.loads(lines[4])["mos"] is None

    def test_parquet_holds_the_same_rows(self, run, calls, tmp_path):
        run(calls, "--output", tmp_path / "scores.parquet")
        run(calls, "--output", tmp_path / "scores.csv")

        table, text = pandas.read_parquet(tmp_path / "scores.parquet"), pandas.read_csv(tmp_path / "scores.csv")
        assert list(table.columns) == COLUMNS
        assert table["file"].tolist() == text["file"].tolist()
        np.testing.assert_allclose(table["mos"], text["mos"])
        assert math.isnan(table["mos"][4])

    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
    def test_segments_are_kept_even_if_the_first_argument_fails(self, suffix, run, calls, tmp_path):
        output = tmp_path / f"scores.{suffix}"
        run(calls / "*.opus", calls / "a.wav", "--segments", "--output", output)

        if suffix == "csv":
            segments = json.loads(pandas.read_csv(output)["segments"][1])
        elif suffix == "jsonl":
            segments = json.loads(output.read_text().splitlines()[1])["segments"]
        else:
            segments = list(pandas.read_parquet(output)["segments"][1])
        assert [segment["start"] for segment in segments] == [0.0, 0.18, 0.36]  # (1.0 - 0.64) / 0.2, rounded up, and one

    def test_an_old_file_is_replaced(self, run, calls, tmp_path):
        (tmp_path / "scores.csv").write_text("old\n" * 100)
        run(calls / "a.wav", "--output", tmp_path / "scores.csv")

        assert len((tmp_path / "scores.csv").read_text().splitlines()) == 2

    def test_json_lines_on_standard_output_come_without_a_table(self, run, calls):
        lines = run(calls / "a.wav", "--output", "-").stdout.splitlines()

        assert len(lines) == 1 and lines[0].startswith("{")


class TestTable:
    def order(self, result):
        table, _ = result.stdout.split("\n\nMean mos")
        return re.findall(r"(a\.wav|\"c\"\.FLAC|d\.ogg|talk\.m4a|silent\.wav)", table)

    @pytest.fixture(scope="class")
    @classmethod
    def best_first(cls, calls, tiny_scorer):
        scores = {
            name.split(" ")[-1].split("/")[-1]: tiny_scorer(str(calls / name))["mos"]
            for name in ("a.wav", 'deep/b, "c".FLAC', "deep/er/d.ogg")
        }
        return sorted(scores, key=scores.get, reverse=True)

    def test_the_best_come_first_and_what_was_not_scored_last(self, run, calls, best_first):
        assert self.order(run(calls, "--sort", "best"))[:3] == best_first

    def test_the_worst_come_first_by_default_and_what_was_not_scored_last(self, run, calls, best_first):
        order = self.order(run(calls))

        assert order[:3] == best_first[::-1]
        assert set(order[3:]) == {"talk.m4a", "silent.wav"}

    def test_names_can_order_it(self, run, calls):
        assert self.order(run(calls, "--sort", "name")) == ["a.wav", '"c".FLAC', "d.ogg", "talk.m4a", "silent.wav"]

    def test_the_input_can_order_it(self, run, calls):
        result = run(calls / "silent.wav", calls / "deep/er/d.ogg", calls / "a.wav", "--sort", "input")

        assert self.order(result) == ["silent.wav", "d.ogg", "a.wav"]

    def test_a_row_says_score_length_rate_and_reason(self, run, calls, tiny_scorer):
        output = run(calls / "a.wav", calls / "silent.wav").stdout

        assert re.search(rf"a\.wav +{tiny_scorer(str(calls / 'a.wav'))['mos']:.2f} +1\.0 +16000", output)
        assert "abstained" in output and "silent: all 16,000 samples are digital silence" in re.sub(r"\s+", " ", output)

    def test_segments_stand_under_their_recording(self, run, calls):
        assert "0.18 to 0.82 s" in run(calls / "a.wav", "--segments").stdout

    def test_markup_in_a_name_is_printed_as_it_is(self, run, calls, tmp_path):
        (tmp_path / "[red]x[_red].wav").write_bytes((calls / "a.wav").read_bytes())

        assert "[red]x[_red].wav" in run(tmp_path).stdout

    def test_several_recordings_end_with_their_mean_and_the_worst(self, run, rows, calls):
        scores = sorted(row["mos"] for row in rows(calls) if row["mos"] is not None)
        last = run(calls).stdout.splitlines()[-1]

        assert last.startswith(
            f"Mean mos {np.mean(scores):.2f} over 3 recordings (too few for an interval, which takes 5), 2 without"
        )
        assert f"Worst: {calls}" in last and f"({scores[0]:.2f})," in last
        assert "Mean" not in run(calls / "a.wav").stdout

    def test_the_mean_of_five_recordings_has_an_interval(self, run, tmp_path):
        for seed in range(5):
            tone = np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE) * 0.1 * seed + 0.1 * np.random.default_rng(
                seed
            ).standard_normal(RATE)
            soundfile.write(tmp_path / f"{seed}.wav", np.clip(tone, -1, 1), RATE)

        pattern = r"Mean mos (.+) over 5 recordings \(95 % interval (.+) to (.+?)\)"
        mean, low, high = map(float, re.search(pattern, run(tmp_path).stdout).groups())

        assert low <= mean <= high


class TestPlot:
    @pytest.mark.parametrize("name", ["plot.png", "plot.PDF", "plot.svg"])
    def test_a_plot_is_drawn(self, name, run, calls, tmp_path):
        result = run(calls / "a.wav", "--plot", tmp_path / name)

        assert result.exit_code == 0, result.output
        assert (tmp_path / name).stat().st_size > 5000
        assert f"Drawn: {tmp_path / name}" in result.stderr

    def test_a_png_is_wide_and_colourful(self, run, calls, tmp_path):
        from matplotlib.image import imread

        run(calls / "a.wav", "--plot", tmp_path / "plot.png")

        image = imread(tmp_path / "plot.png")
        assert image.shape[:2] == (750, 1500)
        colours = image[..., :3].max(axis=2) - image[..., :3].min(axis=2)
        assert (colours > 0.2).mean() > 0.01

    def test_a_name_with_dollars_is_no_formula(self, run, calls, tmp_path):
        (tmp_path / r"$\nonsense{$.wav").write_bytes((calls / "a.wav").read_bytes())

        assert run(tmp_path / r"$\nonsense{$.wav", "--plot", tmp_path / "plot.png").exit_code == 0

    def test_a_recording_on_standard_input_is_drawn(self, run, calls, tmp_path):
        assert run("-", "--plot", tmp_path / "plot.png", input=(calls / "a.wav").read_bytes()).exit_code == 0

    def test_a_bad_recording_is_not_drawn(self, run, calls, tmp_path):
        assert run(calls / "silent.wav", "--plot", tmp_path / "plot.png").exit_code == 1
        assert not (tmp_path / "plot.png").exists()

    def test_a_model_whose_first_score_is_not_mos_is_drawn_by_its_first(self, run, calls, make_tiny, tmp_path):
        model = make_tiny(id2label={0: "noisiness", 1: "loudness"})
        model.save_pretrained(tmp_path / "model")
        model.make_feature_extractor().save_pretrained(tmp_path / "model")

        result = run(calls / "a.wav", "--plot", tmp_path / "plot.png", model=tmp_path / "model")

        assert result.exit_code == 0, result.exception

    def test_the_plot_comes_with_segments_too(self, run, calls, tmp_path):
        assert run(calls / "a.wav", "--segments", "--plot", tmp_path / "plot.png").exit_code == 0


class TestOptions:
    def test_batches_and_workers_change_no_row(self, rows, calls):
        batched, alone = rows(calls, "--batch-size", 3, "--num-workers", 1), rows(calls)

        for row, expected in zip(batched, alone, strict=True):
            assert row == expected | {"mos": pytest.approx(expected["mos"], abs=1e-5)}

    def test_mode_and_hop_are_handed_on(self, rows, calls, tiny_scorer):
        expected = tiny_scorer(str(calls / "deep/er/d.ogg"), mode="fast", hop_seconds=0.5)["mos"]

        assert rows(calls / "deep/er/d.ogg", "--mode", "fast", "--hop-seconds", "0.5")[0]["mos"] == pytest.approx(
            expected, abs=1e-5
        )

    def test_a_channel_is_chosen(self, rows, tmp_path, speech_like):
        speech = speech_like(1.2)
        soundfile.write(tmp_path / "stereo.wav", np.stack([speech, -speech], axis=1), RATE)

        assert rows(tmp_path / "stereo.wav")[0]["code"] == "channels_cancel"
        assert rows(tmp_path / "stereo.wav", "--channel", "1")[0]["status"] == "ok"
        assert rows(tmp_path / "stereo.wav", "--channel", "2")[0]["code"] == "no_such_channel"

    def test_bfloat16_is_handed_on(self, rows, calls):
        narrow, exact = rows(calls / "a.wav", "--dtype", "bfloat16")[0]["mos"], rows(calls / "a.wav")[0]["mos"]

        assert narrow != exact
        assert narrow == pytest.approx(exact, abs=0.05)


def test_rows_of_a_stream_without_a_terminal_are_not_wrapped_at_80(run, calls):
    line = next(line for line in run(calls / "a.wav").stdout.splitlines() if "a.wav" in line)

    assert line.startswith(str(calls / "a.wav"))


def test_info_proves_the_installation(default_scorer):
    result = CliRunner().invoke(app, ["info"])

    assert result.exit_code == 0, result.output
    assert re.search(r"sample +distill-mos-v7 scored 2\.84\d, expected 2\.843: works", result.stdout)
    assert re.search(r"torch +\d", result.stdout) and "distill-mos-v7" in result.stdout


def test_help_names_every_option():
    output = CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout

    for option in (
        *("--model", "--output", "--sort", "--mode", "--hop-seconds", "--dtype", "--device"),
        *("--batch-size", "--num-workers", "--segments", "--plot"),
    ):
        assert option in output, option


def test_a_table_can_be_read_from_a_text_stream():
    """`--output -` is written to whatever standard output is at the time."""
    from pathlib import Path

    from hf_sqa.cli.tables import row_writer

    stream = io.StringIO()
    row_writer(Path("-"), stream).write({"file": "a.wav", "mos": float("nan")})

    assert stream.getvalue() == '{"file": "a.wav", "mos": null}\n'
