"""What becomes of damaged files: crashes, hangs and unforeseen errors, of which there must be none, and what is read or refused.

    python benchmarks/fuzz_audio.py                        # 2,000 damaged files of made speech
    python benchmarks/fuzz_audio.py --mutations 20000 --seed 7

Files are decoded in processes of their own (`hf_sqa.isolation`), as in a corpus run, so that a crash is a number in the table. Of
what is read, "same" has the samples of the undamaged file, "shorter" fewer of them, "other" as many or more and other values: in
a format without checksums nothing can tell these from a recording that sounds so. "gate" was read and holds nothing to judge. The
exit code is 1 if anything crashed, hung, or raised what nobody foresaw.
"""

import argparse
import io
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np
import soundfile

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.isolation import Isolated, Lost

RATE = 16_000
FORMATS = {
    "WAV": ("WAV", "PCM_16"),
    "WAV float": ("WAV", "FLOAT"),
    "WAV ADPCM": ("WAV", "IMA_ADPCM"),
    "RF64": ("RF64", "PCM_16"),
    "W64": ("W64", "PCM_16"),
    "AIFF": ("AIFF", "PCM_16"),
    "AU": ("AU", "PCM_16"),
    "CAF ALAC": ("CAF", "ALAC_16"),
    "SPHERE": ("NIST", "PCM_16"),
    "VOC": ("VOC", "PCM_16"),
    "MAT5": ("MAT5", "PCM_16"),
    "SDS": ("SDS", "PCM_16"),
    "FLAC": ("FLAC", "PCM_16"),
    "Vorbis": ("OGG", "VORBIS"),
    "Opus": ("OGG", "OPUS"),
    "MP3": ("MP3", "MPEG_LAYER_III"),
}
#: Format and encoder of FFmpeg, and rate in Hz; left out without PyAV.
CONTAINERS = {
    "M4A": ("ipod", "aac", RATE),
    "AAC": ("adts", "aac", RATE),
    "WebM": ("webm", "libopus", 48_000),
    "WMA": ("asf", "wmav2", RATE),
    "AMR": ("amr", "libopencore_amrnb", 8_000),
}
COLUMNS = ("same", "shorter", "other", "empty", "truncated", "undecodable", "gate", "rest", "unforeseen", "hangs", "crashes")
FAULTS = ("unforeseen", "hangs", "crashes")
TIMEOUT_SECONDS = 60.0


def speech(seconds: float, rate: int) -> np.ndarray:
    """A voiced tone in syllables, with some noise."""
    time = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 130 * harmonic * time) / harmonic for harmonic in range(1, 25))
    noise = 0.005 * np.random.default_rng(3).standard_normal(len(time))
    return (0.1 * voice * (1 - np.cos(8 * np.pi * time)) / 2 + noise).astype(np.float32)


def made_files(seconds: float) -> dict[str, bytes]:
    """An undamaged file of each format."""
    files = {}
    for name, (container, subtype) in FORMATS.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, speech(seconds, RATE), RATE, format=container, subtype=subtype)
        files[name] = buffer.getvalue()
    try:
        import av
    except ImportError:
        print("Without PyAV: M4A, AAC, WebM, WMA and AMR are left out.", file=sys.stderr)
        return files
    for name, (container, codec, rate) in CONTAINERS.items():
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as output:
            stream = output.add_stream(codec, rate=rate, layout="mono")
            stream.bit_rate = 12_200 if rate == 8_000 else 64_000
            pcm = np.round(32767 * speech(seconds, rate)[None]).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16p", layout="mono")
            frame.sample_rate = rate
            resampler = av.AudioResampler(stream.format.name, stream.layout, rate, stream.frame_size)
            for ready in [*resampler.resample(frame), *resampler.resample(None)]:
                output.mux(stream.encode(ready))
            output.mux(stream.encode(None))
        files[name] = buffer.getvalue()
    return files


def flip_bits(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(len(content), size=int(rng.choice([1, 3, 30]))):
        content[place] ^= 1 << rng.integers(8)


def change_header(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(min(len(content), 120), size=int(rng.integers(1, 5))):
        content[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])


def cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(1, len(content))) :]


def _stretch(content: bytearray, rng: np.random.Generator) -> slice:
    first = int(rng.integers(len(content)))
    return slice(first, first + int(rng.choice([1, 10, 500, 5000])))


def leave_out(content: bytearray, rng: np.random.Generator) -> None:
    del content[_stretch(content, rng)]


def repeat(content: bytearray, rng: np.random.Generator) -> None:
    stretch = _stretch(content, rng)
    content[stretch.start : stretch.start] = content[stretch]


def overwrite_by_zeros(content: bytearray, rng: np.random.Generator) -> None:
    stretch = _stretch(content, rng)
    content[stretch] = bytes(len(content[stretch]))


def overwrite_by_noise(content: bytearray, rng: np.random.Generator) -> None:
    stretch = _stretch(content, rng)
    content[stretch] = rng.bytes(len(content[stretch]))


def append(content: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.choice([1, 100, 10_000]))
    content += bytes(size) if rng.random() < 0.5 else rng.bytes(size)


def swap(content: bytearray, rng: np.random.Generator) -> None:
    first, second = sorted(int(place) for place in rng.integers(len(content), size=2))
    size = min(500, second - first, len(content) - second)
    one, other = content[first : first + size], content[second : second + size]
    content[first : first + size], content[second : second + size] = other, one


def begin_as_another(content: bytearray, rng: np.random.Generator) -> None:
    beginning = rng.choice(
        [b"RIFF", b"OggS", b"fLaC", b"ID3\x04", b"\xff\xfb\x90\x64", b"\0\0\0\x18ftyp", b"\x1aE\xdf\xa3", b"#!AMR\n"]
    )
    content[: len(beginning)] = bytes(beginning)


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    *(flip_bits, change_header, cut, leave_out, repeat, overwrite_by_zeros, overwrite_by_noise, append, swap, begin_as_another),
)


def damaged(files: dict[str, bytes], number: int, seed: int) -> tuple[str, bytes]:
    """The format and the content of one damaged file; the same for the same seed and number."""
    rng = np.random.default_rng([seed, number])
    name = list(files)[number % len(files)]
    content = bytearray(files[name])
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        if content:
            MUTATIONS[int(rng.integers(len(MUTATIONS)))](content, rng)
    return name, bytes(content)


def outcome(whole: dict[str, np.ndarray], item: tuple[str, bytes]) -> str:
    """One of `COLUMNS`, but for what ends the process."""
    name, content = item
    try:
        waveform = load_recording(content, sampling_rate=RATE).waveform
    except AudioError as error:
        if error.message.startswith("it cannot be read ("):  # of an error that nobody foresaw
            print(f"{name}: {error}", file=sys.stderr)
            return "unforeseen"
        if error.status == "abstained":
            return "gate"
        return error.code if error.code in COLUMNS else "rest"
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return "unforeseen"
    expected = whole[name]
    if len(waveform) < len(expected) - RATE // 50:
        return "shorter"
    same = len(waveform) == len(expected) and np.allclose(waveform, expected, atol=1e-4)
    return "same" if same else "other"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    from machine import print_machine

    print_machine()
    files = made_files(2.0)
    whole = {name: load_recording(content, sampling_rate=RATE).waveform for name, content in files.items()}
    items = [damaged(files, number, arguments.seed) for number in range(arguments.mutations)]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    lost = {"timed_out": "hangs", "decoder_died": "crashes"}
    import fuzz_audio  # by its name: the processes know no `__main__`

    with Isolated(partial(fuzz_audio.outcome, whole), arguments.workers, TIMEOUT_SECONDS) as isolated:
        for (name, _), found in isolated.map(items):
            counts[name][lost[found.code] if isinstance(found, Lost) else found] += 1
    print(f"{'format':10s}{'files':>7s}" + "".join(f"{column:>12s}" for column in COLUMNS))
    total = sum(counts.values(), Counter())
    for name, row in [*((name, counts[name]) for name in files), ("all", total)]:
        print(f"{name:10s}{sum(row.values()):7d}" + "".join(f"{row[column]:12d}" for column in COLUMNS))
    return int(any(total[fault] for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
