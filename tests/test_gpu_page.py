"""`benchmarks/gpu.py`: every part runs, on a CPU with tiny models; what a GPU does is for the page to say."""

from pathlib import Path

import pytest

from hf_sqa.auto import families
from tests.processes import script

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
PARTS = ["parity", "throughput", "compiled", "files", "training"]  # the commands of the last part have tests of their own


@pytest.mark.slow
def test_every_part_of_the_page_runs_for_every_family(nursery):
    done = nursery.start(script(SCRIPT, "--tiny", "--only", *PARTS))
    done.communicate()

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[3:].lower() for line in done.stdout.splitlines() if line.startswith("## ")] == PARTS
    for name in families():
        (parity,) = [line.split("|") for line in done.stdout.splitlines() if line.startswith(f"| {name}, tiny |")]
        assert float(parity[2]) <= 1e-4, "float32 on the same processor"
        assert any(line.startswith(f"| {name} |") for line in done.stdout.splitlines()), "a training step"
    assert "| distilled-sqa-xs | 1 | 4 | " in done.stdout  # all four clips were scored from files


def test_without_a_gpu_it_says_what_to_do(nursery):
    done = nursery.start(script(SCRIPT), CUDA_VISIBLE_DEVICES="")
    done.communicate()

    assert done.returncode == 1
    assert "There is no GPU here; `--tiny` runs every part on the CPU" in done.stderr
