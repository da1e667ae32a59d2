"""Decoding in processes of its own: in order, and what hangs or dies costs one row."""

import http.server
import os
import signal
import sys
import threading

import numpy as np
import pytest
import soundfile
from fsspec.registry import _registry as loaded_file_systems

from hf_sqa import isolation
from hf_sqa.audio import load_recording
from hf_sqa.scoring import remote
from hf_sqa.scoring.decoding import Decoder, Decoding, load
from hf_sqa.scoring.items import Item, Refusal

RATE = 16_000


def item(position, audio, **options):
    return Item(position, str(audio), str(audio), audio, **options)


@pytest.fixture
def pipe(tmp_path):
    """Makes pipes that nobody writes to: opening one hangs, as a dead network share does."""

    def make(name):
        os.mkfifo(tmp_path / name)
        return str(tmp_path / name)

    return make


def test_workers_decode_in_order_to_what_this_process_decodes(clips):
    paths = [str(path) for path in sorted(clips.glob("*.wav"))]
    items = [item(index, path) for index, path in enumerate(paths)]
    items.insert(3, Item(99, "kept", "", None))
    items.insert(5, Item(98, "bad", "", None, refusal=Refusal("failed", "bad_row", "x")))

    with Decoder(Decoding(RATE), 2) as decoder:
        results = list(decoder.decode(items))

    assert [one.key for one, _ in results] == [one.key for one in items]
    assert results[3][1] is None
    assert results[5][1].code == "bad_row"
    waveforms = [result.waveform for one, result in results if one.position < 90]
    assert all(np.array_equal(got, load_recording(path).waveform) for got, path in zip(waveforms, paths, strict=True))


def test_a_decoder_that_hangs_is_stopped_and_the_others_are_decoded(clips, pipe):
    good = str(clips / "00.wav")
    items = [item(0, good), item(1, pipe("first")), item(2, good), item(3, pipe("second")), item(4, good)]

    with Decoder(Decoding(RATE, timeout_seconds=5.0), 2) as decoder:
        results = [result for _, result in decoder.decode(items)]

    assert [getattr(result, "code", "ok") for result in results] == ["ok", "timed_out", "ok", "timed_out", "ok"]
    assert "longer than 5 s" in results[1].reason


def test_a_worker_that_is_killed_is_replaced_and_no_row_is_lost(clips):
    paths = [str(clips / f"{index % 12:02d}.wav") for index in range(40)]
    with Decoder(Decoding(RATE), 2) as decoder:
        codes = []
        for one, result in decoder.decode(item(index, path) for index, path in enumerate(paths)):
            codes.append(getattr(result, "code", "ok"))
            if one.position in (3, 15):
                os.kill(decoder.process_ids[0], signal.SIGKILL)

    assert codes == ["ok"] * 40


class Killer:
    """Audio whose decoder ends its process, as libraries with a fault do."""

    def get_all_samples(self):
        os._exit(11)


def test_a_recording_that_kills_its_decoder_twice_is_a_row(clips):
    good = str(clips / "00.wav")
    with Decoder(Decoding(RATE), 1) as decoder:
        results = [result for _, result in decoder.decode([item(0, good), item(1, Killer()), item(2, good)])]

    assert [getattr(result, "code", "ok") for result in results] == ["ok", "decoder_died", "ok"]


def test_workers_end_with_the_decoder(clips):
    with Decoder(Decoding(RATE), 2) as decoder:
        list(decoder.decode([item(0, str(clips / "00.wav"))]))
        processes = decoder.process_ids
    assert processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_file_that_vanished_says_so(clips):
    assert load(item(0, str(clips / "gone.wav")), Decoding(RATE)).code == "missing"


def test_longer_than_asked_for_is_skipped(clips):
    refusal = load(item(0, str(clips / "00.wav")), Decoding(RATE, max_seconds=0.5))

    assert (refusal.status, refusal.code) == ("skipped", "too_long")


@pytest.fixture
def server(clips):
    """A web server: `/busy` always answers 503, `/twice` twice, then like the others with a recording."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/busy" or (self.path == "/twice" and asked.count("/twice") <= 2):
                self.send_error(503)
            elif self.path == "/absent":
                self.send_error(404)
            else:
                content = (clips / "03.wav").read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        opened.asked = asked
        opened.url = f"http://127.0.0.1:{opened.server_address[1]}"
        yield opened
        opened.shutdown()


@pytest.fixture
def no_waits(monkeypatch):
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01, 0.02, 0.03))


def test_a_busy_server_is_asked_again(server, clips, no_waits):
    recording = load(item(0, f"{server.url}/twice"), Decoding(RATE))

    assert np.array_equal(recording.waveform, soundfile.read(clips / "03.wav", dtype="float32")[0])
    assert len(server.asked) == 3


@pytest.mark.parametrize("path, tries", [("/busy", 4), ("/absent", 1)])
def test_a_server_that_stays_busy_costs_a_row(path, tries, server, no_waits):
    refusal = load(item(0, server.url + path), Decoding(RATE))

    assert (refusal.status, refusal.code) == ("failed", "unreachable")
    assert len(server.asked) == tries


def test_a_url_without_its_package_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(loaded_file_systems, "s3", raising=False)  # where another test has imported it

    refusal = load(item(0, "s3://bucket/a.wav"), Decoding(RATE))

    assert refusal.code == "unsupported"
    assert "Install s3fs" in refusal.reason


def test_workers_that_are_started_afresh_do_without_torch(clips, monkeypatch):
    monkeypatch.setattr(isolation, "may_fork", lambda wait_seconds: False)
    with Decoder(Decoding(RATE), 1) as decoder:
        list(decoder.decode([item(0, str(clips / "00.wav"))]))
        (process,) = decoder.process_ids
        if not os.path.exists(f"/proc/{process}/maps"):
            pytest.skip("needs /proc")
        with open(f"/proc/{process}/maps") as maps:
            assert "libtorch" not in maps.read()
