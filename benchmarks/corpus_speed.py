"""Speed and memory of scoring a corpus, beside the bare model and what a user would pick instead, in one run.

    python benchmarks/corpus_speed.py                           # 2,000 clips of ten seconds, peers on twenty of them
    python benchmarks/corpus_speed.py --clips 200               # a tenth of that
    python benchmarks/corpus_speed.py --rows 1000000            # memory of a manifest of a million rows, too
    python benchmarks/corpus_speed.py --cores 2                 # the command on one core beside two, wall time: needs free cores
    python benchmarks/corpus_speed.py --clips 0 --reading       # decoding, resampling and checks beside scoring, by format

CPU time, of this process and of those it starts, one thread each. The bare model is `score_recordings` on arrays that are decoded
already; the two take turns, so that a busy machine slows both. Half of the clips are FLAC at 16 kHz, half WAV at 48 kHz.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import soundfile
import soxr
import torch
from machine import print_machine
from score_speed import ROOT, original_model, peak_resident_bytes, speech

torch.set_num_threads(1)

RATE = 16_000
NUM_DISTINCT = 40
#: Ways to run the default model, and its students.
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {"mode": "published"},
    "fast": {"mode": "fast"},
    "fast, bfloat16": {"mode": "fast", "dtype": "bfloat16"},
    "fast, bfloat16, no overlap": {"mode": "fast", "dtype": "bfloat16", "hop_seconds": 7.68},
    "student s": {"model": "distilled-sqa-s"},
    "student xs": {"model": "distilled-sqa-xs"},
}


def make_clips(folder: Path, num_clips: int, seconds: float) -> list[Path]:
    """Write clips of speech; beyond the distinct ones they are links."""
    whole = speech(min(num_clips, NUM_DISTINCT) * seconds)
    paths = []
    for index in range(num_clips):
        suffix = "flac" if index % 2 else "wav"
        path = folder / f"{index:06d}.{suffix}"
        if index < NUM_DISTINCT:
            piece = whole[round(index * seconds * RATE) : round((index + 1) * seconds * RATE)]
            if suffix == "wav":
                soundfile.write(path, soxr.resample(piece, RATE, 48_000), 48_000)
            else:
                soundfile.write(path, piece, RATE)
        else:
            os.link(paths[index % NUM_DISTINCT], path)
        paths.append(path)
    return paths


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure_overhead(paths: list[Path], seconds: float, variant: str, rounds: int) -> None:
    """Corpus scoring beside the bare model, in turns over pieces of the clips."""
    from hf_sqa.audio import load_recording
    from hf_sqa.scoring import CorpusScorer, Settings, score_corpus

    options = dict(VARIANTS[variant])
    settings = Settings(device="cpu", num_workers=1, num_processes=1, **options)
    worker = CorpusScorer(settings)
    scoring = {name: value for name, value in options.items() if name not in ("dtype", "model")}
    recordings = [load_recording(str(path), sampling_rate=RATE) for path in paths[:NUM_DISTINCT]]
    bare = corpus = 0.0
    num_bare = num_corpus = 0
    size = -(-len(paths) // rounds)
    with tempfile.TemporaryDirectory() as folder:
        for number, start in enumerate(range(0, len(paths), size)):
            piece = paths[start : start + size]
            some = [recordings[index % len(recordings)] for index in range(start, start + len(piece))]
            before = cpu_seconds()
            for recording in some:
                worker.model.score_recordings([recording], worker.scorer.feature_extractor, **scoring)
            bare, num_bare = bare + cpu_seconds() - before, num_bare + len(some)
            listed = Path(folder) / f"{number}.txt"
            listed.write_text("\n".join(map(str, piece)))
            before = cpu_seconds()
            score_corpus(listed, Path(folder) / f"out{number}", settings, scorer=worker.scorer)
            corpus, num_corpus = corpus + cpu_seconds() - before, num_corpus + len(piece)
    hours = 3600 * seconds / 3600
    print(
        f"  {variant:<28} bare model {hours * num_bare / bare:7.1f}   corpus {hours * num_corpus / corpus:7.1f} audio-hours per "
        f"core-hour   {bare / num_bare / (corpus / num_corpus):6.1%} of the bare model, {num_corpus} clips",
        flush=True,
    )


def peers(folder: Path) -> Iterable[tuple[str, Callable[[str], Any]]]:
    """What a user would pick: a name, and what scores one file."""

    def read(path: str, rate: int) -> np.ndarray:
        samples, source_rate = soundfile.read(path, dtype="float32")
        return samples if source_rate == rate else soxr.resample(samples, source_rate, rate)

    try:
        original = original_model()

        def distillmos(path: str) -> Any:
            with torch.inference_mode():
                return original(torch.from_numpy(read(path, RATE))[None])

        yield "distillmos (its loop: file by file)", distillmos
    except ImportError as error:
        print(f"  distillmos: not at hand ({error})")
    try:
        from speechmos import dnsmos

        yield "DNSMOS (speechmos)", lambda path: dnsmos.run(read(path, RATE), RATE)
    except ImportError as error:
        print(f"  DNSMOS (speechmos): not at hand ({error})")
    try:
        from torchmetrics.functional.audio import nisqa

        weights = ROOT.parent / "shared" / "checkpoints" / "nisqa"
        if (weights / "nisqa.tar").is_file():
            nisqa.NISQA_DIR = str(weights)
        score = nisqa.non_intrusive_speech_quality_assessment
        score(torch.randn(RATE * 2), RATE)
        yield "NISQA (torchmetrics)", lambda path: score(torch.from_numpy(read(path, 48_000)), 48_000)
    except Exception as error:
        print(f"  NISQA (torchmetrics): not at hand ({type(error).__name__}: {str(error)[:80]})")


def measure_peers(paths: list[Path], seconds: float, folder: Path) -> None:
    for name, score in peers(folder):
        score(str(paths[0]))
        before = time.process_time()
        for path in paths:
            score(str(path))
        cpu = time.process_time() - before
        print(f"  {name:<38} {len(paths) * seconds / cpu:7.1f} audio-hours per core-hour, {len(paths)} clips", flush=True)


def measure_memory(num_rows: int, folder: Path, scored_share: float) -> None:
    """Peak memory of a process that goes through a long manifest; clips of 0.3 s, the rest are missing files."""
    from hf_sqa import DistilledSQA, DistilledSQAConfig

    model = DistilledSQA(DistilledSQAConfig.tiny()).eval()
    model.save_pretrained(folder / "tiny")
    model.make_feature_extractor().save_pretrained(folder / "tiny")
    soundfile.write(folder / "short.wav", speech(0.3), RATE)
    every = max(1, round(1 / scored_share))
    with (folder / "long.jsonl").open("w") as file:
        for row in range(num_rows):
            name = "short.wav" if row % every == 0 else f"absent/{row}.wav"
            file.write(json.dumps({"id": f"row-{row:08d}", "audio_filepath": name, "language": "de", "text": "x" * 40}) + "\n")
    command = [sys.executable, __file__, "--score-and-report", str(folder)]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(child.stdout.splitlines()[-1])
    print(
        f"\n{result['rows']:,} rows, {result['ok']:,} of them scored: {result['peak'] / 1e9:.2f} GB resident at most, "
        f"{result['cpu']:.0f} s CPU, complete: {result['complete']}"
    )


def score_and_report(folder: Path) -> None:
    from hf_sqa.scoring import score_corpus

    before = cpu_seconds()
    progress = score_corpus(folder / "long.jsonl", folder / "long-out", model=str(folder / "tiny"), device="cpu", num_workers=0)
    result = {"rows": progress.rows, "ok": progress.statuses["ok"], "complete": progress.complete, "peak": peak_resident_bytes()}
    print(json.dumps({**result, "cpu": cpu_seconds() - before}))


def measure_cores(folder: Path, clips: Path, num_cores: int, models: list[str]) -> None:
    """The command as it is on one core and on several, its start included: wall time, and CPU time of all its processes."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    there = os.sched_getaffinity(0)
    for model in models:
        walls, cpus = [], []
        for count in (1, num_cores):
            command = [sys.executable, "-m", "hf_sqa", "score", str(clips), "--output", str(folder / f"cores{count}-{model}")]
            os.sched_setaffinity(0, sorted(there)[:count])
            before, started = cpu_seconds(), time.monotonic()
            subprocess.run([*command, "--device", "cpu", "--model", model], check=True, stderr=subprocess.DEVNULL, env=environment)
            walls.append(time.monotonic() - started)
            cpus.append(cpu_seconds() - before)
            os.sched_setaffinity(0, there)
        print(
            f"  {model}: one core {walls[0]:.1f} s ({cpus[0]:.1f} s CPU), {num_cores} {walls[1]:.1f} s ({cpus[1]:.1f} s CPU), "
            f"{walls[0] / walls[1]:.2f} times as fast; by CPU time {num_cores * cpus[0] / cpus[1]:.2f} at most",
            flush=True,
        )


#: Container, subtype and rate of the files whose reading is measured.
FORMATS = {
    "WAV, 16 kHz": ("WAV", "PCM_16", RATE),
    "FLAC, 16 kHz": ("FLAC", "PCM_16", RATE),
    "WAV, 48 kHz": ("WAV", "PCM_16", 48_000),
    "FLAC, 48 kHz": ("FLAC", "PCM_16", 48_000),
    "MP3, 48 kHz": ("MP3", "MPEG_LAYER_III", 48_000),
    "Opus, 48 kHz": ("OGG", "OPUS", 48_000),
}


def measure_reading(folder: Path, seconds: float, models: list[str]) -> None:
    """CPU time of what happens to one file, by format: decoding and resampling alone, all that reading does, and scoring."""
    from hf_sqa import pipeline
    from hf_sqa.audio import load_recording

    def milliseconds(function: Callable[..., Any], *arguments: Any, num_times: int = 30, **options: Any) -> float:
        function(*arguments, **options)
        before = time.process_time()
        for _ in range(num_times):
            function(*arguments, **options)
        return 1000 * (time.process_time() - before) / num_times

    samples = speech(seconds)
    recording = load_recording({"array": samples, "sampling_rate": RATE}, sampling_rate=RATE)
    scorers = {model: pipeline(model, device="cpu") for model in models}
    scoring = {
        name: milliseconds(scorer.model.score_recordings, [recording], scorer.feature_extractor) for name, scorer in scorers.items()
    }
    print(f"CPU milliseconds of {seconds:g} s; scoring: {', '.join(f'{name} {each:.1f}' for name, each in scoring.items())}")
    for name, (container, subtype, rate) in FORMATS.items():
        path = str(folder / f"clip.{container.lower()}")
        written = samples if rate == RATE else soxr.resample(samples, RATE, rate)
        soundfile.write(path, written, rate, format=container, subtype=subtype)
        decoding = milliseconds(soundfile.read, path, dtype="float32")
        resampling = milliseconds(soxr.resample, written, rate, RATE) if rate != RATE else 0.0
        reading = milliseconds(load_recording, path, sampling_rate=RATE)
        shares = ", ".join(f"{reading / (reading + each):.0%} of the work with {model}" for model, each in scoring.items())
        checks = reading - decoding - resampling
        print(f"  {name:<13} decoding {decoding:5.1f}   resampling {resampling:5.1f}   checks {checks:5.1f}   {shares}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=4, help="turns of the bare model and the corpus")
    parser.add_argument("--peer-clips", type=int, default=20, help="clips for what is measured beside")
    parser.add_argument("--cores", type=int, default=0, help="compare the command on one core with that on so many")
    parser.add_argument("--reading", action="store_true", help="compare reading, by format, with scoring")
    parser.add_argument("--models", nargs="*", default=["distilled-sqa-xs"], help="models of --cores and --reading")
    parser.add_argument("--rows", type=int, default=0, help="rows of the manifest whose memory is measured")
    parser.add_argument(
        "--scored-share", type=float, default=1.0, help="share of these rows that hold a clip; the others are missing"
    )
    parser.add_argument("--score-and-report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    print_machine()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.score_and_report:
        score_and_report(options.score_and_report)
        return
    folder = Path(tempfile.mkdtemp(prefix="corpus-speed-"))
    try:
        (folder / "clips").mkdir()
        paths = make_clips(folder / "clips", options.clips, options.seconds) if options.clips else []
        if paths:
            print(f"{options.clips} clips of {options.seconds:g} s")
            for variant in options.variants:
                measure_overhead(paths, options.seconds, variant, options.rounds)
            if options.peer_clips:
                measure_peers(paths[: options.peer_clips], options.seconds, folder)
        if options.cores:
            measure_cores(folder, folder / "clips", options.cores, options.models)
        if options.reading:
            measure_reading(folder, options.seconds, options.models)
        if options.rows:
            measure_memory(options.rows, folder, options.scored_share)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
