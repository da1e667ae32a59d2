"""The presets of degradations: `p835` beside the recordings it imitates, and the CPU time of every preset.

    python benchmarks/presets_of_degradations.py ../shared/data/p808      # twenty seconds of CPU time
    python benchmarks/presets_of_degradations.py                          # the times alone

The folder holds the 156 clips of microsoft/P.808 and `labels.csv`, which names study, condition and talker of each. PESQ needs the
extra `labels`.
"""

import argparse
import csv
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import soundfile
from machine import print_machine

from hf_sqa.degradations import Chain, CodecUnavailableError
from hf_sqa.degradations.chain import presets

RATE = 16_000
EXAMPLE = Path(__file__).parents[1] / "examples" / "clean.flac"


def agreement_of_p835(folder: Path, study: str) -> tuple[float, int, int]:
    """LCC of wideband PESQ by condition, mean over talkers, and the numbers of conditions and talkers; `c0` is the reference."""
    from pesq import pesq

    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["study"] == study]
    clips = {(row["condition_id"], row["talker"]): soundfile.read(folder / row["filepath"], dtype="float32")[0] for row in rows}
    conditions, talkers = ({key[place] for key in clips} for place in (0, 1))
    means = []
    for condition in sorted(conditions - {"c0"}):
        chain = Chain.load("p835").select(condition)
        scores = []
        for talker in sorted(talkers):
            reference = clips["c0", talker]
            imitated, _ = chain(reference, RATE, np.random.default_rng(0))
            scores.append([pesq(RATE, reference, clip, "wb") for clip in (clips[condition, talker], imitated)])
        means.append(np.mean(scores, axis=0))
    return float(np.corrcoef(np.transpose(means))[0, 1]), len(means), len(talkers)


def milliseconds(preset: str, waveform: np.ndarray, num_draws: int) -> float:
    """Mean CPU time of a draw of the preset on the waveform."""
    chain, rng = Chain.load(preset), np.random.default_rng(0)
    chain.check_requirements()
    chain(waveform, RATE, rng)
    begun = time.process_time()
    for _ in range(num_draws):
        chain(waveform, RATE, rng)
    return 1000 * (time.process_time() - begun) / num_draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("p808", nargs="?", type=Path, help="folder of the P.808 clips and their labels.csv")
    parser.add_argument("--draws", type=int, default=60, help="draws of a preset")
    arguments = parser.parse_args()
    print_machine()
    if arguments.p808:
        for study in ("fullband", "wideband"):
            lcc, conditions, talkers = agreement_of_p835(arguments.p808, study)
            print(f"p835, PESQ of {conditions} conditions over {talkers} talkers, {study} study: LCC {lcc:.3f}")
    waveform = soundfile.read(EXAMPLE, dtype="float32")[0][: 8 * RATE]
    for preset in presets():
        try:
            print(f"{preset}: {milliseconds(preset, waveform, arguments.draws):.0f} ms of CPU time for a clip of 8 s")
        except CodecUnavailableError as error:
            print(f"{preset}: not measured: {error}")


if __name__ == "__main__":
    main()
