"""The trainer of students, which learn the teachers' scores, and features and frames of the first teacher."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hf_sqa.blocks.sqa_transformer import find_transformer
from hf_sqa.distillation.teacher import find_score_head
from hf_sqa.training.front_memory import FrontMemory
from hf_sqa.training.trainer import AudioQualityTrainer

#: File in a checkpoint with the maps to the teacher.
MAPS_FILE = "teacher_maps.pt"
#: Share of the machine's memory for kept spectra.
MEMORY_SHARE = 0.4
#: Number of windows to measure mean and deviation of a teacher's frames on, and the least deviation of a feature.
NUM_MEASURED, LEAST_DEVIATION = 256, 1e-3


class DistillationTrainer(AudioQualityTrainer):
    """Trains a student on [`CachedWindows`], [`FreshWindows`] or [`MixedSpeech`].

    On a CPU, the outputs of modules without weights, such as spectra, are kept from epoch to epoch, in up to `MEMORY_SHARE` of the
    machine's memory.

    Args:
        *args, **kwargs: As for [`AudioQualityTrainer`].
        feature_weight (`float`, *optional*, defaults to 0): Weight of a smooth L1 loss between the first teacher's pooled features
            and a linear map of the student's, see [`TeacherMaps`]. Rated recordings and windows without features do not count.
        frame_weight (`float`, *optional*, defaults to 0): Weight of a squared error between frames before and after the
            transformers, mapped in the same way. Rated recordings do not count.

    Raises:
        ValueError: If a weight is above 0 and the labels have no features or no frames, or the student has no layer `score_head`
            after its pooling or no transformer over frames.
    """

    def __init__(self, *args: Any, feature_weight: float = 0.0, frame_weight: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.feature_weight, self.frame_weight = feature_weight, frame_weight
        self._pooled: list[torch.Tensor] = []
        self._frames: list[torch.Tensor] = []
        if self.args.device.type == "cpu":
            memory = FrontMemory(int(MEMORY_SHARE * _memory_bytes()), weightless=True)
            memory.attach(self.quality_model)
        self.teacher_maps = TeacherMaps(self.args.seed)
        if feature_weight:
            self._watch_features()
        if frame_weight:
            self._watch_frames()
        self.teacher_maps.to(self.args.device)

    def _watch_features(self) -> None:
        data: Any = self.train_dataset
        if data.features is None:
            raise ValueError(
                "Expected pooled features among the labels for `loss.feature_weight`, got none: the first teacher has no layer "
                "`score_head` after its pooling, or windows are labelled on the fly. Set it to 0."
            )
        head = find_score_head(self.quality_model)
        if head is None:
            raise ValueError(
                f"Expected a student with one layer `score_head` for `loss.feature_weight`, got "
                f"{type(self.quality_model).__name__}; set it to 0."
            )
        self._features = torch.from_numpy(data.features.astype(np.float32))
        self.teacher_maps.add("pooled", head.in_features, self._features[torch.isfinite(self._features).all(dim=1)])
        head.register_forward_pre_hook(lambda _, inputs: self._pooled.append(inputs[0]))

    def _watch_frames(self) -> None:
        data: Any = self.train_dataset
        frames = data.frames(list(range(0, data.num_windows, max(1, data.num_windows // NUM_MEASURED))))
        if frames is None:
            raise ValueError(
                "Expected frames among the labels for `loss.frame_weight`, got none: windows are labelled on the fly, or were "
                "labelled without them. Give `labels.num_windows` to label again, or set it to 0."
            )
        transformer = find_transformer(self.quality_model)
        if transformer is None:
            raise ValueError(
                f"Expected a student with an SQATransformer for `loss.frame_weight`, got {type(self.quality_model).__name__}; set "
                "it to 0."
            )
        known = torch.from_numpy(frames[np.isfinite(frames).all(axis=(1, 2))]).float()
        hidden_size = transformer.projection.out_features
        for name, theirs in zip(("projected", "encoded"), known.chunk(2, dim=2), strict=True):
            self.teacher_maps.add(name, hidden_size, theirs.flatten(0, 1))
        for module in (transformer.positions, transformer.pooling):
            module.register_forward_pre_hook(lambda _, inputs: self._frames.append(inputs[0]))

    def create_optimizer(self, model: Any = None) -> Any:
        """See [`AudioQualityTrainer.create_optimizer`]; AdamW trains the maps at `learning_rate`."""
        optimizer = super().create_optimizer(model)
        if maps := list(self.teacher_maps.parameters()):
            adam = next(group for group in optimizer.param_groups if "momentum" not in group)
            optimizer.add_param_group({name: value for name, value in adam.items() if name != "params"} | {"params": maps})
            # The Trainer clears the gradients of the model only, so those of the maps are cleared here.
            optimizer.register_step_post_hook(lambda *_: self.teacher_maps.zero_grad())
        return optimizer

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """See `Trainer.train`."""
        if resume_from_checkpoint:
            self.teacher_maps.load_state_dict(torch.load(Path(resume_from_checkpoint) / MAPS_FILE, weights_only=True))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            torch.save(self.teacher_maps.state_dict(), Path(output_dir) / MAPS_FILE)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        rows = inputs["rows"]
        self._pooled.clear()
        self._frames.clear()
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.feature_weight and model.training:
            loss = loss + self.feature_weight * self._feature_loss(rows)
        if self.frame_weight and model.training:
            loss = loss + self.frame_weight * self._frame_loss(rows)
        self._pooled.clear()
        self._frames.clear()
        return (loss, outputs) if return_outputs else loss

    def _feature_loss(self, rows: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat(self._pooled) if self._pooled else torch.zeros(0, 1, device=rows.device)
        if len(pooled) != len(rows):  # a row was scored in several windows
            return pooled.sum() * 0
        known = (rows >= 0) & (rows < len(self._features))
        theirs = self._features[rows.clamp(0, len(self._features) - 1).cpu()].to(pooled.device)
        known &= torch.isfinite(theirs).all(dim=1)
        return self.teacher_maps.distance("pooled", pooled[known], theirs[known], F.smooth_l1_loss)

    def _frame_loss(self, rows: torch.Tensor) -> torch.Tensor:
        data: Any = self.train_dataset
        projected, encoded = self._frames
        are_windows = (rows >= 0) & (rows < data.num_windows)
        if not are_windows.any() or len(projected) != len(rows):
            return projected.sum() * 0
        theirs = torch.from_numpy(data.frames(rows[are_windows].tolist())).to(projected.device).float()  # (B, F, 2 D)
        known = torch.isfinite(theirs).all(dim=2).all(dim=1)
        first, second = theirs[known].chunk(2, dim=2)
        before, after = same_length(projected[are_windows][known], first), same_length(encoded[are_windows][known], second)
        return self.teacher_maps.distance("projected", *before, F.mse_loss) + self.teacher_maps.distance(
            "encoded", *after, F.mse_loss
        )


class TeacherMaps(nn.Module):
    """Linear maps from a student's features to its teacher's. They are trained with the student but not saved with it."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.maps = nn.ModuleDict()
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, name: str, size: int, theirs: torch.Tensor) -> None:
        """Add a map from vectors of `size` to the teacher's. Examples `(N, D)` of the teacher's give their mean and deviation."""
        linear = nn.Linear(size, theirs.shape[1])
        nn.init.uniform_(linear.weight, -(size**-0.5), size**-0.5, generator=self._generator)
        nn.init.zeros_(linear.bias)
        linear.register_buffer("mean", theirs.mean(dim=0))
        linear.register_buffer("deviation", theirs.std(dim=0) + LEAST_DEVIATION)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for weight in linear.parameters():
                weight.register_post_accumulate_grad_hook(_averaged_over_processes)
        self.maps[name] = linear

    def distance(self, name: str, ours: torch.Tensor, theirs: torch.Tensor, loss: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Return a loss between mapped vectors of the student and the teacher's, `(..., D)`, scaled to mean 0 and deviation 1."""
        linear: Any = self.maps[name]
        if not len(ours):
            return (ours.sum() + linear.weight.sum()) * 0
        with torch.autocast(ours.device.type, enabled=False):
            return loss(linear(ours.float()), (theirs - linear.mean) / linear.deviation)


def same_length(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return frames `(B, F, D)` and `(B, F', D')` with the longer sequence averaged in time to the length of the shorter."""
    num_frames = min(ours.shape[1], theirs.shape[1])

    def shortened(frames: torch.Tensor) -> torch.Tensor:
        if frames.shape[1] == num_frames:
            return frames
        return F.adaptive_avg_pool1d(frames.transpose(1, 2), num_frames).transpose(1, 2)

    return shortened(ours), shortened(theirs)


def _averaged_over_processes(weight: torch.Tensor) -> None:
    assert weight.grad is not None
    torch.distributed.all_reduce(weight.grad)
    weight.grad.div_(torch.distributed.get_world_size())


def _memory_bytes() -> int:
    """Return the memory of the machine in bytes; 2 GiB if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**31
