"""`--dtype auto`: bfloat16 where the processor has it and the model's error is stated to be small; a corpus stays as begun."""

import json

import pytest
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.blocks import precision
from hf_sqa.cli import app
from hf_sqa.models.distilled_sqa import DistilledSQA, modeling_distilled_sqa
from hf_sqa.scoring import RunMismatch, Settings, run, score_corpus
from hf_sqa.scoring.scorer import load_pipeline


@pytest.fixture
def machine(monkeypatch):
    """`machine(computes)`: from here on, the processor computes in bfloat16 or not."""
    return lambda computes: monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device="cpu": computes)


@pytest.fixture(scope="module")
def stated(make_tiny, tmp_path_factory):
    """`stated(name)`: a folder with the tiny model under the name of a checkpoint."""

    def save(name):
        folder = tmp_path_factory.mktemp("named")
        model = make_tiny()
        model.config.checkpoint_name = name
        model.save_pretrained(folder)
        model.make_feature_extractor().save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(autouse=True)
def _tiny_errors(monkeypatch):
    errors = {"tiny-precise": 0.0099, "tiny-rough": 0.0101}
    monkeypatch.setattr(modeling_distilled_sqa, "BFLOAT16_ERRORS", errors)


def precision_of(output):
    return json.loads((output / "run.json").read_text())["identity"]["dtype"]


@pytest.mark.parametrize(
    ("name", "computes", "chosen"),
    [
        ("tiny-precise", True, "bfloat16"),
        ("tiny-precise", False, "float32"),
        ("tiny-rough", True, "float32"),
        ("of unknown error", True, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it_and_the_error_is_stated_to_be_small(name, computes, chosen, stated, machine):
    machine(computes)

    scorer = load_pipeline(Settings(model=stated(name), dtype="auto", device="cpu"))

    assert str(scorer.model.dtype) == f"torch.{chosen}"
    assert {str(parameter.dtype) for parameter in scorer.model.transformer.parameters()} == {"torch.float32"}


def test_the_error_of_distill_mos_v7_is_stated_and_goes_with_its_name(make_tiny, monkeypatch):
    monkeypatch.undo()
    model = make_tiny()
    assert model.bfloat16_error is None

    model.config.checkpoint_name = "distill-mos-v7"

    assert 0 < model.bfloat16_error < 0.01


def test_every_other_family_states_no_error():
    others = [model for _, model in hf_sqa.auto.families().values() if not issubclass(model, DistilledSQA)]

    assert others and all(model.bfloat16_error.fget(None) is None for model in others)


@pytest.mark.parametrize(("begun", "other"), [(True, False), (False, True)])
def test_a_corpus_goes_on_in_the_precision_it_was_begun_in(begun, other, stated, machine, clips, tmp_path):
    options = {"model": stated("tiny-precise"), "dtype": "auto", "device": "cpu", "num_workers": 0, "rows_per_shard": 3}
    machine(begun)
    score_corpus(clips, tmp_path / "out", **options)
    as_begun = precision_of(tmp_path / "out")
    (tmp_path / "out" / "shards" / "000001.parquet").unlink()

    machine(other)
    progress = score_corpus(clips, tmp_path / "out", **options)

    assert as_begun == precision_of(tmp_path / "out") == ("bfloat16" if begun else "float32")
    assert (progress.rows, progress.kept, progress.complete) == (3, 9, True)


def test_parts_that_begin_together_on_two_kinds_of_processor_score_in_one_precision(stated, machine, clips, tmp_path, monkeypatch):
    options = {"model": stated("tiny-precise"), "dtype": "auto", "device": "cpu", "num_workers": 0, "rows_per_shard": 3}
    load = run.CorpusScorer

    def slowly(*arguments):
        """Before this part has its model, the other one has begun the folder."""
        monkeypatch.setattr(run, "CorpusScorer", load)
        worker = load(*arguments)
        machine(True)
        score_corpus(clips, tmp_path / "out", part=(1, 2), **options)
        machine(False)
        return worker

    machine(False)
    monkeypatch.setattr(run, "CorpusScorer", slowly)
    progress = score_corpus(clips, tmp_path / "out", part=(0, 2), **options)

    assert (precision_of(tmp_path / "out"), progress.complete) == ("bfloat16", True)


def test_a_precision_that_is_named_is_not_changed_by_the_folder(stated, machine, clips, tmp_path):
    options = {"model": stated("tiny-precise"), "device": "cpu", "num_workers": 0}
    machine(True)
    score_corpus(clips, tmp_path / "out", dtype="auto", **options)

    with pytest.raises(RunMismatch, match=r"identity\.dtype was 'bfloat16', is 'float32'"):
        score_corpus(clips, tmp_path / "out", dtype="float32", **options)


def test_rescoring_chooses_the_precision_anew(stated, machine, clips, tmp_path):
    options = {"model": stated("tiny-precise"), "dtype": "auto", "device": "cpu", "num_workers": 0}
    machine(False)
    score_corpus(clips, tmp_path / "out", **options)

    machine(True)
    progress = score_corpus(clips, tmp_path / "out", rescore=True, **options)

    assert (precision_of(tmp_path / "out"), progress.rows) == ("bfloat16", 12)


def test_the_command_takes_auto_by_default(stated, machine, clips, tmp_path):
    machine(True)
    arguments = ["score", str(clips), "--model", stated("tiny-precise"), "--device", "cpu", "--num-workers", "0"]

    result = CliRunner().invoke(app, [*arguments, "--output", f"{tmp_path}/out/"])

    assert result.exit_code == 0, result.output
    assert precision_of(tmp_path / "out") == "bfloat16"
