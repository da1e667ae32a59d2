"""Agreement with listeners of several models, on every set that is at hand, with intervals over sentences or conditions.

    python benchmarks/listeners.py ../shared distill-mos-v7 hf-sqa/distilled-sqa-m students/new-m [--scores listeners.json]

Sets: P.808 (two studies, SRCC of clips, drawn by condition); 64 clips of neural coders (SRCC of clips; mean over sentences of that
within one; of systems; LCC within a sentence; drawn by sentence); WARP-Q's 8 clips; GenSpeech's clips (largest error); the Opus
conditions of `opus_ladder` made again from the six clean P.808 recordings (SRCC of ten systems, RMSE after a line; needs a libopus
with networks, see `train_scripts/neural_coders.sh`); the order of `examples/`. Scores are kept by model and set in the file: a
second call scores new ones only.

With `--order ladders/order.csv` (`train_scripts/students_ladders.py --split test`) also the share of pairs of a group that a model
orders as listeners did, by kind of ladder.

The model `listeners` is a bound: the ratings themselves, averaged over the clips of a sentence that hold the same signal. Of two
coders, listeners heard a version of 24 kHz and one of 16 kHz; the clips at hand have 16 kHz, and their two versions are equal.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from machine import print_machine
from scipy.stats import spearmanr

from hf_sqa import pipeline
from hf_sqa.degradations import CodecUnavailableError, opus

EXAMPLES = Path(__file__).parents[1] / "examples"
NUM_DRAWS = 2000
#: Correlation of waveforms above which two clips hold the same signal; other coders of a sentence stay below 0.95.
SAME_SIGNAL = 0.999
#: Name in `opus_ladder/conditions.csv` to how it is made.
OPUS = {"orig": None} | {
    f"{prefix}_{rate}kbps": {"bitrate_kbps": rate, "bandwidth": "wideband", "complexity": 10, "enhancement": enhancement}
    for prefix, enhancement in (("opus", None), ("lace", "lace"), ("nolace1", "nolace"))
    for rate in (6, 9, 12)
}
Rows = list[dict[str, Any]]


def read(table: Path) -> Rows:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def opus_ladder(shared: Path, folder: Path) -> Rows:
    """The ten conditions of the test `nolace` on the six clean recordings; none where libopus has no networks."""
    means = {
        row["condition"]: float(row["mos"]) for row in read(shared / "data/opus_ladder/conditions.csv") if row["test"] == "nolace"
    }
    rows = []
    for clean in sorted((shared / "data/p808/fullband").glob("c0_*.flac")):
        waveform, rate = soundfile.read(clean, dtype="float32")
        for condition, options in OPUS.items():
            path = folder / f"{clean.stem}_{condition}.flac"
            try:
                soundfile.write(path, waveform if options is None else np.clip(opus(waveform, rate, **options), -1, 1), rate)
            except CodecUnavailableError as error:
                sys.stderr.write(f"Without the Opus ladder: {error}\n")
                return []
            rows.append({"file": path, "name": path.name, "mos": means[condition], "system": condition, "sentence": clean.stem})
    return rows


def sets(shared: Path, folder: Path) -> dict[str, Rows]:
    """Rows with `file`, `name`, `mos`, `system` and `sentence` of every set."""
    p808 = read(shared / "data/p808/labels.csv")
    coders = read(shared / "data/neural_codecs/labels.csv")
    found: dict[str, Rows] = {
        f"p808 {study}": [
            {
                "file": shared / "data/p808" / row["filepath"],
                "name": row["filepath"],
                "mos": float(row["mos"]),
                "sentence": row["condition_id"],
            }
            for row in p808
            if row["study"] == study
        ]
        for study in ("fullband", "wideband")
    }
    for name, is_own in (("neural coders", True), ("WARP-Q", False)):
        found[name] = [
            {**row, "file": shared / "data/neural_codecs" / row["path"], "name": row["path"], "mos": float(row["mos"])}
            for row in coders
            if row["sentence"].startswith("stim_") == is_own
        ]
    found["GenSpeech"] = [
        {
            "file": shared / "data/genspeech" / row["filepath"],
            "name": row["filepath"],
            "mos": float(row["mos"] or "nan"),
            "sentence": "dir3",
        }
        for row in read(shared / "data/genspeech/labels.csv")
    ]
    found["Opus ladder"] = opus_ladder(shared, folder)
    found["examples"] = [
        {"file": path, "name": path.stem, "mos": float("nan"), "sentence": "clean"} for path in sorted(EXAMPLES.glob("*.flac"))
    ]
    return found


def srcc(rows: Rows) -> float:
    return float(spearmanr([row["score"] for row in rows], [row["mos"] for row in rows]).statistic)


def by(rows: Rows, key: str) -> dict[str, Rows]:
    groups: dict[str, Rows] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def within(rows: Rows) -> float:
    return float(np.mean([srcc(group) for group in by(rows, "sentence").values()]))


def within_lcc(rows: Rows) -> float:
    """LCC of all clips after the mean of their sentence is taken out of scores and ratings."""
    apart = [
        [row[key] - np.mean([other[key] for other in group]) for group in by(rows, "sentence").values() for row in group]
        for key in ("score", "mos")
    ]
    return float(np.corrcoef(*apart)[0, 1])


def means(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    groups = by(rows, "system").values()
    return tuple(np.array([np.mean([row[key] for row in group]) for group in groups]) for key in ("score", "mos"))  # type: ignore[return-value]


def systems(rows: Rows) -> float:
    return float(spearmanr(*means(rows)).statistic)


def mapped_rmse(rows: Rows) -> float:
    scores, wanted = means(rows)
    return float(np.sqrt(np.mean((np.polyval(np.polyfit(scores, wanted, 1), scores) - wanted) ** 2)))


def drawn(rows: Rows, figure: Callable[[Rows], float]) -> str:
    """A figure with the interval of 95 % over sentences (P.808: conditions) drawn with replacement."""
    groups, rng = by(rows, "sentence"), np.random.default_rng(0)
    names, found = sorted(groups), []
    for _ in range(NUM_DRAWS):
        chosen = [
            row | {"sentence": f"{place} {row['sentence']}"}
            for place, index in enumerate(rng.integers(len(names), size=len(names)))
            for row in groups[names[index]]
        ]
        found.append(figure(chosen))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return f"{figure(rows):.3f} [{low:.3f}, {high:.3f}]"


def figures(found: dict[str, Rows]) -> dict[str, str]:
    """What is reported of one model."""
    result = {f"{name}, SRCC of clips": drawn(found[name], srcc) for name in ("p808 fullband", "p808 wideband")}
    coders = found["neural coders"]
    for name, figure in (("of clips", srcc), ("within a sentence", within), ("of systems", systems)):
        result[f"neural coders, SRCC {name}"] = drawn(coders, figure)
    result["neural coders, LCC within a sentence"] = drawn(coders, within_lcc)
    result["WARP-Q, SRCC of 8 clips"] = f"{srcc(found['WARP-Q']):.3f}"
    rated = [row for row in found["GenSpeech"] if np.isfinite(row["mos"])]
    worst = max(rated, key=lambda row: abs(row["score"] - row["mos"]))
    result["GenSpeech, largest error"] = f"{abs(worst['score'] - worst['mos']):.2f} ({worst['name']})"
    result["GenSpeech, Opus"] = f"{next(row['score'] for row in rated if row['name'] == 'opus.wav'):.2f}"
    if ladder := found["Opus ladder"]:
        result["Opus ladder, SRCC of 10 systems"] = drawn(ladder, systems)
        result["Opus ladder, RMSE after a line"] = drawn(ladder, mapped_rmse)
    examples = sorted((row for row in found["examples"] if np.isfinite(row["score"])), key=lambda row: -row["score"])
    result["examples, best first"] = " > ".join(f"{row['name']} {row['score']:.2f}" for row in examples)
    return result


def kept_orders(rows: Rows) -> dict[str, str]:
    """Share of the pairs of a group that the scores order as listeners did, by kind of ladder."""
    kept: dict[str, list[bool]] = {}
    for group, versions in by(rows, "group").items():
        pairs = [(better, worse) for better in versions for worse in versions if float(better["rank"]) > float(worse["rank"])]
        kept.setdefault(group.split()[0], []).extend(better["score"] > worse["score"] for better, worse in pairs)
    return {f"orders kept, {kind}": f"{np.mean(found):.3f} of {len(found)}" for kind, found in sorted(kept.items())}


def same_signal(first: Path, second: Path) -> bool:
    """Whether two clips differ by no more than a resampling does: both have the same length, and correlate above 0.999."""
    waveforms = [soundfile.read(path, dtype="float32")[0] for path in (first, second)]
    return len(waveforms[0]) == len(waveforms[1]) and bool(np.corrcoef(*waveforms)[0, 1] > SAME_SIGNAL)


def ratings_of_signals(found: dict[str, Rows]) -> dict[str, dict[str, float]]:
    """Ratings as the scores of a judge who hears each clip alone: the mean over clips of a sentence that hold the same signal."""
    scores: dict[str, dict[str, float]] = {name: {row["name"]: row["mos"] for row in rows} for name, rows in found.items()}
    for sentence in by(found["neural coders"], "sentence").values():
        for row in sentence:
            same = [other["mos"] for other in sentence if other is row or same_signal(row["file"], other["file"])]
            scores["neural coders"][row["name"]] = float(np.mean(same))
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--order", type=Path, help="table of versions whose order is known")
    parser.add_argument("--scores", type=Path, help="JSON file to keep scores in")
    options = parser.parse_args(arguments)
    print_machine()
    kept = json.loads(options.scores.read_text()) if options.scores and options.scores.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        found = sets(options.shared, Path(folder))
        if options.order:
            found["order"] = [
                {**row, "file": options.order.parent / row["filepath"], "name": row["filepath"], "mos": float(row["rank"])}
                for row in read(options.order)
            ]
        table = {}
        for model in options.models:
            if model == "listeners":
                kept[model] = ratings_of_signals(found)
            elif missing := found.keys() - kept.setdefault(model, {}).keys():
                scorer = pipeline(model, device="cpu")
                kept[model] |= {name: {row["name"]: scorer(str(row["file"]))["mos"] for row in found[name]} for name in missing}
                if options.scores:
                    options.scores.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            for name, rows in found.items():
                for row in rows:
                    row["score"] = kept[model][name][row["name"]]
            table[model] = figures(found) | (kept_orders(found["order"]) if options.order else {})
    lines = ["| measured on | " + " | ".join(table) + " |", "|---" * (len(table) + 1) + "|"]
    for name in next(iter(table.values())):
        lines.append(f"| {name} | " + " | ".join(found_figures[name] for found_figures in table.values()) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
