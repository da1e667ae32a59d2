"""Distillation recipes: what each key means, and how a file of them is read and checked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_sqa.options import read_options
from hf_sqa.training.recipe import LossOptions, Model, OrderOptions, Source, load_recipe, read_content

ALIGNMENTS = ("none", "scale", "moments")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TeacherOptions:
    """A teacher.

    Args:
        checkpoint (`str`): `default`, a folder or a Hub id.
        dtype (`str`): `float32`, `bfloat16` or `float16`. Another one is another teacher: its labels differ a little.
        weight (`float`): Its share of the label where there are several.
        align (`str`): `none`: its scores as they are. `scale`: mapped from its scale to the student's. `moments`: mapped by a line
            to mean and deviation of the first teacher's scores of the same windows.
        scores (`dict[str, str]`, *optional*): Score of the student to score of the teacher; the same name if not given.
    """

    checkpoint: str = "default"
    dtype: str = "float32"
    weight: float = 1.0
    align: str = "none"
    scores: dict[str, str] | None = None

    def __post_init__(self) -> None:
        for name, choices in (("dtype", DTYPES), ("align", ALIGNMENTS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"Expected `{name}` of a teacher to be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"Expected the `weight` of a teacher above 0, got {self.weight}.")


@dataclass(frozen=True)
class SpeechOptions:
    """Unlabelled speech.

    Args:
        bench (`str`, *optional*): Folder of the unpacked Debian packages of the bench corpus; `installed` for those installed here.
        folder (`str`, *optional*): Folder of recordings, a subfolder for each talker. Beside `bench` they are for training only.
        folder_share (`float`): Share of the training windows whose speech is from `folder`, where `bench` is given too.
        num_phrases (`int`, *optional*): Phrases of each voice of the bench corpus; all if not given.
        validation_share (`float`): Share of the talkers of a folder that validate.
    """

    bench: str | None = None
    folder: str | None = None
    folder_share: float = 0.5
    num_phrases: int | None = None
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        if self.bench is None and self.folder is None:
            raise ValueError("Expected `speech.bench` (folder of unpacked packages, or `installed`) or `speech.folder`, or both.")
        for name in ("folder_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"Expected `speech.{name}` between 0 and 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class LabelOptions:
    """Windows and the teachers' labels of them.

    Args:
        folder (`str`, *optional*): Where they are kept. Without it, windows are made and labelled anew in every epoch.
        num_windows (`int`, *optional*): How many, of all splits together, in whole shards of 64. Without it, what is in the folder.
        seconds (`float`, *optional*): Length of a window; that of the student's windows if not given, else 7.68.
        seed (`int`): Of the windows.
        num_workers (`int`): Processes that make windows ahead of the teachers; 0 for none. They change no window.
        part (`str`, *optional*): `2/3`: of three commands with `--labels-only` that fill one folder, the second; on one machine or
            on several that share it.
    """

    folder: str | None = None
    num_windows: int | None = None
    seconds: float | None = None
    seed: int = 0
    num_workers: int = 0
    part: str | None = None
    leave_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.leave_out and self.folder is None:
            raise ValueError("Expected `labels.folder` with `labels.leave_out`, got none: it sets aside windows that are kept.")
        if self.part is not None:
            number, _, count = str(self.part).partition("/")
            if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
                raise ValueError(f"Expected `labels.part` such as 2/3, the second of three, got {self.part!r}.")
        if self.num_windows is not None and self.num_windows < 1:
            raise ValueError(f"Expected `labels.num_windows` of 1 or more, got {self.num_windows}.")
        if self.folder is None and self.num_windows is None:
            raise ValueError("Expected `labels.num_windows` where no `labels.folder` is given: the windows of an epoch.")


@dataclass(frozen=True)
class LabelledOptions:
    """Rated speech mixed in.

    Args:
        sources (`list[Source]`): As in `data.train` of a training recipe; rows that a corpus calls validation or test stay out.
        share (`float`): Share of the examples that come from it.
    """

    sources: list[Source] = field(default_factory=list)
    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"Expected `labelled.share` of 0 or more and below 1, got {self.share}.")


@dataclass(frozen=True)
class DistillationRecipe:
    """A distillation run as data. Made by [`load_distillation`]; the keys are those of the sections' classes.

    `loss.feature_weight` and `loss.frame_weight` are the weights of terms that make the student's pooled features, and its frames
    before and after its transformer, tell those of the first teacher by a linear map; their widths need not agree.
    """

    student: Model
    speech: SpeechOptions
    labels: LabelOptions
    teachers: list[TeacherOptions] = field(default_factory=lambda: [TeacherOptions()])
    degradations: dict[str, float] = field(default_factory=lambda: {"distillation": 0.9, "none": 0.1})
    labelled: LabelledOptions = field(default_factory=LabelledOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    order: OrderOptions | None = None
    feature_weight: float = 0.0
    frame_weight: float = 0.0
    training: dict[str, Any] = field(default_factory=dict)
    output_dir: str = "student"
    content: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as YAML, as it was given."""
        import yaml

        path.write_text(yaml.safe_dump(self.content, sort_keys=False, allow_unicode=True, width=130), encoding="utf-8")


def load_distillation(recipe: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> DistillationRecipe:
    """Read a distillation recipe and check every key.

    Args:
        recipe (path or `dict`): A YAML file, or its content.
        overrides (sequence of `str`): Changes, `dotted.key=value`: `student.size=xs`, `labels.num_windows=2000`.

    Raises:
        FileNotFoundError, TypeError, ValueError: As for [`~hf_sqa.training.load_recipe`].
    """
    content, source = read_content(recipe, overrides)
    written = json.loads(json.dumps(content, default=str))
    sections = dict(content)
    for about in ("paper", "cites"):
        sections.pop(about, None)
    student = dict(sections.pop("student", None) or {})
    if student.get("size") is not None and student.get("family") is None:
        student["family"] = "distilled_sqa"
    loss = dict(sections.pop("loss", None) or {})
    weights = {name: float(loss.pop(name, 0.0)) for name in ("feature_weight", "frame_weight")}
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"Expected `loss.{name}` of 0 or more, got {weight}.")
    training = load_recipe(
        {
            "model": student or None,
            "loss": loss or None,
            "order": sections.pop("order", None),
            "training": sections.pop("training", None) or {},
            "output_dir": sections.pop("output_dir", "student"),
        }
        if student
        else {"model": {}}
    )
    known = {"teachers", "speech", "degradations", "labels", "labelled"}
    for name in sections:
        if name not in known:
            near = next((one for one in known if one.startswith(str(name)[:4])), None)
            hint = f"; did you mean {near!r}?" if near else "."
            raise TypeError(
                f"Unknown key {name!r} in the recipe{hint} It takes student, {', '.join(sorted(known))}, loss, order, "
                "training and output_dir."
            )
    teachers = sections.get("teachers") or [{}]
    if not isinstance(teachers, list):
        teachers = [teachers]
    labelled = dict(sections.get("labelled") or {})
    sources = [read_options(Source, one, source, "labelled.sources") for one in labelled.pop("sources", None) or []]
    degradations = sections.get("degradations") or {"distillation": 0.9, "none": 0.1}
    if not isinstance(degradations, Mapping):
        raise ValueError(
            f"Expected `degradations` as names with weights, such as {{distillation: 0.9, none: 0.1}}, got {degradations!r}."
        )
    return DistillationRecipe(
        student=training.model,
        speech=read_options(SpeechOptions, sections.get("speech") or {}, source, "speech"),
        labels=read_options(LabelOptions, sections.get("labels") or {}, source, "labels"),
        teachers=[read_options(TeacherOptions, one, source, f"teachers.{number}") for number, one in enumerate(teachers)],
        degradations=dict(degradations),
        labelled=LabelledOptions(sources, float(labelled.pop("share", 0.2)), **labelled),
        loss=training.loss,
        order=training.order,
        **weights,
        training=training.training,
        output_dir=training.output_dir,
        content=written,
    )
