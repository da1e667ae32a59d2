"""The command as installed, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.cli import app
from tests.processes import PATIENCE, command, script, wait_until

RATE = 16_000


@pytest.fixture(scope="module")
def program():
    path = Path(sys.executable).with_name("hf-sqa")
    if not path.exists():
        pytest.skip("needs the package installed, for its console script")
    return str(path)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A thousand recordings of twelve seconds: more than are scored before an interrupt, however late it comes."""
    folder = tmp_path_factory.mktemp("many")
    soundfile.write(folder / "00.wav", 0.1 * np.random.default_rng(0).standard_normal(12 * RATE), RATE)
    for index in range(1, 1000):
        os.link(folder / "00.wav", folder / f"{index:02d}.wav")
    return folder


def test_help_comes_without_torch(program):
    arguments = [sys.executable, "-X", "importtime", program, "--help"]

    result = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)

    assert result.returncode == 0
    assert "score" in result.stdout and "info" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy", "matplotlib", "soundfile"}


def test_good_and_bad_recordings_on_standard_output_exit_with_1(program, recordings, tiny_folder, nursery):
    options = ("--model", tiny_folder, "--output", "-")
    piped = f"import os; os.dup2(os.open({str(recordings / '00.wav')!r}, os.O_RDONLY), 0)\n"

    result = nursery.start(piped + script(program, "score", "-", recordings / "absent.wav", *options))
    result.communicate()

    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert result.returncode == 1
    assert (good["file"], good["status"]) == ("-", "ok")
    assert bad["code"] == "missing"
    assert result.stderr.strip() == "hf-sqa: 1 of 2 recordings could not be scored; the rows say why."


def test_a_misspelled_option_exits_with_2(program):
    result = subprocess.run([program, "score", "a.wav", "--sort", "wurst"], capture_output=True, text=True, timeout=PATIENCE)

    assert result.returncode == 2
    assert result.stderr == "hf-sqa: Expected --sort to be one of worst, best, name, input, got 'wurst'.\n"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_ctrl_c_keeps_what_is_done_and_exits_with_130(suffix, nursery, recordings, tiny_folder, tmp_path):
    output = tmp_path / f"scores.{suffix}"
    options = ("--model", tiny_folder, "--hop-seconds", 0.05, "--output", output)
    process = nursery.start(command("score", recordings, *options))
    wait_until(lambda: output.exists() and len(output.read_text().splitlines()) >= 3, process)
    process.send_signal(signal.SIGINT)
    table, errors = process.communicate()

    lines = output.read_text().splitlines()
    num_rows = len(lines) - (suffix == "csv")
    assert process.returncode == 130, errors
    assert 2 <= num_rows < 1000
    assert f"Interrupted: {num_rows} of 1000 recordings are done and kept." in errors
    assert "Traceback" not in errors
    assert table.split("\n\n")[0].count(".wav") == num_rows  # what follows are the mean and the worst
    if suffix == "jsonl":
        assert all(json.loads(line)["status"] == "ok" for line in lines)


def test_the_version_is_printed():
    result = CliRunner().invoke(app, ["--version"])

    assert result.exit_code == 0 and result.stdout == f"hf-sqa {hf_sqa.__version__}\n"
