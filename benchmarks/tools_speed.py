"""Speed of what is no model, beside the plain way to do it, in one run: the command's start, a table of ratings, intervals.

    python benchmarks/tools_speed.py                    # 100,000 rows, 10,000 draws of 5,000 clips
    python benchmarks/tools_speed.py --rows 10000       # a tenth of the table

CPU time of one thread. Ratios do not depend on the machine as seconds do: 1.0 is the speed of the plain way.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from machine import print_machine
from scipy.stats import pearsonr, spearmanr

from hf_sqa.data import load_corpus
from hf_sqa.metrics import bootstrap_agreement


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of some work, of the processes that it starts and waits for too."""

    def now() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    before = now()
    work()
    return now() - before


def measure_start() -> None:
    """Imports, the help and a first score, each in a process of its own, beside what any program on the same libraries imports."""

    def run(*arguments: Any) -> float:
        return cpu_seconds(lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True))

    clip = Path(__file__).parents[1] / "examples" / "clean.flac"
    score = ("-m", "hf_sqa", "score", clip, "--model", "distilled-sqa-xs", "--device", "cpu")
    runs: dict[str, tuple[Any, ...]] = {
        "import typer, rich.console": ("-c", "import typer, rich.console"),
        "hf-sqa --help": ("-m", "hf_sqa", "--help"),
        "import torch, transformers": ("-c", "import torch, transformers"),  # names alone: transformers loads nothing yet
        "... and PreTrainedModel": ("-c", "import torch; from transformers import PreTrainedModel"),
        "import hf_sqa": ("-c", "import hf_sqa"),
        "hf-sqa score, one clip, xs": score,
    }
    taken = {name: min(run(*arguments) for _ in range(2)) for name, arguments in runs.items()}  # the first one reads the disk
    for name, seconds in taken.items():
        base = "import typer, rich.console" if "help" in name else "... and PreTrainedModel"
        print(f"start: {name:<28} {seconds:5.2f} s, {seconds / taken[base]:.2f} times {base}")


def measure_table(num_rows: int) -> None:
    """Loading a table of ratings beside reading its lines and looking for its files."""
    import datasets  # noqa: F401  # its import is not the loader's time

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = [(f"f{row // 1000}/{row % 1000}.wav", 1 + row % 40 / 10, f"s{row % 50}", 0.5, 8) for row in range(num_rows)]
        for row in rows:
            (root / row[0]).parent.mkdir(exist_ok=True)
            (root / row[0]).touch()
        table = root / "ratings.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("file", "mos", "system", "mos_std", "votes"), *rows])

        def read() -> int:
            with table.open(newline="") as file:
                return sum((root / row["file"]).is_file() for row in csv.DictReader(file))

        plain = cpu_seconds(read)
        ours = cpu_seconds(lambda: load_corpus(table))
    print(f"a table of {num_rows:,} rows: {ours:.1f} s, {ours / plain:.1f} times as long as reading it and looking for its files")


def measure_intervals(num_draws: int, num_clips: int) -> None:
    """Bootstrap intervals of two correlations beside a loop over scipy's functions, which draws a hundredth as often."""
    rng = np.random.default_rng(0)
    labels = rng.uniform(1, 5, num_clips)
    predictions = labels + rng.normal(0, 1, num_clips)

    def loop() -> None:
        for _ in range(num_draws // 100):
            draw = rng.integers(0, num_clips, num_clips)
            pearsonr(predictions[draw], labels[draw])
            spearmanr(predictions[draw], labels[draw])

    plain = 100 * cpu_seconds(loop)
    metrics = ["utt_lcc", "utt_srcc"]
    ours = cpu_seconds(lambda: bootstrap_agreement(predictions, labels, metrics=metrics, num_draws=num_draws, rng=0))
    print(f"{num_draws:,} draws of {num_clips:,} clips: {ours:.1f} s, {plain / ours:.1f} times as fast as a loop over scipy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the table")
    parser.add_argument("--draws", type=int, default=10_000, help="draws of the bootstrap")
    parser.add_argument("--clips", type=int, default=5_000, help="clips of the bootstrap")
    options = parser.parse_args()
    print_machine()
    measure_start()
    measure_table(options.rows)
    measure_intervals(options.draws, options.clips)


if __name__ == "__main__":
    main()
