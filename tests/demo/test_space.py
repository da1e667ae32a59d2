"""The Space: what its page says, and the page itself in a real browser."""

import csv
import dataclasses
import json
import re
import shutil
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.blocks.score_intervals import fit_score_interval
from hf_sqa.cli import app
from hf_sqa.demo import page
from hf_sqa.demo.clips import write_clips
from hf_sqa.demo.folder import models_beside, write_space
from hf_sqa.demo.scorers import Scale, Scorers
from tests.processes import PATIENCE, Child, command, free_port, wait_until

ROOT = Path(__file__).parents[2]
RATE = 16_000
CHROMIUM, CHROMEDRIVER = (shutil.which(program) for program in ("chromium", "chromedriver"))
#: No sandbox: a test may run as root. No background networking: nothing here may leave the machine.
BROWSER_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
)

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio: pip install 'hf-sqa[demo]'")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER and find_spec("selenium")),
    reason="needs Debian's chromium and chromium-driver, and selenium from PyPI",
)


@pytest.fixture(scope="module")
def scorers(tiny_folder):
    return Scorers([str(tiny_folder)], device="cpu")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of a tone of three seconds, a telephone-like short one, a silent one and a file that is no audio."""
    folder = tmp_path_factory.mktemp("recordings")
    seconds = np.arange(3 * RATE) / RATE
    tone = 0.2 * np.sin(2 * np.pi * 220 * seconds) * (1 + np.sin(2 * np.pi * 3 * seconds))
    soundfile.write(folder / "tone.wav", tone, RATE)
    soundfile.write(folder / "short.wav", tone[: RATE // 2], RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    (folder / "bad.wav").write_bytes(b"RIFF, it says, and nothing else")
    return folder


def test_a_judgement_shows_score_course_and_facts(scorers, tiny_scorer, recordings):
    html = page.judged(scorers.judge(scorers.names[0], recordings / "tone.wav"))

    assert f'<span class="sqa-value">{tiny_scorer(recordings / "tone.wav")["mos"]:.2f}</span>' in html
    assert "<svg" in html and 'class="sqa-course" data-score="mos"' in html
    assert "3.0 s · 16000 Hz · 1 channel" in html


@needs_gradio
def test_a_calibrated_model_shows_how_sure_it_is_and_another_says_how_to_get_there(scorers, make_tiny, recordings, tmp_path):
    from hf_sqa.demo.app import table_row

    generator = np.random.default_rng(0)
    scores = generator.uniform(1, 5, 60)
    calibration = fit_score_interval(scores, scores + 0.3 * generator.standard_normal(60))
    model = make_tiny(score_intervals={"mos": calibration})
    model.save_pretrained(tmp_path)
    model.make_feature_extractor().save_pretrained(tmp_path)
    calibrated = Scorers([str(tmp_path)], device="cpu")
    expected = calibrated.load(calibrated.names[0])(str(recordings / "tone.wav"), interval=0.9)

    judgement = calibrated.judge(calibrated.names[0], recordings / "tone.wav")
    row = table_row(judgement, "tone.wav")

    assert f'<span class="sqa-interval">{expected["mos_low"]:.2f} to {expected["mos_high"]:.2f}</span>' in page.judged(judgement)
    assert "for 90 % of recordings" in page.judged(judgement)
    assert {name: row[name] for name in expected} == expected
    uncalibrated = scorers.judge(scorers.names[0], recordings / "tone.wav")
    assert "<code>hf-sqa calibrate</code>" in page.judged(uncalibrated) and "sqa-interval" not in page.judged(uncalibrated)
    assert "mos_low" not in table_row(uncalibrated, "tone.wav")


def test_a_doubtful_recording_shows_its_warning(scorers, recordings):
    html = page.judged(scorers.judge(scorers.names[0], recordings / "short.wav"))

    assert re.search(r"<b>Doubtful:</b> .*<code>short</code>", html)


@pytest.mark.parametrize(
    ("name", "words", "code"), [("bad", "Could not be read", "undecodable"), ("silent", "Nothing to judge", "silent")]
)
def test_what_cannot_be_scored_shows_why_and_no_score(name, words, code, scorers, recordings):
    html = page.judged(scorers.judge(scorers.names[0], recordings / f"{name}.wav"))

    assert words in html and f"<code>{code}</code>" in html
    assert "sqa-value" not in html
    assert str(recordings) not in html


def test_a_file_name_cannot_bring_markup_into_the_page(scorers, recordings, tmp_path):
    path = tmp_path / "<img src=x onerror=alert(1)>.wav"
    shutil.copy(recordings / "tone.wav", path)

    html = page.judged(scorers.judge(scorers.names[0], path))

    assert "<img" not in html and "&lt;img" in html


@pytest.mark.parametrize(("of_b", "words"), [(2.004, "1.21 less than"), (3.5, "0.29 more than"), (3.2101, "as much as")])
def test_a_comparison_says_which_gets_more(of_b, words, scorers, recordings):
    judged = scorers.judge(scorers.names[0], recordings / "tone.wav")
    first, second = (dataclasses.replace(judged, row=judged.row | {"mos": mos}) for mos in (3.213, of_b))

    assert f"MOS: B gets {words} A" in page.compared(first, second)


def test_a_comparison_with_a_bad_file_keeps_the_good_one(scorers, recordings):
    first, second = (scorers.judge(scorers.names[0], recordings / f"{name}.wav") for name in ("tone", "bad"))

    html = page.compared(first, second)

    assert html.count("sqa-value") == 1 and "undecodable" in html and "than A" not in html


def test_two_sets_are_compared_by_file_names_and_name_what_has_no_score(scorers, recordings, tmp_path):
    sets = {name: [] for name in "ab"}
    for name, paths in sets.items():
        (tmp_path / name).mkdir()
        for index in range(6):
            paths.append(str(tmp_path / name / f"{index}.wav"))
            tone = 0.2 * np.sin(2 * np.pi * (200 + 40 * index) * np.arange(RATE) / RATE)
            soundfile.write(paths[-1], tone * np.sin(np.pi * 4 * np.arange(RATE) / RATE) ** 2, RATE)

    same = page.judged_sets(scorers, scorers.names[0], sets["a"], sets["b"])
    with_bad = page.judged_sets(scorers, scorers.names[0], sets["a"], [*sets["b"], str(recordings / "silent.wav")])

    assert "No difference is shown" in same and "6 pairs" in same and "Without a score" not in same
    assert "silent.wav of B (<code>silent</code>)" in with_bad and "6 pairs" in with_bad
    assert "Nothing can be said" in page.judged_sets(scorers, scorers.names[0], sets["a"][:2], sets["b"][:2])


def test_a_long_course_stays_blank_where_nobody_speaks():
    speech = [(at, 3.0) for at in (*range(0, 4000), *range(4600, 8000))]
    timeline = [{"start": at / 2, "end": at / 2 + 0.5, "mos": mos} for at, mos in speech]

    found = page.stretches(timeline, "mos")

    assert 200 < len(found) <= page.STRETCHES + 1
    assert max(end - start for start, end, _ in found) <= 10
    assert not [start for start, end, _ in found if start < 2300 and end > 2000]


def test_a_long_course_is_averaged_not_cut():
    timeline = [{"start": float(at), "end": float(at + 1), "mos": 1.0 if at < 800 else 5.0} for at in range(1600)]

    found = page.stretches(timeline, "mos")

    assert len(found) == page.STRETCHES
    assert (found[0][0], found[-1][1]) == (0.0, 1600.0)
    np.testing.assert_allclose([mean for _, _, mean in found], [1.0] * 200 + [5.0] * 200)


def test_a_low_distortion_is_good_and_a_low_mos_is_bad():
    mos, sdi = Scale("mos", 1, 5, is_opinion=True), Scale("sdi", 0, 1, is_opinion=False)

    assert page.colour(mos, 1.0) == page.colour(sdi, 1.0)
    assert page.colour(mos, 5.0) == page.colour(sdi, 0.0)


def test_the_words_are_those_of_the_five_point_scale():
    scale = Scale("mos", 1, 5, is_opinion=True)

    assert [page.word(scale, value) for value in (0.4, 1.49, 1.5, 2.6, 3.5, 4.5, 5.2)] == [
        *("bad", "bad", "poor", "fair", "good", "excellent", "excellent")
    ]


def test_the_table_has_the_worst_first_and_the_unscored_last(scorers, recordings):
    names = ["bad", "tone", "short"]
    judgements = [(name, scorers.judge(scorers.names[0], recordings / f"{name}.wav")) for name in names]

    order = re.findall(r'<td class="sqa-label">(\w+)</td>', page.tabled(judgements))

    assert order == [*sorted(["tone", "short"], key=lambda name: dict(judgements)[name].row["mos"]), "bad"]


def test_a_model_in_a_folder_is_shown_by_name_not_by_path(tiny_folder):
    assert Scorers([tiny_folder, tiny_folder, "org/name"]).names == [tiny_folder.name, f"{tiny_folder.name} (2)", "org/name"]


def test_a_model_nobody_offered_is_not_loaded(scorers):
    with pytest.raises(ValueError, match="Expected a model out of"):
        scorers.load("org/something-else")


def test_example_clips_are_the_same_every_time(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()

    first, second = write_clips(tmp_path / "a"), write_clips(tmp_path / "b")

    assert [Path(path).read_bytes() for path in first.values()] == [Path(path).read_bytes() for path in second.values()]


def test_the_space_in_examples_is_the_one_in_the_package():
    packaged, shown = ROOT / "hf_sqa" / "demo" / "files", ROOT / "examples" / "space"

    assert {file.name: file.read_text() for file in shown.iterdir() if file.is_file()} == {
        file.name: file.read_text() for file in packaged.iterdir() if file.is_file()
    }


def test_the_space_requires_what_the_package_requires():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "examples" / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]


def test_the_space_header_is_one_the_hub_accepts():
    from huggingface_hub import SpaceCardData
    from huggingface_hub.repocard import metadata_load

    header = metadata_load(ROOT / "examples" / "space" / "README.md")
    card = SpaceCardData(**header)

    assert (card.sdk, card.app_file, card.license) == ("gradio", "app.py", "apache-2.0")
    assert len(header["short_description"]) <= 60  # the Hub refuses more


def test_a_written_space_holds_page_package_and_checkpoint(tmp_path, tiny_folder):
    folder = write_space(tmp_path / "space", [str(tiny_folder), "org/name"])

    assert models_beside(folder / "app.py") == [str(folder / "models" / tiny_folder.name), "org/name"]
    assert (folder / "models" / tiny_folder.name / "model.safetensors").is_file()
    assert (folder / "hf_sqa" / "__init__.py").is_file() and (folder / "hf_sqa" / "assets" / "sample.flac").is_file()
    assert not list(folder.rglob("__pycache__"))
    assert [path.name for path in tmp_path.iterdir()] == ["space"]


def test_a_space_is_not_written_over_something_else(tmp_path, tiny_folder):
    (tmp_path / "kept.txt").write_text("mine")

    with pytest.raises(FileExistsError, match="new or empty folder"):
        write_space(tmp_path, [str(tiny_folder)])

    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_space_is_not_written_with_a_model_that_does_not_load(tmp_path, tiny_folder):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-1])

    with pytest.raises(OSError, match=f"The weights in '{copy}' are damaged"):
        write_space(tmp_path / "space", [str(copy)])

    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_space_is_not_written_with_an_adapter_whose_base_stays_here(tmp_path, tiny_folder):
    peft = pytest.importorskip("peft")
    model = hf_sqa.AutoModelForAudioQuality.from_pretrained(tiny_folder)
    target = next(name for name, module in model.named_modules() if type(module).__name__ == "Linear")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=1, target_modules=[target]))
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)

    with pytest.raises(ValueError, match="a folder of this machine, which the Space will not have"):
        write_space(tmp_path / "space", [str(tmp_path / "adapter")])


def test_without_gradio_the_command_says_what_to_install(nursery):
    code = "import sys; sys.modules['gradio'] = None; sys.argv = ['hf-sqa', 'demo']; from hf_sqa.cli import main; main()"
    code = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'gradio' else f(n, *a); " + code

    result = nursery.start(code)
    result.communicate()

    assert (result.returncode, result.stderr) == (2, "hf-sqa: The page needs the extra `demo`: `pip install 'hf-sqa[demo]'`.\n")


@pytest.fixture(scope="module")
def served(nursery, tiny_folder, tmp_path_factory):
    """Address of `hf-sqa demo` in a process of its own."""
    process = _start(nursery, tiny_folder, tmp_path_factory.mktemp("gradio"))
    yield _address(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()


#: Before the command: a recording is scored again and again, so that an interrupt comes before the end on any machine.
ENDLESS = """
from hf_sqa.pipelines import AudioQualityPipeline
score = AudioQualityPipeline.__call__

def endless(*arguments, **options):
    while True:
        score(*arguments, **options)
        print("scored once", flush=True)

AudioQualityPipeline.__call__ = endless
"""


@needs_gradio
@pytest.mark.slow
def test_ctrl_c_closes_the_page_with_130_even_while_it_scores(nursery, recordings, tiny_folder, tmp_path):
    process = _start(nursery, tiny_folder, tmp_path, ENDLESS)
    address = _address(process)
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    job = client.submit(handle_file(recordings / "tone.wav"), tiny_folder.name, api_name="/score")
    wait_until(lambda: "scored once" in process.so_far("stdout"), process)

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert not job.done() or job.exception() is not None
    assert process.returncode == 130
    assert errors.endswith("Closed.\n") and "Traceback" not in errors
    assert not list(tmp_path.glob("hf-sqa-*"))


@needs_gradio
def test_a_wrong_model_is_told_before_the_page_opens(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--no-browser", "--model", str(tmp_path / "nothing")])

    assert (result.exit_code, result.stdout) == (2, "")
    assert "hf-sqa: The model 'nothing' cannot be used" in result.stderr


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1200,1000"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.downloads = folder
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, served):
    """The page, freshly loaded."""
    browser.set_window_size(1200, 1000)
    browser.get(served)
    _shown(browser, "#recording input[type=file]")
    return browser


@needs_gradio
@needs_browser
@pytest.mark.slow
class TestInChromium:
    def test_an_uploaded_file_shows_its_score_and_the_plot(self, opened, recordings, tiny_scorer):
        _upload(opened, "#recording", recordings / "tone.wav")

        assert _shown(opened, "#result .sqa-value").text == f"{tiny_scorer(recordings / 'tone.wav')['mos']:.2f}"
        assert _shown(opened, "#result .sqa-file").text == "tone.wav"
        for drawing in (".sqa-wave path", ".sqa-course path", ".sqa-course rect"):
            size = _shown(opened, f"#result {drawing}").rect
            assert size["width"] > 5 and size["height"] > 0, drawing

    def test_a_bad_file_shows_the_message_of_the_error(self, opened, recordings):
        _upload(opened, "#recording", recordings / "bad.wav")

        text = _shown(opened, "#result .sqa-refused").text
        assert "libsndfile cannot read it" in text and "undecodable" in text
        assert not opened.find_elements("css selector", "#result .sqa-value")
        assert "Traceback" not in opened.page_source

    def test_an_example_is_scored_by_a_click(self, opened):
        _button(opened, "clean").click()

        assert 0 < len(_shown(opened, "#result .sqa-value").text) <= 5
        assert _shown(opened, "#result .sqa-file").text == "clean.flac"

    def test_a_recording_of_the_microphone_is_scored(self, opened):
        opened.find_element("css selector", "#recording button[aria-label='Record audio']").click()
        _shown(opened, "#recording button.record-button").click()
        time.sleep(2.5)
        _shown(opened, "#recording button.stop-button").click()

        result = _shown(opened, "#result .sqa-value, #result .sqa-refused")
        assert re.fullmatch(r"-?\d+\.\d\d", result.text), result.text

    def test_two_recordings_are_compared(self, opened, recordings):
        _tab(opened, "Compare")
        _upload(opened, "#first", recordings / "tone.wav")
        _upload(opened, "#second", recordings / "short.wav")

        assert re.match(r"MOS: B gets (as much as|\d\.\d\d (more|less) than) A", _shown(opened, "#comparison .sqa-difference").text)
        assert len(opened.find_elements("css selector", "#comparison .sqa-value")) == 2

    def test_many_files_become_a_table_and_a_csv(self, opened, recordings, tiny_scorer):
        _tab(opened, "Many")
        paths = sorted(recordings.iterdir())
        _upload(opened, "#files", *paths)
        _shown(opened, "#start").click()

        _until(lambda: "4 of 4 done, 2 without a score" in opened.find_element("css selector", "#status").text)
        assert len(opened.find_elements("css selector", "#table tbody tr")) == 4
        _shown(opened, "#download").click()
        _until(lambda: (opened.downloads / "scores.csv").exists())
        with (opened.downloads / "scores.csv").open(encoding="utf-8") as file:
            rows = {row["file"]: row for row in csv.DictReader(file)}
        assert float(rows["tone.wav"]["mos"]) == pytest.approx(tiny_scorer(recordings / "tone.wav")["mos"], abs=1e-6)
        assert (rows["bad.wav"]["mos"], rows["bad.wav"]["code"], rows["silent.wav"]["code"]) == ("", "undecodable", "silent")

    def test_a_folder_is_scored_without_what_is_no_audio(self, opened, recordings, tmp_path):
        (tmp_path / "session" / "inner").mkdir(parents=True)
        for place in ("session", "session/inner"):
            shutil.copy(recordings / "tone.wav", tmp_path / place)
        for name in (".DS_Store", "notes.txt"):
            (tmp_path / "session" / name).write_text("no audio")
        _tab(opened, "Many")
        _upload(opened, "#folder", tmp_path / "session")
        _until(lambda: "wav" in opened.find_element("css selector", "#folder").get_attribute("textContent"))
        _shown(opened, "#start").click()

        _until(lambda: "2 of 2 done." in opened.find_element("css selector", "#status").text)
        labels = [cell.text for cell in opened.find_elements("css selector", "#table .sqa-label") if cell.tag_name == "td"]
        assert sorted(labels) == ["tone (2).wav", "tone.wav"]

    def test_a_phone_scrolls_down_but_not_sideways(self, opened, recordings):
        opened.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        )
        try:
            _upload(opened, "#recording", recordings / "tone.wav")
            plot = _shown(opened, "#result .sqa-course").rect

            assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
            assert 200 < plot["width"] <= 390
        finally:
            opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_nothing_is_asked_of_another_machine(self, opened, served, recordings):
        _upload(opened, "#recording", recordings / "tone.wav")
        _shown(opened, "#result .sqa-value")

        messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
        urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        asked = {url for url in urls if url.startswith(("http", "ws"))}
        assert any(url.startswith(served) for url in asked)
        assert not [url for url in asked if not url.startswith(served)]


def _start(nursery, model: Path, folder: Path, before: str = "") -> Child:
    afresh = "import tempfile; tempfile.tempdir = None\n"  # the nursery may have looked already
    code = before + afresh + command("demo", "--no-browser", "--device", "cpu", "--port", free_port(), "--model", model)
    return nursery.start(code, GRADIO_TEMP_DIR=str(folder / "gradio"), TMPDIR=str(folder))


def _address(process: Child) -> str:
    wait_until(lambda: "\n" in process.so_far("stdout"), process)
    line = process.so_far("stdout")
    assert line.startswith("Open http://127.0.0.1:"), process.communicate()
    return line.split()[1]


def _until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the page did not get there"
        time.sleep(0.1)


def _shown(browser, selector: str):
    found = []

    def appears() -> bool:
        found[:] = browser.find_elements("css selector", selector)
        return bool(found)

    _until(appears)
    return found[0]


def _upload(browser, selector: str, *paths: Path) -> None:
    _shown(browser, f"{selector} input[type=file]").send_keys("\n".join(str(path) for path in paths))
    if len(paths) > 1:
        listed = browser.find_element("css selector", selector)
        _until(lambda: all(path.stem in listed.get_attribute("textContent") for path in paths))


def _button(browser, text: str):
    return next(one for one in browser.find_elements("css selector", "button") if one.text == text and one.is_displayed())


def _tab(browser, name: str) -> None:
    next(one for one in browser.find_elements("css selector", "button[role=tab]") if one.text == name).click()
