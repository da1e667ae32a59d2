"""What libsndfile reads comes in whole, whatever the container."""

import io
import struct

import numpy as np
import pytest
import soundfile

from hf_sqa.audio import AudioError, load_recording

RATE = 16_000
SECONDS = 2
LOSSLESS = {
    "wav16": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav32": ("WAV", "PCM_32"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-double": ("WAV", "DOUBLE"),
    "wavex": ("WAVEX", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "flac16": ("FLAC", "PCM_16"),
    "flac24": ("FLAC", "PCM_24"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "alac": ("CAF", "ALAC_16"),
    "sphere": ("NIST", "PCM_16"),
    "voc": ("VOC", "PCM_16"),
}
LOSSY = {
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "u-law": ("WAV", "ULAW"),
    "a-law": ("WAV", "ALAW"),
    "adpcm": ("WAV", "IMA_ADPCM"),
}


@pytest.fixture
def pcm16(speech_like):
    return np.round(32767 * speech_like(SECONDS)).astype(np.int16)


def encode(samples, format, subtype, rate=RATE, **options):
    buffer = io.BytesIO()
    if samples.dtype == np.int16:
        samples = samples / 32768  # libsndfile would write integers to a float file as they are
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_same_samples(kind, pcm16):
    recording = load_recording(encode(pcm16, *LOSSLESS[kind]))

    np.testing.assert_array_equal(recording.waveform, pcm16.astype(np.float32) / 32768)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_same_score(kind, pcm16, tiny_scorer):
    expected = tiny_scorer(pcm16, sampling_rate=RATE)

    assert tiny_scorer(encode(pcm16, *LOSSLESS[kind])) == expected


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_come_in_with_their_whole_length(kind, pcm16):
    recording = load_recording(encode(pcm16, *LOSSY[kind]), sampling_rate=RATE)

    assert recording.duration_seconds == pytest.approx(SECONDS, abs=0.04)


@pytest.mark.parametrize("kind", LOSSY)
def test_reading_in_blocks_gives_what_reading_at_once_gives(kind, speech_like):
    content = encode(speech_like(9.0), *LOSSY[kind])
    at_once, _ = soundfile.read(io.BytesIO(content), dtype="float32")

    # mpg123 rounds the last bit differently from run to run.
    np.testing.assert_allclose(load_recording(content).waveform, at_once, rtol=0, atol=1e-6)


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def wav_of(samples, before=b"", after=b"", riff_size=None, data_size=None):
    """A mono 16-bit WAV put together by hand."""
    data = samples.tobytes()
    body = b"WAVE" + chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)) + before
    body += b"data" + struct.pack("<I", len(data) if data_size is None else data_size) + data + after
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (chunk(b"LIST", b"INFOISFT\x06\0\0\0Lavf58"), b""),
        (chunk(b"JUNK", b"odd"), b""),
        (b"", chunk(b"LIST", b"INFOICMT\x04\0\0\0abcd")),
        (b"", b"garbage that no chunk describes"),
    ],
    ids=["LIST before", "odd length before", "LIST after", "garbage after"],
)
def test_other_chunks_and_trailing_garbage_do_not_matter(before, after, pcm16):
    recording = load_recording(wav_of(pcm16, before, after))

    np.testing.assert_array_equal(recording.waveform, pcm16.astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("riff_size", "data_size"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0x7FFFFFFF, 0x7FFFFFFF),
        (0x7FFFF024, 0x7FFFF000),  # espeak-ng --stdout
        (0x7FFFFFFF, 0x7FFFFFDB),  # sox
        (0, 0),
        (36, 0),  # a header that was to be finished at the end
        (0xFFFFFFFF, 0),
    ],
)
@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
def test_a_wav_that_leaves_its_length_open_is_read_to_the_end(riff_size, data_size, as_file, pcm16, tmp_path):
    audio = wav_of(pcm16, riff_size=riff_size, data_size=data_size)
    if as_file:
        (tmp_path / "piped.wav").write_bytes(audio)
        audio = tmp_path / "piped.wav"

    recording = load_recording(audio)

    np.testing.assert_array_equal(recording.waveform, pcm16.astype(np.float32) / 32768)


def test_a_wav_that_says_it_is_empty_and_is_followed_by_a_chunk_stays_empty():
    with pytest.raises(AudioError, match="no samples follow") as caught:
        load_recording(wav_of(np.zeros(0, np.int16), after=chunk(b"LIST", bytes(20_000))))

    assert caught.value.code == "empty"


def test_an_au_that_leaves_its_length_open_is_read_to_the_end(pcm16):
    content = bytearray(encode(pcm16, "AU", "PCM_16"))
    content[8:12] = b"\xff" * 4

    assert load_recording(bytes(content)).num_samples == len(pcm16)


def test_a_flac_that_leaves_its_length_open_is_read_to_the_end(speech_like):
    samples = np.round(32767 * speech_like(9.0)).astype(np.int16)
    content = bytearray(encode(samples, "FLAC", "PCM_16"))
    content[21] &= 0xF0  # the 36 bits of the number of samples, as an encoder leaves them that writes to a pipe
    content[22:26] = bytes(4)

    np.testing.assert_array_equal(load_recording(bytes(content)).waveform, samples.astype(np.float32) / 32768)


def test_an_mp3_of_variable_rate_without_a_length_is_read_to_the_end(speech_like):
    """libsndfile guesses the length from the rate of the first frames: here three times too long."""
    speech = speech_like(4.0)
    samples = np.concatenate([0.0001 * speech, speech, speech, np.zeros(160_000, np.float32)])
    content = encode(samples, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE")
    first_frame = content[: content.find(content[:2], 4)]
    assert b"Xing" in first_frame or b"Info" in first_frame

    recording = load_recording(content[len(first_frame) :])

    assert recording.duration_seconds == pytest.approx(len(samples) / RATE, abs=0.15)


def test_an_mp3_between_tags_is_read(pcm16):
    content = encode(pcm16, "MP3", "MPEG_LAYER_III")
    tagged = b"ID3\x03\0\0\0\0\x01\x00" + bytes(128) + content + b"TAG" + bytes(125)

    assert load_recording(tagged).num_samples == load_recording(content).num_samples
