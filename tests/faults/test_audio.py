"""Damaged files, odd headers and sources of every kind: what is whole is read to its last sample, all else refused by name."""

import functools
import importlib.util
import io
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hf_sqa.audio import REFUSALS, AudioError, load_recording

RATE = 16_000
SECONDS = 3.0


@functools.cache
def speech(seconds=SECONDS, rate=RATE):
    """A voiced tone in syllables, as 16-bit integers."""
    time = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 130 * harmonic * time) / harmonic for harmonic in range(1, 25))
    noise = 0.005 * np.random.default_rng(3).standard_normal(len(time))
    return np.round(32767 * (0.1 * voice * (1 - np.cos(8 * np.pi * time)) / 2 + noise)).astype(np.int16)


@functools.cache
def encoded(format, subtype, seconds=SECONDS, rate=RATE, endian="FILE"):
    buffer = io.BytesIO()
    rate = 8000 if format == "WVE" else rate  # the only one it has
    soundfile.write(buffer, speech(seconds, rate) / 32768, rate, format=format, subtype=subtype, endian=endian)
    return buffer.getvalue()


def wav(riff_size=None, data_size=None, before=b"", after=b"", form=b"RIFF", samples=None, order="<"):
    """A mono 16-bit WAV, put together by hand."""
    data = (speech() if samples is None else samples).astype(order + "i2").tobytes()
    described = struct.pack(order + "HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    body = b"WAVE" + before + b"fmt " + struct.pack(order + "I", 16) + described
    body += b"data" + struct.pack(order + "I", len(data) if data_size is None else data_size) + data + after
    return form + struct.pack(order + "I", len(body) if riff_size is None else riff_size) + body


def long_wav(riff_size, data_size, form=b"RF64", stated=0xFFFFFFFF):
    """The same with its sizes in 64 bits."""
    return wav(0xFFFFFFFF, stated, b"ds64" + struct.pack("<IQQQI", 28, riff_size, data_size, 0, 0), form=form)


def chunk(name, content, padded=True):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2 and padded)


def outcome(audio, **options):
    """Samples at the recording's own rate, or the code of the refusal."""
    try:
        return load_recording(audio, **options).waveform
    except AudioError as error:
        assert error.code in REFUSALS and len(error.message) > 20
        return error.code


# 1. Cut short

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-u-law": ("WAV", "ULAW"),
    "wav-adpcm": ("WAV", "IMA_ADPCM"),
    "wavex": ("WAVEX", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "alac": ("CAF", "ALAC_16"),
    "sphere": ("NIST", "PCM_16"),
    "voc": ("VOC", "PCM_16"),
    "mat4": ("MAT4", "PCM_16"),
    "mat5": ("MAT5", "PCM_16"),
    "avr": ("AVR", "PCM_16"),
    "svx": ("SVX", "PCM_16"),
    "mpc": ("MPC2K", "PCM_16"),
    "wve": ("WVE", "ALAW"),
    "sds": ("SDS", "PCM_16"),
    "htk": ("HTK", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_cut_short_is_refused(kind, share):
    content = encoded(*FORMATS[kind])

    assert outcome(content[: int(share * len(content))]) in ("truncated", "undecodable")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_whole_is_read(kind):
    assert len(outcome(encoded(*FORMATS[kind]))) == pytest.approx(SECONDS * (8000 if kind == "wve" else RATE), abs=2000)


# 2. Damaged within


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_one_flipped_bit_of_an_ogg_is_enough(kind, number):
    content = bytearray(encoded(*FORMATS[kind]))
    rng = np.random.default_rng(number)
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)

    assert outcome(bytes(content)) in ("truncated", "undecodable")


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_a_missing_page_of_an_ogg_is_noticed(kind, number):
    content = encoded(*FORMATS[kind], 12.0)
    pages = [match.start() for match in re.finditer(b"OggS", content)]
    first = 3 + number
    assert first + 1 < len(pages)

    assert outcome(content[: pages[first]] + content[pages[first + 1] :]) == "truncated"


@pytest.mark.parametrize("size", [30, 1000])
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("how", ["left out", "zeros", "noise"])
def test_a_piece_of_an_mp3_is_noticed(how, share, size):
    content = encoded(*FORMATS["mp3"])
    place = int(share * len(content))
    filling = {"left out": b"", "zeros": bytes(size), "noise": np.random.default_rng(1).bytes(size)}[how]
    damaged = content[:place] + filling + content[place + size :]

    if how == "left out" or size > 288:  # less may lie within a frame, and an MP3 has no checksum
        assert outcome(damaged) == "truncated"
    else:
        assert isinstance(outcome(damaged), np.ndarray) or outcome(damaged) in REFUSALS


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["flac", "alac"])
def test_a_hole_in_a_lossless_file_is_noticed(kind, share):
    content = encoded(*FORMATS[kind])
    place = int(share * len(content))

    assert outcome(content[:place] + content[place + 1000 :]) in ("truncated", "undecodable")


# 3. Good samples behind an odd header

LENGTH = 2 * len(speech())
HEADERS = {
    "ffmpeg to a pipe": wav(0xFFFFFFFF, 0xFFFFFFFF),
    "sox to a pipe": wav(0x7FFFFFFF, 0x7FFFFFDB),
    "espeak-ng to a pipe": wav(0x7FFFF024, 0x7FFFF000),
    "signed 32 bits": wav(0x80000024, 0x80000000),
    "zeros": wav(0, 0),
    "a header to be finished": wav(36, 0),
    "RIFF right, data zero": wav(None, 0),
    "RIFF right, data all ones": wav(None, 0xFFFFFFFF),
    "RIFF right, data far too large": wav(None, 123_456_789),
    "two thousand million": wav(2_000_000_036, 2_000_000_000),
    "two thousand million in all": wav(2_000_000_000, 1_999_999_964),
    "a thousand million": wav(1_000_000_036, 1_000_000_000),
    "data too large by a byte": wav(LENGTH + 37, LENGTH + 1),
    "data too large by 8": wav(LENGTH + 44, LENGTH + 8),
    "data as large as the file": wav(LENGTH + 80, LENGTH + 44),
    "RIFF as large as the file": wav(LENGTH + 44, LENGTH),
    "RIFF zero": wav(0, LENGTH),
    "RIFF all ones": wav(0xFFFFFFFF, LENGTH),
    "an odd chunk without padding": wav(before=chunk(b"note", b"odd", padded=False)),
    "two odd chunks without padding": wav(before=2 * chunk(b"note", b"a", padded=False)),
    "an odd chunk with padding": wav(before=chunk(b"note", b"odd")),
    "an odd chunk without padding, to a pipe": wav(0xFFFFFFFF, 0xFFFFFFFF, chunk(b"note", b"odd", padded=False)),
    "chunks behind": wav(after=chunk(b"LIST", b"INFOICMT\x04\0\0\0abcd")),
    "garbage behind": wav(after=b"garbage that no chunk describes"),
    "big end first, to a pipe": wav(0xFFFFFFFF, 0xFFFFFFFF, form=b"RIFX", order=">"),
    "RF64": long_wav(LENGTH + 72, LENGTH),
    "RF64 to a pipe, zeros": long_wav(0, 0),
    "RF64 to a pipe, all ones": long_wav(2**64 - 1, 2**64 - 1),
    "RF64 with a placeholder": long_wav(2_000_000_072, 2_000_000_000),
    "RF64 without ds64": wav(0xFFFFFFFF, 0xFFFFFFFF, form=b"RF64"),
    "RF64 with 32 bits": wav(form=b"RF64"),
    "BW64": long_wav(LENGTH + 72, LENGTH, form=b"BW64"),
    "BW64 to a pipe": long_wav(0, 0, form=b"BW64"),
    "BW64 with 32 bits": wav(form=b"BW64"),
}


@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
@pytest.mark.parametrize("kind", HEADERS)
def test_whole_samples_behind_an_odd_header_are_read(kind, as_file, tmp_path):
    audio = HEADERS[kind]
    if as_file:
        audio = tmp_path / "odd.wav"
        audio.write_bytes(HEADERS[kind])

    np.testing.assert_array_equal(outcome(audio), speech().astype(np.float32) / 32768)


CUTS = {
    "of a megabyte": wav(1_234_604, 1_234_568),
    "of a gigabyte": wav(1_073_612_344, 1_073_612_308),
    "of nearly two gigabytes": wav(1_987_654_357, 1_987_654_320),
    "of three gigabytes": wav(3_000_123_492, 3_000_123_456),
    "of four gigabytes but a little": wav(4_200_000_036, 4_199_999_998),
    "of five gigabytes": long_wav(5_368_712_344, 5_368_712_272),
    "of five gigabytes, BW64": long_wav(5_368_712_344, 5_368_712_272, form=b"BW64"),
    "of 46 bytes": wav(LENGTH + 82, LENGTH + 46),
    "of half a second": wav(LENGTH + 16_036, LENGTH + 16_000),
    "with chunks behind": wav(LENGTH + 100_100, LENGTH + 100_000),
}


@pytest.mark.parametrize("kind", CUTS)
def test_a_real_cut_stays_refused(kind):
    assert outcome(CUTS[kind]) == "truncated"


def test_a_recording_of_five_gigabytes_is_found_in_a_file_that_leaves_its_length_open(tmp_path):
    """The header alone is looked at: a sparse file."""
    from hf_sqa.audio.containers import find_parts

    path = tmp_path / "long.wav"
    path.write_bytes(wav(0xFFFFFFFF, 0xFFFFFFFF)[:44])
    with path.open("r+b") as file:
        file.truncate(5 << 30)
        (part,) = find_parts(file, 5 << 30)

    assert (part.start, part.stop) == (44, 5 << 30)
    assert part.header.startswith(b"RF64\xff\xff\xff\xffWAVEds64")


# 4. Several recordings in a file


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis", "opus", "mp3"])
def test_recordings_written_one_behind_another_are_read_to_the_end(kind):
    once = outcome(encoded(*FORMATS[kind]))

    thrice = outcome(3 * encoded(*FORMATS[kind]))

    assert len(thrice) == 3 * len(once)
    np.testing.assert_allclose(thrice[-len(once) :], once, atol=1e-6)


def test_frames_behind_the_number_that_an_mp3_states_are_read():
    content = encoded(*FORMATS["mp3"])
    first_frame = 288

    assert len(outcome(content + content[first_frame:])) > 1.9 * len(speech())


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
def test_an_mp3_that_does_not_say_how_long_it_is_is_read_to_the_end(mode, rate):
    """libsndfile guesses from the first frames, and stops there."""
    buffer = io.BytesIO()
    quiet_then_loud = np.concatenate([speech(2.0, rate) / 32768, 0 * speech(4.0, rate), speech(4.0, rate) / 32768])
    soundfile.write(buffer, quiet_then_loud, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode)
    content = buffer.getvalue()
    with_tag = outcome(content)
    from hf_sqa.audio.containers.mpeg import _frame_of

    without_tag = outcome(content[_frame_of(content[:54]).length :])

    assert len(with_tag) == len(quiet_then_loud)
    assert len(without_tag) == pytest.approx(len(with_tag), abs=3000)  # of the tag, what the encoder added at the ends
    loud = np.sqrt(np.mean(without_tag[-3 * rate :] ** 2))
    assert loud == pytest.approx(np.sqrt(np.mean(with_tag[-3 * rate :] ** 2)), rel=0.1)


def test_recordings_of_different_rates_in_one_file_are_refused():
    assert outcome(encoded("FLAC", "PCM_16") + encoded("FLAC", "PCM_16", SECONDS, 8000)) == "unsupported"


@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 0), bytes(3000)])
@pytest.mark.parametrize("kind", ["mp3", "vorbis", "flac", "wav"])
def test_what_players_append_does_no_harm(kind, tag):
    np.testing.assert_allclose(outcome(encoded(*FORMATS[kind]) + tag), outcome(encoded(*FORMATS[kind])), atol=1e-6)


@pytest.mark.parametrize("kind", ["mp3", "flac"])
def test_tags_in_front_do_no_harm(kind):
    tag = b"ID3\x03\0\0\0\0\x03\x74" + bytes(500)

    np.testing.assert_allclose(outcome(tag + tag + encoded(*FORMATS[kind])), outcome(encoded(*FORMATS[kind])), atol=1e-6)


# 5. What is no recording

NO_RECORDINGS = {
    "nothing": (b"", "empty", "0 bytes"),
    "a byte": (b"x", "undecodable", "libsndfile cannot read it"),
    "text": (b"Dear Sir or Madam, " * 500, "undecodable", "libsndfile cannot read it"),
    "random bytes": (np.random.default_rng(1).bytes(20_000), "undecodable", "libsndfile cannot read it"),
    "zeros": (bytes(20_000), "undecodable", "libsndfile cannot read it"),
    "a web page": (b"<!doctype html><html><body>404</body></html>", "undecodable", "it is a web page"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "undecodable", "git lfs pull"),
    "a zip archive": (b"PK\x03\x04" + bytes(500), "undecodable", "unpack it first"),
    "something gzipped": (b"\x1f\x8b\x08" + bytes(500), "undecodable", "unpack it first"),
    "what macOS writes beside": (b"\x00\x05\x16\x07\x00\x02" + bytes(4000), "undecodable", "macOS writes beside"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(5000), "undecodable", "libsndfile cannot read it"),
    "a header alone": (wav(samples=np.zeros(0, np.int16)), "empty", "no samples follow"),
    "a header and a chunk": (wav(samples=np.zeros(0, np.int16), after=chunk(b"LIST", bytes(9000))), "empty", "no samples follow"),
    "a rate of 1 Hz": (wav().replace(struct.pack("<I", RATE), struct.pack("<I", 1), 1), "no_sampling_rate", "between 1000"),
}


@pytest.mark.parametrize("kind", NO_RECORDINGS)
def test_what_is_no_recording_says_what_it_is(kind):
    content, code, told = NO_RECORDINGS[kind]

    with pytest.raises(AudioError, match=told) as caught:
        load_recording(content)

    assert caught.value.code == code


def test_samples_without_a_header_say_how_they_are_given(tmp_path):
    path = tmp_path / "samples.raw"
    path.write_bytes(speech().tobytes())

    with pytest.raises(AudioError, match="samples without a header are given as an array with `sampling_rate`") as caught:
        load_recording(path)

    assert caught.value.code == "undecodable"


def test_a_wav_called_raw_is_read(tmp_path):
    path = tmp_path / "speech.raw"
    path.write_bytes(wav())

    assert len(outcome(path)) == len(speech())


@pytest.mark.parametrize("content", [b"", b"\x00\x05\x16\x07" + bytes(4092)], ids=["empty", "a resource fork"])
@pytest.mark.parametrize("kind", ["mp3", "wav", "flac"])
def test_what_macos_wrote_beside_a_recording_does_no_harm(kind, content, tmp_path):
    (tmp_path / f"speech.{kind}").write_bytes(encoded(*FORMATS[kind]))
    (tmp_path / f"._speech.{kind}").write_bytes(content)

    assert len(outcome(tmp_path / f"speech.{kind}")) == len(speech())


# 6. Sources


class Odd:
    """A source whose every use raises."""

    def __init__(self, error):
        self._error = error

    def read(self, *_):
        raise self._error

    def get_all_samples(self):
        raise self._error


class OddMapping(dict):
    def get(self, *_):
        raise RuntimeError("the data set is closed")


class OddArray:
    shape, ndim, dtype = (16_000,), 1, np.dtype("float32")

    def detach(self):
        raise RuntimeError("the tensor is on a device that is gone")


ODD_SOURCES = {
    "a decoder that fails": Odd(RuntimeError("Could not push packet to decoder")),
    "a decoder out of memory": Odd(MemoryError()),
    "a decoder with an error of its own": Odd(type("DecoderError", (Exception,), {})("?")),
    "a data set that is closed": OddMapping(path="a.wav"),
    "a tensor that is gone": OddArray(),
    "a list": [0.1, 0.2],
    "a number": 3.5,
    "nothing": None,
    "a set": {1, 2},
}


@pytest.mark.parametrize("kind", ODD_SOURCES)
def test_whatever_a_source_raises_is_an_audio_error(kind):
    with pytest.raises(AudioError) as caught:
        load_recording(ODD_SOURCES[kind], input_sampling_rate=RATE)

    assert caught.value.code in ("undecodable", "unsupported", "unreachable", "out_of_memory")


@pytest.mark.parametrize("rate", [np.array(RATE), np.array(float(RATE)), torch.tensor(RATE), np.int32(RATE), float(RATE)], ids=repr)
def test_a_rate_without_dimensions_is_a_number(rate):
    array = speech() / 32768

    assert len(outcome({"array": array, "sampling_rate": rate})) == len(array)
    assert len(outcome(array, input_sampling_rate=rate)) == len(array)


@pytest.mark.parametrize("rate", [np.array([RATE]), np.array(True), torch.tensor(float("nan")), np.array("16000")], ids=repr)
def test_what_has_a_shape_or_is_no_number_is_no_rate(rate):
    assert outcome({"array": speech() / 32768, "sampling_rate": rate}) == "no_sampling_rate"


@pytest.mark.parametrize("kind", ["BytesIO", "at its end", "opened file", "without a way back"])
def test_a_file_object_gives_its_samples_again(kind, tmp_path):
    (tmp_path / "speech.wav").write_bytes(wav())
    file = io.BytesIO(wav())
    if kind == "at its end":
        file.seek(0, io.SEEK_END)
    if kind == "opened file":
        file = (tmp_path / "speech.wav").open("rb")
    if kind == "without a way back":
        process = subprocess.Popen(["cat", str(tmp_path / "speech.wav")], stdout=subprocess.PIPE)
        file = process.stdout

    first, second = outcome(file), outcome(file)

    assert len(first) == len(speech())
    assert isinstance(second, str) == (kind == "without a way back")
    file.close()


@pytest.mark.parametrize("written", ["file://{path}", "file://localhost{path}", "file:{path}"])
def test_a_file_url_is_read(written, tmp_path):
    path = tmp_path / "a b" / "Gr\u00fc\u00dfe.wav"
    path.parent.mkdir()
    path.write_bytes(wav())

    assert len(outcome(written.format(path=str(path).replace(" ", "%20")))) == len(speech())
    assert len(outcome(path.as_uri())) == len(speech())


def test_a_file_url_of_another_machine_is_refused():
    assert outcome("file://server/share/a.wav") == "unreachable"


def test_a_link_to_nothing_says_where_it_leads(tmp_path):
    (tmp_path / "a.wav").symlink_to("gone.wav")

    with pytest.raises(AudioError, match=r"it is a link to 'gone.wav'"):
        load_recording(tmp_path / "a.wav")


@pytest.mark.parametrize("named", ["sub\\a.wav", "sub/a", "./sub\\a"])
def test_a_path_as_people_write_it_is_read(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.wav").write_bytes(wav())

    assert len(outcome(named)) == len(speech())


def test_damage_drawn_by_chance_is_read_or_refused_and_never_unforeseen(capfd):
    """The first of the damaged files of `benchmarks/fuzz_audio.py`, in this process."""
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_audio.py"
    spec = importlib.util.spec_from_file_location("fuzz_audio", path)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    files = fuzz.made_files(1.0)
    whole = {name: load_recording(content, sampling_rate=fuzz.RATE).waveform for name, content in files.items()}

    outcomes = [fuzz.outcome(whole, fuzz.damaged(files, number, seed=1)) for number in range(300)]

    assert set(outcomes) <= {"same", "shorter", "other", "empty", "truncated", "undecodable", "gate", "rest"}
    assert outcomes.count("truncated") > 60
    assert capfd.readouterr() == ("", "")


def test_nothing_but_errors_comes_to_the_terminal(tmp_path):
    """libmpg123 writes by itself, below Python; what others write meanwhile comes through."""
    content = bytearray(encoded(*FORMATS["mp3"]))
    for place in range(1500, len(content) - 1500, 700):
        content[place : place + 40] = np.random.default_rng(place).bytes(40)
    (tmp_path / "damaged.mp3").write_bytes(content)
    (tmp_path / "tagged.mp3").write_bytes(b"ID3\x04\0\0\xff\xff\xff\xff" + bytes(300) + encoded(*FORMATS["mp3"]))
    code = (
        "import sys\n"
        "from hf_sqa.audio import load_recording, AudioError\n"
        "from hf_sqa.audio.files import without_decoder_messages\n"
        "for name in sys.stdin.read().split():\n"
        "    try: load_recording(name, sampling_rate=16000)\n"
        "    except AudioError: pass\n"
        "with without_decoder_messages(): print('of another thread', file=sys.stderr, flush=True)\n"
    )
    names = " ".join(str(path) for path in sorted(tmp_path.glob("*.mp3")))

    result = subprocess.run(
        [sys.executable, "-c", code], input=names, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "of another thread\n")
