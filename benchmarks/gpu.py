"""One page of what a GPU does with every family, in under eight minutes: parity, speed, training, several ways to launch it.

    python benchmarks/gpu.py > gpu.md
    python benchmarks/gpu.py --tiny            # every part on a CPU, on tiny models: what tests run

A part that fails says why, and the others go on; one that would begin after the time is over is left out and named. Speed is that
of one process, on recordings that are in memory; wall time, the device waited for.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus_speed import make_clips
from machine import print_machine
from score_speed import RATE, ROOT, speech

sys.path.insert(0, str(ROOT))

BUDGET_SECONDS, TURN_SECONDS = 450, 2.0
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FLOAT32_TOLERANCE = 1e-4


@dataclass
class Bench:
    """What the parts share: the device, whether models are tiny, and a folder."""

    device: torch.device
    tiny: bool
    folder: Path

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def rate(self, work: Callable[[], Any]) -> float:
        """How often a second some work is done, after one turn that does not count."""
        work()
        self.wait()
        started, turns = time.perf_counter(), 0
        while not turns or (time.perf_counter() - started < TURN_SECONDS and not self.tiny):
            work()
            self.wait()
            turns += 1
        return turns / (time.perf_counter() - started)

    def model(self, name: str) -> Any:
        """A model on the device: of the default, the student and every family, with random weights where there are none."""
        from hf_sqa.auto import families
        from hf_sqa.checkpoints import load_checkpoint

        torch.manual_seed(0)
        if name in families():
            config_class, model_class = families()[name]
            model = model_class(config_class.tiny() if self.tiny else config_class())
        else:
            model = load_checkpoint(name).model
        return model.to(self.device).eval()

    def loaded(self, model: Any, dtype: torch.dtype) -> Any:
        """A model on the device, loaded in a precision as users load it: what must stay in float32 does."""
        model.save_pretrained(self.folder / "model")
        return type(model).from_pretrained(self.folder / "model", dtype=dtype).to(self.device).eval()


def table(heading: str, rows: Iterator[tuple[Any, ...]]) -> None:
    columns = heading.split(" | ")
    print(f"\n| {heading} |\n|{'---|' * len(columns)}")
    for row in rows:
        print("| " + " | ".join(f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |", flush=True)


def recordings(num: int, seconds: float, rate: int | None = RATE) -> list[Any]:
    from hf_sqa.audio import load_recording

    pieces = speech(num * seconds).reshape(num, -1)
    return [load_recording(piece, sampling_rate=rate, input_sampling_rate=RATE) for piece in pieces]


def scores(model: Any, heard: list[Any]) -> list[np.ndarray]:
    extractor = model.make_feature_extractor()
    return [model.score_recordings([recording], extractor)[0].scores for recording in heard]


def parity(bench: Bench) -> None:
    """Largest difference of a score from the recorded CPU score of the original code, or from this CPU where there is none."""
    from hf_sqa.auto import families
    from tests.parity.signals import signal

    def off(model: Any, expected: list[np.ndarray], heard: list[Any]) -> Iterator[float]:
        for dtype in DTYPES:
            there = bench.loaded(model, dtype)
            yield max(float(np.abs(found - given).max()) for found, given in zip(scores(there, heard), expected, strict=True))

    def rows() -> Iterator[tuple[Any, ...]]:
        from hf_sqa.audio import load_recording

        covered = set()
        for path in [] if bench.tiny else sorted((ROOT / "tests" / "parity").glob("*.json")):
            recorded = json.loads(path.read_text(encoding="utf-8"))
            checkpoint = recorded["checkpoint"]
            if checkpoint and checkpoint.startswith("shared/"):
                checkpoint = ROOT.parent / checkpoint
            try:
                model = importlib.import_module(f"hf_sqa.models.{recorded['family']}.convert_{recorded['family']}").convert(
                    checkpoint
                )
            except (OSError, ImportError) as error:
                yield path.stem, f"left out: {str(error).splitlines()[0][:80]}", "", ""
                continue
            heard, expected = [], []
            for name, given in recorded["scores"].items():
                waveform, rate = signal(name)
                if model.config.sampling_rate in (None, rate) and 1 < len(waveform) / rate <= 5 and not name.startswith("silence"):
                    heard.append(load_recording(waveform, input_sampling_rate=rate))
                    expected.append(np.array([given[score] for score in model.config.score_names]))
            covered.add(recorded["family"])
            yield path.stem, *off(model, expected, heard)
        for name in families():
            if name not in covered:
                config_class, model_class = families()[name]
                torch.manual_seed(0)
                model = model_class(config_class.tiny()).eval()
                heard = recordings(2, 2.0)
                yield f"{name}, tiny", *off(model, scores(model, heard), heard)

    table("checkpoint | float32 | bfloat16 | float16", rows())
    print(f"\nIn float32, {FLOAT32_TOLERANCE:g} at most is asked for; TF32 is off.")


def throughput(bench: Bench) -> None:
    """Audio-hours in an hour, by batch size, in float32 and bfloat16."""
    batch_sizes, seconds = ((1, 2), 1.0) if bench.tiny else ((1, 16, 64), 10.0)
    variants = [
        ("default", {"mode": "published"}),
        ("default", {"mode": "fast"}),
        ("distilled-sqa-xs", {}),
        ("distilled-sqa-m", {}),
    ]
    variants += [("nisqa", {}), ("xlsr_sqa", {}), ("wav2vec2_mos", {})]
    if bench.tiny:
        variants = [("distilled-sqa-xs", {}), ("nisqa", {})]
    heard = recordings(max(batch_sizes), seconds)

    def rows() -> Iterator[tuple[Any, ...]]:
        for name, options in variants:
            for dtype in DTYPES[:2]:
                model = bench.loaded(bench.model(name), dtype)
                extractor = model.make_feature_extractor()
                cells = []
                for size in batch_sizes:
                    turns = bench.rate(lambda: model.score_recordings(heard[:size], extractor, **options))  # noqa: B023
                    cells.append(turns * size * seconds)
                yield f"{name} {options.get('mode', '')}", str(dtype).removeprefix("torch."), *cells

    table(f"model, clips of {seconds:g} s | precision | " + " | ".join(f"{size} a batch" for size in batch_sizes), rows())


def compiled(bench: Bench) -> None:
    """Windows a second of the convolution models as they are, by `torch.compile`, and by CUDA graphs of it."""
    names, batch_size = (["distilled-sqa-xs"], 2) if bench.tiny else (["default", "distilled-sqa-xs", "distilled-sqa-m"], 64)
    ways: dict[str, dict[str, Any] | None] = {"as it is": None, "compiled": {}, "CUDA graphs": {"mode": "reduce-overhead"}}
    if bench.tiny:  # the compiler itself takes a minute on a CPU
        ways = {"as it is": None, "compiled": {"backend": "eager"}}

    def rows() -> Iterator[tuple[Any, ...]]:
        for name in names:
            model = bench.model(name)
            windows = torch.from_numpy(speech(batch_size * model.config.window_samples / RATE)).reshape(batch_size, -1)
            windows = windows.to(bench.device)
            for way, options in ways.items():
                score = model.score_windows if options is None else torch.compile(model.score_windows, dynamic=False, **options)
                with torch.no_grad():  # in inference mode the compiler's guards refuse tensors made of numpy arrays
                    started = time.perf_counter()
                    off = float((score(windows) - model.score_windows(windows)).abs().max())
                    first = time.perf_counter() - started
                    yield name, way, first, bench.rate(lambda: score(windows)) * batch_size, off  # noqa: B023

    table(f"model | {batch_size} windows a call | first call, s | windows a second | off by", rows())


def files(bench: Bench) -> None:
    """Audio-hours in an hour from files, half of them FLAC at 16 kHz, half WAV at 48 kHz, by number of processes that decode."""
    from hf_sqa.scoring import score_corpus

    names, num_clips, seconds = (["distilled-sqa-xs"], 4, 1.0) if bench.tiny else (["default", "distilled-sqa-m"], 1000, 10.0)
    (bench.folder / "clips").mkdir()
    make_clips(bench.folder / "clips", num_clips, seconds)

    def rows() -> Iterator[tuple[Any, ...]]:
        for name in names:
            for workers in (1,) if bench.tiny else (2, 8):
                output = bench.folder / f"{name}-{workers}"
                progress = score_corpus(bench.folder / "clips", output, model=name, device=str(bench.device), num_workers=workers)
                yield name, workers, progress.statuses["ok"], progress.hours_per_hour

    table("model | processes that decode | clips | audio-hours an hour", rows())
    print("\nWhere this is far below the table of recordings in memory, decoding is the bound: more processes, or FLAC at 16 kHz.")


def training(bench: Bench) -> None:
    """A training step of every family: time and peak memory, eight clips of four seconds, bfloat16 by autocast."""
    from hf_sqa.auto import families

    batch_size, seconds = (2, 1.0) if bench.tiny else (8, 4.0)
    waveforms = list(speech(batch_size * seconds).reshape(batch_size, -1))

    def rows() -> Iterator[tuple[Any, ...]]:
        for name in families():
            model = bench.model(name).train()
            inputs = model.make_feature_extractor()(waveforms, sampling_rate=RATE, padding=True, return_tensors="pt")
            inputs = {key: value.to(bench.device) for key, value in inputs.items()}
            inputs["labels"] = torch.full((batch_size, model.config.num_labels), 3.0, device=bench.device)
            optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)

            def step() -> float:
                optimizer.zero_grad()  # noqa: B023
                with torch.autocast(bench.device.type, torch.bfloat16):
                    loss = model(**inputs).loss  # noqa: B023
                loss.backward()
                optimizer.step()  # noqa: B023
                return loss.item()

            if bench.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            rate = bench.rate(step)
            gigabytes = torch.cuda.max_memory_allocated() / 1e9 if bench.device.type == "cuda" else float("nan")
            yield (
                name,
                sum(weight.numel() for weight in model.parameters()) / 1e6,
                1000 / rate,
                batch_size * rate,
                gigabytes,
                step(),
            )

    table("family | million weights | ms a step | windows a second | GB at most | loss", rows())


def commands(bench: Bench) -> None:
    """FSDP2 and DeepSpeed on one device, a model pruned and a student distilled: the commands, on a few clips."""
    import yaml

    clips = bench.folder / "talkers"
    for talker in range(4):
        (clips / str(talker)).mkdir(parents=True)
        make_clips(clips / str(talker), 4, 8.0)
    paths = sorted(clips.glob("*/*"))
    (bench.folder / "rated.csv").write_text("file,mos\n" + "\n".join(f"{path},{1 + i % 4}" for i, path in enumerate(paths)))
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "conv_dim": [32] * 7}
    recipe = {
        "model": {"family": "wav2vec2_mos", "config": {"encoder_config": {"model_type": "wav2vec2", **small}}, "scores": ["mos"]},
        "data": {"train": [{"corpus": str(bench.folder / "rated.csv")}]},
        "training": {"max_steps": 3, "per_device_train_batch_size": 2, "eval_strategy": "no", "save_strategy": "no"},
    }
    (bench.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launch = [Path(sys.executable).with_name("accelerate"), "launch", "--num_processes", 1, "--config_file"]
    here, train = ROOT / "train_scripts" / "accelerate", ["-m", "hf_sqa", "train", bench.folder / "recipe.yaml"]
    own = [sys.executable, "-m", "hf_sqa"]
    more = [] if bench.device.type == "cuda" else ["training.use_cpu=true"]
    windows = 320 if bench.tiny else 1280  # in shards of 64, of which one talker in four has its share
    runs: dict[str, list[Any]] = {
        "FSDP2": [
            *(*launch, here / "fsdp2.yaml", "--fsdp_transformer_layer_cls_to_wrap", "Wav2Vec2EncoderLayer"),
            *(*train, f"output_dir={bench.folder / 'fsdp2'}"),
        ],
        "DeepSpeed ZeRO-2": [*launch, here / "deepspeed_zero2.yaml", *train, f"output_dir={bench.folder / 'zero2'}"],
        "DeepSpeed ZeRO-3": [*launch, here / "deepspeed_zero3.yaml", *train, f"output_dir={bench.folder / 'zero3'}"],
        "train": [*own, *train[2:], f"output_dir={bench.folder / 'plain'}", *more],
        "prune": [
            *(*own, "prune", "--model", "distilled-sqa-xs", "--target", 0.8, "--calibration", clips, "--device", bench.device),
            *("--output", bench.folder / "pruned", "--num-steps", 1, "--repair-steps", 2, "--num-windows", 64),
        ],
        "distill": [
            *(*own, "distill", "distilled_sqa-xxs", "speech.bench=null", f"speech.folder={clips}", "labels.leave_out=[]"),
            *(f"labels.folder={bench.folder / 'labels'}", f"labels.num_windows={windows}", "speech.validation_share=0.3"),
            *(f"teachers.0.checkpoint={'distilled-sqa-xs' if bench.tiny else 'default'}", "training.max_steps=2"),
            *("degradations.bench=0", f"output_dir={bench.folder / 'student'}", *more),
        ],
    }

    def rows() -> Iterator[tuple[Any, ...]]:
        for name, command in runs.items():
            needs_gpu = bench.device.type != "cuda" and launch[0] in command
            if needs_gpu or ("DeepSpeed" in name and importlib.util.find_spec("deepspeed") is None):
                yield name, "needs a GPU" if needs_gpu else "needs `pip install deepspeed`", "", ""
                continue
            started = time.perf_counter()
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, timeout=240)
            said = (done.stdout + done.stderr if done.returncode else done.stdout).strip().splitlines() or [""]
            yield (
                name,
                "done" if done.returncode == 0 else f"exit code {done.returncode}",
                time.perf_counter() - started,
                said[-1][:120],
            )

    table("command | result | seconds, start included | last line", rows())


PARTS = (parity, throughput, compiled, files, training, commands)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models on a CPU: whether every part runs, not how fast")
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS], help="some of the parts")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("There is no GPU here; `--tiny` runs every part on the CPU, to see that it runs.")
    print_machine()
    from transformers.utils import logging

    import hf_sqa  # noqa: F401  # registers the families

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    began, failed = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="hf-sqa-gpu-") as folder:
        bench = Bench(torch.device("cpu" if options.tiny else "cuda"), options.tiny, Path(folder))
        for part in PARTS:
            if options.only and part.__name__ not in options.only:
                continue
            print(f"\n## {part.__name__.capitalize()}\n\n{part.__doc__}", flush=True)
            if time.monotonic() - began > BUDGET_SECONDS:
                print("\nLeft out: the time is over.")
                continue
            started = time.monotonic()
            try:
                part(bench)
            except Exception as error:
                failed.append(part.__name__)
                print(f"\nFailed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            print(f"\n{time.monotonic() - started:.0f} s", flush=True)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
