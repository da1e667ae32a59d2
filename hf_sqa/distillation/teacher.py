"""Teachers: models that label windows, with scores and with the features and frames behind them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_sqa.audio import AudioError, Recording
from hf_sqa.blocks.precision import warn_if_emulated
from hf_sqa.blocks.sqa_transformer import find_transformer, watched_frames
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.distillation.recipe import TeacherOptions
from hf_sqa.modeling import model_identity
from hf_sqa.runs import digest_of


class Teacher:
    """A model of any family that labels windows. Other weights, precision or extractor (`identity`) mean another teacher."""

    def __init__(self, model: Any, feature_extractor: Any, options: TeacherOptions | None = None):
        self.model, self.feature_extractor, self.options = model.eval(), feature_extractor, options or TeacherOptions()
        self.identity = model_identity(model, feature_extractor, mode=model.modes[0])

    @property
    def description(self) -> dict[str, Any]:
        """Everything that determines the labels, ready for JSON."""
        config = self.model.config
        return {
            "identity": self.identity,
            "score_names": config.score_names,
            "score_min": config.score_min,
            "score_max": config.score_max,
            "sampling_rate": config.sampling_rate,
        }

    @property
    def digest(self) -> str:
        """Sixteen digits that identify the labels: they differ wherever labels could, whatever the teacher's name and location."""
        identity = {name: value for name, value in self.identity.items() if name not in ("id", "revision")}
        return digest_of(self.description | {"identity": identity})

    def label(
        self, recordings: Sequence[Recording], frames: list[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Score recordings at its sampling rate.

        Return scores `(W, L)`, NaN if the model refuses a recording or gives no finite score, and pooled features `(W, D)`, or
        `None` if there are none or their recordings are unclear. `frames` receives a float16 array `(W', F, 2 D)` for every call of
        the
        network: input (after its projection) and output of its [`SQATransformer`] side by side, averaged over pairs of frames.
        """
        if frames is not None and find_transformer(self.model) is None:
            raise ValueError(f"Expected a teacher with an SQATransformer for labels of frames, got {type(self.model).__name__}.")
        watching: Any = nullcontext([]) if frames is None else watched_frames(self.model)
        collected = [] if frames is None else frames
        with pooled_features(self.model) as pooled, watching as seen:
            try:
                results = self.model.score_recordings(recordings, self.feature_extractor)
            except AudioError:
                if len(recordings) > 1:
                    return np.concatenate([self.label([recording])[0] for recording in recordings]), None
                return np.full((1, self.model.config.num_labels), np.nan, np.float32), None
            scores = np.stack([result.scores for result in results]).astype(np.float32)
            scores[~np.isfinite(scores).all(axis=1)] = np.nan
            features = np.concatenate(pooled) if pooled else None
            for before, after in zip(seen[::2], seen[1::2], strict=True):
                pairs = F.avg_pool1d(torch.cat([before, after], dim=2).transpose(1, 2), 2).transpose(1, 2)
                collected.append(pairs.half().cpu().numpy())
        # A recording of several windows has several rows of features, so rows belong to recordings only if the numbers agree.
        return scores, features if features is not None and len(features) == len(recordings) else None


def load_teacher(options: TeacherOptions) -> Teacher:
    """Load the teacher that a recipe names."""
    loaded = load_checkpoint(options.checkpoint, merge=True, dtype=getattr(torch, options.dtype))
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    warn_if_emulated(loaded.model.dtype, loaded.model.device)
    return Teacher(loaded.model, loaded.feature_extractor, options)


def check_teacher(teacher: Any, student: Any, options: TeacherOptions) -> None:
    """Refuse a teacher without the student's scores, or on another scale, unless the recipe says how to map them."""
    for name in student.score_names:
        if options.teacher_score(name) not in teacher.score_names:
            raise ValueError(
                f"Expected the teacher {options.checkpoint!r} to have the score {options.teacher_score(name)!r} for the student's "
                f"{name!r}, got {', '.join(teacher.score_names)}; name its score by `scores: {{{name}: ...}}`, or choose "
                "`student.scores`."
            )
    if unknown := sorted(set(options.scores or {}) - set(student.score_names)):
        raise ValueError(
            f"Expected `scores` to map the student's scores ({', '.join(student.score_names)}), got {', '.join(unknown)}."
        )
    if (student.score_min, student.score_max) != (teacher.score_min, teacher.score_max) and options.align == "none":
        raise ValueError(
            f"Expected the teacher {options.checkpoint!r} on the student's scale, {student.score_min:g} to {student.score_max:g}, "
            f"got {teacher.score_min:g} to {teacher.score_max:g}; map it by `align: scale`, or give the student `score_min` and "
            "`score_max` of the teacher."
        )


@contextmanager
def pooled_features(model: Any) -> Iterator[list[np.ndarray]]:
    """Collect the inputs of the last layer, `score_head`, as arrays `(B, D)`; none if there is no such layer after pooling."""
    collected: list[np.ndarray] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].dim() == 2:
            collected.append(inputs[0].detach().float().cpu().numpy())

    head = find_score_head(model)
    handle = head.register_forward_pre_hook(keep) if head is not None else None
    try:
        yield collected
    finally:
        if handle is not None:
            handle.remove()


def find_score_head(model: Any) -> torch.nn.Linear | None:
    """Return the linear layer named `score_head` if a model has exactly one, else `None`."""
    heads = [
        module for name, module in model.named_modules() if name.endswith("score_head") and isinstance(module, torch.nn.Linear)
    ]
    return heads[0] if len(heads) == 1 else None
