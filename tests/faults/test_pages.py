"""Names and requests of strangers on the demo page and in model cards: text stays text, and no address is asked."""

import concurrent.futures
import http.server
import json
import re
import shutil
import threading
import urllib.error
import urllib.request
import uuid
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_sqa.demo import page
from hf_sqa.demo.scorers import Scorers
from hf_sqa.hub.card import make_card
from tests.processes import PATIENCE

MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b | c",
    "[click](javascript:alert(1))",
    "![pixel](http://127.0.0.1:9/p.png)",
    "`code` <b>bold</b>",
    "a\n# heading\n\n---\nlicense: mit",
    "\x1b[2J\u202egnp",
    "```\n<script>x</script>",
    "{{ card_data }}{% raw %}",
    "</td></tr></table><h1>",
]


def is_harmless(text):
    """No HTML element, link, image or control character of a stranger stands in a card's prose."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    prose = re.sub(r"<!-- /?hf-sqa:\w+ -->", "", prose)
    assert not re.search(r"<[A-Za-z/!]", prose), prose
    assert not re.search(r"(?<!\\)\]\((?!https://huggingface\.co/|https?://)", prose), prose
    assert "javascript:" not in re.sub(r"\\\[.*", "", prose) and "\x1b" not in text and "\u202e" not in text
    return True


@pytest.mark.parametrize("name", MARKUP)
def test_names_in_a_card_are_text(name, tiny_folder, tmp_path):
    for file in ("config.json", "preprocessor_config.json"):
        shutil.copy(tiny_folder / file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"checkpoint_name": name}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = {"dataset": name, "split": name, "metric": "utt_srcc", "value": 0.5, "score": name, "before": 0.1}
    recipe = {"data": {"train": [{"table": name, "language": name}, {"hub": name}]}, "training": {"seed": name}}
    cost = {"seconds": 3, "device": name}

    card = make_card(
        tmp_path,
        license="other",
        license_name=name,
        license_link=name,
        base_model=name,
        recipe=recipe,
        results=[result],
        training_cost=cost,
        identity={"weights": "0" * 16, "preprocessing": "0" * 16},
        sample_scores={"mos": 3.0},
    )

    assert is_harmless(card.text)
    row = next(line for line in card.text.splitlines() if "0.500" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 8, row
    assert card.data.to_dict()["license"] == "other"


@pytest.fixture(scope="module")
def scorers(tiny_folder):
    return Scorers([str(tiny_folder)], device="cpu")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "good.wav"
    time = np.arange(16_000) / 16_000
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * 3 * time), 16_000)
    return path


@pytest.mark.parametrize("name", [name.replace("/", "\N{FRACTION SLASH}").replace("\n", " ") for name in MARKUP])
def test_names_of_files_on_the_page_are_text(name, scorers, recording, tmp_path):
    good, bad = tmp_path / f"{name}.wav", tmp_path / f"{name} bad.wav"
    shutil.copy(recording, good)
    bad.write_bytes(b"RIFF, it says")
    judged = [(path.name, scorers.judge(scorers.names[0], path)) for path in (good, bad)]

    html = page.judged(judged[0][1]) + page.judged(judged[1][1]) + page.tabled(judged) + page.compared(judged[0][1], judged[1][1])

    for element in ("<script", "<img", "<b>bold", "<h1", "onerror=alert(1)>"):
        assert element not in html


# --- The page, served

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio: pip install 'hf-sqa[demo]'")


@pytest.fixture(scope="module")
def served(scorers, tmp_path_factory):
    """Address of the page, with a limit of 200 kB for a file."""
    from gradio import utils

    from hf_sqa.demo.app import build, launch

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        assert utils.get_upload_folder()
        demo = build(scorers)
        launch(demo, server_name="127.0.0.1", quiet=True, prevent_thread_lock=True, inbrowser=False, max_file_size="200kb")
        yield demo.local_url.rstrip("/")
        demo.close(verbose=False)


@pytest.fixture(scope="module")
def neighbour():
    """A server of this machine that the page must not ask: its port, and what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            """Nothing is printed."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], asked
    server.shutdown()


def fetch(address, data=None, **headers):
    """Status and body of an answer."""
    request = urllib.request.Request(address, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def call(served, audio, model):
    """Events of a call of the page's function `score`."""
    body = json.dumps({"data": [audio, model]}).encode()
    status, answer = fetch(f"{served}/gradio_api/call/score", body, **{"Content-Type": "application/json"})
    if status != 200:
        return "event: error " + answer
    return fetch(f"{served}/gradio_api/call/score/{json.loads(answer)['event_id']}")[1]


def upload(served, name, content):
    boundary = uuid.uuid4().hex
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content
    body += f"\r\n--{boundary}--\r\n".encode()
    return fetch(f"{served}/gradio_api/upload", body, **{"Content-Type": f"multipart/form-data; boundary={boundary}"})


def file_data(path, url=None):
    return {"path": path, "url": url, "orig_name": "a.wav", "meta": {"_type": "gradio.FileData"}}


PLACES = [
    "http://127.0.0.1:{port}/a.wav",
    "http://localhost:{port}/a.wav",
    "http://[::1]:{port}/a.wav",
    "HTTP://0.0.0.0:{port}/a.wav",
]
PLACES += ["http://2130706433:{port}/a.wav", "http://169.254.169.254/latest/meta-data/", "http://example.invalid/a.wav"]
PLACES += [
    "https://huggingface.co/a.wav",
    "file:///etc/passwd",
    "/etc/passwd",
    "../../../../etc/passwd",
    "//127.0.0.1:{port}/a.wav",
]
PLACES += ["ftp://127.0.0.1/a", "hf://a/b", "\x00", "", ".", "/dev/zero", "{here}"]


@needs_gradio
@pytest.mark.parametrize("place", PLACES)
def test_a_request_that_names_another_place_gets_nothing_of_it(place, served, neighbour, scorers):
    port, asked = neighbour
    place = place.format(port=port, here=__file__)

    for audio in (file_data(place), file_data("a.wav", place), {"path": place}, place):
        answer = call(served, audio, scorers.names[0])
        assert "event: error" in answer and "event: complete" not in answer, answer
        assert "root:" not in answer and "def test_" not in answer
    assert asked == []


@needs_gradio
def test_an_address_is_refused_before_its_name_is_looked_up(served, scorers, monkeypatch):
    import socket

    asked = []
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: (asked.append(host), look_up(host, *rest, **more))[1])

    answer = call(served, file_data("http://names-of-strangers.invalid/a.wav"), scorers.names[0])

    assert "the page fetches none" in answer and not [host for host in asked if "strangers" in str(host)]


@needs_gradio
def test_files_of_this_machine_are_not_served(served, tiny_folder, neighbour):
    port, asked = neighbour

    for place in (
        "/etc/passwd",
        f"{tiny_folder}/config.json",
        __file__,
        f"http://127.0.0.1:{port}/x",
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
    ):
        for route in ("file=", "proxy=", "file/", "stream/"):
            status, answer = fetch(f"{served}/gradio_api/{route}{place}")
            assert status >= 400 and "root:" not in answer, (route, place, status)
    assert asked == []


@needs_gradio
def test_a_file_beyond_the_limit_is_not_taken(served):
    status, answer = upload(served, "long.wav", bytes(300_000))

    assert status == 413 and "maximum" in answer.lower()


@needs_gradio
@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=alert(1)>.wav", "../../../outside.wav", "a\x1b[2J.wav", "..%2f..%2foutside.wav", "a" * 300 + ".wav"],
)
def test_names_of_uploads_neither_leave_the_folder_nor_become_markup(name, served, scorers, recording, tmp_path_factory):
    status, answer = upload(served, name, recording.read_bytes())
    assert status == 200, answer
    (path,) = json.loads(answer)
    assert Path(path).resolve().is_relative_to(Path(tmp_path_factory.getbasetemp())) and not list(Path("/").glob("outside*"))

    answer = call(served, file_data(path), scorers.names[0])

    assert "event: complete" in answer and "sqa-value" in answer
    assert "<img" not in answer and "\\u001b" not in answer and "\x1b" not in answer


@needs_gradio
def test_many_requests_at_once_are_all_answered(served, scorers, recording):
    (path,) = json.loads(upload(served, "many.wav", recording.read_bytes())[1])
    requests = [file_data(path) if number % 3 else file_data("/etc/passwd") for number in range(24)]

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda audio: call(served, audio, scorers.names[0]), requests))

    assert ["event: complete" in answer for answer in answers] == [bool(number % 3) for number in range(24)]


@needs_gradio
@pytest.mark.parametrize("model", ["/etc", "org/other", "../model", "", 3, None, ["a"], "<script>"])
def test_a_model_that_is_not_offered_is_not_loaded(model, served, recording):
    (path,) = json.loads(upload(served, "model.wav", recording.read_bytes())[1])

    answer = call(served, file_data(path), model)

    assert "sqa-value" not in answer and "root:" not in answer
