"""A training step of `Wav2Vec2ForMOS` beside a bare loop around the same encoder, in one process; then the Trainer on files.

    python benchmarks/training_speed.py                   # a small encoder, two minutes on a core
    python benchmarks/training_speed.py --size base       # wav2vec 2.0 base, random weights

Steps of both sides alternate on the same batch, so that whatever else the machine does falls on both; CPU time, so that waiting
counts for neither. The Trainer then reads FLAC files with workers of its own: what share of the time its steps wait for them.
Peak memory is that of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from machine import print_machine

SIZES = {
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "conv_dim": [128] * 7,
    },
    "base": {},
}
RATE = 16_000


def encoder_config(size: str) -> dict:
    from hf_sqa.blocks.speech_encoder import WAV2VEC2_BASE

    without_chance = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0}
    return WAV2VEC2_BASE | SIZES[size] | without_chance


def ours(size: str):
    from hf_sqa import Wav2Vec2ForMOS, Wav2Vec2ForMOSConfig

    torch.manual_seed(0)
    return Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig(encoder_config=encoder_config(size), mask_padding=False)).train()


class Bare(torch.nn.Module):
    """What a user writes around `AutoModel`: encoder, linear layer, mean, L1."""

    def __init__(self, size: str):
        super().__init__()
        from transformers import AutoConfig, AutoModel

        torch.manual_seed(0)
        self.encoder = AutoModel.from_config(AutoConfig.for_model(**encoder_config(size)))
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, 1)

    def forward(self, input_values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scores = self.head(self.encoder(input_values).last_hidden_state).mean(dim=1)
        return torch.nn.functional.l1_loss(scores, labels)


def stepper(model: torch.nn.Module, batch: torch.Tensor, labels: torch.Tensor):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> float:
        started = time.process_time()
        optimizer.zero_grad()
        output = model(input_values=batch, labels=labels)
        (output if isinstance(output, torch.Tensor) else output.loss).backward()
        optimizer.step()
        return time.process_time() - started

    return step


def compare_steps(size: str, seconds: float, rounds: int) -> tuple[float, float]:
    """Median CPU seconds of a step, ours and bare."""
    batch = 0.1 * torch.randn(4, round(seconds * RATE), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    steps = {"ours": stepper(ours(size), batch, labels), "bare": stepper(Bare(size).train(), batch, labels)}
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds + 2):
        for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
            taken = steps[name]()
            if number >= 2:
                times[name].append(taken)
    return statistics.median(times["ours"]), statistics.median(times["bare"])


def waiting_share(size: str, seconds: float, num_steps: int, workers: int) -> tuple[float, float, float, float]:
    """Share of the time in which the Trainer waits for its loader, time and CPU time of a step; clips a second of the loader alone.

    The files are FLAC of 48 kHz, resampled.
    """
    from hf_sqa.training import AudioQualityTrainer, AudioQualityTrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        rows = []
        for number in range(4 * num_steps):
            path = Path(folder) / f"{number}.flac"
            soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * 48_000)), 48_000)
            rows.append({"audio": str(path), "mos": 1 + number % 5})
        args = AudioQualityTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=4,
            max_steps=num_steps,
            eval_strategy="no",
            save_strategy="no",
            use_cpu=True,
            dataloader_num_workers=workers,
        )
        trainer = AudioQualityTrainer(ours(size), args, train_dataset=rows)
        cpu, started = time.process_time(), time.perf_counter()
        trainer.train()
        share = trainer.waiting.share
        total, cpu = time.perf_counter() - started, time.process_time() - cpu
        batches = iter(trainer.get_train_dataloader())
        next(batches)  # the workers start
        started = time.perf_counter()
        num_clips = sum(len(batch["labels"]) for batch in batches)
        alone = num_clips / (time.perf_counter() - started)
    return share, total / num_steps, cpu / num_steps, alone


def peak_megabytes(side: str, size: str, seconds: float) -> float:
    """Peak memory of three steps in a process of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_three_steps, (side, size, seconds))


def _three_steps(side: str, size: str, seconds: float) -> float:
    torch.set_num_threads(1)
    model = ours(size) if side == "ours" else Bare(size).train()
    batch = 0.1 * torch.randn(4, round(seconds * RATE))
    step = stepper(model, batch, torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the clips")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=12, help="of the Trainer")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    print_machine()
    torch.set_num_threads(1)
    from transformers.utils import logging

    logging.disable_progress_bar()
    mine, bare = compare_steps(options.size, options.seconds, options.rounds)
    print(
        f"step, 4 clips of {options.seconds:g} s, {options.size} encoder: ours {mine:.3f} s, bare {bare:.3f} s, {mine / bare:.3f}x"
    )
    share, wall, cpu, alone = waiting_share(options.size, options.seconds, options.steps, options.workers)
    print(
        f"Trainer on FLAC of 48 kHz, {options.workers} worker(s): {cpu:.3f} s of CPU and {wall:.3f} s a step, waiting for data "
        f"{100 * share:.1f} %; the loader alone brings {alone / max(1, options.workers):.1f} clips a second and worker"
    )
    for side in ("ours", "bare"):
        print(f"peak memory, {side}: {peak_megabytes(side, options.size, options.seconds):,.0f} MB")


if __name__ == "__main__":
    main()
