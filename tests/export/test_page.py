"""The page in a browser: scores, intervals and course of files and of the microphone, beside Python's."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hf_sqa
from hf_sqa.blocks import faults
from hf_sqa.blocks.faults import Fault
from hf_sqa.blocks.timeline import EDGE_SHARE, UNNAMED_DEPTH, named_faults, worst_of
from hf_sqa.cells import clock
from hf_sqa.export.page import PAGE_FILES, write_page
from tests.demo.test_space import BROWSER_FLAGS, CHROMEDRIVER, CHROMIUM
from tests.processes import PATIENCE

pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
pytest.importorskip("onnxscript", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")

ROOT = Path(__file__).parents[2]
BROWSER = ROOT / "hf_sqa" / "export" / "browser"
SAMPLE, PACKET_LOSS = ROOT / "hf_sqa" / "assets" / "sample.flac", ROOT / "examples" / "packet_loss.flac"
NAMES_OF_COURSE = "namedFaults, rowsOf, stretchesOf, worstOf"
RATE = 16_000
#: Where `.ci/run` unpacks onnxruntime-web; see docs/onnx.md.
WEB = Path(os.environ.get("HF_SQA_ONNXRUNTIME_WEB", ROOT / "build" / "onnxruntime-web"))

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER and find_spec("selenium") and (WEB / "ort.wasm.min.mjs").is_file()),
    reason="needs Debian's chromium and chromium-driver, selenium from PyPI, and onnxruntime-web from npm (docs/onnx.md)",
)


def test_the_page_needs_nothing_from_elsewhere():
    for name in PAGE_FILES:
        text = (BROWSER / name).read_text(encoding="utf-8").replace('"http://www.w3.org/2000/svg"', "")  # a name, fetched by nobody
        assert "http://" not in text and "https://" not in text


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_page_cuts_the_windows_that_python_cuts(make_tiny, tmp_path):
    model = make_tiny(hop_samples=3_200)
    lengths = [1, 4_000, 10_240, 10_241, 13_440, 13_441, 50_000, 160_000, 1_234_567]
    source = (BROWSER / "score.js").read_text(encoding="utf-8")
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
    source = (BROWSER / "score.js").read_text(encoding="utf-8")
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


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_page_says_of_a_course_what_python_says(tmp_path):
    generator = np.random.default_rng(0)
    timelines = [[{"start": 0.0, "end": 0.5, "mos": 2.0}], []]
    for length in (2, 7, 40, 41):
        scores = 3.5 + 0.3 * generator.standard_normal(length)
        scores[length // 3 : length // 2] -= 1.5
        rows = [{"start": at / 2, "end": at / 2 + 0.5, "mos": float(score)} for at, score in enumerate(scores)]
        timelines += [rows, [row for at, row in enumerate(rows) if at % 9 != 4]]  # the same with silence in it
    told = [Fault(0.0, 1.1, "gap"), Fault(9.0, 9.4, "noise")]
    points = [[{"start": row["start"], "end": row["end"], "scores": {"mos": row["mos"]}} for row in rows] for rows in timelines]
    given = [[vars(fault) for fault in told], []]
    settings = {"edge_share": EDGE_SHARE, "unnamed_depth": UNNAMED_DEPTH}

    found = _in_node(
        tmp_path,
        f"{json.dumps(points)}.map((points) => rowsOf(points, 'mos')).map((rows) => [worstOf(rows, {EDGE_SHARE}), "
        f"...{json.dumps(given)}.map((faults) => namedFaults(rows, faults, {json.dumps(settings)}))])",
    )

    for rows, (worst, *named) in zip(timelines, found, strict=True):
        expected = worst_of(rows, "mos")
        assert (worst is None) == (expected is None)
        if worst is not None:
            _same_stretch(worst, expected)
        for of_page, of_python in zip(named, (named_faults(rows, told, "mos"), named_faults(rows, [], "mos")), strict=True):
            assert [fault["kind"] for fault in of_page] == [fault["kind"] for fault in of_python]
            for fault, row in zip(of_page, of_python, strict=True):
                _same_stretch(fault, row)
    assert {fault["kind"] for _, *named in found for each in named for fault in each} == {"gap", "noise", "other"}


def _same_stretch(found, expected):
    assert [found["start"], found["end"]] == pytest.approx([expected["start"], expected["end"]], abs=0.01)
    assert found["value"] == expected["mos"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_page_joins_what_the_network_decided_as_python_does(tmp_path):
    generator = np.random.default_rng(0)
    decided = []
    for length in (1, 4, 5, 60, 300):
        of_any = 0.5 + 0.499 * np.sin(np.cumsum(generator.uniform(0, 0.4, length)))
        kinds = generator.dirichlet(np.ones(len(faults.KINDS)), length)
        decided.append(np.concatenate([1 - of_any[:, None], of_any[:, None] * kinds], axis=1))
    settings = {name.lower(): getattr(faults, name) for name in
                ("KINDS", "STEP_SECONDS", "SMOOTH_STEPS", "JOIN_STEPS", "CERTAIN", "REACHES")}  # fmt: skip

    found = _in_node(
        tmp_path, f"{json.dumps([each.tolist() for each in decided])}.map((each) => stretchesOf(each, {json.dumps(settings)}))"
    )

    expected = [faults.stretches(each) for each in decided]
    assert sum(map(len, expected)) > 4
    for of_page, of_python in zip(found, expected, strict=True):
        assert [fault["kind"] for fault in of_page] == [fault.kind for fault in of_python]
        ends = [[fault.start, fault.end] for fault in of_python]
        assert np.array([[fault["start"], fault["end"]] for fault in of_page]).ravel() == pytest.approx(np.ravel(ends))


def _in_node(folder: Path, expression: str):
    """What an expression of the page's course.js is worth."""
    shutil.copy(BROWSER / "course.js", folder / "course.mjs")
    script = f"import {{ {NAMES_OF_COURSE} }} from './course.mjs';\nconsole.log(JSON.stringify({expression}));"
    (folder / "script.mjs").write_text(script, encoding="utf-8")
    command = ["node", "script.mjs"]
    return json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout)


@pytest.fixture(scope="module")
def page(graphs, serve, tmp_path_factory):
    """`page(precision)`: address of the page with this graph of a model without a head, served on loopback."""
    place = tmp_path_factory.mktemp("pages")

    def address(precision: str) -> str:
        folder = place / precision
        if not folder.exists():
            shutil.copytree(graphs[precision], folder)
            write_page(hf_sqa.pipeline(str(folder)).model, folder)
        return serve(folder)

    return address


@pytest.fixture(scope="module")
def xs_page(serve, page_of_xs, tmp_path_factory):
    """Address of the page with the smallest student."""
    return serve(shutil.copytree(page_of_xs, tmp_path_factory.mktemp("xs") / "page"))


@pytest.fixture(scope="module")
def serve():
    servers = []

    def address(folder: Path) -> str:
        if not (folder / "onnxruntime-web").exists():
            (folder / "onnxruntime-web").symlink_to(WEB)
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/"

    yield address
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Its microphone hears the packaged sample again and again; `not-this-machine.test` is this machine by a name it distrusts."""
    from selenium import webdriver

    folder = tmp_path_factory.mktemp("profile")
    samples, rate = soundfile.read(SAMPLE)
    soundfile.write(folder / "microphone.wav", samples, rate)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    heard = f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}"
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={folder}", heard, "--host-resolver-rules=MAP not-this-machine.test 127.0.0.1"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


@needs_browser
@pytest.mark.slow
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
        expected = python(str(tmp_path / name), return_timeline=True)
        assert json.loads(shown.get_attribute("data-scores"))["mos"] == pytest.approx(expected["mos"], abs=0.01), name
        _same_course(_course(browser), expected, tolerance=0.02)
        assert "hf-sqa calibrate" in browser.find_element("id", "remark").text
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


def _course(browser) -> dict:
    return json.loads(browser.find_element("id", "picture").get_attribute("data-course"))


def _same_course(course, expected, tolerance):
    """The curve of the page is that of a row with its timeline, and so is the worst stretch, which is timed in the picture."""
    assert len(course["points"]) == len(expected["timeline"])
    for point, row in zip(course["points"], expected["timeline"], strict=True):
        assert [point["start"], point["end"]] == pytest.approx([row["start"], row["end"]], abs=1e-3)
        assert point["scores"]["mos"] == pytest.approx(row["mos"], abs=tolerance)
    if expected["worst"] is not None:
        assert course["worst"]["value"] == pytest.approx(expected["worst"]["mos"], abs=tolerance)
    assert [fault["kind"] for fault in course["faults"]] == [fault["kind"] for fault in expected["faults"]]
    for fault, row in zip(course["faults"], expected["faults"], strict=True):
        assert [fault["start"], fault["end"]] == pytest.approx([row["start"], row["end"]], abs=0.1)
        assert fault["value"] == pytest.approx(row["mos"], abs=tolerance)


@pytest.mark.slow
def test_the_pages_graph_decides_on_faults_as_python_does_in_digital_silence_too(make_tiny, tmp_path):
    import onnxruntime

    samples, _ = soundfile.read(PACKET_LOSS, dtype="float32")
    samples = np.concatenate([samples[: 4 * RATE], np.zeros(2 * RATE, np.float32)])[: 73 * 1280]
    write_page(make_tiny(), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "faults.onnx", providers=["CPUExecutionProvider"])

    for part in (samples, samples[:1280], np.zeros(2560, np.float32)):
        (found,) = session.run(["decided"], {"input_values": part.reshape(-1, 1280)})

        assert found == pytest.approx(faults.decisions(faults.load_network(), faults.frame_features(part)), abs=1e-4)


@needs_browser
@pytest.mark.slow
def test_the_page_shows_course_worst_stretch_faults_and_interval_as_python_has_them(browser, xs_page, tmp_path):
    python = hf_sqa.pipeline("distilled-sqa-xs", device="cpu", interval=0.9)
    samples, _ = soundfile.read(PACKET_LOSS, dtype="float32")
    long = np.tile(samples, 5)  # longer than a segment of the fault finder
    long[36 * RATE : 38 * RATE] += 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
    soundfile.write(tmp_path / "noise.wav", long, RATE)
    browser.get(xs_page)

    for recording in (PACKET_LOSS, SAMPLE, tmp_path / "noise.wav"):
        _scored(browser, recording)
        course, expected = _course(browser), python(str(recording), return_timeline=True)
        _same_course(course, expected, tolerance=0.002)
        worst = expected["worst"]
        assert [course["worst"]["start"], course["worst"]["end"]] == pytest.approx([worst["start"], worst["end"]], abs=0.02)
        ends = [course["interval"]["low"], course["interval"]["high"]]
        assert ends == pytest.approx([expected["mos_low"], expected["mos_high"]], abs=0.01)
        picture = browser.find_element("id", "picture")
        words = f"worst: {course['worst']['value']:.1f} from {course['worst']['start']:.1f} s to {course['worst']['end']:.1f} s"
        assert words in picture.text
        assert "3 fair" in picture.text and python.local_method in picture.text
        assert len(picture.find_elements("css selector", "circle")) == len(course["points"])
        assert f"Between {ends[0]:.2f} and {ends[1]:.2f} for 90 %" in browser.find_element("id", "remark").text
        told = browser.find_element("id", "faults").text
        for fault in expected["faults"]:
            assert f"{fault['kind']} from {clock(fault['start'])} to {clock(fault['end'])}" in told
        assert expected["faults"] or told == "No fault stands out."
    assert "noise" in [fault["kind"] for fault in expected["faults"]]


FEED = """
const [portions, rate, done] = [arguments[0], arguments[1], arguments[arguments.length - 1]];
(async () => {
  const { load } = await import("./score.js"), { LiveMeter } = await import("./live.js");
  const meter = new LiveMeter(await load(), rate), points = [];
  for (const portion of portions) points.push(...(await meter.feed(Float32Array.from(portion))));
  points.push(...(await meter.close()));
  done({ points, worst: meter.worst });
})().catch((error) => done(String(error)));
"""


@needs_browser
@pytest.mark.slow
def test_samples_in_portions_get_on_the_page_what_the_meter_gives(browser, xs_page):
    samples, _ = soundfile.read(PACKET_LOSS, dtype="float32")
    samples = np.concatenate([samples[: 4 * RATE], np.zeros(2 * RATE, np.float32)])  # at the end nobody speaks
    meter = hf_sqa.QualityMeter("distilled-sqa-xs", sampling_rate=12_000, device="cpu")  # as if at another rate
    expected = [*meter.feed(samples), *meter.close()]
    browser.get(xs_page)

    found = browser.execute_async_script(FEED, [part.tolist() for part in np.array_split(samples, 7)], 12_000)

    assert None in [row["mos"] for row in expected]
    assert len(found["points"]) == len(expected)
    for point, row in zip(found["points"], expected, strict=True):
        assert [point["start"], point["end"]] == pytest.approx([row["start"], row["end"]], abs=1e-3)
        assert (point["scores"] or {}).get("mos") == pytest.approx(row["mos"], abs=0.01)
        assert (point["running"] or {}).get("mos") == pytest.approx(row["running"], abs=0.01)
    worst = worst_of([row for row in expected if row["mos"] is not None], "mos")
    assert [found["worst"][name] for name in ("start", "end", "value")] == pytest.approx(list(worst.values()), abs=0.05)


@needs_browser
@pytest.mark.slow
def test_the_microphone_draws_a_curve_that_grows_until_it_is_stopped(browser, xs_page):
    python = hf_sqa.pipeline("distilled-sqa-xs", device="cpu")(str(SAMPLE), return_timeline=True)
    lowest, highest = (of(row["mos"] for row in python["timeline"]) for of in (min, max))
    browser.get(xs_page)
    button, picture = browser.find_element("id", "microphone"), browser.find_element("id", "picture")
    _until(browser, button.is_enabled)

    button.click()
    _until(browser, lambda: len(json.loads(picture.get_attribute("data-course") or '{"points": []}')["points"]) >= 4)
    _until(browser, lambda: picture.find_elements("css selector", "circle"))
    course, shown = _course(browser), browser.find_element("id", "score").text
    told = browser.find_element("id", "faults").text
    button.click()
    _until(browser, lambda: "microphone is off" in browser.find_element("id", "state").text)

    scores = [point["scores"]["mos"] for point in course["points"]]
    assert lowest - 0.7 < min(scores) and max(scores) < highest + 0.7  # the sample from anywhere on
    assert 1 <= float(shown) <= 5
    assert course["worst"]["value"] == pytest.approx(min(scores))
    assert told.startswith("Worst so far: ")
    assert browser.find_element("id", "file").is_enabled()


@needs_browser
@pytest.mark.slow
def test_where_browsers_give_no_microphone_the_page_says_why_and_takes_files(browser, xs_page):
    browser.get(xs_page.replace("127.0.0.1", "not-this-machine.test"))
    _until(browser, browser.find_element("id", "file").is_enabled)

    assert not browser.find_element("id", "microphone").is_enabled()
    assert "needs a page from https or from localhost" in browser.find_element("id", "state").text
    assert float(_scored(browser, SAMPLE).text) == pytest.approx(
        hf_sqa.pipeline("distilled-sqa-xs", device="cpu")(str(SAMPLE))["mos"], abs=0.02
    )


def _until(browser, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, browser.find_element("id", "state").text
        time.sleep(0.05)
