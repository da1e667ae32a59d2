"""Fit the head that gives a DistilledSQA its local quality, `hf_sqa.models.distilled_sqa.local_distilled_sqa`, to the model itself.

    python train_scripts/local_head.py distilled-sqa-m --packages unpacked/ --further talkers/*

The model teaches its own head: a window of one condition throughout has one score, and every second of it shall have that score.
Speech is the phrases of 2.2 to 6 s of `hf-sqa corpus` (Debian packages, unpacked into a folder) and of further folders, one a
talker, repeated to fill a window; conditions are the preset `distillation` and the kinds of fault of
`benchmarks/faults_at_known_places.py`. Where a window has a gap with hard edges, the edges are bad and its inside is not looked at.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from faults_at_known_places import FAULTS, FLOOR_DBFS, RATE

import hf_sqa
from hf_sqa.audio import load_recording
from hf_sqa.data.bench.speech import find_phrases, reference_waveform
from hf_sqa.degradations import Chain, set_level
from hf_sqa.models.distilled_sqa.local_distilled_sqa import LocalHead, head_file, steps_of

#: Phrases of a talker in a further folder, as a share of those of a voice.
SHARE_OF_FURTHER = 0.4
#: Score of the edges of a gap, and how far from an edge a frame sees it.
EDGE_SCORE, EDGE_SECONDS = 1.2, 0.16
STEPS, BATCH, STEP_SECONDS = 1500, 48, 0.08
WINDOWS_PER_PHRASE = 5


def phrases_of(folder: Path, further: list[Path], number: int):
    """Yield phrases as waveforms, talkers one after another."""
    for phrase in find_phrases("training", folder, number):
        yield reference_waveform(phrase)
    for talker in further:
        paths = sorted(path for path in talker.rglob("*") if path.suffix in (".wav", ".flac", ".ogg"))
        chosen = [path for path in paths if 2.0 <= soundfile.info(path).duration <= 8.0][: round(SHARE_OF_FURTHER * number)]
        for path in chosen:
            speech = load_recording(path, sampling_rate=RATE).waveform
            yield set_level(speech, RATE, target_dbfs=-26, measure="active")


def windows_of(folder: Path, further: list[Path], phrases: int, length: int):
    """Yield `(window, gaps)`: windows of one condition, and the stretches of gaps in samples."""
    chain = Chain.load("distillation")
    kinds = [kind for name, kind in FAULTS.items() if name != "gap"]
    for index, speech in enumerate(phrases_of(folder, further, phrases)):
        rng = np.random.default_rng([7, index])
        pause = np.zeros(round(rng.uniform(0.1, 0.6) * RATE), np.float32)
        clean = np.resize(np.concatenate([speech, pause]), length)
        if index % 2:
            clean = (clean + rng.normal(0, 10 ** (FLOOR_DBFS / 20), length)).astype(np.float32)
        yield clean, []
        yield chain(clean, RATE, rng)[0], []
        for kind in rng.choice(len(kinds), 2, replace=False):
            yield kinds[kind](clean, rng), []
        gapped, gaps = clean.copy(), []
        for begin in (rng.uniform(0.5, 2.5), rng.uniform(4, 5)):
            start, end = round(begin * RATE), round((begin + rng.uniform(0.3, 1.5)) * RATE)
            gapped[start:end] = 0
            gaps.append((start, end))
        yield gapped, gaps


Examples = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@torch.inference_mode()
def examples_of(models: dict[str, Any], folder: Path, further: list[Path], phrases: int) -> dict[str, Examples]:
    """For each model: steps of frames `(N, S, C)`, the score that each should have `(N, S)`, and whether it is looked at."""
    (length,) = {model.config.window_samples for model in models.values()}
    found: dict[str, list[Examples]] = {name: [] for name in models}
    clean_scores: dict[str, float] = {}
    for index, (window, gaps) in enumerate(windows_of(folder, further, phrases, length)):
        waveform = torch.from_numpy(np.ascontiguousarray(window))[None]
        waveform = waveform / (waveform.abs().max() + 1e-8)
        for name, model in models.items():
            frames = model._frames(waveform)
            steps = steps_of(frames[0], model.config)
            if not gaps:
                score = float(model._score_frames(frames)[0, 0])
                clean_scores[name] = clean_scores[name] if index % WINDOWS_PER_PHRASE else score
            target, mask = torch.full((len(steps),), clean_scores[name] if gaps else score), torch.ones(len(steps))
            time = (torch.arange(len(steps)) + 0.5) * STEP_SECONDS
            for start, end in gaps:
                mask[(time > start / RATE) & (time < end / RATE)] = 0
            for edge in (edge / RATE for gap in gaps for edge in gap):
                near = (time - edge).abs() < EDGE_SECONDS
                target[near], mask[near] = EDGE_SCORE, 1
            found[name].append((steps.half(), target, mask))
    return {name: tuple(map(torch.stack, zip(*examples, strict=True))) for name, examples in found.items()}


def fit(inputs: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor, steps: int = STEPS) -> LocalHead:
    """Fit a head so that means over 0.5 to 1.5 s have their scores."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # the head's first weights
    head = LocalHead(inputs.shape[-1])
    flat = inputs.flatten(0, 1).float()
    head.center.copy_(flat.mean(dim=0))
    head.scale.copy_(flat.std(dim=0) + 1e-3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (BATCH,), generator=generator)
        length = int(torch.randint(6, 19, (1,), generator=generator))
        starts = torch.randint(inputs.shape[1] - length, (BATCH,), generator=generator)
        at = starts[:, None] + torch.arange(length)
        mask, target = masks[rows[:, None], at], targets[rows[:, None], at]
        frames = torch.nn.functional.dropout(inputs[rows[:, None], at].float() - head.center, 0.2) + head.center
        scores, weights = head(frames)
        weights = weights * mask
        share = (weights * scores).sum(dim=1) / (weights.sum(dim=1) + 1e-6)
        wanted = (mask * target).sum(dim=1) / (mask.sum(dim=1) + 1e-6)
        loss = torch.nn.functional.smooth_l1_loss(share[mask.sum(dim=1) > 2], wanted[mask.sum(dim=1) > 2], beta=0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="Models whose windows are as long as each other's.")
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--phrases", type=int, default=30, help="Phrases of every voice.")
    parser.add_argument("--further", type=Path, nargs="*", default=[], help="Folders of further talkers.")
    options = parser.parse_args()
    models = {name: hf_sqa.pipeline(name, device="cpu").model for name in options.models}
    for name, examples in examples_of(models, options.packages, options.further, options.phrases).items():
        path = head_file(models[name].config.checkpoint_name)
        path.parent.mkdir(exist_ok=True)
        save_file(fit(*examples).state_dict(), path)
        sys.stdout.write(f"Fitted to {len(examples[0])} windows: {path.name}\n")


if __name__ == "__main__":
    main()
