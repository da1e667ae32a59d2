"""Size, time and score of a DistilledSQA in torch and as ONNX graphs in float32 and int8, on one thread.

python benchmarks/onnx_speed.py <folder of recordings> [--model default] [--limit 78]

Time is CPU time of the whole pipeline for each recording: reading, gate, windows, network. Differences are from torch in float32,
in points of the score.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from machine import print_machine

import hf_sqa
from hf_sqa.audio import AUDIO_SUFFIXES
from hf_sqa.export.onnx import GRAPH_FILE, export_onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--limit", type=int, default=78)
    arguments = parser.parse_args()
    print_machine()
    torch.set_num_threads(1)
    files = sorted(path for path in arguments.recordings.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)[: arguments.limit]
    torch_scorer = hf_sqa.pipeline(arguments.model, device="cpu")
    exact, seconds = measured(torch_scorer, files)
    size = sum(parameter.numel() * parameter.element_size() for parameter in torch_scorer.model.parameters())
    print(f"{len(files)} recordings, deviation of their scores {exact.std():.2f}")
    print("| | kB | ms a recording | off torch, mean | largest |\n|---|---:|---:|---:|---:|")
    print(f"| torch | {size / 1e3:,.0f} | {1e3 * seconds:.1f} | | |")
    for name in ("float32", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(torch_scorer.model, folder, int8=name == "int8")
            scores, seconds = measured(hf_sqa.pipeline(folder, backend="onnx"), files)
            off = np.abs(scores - exact)
            size = (Path(folder) / GRAPH_FILE).stat().st_size
        print(f"| ONNX {name} | {size / 1e3:,.0f} | {1e3 * seconds:.1f} | {off.mean():.5f} | {off.max():.5f} |")


def measured(scorer: hf_sqa.AudioQualityPipeline, files: list[Path]) -> tuple[np.ndarray, float]:
    """Scores of all names, `(num_recordings, num_labels)`, and CPU seconds a recording."""
    scorer(str(files[0]))
    start = time.process_time()
    rows = scorer([str(file) for file in files])
    return np.array([list(row.values()) for row in rows]), (time.process_time() - start) / len(files)


if __name__ == "__main__":
    main()
