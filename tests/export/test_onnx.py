"""DistilledSQA without torch: the graph and its front end, 8 bits, the pipeline on onnxruntime."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.audio import AudioError
from hf_sqa.cli import app
from hf_sqa.export.onnx import GRAPH_FILE, export_onnx
from hf_sqa.export.page import PAGE_FILES, write_page

onnx = pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
pytest.importorskip("onnxscript", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")

ROOT = Path(__file__).parents[2]
RATE = 16_000


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("int8", 0.03)])
def test_the_pipeline_on_a_graph_gives_torchs_scores(checkpoint, graphs, recordings, precision, tolerance):
    by_torch = hf_sqa.pipeline(str(checkpoint), device="cpu")(recordings, return_segments=True)
    by_graph = hf_sqa.pipeline(str(graphs[precision]), backend="onnx")(recordings, return_segments=True, batch_size=2)

    assert len({round(row["mos"], 2) for row in by_torch}) == 3
    for expected, found in zip(by_torch, by_graph, strict=True):
        assert found["mos"] == pytest.approx(expected["mos"], abs=tolerance)
        assert [(one["start"], one["end"]) for one in found["segments"]] == [
            (one["start"], one["end"]) for one in expected["segments"]
        ]


@pytest.mark.slow
def test_the_front_end_is_a_convolution_whose_filters_are_not_in_the_file(graphs):
    graph = onnx.load(graphs["float32"] / GRAPH_FILE).graph
    kinds = {node.op_type for node in graph.node}
    first = next(node for node in graph.node if node.op_type == "Conv")

    assert not kinds & {"DFT", "STFT", "GatherND", "MelWeightMatrix"}
    assert first.input[1] not in {tensor.name for tensor in graph.initializer}
    assert max(np.prod(tensor.dims) for tensor in graph.initializer) < 161 * 320


@pytest.mark.slow
def test_a_graph_names_no_file_of_the_machine_that_made_it(graphs):
    for folder in graphs.values():
        content = (folder / GRAPH_FILE).read_bytes()
        assert str(ROOT).encode() not in content and b".py" not in content


@pytest.mark.slow
def test_in_8_bits_only_what_follows_the_projection_computes_in_integers(graphs):
    exact, narrow = (onnx.load(graphs[name] / GRAPH_FILE).graph for name in ("float32", "int8"))
    kinds = [node.op_type for node in narrow.node]
    layers = json.loads((graphs["int8"] / "config.json").read_text())["num_hidden_layers"]

    assert kinds.count("Conv") == [node.op_type for node in exact.node].count("Conv")
    assert kinds.count("ConvInteger") == 0
    # queries, keys, values, output and two of the feed-forward in each layer; two of the pooling
    assert kinds.count("MatMulInteger") == 6 * layers + 2
    assert (graphs["int8"] / GRAPH_FILE).stat().st_size < 0.75 * (graphs["float32"] / GRAPH_FILE).stat().st_size


@pytest.mark.slow
def test_a_graph_refuses_what_the_gate_refuses(graphs):
    score = hf_sqa.pipeline(str(graphs["float32"]), backend="onnx")

    with pytest.raises(AudioError, match="digital silence"):
        score(np.zeros(RATE, np.float32), sampling_rate=RATE)
    assert score([{"array": np.ones(100, np.float32), "sampling_rate": RATE}], on_error="row")[0]["code"] == "too_short"


@pytest.mark.slow
def test_a_window_of_digital_silence_in_a_recording_gets_torchs_score(checkpoint, graphs, speech_like):
    recording = {"array": np.concatenate([speech_like(0.64), np.zeros(2 * RATE, np.float32)]), "sampling_rate": RATE}
    expected = hf_sqa.pipeline(str(checkpoint), device="cpu")(recording)["mos"]

    for name, tolerance in (("float32", 1e-4), ("int8", 0.03)):
        assert hf_sqa.pipeline(str(graphs[name]), backend="onnx")(recording)["mos"] == pytest.approx(expected, abs=tolerance)


@pytest.mark.slow
def test_a_folder_without_weights_needs_no_backend_and_scores_name_the_graph(graphs, recordings):
    scorers = {name: hf_sqa.pipeline(str(folder)) for name, folder in graphs.items()}

    details = {name: score(recordings[1], return_details=True)["model"] for name, score in scorers.items()}
    assert details["float32"]["weights"] != details["int8"]["weights"]
    assert details["float32"]["preprocessing"] == details["int8"]["preprocessing"]


@pytest.mark.slow
def test_the_model_of_a_graph_goes_to_another_process(graphs, recordings):
    score = hf_sqa.pipeline(str(graphs["float32"]))
    expected = score(recordings[1])

    score.model = pickle.loads(pickle.dumps(score.model))

    assert score(recordings[1]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "runs on the CPU here, got `device='cuda'`"),
        ({"dtype": "bfloat16"}, "precision of an ONNX graph is fixed when it is exported, got `dtype='bfloat16'`"),
        ({"mode": "fast"}, "`mode` to be one of published for OnnxDistilledSQA, got 'fast'"),
    ],
)
def test_what_a_graph_cannot_do_is_refused(graphs, options, message):
    with pytest.raises(ValueError, match=message):
        hf_sqa.pipeline(str(graphs["float32"]), **options)


def test_an_unknown_backend_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="`backend` to be one of torch, onnx, got 'tensorrt'"):
        hf_sqa.pipeline(str(tiny_folder), backend="tensorrt")


def test_a_folder_without_a_graph_is_refused_with_the_command_that_makes_one(tiny_folder):
    with pytest.raises(OSError, match=r"Expected an ONNX graph .*model.onnx', got none; `hf-sqa export onnx"):
        hf_sqa.pipeline(str(tiny_folder), backend="onnx")
    with pytest.raises(OSError, match=r"repository with an ONNX graph, got 'alice/without-a-graph', which is not available"):
        hf_sqa.pipeline("alice/without-a-graph", backend="onnx")


def test_a_graph_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nisqa"}), encoding="utf-8")
    (tmp_path / GRAPH_FILE).write_bytes(b"")

    with pytest.raises(ValueError, match=r"graph of a distilled_sqa .*, got 'nisqa'"):
        hf_sqa.pipeline(str(tmp_path), backend="onnx")


def test_a_broken_graph_is_refused_by_name(tiny_folder, tmp_path):
    shutil.copy(tiny_folder / "config.json", tmp_path)
    shutil.copy(tiny_folder / "preprocessor_config.json", tmp_path)
    (tmp_path / GRAPH_FILE).write_bytes(b"not a graph")

    with pytest.raises(OSError, match=r"onnxruntime cannot run '.*model.onnx'"):
        hf_sqa.pipeline(str(tmp_path), backend="onnx")


def test_without_onnxruntime_the_extra_is_named(tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(OSError, match=r"which needs the extra `onnx`: `pip install 'hf-sqa\[onnx\]'`"):
        hf_sqa.pipeline(str(tiny_folder), backend="onnx")


def test_8_bits_and_the_page_are_refused_for_other_families(tmp_path):
    nisqa = hf_sqa.NISQA(hf_sqa.NISQAConfig.tiny())

    with pytest.raises(ValueError, match="Expected a DistilledSQA for 8 bits, got NISQA"):
        export_onnx(nisqa, tmp_path, int8=True)
    with pytest.raises(ValueError, match="Expected a DistilledSQA without `score_mapping` for the page, got a NISQA"):
        write_page(nisqa, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_writes_8_bits_and_the_page_and_scores_with_them(tiny_folder, tmp_path, speech_like):
    soundfile.write(tmp_path / "speech.wav", speech_like(1.5), RATE)
    exported = CliRunner().invoke(app, ["export", "onnx", str(tmp_path / "graph"), "--model", str(tiny_folder), "--int8", "--page"])

    assert exported.exit_code == 0, exported.output
    assert "in int8" in exported.output and "index.html" in exported.output
    assert {path.name for path in (tmp_path / "graph").iterdir()} == {
        *("model.onnx", "config.json", "preprocessor_config.json"),
        *(*PAGE_FILES, "page.json", "faults.onnx"),
    }
    scored = CliRunner().invoke(app, ["score", str(tmp_path / "speech.wav"), "--model", str(tmp_path / "graph"), "--output", "-"])
    assert scored.exit_code == 0, scored.output
    assert '"mos"' in scored.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"hop_samples": 1600}, {"id2label": {"0": "mos", "1": "noisiness"}}, {"hidden_size": 24}], ids=str
)
def test_a_graph_beside_another_configuration_is_refused(change, graphs, tmp_path):
    for file in graphs["int8"].iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(ValueError, match=r"to be the one that model.onnx was exported with|config"):
        hf_sqa.pipeline(str(tmp_path), backend="onnx")
