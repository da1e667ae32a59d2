"""Fewer samples than the header promises: never a score for half a call."""

import io
import re

import numpy as np
import pytest
import soundfile

from hf_sqa.audio import AudioError, load_recording

RATE = 16_000
BY_BYTES = {
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "u-law": ("WAV", "ULAW"),
    "wavex": ("WAVEX", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "alac": ("CAF", "ALAC_16"),
    "sphere": ("NIST", "PCM_16"),
    "voc": ("VOC", "PCM_16"),
    "voc-u-law": ("VOC", "ULAW"),
    "mat4": ("MAT4", "PCM_16"),
    "mat4-double": ("MAT4", "DOUBLE"),
    "mat5": ("MAT5", "PCM_16"),
    "mat5-float": ("MAT5", "FLOAT"),
    "avr": ("AVR", "PCM_16"),
    "svx": ("SVX", "PCM_16"),
    "mpc": ("MPC2K", "PCM_16"),
    "wve": ("WVE", "ALAW"),
    "sds": ("SDS", "PCM_16"),
    "rifx": ("WAV", "PCM_16"),
}
BY_PAGES = {
    "mp3": ("MP3", "MPEG_LAYER_III", r"its first frame says that \d+ follow and \d+ do"),
    "vorbis": ("OGG", "VORBIS", "the last page breaks off at byte"),
    "opus": ("OGG", "OPUS", "the last page breaks off at byte"),
}


@pytest.fixture
def samples(speech_like):
    return speech_like(5.0)


def encode(samples, format, subtype, **options):
    buffer = io.BytesIO()
    rate = 8000 if format == "WVE" else RATE  # the only one it has
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype, **options)
    return buffer.getvalue()


def test_a_truncated_wav_is_refused_with_both_lengths(samples, tmp_path):
    path = tmp_path / "cut.wav"
    path.write_bytes(encode(samples, "WAV", "PCM_16")[: 44 + 100_000])

    with pytest.raises(AudioError) as caught:
        load_recording(path)

    assert str(caught.value) == (
        f"{path}: the header promises 160,000 bytes of samples and 100,000 are there; copy or record it again, or cut it to the "
        "part that exists [truncated]"
    )
    assert caught.value.status == "failed"


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("kind", BY_BYTES)
def test_a_file_cut_short_is_refused_as_truncated(kind, share, samples):
    content = encode(samples, *BY_BYTES[kind], **({"endian": "BIG"} if kind == "rifx" else {}))

    with pytest.raises(AudioError, match=r"the header promises [\d,]+ bytes of samples and [\d,]+ are there") as caught:
        load_recording(content[: int(share * len(content))])

    assert caught.value.code == "truncated"


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("kind", BY_PAGES)
def test_a_stream_cut_short_is_refused_as_truncated(kind, share, samples):
    format, subtype, message = BY_PAGES[kind]
    content = encode(samples, format, subtype)

    with pytest.raises(AudioError, match=message) as caught:
        load_recording(content[: int(share * len(content))])

    assert caught.value.code == "truncated"


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("format", ["WAV", "AU"])
def test_the_byte_order_of_the_header_does_not_matter(format, endian, samples):
    content = encode(samples, format, "PCM_16", endian=endian)

    with pytest.raises(AudioError, match=r"promises 160,000 bytes of samples and 159,900 are there"):
        load_recording(content[:-100])


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_flac_cut_short_is_refused_as_truncated(share, samples):
    content = encode(samples, "FLAC", "PCM_16")

    with pytest.raises(AudioError, match=r"decoding stopped after \d.00 of 5.00 s .*cut short or damaged") as caught:
        load_recording(content[: int(share * len(content))])

    assert caught.value.code == "truncated"


def test_an_ogg_cut_inside_its_last_page_is_refused(samples):
    content = encode(np.tile(samples, 6), "OGG", "VORBIS")
    pages = [match.start() for match in re.finditer(b"OggS", content)]
    assert len(pages) > 3

    with pytest.raises(AudioError) as caught:
        load_recording(content[: pages[-2] + 10])

    assert caught.value.code == "truncated"


def test_more_than_a_programs_own_mistake_is_missing(samples):
    """Headers are off by a byte, a frame or their own 44 bytes; a cut is longer."""
    content = encode(samples, "WAV", "PCM_16")

    assert load_recording(content[:-44]).num_samples == len(samples) - 22
    with pytest.raises(AudioError, match="promises 160,000 bytes of samples and 159,954 are there"):
        load_recording(content[:-46])


@pytest.mark.parametrize("kind", [*BY_BYTES, *BY_PAGES, "flac"])
def test_damaged_files_are_refused_or_read_and_never_break_the_reader(kind, samples, tmp_path):
    """A cut at every place of the header, and bytes changed at random: an `AudioError` or a recording, nothing else."""
    content = encode(samples[:RATE], *(BY_BYTES | BY_PAGES).get(kind, ("FLAC", "PCM_16"))[:2])
    rng = np.random.default_rng(7)
    damaged = [content[:length] for length in range(0, 120, 3)]
    for _ in range(30):
        changed = bytearray(content)
        for place in rng.integers(0, min(len(content), 200), 3):
            changed[place] = rng.integers(256)
        damaged.append(bytes(changed))

    path, outcomes = tmp_path / "damaged", set()
    for one in damaged:
        try:
            path.write_bytes(one)
            load_recording(path, sampling_rate=RATE)
            outcomes.add("read")
        except AudioError as error:
            outcomes.add(error.code)

    assert "undecodable" in outcomes
