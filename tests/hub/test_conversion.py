"""`hf-sqa convert`: what it reads, verifies, refuses and leaves behind."""

import json

import pytest
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.auto import families
from hf_sqa.cli import app
from hf_sqa.hub.conversion import convert_checkpoint, readable_checkpoints

SCORED = ("mos", "noisiness", "discontinuity", "coloration", "loudness")


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.fixture
def nisqa_folder(shared):
    return shared / "checkpoints" / "nisqa"


def test_the_list_names_what_every_converter_reads():
    result = run("--list")

    assert result.exit_code == 0
    for family, reads in readable_checkpoints().items():
        assert family in families()
        assert reads and all(line in result.stdout for line in reads)


def test_a_converted_nisqa_scores_five_dimensions_from_the_command_line(nisqa_folder, shared, tmp_path):
    converted = run("nisqa", nisqa_folder / "nisqa.tar", tmp_path / "out")
    assert converted.exit_code == 0, converted.output
    assert "252,458 weights" in converted.stdout

    scored = CliRunner().invoke(
        app, ["score", "--model", str(tmp_path / "out"), str(shared / "data" / "genspeech" / "opus.wav"), "--output", "-"]
    )

    row = json.loads(scored.stdout.splitlines()[0])
    assert all(1 < row[name] < 5 for name in SCORED)


@pytest.mark.parametrize(
    ("family", "checkpoint", "weights"),
    [
        ("nisqa", "conferencingspeech2022/training_base_model_dff_vanilla_ep_050.tar", 169_699),
        ("nisqa", "conferencingspeech2022/baseline2_retraining_NISQA_full_ep_080.tar", 218_402),
        ("nisqa", "nisqa/nisqa_mos_only.tar", 218_402),
        ("nisqa", "nisqa/nisqa_tts.tar", 303_925),
    ],
)
def test_other_published_checkpoints_convert(family, checkpoint, weights, shared, tmp_path):
    found = convert_checkpoint(family, shared / "checkpoints" / checkpoint, tmp_path / "out")

    assert found.num_weights == weights
    pipe = hf_sqa.pipeline(str(tmp_path / "out"), device="cpu")
    assert 0 < pipe(str(shared / "data" / "genspeech" / "ref.wav"))["mos"] < 6


@pytest.mark.parametrize("name", ["w2v_small_like", "hubert_large_like"])
def test_an_ssl_mos_file_converts_with_the_number_of_its_heads(name, shared, tmp_path):
    folder = shared / "checkpoints" / "layout_faithful" / "ssl_mos" / name
    (tmp_path / "heads.json").write_text('{"num_attention_heads": 4}')

    refused = run("wav2vec2_mos", folder / "mos.pt", tmp_path / "out")
    accepted = run("wav2vec2_mos", folder / "mos.pt", tmp_path / "out", "--encoder-config", tmp_path / "heads.json")

    assert refused.exit_code == 2 and "--encoder-config" in refused.stderr
    assert accepted.exit_code == 0, accepted.output


def test_a_folder_in_use_is_not_overwritten(nisqa_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")

    result = run("nisqa", nisqa_folder / "nisqa.tar", tmp_path)

    assert result.exit_code == 2 and "which is in use; choose another name" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_refused_checkpoint_leaves_nothing_behind(tmp_path):
    (tmp_path / "weights.tar").write_bytes(b"not a checkpoint")

    result = run("nisqa", tmp_path / "weights.tar", tmp_path / "out")

    assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["weights.tar"]


def test_a_misspelled_family_gets_a_suggestion(tmp_path):
    result = run("niska", "x.tar", tmp_path / "out")

    assert result.exit_code == 2 and "did you mean 'nisqa'?" in result.stderr


def test_a_missing_checkpoint_is_named(tmp_path):
    result = run("nisqa", tmp_path / "gone.tar", tmp_path / "out")

    assert result.exit_code == 2 and "gone.tar" in result.stderr


def test_an_option_that_a_converter_does_not_have_is_refused(nisqa_folder, tmp_path):
    result = run("nisqa", nisqa_folder / "nisqa.tar", tmp_path / "out", "--encoder", "facebook/wav2vec2-base")

    assert result.exit_code == 2 and "takes no --encoder" in result.stderr


def test_without_arguments_the_command_says_what_it_expects():
    result = run()

    assert result.exit_code == 2 and "hf-sqa convert <family> <checkpoint> <folder>" in result.stderr
