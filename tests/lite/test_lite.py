"""Scores without torch: `hf_sqa.lite` in processes where torch and transformers cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.blocks.score_intervals import fit_score_interval
from hf_sqa.cli import app
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
def mapped(make_tiny, once):
    """A student in small, with a score mapping: its weights and its graph."""
    from hf_sqa.export.onnx import export_onnx

    def fill(folder):
        options = {"num_mel_bins": 20, "num_conv_layers": 3, "conv_layer_channels": [4, 6, 8], "hop_samples": 10_240}
        model = make_tiny(3, **options, score_mapping={"mos": [1.0, 5.0, 0.5, 0.8]})
        model.save_pretrained(folder / "weights")
        model.make_feature_extractor().save_pretrained(folder / "weights")
        export_onnx(model, folder / "graph")

    return once("lite-student", fill)


@pytest.fixture(scope="module")
def checkpoint(mapped):
    return mapped / "weights"


@pytest.fixture(scope="module")
def graph(mapped):
    return mapped / "graph"


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


@pytest.mark.slow
def test_the_command_score_gives_the_table_and_rows_of_a_graph_without_torch(graph, recordings, tmp_path):
    program = (
        "import sys\n"
        "class Refusing:\n"  # SciPy takes a None in sys.modules for the package
        "    def find_spec(self, name, *_):\n"
        f"        if name in {BLOCKED[:4]!r}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refusing())\n"
        "sys.argv = ['hf-sqa', 'score', '--backend', 'onnx', *sys.argv[1:]]\n"
        "from hf_sqa.cli import main\n"
        "main()"
    )

    result = run("-c", program, "--model", graph, "--output", tmp_path / "rows.jsonl", "--segments", *recordings)

    assert result.returncode == 1, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["code"] for row in rows] == [None, None, None, "silent", "undecodable"]
    expected = LitePipeline(graph, num_threads=1)([str(path) for path in recordings[:3]], return_segments=True)
    for row, same in zip(rows, expected, strict=False):
        assert row["mos"] == pytest.approx(same["mos"], abs=1e-5)
        assert len(row["segments"]) == len(same["segments"])
    assert "Worst: " in result.stdout and "2 of 5 recordings could not be scored" in result.stderr


@pytest.mark.slow
def test_without_torch_the_course_is_that_of_torch(page_of_xs, speech_like, tmp_path):
    waveform = np.concatenate([speech_like(9.0), np.zeros(3 * RATE, np.float32), speech_like(4.0)])
    waveform[5 * RATE : 7 * RATE] += np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    for name, seconds in (("long", 16), ("short", 2)):
        soundfile.write(tmp_path / f"{name}.wav", waveform[: seconds * RATE], RATE)
    code = BLOCK + (
        "import json, hf_sqa.lite\n"
        "score = hf_sqa.lite.pipeline(sys.argv[1], num_threads=1)\n"
        "print(json.dumps(score(sys.argv[2:], return_timeline=True)))\n"
    )
    recordings = [tmp_path / "long.wav", tmp_path / "short.wav"]

    result = run("-c", code, page_of_xs, *recordings)

    assert result.returncode == 0, result.stderr
    expected = hf_sqa.pipeline("distilled-sqa-xs", device="cpu")([str(path) for path in recordings], return_timeline=True)
    for by_lite, by_torch in zip(json.loads(result.stdout.splitlines()[-1]), expected, strict=True):
        assert list(by_lite) == list(by_torch) and len(by_lite["timeline"]) == len(by_torch["timeline"]) > 3
        for point, same in zip(by_lite["timeline"], by_torch["timeline"], strict=True):
            assert point == pytest.approx(same, abs=1e-4)
        assert by_lite["worst"] == pytest.approx(by_torch["worst"], abs=0.01)


@pytest.mark.slow
def test_the_command_prints_a_timeline_by_a_graph_and_says_what_it_lacks_without(page_of_xs, graph, recordings):
    printed = CliRunner().invoke(app, ["score", str(recordings[1]), "--backend", "onnx", "--model", str(page_of_xs), "--timeline"])
    refused = CliRunner().invoke(app, ["score", str(recordings[1]), "--backend", "onnx", "--model", str(graph), "--timeline"])
    lines = run("-m", "hf_sqa.lite", page_of_xs, recordings[1], "--timeline", "--threads", "1").stdout.splitlines()

    assert printed.exit_code == 0 and "0.50 to 1.00 s" in printed.stdout and " at " in printed.stdout
    assert refused.exit_code == 2 and "`hf-sqa export onnx --page` writes them" in refused.stderr
    assert [point["start"] for point in json.loads(lines[0])["timeline"]][:2] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "a.png", "--model", "graph"], "--plot does not go with --backend onnx"),
        (["--device", "cpu", "--model", "graph"], "--device does not go with --backend onnx"),
        ([], "needs a folder with a graph as --model"),
        (["--model", "graph"], "Expected a folder with an ONNX graph, got 'graph'"),
    ],
)
def test_the_command_refuses_what_a_graph_cannot_do(options, message):
    result = CliRunner().invoke(app, ["score", "a.wav", "--backend", "onnx", *options])

    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.slow
def test_an_interval_is_that_of_the_pipeline_and_refused_without_a_calibration(graph, tmp_path, speech_like):
    recording = {"array": speech_like(2.0), "sampling_rate": RATE}
    with pytest.raises(ValueError, match=r"this one has none: `hf-sqa calibrate"):
        LitePipeline(graph)(recording, interval=0.9)
    for file in ("model.onnx", "preprocessor_config.json"):
        (tmp_path / file).write_bytes((graph / file).read_bytes())
    generator = np.random.default_rng(0)
    scores = generator.uniform(1, 5, 60)
    calibration = fit_score_interval(scores, scores + 0.3 * generator.standard_normal(60))
    config = json.loads((graph / "config.json").read_text()) | {"score_intervals": {"mos": calibration}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    lite = LitePipeline(tmp_path)
    row = lite(recording, interval=0.8, on_error="row")

    assert row == pytest.approx(hf_sqa.pipeline(str(tmp_path), backend="onnx")(recording, interval=0.8, on_error="row"), abs=1e-4)
    assert list(row)[:3] == lite.columns(0.8) == ["mos", "mos_low", "mos_high"]
    assert row["mos_low"] < row["mos"] < row["mos_high"]
    with pytest.raises(ValueError, match="the calibration's 60 clips are too few for other intervals"):
        lite.columns(0.999)


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
