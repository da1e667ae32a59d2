"""Scores without torch: `hf_sqa.lite` in processes where torch and transformers cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hf_sqa
from hf_sqa.lite import LitePipeline

pytest.importorskip("onnxruntime", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
pytest.importorskip("onnxscript", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")

ROOT = Path(__file__).parents[2]
RATE = 16_000
#: What the package depends on, and `hf_sqa.lite` must not.
BLOCKED = ("torch", "transformers", "huggingface_hub", "safetensors", "scipy", "typer", "rich", "matplotlib", "yaml", "filelock")
BLOCK = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
ROWS = {"on_error": "row", "return_details": True, "return_segments": True}


@pytest.fixture(scope="module")
def checkpoint(make_tiny, tmp_path_factory):
    """A student in small, with a score mapping."""
    folder = tmp_path_factory.mktemp("checkpoint")
    options = {"num_mel_bins": 20, "num_conv_layers": 3, "conv_layer_channels": [4, 6, 8], "hop_samples": 10_240}
    model = make_tiny(3, **options, score_mapping={"mos": [1.0, 5.0, 0.5, 0.8]})
    model.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def graph(checkpoint, tmp_path_factory):
    from hf_sqa.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("graph")
    export_onnx(hf_sqa.AutoModelForAudioQuality.from_pretrained(str(checkpoint)), folder)
    return folder


@pytest.fixture
def recordings(speech_like, tmp_path):
    """Shorter than a window, of many windows, at another rate, silent, and no audio."""
    made = {"short": (0.4, RATE), "long": (3.3, RATE), "telephone": (1.5, 8000)}
    for name, (seconds, rate) in made.items():
        soundfile.write(tmp_path / f"{name}.wav", speech_like(seconds, rate), rate)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "bad.wav").write_bytes(b"RIFF, it says")
    return [tmp_path / f"{name}.wav" for name in (*made, "silent", "bad")]


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_without_torch_the_scores_are_those_of_torch(checkpoint, graph, recordings):
    code = BLOCK + (
        "import json, hf_sqa.lite\n"
        "score = hf_sqa.lite.pipeline(sys.argv[1], num_threads=1)\n"
        f"print(json.dumps(score(sys.argv[2:], **{ROWS})))\n"
    )

    result = run("-c", code, graph, *recordings)

    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    expected = hf_sqa.pipeline(str(checkpoint), device="cpu")([str(path) for path in recordings], **ROWS)
    assert [row["code"] for row in found] == [None, None, None, "silent", "undecodable"]
    assert len({round(row["mos"], 2) for row in found[:3]}) == 3
    for by_lite, by_torch in zip(found, expected, strict=True):
        assert list(by_lite) == list(by_torch)
        assert by_lite["mos"] == pytest.approx(by_torch["mos"], abs=1e-4)
        for window, same in zip(by_lite["segments"], by_torch["segments"], strict=True):
            assert window == pytest.approx(same, abs=1e-4)
        for name in set(by_lite) - {"mos", "segments", "model"}:
            assert by_lite[name] == by_torch[name], name


@pytest.mark.slow
def test_the_command_writes_a_row_each_and_says_by_its_exit_code_that_one_failed(graph, recordings):
    result = run("-m", "hf_sqa.lite", graph, recordings[0].parent, "--threads", "1")

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 1, result.stderr
    assert {Path(row["file"]).stem: row["code"] for row in rows} == {
        **dict.fromkeys(("short", "long", "telephone")),
        "silent": "silent",
        "bad": "undecodable",
    }
    assert list(rows[0]) == ["file", "mos", "status", "code", "reason", "warnings", "duration_seconds", "sampling_rate"]
    assert run("-m", "hf_sqa.lite", recordings[0].parent, recordings[0]).returncode == 2


def test_importing_it_loads_no_torch_and_the_rest_of_the_package_is_there_when_it_is_asked_for():
    code = (
        "import sys, hf_sqa.lite\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)\n"
        "import hf_sqa\n"
        "print(hf_sqa.pipeline.__module__)\n"
        "from transformers.pipelines import PIPELINE_REGISTRY\n"
        "print('audio-quality' in PIPELINE_REGISTRY.supported_tasks)"
    )

    result = run("-c", code)

    assert result.stdout.split() == ["False", "False", "hf_sqa.pipelines.loading", "True"], result.stderr


@pytest.mark.slow
def test_arrays_iterators_and_options_are_taken_as_by_the_pipeline(graph, speech_like):
    lite, full = LitePipeline(graph, num_threads=1), hf_sqa.pipeline(str(graph), backend="onnx")
    waveform = speech_like(2.0)

    assert lite(waveform, sampling_rate=RATE) == pytest.approx(full(waveform, sampling_rate=RATE), abs=1e-5)
    hop = lite(waveform, sampling_rate=RATE, hop_seconds=0.2)["mos"]
    assert hop == pytest.approx(full(waveform, sampling_rate=RATE, hop_seconds=0.2)["mos"], abs=1e-5)
    assert [row["mos"] for row in lite(iter([{"array": waveform, "sampling_rate": RATE}]), hop_seconds=0.2)] == [hop]
    assert lite.identity["weights"] == full.identity()["weights"]
    with pytest.raises(hf_sqa.AudioError, match="sampling_rate"):
        lite(waveform)
    with pytest.raises(TypeError, match="Unknown option 'mode'"):
        lite(waveform, mode="fast")


@pytest.mark.slow
def test_a_graph_beside_another_configuration_is_refused(graph, tmp_path):
    (tmp_path / "model.onnx").write_bytes((graph / "model.onnx").read_bytes())
    with pytest.raises(OSError, match=r"Expected config\.json"):
        LitePipeline(tmp_path)
    config = json.loads((graph / "config.json").read_text())
    for change, match in (
        ({"hop_samples": 5000}, r"another \(hop_samples\)"),
        ({"id2label": {"0": "other"}}, r"another \(id2label\)"),
        ({"model_type": "nisqa"}, "Expected the graph of a distilled_sqa"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=match):
            LitePipeline(tmp_path)
