"""What every family's model has: checked inputs, a loss that skips missing labels, and a way to score whole recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor

from hf_sqa.audio import Recording
from hf_sqa.blocks.losses import score_loss
from hf_sqa.configuration import AudioQualityConfig
from hf_sqa.outputs import RecordingScores


class AudioQualityPreTrainedModel(PreTrainedModel):
    """Base of all families.

    Class attributes:
        pads_safely (`bool`): Whether padding, told by `attention_mask`, leaves every score as it is. If not, recordings are
            scored in batches of equal length only.
        modes (`tuple[str]`): Ways to score a recording that `score_recordings` knows; the first is the default.
    """

    config: AudioQualityConfig
    config_class = AudioQualityConfig
    main_input_name = "input_values"
    input_modalities = "audio"
    # The Trainer otherwise takes the loss for one normalised by `num_items_in_batch` and multiplies it by the world size.
    accepts_loss_kwargs = False
    pads_safely: ClassVar[bool] = True
    modes: ClassVar[tuple[str, ...]] = ("published",)

    def make_feature_extractor(self) -> Any:
        """Feature extractor with the settings this checkpoint needs, ready to be saved beside it."""
        return Wav2Vec2FeatureExtractor(sampling_rate=self.config.sampling_rate, do_normalize=False, return_attention_mask=True)

    def onnx_inputs(self) -> dict[str, tuple[torch.Tensor, tuple[int, ...]]]:
        """Example inputs of the ONNX graph by name, each with the axes that may have any size. No padding, hence no mask."""
        waveforms = 0.1 * torch.randn(2, 2 * (self.config.sampling_rate or 16_000), generator=torch.Generator().manual_seed(0))
        return {"input_values": (waveforms, (0, 1))}

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
        """Loss of the configuration's kind over the rated scores; `None` without labels."""
        if labels is None:
            return None
        return score_loss(logits, labels.to(logits.device), self.config.score_loss, self.config.huber_delta)

    @torch.inference_mode()
    def score_recordings(
        self,
        recordings: Sequence[Recording],
        feature_extractor: Any,
        *,
        mode: str = "published",
        hop_seconds: float | None = None,
    ) -> list[RecordingScores]:
        """Score recordings, each as if it were alone.

        Args:
            recordings (`Sequence[Recording]`): At the model's sampling rate.
            feature_extractor: The checkpoint's feature extractor.
            mode (`str`, *optional*, defaults to `"published"`): One of `modes`.
            hop_seconds (`float`, *optional*): Distance of windows, for families that score windows.

        Returns:
            `list[RecordingScores]`: In the order given.

        Raises:
            ValueError: If the family does not know the mode, or has no windows to move by `hop_seconds`.
        """
        self.check_scoring_options(mode, hop_seconds)
        groups: dict[Any, list[int]] = {}
        for index, recording in enumerate(recordings):
            groups.setdefault(None if self.pads_safely else recording.num_samples, []).append(index)
        results: dict[int, RecordingScores] = {}
        for indices in groups.values():
            inputs = feature_extractor(
                [recordings[index].waveform for index in indices],
                sampling_rate=recordings[indices[0]].sampling_rate,
                padding=True,
                return_tensors="pt",
            )
            inputs = {name: self._on_my_device(tensor) for name, tensor in inputs.items()}
            for index, scores in zip(indices, self(**inputs).logits.float().cpu().numpy(), strict=True):
                length = recordings[index].num_samples
                results[index] = RecordingScores(scores, np.array([0]), np.array([length]), scores[None])
        return [results[index] for index in range(len(recordings))]

    def check_scoring_options(self, mode: str, hop_seconds: float | None) -> None:
        """Refuse a mode or a hop that this family does not have."""
        if mode not in self.modes:
            raise ValueError(f"Expected `mode` to be one of {', '.join(self.modes)} for {type(self).__name__}, got {mode!r}.")
        if hop_seconds is not None:
            raise ValueError(f"{type(self).__name__} scores a recording as a whole; leave `hop_seconds` out.")

    def _on_my_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
