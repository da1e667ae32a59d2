"""Time and memory of a process from its start to its first score: torch, the graph in the pipeline on torch, and `hf_sqa.lite`.

python benchmarks/lite_start.py <recording> [--model distilled-sqa-s] [--rounds 3]

Seconds on the clock are of the fastest of the rounds, CPU seconds of that round; memory is the largest resident set (Linux).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import print_machine

import hf_sqa
from hf_sqa.export.onnx import export_onnx

WAYS = {
    "torch": "import hf_sqa; score = hf_sqa.pipeline(model, device='cpu')",
    'graph, `backend="onnx"`': "import hf_sqa; score = hf_sqa.pipeline(graph, backend='onnx')",
    "graph, `hf_sqa.lite`": "import hf_sqa.lite; score = hf_sqa.lite.pipeline(graph, num_threads=1)",
}
MEASURED = """
import json, resource, sys, time
model, graph, recording = sys.argv[1:]
{way}
ready = time.time()
mos = score(recording)["mos"]
used = resource.getrusage(resource.RUSAGE_SELF)
scored = time.time()
# Not `ru_maxrss`, which begins with that of the process that started this one.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps([mos, ready, scored, used.ru_utime + used.ru_stime, peak / 1e3]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="distilled-sqa-s")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as graph:
        export_onnx(hf_sqa.pipeline(arguments.model, device="cpu").model, graph)
        print("| | score | s to ready | s to first score | CPU s | MB |\n|---|---:|---:|---:|---:|---:|")
        for name, way in WAYS.items():
            rounds = [measured(way, arguments.model, graph, str(arguments.recording)) for _ in range(arguments.rounds)]
            mos, ready, scored, cpu, memory = min(rounds, key=lambda values: values[2])
            print(f"| {name} | {mos:.4f} | {ready:.2f} | {scored:.2f} | {cpu:.2f} | {memory:.0f} |")


def measured(way: str, *arguments: str) -> list[float]:
    """Score, seconds until it is ready, until the first score, CPU seconds, megabytes."""
    began = time.time()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", MEASURED.format(way=way), *arguments], capture_output=True, text=True, check=True, env=environment
    )
    mos, ready, scored, cpu, memory = json.loads(result.stdout.splitlines()[-1])
    return [mos, ready - began, scored - began, cpu, memory]


if __name__ == "__main__":
    main()
