"""ONNX graphs on the Hub: where others look for them, checked before they go, scored with from there."""

import shutil

import pytest
import torch
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.checkpoint_files import copy_checkpoint, graph_files
from hf_sqa.cli import app
from hf_sqa.hub.publish import PublishError, publish
from tests.hub.conftest import ALICE
from tests.processes import command

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")

REPO = "alice/graph"
EXACT, NARROW = "onnx/model.onnx", "onnx/model_quantized.onnx"
pytestmark = pytest.mark.slow  # exports


@pytest.fixture
def made(exported):
    """Folders: `weights`, and the graph of the same model in `float32` and in 8 bits (`int8`)."""
    return exported("student")


@pytest.fixture
def audio(tmp_path, speech_like):
    import soundfile

    soundfile.write(tmp_path / "call.wav", speech_like(1.5), 16_000)
    return str(tmp_path / "call.wav")


def score(name, audio, **options):
    return hf_sqa.pipeline(name, **options)(audio)["mos"]


@pytest.mark.parametrize(("precision", "place"), [("float32", EXACT), ("int8", NARROW)])
def test_a_folder_with_a_graph_is_pushed_and_scores_from_the_hub(precision, place, made, hub, fresh, audio):
    pushed = fresh(command("push", made / precision, REPO, "--license", "mit"), token=ALICE)

    assert pushed.returncode == 0, pushed.stderr
    files = set(hub.api().list_repo_files(REPO)) - {".gitattributes"}
    assert files == {place, "README.md", "config.json", "parity.json", "preprocessor_config.json", "sample.flac"}
    expected = score(str(made / precision), audio)
    for options in ({}, {"backend": "onnx"}):
        assert score(REPO, audio, **options) == pytest.approx(expected, abs=1e-5)
    scored = CliRunner().invoke(app, ["score", audio, "--model", REPO, "--output", "-"])
    assert scored.exit_code == 0 and f"{expected:.3f}"[:4] in scored.stdout, scored.output


def test_weights_and_graphs_share_a_repository_and_each_is_chosen(made, hub, audio, tmp_path):
    copy_checkpoint(made / "weights", tmp_path / "all")
    (tmp_path / "all" / "onnx").mkdir()
    shutil.copy(made / "float32" / "model.onnx", tmp_path / "all" / EXACT)
    shutil.copy(made / "int8" / "model.onnx", tmp_path / "all" / NARROW)

    done = publish(tmp_path / "all", REPO, license="mit", with_code=False)

    assert {EXACT, NARROW, "model.safetensors"} <= set(done.files)
    assert f'hf_sqa.pipeline("{REPO}", backend="onnx")' in done.card
    for options, precision in (({}, "weights"), ({"backend": "onnx"}, "float32"), ({"backend": "onnx", "dtype": "int8"}, "int8")):
        identity = hf_sqa.pipeline(REPO, device="cpu", **options).identity()
        assert identity["weights"] == hf_sqa.pipeline(str(made / precision), device="cpu").identity()["weights"], options

    removed = publish(made / "weights", REPO, license="mit", with_code=False).removed
    assert set(removed) == {EXACT, NARROW}  # they would be of other weights


def test_a_graph_of_other_weights_is_refused(made, hub, tmp_path):
    other = hf_sqa.AutoModelForAudioQuality.from_pretrained(str(made / "weights"))
    with torch.no_grad():
        other.transformer.pooling.score_head.bias.add_(1)
    other.save_pretrained(tmp_path)
    shutil.copy(made / "float32" / "model.onnx", tmp_path)

    with pytest.raises(PublishError, match=r"The graph onnx/model.onnx scores the sample .* export it again from these weights"):
        publish(tmp_path, REPO, license="mit", with_code=False)
    assert not hub.writes()


def test_a_graph_has_no_code_to_travel_with_it(made, hub):
    with pytest.raises(PublishError, match="got a graph, which runs without it"):
        publish(made / "float32", REPO, license="mit", with_code=True)


def test_a_broken_graph_is_not_published(made, hub, tmp_path):
    copy_checkpoint(made / "float32", tmp_path / "broken")
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no graph")

    with pytest.raises(PublishError, match=r"The graph onnx/model.onnx does not load: onnxruntime cannot run"):
        publish(tmp_path / "broken", REPO, license="mit")


def test_a_copy_of_a_checkpoint_keeps_its_graphs(made, tmp_path):
    (tmp_path / "first" / "onnx").mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(made / "float32" / name, tmp_path / "first")
    shutil.copy(made / "float32" / "model.onnx", tmp_path / "first" / EXACT)

    left_out = copy_checkpoint(tmp_path / "first", tmp_path / "second")

    assert graph_files(tmp_path / "second") == [EXACT] and not left_out
