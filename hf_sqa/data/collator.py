"""Turns examples of rated speech into a batch: the feature extractor's inputs and a label matrix, NaN where unrated."""

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Length of the waveform that stands in if no recording of a batch could be read; without labels, nothing is learned from it.
STAND_IN_SAMPLES = 16_000
#: Clips of equal length by their headers may differ by this much when decoded, as lossy formats round.
ROUNDING_SECONDS = 0.1


class AudioQualityCollator:
    """Collates examples into batches.

    Clips of different lengths are padded (`lengths="pad"`), cut at random to the shortest (`"crop"`) or repeated (`"repeat"`), or
    do not occur (`"equal"`). For models that score windows, every row has `window_samples`: longer clips are cut at random and
    shorter ones padded with zeros, without a mask.

    A recording that could not be read keeps its place in the batch, with the waveform of another and NaN labels: it adds neither
    loss nor gradient, and batches have the same size in all processes. Beside the model's inputs and `labels` `(batch_size,
    num_labels)`, a batch has `rows` `(batch_size,)`, -1 where a row only fills it, and `failures`, a list of `(recording, code,
    message)`.
    """

    def __init__(self, feature_extractor: Any, *, lengths: str = "pad", window_samples: int | None = None):
        if lengths not in ("pad", "crop", "repeat", "equal"):
            raise ValueError(f"Expected `lengths` to be 'pad', 'crop', 'repeat' or 'equal', got {lengths!r}.")
        self.feature_extractor, self.lengths, self.window_samples = feature_extractor, lengths, window_samples

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        examples = _with_stand_ins(examples)
        rates = [row["sampling_rate"] for row in examples]
        rate = rates[0] if len(set(rates)) == 1 else rates
        inputs = self.feature_extractor(self._same_length(examples), sampling_rate=rate, padding=True, return_tensors="pt")
        batch: dict[str, Any] = dict(inputs)
        if self.window_samples is not None:
            batch.pop("attention_mask", None)
        batch["labels"] = torch.from_numpy(np.stack([row["labels"] for row in examples]))
        batch["rows"] = torch.tensor([row["row"] for row in examples])
        batch["failures"] = [row["failure"] for row in examples if row["failure"] is not None]
        return batch

    def _same_length(self, examples: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        waveforms = [row["waveform"] for row in examples]
        if self.window_samples is not None:
            cut = [_cut(row, self.window_samples) for row in examples]
            return [np.pad(waveform, (0, self.window_samples - len(waveform))) for waveform in cut]
        shortest, longest = min(map(len, waveforms)), max(map(len, waveforms))
        if self.lengths == "repeat":
            return [np.resize(waveform, longest) for waveform in waveforms]
        if self.lengths == "crop":
            return [_cut(row, shortest) for row in examples]
        if self.lengths == "equal" and shortest != longest:
            if longest - shortest > ROUNDING_SECONDS * (examples[0]["sampling_rate"] or STAND_IN_SAMPLES):
                raise ValueError(
                    f"Expected clips of equal length in a batch, got {shortest} to {longest} samples: the headers of the files "
                    "are wrong. Use `batching='crop'`, or batches of one."
                )
            return [waveform[:shortest] for waveform in waveforms]
        return waveforms


def _cut(example: dict[str, Any], length: int) -> np.ndarray:
    start = int(example["offset"] * (max(0, len(example["waveform"]) - length) + 1))
    return example["waveform"][start : start + length]


def _with_stand_ins(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give examples without a waveform that of another example, and NaN labels."""
    readable = next((row for row in examples if row["waveform"] is not None), None)
    filled = []
    for example in examples:
        if example["waveform"] is None:
            noise = 1e-3 * np.random.default_rng(0).standard_normal(STAND_IN_SAMPLES).astype(np.float32)
            rate = example["sampling_rate"] or 16_000
            like = readable or {"waveform": noise, "sampling_rate": rate}
            nothing = np.full_like(example["labels"], np.nan)
            example = example | {"waveform": like["waveform"], "sampling_rate": like["sampling_rate"], "labels": nothing, "row": -1}
        filled.append(example)
    return filled
