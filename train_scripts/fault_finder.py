"""Fit the network that finds and names faults, `hf_sqa.blocks.faults`, to faults at known places.

    python train_scripts/fault_finder.py voices/* --often people/* --seldom words/* --output hf_sqa/assets/local/faults.safetensors

Every folder is a talker, none of them of the benchmark, of whom takes are made by joining phrases. Each has a condition throughout
and no fault, one or two; the kinds are those of `benchmarks/faults_at_known_places.py`, of more makes and strengths. A fifth of the
talkers, drawn by their names, are kept out: on their takes the thresholds of `hf_sqa.blocks.faults` were chosen.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from faults_at_known_places import FAULTS, RATE

from hf_sqa import degradations
from hf_sqa.audio import load_recording
from hf_sqa.blocks.faults import (
    FRAME_SAMPLES,
    FRAMES_PER_STEP,
    NUM_BANDS,
    Fault,
    FaultNetwork,
    decisions,
    frame_features,
    relative_features,
    stretches,
)
from hf_sqa.degradations import Chain, set_level

STEP = FRAME_SAMPLES * FRAMES_PER_STEP
LENGTHS = (6.4, 9.6, 14.4, 20.8)
BATCH, EPOCHS, LEARNING_RATE = 16, 14, 3e-3
#: Of a take, each as likely; and how many phrases a talker has at least.
NUM_FAULTS, LEAST_PHRASES = (0, 1, 1, 1, 2), 4


def is_held_out(talker: str) -> bool:
    return hashlib.sha256(talker.encode()).digest()[0] % 5 == 0


def phrases_of(talker: Path, number: int, rng: np.random.Generator) -> list[np.ndarray]:
    paths = sorted(path for path in talker.rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".opus"))
    found = []
    for index in rng.permutation(len(paths))[: 3 * number]:
        if 0.7 <= soundfile.info(paths[index]).duration <= 20:
            found.append(load_recording(paths[index], sampling_rate=RATE).waveform)
        if len(found) == number:
            break
    return found


def take_of(phrases: list[np.ndarray], seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Phrases one after another with pauses, at one level, with the noise of a microphone."""
    length, parts, have = round(seconds * RATE), [], 0
    while have < length:
        phrase = phrases[rng.integers(len(phrases))]
        parts += [phrase, np.zeros(round(rng.uniform(0.02, 0.7) * RATE), np.float32)]
        have += len(parts[-2]) + len(parts[-1])
    begin = int(rng.integers(have - length + 1))
    take = np.concatenate(parts)[begin : begin + length]
    if np.abs(take).max() > 0:
        take = set_level(take, RATE, target_dbfs=rng.uniform(-34, -20), measure="whole_file")
    if rng.random() < 0.85:
        floor = degradations.pink_noise if rng.random() < 0.3 else degradations.white_noise
        level = rng.choice([-72.0, rng.uniform(-85, -55)])
        noise = rng.normal(0, 10 ** (level / 20), length).astype(np.float32)
        take = take + (noise if floor is degradations.white_noise else np.cumsum(noise - noise.mean()) * 0.02).astype(np.float32)
    return np.clip(take, -1, 1).astype(np.float32)


def conditioned(take: np.ndarray, chain: Chain, rng: np.random.Generator) -> np.ndarray:
    """The take under a condition that it has throughout: often none."""
    draw = rng.random()
    if draw < 0.55:
        return take
    if draw < 0.7:
        return degradations.low_pass(take, RATE, cutoff_hz=float(np.exp(rng.uniform(np.log(3000), np.log(7500)))))
    if draw < 0.8:
        return degradations.pink_noise(take, RATE, snr_db=rng.uniform(10, 40), speech_level="active", rng=rng)
    return chain(take, RATE, rng)[0]


def _faulty(kind: str, speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The kind as in the benchmark or, as often, of other makes and strengths."""
    if rng.random() < 0.5:
        return FAULTS[kind](speech, rng)
    return OTHER_MAKES[kind](speech, rng)


def _loss(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    concealment, burst = str(rng.choice(["zeros", "pitch", "repeat"])), rng.uniform(1.5, 4)
    return degradations.packet_loss(
        speech, RATE, loss_share=rng.uniform(0.12, 0.4), mean_burst_packets=burst, concealment=concealment, rng=rng
    )


def _noise(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    add = (degradations.white_noise, degradations.pink_noise, degradations.background_noise, degradations.hum)[rng.integers(4)]
    level = {} if add is degradations.hum else {"speech_level": "active"}
    return add(speech, RATE, snr_db=rng.uniform(-3, 15), rng=rng, **level)


def _codec(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    makes = (
        lambda: degradations.opus(speech, RATE, bitrate_kbps=rng.uniform(6, 9)),
        lambda: degradations.amr_nb(speech, RATE, bitrate_kbps=float(rng.choice([4.75, 5.9, 7.4, 12.2]))),
        lambda: degradations.g711(speech, RATE),
        lambda: degradations.mp3(speech, RATE, bitrate_kbps=int(rng.choice([8, 16]))),
        lambda: degradations.mnru(speech, RATE, q_db=rng.uniform(5, 20), rng=rng),
    )
    return makes[rng.integers(len(makes))]()


def _gap(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, 10 ** (-rng.uniform(60, 100) / 20), len(speech))
    return (speech * 10 ** (-rng.uniform(35, 80) / 20) + noise).astype(np.float32)


def _room(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ratio = rng.uniform(-8, 3)
    return degradations.reverberation(speech, RATE, t60_seconds=rng.uniform(0.4, 1.4), direct_to_reverberant_db=ratio, rng=rng)


OTHER_MAKES = {
    "loss": _loss,
    "noise": _noise,
    "clipping": lambda speech, rng: degradations.clip_share(speech, RATE, share=rng.uniform(0.06, 0.3)),
    "codec switch": _codec,
    "gap": _gap,
    "band limit": lambda speech, rng: degradations.low_pass(speech, RATE, cutoff_hz=rng.uniform(800, 4000)),
    "reverberation": _room,
}


def example(phrases: list[np.ndarray], seconds: float, num_faults: int, chain: Chain, rng: np.random.Generator):
    """Frames `(M, N)` and the kind of every step `(S,)`, 0 for none, -1 where a step is neither."""
    sound = conditioned(take_of(phrases, seconds, rng), chain, rng)
    kinds = np.zeros(len(sound) // STEP, np.int8)
    truth = []
    for _ in range(num_faults):
        kind = list(FAULTS)[rng.integers(len(FAULTS))]
        length = round(RATE * min(float(np.exp(rng.uniform(np.log(0.3), np.log(5)))), 0.6 * seconds))
        start = _place(sound, length, rng)
        if any(start < end + RATE and begin - RATE < start + length for begin, end, _ in truth):
            continue
        low, high = max(0, start - RATE), min(len(sound), start + length + RATE // 2)
        bad = _faulty(kind, sound[low:high], rng)[start - low : start - low + length]
        fade = min(round(rng.choice([0, RATE / 200])), length // 2)
        share = np.ones(length, np.float32)
        if fade and kind != "gap":
            share[:fade], share[-fade:] = np.linspace(0, 1, fade), np.linspace(1, 0, fade)
        sound = sound.copy()
        sound[start : start + length] = np.clip(share * bad + (1 - share) * sound[start : start + length], -1, 1)
        covered = np.zeros(len(sound), bool)
        covered[start : start + length] = True
        covered = covered[: len(kinds) * STEP].reshape(-1, STEP).mean(axis=1)
        kinds[(covered > 0.3) & (covered < 0.6)] = -1
        kinds[covered >= 0.6] = 1 + list(FAULTS).index(kind)
        truth.append((start, start + length, kind))
    return frame_features(sound)[: len(kinds) * FRAMES_PER_STEP].astype(np.float16), kinds, truth


def _place(speech: np.ndarray, length: int, rng: np.random.Generator) -> int:
    frames = np.square(speech[: len(speech) // 320 * 320]).reshape(-1, 320).mean(axis=1)
    active = np.concatenate([[0], np.cumsum(frames > frames.max() * 1e-3)])
    size = length // 320
    shares = (active[size:] - active[:-size]) / size
    good = np.flatnonzero(shares[: max(1, len(frames) - size)] >= 0.55)
    return 320 * int(rng.choice(good) if len(good) else np.argmax(shares[: max(1, len(frames) - size)]))


Take = tuple[str, np.ndarray, np.ndarray, list[tuple[int, int, str]]]


def takes_of(talkers: dict[Path, int], seed: int) -> list[Take]:
    """Name of the talker, frames, kinds of the steps and faults in samples, of so many takes of every talker."""
    chain, takes = Chain.load("distillation"), []
    for index, (talker, number) in enumerate(sorted(talkers.items())):
        rng = np.random.default_rng([seed, index])
        phrases = phrases_of(talker, 24, rng)
        for _ in range(number if len(phrases) >= LEAST_PHRASES else 0):
            seconds, faults = float(rng.choice(LENGTHS)), int(rng.choice(NUM_FAULTS))
            takes.append((talker.name, *example(phrases, seconds, faults, chain, rng)))
    return takes


def fit(takes: list[Take], epochs: int = EPOCHS) -> FaultNetwork:
    torch.manual_seed(0)
    rng, network = np.random.default_rng(0), FaultNetwork()
    by_length: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for _, frames, kinds, _ in takes:
        by_length.setdefault(len(kinds), []).append((relative_features(frames.astype(np.float32)), kinds))
    inputs = {length: torch.from_numpy(np.stack([frames for frames, _ in pairs])) for length, pairs in by_length.items()}
    targets = {length: torch.from_numpy(np.stack([kinds for _, kinds in pairs])).long() for length, pairs in by_length.items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    num_batches = sum(-(-len(pairs) // BATCH) for pairs in by_length.values())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * num_batches)
    for _ in range(epochs):
        batches = [
            (length, rows)
            for length, pairs in by_length.items()
            for rows in np.array_split(rng.permutation(len(pairs)), -(-len(pairs) // BATCH))
        ]
        for index in rng.permutation(num_batches):
            length, rows = batches[index]
            logits = network(equalised(inputs[length][rows], rng))
            loss = F.cross_entropy(logits.flatten(0, 1), targets[length][rows].flatten(), ignore_index=-1, label_smoothing=0.02)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def equalised(features: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Each take as through another microphone: its bands louder or softer by some dB, neighbours alike."""
    knots = torch.from_numpy(rng.normal(0, 4, (len(features), 1, 5)).astype(np.float32))
    gains = F.interpolate(knots, size=NUM_BANDS, mode="linear", align_corners=True) / 20
    return torch.cat([(features[..., :NUM_BANDS] + gains).clamp(min=-4), features[..., NUM_BANDS:]], dim=-1)


def report(network: FaultNetwork, takes: list[Take]) -> None:
    """Print, by thresholds, how many takes without a fault have none, and how many faults of a second or more are found."""
    decided = [decisions(network, frames.astype(np.float32)) for _, frames, _, _ in takes]
    for certain, reaches in itertools.product((0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95), (0.2, 0.3, 0.4, 0.5)):
        quiet, hits = [], []
        for steps, (_, _, _, truth) in zip(decided, takes, strict=True):
            faults = stretches(steps, certain, reaches)
            if not truth:
                quiet.append(not faults)
            for start, end in [(start / RATE, end / RATE) for start, end, _ in truth if end - start >= RATE]:
                hits.append(max((_overlap(fault, start, end) for fault in faults), default=0) >= 0.5)
        shares = f"quiet {np.mean(quiet):.3f} of {len(quiet)}, found {np.mean(hits):.3f} of {len(hits)}"
        sys.stdout.write(f"certain {certain}, reaches {reaches}: {shares}\n")


def _overlap(fault: Fault, start: float, end: float) -> float:
    return (min(fault.end, end) - max(fault.start, start)) / (max(fault.end, end) - min(fault.start, start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talkers", type=Path, nargs="+", help="Folders of speech, a talker each.")
    parser.add_argument("--often", type=Path, nargs="*", default=[], help="Folders with three times as many takes, as of people.")
    parser.add_argument("--seldom", type=Path, nargs="*", default=[], help="Folders with half as many takes, as of single words.")
    parser.add_argument("--takes", type=int, default=34, help="Takes of a talker.")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    numbers = dict.fromkeys(options.talkers, options.takes)
    numbers |= dict.fromkeys(options.often, 3 * options.takes) | dict.fromkeys(options.seldom, options.takes // 2)
    takes = takes_of(numbers, seed=2)
    network = fit([take for take in takes if not is_held_out(take[0])])
    save_file(network.state_dict(), options.output)
    report(network, [take for take in takes if is_held_out(take[0])])


if __name__ == "__main__":
    main()
