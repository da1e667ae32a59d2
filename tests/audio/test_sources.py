"""Whatever a user calls audio: every kind of source gives the same samples, and what is none is refused in words."""

import http.server
import io
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hf_sqa.audio import AudioError, load_recording

RATE = 16_000


@pytest.fixture
def pcm16(speech_like):
    return np.round(32767 * speech_like(1.5)).astype(np.int16)


@pytest.fixture
def wav(pcm16, tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, pcm16, RATE)
    return path


@pytest.fixture
def expected(pcm16):
    return pcm16.astype(np.float32) / 32768


@pytest.fixture
def server(wav):
    """A web server over the folder of the recording, which also breaks off and hides things."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(wav.parent))

        def do_GET(self):
            if self.path != "/broken.wav":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"RIFF")
            self.close_connection = True

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    thread.join()
    running.server_close()


def code_of(audio, **options):
    with pytest.raises(AudioError) as caught:
        load_recording(audio, **options)
    return caught.value.code


SOURCES = {
    "str": lambda path, pcm: str(path),
    "Path": lambda path, pcm: path,
    "bytes": lambda path, pcm: path.read_bytes(),
    "bytearray": lambda path, pcm: bytearray(path.read_bytes()),
    "memoryview": lambda path, pcm: memoryview(path.read_bytes()),
    "BytesIO": lambda path, pcm: io.BytesIO(path.read_bytes()),
    "opened file": lambda path, pcm: path.open("rb"),
    "float array": lambda path, pcm: pcm.astype(np.float32) / 32768,
    "float64 array": lambda path, pcm: pcm / 32768,
    "int16 array": lambda path, pcm: pcm,
    "int32 array": lambda path, pcm: pcm.astype(np.int32) * 65536,
    "strided array": lambda path, pcm: np.repeat(pcm, 2)[::2],
    "read-only array": lambda path, pcm: np.frombuffer(pcm.tobytes(), np.int16),
    "float tensor": lambda path, pcm: torch.from_numpy(pcm) / 32768,
    "int16 tensor": lambda path, pcm: torch.from_numpy(pcm),
    "tensor with gradient": lambda path, pcm: (torch.from_numpy(pcm) / 32768).requires_grad_(),
    "channels last": lambda path, pcm: np.stack([pcm, pcm], axis=1),
    "channels first": lambda path, pcm: np.stack([pcm, pcm]),
    "tensor with channels": lambda path, pcm: torch.from_numpy(np.stack([pcm, pcm])),
    "dict of array": lambda path, pcm: {"array": pcm, "sampling_rate": RATE},
    "dict of list": lambda path, pcm: {"array": (pcm / 32768).tolist(), "sampling_rate": RATE},
    "dict of raw": lambda path, pcm: {"raw": pcm, "sampling_rate": np.int64(RATE)},
    "dict of bytes": lambda path, pcm: {"bytes": path.read_bytes(), "path": None},
    "dict of path": lambda path, pcm: {"bytes": None, "path": str(path)},
    "row of a dataset": lambda path, pcm: {"audio": {"array": pcm, "sampling_rate": RATE, "path": "gone.wav"}, "text": "hello"},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_samples(kind, wav, pcm16, expected):
    recording = load_recording(SOURCES[kind](wav, pcm16), input_sampling_rate=RATE)

    np.testing.assert_array_equal(recording.waveform, expected)
    assert recording.source_sampling_rate == RATE


def test_unsigned_bytes_are_centred_on_128():
    samples = np.tile(np.array([128, 192, 128, 64], np.uint8), 2000)

    recording = load_recording(samples, input_sampling_rate=RATE)

    np.testing.assert_array_equal(recording.waveform[:4], [0.0, 0.5, 0.0, -0.5])


def test_a_relative_path_and_a_path_with_spaces_and_accents_are_read(wav, expected, monkeypatch):
    monkeypatch.chdir(wav.parent)
    renamed = wav.rename(wav.parent / "Grüße an 世界.wav")

    np.testing.assert_array_equal(load_recording(renamed.name).waveform, expected)


def test_a_pipe_of_the_shell_is_read_to_its_end(wav, expected, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(wav.read_bytes()))
    writer.start()

    recording = load_recording(str(pipe))

    writer.join()
    np.testing.assert_array_equal(recording.waveform, expected)


def test_a_url_gives_the_same_samples(server, expected):
    np.testing.assert_array_equal(load_recording(f"{server}/speech.wav").waveform, expected)


@pytest.mark.parametrize(
    ("path", "cause"), [("absent.wav", "404"), ("broken.wav", "IncompleteRead"), ("a b.wav", "URL can't contain")]
)
def test_a_url_that_gives_no_file_is_unreachable(server, path, cause):
    with pytest.raises(AudioError, match=f"the download failed .*{cause}.*check the address") as caught:
        load_recording(f"{server}/{path}")

    assert caught.value.code == "unreachable"


def test_a_refused_connection_is_unreachable():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(AudioError, match="Connection refused") as caught:
            load_recording(f"http://127.0.0.1:{unused.getsockname()[1]}/a.wav")

    assert caught.value.code == "unreachable"


def test_a_missing_path_is_called_missing_and_nothing_tries_to_decode_its_name():
    with pytest.raises(AudioError, match=r"UklGRg==: there is no such file or folder \(looked in .*check the path \[missing\]"):
        load_recording("UklGRg==")


def test_a_name_that_no_file_can_have_is_called_missing():
    assert code_of("a\0b.wav") == "missing"
    assert code_of("x" * 5000) == "missing"


def test_a_folder_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(AudioError, match="got a folder; pass its files") as caught:
        load_recording(tmp_path)

    assert caught.value.code == "is_directory"


def test_a_file_opened_in_text_mode_is_refused(wav):
    with wav.open() as opened, pytest.raises(AudioError, match=r"binary mode .'rb'., got one in text mode") as caught:
        load_recording(opened)

    assert caught.value.code == "unsupported"


def test_a_closed_file_is_refused_like_any_other_bad_source(wav):
    with wav.open("rb") as opened:
        pass

    with pytest.raises(AudioError, match=r"cannot be read \(.*closed file\); open it again") as caught:
        load_recording(opened)

    assert caught.value.code == "unreachable"


def test_a_forgotten_sampling_rate_is_refused_with_the_remedy(expected):
    with pytest.raises(AudioError, match="pass `sampling_rate=") as caught:
        load_recording(expected)
    assert caught.value.code == "no_sampling_rate"

    with pytest.raises(AudioError, match=r"got the keys \['array', 'path'\]; add the rate in Hz") as caught:
        load_recording({"array": expected, "path": None})
    assert caught.value.code == "no_sampling_rate"


@pytest.mark.parametrize("rate", ["16000", "abc", True, 16000.5, float("nan"), float("inf"), [16000], 0, -16000, 16, 10**9])
def test_a_sampling_rate_that_is_none_is_refused(expected, rate):
    with pytest.raises(AudioError, match="expected `sampling_rate`") as caught:
        load_recording(expected, input_sampling_rate=rate)

    assert caught.value.code == "no_sampling_rate"


def test_a_file_with_an_absurd_sampling_rate_is_refused_before_it_is_resampled(wav):
    content = bytearray(wav.read_bytes())
    content[24:28] = (1).to_bytes(4, "little")

    with pytest.raises(AudioError, match="between 1000 and 768000, got 1"):
        load_recording(bytes(content), sampling_rate=RATE)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (None, "got NoneType"),
        (3.5, "got float"),
        ({"text": "hello"}, r"got a dict with the keys \['text'\]"),
        ({}, r"got a dict with the keys \[\]"),
        (np.array(["a", "b"]), "got dtype <U1"),
        (np.ones(8000, bool), "got dtype bool"),
        (np.ones(8000, complex), "got dtype complex128"),
        (np.ones(8000, np.int64), "integers of 8, 16 or 32 bits, whose full scale is known, got int64"),
        (np.ones((2, 2, 8000)), r"got shape \(2, 2, 8000\)"),
        (np.array(1.0), r"got shape \(\)"),
    ],
    ids=str,
)
def test_what_is_no_audio_is_refused_with_what_was_got(audio, message):
    with pytest.raises(AudioError, match=message) as caught:
        load_recording(audio, input_sampling_rate=RATE)

    assert caught.value.code == "unsupported"


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0)])
def test_an_array_without_samples_is_empty(shape):
    assert code_of(np.zeros(shape, np.float32), input_sampling_rate=RATE) == "empty"


def test_an_audio_decoder_of_datasets_gives_the_same_samples(wav, expected):
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"needs torchcodec with its FFmpeg libraries: {error}")

    recording = load_recording(AudioDecoder(str(wav)))

    np.testing.assert_allclose(recording.waveform, expected, atol=1e-6)


class TestChannels:
    @pytest.fixture
    def left(self, speech_like):
        return speech_like(1.5)

    @pytest.fixture
    def right(self, left):
        return np.roll(left, 4000)

    def load(self, *channels, **options):
        return load_recording(np.stack(channels, axis=1), input_sampling_rate=RATE, **options)

    def test_stereo_becomes_its_mean(self, left, right):
        np.testing.assert_allclose(self.load(left, right).waveform, (left + right) / 2, atol=1e-7)

    def test_a_channel_can_be_chosen(self, left, right):
        np.testing.assert_array_equal(self.load(left, right, channel=1).waveform, right)

    @pytest.mark.parametrize("channel", [2, -1])
    def test_a_channel_that_is_not_there_is_refused(self, left, right, channel):
        with pytest.raises(AudioError, match=f"between 0 and 1, got {channel}: the recording has 2 channel") as caught:
            self.load(left, right, channel=channel)

        assert caught.value.code == "no_such_channel"

    @pytest.mark.parametrize("channel", ["left", 1.0, None, True])
    def test_a_channel_of_the_wrong_type_is_refused(self, left, right, channel):
        with pytest.raises(TypeError, match="Expected `channel` to be 'mean' or a channel number from 0"):
            self.load(left, right, channel=channel)

    def test_channels_in_opposite_phase_are_refused_with_the_remedy(self, left):
        with pytest.raises(AudioError, match=r"cancel when averaged .* `channel=0`") as caught:
            self.load(left, -left)

        assert caught.value.code == "channels_cancel"

    def test_one_of_two_channels_in_opposite_phase_can_be_scored(self, left):
        assert self.load(left, -left, channel=0).warnings == []

    def test_channels_that_mostly_cancel_give_a_warning(self, left):
        codes = [finding.code for finding in self.load(left, -0.8 * left).warnings]

        assert codes == ["channels_partly_cancel"]

    def test_a_silent_channel_beside_speech_is_no_reason_to_warn(self, left):
        assert self.load(left, np.zeros_like(left)).warnings == []

    def test_a_silent_channel_alone_is_refused(self, left):
        with pytest.raises(AudioError, match="digital silence") as caught:
            self.load(left, np.zeros_like(left), channel=1)

        assert caught.value.code == "silent"


def test_a_relative_remedy_names_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(AudioError, match=str(Path.cwd())):
        load_recording("absent.wav")
