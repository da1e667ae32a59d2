"""Fit the head that gives a DistilledSQA its local quality, `hf_sqa.models.distilled_sqa.local_distilled_sqa`, to the model itself.

    python train_scripts/local_head.py distilled-sqa-m distilled-sqa-s distilled-sqa-xs --packages unpacked/ --talkers talkers/*

The model teaches its own head: a window of one condition throughout has one score, and every second of it shall have that score.
Speech is phrases of the talkers of `hf-sqa corpus` whose part is `train` (Debian packages, unpacked into a folder), and of 2 to 8 s
of further talkers, a folder each, repeated to fill a window; conditions are the preset `distillation` and the kinds of fault of
`benchmarks/faults_at_known_places.py`, two of whose talkers (it, ru) are not heard here. Where a window has a gap with hard edges,
the edges are bad and its inside is not looked at.

How far the level of a curve is to be trusted (`CurveLevel`) is fitted afterwards: two numbers for which the shift that is measured
on the first window of a take, clean or with a fault in it, is the most right for all of the clean take. Takes are of a quarter of
the further talkers, drawn by their names, whom the head does not hear: it lies too well for those it was fitted to.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from faults_at_known_places import FAULTS, FLOOR_DBFS, LONGEST_TAKE, RATE, SHORTEST_TAKE

import hf_sqa
from hf_sqa.audio import load_recording
from hf_sqa.blocks.local_steps import rounded_peak
from hf_sqa.data.bench.speech import VOICES, find_phrases, reference_waveform
from hf_sqa.degradations import Chain, set_level
from hf_sqa.models.distilled_sqa.local_distilled_sqa import (
    FrameScorer,
    LocalHead,
    frames_per_step,
    head_file,
    load_head,
    steps_of,
)

#: Seconds of a phrase.
SHORTEST, LONGEST = 2.0, 8.0
#: Score of the edges of a gap, and how far from an edge a frame sees it.
EDGE_SCORE, EDGE_SECONDS = 1.2, 0.16
STEPS, BATCH, STEP_SECONDS = 2000, 64, 0.08
#: Scores are drawn evenly by bins of this width, those with fewer windows less often.
BIN_WIDTH, LEAST_IN_BIN = 0.25, 10
WINDOWS_PER_PHRASE = 5
TAKES_OF_TALKER = 3


def phrases_of_packages(packages: Path, of_voice: int) -> Iterator[np.ndarray]:
    """Phrases, voices taking turns, so that the first few are of all of them."""
    voices: dict[str, list[Any]] = {}
    for phrase in find_phrases("training", packages, of_voice):
        if VOICES[phrase.voice].split == "train":
            voices.setdefault(phrase.voice, []).append(phrase)
    return map(reference_waveform, _by_turns(voices.values()))


def phrases_of_talkers(talkers: Iterable[Path], of_talker: int) -> Iterator[tuple[str, np.ndarray]]:
    """The same of further talkers, with their names."""
    for path in _by_turns([_phrases_of(talker, of_talker) for talker in talkers]):
        yield (
            path.parent.name,
            set_level(load_recording(path, sampling_rate=RATE).waveform, RATE, target_dbfs=-26, measure="active"),
        )


def is_for_level(talker: Path) -> bool:
    """Whether a talker is kept from the head and heard for the level of its curve."""
    return hashlib.sha256(talker.name.encode()).digest()[0] % 4 == 0


def _by_turns(rows: Iterable[list[Any]]) -> Iterator[Any]:
    missing = object()
    return (item for items in itertools.zip_longest(*rows, fillvalue=missing) for item in items if item is not missing)


def _phrases_of(talker: Path, number: int) -> list[Path]:
    paths = [path for path in talker.rglob("*") if path.suffix in (".wav", ".flac", ".ogg")]
    drawn = sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    found = (path for path in drawn if SHORTEST <= soundfile.info(path).duration <= LONGEST)
    return list(itertools.islice(found, number))


def window_of(speech: np.ndarray, length: int, rng: np.random.Generator, has_floor: bool) -> np.ndarray:
    """A phrase with pauses, repeated to fill a window, with the noise of a microphone or without."""
    pause = np.zeros(round(rng.uniform(0.1, 0.6) * RATE), np.float32)
    clean = np.resize(np.concatenate([speech, pause]), length)
    return (clean + rng.normal(0, 10 ** (FLOOR_DBFS / 20), length)).astype(np.float32) if has_floor else clean


def windows_of(phrases: Iterable[np.ndarray], length: int):
    """Yield `(window, gaps)`: windows of one condition, and the stretches of gaps in samples."""
    chain = Chain.load("distillation")
    kinds = [kind for name, kind in FAULTS.items() if name != "gap"]
    for index, speech in enumerate(phrases):
        rng = np.random.default_rng([7, index])
        clean = window_of(speech, length, rng, has_floor=bool(index % 2))
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
def examples_of(models: dict[str, Any], phrases: Iterable[np.ndarray]) -> dict[str, Examples]:
    """For each model: steps of frames `(N, S, C)`, the score that each should have `(N, S)`, and whether it is looked at."""
    (length,) = {model.config.window_samples for model in models.values()}
    found: dict[str, list[Examples]] = {name: [] for name in models}
    clean_scores: dict[str, float] = {}
    for index, (window, gaps) in enumerate(windows_of(phrases, length)):
        waveform = torch.from_numpy(np.ascontiguousarray(window))[None]
        for name, model in models.items():
            frames = model._frames(waveform / (rounded_peak(float(waveform.abs().max())) + 1e-8))
            steps = steps_of(frames[0], frames_per_step(model.config))
            if not gaps:
                score = float(model.score_windows(waveform)[0, 0])
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
    share = _share_of(targets.median(dim=1).values)
    for _ in range(steps):
        rows = torch.multinomial(share, BATCH, replacement=True, generator=generator)
        length = int(torch.randint(6, 19, (1,), generator=generator))
        starts = torch.randint(inputs.shape[1] - length, (BATCH,), generator=generator)
        at = starts[:, None] + torch.arange(length)
        mask, target = masks[rows[:, None], at], targets[rows[:, None], at]
        frames = torch.nn.functional.dropout(inputs[rows[:, None], at].float() - head.center, 0.2) + head.center
        scores, weights = head(frames)
        weights = weights * mask
        means = (weights * scores).sum(dim=1) / (weights.sum(dim=1) + 1e-6)
        wanted = (mask * target).sum(dim=1) / (mask.sum(dim=1) + 1e-6)
        loss = torch.nn.functional.smooth_l1_loss(means[mask.sum(dim=1) > 2], wanted[mask.sum(dim=1) > 2], beta=0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def doubt_of(model: Any, head: LocalHead, phrases: Iterable[tuple[str, np.ndarray]]) -> tuple[float, float]:
    """The `doubt` of `CurveLevel` with which the shift by the first window of a take is the most right for the whole of it."""
    by_talker: dict[str, list[np.ndarray]] = {}
    for talker, speech in phrases:
        by_talker.setdefault(talker, []).append(speech)
    shifts, variances, wanted = [], [], []
    for index, speech in enumerate(by_talker.values()):
        for number in range(TAKES_OF_TALKER if len(speech) > 2 else 0):
            rng = np.random.default_rng([8, index, number])
            clean, faulty = take_of(speech, list(FAULTS.values())[(index + number) % len(FAULTS)], model.config.window_samples, rng)
            scorer = FrameScorer(model, head, has_level=False)
            starts = model.window_starts(len(clean), hop_seconds=model.config.window_samples / RATE).tolist()
            scores = [scorer.score_window(clean[start : start + model.config.window_samples]) for start in starts]
            right = float(np.mean(scores)) - float(np.mean(_values(model, head, clean)))
            for sound, score in ((clean, scores[0]), (faulty, None)):
                values = _values(model, head, sound, model.config.window_samples)
                score = scorer.score_window(sound[: model.config.window_samples]) if score is None else score
                shifts.append(score - float(np.mean(values)))
                variances.append(float(np.var(values)))
                wanted.append(right)
    measured, spread, needed = map(np.array, (shifts, variances, wanted))
    bases, slopes = np.geomspace(0.02, 4, 40).tolist(), [0.0, *np.geomspace(0.02, 100, 60).tolist()]
    return min(
        itertools.product(bases, slopes),
        key=lambda doubt: float(np.mean(np.square(measured / (1 + doubt[0] + doubt[1] * spread) - needed))),
    )


def take_of(phrases: list[np.ndarray], fault: Any, window: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Phrases of a talker one after another, 6.5 to 30 s, and the same with a fault in the first window."""
    length, parts = round(RATE * float(np.exp(rng.uniform(np.log(SHORTEST_TAKE), np.log(LONGEST_TAKE))))), []
    while sum(map(len, parts)) < length:
        parts += [phrases[int(rng.integers(len(phrases)))], np.zeros(round(rng.uniform(0.1, 0.6) * RATE), np.float32)]
    clean = np.concatenate(parts)[:length]
    clean = (clean + rng.normal(0, 10 ** (FLOOR_DBFS / 20), length)).astype(np.float32)
    size = round(RATE * float(np.exp(rng.uniform(np.log(0.5), np.log(5)))))
    start, faulty = int(rng.integers(min(window, length) - size)), clean.copy()
    faulty[start : start + size] = fault(clean, rng)[start : start + size]
    return clean, np.clip(faulty, -1, 1).astype(np.float32)


def _values(model: Any, head: LocalHead, sound: np.ndarray, end: int | None = None) -> list[float]:
    """The points of a curve where nothing has moved it, those that are known when `end` samples were heard."""
    scorer = FrameScorer(model, head, has_level=False)
    latest = np.inf if end is None or end > len(sound) else end / RATE - scorer.half_seconds
    points = [point for point in scorer.feed(sound, last=True) if (point.start + point.end) / 2 <= latest]
    return [float(point.scores[0]) for point in points if point.scores is not None]


def _share_of(scores: torch.Tensor) -> torch.Tensor:
    """How often each window is drawn: all scores as often as each other, or the best, which few windows have, come out too low."""
    bins = ((scores - 1) / BIN_WIDTH).long()
    return 1 / torch.bincount(bins)[bins].clamp(min=LEAST_IN_BIN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="Models whose windows are as long as each other's.")
    parser.add_argument("--packages", type=Path, required=True, help="Debian packages, unpacked.")
    parser.add_argument("--phrases", type=int, default=25, help="Phrases of every voice in the packages.")
    parser.add_argument("--talkers", type=Path, nargs="*", default=[], help="Folders of further talkers.")
    parser.add_argument("--phrases-of-talkers", type=int, default=10, help="Phrases of every further talker, at most.")
    parser.add_argument("--level-only", action="store_true", help="Keep the heads, fit the level.")
    parser.add_argument("--dtype", help="Of the convolutions; bfloat16 takes half the time of large models on some processors.")
    options = parser.parse_args()
    models = {name: hf_sqa.pipeline(name, device="cpu", dtype=options.dtype).model for name in options.models}
    for_level = [talker for talker in options.talkers if is_for_level(talker)]
    level_phrases = list(phrases_of_talkers(for_level, options.phrases_of_talkers))
    found: dict[str, Examples] = {}
    if not options.level_only:
        for_head = phrases_of_talkers(
            [talker for talker in options.talkers if not is_for_level(talker)], options.phrases_of_talkers
        )
        phrases = itertools.chain(phrases_of_packages(options.packages, options.phrases), (speech for _, speech in for_head))
        found = examples_of(models, phrases)
    for name, model in models.items():
        path = head_file(model.config.checkpoint_name)
        head = load_head(model.config) if options.level_only else fit(*found[name])
        doubt = doubt_of(model, head, level_phrases)
        head.doubt.copy_(torch.tensor(doubt))
        path.parent.mkdir(exist_ok=True)
        save_file(head.state_dict(), path)
        windows = "the head as it was" if options.level_only else f"{len(found[name][0])} windows"
        sys.stdout.write(f"{path.name}: {windows}; doubt of its level {doubt[0]:.2f} and {doubt[1]:.2f} for a variance of 1\n")


if __name__ == "__main__":
    main()
