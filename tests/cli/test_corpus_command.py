"""`hf-sqa corpus`: the list names every corpus, the check ends in 1 at faults and in 2 if there is nothing to check."""

import pytest
import soundfile
from typer.testing import CliRunner

from hf_sqa.cli.corpus import app
from hf_sqa.data import CORPORA


@pytest.fixture
def table(tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, [0.1] * 1600, 16_000)
    path = tmp_path / "t.csv"
    path.write_text("file,opinion\na.wav,2\nb.wav,3\n", encoding="utf-8")
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_the_list_names_every_corpus_its_licence_and_where_to_get_it():
    result = invoke("list")

    assert result.exit_code == 0
    for corpus in CORPORA.values():
        line = next(line for line in result.stdout.splitlines() if line.startswith(f"{corpus.name} "))
        assert corpus.licence in line
        assert corpus.source in line


def test_a_table_without_faults(table):
    result = invoke("check", table, "--column", "mos=opinion")

    assert result.exit_code == 0, result.output
    assert "2 rated; 2 on disk; mean MOS 2.50" in result.stdout
    assert "16000 Hz 2" in result.stdout
    assert "no faults" in result.stdout


def test_faults_are_told_and_end_in_one(table):
    (table.parent / "a.wav").unlink()

    result = invoke("check", table, "--column", "mos=opinion", "--scale", "0", "2")

    assert result.exit_code == 1
    assert "FAULT 1 missing recordings: " in result.stdout
    assert "FAULT 1 scores outside their scale: mos 3 outside 0-2 (t.csv line 3)" in result.stdout


def test_nothing_to_check_ends_in_two(tmp_path, table):
    assert invoke("check", "nisqa", tmp_path).exit_code == 2
    assert "looked in" in invoke("check", "nisqa", tmp_path).stderr
    assert "get it from https://depositonce" in invoke("check", "nisqa").stderr
    assert "such as `mos=opinion`, got 'mos'" in invoke("check", table, "--column", "mos").stderr
