"""DistilledSQA without torch: the graph and its front end, 8 bits, the pipeline on onnxruntime, the page in a browser."""

import functools
import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.audio import AudioError
from hf_sqa.cli import app
from hf_sqa.export.onnx import GRAPH_FILE, export_onnx, write_page
from tests.demo.test_space import BROWSER_FLAGS, CHROMEDRIVER, CHROMIUM
from tests.processes import PATIENCE

onnx = pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
pytest.importorskip("onnxscript", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")

ROOT = Path(__file__).parents[2]
RATE = 16_000
#: Where `.ci/run` unpacks onnxruntime-web; see docs/onnx.md.
WEB = Path(os.environ.get("HF_SQA_ONNXRUNTIME_WEB", ROOT / "build" / "onnxruntime-web"))
#: A student in small: mel bands, windows side by side.
STUDENT = {"num_mel_bins": 20, "num_conv_layers": 3, "conv_layer_channels": [4, 6, 8], "hop_samples": 10_240}
#: Large enough that 8 bits have something to round.
WIDE = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 64}

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER and find_spec("selenium") and (WEB / "ort.wasm.min.mjs").is_file()),
    reason="needs Debian's chromium and chromium-driver, selenium from PyPI, and onnxruntime-web from npm (docs/onnx.md)",
)


@pytest.fixture(scope="module", params=["student", "published"])
def model(request, make_tiny):
    model = make_tiny(3, **WIDE, **STUDENT) if request.param == "student" else make_tiny(6, **WIDE)
    with torch.no_grad():
        model.transformer.pooling.score_head.weight.mul_(0.2)  # away from the ends of the scale, where the sigmoid is flat
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def graphs(model, tmp_path_factory):
    """Folders with the graph in float32 and in 8 bits."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("float32", "int8")}
    for name, folder in folders.items():
        export_onnx(model, folder, int8=name == "int8")
    return folders


@pytest.fixture
def recordings(speech_like):
    """Shorter than a window of 0.64 s, a little longer, and of many windows."""
    return [{"array": speech_like(seconds), "sampling_rate": RATE} for seconds in (0.4, 0.7, 3.3)]


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
def test_in_8_bits_only_what_follows_the_projection_computes_in_integers(graphs, model):
    exact, narrow = (onnx.load(graphs[name] / GRAPH_FILE).graph for name in ("float32", "int8"))
    kinds = [node.op_type for node in narrow.node]
    layers = model.config.num_hidden_layers

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
    with pytest.raises(OSError, match=r"repository with an ONNX graph, got 'alice/mos', which cannot be had"):
        hf_sqa.pipeline("alice/mos", backend="onnx")


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
        *("index.html", "score.js"),
    }
    scored = CliRunner().invoke(app, ["score", str(tmp_path / "speech.wav"), "--model", str(tmp_path / "graph"), "--output", "-"])
    assert scored.exit_code == 0, scored.output
    assert '"mos"' in scored.stdout


def test_the_page_needs_nothing_from_elsewhere():
    for name in ("index.html", "score.js"):
        text = (ROOT / "hf_sqa" / "export" / "browser" / name).read_text(encoding="utf-8")
        assert "http://" not in text and "https://" not in text


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_page_cuts_the_windows_that_python_cuts(make_tiny, tmp_path):
    model = make_tiny(hop_samples=3_200)
    lengths = [1, 4_000, 10_240, 10_241, 13_440, 13_441, 50_000, 160_000, 1_234_567]
    source = (ROOT / "hf_sqa" / "export" / "browser" / "score.js").read_text(encoding="utf-8")
    begin = source.index("export function windowStarts")
    function = source[begin : source.index("\n}\n", begin) + 3].removeprefix("export ")
    script = f"{function}\nconsole.log(JSON.stringify({lengths}.map((n) => windowStarts(n, 10240, 3200))));"

    found = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    assert json.loads(found) == [model.window_starts(length).tolist() for length in lengths]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_page_reads_the_rate_of_a_recording_from_its_header(tmp_path):
    rates = {"wav": 22_050, "flac": 44_100, "ogg": 32_000, "mp3": 24_000}
    for suffix, rate in rates.items():
        soundfile.write(tmp_path / f"speech.{suffix}", 0.1 * np.random.default_rng(0).standard_normal(rate), rate)
    source = (ROOT / "hf_sqa" / "export" / "browser" / "score.js").read_text(encoding="utf-8")
    begin = source.index("export function nativeRate")
    function = source[begin : source.index("\n}\n", begin) + 3].removeprefix("export ")
    read = f"{list(rates)}.map((suffix) => nativeRate(require('fs').readFileSync('speech.' + suffix)))"

    found = subprocess.run(
        ["node", "-e", f"{function}\nconsole.log(JSON.stringify({read}));"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    ).stdout

    assert json.loads(found) == list(rates.values())


@pytest.fixture(scope="module")
def page(graphs):
    """`page(precision)`: address of the page with this graph, served on loopback."""
    servers = []

    def serve(precision: str) -> str:
        folder = graphs[precision]
        if not (folder / "onnxruntime-web").exists():
            write_page(hf_sqa.pipeline(str(folder)).model, folder)
            (folder / "onnxruntime-web").symlink_to(WEB)
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@needs_browser
@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_page_gives_pythons_score_and_refuses_what_the_gate_refuses(
    browser, page, graphs, precision, recordings, speech_like, tmp_path
):
    voice = speech_like(2.0)
    files = {f"{index}.wav": recording["array"] for index, recording in enumerate(recordings)}
    files |= {"two.flac": np.stack([voice, 0.3 * voice], axis=1)}
    files |= {"silent.wav": np.zeros(RATE), "too_short.wav": voice[:4000], "channels_cancel.wav": np.stack([voice, -voice], axis=1)}
    for name, samples in files.items():
        soundfile.write(tmp_path / name, samples, RATE)
    soundfile.write(tmp_path / "48000.flac", speech_like(2.0, 48_000), 48_000)
    soundfile.write(tmp_path / "8000.wav", speech_like(2.0, 8_000), 8_000)
    (tmp_path / "undecodable.wav").write_bytes(b"RIFF, it says, and nothing else")
    python = hf_sqa.pipeline(str(graphs[precision]))
    browser.get(page(precision))

    for name in ("0.wav", "1.wav", "2.wav", "two.flac", "48000.flac", "8000.wav"):
        shown = _scored(browser, tmp_path / name)
        expected = python(str(tmp_path / name))["mos"]
        assert json.loads(shown.get_attribute("data-scores"))["mos"] == pytest.approx(expected, abs=0.01), name
        assert shown.text == f"{json.loads(shown.get_attribute('data-scores'))['mos']:.2f}"
    for code in ("silent", "too_short", "channels_cancel", "undecodable"):
        assert _scored(browser, tmp_path / f"{code}.wav").text == ""
        assert f"[{code}]" in browser.find_element("id", "state").text


def _scored(browser, path: Path):
    """Give the page a file, and wait until it is done with it."""
    chooser = browser.find_element("id", "file")
    deadline = time.monotonic() + PATIENCE
    while not chooser.is_enabled():
        assert time.monotonic() < deadline, browser.find_element("id", "state").text
        time.sleep(0.05)
    chooser.send_keys(str(path))
    while browser.find_element("css selector", "body").get_attribute("data-done") != path.name:
        assert time.monotonic() < deadline, browser.find_element("id", "state").text
        time.sleep(0.05)
    return browser.find_element("id", "score")


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
