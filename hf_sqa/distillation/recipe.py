"""Distillation recipes and the meaning of every key."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_sqa.options import read_options
from hf_sqa.training.recipe import LossOptions, Model, OrderOptions, Saved, Source, check_training, read_content

DEFAULT_WINDOW_SECONDS = 7.68


@dataclass(frozen=True)
class TeacherOptions:
    """Options of a teacher."""

    checkpoint: str = "default"  # `default`, a folder or a Hub id
    # precision in which it scores. The same weights in another precision count as another teacher, because the labels differ
    # slightly
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    weight: float = 1.0  # its weight in the label if there are several teachers
    # `none` keeps its scores, `scale` maps its scale to the student's, `moments` maps its scores by a line to the mean and
    # deviation of the first teacher's
    align: Literal["none", "scale", "moments"] = "none"
    scores: dict[str, str] | None = None  # the teacher's name of each of the student's scores; the same name if not given

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"Expected the `weight` of a teacher above 0, got {self.weight}.")

    def teacher_score(self, name: str) -> str:
        """Return the teacher's name of one of the student's scores."""
        return (self.scores or {}).get(name, name)


@dataclass(frozen=True)
class SpeechOptions:
    """The unlabelled speech."""

    bench: str | None = None  # folder of the bench corpus's unpacked Debian packages; `installed` for those installed here
    folder: str | None = None  # folder of recordings, with a subfolder per talker; together with `bench`, only for training
    folder_share: float = 0.5  # share of the training windows that come from `folder` if there is `bench` too
    validation_share: float = 0.1  # share of the talkers of a folder that are kept for validation

    def __post_init__(self) -> None:
        if self.bench is None and self.folder is None:
            raise ValueError("Expected `speech.bench` (folder of unpacked packages, or `installed`) or `speech.folder`, or both.")
        for name in ("folder_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"Expected `speech.{name}` between 0 and 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class LabelOptions:
    """The windows and the teachers' labels."""

    folder: str | None = None  # folder that keeps windows and labels. Without it, they are made anew in every epoch
    num_windows: int | None = None  # windows of all splits together, in whole shards of 64; those in the folder if not given
    seconds: float | None = None  # length of a window; the length of the student's windows if not given, else 7.68
    seed: int = 0  # seed of the windows
    num_workers: int = 0  # processes that make windows ahead of the teachers; they do not change the windows
    # `2/3` for the second of three commands with `--labels-only` that fill one folder, here or on other machines
    part: str | None = None
    leave_out: list[str] = field(default_factory=list)  # talkers and kinds of degradation in the folder to leave out of training

    def __post_init__(self) -> None:
        if self.leave_out and self.folder is None:
            raise ValueError("Expected `labels.folder` with `labels.leave_out`, got none: it sets aside windows that are kept.")
        if self.part is not None:
            number, _, count = self.part.partition("/")
            if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
                raise ValueError(f"Expected `labels.part` such as 2/3, the second of three, got {self.part!r}.")
        if self.num_windows is not None and self.num_windows < 1:
            raise ValueError(f"Expected `labels.num_windows` of 1 or more, got {self.num_windows}.")
        if self.folder is None and self.num_windows is None:
            raise ValueError("Expected `labels.num_windows` where no `labels.folder` is given: the windows of an epoch.")


@dataclass(frozen=True)
class LabelledOptions:
    """The rated recordings mixed in among the windows."""

    # as in `data.train` of a training recipe; the validation and test rows of a corpus are left out
    sources: list[Source] = field(default_factory=list)
    share: float = 0.2  # share of the examples that are rated recordings; 0.2, the paper's share, if not given

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"Expected `labelled.share` of 0 or more and below 1, got {self.share}.")


@dataclass(frozen=True)
class DistillationLoss(LossOptions):
    """The loss on scores, and terms on features and frames of teacher and student; see [`DistillationTrainer`]."""

    feature_weight: float = 0.0  # weight of the term on pooled features
    frame_weight: float = 0.0  # weight of the term on frames before and after the transformer

    def __post_init__(self) -> None:
        for name in ("feature_weight", "frame_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"Expected `loss.{name}` of 0 or more, got {getattr(self, name)}.")

    @property
    def on_scores(self) -> LossOptions:
        """The loss on scores alone."""
        return LossOptions(**{option.name: getattr(self, option.name) for option in dataclasses.fields(LossOptions)})


@dataclass(frozen=True)
class DistillationRecipe(Saved):
    """A distillation run as data, made by [`load_distillation`]. The class of each section describes its keys."""

    student: Model
    speech: SpeechOptions
    labels: LabelOptions
    teachers: list[TeacherOptions] = field(default_factory=lambda: [TeacherOptions()])
    degradations: dict[str, float] = field(default_factory=lambda: {"distillation": 0.9, "none": 0.1})
    labelled: LabelledOptions = field(default_factory=LabelledOptions)
    loss: DistillationLoss = field(default_factory=DistillationLoss)
    order: OrderOptions | None = None
    training: dict[str, Any] = field(default_factory=dict)
    output_dir: str = "student"
    paper: str | None = None
    cites: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.teachers or self.teachers[0].align == "moments":
            raise ValueError(
                "Expected a first teacher without `align: moments`, which is for a second or later teacher only: it maps scores to "
                "those of the first."
            )


def load_distillation(recipe: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> DistillationRecipe:
    """Read a distillation recipe and check every key.

    Args:
        recipe (path or `dict`): A YAML file, its content, or the name of a recipe of the package, such as `"distilled_sqa-s"`.
        overrides (sequence of `str`): Changes, `dotted.key=value`: `student.size=xs`, `labels.num_windows=2000`.
    """
    content, source = read_content(recipe, overrides)
    student = content.get("student")
    if isinstance(student, Mapping) and student.get("size") is not None:
        content["student"] = {**student, "family": student.get("family") or "distilled_sqa"}
    check_training(content, source)
    return read_options(DistillationRecipe, content, source)
