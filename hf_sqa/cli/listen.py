"""`hf-sqa listen`: shows the quality of sound from standard input while it is arriving."""

import io
import itertools
import json
import struct
import sys
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO

import typer

from hf_sqa.cells import clock
from hf_sqa.cli.stopping import faults_end_it, quiet, say, stop

#: Length of the blocks that are read.
PORTION_SECONDS = 0.1
#: Characters of the moving line, from score 1 to 5, and the number of points that it shows.
BLOCKS, SHOWN = "▁▂▃▄▅▆▇█", 60
#: Sample formats by their names in FFmpeg, and the WAV codes (format, bits) that can be read.
FORMATS = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}
WAV_FORMATS = {(1, 16): "s16le", (1, 32): "s32le", (3, 32): "f32le"}
WAV_EXTENSIBLE = 0xFFFE
#: Stated sizes of the samples from this one on, and 0, mean unknown: FFmpeg and SoX write them into a pipe.
UNKNOWN_SIZE = 0x7FFF0000
#: First bytes of files that do not hold raw samples.
OTHER_KINDS = {
    b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"RF64": "RF64", b"RIFX": "RIFX", b"FORM": "AIFF", b".snd": "AU",
    b"caff": "CAF", b"riff": "Wave64", b"\x1a\x45\xdf\xa3": "WebM", b"#!AMR": "AMR",
}  # fmt: skip
CONVERT = "convert it on the way: `ffmpeg -i - -f s16le -ac 1 -ar 16000 -`."


@faults_end_it("Interrupted before anything was heard.")
def listen(
    source: Annotated[str, typer.Argument(help="`-`: raw PCM or WAV on standard input.")] = "-",
    model: Annotated[
        str, typer.Option(help="A short name, a local folder, or a Hub id; students take a few per cent of a core.")
    ] = "distilled-sqa-s",
    sampling_rate: Annotated[int, typer.Option(min=1000, help="Rate of raw PCM in Hz; a WAV states its own.")] = 16_000,
    channels: Annotated[int, typer.Option(min=1, help="Channels of raw PCM; they are averaged.")] = 1,
    sample_format: Annotated[
        str, typer.Option("--format", help="Samples of raw PCM: `s16le`, `s32le` or `f32le`, as FFmpeg calls them.")
    ] = "s16le",
    hop_seconds: Annotated[float, typer.Option(help="Seconds from one score to the next.")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each score.")] = False,
) -> None:
    """Show the quality of sound while it arrives: a moving line on a terminal, one line per score in a pipe.

    The scores are those of `hf-sqa score --timeline` for the same sound, one or two seconds later. With the default model and the
    students, the first scores come after eight seconds, when the level of the curve is known.

    Examples:

    - `ffmpeg -loglevel error -i https://radio.example/stream -f s16le -ac 1 -ar 16000 - | hf-sqa listen -`
    - `arecord -q -f S16_LE -r 16000 | hf-sqa listen -`
    - `hf-sqa listen - --json < call.wav`
    """
    if source != "-":
        stop(f"Expected `-`, standard input, got {source!r}; for a file: `hf-sqa score {source} --timeline`.")
    if sample_format not in FORMATS:
        stop(f"Expected --format to be one of {', '.join(FORMATS)}, got {sample_format!r}.")
    quiet()
    stream: BinaryIO = sys.stdin.buffer
    meter, is_redrawn = None, sys.stdout.isatty() and not as_json
    end = "" if is_redrawn else "\n"
    try:
        head, size, sampling_rate, channels, sample_format = _opened(stream, sampling_rate, channels, sample_format)
        import hf_sqa

        meter = hf_sqa.QualityMeter(model, hop_seconds=hop_seconds, sampling_rate=sampling_rate, device="cpu")
        text_of = json.dumps if as_json else _Line().drawn if is_redrawn else _in_words
        portions = _portions(stream, head, size, sampling_rate, channels, sample_format)
        first = next(portions, None)
        if first is None:
            raise ValueError("Expected samples on standard input, got none: what writes them has failed.")
        for samples in itertools.chain([first], portions):
            for point in meter.feed(samples):
                print(text_of(point), end=end, flush=True)
        for point in meter.close():
            print(text_of(point), end=end, flush=True)
    except KeyboardInterrupt:
        if meter is None:
            raise
    if is_redrawn:
        typer.echo("")
    running = next(iter(meter.running.values()))
    say("Nobody spoke." if running is None else f"Mean of the local scores: {running:.2f}")


def _opened(stream: BinaryIO, sampling_rate: int, channels: int, sample_format: str) -> tuple[bytes, int | None, int, int, str]:
    """Return the first bytes, the size of all samples if known, their rate, channels and format; from the header of a WAV."""
    head = stream.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        begins = [kind for start, kind in OTHER_KINDS.items() if head.startswith(start)] + ["MP4"] * (head[4:8] == b"ftyp")
        if begins:
            raise ValueError(f"Expected raw PCM or WAV, got what begins as {begins[0]} does; {CONVERT}")
        return head, None, sampling_rate, channels, sample_format
    found: str | None = None
    while len(chunk := stream.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            if found is None:
                break
            return b"", size if 0 < size < UNKNOWN_SIZE else None, sampling_rate, channels, found
        content = stream.read(size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            code, channels, sampling_rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            code = struct.unpack("<H", content[24:26])[0] if code == WAV_EXTENSIBLE and len(content) >= 26 else code
            found = WAV_FORMATS.get((code, bits))
            if found is None or not channels:
                raise ValueError(
                    "Expected a WAV of 16 bits, 32 bits or 32 floating-point bits, got "
                    f"{channels} channels in format {code} of {bits} bits; {CONVERT}"
                )
    raise ValueError("Expected samples after the header of the WAV, got none.")


def _portions(
    stream: BinaryIO, head: bytes, left: int | None, sampling_rate: int, channels: int, sample_format: str
) -> Iterator[Any]:
    """Yield samples as they arrive, at most `left` bytes of them."""
    import numpy as np

    kind = np.dtype(FORMATS[sample_format])
    frame = kind.itemsize * channels
    size = max(1, round(PORTION_SECONDS * sampling_rate)) * frame
    read = stream.read1 if isinstance(stream, io.BufferedReader) else stream.read
    waiting = head
    while content := read(size if left is None else min(size, left)):
        left = None if left is None else left - len(content)
        waiting += content
        usable = len(waiting) - len(waiting) % frame
        if usable:
            yield np.frombuffer(waiting[:usable], kind).reshape(-1, channels)
            waiting = waiting[usable:]


def _scores(point: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name not in ("start", "end", "running")}


def _in_words(point: dict[str, Any]) -> str:
    scores = "  ".join("silent" if value is None else f"{name} {value:.2f}" for name, value in _scores(point).items())
    running = "" if point["running"] is None else f"  mean {point['running']:.2f}"
    return f"{clock(point['end'])}  {scores}{running}"


class _Line:
    """One line that is redrawn: the last points as blocks, the last score and the mean."""

    def __init__(self) -> None:
        self._points: list[float | None] = []

    def drawn(self, point: dict[str, Any]) -> str:
        value = next(iter(_scores(point).values()))
        self._points = [*self._points, value][-SHOWN:]
        drawn = "".join(
            " " if score is None else BLOCKS[min(len(BLOCKS) - 1, max(0, int((score - 1) / 4 * len(BLOCKS))))]
            for score in self._points
        )
        words = "silent" if value is None else f"{value:.1f}"
        mean = "" if point["running"] is None else f"mean {point['running']:.2f}"
        return f"\r{clock(point['end']):>8}  {drawn:<{SHOWN}}  {words:6}  {mean}\x1b[K"
