"""What phones, browsers and meetings write: M4A, MP4, AAC, AMR, WebM and WMA, with the checks that every recording goes through."""

import io
import sys

import numpy as np
import pytest

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.audio.ffmpeg_containers import container_kind

av = pytest.importorskip("av", reason="needs the extra `containers`")

RATE = 16_000
#: Format and encoder of FFmpeg, and the rate of the encoder where it has but one.
KINDS = {
    "m4a": ("ipod", "aac", RATE),
    "mp4": ("mp4", "aac", RATE),
    "3gp": ("3gp", "aac", RATE),
    "mov": ("mov", "pcm_s16le", RATE),
    "aac": ("adts", "aac", RATE),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "pcm_s16le", RATE),
    "wma": ("asf", "wmav2", RATE),
    "amr": ("amr", "libopencore_amrnb", 8_000),
}


def encode(samples, kind, rate=RATE, channels=1, picture=False, path=None, **options):
    """Float samples of shape `(num_frames,)` or `(num_frames, channels)` as bytes of such a file."""
    format, codec, _ = KINDS[kind]
    buffer = io.BytesIO()
    with av.open(str(path) if path else buffer, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono" if channels == 1 else "stereo")
        stream.bit_rate = 12_200 if codec == "libopencore_amrnb" else 64_000
        film = container.add_stream("mpeg4", rate=5) if picture else None
        if film is not None:
            film.width = film.height = 64
            film.pix_fmt = "yuv420p"
            for _ in range(10 * int(len(samples) / rate)):  # twice as long as the sound
                container.mux(film.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(film.encode(None))
        pcm = np.round(32767 * np.atleast_2d(samples.T)).astype(np.int16)
        size = stream.frame_size or 1024
        resampler = av.AudioResampler(format=stream.format.name, layout=stream.layout, rate=rate, frame_size=size)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm), format="s16p", layout=stream.layout)
        frame.sample_rate = rate
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return path.read_bytes() if path else buffer.getvalue()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def speech(kind, speech_like):
    return speech_like(4.0, KINDS[kind][2])


def test_the_recording_comes_in_whole(kind, speech):
    rate = KINDS[kind][2]

    recording = load_recording(encode(speech, kind, rate))

    assert (recording.source_sampling_rate, recording.num_channels) == (rate, 1)
    assert recording.duration_seconds == pytest.approx(4.0, abs=0.15)
    decoded = np.pad(recording.waveform, (0, rate))[: 4 * rate]
    loudness = [np.sqrt(np.mean(samples.reshape(16, -1) ** 2, axis=1)) for samples in (speech, decoded)]
    assert np.corrcoef(*loudness)[0, 1] > 0.95


def test_a_file_a_stream_and_bytes_give_the_same(kind, speech, tmp_path):
    content = encode(speech, kind, KINDS[kind][2])
    path = tmp_path / "speech.bin"
    path.write_bytes(content)

    expected = load_recording(content).waveform

    for source in (path, io.BytesIO(content), {"bytes": content, "path": None}):
        np.testing.assert_array_equal(load_recording(source).waveform, expected)


def test_two_channels_become_their_mean(speech_like):
    speech = speech_like(3.0)

    recording = load_recording(encode(np.stack([speech, 0 * speech], axis=1), "mov", channels=2))

    assert recording.num_channels == 2
    np.testing.assert_allclose(recording.waveform, np.round(32767 * speech) / 65536, atol=1e-6)


def test_the_sound_track_of_a_film_longer_than_it_is_whole(speech_like):
    recording = load_recording(encode(speech_like(3.0), "mp4", picture=True))

    assert recording.duration_seconds == pytest.approx(3.0, abs=0.15)


def test_a_film_without_sound_is_refused():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        film = container.add_stream("mpeg4", rate=5)
        film.width = film.height = 64
        film.pix_fmt = "yuv420p"
        for _ in range(5):
            container.mux(film.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(film.encode(None))

    with pytest.raises(AudioError, match="an M4A or MP4 file without a sound track") as caught:
        load_recording(buffer.getvalue())

    assert caught.value.code == "no_audio"


def test_amr_wideband_is_read(rng):
    """Made of frames of 12.65 kb/s whose bits are drawn: PyAV has no encoder for it."""
    content = b"#!AMR-WB\n" + b"".join(b"\x14" + rng.bytes(32) for _ in range(150))

    recording = load_recording(content)

    assert (recording.source_sampling_rate, recording.duration_seconds) == (RATE, 3.0)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["mp4", "webm", "mka", "wma", "mov"])
def test_a_file_cut_short_is_refused(kind, share, speech, tmp_path):
    """With what says how long it is in front, as files for streaming have it."""
    options = {"movflags": "faststart", "path": tmp_path / "speech"} if kind in ("mp4", "mov") else {}
    content = encode(speech, kind, KINDS[kind][2], **options)
    if kind in ("mp4", "mov"):
        assert content.index(b"moov") < content.index(b"mdat")

    with pytest.raises(AudioError, match=r"cut short or damaged|a part of it cannot be decoded") as caught:
        load_recording(content[: int(share * len(content))])

    assert caught.value.code == "truncated"


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("kind", ["m4a", "3gp"])
def test_a_file_whose_index_is_cut_off_is_refused(kind, share, speech):
    content = encode(speech, kind)

    with pytest.raises(AudioError, match="it is damaged or cut short") as caught:
        load_recording(content[: int(share * len(content))])

    assert caught.value.code == "undecodable"


@pytest.mark.parametrize("kind", ["aac", "amr"])
def test_half_a_frame_at_the_end_is_no_loss(kind, speech):
    """Neither says how long it is, so a cut cannot be told from an end; a part of a frame must not cost the rest."""
    content = encode(speech, kind, KINDS[kind][2])

    recording = load_recording(content[:-7])

    assert 3.8 < recording.duration_seconds < 4.1


def test_damage_in_the_middle_is_refused(speech_like):
    content = bytearray(encode(speech_like(4.0), "mp4"))
    start = content.index(b"mdat")
    content[start + 8000 : start + 9000] = bytes(1000)

    with pytest.raises(AudioError) as caught:
        load_recording(bytes(content))

    assert caught.value.code in ("truncated", "undecodable")


def test_the_gate_judges_them_like_any_other():
    with pytest.raises(AudioError, match="digital silence") as caught:
        load_recording(encode(np.zeros(2 * RATE), "m4a"))

    assert caught.value.code == "silent"


def test_a_reference_to_another_file_leads_nowhere(speech_like, tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encode(speech_like(2.0), "mov"))
    playlist = tmp_path / "list.m4a"
    playlist.write_text(f"ffconcat version 1.0\nfile '{secret}'\n")

    with pytest.raises(AudioError):
        load_recording(playlist)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypM4A ", "mov"),
        (b"\x1aE\xdf\xa3", "matroska"),
        (b"#!AMR\n", "amr"),
        (b"\xff\xf1P\x80", "aac"),
        (b"\xff\xfb\x90d", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
    ],
)
def test_a_container_is_known_by_its_first_bytes(head, kind):
    assert container_kind(head) == kind


def test_without_pyav_the_extra_is_named(speech_like, monkeypatch):
    content = encode(speech_like(1.0), "m4a")
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(
        AudioError, match=r"an M4A or MP4 file needs the extra `containers`: `pip install 'hf-sqa\[containers\]'`"
    ) as caught:
        load_recording(content)

    assert (caught.value.code, caught.value.status) == ("unsupported", "failed")
