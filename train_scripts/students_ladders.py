"""Versions of sentences whose order listeners have settled, for the `order` section of a recipe.

    . coders/environment
    python train_scripts/students_ladders.py --bench speech/bench --folder speech/further --output ladders --num-sentences 60

Writes ladders/order.csv and the recordings. Means of Opus and of concealment are those of P.808 tests published in xiph/opus
(commit 3da9f7a, BSD-3), of noise those of the P.835 reference conditions (full-band study). Lyra's bit rates and coding twice have
an order and no mean. No talker of a listening test is among the speech. `--split test` makes them of the talkers that no student is
trained on, for `benchmarks/listeners.py --order`.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hf_sqa.data.speech import SPLITS, SpeechPool, bench_speech, folder_speech, joined_speech
from hf_sqa.degradations import Chain

RATE = 16_000
#: Speech before and after what is kept, so that coders are under way.
LEAD = RATE // 4
WHOLE: list[dict[str, Any]] = []


def wideband(rate: float, **options: Any) -> list[dict[str, Any]]:
    return [{"kind": "opus", "bandwidth": "wideband", "bitrate_kbps": rate, "complexity": 10, **options}]


def lossy(**options: Any) -> list[dict[str, Any]]:
    return wideband(24, loss_share=0.15, mean_burst_packets=2, **options)


def reference(snr_db: float, q_db: float) -> list[dict[str, Any]]:
    """A P.835 condition; noise and modulation were white to 24 kHz there."""
    wide = {"noise_bandwidth_hz": 24_000}
    return [{"kind": "white_noise", "snr_db": snr_db, **wide}, {"kind": "mnru", "q_db": q_db, **wide}]


#: Ladder: versions, each with its rank, listeners' mean where there is one, and steps.
LADDERS: dict[str, list[tuple[float, float | None, list[dict[str, Any]]]]] = {
    "lyra": [
        (0, None, [{"kind": "lyra", "bitrate_kbps": 3.2}]), (1, None, [{"kind": "lyra", "bitrate_kbps": 6}]),
        (2, None, [{"kind": "lyra", "bitrate_kbps": 9.2}]), (3, None, WHOLE),
    ],
    "opus": [
        (2.54, 2.54, wideband(6)), (3.69, 3.69, wideband(9)), (3.92, 3.92, wideband(12)),
        (3.26, 3.26, wideband(6, enhancement="lace")), (3.87, 3.87, wideband(9, enhancement="lace")),
        (3.53, 3.53, wideband(6, enhancement="nolace")), (4.00, 4.00, wideband(9, enhancement="nolace")),
        (4.06, 4.06, WHOLE),
    ],
    "losses": [
        (2.99, 2.99, lossy()), (3.28, 3.28, lossy(neural_concealment=True)), (3.48, 3.48, lossy(redundancy=True)),
        (3.70, 3.70, wideband(24)),
    ],
    "noise": [
        (1.88, 1.88, reference(0, 40)), (2.51, 2.51, reference(10, 40)), (3.16, 3.16, reference(20, 40)), (4.53, 4.53, WHOLE),
    ],
    "modulated": [
        (1.85, 1.85, reference(40, 8)), (2.68, 2.68, reference(40, 16)), (3.29, 3.29, reference(40, 24)), (4.53, 4.53, WHOLE),
    ],
    "twice": [
        (0, None, [{"kind": "amr_wb", "bitrate_kbps": 6.6}] * 2), (1, None, [{"kind": "amr_wb", "bitrate_kbps": 6.6}]),
        (2, None, WHOLE),
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--bench", "--folder", "--output"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--num-sentences", type=int, default=60, help="of each ladder")
    parser.add_argument("--split", choices=SPLITS, default="train", help="whose speech: of talkers for training, or of others")
    parser.add_argument("--without", nargs="*", default=[], choices=sorted(LADDERS), help="ladders to leave out")
    options = parser.parse_args()
    pool = SpeechPool(joined_speech(bench_speech(options.bench), folder_speech(options.folder), 0.5), RATE)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (ladder, versions) in enumerate(LADDERS.items()):
        for sentence in range(options.num_sentences if ladder not in options.without else 0):
            rng = np.random.default_rng([number, sentence])
            length = int(rng.uniform(2.5, 7) * RATE)
            speech, clips = pool.draw(options.split, rng, length + 2 * LEAD)
            for version, (rank, mean, steps) in enumerate(versions):
                degraded, _ = Chain(steps, name=ladder)(speech, RATE, np.random.default_rng([number, sentence]))
                name = f"{ladder}_{sentence:04}_{version}.flac"
                kept = degraded[LEAD:-LEAD]
                soundfile.write(options.output / name, kept / max(1.0, np.abs(kept).max()), RATE)
                rows.append(
                    {"filepath": name, "group": f"{ladder} {sentence}", "rank": rank, "mos": mean, "talker": clips[0].talker}
                )
        sys.stderr.write(f"{ladder}: {len(rows)} recordings so far\n")
    with (options.output / "order.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
