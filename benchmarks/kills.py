"""Kills `finetune`, `train` and `convert` at random moments, runs the same command again, and looks whether the result is whole.

    python benchmarks/kills.py                      # 20 kills of each, tiny models, made clips
    python benchmarks/kills.py --kills 2 --only train

Each command first runs undisturbed. Then it is killed (`kill -9`) after a random share of that time, again and again until it ends
by itself, and what it wrote must load and score the built-in sample as the undisturbed result does, to 1e-5. `convert` works on
Distill-MOS v7, where it is on this machine. The exit code is 1 if any result was not whole, or a command did not go on.
"""

import argparse
import contextlib
import csv
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

RATE = 16_000
NUM_CLIPS = 24
TOLERANCE = 1e-5


def write_clips(folder: Path) -> Path:
    """A table of clips whose noise says their score."""
    rng = np.random.default_rng(0)
    seconds = np.arange(RATE) / RATE
    with (folder / "rated.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "mos", "talker"])
        for clip in range(NUM_CLIPS):
            voice = sum(np.sin(2 * np.pi * (100 + 10 * (clip % 6)) * k * seconds) / k for k in range(1, 15))
            noise = rng.standard_normal(RATE) * 10 ** (-0.5 * (clip % 4))
            soundfile.write(folder / f"{clip}.wav", 0.05 * voice + 0.05 * noise, RATE)
            writer.writerow([f"{clip}.wav", 1.5 + clip % 4, clip % 6])
    return folder / "rated.csv"


def commands(folder: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Arguments of each command by its output folder."""
    import torch

    from hf_sqa import DistilledSQA, DistilledSQAConfig
    from hf_sqa.models.distilled_sqa.convert_distilled_sqa import PUBLISHED

    table = write_clips(folder)
    torch.manual_seed(0)
    model = DistilledSQA(DistilledSQAConfig.tiny())
    model.save_pretrained(folder / "tiny")
    model.make_feature_extractor().save_pretrained(folder / "tiny")
    (folder / "recipe.yaml").write_text(
        f"model: {{checkpoint: {folder / 'tiny'}}}\n"
        f"data: {{train: {{table: {table}}}, split: {{share: 0.25}}}}\n"
        "training: {max_steps: 12, per_device_train_batch_size: 4, use_cpu: true, eval_strategy: steps, save_strategy: steps, "
        "eval_steps: 2, save_steps: 2}\n"
        "output_dir: nowhere\n"
    )
    tuned = ["--train", str(table), "--model", str(folder / "tiny"), "--folds", "2", "--epochs", "3", "--device", "cpu", "--resume"]
    made = {
        "finetune": lambda out: ["finetune", *tuned, "--output", str(out)],
        "train": lambda out: ["train", str(folder / "recipe.yaml"), f"output_dir={out}"],
    }
    if PUBLISHED.is_here:
        made["convert"] = lambda out: ["convert", "distilled_sqa", "published", str(out)]
    else:
        print("Without Distill-MOS v7 on this machine: convert is left out.", file=sys.stderr)
    return made


def start(arguments: list[str], log: Path) -> int:
    """The process id of the command, in a copy of this process that has everything imported and has not computed."""
    pid = os.fork()
    if pid:
        return pid
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["hf-sqa", *arguments]
    code = 70
    try:
        from hf_sqa.cli import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def killed_after(pid: int, seconds: float) -> int | None:
    """Exit code of a process that ended by itself; `None` if it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def score_of(folder: Path) -> float:
    """Score of the built-in sample, computed in a process of its own: this one must not compute before it forks."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            import hf_sqa

            score = hf_sqa.pipeline(str(folder), device="cpu")(str(files("hf_sqa") / "assets/sample.flac"))["mos"]
            os.write(writer, repr(float(score)).encode())
            code = 0
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return float(answer) if answer else float("nan")


def what_is_wrong(command: str, out: Path, expected: float) -> str | None:
    score = score_of(out)
    if not abs(score - expected) <= TOLERANCE:
        return f"scores {score}, expected {expected}"
    left = [path.name for path in out.iterdir() if path.name.startswith(".") or path.name.endswith(".tmp")]
    wanted = {"finetune": "report.json", "train": "training_result.json", "convert": "config.json"}[command]
    if left or not (out / wanted).is_file():
        return f"left behind: {left}" if left else f"no {wanted}"
    return None


def kill(
    command: str, arguments: Callable[[Path], list[str]], folder: Path, kills: int, rng: random.Random
) -> tuple[int, list[str]]:
    """Number of runs that were killed in all, and what was wrong."""
    began = time.monotonic()
    log = folder / f"{command}.log"
    pid = start(arguments(folder / f"{command}-whole"), log)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit(f"{command} does not run: {log.read_text()}")
    seconds, faults, total, run = time.monotonic() - began, [], 0, 0
    expected = score_of(folder / f"{command}-whole")
    while total < kills:
        out = folder / f"{command}-{run}"
        code = None
        while code is None and total < kills:
            code = killed_after(start(arguments(out), log), rng.uniform(0.1, 1.0) * seconds)
            total += code is None
        if code is None:
            code = os.waitstatus_to_exitcode(os.waitpid(start(arguments(out), log), 0)[1])
        # A result that was whole when the process was killed is refused like any other that is in use.
        in_use = code == 2 and any(words in log.read_text() for words in ("holds a finished run", "which is in use"))
        if code and not in_use:
            faults.append(f"{command}, run {run}: exit code {code}: {' '.join(log.read_text().split())[-400:]}")
        elif wrong := what_is_wrong(command, out, expected):
            faults.append(f"{command}, run {run}: {wrong}")
        shutil.rmtree(out, ignore_errors=True)
        run += 1
    strays = [path.name for path in folder.iterdir() if path.name.startswith(f".{command}-")]
    print(f"| `{command}` | {total} | {run} | {len(faults)} | {len(strays)} |", flush=True)
    return total, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="Kills of each command.")
    parser.add_argument("--only", choices=("finetune", "train", "convert"), action="append", help="Leave the others out.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from machine import print_machine

    print_machine()
    import rich.progress  # noqa: F401  # imported once, for all copies
    import typer  # noqa: F401

    import hf_sqa.cli
    import hf_sqa.distillation.run
    import hf_sqa.evaluation.after_training
    import hf_sqa.finetune.run
    import hf_sqa.hub.card
    import hf_sqa.hub.conversion
    import hf_sqa.training.trainer  # noqa: F401

    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hf-sqa-kills-") as name:
        print("| command | kills | results | not whole | folders left beside |\n|---|---:|---:|---:|---:|", flush=True)
        for command, arguments in commands(Path(name)).items():
            if options.only is None or command in options.only:
                faults += kill(command, arguments, Path(name), options.kills, random.Random(options.seed))[1]
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
