"""Does the local quality find a fault at a known place, is it quiet where there is none, and what does it cost?

    python benchmarks/local_quality.py unpacked/ --model distilled-sqa-m              # 400 recordings
    python benchmarks/local_quality.py unpacked/ --model default --number 60          # Distill-MOS v7 takes longer
    python benchmarks/local_quality.py unpacked/ --model distilled-sqa-m --live       # the meter's share of one core

Speech: see `faults_at_known_places.py`. A fault is found if one that is reported overlaps it by half of what both cover together.
CPU time is of the whole call on one thread, with and without the timeline, turn by turn.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from faults_at_known_places import RATE, Example, examples
from machine import print_machine

import hf_sqa
from hf_sqa.data.bench.speech import VOICES

torch.set_num_threads(1)


def overlap(fault: dict[str, float], example: Example) -> float:
    """Intersection over union of a reported and the true stretch."""
    both = min(fault["end"], example.end) - max(fault["start"], example.start)
    return max(0.0, both) / (max(fault["end"], example.end) - min(fault["start"], example.start))


def run(score, folder: Path, number: int, part: str) -> None:
    asked, found, touched, worst, named = Counter(), Counter(), Counter(), Counter(), Counter()
    clean: dict[str, tuple[bool, float]] = {}
    errors, seconds = [], {"plain": 0.0, "timeline": 0.0}
    for example in examples(folder, number, part):
        if example.name not in clean:
            result = score(example.clean, sampling_rate=RATE, return_timeline=True)
            off = [row["mos"] - result["mos"] for row in result["timeline"]]
            errors.append(float(np.mean(np.square(off))))
            clean[example.name] = (bool(result["faults"]), errors[-1])
        for name, options in (("plain", {}), ("timeline", {"return_timeline": True})):
            began = time.process_time()
            result = score(example.faulty, sampling_rate=RATE, **options)
            seconds[name] += time.process_time() - began
        length = "over 1 s" if example.end - example.start >= 1 else "under 1 s"
        best, kind = max(((overlap(fault, example), fault["kind"]) for fault in result["faults"]), default=(0.0, ""))
        for key in (example.kind, length) if length == "over 1 s" else (length,):
            asked[key] += 1
            found[key] += best >= 0.5
            touched[key] += best > 0
            named[key] += best >= 0.5 and example.kind.startswith(kind)
            worst[key] += overlap(result["worst"], example) >= 0.5
    for key in asked:
        print(f"{key:14} {asked[key]:4} faults: found {found[key] / asked[key]:.2f}, by its name {named[key] / asked[key]:.2f}, "
              f"touched {touched[key] / asked[key]:.2f}, worst stretch {worst[key] / asked[key]:.2f}")  # fmt: skip
    quiet = [not fault for fault, _ in clean.values()]
    error = np.sqrt(np.mean(errors))
    print(f"clean recordings without a fault: {np.mean(quiet):.3f} of {len(quiet)}; curve to score: RMSE {error:.2f}")
    for voice in sorted({name.split("/")[0] for name in clean} & set(VOICES)):
        of_voice = [clean[name] for name in clean if name.startswith(f"{voice}/")]
        quiet_share, error = 1 - np.mean([fault for fault, _ in of_voice]), np.sqrt(np.mean([error for _, error in of_voice]))
        print(f"  {voice}: {quiet_share:.3f} of {len(of_voice)}, RMSE {error:.2f}")
    print(f"CPU time with the timeline: {seconds['timeline'] / seconds['plain']:.2f} times the plain score")


def live(score, folder: Path, number: int = 20, portion: int = RATE // 10) -> None:
    """Print the CPU seconds that the meter takes for a second of sound, in portions of a tenth of a second."""
    heard = seconds = 0.0
    for example in examples(folder, number):
        meter = hf_sqa.QualityMeter(score)
        began = time.process_time()
        for start in range(0, len(example.clean), portion):
            meter.feed(example.clean[start : start + portion])
        meter.close()
        seconds += time.process_time() - began
        heard += len(example.clean) / RATE
    print(f"real-time factor of the meter over {heard:.0f} s: {seconds / heard:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Clean speech.")
    parser.add_argument("--model", default="distilled-sqa-m")
    parser.add_argument("--number", type=int, default=400)
    parser.add_argument("--part", choices=("test", "development"), default="test")
    parser.add_argument("--live", action="store_true", help="Measure the meter alone.")
    options = parser.parse_args()
    print_machine()
    if options.live:
        live(hf_sqa.pipeline(options.model, device="cpu"), options.folder)
        return
    run(hf_sqa.pipeline(options.model, device="cpu"), options.folder, options.number, options.part)


if __name__ == "__main__":
    main()
