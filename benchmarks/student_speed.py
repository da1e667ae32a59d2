"""CPU time of every student of the ladder beside the original Distill-MOS code, in one process, on one thread.

    python benchmarks/student_speed.py                       # by form: the weights are random, which costs the same
    python benchmarks/student_speed.py --model students/s    # a checkpoint beside them

Each side takes its turn in every round and its fastest counts, so that a busy machine slows all. Checks of the recording, front end
and windows are included on our side. The original is the code of the PyPI package `distillmos`, unchanged.
"""

import argparse
import os
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from machine import print_machine
from score_speed import RATE, original_model, speech

torch.set_num_threads(1)

#: CPU time of the original over that of the student that each shall reach on clips of ten seconds.
TARGETS = {"xs": 100, "s": 60, "m": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[3, 10, 30], help="lengths of the clips")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the original; the students take four times as many")
    parser.add_argument("--model", action="append", default=[], help="a checkpoint to measure too")
    options = parser.parse_args()
    print_machine()

    from transformers.utils import logging

    import hf_sqa
    from hf_sqa.models.distilled_sqa import DistilledSQA, DistilledSQAConfig
    from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import STUDENTS

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    original = original_model()
    scorers = {}
    for size in STUDENTS:
        model = DistilledSQA(DistilledSQAConfig.student(size)).eval()
        scorers[size] = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")
    for name in options.model:
        scorers[name] = hf_sqa.pipeline(name, device="cpu")

    print(f"{'clip':>6}  {'model':<12} {'weights':>10} {'CPU ms':>9} {'ms a second':>12} {'times faster':>13}  target")
    for seconds in options.seconds:
        waveform = speech(seconds)
        best: dict[str, float] = {}
        for _ in range(options.rounds):
            with torch.inference_mode():
                taken = _cpu_seconds(original, torch.from_numpy(waveform)[None])
            best["original"] = min(best.get("original", np.inf), taken)
            for name, scorer in scorers.items():
                turns = 1 if name == "l" else 4
                taken = min(_cpu_seconds(scorer, waveform, sampling_rate=RATE) for _ in range(turns))
                best[name] = min(best.get(name, np.inf), taken)
        for name, taken in best.items():
            model = original if name == "original" else scorers[name].model
            weights = sum(parameter.numel() for parameter in model.parameters())
            target = f"{TARGETS[name]}x" if name in TARGETS and seconds == 10 else ""
            print(
                f"{seconds:>4g} s  {name:<12} {weights:>10,} {1e3 * taken:>9.1f} {1e3 * taken / seconds:>12.2f} "
                f"{best['original'] / taken:>12.1f}x  {target}"
            )


def _cpu_seconds(run, *args, **kwargs) -> float:
    start = time.process_time()
    run(*args, **kwargs)
    return time.process_time() - start


if __name__ == "__main__":
    main()
