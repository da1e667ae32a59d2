"""Speed, memory and difference of DistilledSQA beside the original Distill-MOS code, in one process tree.

    python benchmarks/score_speed.py                                  # all of it, about fifteen minutes
    python benchmarks/score_speed.py --no-memory --no-differences     # speed alone
    make bench                                                        # the same with fewer rounds, and the other benchmarks

A processor that only emulates bfloat16 takes many minutes for a long clip in it: there it is measured on clips up to 10 s.

CPU time on one thread; the two sides take turns, so that a busy machine slows both. The original is the code of the PyPI package
`distillmos`, unchanged. Speech comes from ../shared/data/p808 where that folder exists, else from examples/.
"""

import argparse
import importlib.machinery
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import soundfile
import torch
from machine import print_machine

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
#: Seconds of the longest clip in bfloat16 on a processor that only emulates it.
LONGEST_EMULATED = 10
RATE = 16_000
GIGABYTE = 1024**3


def speech(seconds: float) -> np.ndarray:
    """Speech of many talkers and levels at 16 kHz, as long as asked for."""
    files = sorted((ROOT.parent / "shared" / "data" / "p808" / "wideband").glob("*.flac"))
    gains = np.ones(len(files))
    if not files:
        files = sorted((ROOT / "examples").glob("*.flac"))
        gains = 10 ** (-np.arange(len(files)) / 20)
    pieces, total = [], 0
    while total < seconds * RATE:
        for file, gain in zip(files, gains, strict=True):
            samples = soundfile.read(file, dtype="float32")[0] * np.float32(gain)
            pieces.append(samples)
            total += len(samples)
            if total >= seconds * RATE:
                break
    return np.concatenate(pieces)[: round(seconds * RATE)]


def original_model():
    """The original, from the package `distillmos`."""
    # The package imports torchaudio for its command line only; the build on PyPI needs CUDA libraries to be imported.
    for name in ("torchaudio", "torchaudio.transforms"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
    sys.modules["torchaudio"].transforms = sys.modules["torchaudio.transforms"]
    sys.modules["torchaudio.transforms"].MFCC = object
    import distillmos

    return distillmos.ConvTransformerSQAModel().eval()


def measure_speed(lengths: list[float], rounds: int) -> None:
    import hf_sqa
    from hf_sqa.blocks.precision import computes_in_bfloat16

    original = original_model()
    exact, narrow = hf_sqa.pipeline(device="cpu"), hf_sqa.pipeline(device="cpu", dtype=torch.bfloat16)

    def run_original(waveform: np.ndarray) -> float:
        with torch.inference_mode():
            return original(torch.from_numpy(waveform)[None]).item()

    def ours(scorer, **options):
        return lambda waveform: scorer(waveform, sampling_rate=RATE, **options)["mos"]

    variants = {
        "original": run_original,
        "published": ours(exact),
        "published bf16": ours(narrow),
        "fast": ours(exact, mode="fast"),
        "fast bf16": ours(narrow, mode="fast"),
        "fast, hop 2 s": ours(exact, mode="fast", hop_seconds=2.0),
        "fast, hop 4 s": ours(exact, mode="fast", hop_seconds=4.0),
        "fast, no overlap": ours(exact, mode="fast", hop_seconds=7.68),
    }
    print(f"{'clip':>7}  {'variant':<17} {'CPU s':>7} {'ratio':>7}  {'MOS':>7}  {'off published by':>16}")
    for seconds in lengths:
        waveform = speech(seconds)
        chosen = variants if seconds > 7.68 else {name: run for name, run in variants.items() if "hop" not in name}
        chosen = {name: run for name, run in chosen.items() if seconds > 7.68 or "fast" not in name}
        if seconds > LONGEST_EMULATED and not computes_in_bfloat16():
            chosen = {name: run for name, run in chosen.items() if "bf16" not in name}
        times: dict[str, list[float]] = {name: [] for name in chosen}
        scores: dict[str, float] = {}
        run_original(speech(0.5))
        for _ in range(rounds if seconds < 30 else 1):
            for name, run in chosen.items():
                start = time.process_time()
                scores[name] = run(waveform)
                times[name].append(time.process_time() - start)
        base = min(times["original"])
        for name in chosen:
            cpu = min(times[name])
            off = scores[name] - scores["original"]
            print(f"{seconds:>5g} s  {name:<17} {cpu:7.2f} {base / cpu:6.2f}x  {scores[name]:7.4f}  {off:>+16.5f}")


def measure_differences(num_recordings: int, seconds: int) -> None:
    """How far `fast`, larger hops and bfloat16 are off the published score, over recordings of some length."""
    import hf_sqa

    exact, narrow = hf_sqa.pipeline(device="cpu"), hf_sqa.pipeline(device="cpu", dtype=torch.bfloat16)
    waveform = speech(num_recordings * seconds)
    pieces = waveform.reshape(num_recordings, -1)
    print(f"\ndifference from published, {num_recordings} recordings of {seconds:g} s: mean absolute and largest, MOS")
    published = [exact(piece, sampling_rate=RATE)["mos"] for piece in pieces]
    for name, scorer, options in (
        ("published bf16", narrow, {}),
        ("fast", exact, {"mode": "fast"}),
        ("fast bf16", narrow, {"mode": "fast"}),
        ("fast, hop 2 s", exact, {"mode": "fast", "hop_seconds": 2.0}),
        ("fast, hop 4 s", exact, {"mode": "fast", "hop_seconds": 4.0}),
        ("fast, no overlap", exact, {"mode": "fast", "hop_seconds": 7.68}),
    ):
        off = np.abs([scorer(piece, sampling_rate=RATE, **options)["mos"] for piece in pieces] - np.array(published))
        print(f"  {name:<17} {off.mean():.4f}  {off.max():.4f}")


def measure_memory(hours: float) -> None:
    """Peak resident memory of a process that scores a recording of hours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        minute = speech(60)
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            for _ in range(round(hours * 60)):
                file.write(minute)
        child = subprocess.run(
            [sys.executable, __file__, "--score-and-report", str(path)], check=True, capture_output=True, text=True
        )
    result = json.loads(child.stdout.splitlines()[-1])
    print(
        f"\n{hours:g} hours in one file, published mode without overlap: {result['peak'] / GIGABYTE:.2f} GB resident at most, "
        f"{result['cpu']:.0f} s CPU, score {result['mos']:.3f}"
    )


def score_and_report(path: str) -> None:
    import hf_sqa

    start = time.process_time()
    mos = hf_sqa.pipeline(device="cpu")(path, hop_seconds=7.68)["mos"]
    print(json.dumps({"mos": mos, "peak": peak_resident_bytes(), "cpu": time.process_time() - start}))


def peak_resident_bytes() -> int:
    """Most memory this process ever held. `getrusage` would count the parent's too: a child starts as its copy."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.5, 1, 2, 5, 10, 65], help="lengths of the clips")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; the fastest counts (one turn above 30 s)")
    parser.add_argument("--hours", type=float, default=2.0, help="length of the recording whose memory is measured")
    parser.add_argument(
        "--differences", type=int, nargs=2, default=[8, 60], metavar=("RECORDINGS", "SECONDS"), help="for those from published"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave the long recording out")
    parser.add_argument("--no-differences", action="store_true", help="leave the differences from the published score out")
    parser.add_argument("--score-and-report", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score_and_report:
        score_and_report(options.score_and_report)
        return
    print_machine()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    measure_speed(options.seconds, options.rounds)
    if not options.no_differences:
        measure_differences(*options.differences)
    if not options.no_memory:
        measure_memory(options.hours)


if __name__ == "__main__":
    main()
