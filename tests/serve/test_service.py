"""The service: its rows, its status codes, its limits, and what happens when decoders die, clients lie and many come at once."""

import asyncio
import io
import json
import os
import signal
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="needs the extra serve: pip install 'hf-sqa[serve]'")
pytest.importorskip("prometheus_client", reason="needs the extra serve: pip install 'hf-sqa[serve]'")

import httpx
from fastapi.testclient import TestClient

import hf_sqa
from hf_sqa.blocks.score_intervals import fit_score_interval
from hf_sqa.scoring import Settings
from hf_sqa.serve.app import HTTP_STATUS, create_app
from hf_sqa.serve.service import Limits, Service
from hf_sqa.serve.urls import RefusedURL, fetch
from tests.processes import PATIENCE, command, free_port, heed_interrupts, wait_until

RATE = 16_000
LIMITS = Limits(max_bytes=400_000, max_seconds=8.0, timeout_seconds=300.0, max_files=4)


def encoded(waveform):
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE, format="WAV")
    return file.getvalue()


@pytest.fixture
def clip(speech_like):
    return encoded(speech_like(1.5))


@pytest.fixture(scope="module")
def service(tiny_scorer):
    return Service(Settings(), LIMITS, num_decoders=2, scorer=tiny_scorer)


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_app(service)) as client:
        yield client


def post(client, content, path="/score", name="call.wav", **options):
    return client.post(path, files={"file": (name, content)}, **options)


def test_a_row_has_the_score_that_the_pipeline_gives(client, tiny_scorer, clip):
    answer = post(client, clip)

    assert answer.status_code == 200
    row = answer.json()
    assert row["mos"] == pytest.approx(tiny_scorer(clip)["mos"], abs=1e-5)
    assert list(row) == ["file", "mos", "status", "code", "reason", "warnings", "duration_seconds", "sampling_rate"]
    assert (row["file"], row["status"], row["duration_seconds"], row["sampling_rate"]) == ("call.wav", "ok", 1.5, RATE)


def test_segments_come_when_they_are_asked_for(client, tiny_scorer, clip):
    row = post(client, clip, params={"segments": True}).json()

    assert [segment["start"] for segment in row["segments"]] == [
        segment["start"] for segment in tiny_scorer(clip, return_segments=True)["segments"]
    ]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "empty"),
        (b"this is no audio, whatever its name says", 415, "undecodable"),
        (encoded(np.zeros(RATE, np.float32)), 422, "silent"),
        (encoded(np.full(800, 0.1, np.float32)), 422, "too_short"),
        (encoded(np.full(2 * RATE, 0.1, np.float32))[:-20_000], 422, "truncated"),
        (encoded(np.random.default_rng(0).normal(0, 0.1, 9 * RATE)), 413, "too_long"),
        (bytes(500_000), 413, "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_scored_is_a_row_with_its_reason_and_a_fitting_status(client, content, status, code):
    answer = post(client, content)

    row = answer.json()
    assert (answer.status_code, row["code"], row["mos"]) == (status, code, None)
    assert row["reason"] and row["status"] != "ok"


def test_a_body_that_does_not_say_its_size_is_stopped_at_the_limit(client):
    boundary = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    answer = client.post(
        "/score",
        content=iter([boundary, *[bytes(100_000)] * 20]),
        headers={"Content-Type": "multipart/form-data; boundary=x", "Transfer-Encoding": "chunked"},
    )

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("data", [{}, {"other": "a"}], ids=["nothing", "another field"])
def test_a_request_without_a_recording_is_told_what_is_expected(client, data):
    answer = client.post("/score", data=data)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "`file` or `url`" in answer.json()["reason"]


@pytest.mark.parametrize("path", ["/score", "/timeline"])
def test_two_recordings_where_one_is_scored_are_refused_not_dropped(client, clip, path):
    answer = client.post(path, files=[("file", ("first.wav", clip)), ("file", ("second.wav", clip))])

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "expected one recording" in answer.json()["reason"] and "got 2" in answer.json()["reason"]
    assert client.post(path, files={"file": ("call.wav", clip)}, data={"url": "http://127.0.0.1/"}).status_code == 400


def test_a_batch_has_a_row_each_in_order_and_a_bad_one_costs_no_other(client, tiny_scorer, clip, speech_like):
    other = encoded(speech_like(2.0))
    files = [("files", (name, content)) for name, content in (("a.wav", clip), ("b.wav", b"no audio"), ("c.wav", other))]

    answer = client.post("/score/batch", files=files)

    rows = answer.json()
    assert answer.status_code == 200
    assert [(row["file"], row["code"]) for row in rows] == [("a.wav", None), ("b.wav", "undecodable"), ("c.wav", None)]
    assert [rows[0]["mos"], rows[2]["mos"]] == pytest.approx([tiny_scorer(clip)["mos"], tiny_scorer(other)["mos"]], abs=1e-5)


@pytest.fixture(scope="module")
def calibrated(make_tiny):
    """A client of a model with calibrated intervals, and the pipeline of that model."""
    generator = np.random.default_rng(0)
    scores = generator.uniform(1, 5, 60)
    calibration = fit_score_interval(scores, scores + 0.3 * generator.standard_normal(60))
    model = make_tiny(score_intervals={"mos": calibration})
    scorer = hf_sqa.AudioQualityPipeline(model=model, feature_extractor=model.make_feature_extractor(), device="cpu")
    with TestClient(create_app(Service(Settings(), LIMITS, scorer=scorer))) as client:
        yield client, scorer


def test_an_interval_that_is_asked_for_is_that_of_the_pipeline(calibrated, clip):
    client, scorer = calibrated
    expected = scorer(clip, interval=0.8)

    row = post(client, clip, params={"interval": 0.8}).json()
    files = [("files", ("a.wav", clip)), ("files", ("b.wav", b"no audio"))]
    scored, refused = client.post("/score/batch", files=files, params={"interval": 0.8}).json()
    without = post(client, clip).json()

    for found in (row, scored):
        assert list(found)[:4] == ["file", "mos", "mos_low", "mos_high"]
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert (refused["code"], refused["mos_low"], refused["mos_high"]) == ("undecodable", None, None)
    assert "mos_low" not in without


def test_an_interval_that_cannot_be_had_is_refused_with_the_way_to_one(client, calibrated, clip):
    uncalibrated = post(client, clip, params={"interval": 0.9})
    batch = client.post("/score/batch", files=[("files", ("a.wav", clip))], params={"interval": 0.9})
    too_sure = post(calibrated[0], clip, params={"interval": 0.99})
    no_share = post(calibrated[0], clip, params={"interval": 90})

    for answer in (uncalibrated, batch, too_sure, no_share):
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "hf-sqa calibrate" in uncalibrated.json()["reason"] and "hf-sqa calibrate" in batch.json()["reason"]
    assert "the calibration's 60 clips are too few for other intervals" in too_sure.json()["reason"]


def test_a_batch_of_too_many_is_refused(client, clip):
    answer = client.post("/score/batch", files=[("files", (f"{index}.wav", clip)) for index in range(5)])

    assert (answer.status_code, answer.json()["code"]) == (413, "too_many")


def events(text):
    for block in text.strip().split("\n\n"):
        if not block.startswith(":"):
            kind, data = block.split("\n")
            yield kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_the_timeline_is_a_stream_of_points_that_ends_in_the_row(client, clip):
    expected = post(client, clip, params={"timeline": True}).json()
    answer = post(client, clip, "/timeline")

    assert answer.headers["content-type"].startswith("text/event-stream")
    *points, (kind, row) = events(answer.text)
    assert len(points) > 1 and {name for name, _ in points} == {"point"} and kind == "row"
    assert [(point["start"], point["end"]) for _, point in points] == [
        (point["start"], point["end"]) for point in expected.pop("timeline")
    ]
    assert all(point["end"] <= 1.5 and 1 <= point["mos"] <= 5 for _, point in points)
    assert row["mos"] == pytest.approx(expected["mos"], abs=1e-5) and list(row) == list(expected)
    assert row["worst"] == pytest.approx(expected["worst"], abs=1e-5)


def test_a_timeline_of_what_cannot_be_scored_is_the_row_with_its_status(client):
    answer = post(client, b"no audio", "/timeline")

    assert (answer.status_code, answer.json()["code"]) == (415, "undecodable")


def test_health_names_the_model_and_metrics_count(client, clip):
    post(client, clip)
    post(client, b"no audio")

    health, metrics = client.get("/health"), client.get("/metrics").text

    assert health.status_code == 200
    assert (health.json()["status"], health.json()["scores"]) == ("ok", ["mos"])
    assert len(health.json()["model"]["weights"]) == 16
    assert 'hf_sqa_recordings_total{code="",status="ok"}' in metrics
    assert 'hf_sqa_recordings_total{code="undecodable",status="failed"}' in metrics
    assert 'hf_sqa_requests_total{http_status="415",path="/score"}' in metrics


def test_what_is_counted_is_told_as_it_happens_not_when_somebody_asks(tiny_scorer, clip):
    service, sizes, waiting = Service(Settings(), LIMITS, scorer=tiny_scorer), [], []
    with TestClient(create_app(service)) as client:
        service.on_batch, service.on_waiting = sizes.append, waiting.append
        post(client, clip)
        post(client, b"no audio")

    assert (sizes, waiting) == ([1], [1, 0, 1, 0])


def test_a_wrong_method_is_told_the_right_one(client):
    answer = client.get("/score")

    assert (answer.status_code, answer.headers["allow"], answer.json()["code"]) == (405, "POST", "bad_request")


def test_the_description_names_every_route_and_status(client):
    paths = client.get("/openapi.json").json()["paths"]

    assert set(paths) == {"/score", "/score/batch", "/timeline", "/health", "/metrics"}
    assert {int(status) for status in paths["/score"]["post"]["responses"]} >= {200, 422, *set(HTTP_STATUS.values()) - {500}}
    assert client.get("/docs").status_code == 200


def decoder_ids(service):
    decoders = [service._decoders.get() for _ in range(service._num_decoders)]
    for decoder in decoders:
        service._decoders.put(decoder)
    return [process for decoder in decoders for process in decoder.process_ids]


@pytest.mark.skipif(os.name == "nt", reason="Windows decodes in the process of the service")
def test_decoders_that_die_are_replaced_and_no_recording_is_lost(service, client, clip):
    expected = [post(client, clip).json()["mos"] for _ in range(2)]
    killed = decoder_ids(service)
    for process in killed:
        os.kill(process, signal.SIGKILL)

    found = [post(client, clip).json()["mos"] for _ in range(2)]

    assert killed and found == pytest.approx(expected, abs=1e-5)
    assert not set(killed) & set(decoder_ids(service))


@pytest.mark.skipif(os.name == "nt", reason="Windows decodes in the process of the service")
def test_a_decoder_that_hangs_costs_its_recording_and_is_replaced(tiny_scorer, clip):
    service = Service(Settings(), Limits(timeout_seconds=5.0), scorer=tiny_scorer)
    with TestClient(create_app(service)) as client:
        wait_until(lambda: post(client, clip).json()["status"] == "ok")
        (stopped,) = decoder_ids(service)
        os.kill(stopped, signal.SIGSTOP)

        answer = post(client, clip)
        wait_until(lambda: post(client, clip).json()["status"] == "ok")

        assert (answer.status_code, answer.json()["code"]) == (504, "timed_out")
        assert stopped not in decoder_ids(service)


def test_too_many_at_once_are_refused_and_told_to_come_again(tiny_scorer, clip):
    service = Service(Settings(), Limits(max_waiting=1), scorer=tiny_scorer)
    with service:

        async def both():
            return await asyncio.gather(*(service.row("call.wav", clip, {}) for _ in range(2)))

        rows = asyncio.run(both())

    assert sorted(row["code"] or "" for row in rows) == ["", "busy"]


def test_what_stops_a_batch_costs_the_one_recording_that_does(tiny_scorer, clip, speech_like, monkeypatch):
    poison = encoded(speech_like(2.5))
    score_recordings = tiny_scorer.model.score_recordings

    def fail(recordings, *arguments, **options):
        if any(recording.duration_seconds == 2.5 for recording in recordings):
            raise RuntimeError("out of memory")
        return score_recordings(recordings, *arguments, **options)

    monkeypatch.setattr(tiny_scorer.model, "score_recordings", fail)
    service = Service(Settings(), LIMITS, num_decoders=2, scorer=tiny_scorer)
    with service:

        async def all_of_them():
            return await asyncio.gather(*(service.row("call.wav", content, {}) for content in [clip, poison] * 3))

        rows = asyncio.run(all_of_them())

    assert [row["code"] for row in rows] == [None, "service_failed"] * 3


def test_the_time_limit_is_answered_with_a_row(tiny_scorer, clip):
    service = Service(Settings(), Limits(timeout_seconds=0.001), scorer=tiny_scorer)
    with TestClient(create_app(service)) as client:
        answer = post(client, clip)

    assert (answer.status_code, answer.json()["code"]) == (504, "timed_out")


class Elsewhere(BaseHTTPRequestHandler):
    """Another server: a recording, something large, and redirects."""

    content = b""

    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        content = {"/call.wav": self.content, "/large": bytes(1_000_000)}.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def elsewhere(clip):
    handler = type("Handler", (Elsewhere,), {"content": clip})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def refused(url, **options):
    with pytest.raises(RefusedURL) as caught:
        asyncio.run(fetch(url, 400_000, **options))
    return caught.value.refusal.code


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a.wav",
        "http://localhost:1/a.wav",
        "http://[::1]/a.wav",
        "http://[::ffff:127.0.0.1]/a.wav",
        "http://[64:ff9b::7f00:1]/a.wav",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/a.wav",
        "http://2130706433/a.wav",
        "http://0/a.wav",
        "file:///etc/passwd",
        "ftp://example.com/a.wav",
        "/etc/passwd",
        "http://",
    ],
)
def test_private_addresses_and_other_schemes_are_refused(url):
    assert refused(url) == "url_refused"


def test_a_redirect_to_a_private_address_is_refused(elsewhere):
    port = elsewhere.rpartition(":")[2]

    assert refused(f"{elsewhere}/to/http://localhost:{port}/call.wav", private_hosts=["127.0.0.1"]) == "url_refused"
    assert refused(f"{elsewhere}/large", private_hosts=["127.0.0.1"]) == "too_large"
    assert refused(f"{elsewhere}/none", private_hosts=["127.0.0.1"]) == "unreachable"
    assert refused(f"{elsewhere}/to/{elsewhere}/to/{elsewhere}/to/{elsewhere}/to/x", private_hosts=["127.0.0.1"]) == "unreachable"


def test_a_url_is_scored_only_where_it_is_allowed(tiny_scorer, client, elsewhere, clip):
    url = f"{elsewhere}/to/{elsewhere}/call.wav"
    assert client.post("/score", data={"url": url}).status_code == 403

    limits = replace(LIMITS, allow_urls=True)
    open_service = Service(Settings(), replace(limits, private_hosts=["127.0.0.1"]), scorer=tiny_scorer)
    with TestClient(create_app(open_service)) as allowed:
        row = allowed.post("/score", data={"url": url}).json()
    with TestClient(create_app(Service(Settings(), limits, scorer=tiny_scorer))) as public_only:
        answer = public_only.post("/score", data={"url": url})

    assert row["mos"] == pytest.approx(tiny_scorer(clip)["mos"], abs=1e-5)
    assert (answer.status_code, answer.json()["code"]) == (403, "url_refused")


@pytest.mark.skipif(os.name == "nt", reason="sends Ctrl-C")
def test_the_command_serves_with_several_workers_until_it_is_interrupted(tiny_folder, clip, tmp_path):
    import subprocess
    import sys

    port = free_port()
    code = "if __name__ == '__main__':\n    " + command("serve", "--model", tiny_folder, "--port", port, "--workers", 2)
    script = tmp_path / "serve.py"
    script.write_text(code)
    search_path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(script)], preexec_fn=heed_interrupts, env={**os.environ, "PYTHONPATH": search_path}
    )
    address = f"http://127.0.0.1:{port}"

    def is_up():
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(is_up, process)
        with httpx.Client(base_url=address, timeout=PATIENCE) as visitor:  # whose requests wait until a worker takes them
            assert visitor.get("/health").status_code == 200
            answers = [visitor.post("/score", files={"file": ("call.wav", clip)}) for _ in range(3)]
            metrics = visitor.get("/metrics").text
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=PATIENCE)

    assert [answer.json()["status"] for answer in answers] == ["ok"] * 3
    assert 'hf_sqa_recordings_total{code="",status="ok"} 3.0' in metrics
    assert code in (0, 130)
