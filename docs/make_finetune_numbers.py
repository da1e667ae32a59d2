"""The numbers and the figure of docs/finetune.md, from the bench corpus: `python docs/make_finetune_numbers.py <bench> <folder>`.

`<bench>` is what `hf-sqa corpus build bench <bench> --num-phrases 15` made. Ten minutes of one core. Steps that are done are not
repeated.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

FIGURE = Path(__file__).parent / "finetune" / "russian.png"
NUM_PHRASES = 8


def main(bench: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    english, russian = (table(bench, folder, language) for language in ("en", "ru"))
    finetune(folder / "english", "--train", english, "--group", "source_id", "--folds", 0)
    finetune(folder / "v7-calibrated", "--train", russian, "--group", "source_id", "--calibrate", "first")
    finetune(folder / "russian", "--model", folder / "english", "--train", russian, "--group", "source_id", "--folds", 4)
    draw(folder)


def table(bench: Path, folder: Path, language: str) -> Path:
    """The rated clips of the first phrases of a language, as a table of one's own."""
    with (bench / "bench.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["language"] == language and row["mos"]]
    phrases = sorted({row["source_id"] for row in rows})[:NUM_PHRASES]
    path = folder / f"{language}.csv"
    names = ["audio", "mos", "talker_id", "source_id", "condition_id", "language"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            if row["source_id"] in phrases:
                writer.writerow([str((bench / row["audio"]).resolve()), *(row[name] for name in names[1:])])
    return path


def finetune(output: Path, *options: object) -> None:
    """Run the command as a user would, going on where it was cut short."""
    if (output / "report.json").exists():
        return
    resume = ["--resume"] if output.exists() else []
    command = [sys.executable, "-m", "hf_sqa", "finetune", *map(str, options), "--device", "cpu", "--output", str(output), *resume]
    sys.stderr.write(f"$ hf-sqa {' '.join(command[3:])}\n")
    subprocess.run(command, check=True)


def draw(folder: Path) -> None:
    """LCC, SRCC and RMSE of the models on the Russian clips, with intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    calibrated, russian = (
        json.loads((folder / name / "report.json").read_text())["scores"]["mos"]["agreement"]
        for name in ("v7-calibrated", "russian")
    )
    models = [
        ("Distill-MOS v7", calibrated["before"], "#4d4d4d"),
        ("English model", russian["before"], "#2166ac"),
        ("English model, calibrated", russian["calibrated"], "#67a9cf"),
        ("adapted to Russian", russian["after"], "#b2182b"),
    ]
    figure = Figure(figsize=(10, 2.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharey=True)
    for axis, (metric, title) in zip(axes, [("utt_lcc", "LCC"), ("utt_srcc", "SRCC"), ("utt_rmse", "RMSE")], strict=True):
        for position, (_, numbers, colour) in enumerate(models):
            value, low, high = (numbers[metric][key] for key in ("value", "low", "high"))
            axis.plot([low, high], [position, position], color=colour, linewidth=2)
            axis.plot([value], [position], "o", color=colour)
        axis.set_title(title, loc="left", fontsize=11)
        axis.grid(axis="x", color="#cccccc", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(models)), [name for name, _, _ in models])
    axes[0].invert_yaxis()
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
