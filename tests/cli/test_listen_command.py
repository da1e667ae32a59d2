"""`hf-sqa listen`: sound on standard input, a line a score."""

import io
import json
import struct

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.cli import app

RATE = 16_000


@pytest.fixture
def sound(speech_like):
    return np.round(speech_like(4.0) * 32767).astype("<i2")


@pytest.fixture
def listen(tiny_folder):
    def run(content, *options):
        return CliRunner().invoke(app, ["listen", "-", "--model", str(tiny_folder), *map(str, options)], input=content)

    return run


def rows(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_raw_samples_get_the_scores_of_the_timeline(listen, tiny_scorer, sound):
    found = [row for row in rows(listen(sound.tobytes(), "--json")) if row["mos"] is not None]

    expected = tiny_scorer(sound, sampling_rate=RATE, return_timeline=True)["timeline"]
    assert [row["start"] for row in found] == [row["start"] for row in expected]
    np.testing.assert_allclose([row["mos"] for row in found], [row["mos"] for row in expected], atol=1e-4)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_says_its_rate_and_channels_itself(listen, sound, subtype):
    file = io.BytesIO()
    soundfile.write(file, np.stack([sound, sound], axis=1), RATE, format="WAV", subtype=subtype)

    of_wav = rows(listen(file.getvalue(), "--json", "--sampling-rate", 8000))
    of_raw = rows(listen(sound.tobytes(), "--json"))

    assert [row["start"] for row in of_wav] == [row["start"] for row in of_raw]
    np.testing.assert_allclose([row["running"] for row in of_wav], [row["running"] for row in of_raw], atol=1e-3)


def wav(sound, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_what_follows_the_samples_of_a_wav_is_not_heard(listen, sound, subtype):
    notes = struct.pack("<4sI", b"LIST", 40_000) + 10_000 * struct.pack("<f", 1e30)

    assert rows(listen(wav(sound, subtype) + notes, "--json")) == rows(listen(wav(sound, subtype), "--json"))


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])  # as FFmpeg and SoX write it into a pipe
def test_a_wav_that_does_not_know_its_size_is_heard_to_the_end(listen, sound, size):
    content = wav(sound)
    at = content.index(b"data") + 4

    assert len(rows(listen(content[:at] + struct.pack("<I", size) + content[at + 4 :], "--json"))) == 8


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "RF64", "AIFF", "AU", "CAF", "W64"])
def test_a_file_of_another_kind_is_not_taken_for_raw_samples(listen, sound, kind):
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format=kind)

    refused = listen(file.getvalue())

    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "Expected raw PCM or WAV" in refused.stderr and "ffmpeg" in refused.stderr


def test_no_samples_at_all_are_an_error(listen):
    refused = listen(b"")

    assert refused.exit_code == 2 and "Expected samples on standard input, got none" in refused.stderr


def test_ctrl_c_before_the_model_is_loaded_ends_it_in_a_line(listen, sound, monkeypatch):
    def interrupted(*_, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(hf_sqa, "QualityMeter", interrupted)

    ended = listen(sound.tobytes())

    assert (ended.exit_code, ended.stderr) == (130, "hf-sqa: Interrupted before anything was heard.\n")


def test_a_pipe_gets_a_plain_line_a_score(listen, sound):
    lines = listen(sound.tobytes()).stdout.splitlines()

    assert len(lines) == 8 and lines[0].startswith("0.5 s  mos ") and "\r" not in lines[0]


def test_silence_is_said(listen):
    result = listen(np.zeros(2 * RATE, "<i2").tobytes())

    assert "silent" in result.stdout and "Nobody spoke" in result.stderr


def test_what_is_no_sound_is_refused_with_what_to_do(listen, sound):
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="WAV", subtype="PCM_24")

    refused = listen(file.getvalue())
    assert refused.exit_code == 2 and "ffmpeg" in refused.stderr
    assert "Expected --format" in listen(sound.tobytes(), "--format", "s24le").stderr


def test_a_file_is_sent_to_the_other_command():
    result = CliRunner().invoke(app, ["listen", "call.wav"])

    assert result.exit_code == 2 and "hf-sqa score call.wav --timeline" in result.stderr


def test_the_line_that_moves_shows_the_last_points():
    from hf_sqa.cli.listen import _Line

    line = _Line()
    for at, value in enumerate((1.0, 5.0, None)):
        last = line.drawn({"start": at / 2, "end": at / 2 + 0.5, "mos": value, "running": 3.0})

    assert last.startswith("\r") and "▁█ " in last and "silent" in last and "mean 3.00" in last


def test_the_meter_is_public():
    assert hf_sqa.QualityMeter.__name__ in hf_sqa.__all__
