"""How often does the interval of a score hold the listeners' mean? Calibrates the checkpoints that come with the package.

python benchmarks/interval_coverage.py ../shared/data            # measures, and prints a table
python benchmarks/interval_coverage.py ../shared/data --write    # and writes the calibrations into the package

Calibrated on the P.808 reference clips, whose coverage is measured with each talker left out in turn; measured, and only measured,
on coders that no model here was trained on. About a minute of one core. After `--write` count up `hf_sqa.short_names.LAYOUT`:
Distill-MOS v7 lies converted in caches.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
from machine import print_machine

import hf_sqa
from hf_sqa.blocks.score_intervals import half_widths
from hf_sqa.finetune.intervals import ASKED, describe_interval
from hf_sqa.modeling import weights_digest
from hf_sqa.models.distilled_sqa.convert_distilled_sqa import CHECKPOINT_NAME, INTERVALS
from hf_sqa.short_names import students

CALIBRATED_ON = "P.808 reference clips"
MEASURED_ON = "neural coders"


def scored(scorer: hf_sqa.AudioQualityPipeline, table: Path, column: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores, labels and groups of the clips of a table."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths = [str(table.parent / row.get("filepath", row.get("path", ""))) for row in rows]
    results = scorer(paths, on_error="row")
    scores = np.array([np.nan if result["mos"] is None else result["mos"] for result in results])
    return scores, np.array([float(row["mos"]) for row in rows]), [row[column] for row in rows]


def calibrated(name: str, data: Path) -> dict:
    """The calibration of a checkpoint, with every coverage that was measured."""
    scorer = hf_sqa.pipeline(name, device="cpu")
    scores, labels, talkers = scored(scorer, data / "p808" / "labels.csv", "talker")
    calibration = describe_interval(scores, labels, talkers, data_name=CALIBRATED_ON, grouped_by="talker")
    others, rated, _ = scored(scorer, data / "neural_codecs" / "labels.csv", "system")
    for asked in ASKED:
        widths = half_widths(others, calibration, asked)
        calibration["measured"].append(
            {
                "set": MEASURED_ON,
                "seen": False,
                "asked": asked,
                "coverage": round(float((np.abs(rated - others) <= widths).mean()), 4),
                "half_width": round(float(widths.mean()), 4),
                "num_clips": len(others),
            }
        )
    return calibration | {"weights": weights_digest(scorer.model)}


def write(name: str, calibration: dict) -> None:
    """Put a calibration where the checkpoint is loaded from."""
    intervals = {"mos": calibration}
    if name == CHECKPOINT_NAME:
        INTERVALS.write_text(json.dumps(intervals, indent=1) + "\n", encoding="utf-8")
        return
    path = students()[name] / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"score_intervals": intervals}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with p808/ and neural_codecs/")
    parser.add_argument("--write", action="store_true", help="write the calibrations into the package")
    parser.add_argument("--only", nargs="*", help="checkpoints; all by default")
    arguments = parser.parse_args()
    print_machine()
    torch.set_num_threads(1)
    sys.stdout.write(
        "| checkpoint | clips | asked for | ratings inside | lowest talker | half-width |\n|---|---|---:|---:|---:|---:|\n"
    )
    for name in arguments.only or [*students(), CHECKPOINT_NAME]:
        calibration = calibrated(name, arguments.data)
        for measured in calibration["measured"]:
            cells = [name, measured["set"], f"{measured['asked']:.2f}", f"{measured['coverage']:.3f}"]
            cells += [f"{measured['lowest']:.2f}" if "lowest" in measured else "", f"{measured['half_width']:.2f}"]
            sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()
        if arguments.write:
            write(name, calibration)


if __name__ == "__main__":
    main()
