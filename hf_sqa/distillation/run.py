"""Distillation: students learn what teachers say of degraded speech that nobody rated, and a share of what listeners said.

Paper:    Stahl & Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment",
          ICASSP 2025, arXiv:2502.05356
Differs:  the paper's loss, optimiser and degradations are not known; those here are ours. Its share of rated speech, 0.2, is the
          default where rated speech is given.

The unit is the window: teacher and student hear the same samples, one window of the student, so a score is a window score. How
windows and labels are kept on disk is told in `teacher_labels`.

    student: {size: s}                                    # or checkpoint, or family and config
    teachers: [{checkpoint: default, dtype: bfloat16}]
    speech: {bench: packages/}                            # or folder: recordings/
    degradations: {distillation: 0.55, bench: 0.35, none: 0.1}
    labels: {folder: labels, num_windows: 20000}
    loss: {kind: l1, feature_weight: 0.5}
    training: {learning_rate: 2e-3, num_train_epochs: 20, per_device_train_batch_size: 32}
    output_dir: students/s
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from transformers import TrainingArguments, set_seed

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.distillation.labels import (
    WINDOWS_PER_SHARD,
    SpeechClip,
    SpeechPool,
    Teacher,
    WindowCache,
    WindowMaker,
    as_waveform,
    bench_speech,
    find_score_head,
    find_transformer,
    folder_speech,
    joined_speech,
    label_windows,
    plan_shards,
)
from hf_sqa.metrics import agreement, bootstrap_agreement
from hf_sqa.options import read_options
from hf_sqa.pipelines import resolve_checkpoint
from hf_sqa.training.examples import RatedSpeech
from hf_sqa.training.front_memory import FrontMemory
from hf_sqa.training.recipe import LossOptions, Model, Source, load_recipe, read_content
from hf_sqa.training.run import TrainingResult, build_model, load_rows, run_recipe
from hf_sqa.training.trainer import AudioQualityTrainer

ALIGNMENTS = ("none", "scale", "moments")
DTYPES = ("float32", "bfloat16", "float16")
RECIPE_FILE = "distillation.yaml"
#: In a checkpoint, the maps to the teacher.
MAPS_FILE = "teacher_maps.pt"
#: Of the machine's memory, for spectra that are remembered.
MEMORY_SHARE = 0.4
#: Windows that tell mean and deviation of a teacher's frames, and the least deviation of a feature.
NUM_MEASURED, LEAST_DEVIATION = 256, 1e-3
#: Fewer windows of another talker than this say nothing about a student.
MIN_VALIDATION_WINDOWS = 16


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
                f"Unknown key {name!r} in the recipe{hint} It takes student, {', '.join(sorted(known))}, loss, training "
                "and output_dir."
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
        **weights,
        training=training.training,
        output_dir=training.output_dir,
        content=written,
    )


def distill(
    recipe: DistillationRecipe | str | os.PathLike[str] | Mapping[str, Any],
    *,
    resume: bool = True,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    announce: Any = None,
    progress: Any = None,
) -> TrainingResult:
    """Label windows, as far as that is not done, and train the student on them.

    A run that was cut short goes on where it stopped, in labelling and in training; nothing is labelled twice.

    Args:
        recipe ([`DistillationRecipe`], path or `dict`): What to do.
        resume, overwrite, callbacks, announce: As for [`~hf_sqa.training.run_recipe`].
        progress (callable, *optional*): Called as `progress(done, total)` with numbers of windows while labelling.

    Returns:
        [`~hf_sqa.training.TrainingResult`]: Its metrics are agreement with the teachers on windows of other talkers; `excluded`
        counts windows without a label and recordings that were not used, by reason.

    Raises:
        ValueError: If teacher and student do not fit together, or there is no speech; the message says what to do.
        Interrupted: After Ctrl-C in training, when a checkpoint is saved. In labelling, `KeyboardInterrupt`: whole shards are kept.
    """
    recipe = recipe if isinstance(recipe, DistillationRecipe) else load_distillation(recipe)
    if recipe.labels.part is not None:
        raise ValueError(
            f"Expected `labels.part` with --labels-only, got {recipe.labels.part!r} in training, which needs all parts."
        )
    set_seed(int(recipe.training.get("seed", TrainingArguments.seed)))
    student = build_model(recipe.student, recipe.loss, announce=announce)
    teachers = [load_teacher(options) for options in recipe.teachers]
    for teacher, options in zip(teachers, recipe.teachers, strict=True):
        check_teacher(teacher.model.config, student.config, options)
    if recipe.teachers[0].align == "moments":
        raise ValueError("Expected `align: moments` for a second or later teacher only: it maps scores to those of the first.")
    maker = make_windows(recipe, student)
    _check_windows(maker, student)
    train: WindowExamples
    validation: WindowExamples
    if recipe.labels.folder is None:
        train, validation = _fresh_windows(recipe, maker, teachers, student)
        excluded = maker.pool.excluded
    else:
        cache = label(recipe, maker, teachers, progress)
        train = CachedWindows(
            cache,
            teachers,
            recipe.teachers,
            student.config,
            "train",
            recipe.labels.num_windows,
            leave_out=recipe.labels.leave_out,
        )
        validation = CachedWindows(
            cache, teachers, recipe.teachers, student.config, "validation", recipe.labels.num_windows, like=train
        )
        excluded = cache.excluded
    if recipe.labelled.sources and recipe.labelled.share:
        train = MixedSpeech(train, _rated(recipe, student), recipe.labelled.share)
    training = {"metric_for_best_model": "utt_lcc"} | recipe.training
    if len(validation) < MIN_VALIDATION_WINDOWS:
        raise ValueError(
            f"Expected {MIN_VALIDATION_WINDOWS} windows for validation or more, got {len(validation)}: make more windows "
            "(`labels.num_windows`), or give speech of more talkers."
        )
    result = run_recipe(
        {"model": asdict(recipe.student), "loss": asdict(recipe.loss), "training": training, "output_dir": recipe.output_dir},
        train_dataset=train,
        validation_dataset=validation,
        model=student,
        resume=resume,
        overwrite=overwrite,
        callbacks=callbacks,
        announce=announce,
        trainer_class=functools.partial(
            DistillationTrainer, feature_weight=recipe.feature_weight, frame_weight=recipe.frame_weight
        ),
    )
    counts = Counter(result.excluded) + Counter(f"recording: {_kind_of(reason)}" for reason in excluded.values())
    result.excluded, result.failures = dict(counts), {**result.failures, **excluded}
    result.save()
    recipe.save(result.output_dir / RECIPE_FILE)
    return result


def dry_run_distillation(recipe: DistillationRecipe) -> TrainingResult:
    """Two steps of a recipe's training, with a tiny student and a tiny teacher, on made-up recordings; nothing is kept.

    Raises:
        TypeError, ValueError: If an option cannot be used.
    """
    import tempfile

    import soundfile

    from hf_sqa.degradations import Chain
    from hf_sqa.models.distilled_sqa import DistilledSQA, DistilledSQAConfig

    for name in recipe.degradations:
        if name not in ("none", "bench"):
            Chain.load(name)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for talker in range(24):
            path = Path(folder) / f"speech/talker{talker}/a.wav"
            path.parent.mkdir(parents=True)
            envelope = np.repeat(rng.random(30) ** 4, 800)
            soundfile.write(path, 0.3 * envelope * rng.standard_normal(len(envelope)), 16_000)
        torch.manual_seed(0)
        teacher = DistilledSQA(DistilledSQAConfig.tiny())
        teacher.save_pretrained(Path(folder) / "teacher")
        teacher.make_feature_extractor().save_pretrained(Path(folder) / "teacher")
        tiny = DistilledSQAConfig.tiny(num_mel_bins=16, separable_convs=True, conv_frequency_strides=[1, 1, 2, 1, 1])
        options = {name: value for name, value in tiny.to_diff_dict().items() if name in DistilledSQAConfig.__annotations__}
        skipped = ("per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs", "max_steps", "use_cpu", "bf16")
        training = {name: value for name, value in recipe.training.items() if name not in skipped} | {"logging_strategy": "steps"}
        return distill(
            {
                "student": {"family": "distilled_sqa", "config": options}
                if recipe.student.family == "distilled_sqa"
                else asdict(recipe.student),
                "teachers": [{"checkpoint": str(Path(folder) / "teacher")}],
                "speech": {"folder": str(Path(folder) / "speech"), "validation_share": 0.3},
                "degradations": {"none": 1},
                "labels": {"num_windows": 32, "seconds": 0.64},
                "loss": {name: value for name, value in asdict(recipe.loss).items() if value is not None},
                "training": training | {"per_device_train_batch_size": 16, "max_steps": 2, "use_cpu": True, "logging_steps": 1},
                "output_dir": str(Path(folder) / "student"),
            },
            announce=lambda line: None,
        )


def label(recipe: DistillationRecipe, maker: WindowMaker, teachers: Sequence[Teacher], progress: Any = None) -> WindowCache:
    """The windows of a recipe, made and labelled as far as they are not there."""
    assert recipe.labels.folder is not None
    if recipe.labels.num_windows is None:
        return WindowCache(recipe.labels.folder)
    cache = WindowCache(recipe.labels.folder, maker)
    number, count = map(int, recipe.labels.part.split("/")) if recipe.labels.part else (1, 1)
    plan = plan_shards(maker.pool.splits, recipe.labels.num_windows)[number - 1 :: count]
    total, done = len(plan) * WINDOWS_PER_SHARD, 0
    workers, with_frames = recipe.labels.num_workers, recipe.frame_weight > 0
    for row in label_windows(cache, teachers, plan, num_workers=workers, with_frames=with_frames):
        done += row["num_windows"]
        if progress is not None:
            progress(done, total)
    return cache


def load_teacher(options: TeacherOptions) -> Teacher:
    """A teacher by its options.

    Raises:
        OSError, ValueError: If it is not at hand.
    """
    from transformers import AutoFeatureExtractor

    import hf_sqa.models  # noqa: F401  # registers the families
    from hf_sqa.auto import AutoModelForAudioQuality

    checkpoint = resolve_checkpoint(options.checkpoint)
    model = AutoModelForAudioQuality.from_pretrained(checkpoint, dtype=getattr(torch, options.dtype))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Teacher(model, AutoFeatureExtractor.from_pretrained(checkpoint))


def make_windows(recipe: DistillationRecipe, student: Any) -> WindowMaker:
    """What makes the windows of a recipe, for a student."""
    rate = student.config.sampling_rate or 16_000
    clips: list[SpeechClip] = []
    if recipe.speech.bench is not None:
        packages = None if recipe.speech.bench == "installed" else recipe.speech.bench
        clips = bench_speech(packages, recipe.speech.num_phrases)
    if recipe.speech.folder is not None:
        found = folder_speech(recipe.speech.folder, recipe.speech.validation_share)
        clips = joined_speech(clips, found, recipe.speech.folder_share) if clips else found
    own: int | None = getattr(student.config, "window_samples", None)
    samples = own if own and recipe.labels.seconds is None else round((recipe.labels.seconds or 7.68) * rate)
    return WindowMaker(SpeechPool(clips, rate), recipe.degradations, samples, recipe.labels.seed)


def _check_windows(maker: WindowMaker, student: Any) -> None:
    """Refuse windows of another length than the student's, and speech that leaves nobody to train or to validate on."""
    own = getattr(student.config, "window_samples", None)
    if own is not None and own != maker.window_samples:
        raise ValueError(
            f"Expected windows as long as the student's, {own} samples, so that teacher and student hear the same, got "
            f"{maker.window_samples}; leave `labels.seconds` out, or change the student's `window_samples`."
        )
    if missing := [split for split in ("train", "validation") if split not in maker.pool.splits]:
        raise ValueError(
            f"Expected speech of two talkers or more, some to train and others to validate on, got nobody for {missing[0]}; put "
            "the recordings of each talker into a folder of their own."
        )


def check_teacher(teacher: Any, student: Any, options: TeacherOptions) -> None:
    """Refuse a teacher whose scores are not those of the student, or on another scale, unless the recipe says how to map them.

    Args:
        teacher, student (`AudioQualityConfig`): Configurations.
        options ([`TeacherOptions`]): What the recipe says.

    Raises:
        ValueError: Naming both sides and what to write.
    """
    names = {one: (options.scores or {}).get(one, one) for one in student.score_names}
    for one, theirs in names.items():
        if theirs not in teacher.score_names:
            raise ValueError(
                f"Expected the teacher {options.checkpoint!r} to have the score {theirs!r} for the student's {one!r}, got "
                f"{', '.join(teacher.score_names)}; name its score by `scores: {{{one}: ...}}`, or choose `student.scores`."
            )
    if unknown := sorted(set(options.scores or {}) - set(student.score_names)):
        raise ValueError(
            f"Expected `scores` to map the student's scores ({', '.join(student.score_names)}), got {', '.join(unknown)}."
        )
    ours, theirs_ = (student.score_min, student.score_max), (teacher.score_min, teacher.score_max)
    if ours != theirs_ and options.align == "none":
        raise ValueError(
            f"Expected the teacher {options.checkpoint!r} on the student's scale, {ours[0]:g} to {ours[1]:g}, got {theirs_[0]:g} "
            f"to {theirs_[1]:g}; map it by `align: scale`, or give the student `score_min` and `score_max` of the teacher."
        )


def mapped_scores(scores: np.ndarray, teacher: Any, student: Any, options: TeacherOptions) -> np.ndarray:
    """Scores `(W, L_t)` of a teacher as labels `(W, L)` in the student's columns and, unless aligned by moments, on its scale."""
    columns = [teacher.score_names.index((options.scores or {}).get(one, one)) for one in student.score_names]
    labels = scores[:, columns].astype(np.float64)
    if options.align == "scale":
        share = (labels - teacher.score_min) / (teacher.score_max - teacher.score_min)
        labels = student.score_min + share * (student.score_max - student.score_min)
    return labels


def combined_labels(
    each: Sequence[np.ndarray], options: Sequence[TeacherOptions], lines: Sequence[Any] | None = None
) -> tuple[np.ndarray, list[Any]]:
    """Weighted mean of the labels `(W, L)` of several teachers, over those that gave one.

    Args:
        each (sequence of arrays): Of [`mapped_scores`], NaN where a teacher abstained.
        options (sequence of [`TeacherOptions`]): Of the teachers, in the same order.
        lines (sequence, *optional*): Slopes and offsets `(2, L)` of an earlier call, to map other windows in the same way.

    Returns:
        `(labels, lines)`: `(W, L)` float32, NaN where no teacher gave a label; and the lines used, `None` where there is none.
    """
    used: list[Any] = []
    mapped = []
    for number, (labels, one) in enumerate(zip(each, options, strict=True)):
        line = lines[number] if lines is not None else None
        if one.align == "moments" and line is None:
            line = _line_to(labels, each[0])
        used.append(line)
        mapped.append(labels if line is None else labels * line[0] + line[1])
    weights = np.array([one.weight for one in options])[:, None, None] * np.isfinite(mapped)
    total = weights.sum(axis=0)
    labels = np.where(total > 0, (weights * np.nan_to_num(mapped)).sum(axis=0) / np.maximum(total, 1e-12), np.nan)
    return labels.astype(np.float32), used


class WindowExamples(RatedSpeech):
    """What examples for a student have in common: labels of teachers, no systems, no cutting.

    Attributes:
        features (`np.ndarray` of shape `(num_windows, D)`, *optional*): Pooled features of the first teacher, where it has some.
        lines (`list`, *optional*): How the scores of several teachers were mapped, see [`combined_labels`].
        num_windows (`int`): Rows below it are windows.
    """

    features: np.ndarray | None = None
    lines: list[Any] | None = None
    num_windows: int = 0
    _fingerprint: str = ""

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        """Frames of the first teacher for windows; none unless they were kept."""
        return None

    def _begin(self, name: str, score_names: Sequence[str], sampling_rate: int) -> None:
        self.name, self.score_names, self.sampling_rate = name, list(score_names), sampling_rate
        self.max_seconds, self.window_samples, self.augmentation, self.seed = None, None, None, 0
        self.excluded: Counter[str] = Counter()
        self._lengths = None

    def _sign(self, *parts: Any) -> None:
        self._fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def systems(self) -> None:
        """Windows belong to no system."""
        return None

    @property
    def conditions(self) -> None:
        """Windows are of no condition."""
        return None

    @property
    def corpora(self) -> list[str]:
        """One for all."""
        return ["windows"] * len(self)

    @property
    def label_variances(self) -> np.ndarray:
        """Not known."""
        return np.full(len(self), np.nan)


class CachedWindows(WindowExamples):
    """Windows of a cache with the teachers' labels, as examples for a trainer.

    Args:
        cache ([`WindowCache`]): The windows.
        teachers (sequence of [`Teacher`]), options (sequence of [`TeacherOptions`]): Whose labels.
        student_config (`AudioQualityConfig`): Of the student: its score names and scale.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        num_windows (`int`, *optional*): Of all splits together, see [`plan_shards`]; all that are labelled if not given.
        like ([`WindowExamples`], *optional*): Windows whose alignment of teachers to use.
        leave_out (sequence of `str`, *optional*): Talkers whose windows are not taken.

    Attributes:
        facts (`list[dict]`): What is known of every window: talker, language, degradations.

    Raises:
        ValueError: If there are no labels of a teacher; it says whose there are.
    """

    def __init__(
        self,
        cache: WindowCache,
        teachers: Sequence[Teacher],
        options: Sequence[TeacherOptions],
        student_config: Any,
        split: str,
        num_windows: int | None = None,
        like: WindowExamples | None = None,
        leave_out: Sequence[str] = (),
    ):
        self._begin(f"{split} windows", student_config.score_names, cache.sampling_rate)
        self.split, self.cache = split, cache
        self._labels_folder = cache.folder / "labels" / teachers[0].digest
        self._readers: dict[Path, Any] = {}
        paths = self._labelled_shards(teachers, num_windows)
        if not paths:
            raise ValueError(
                f"Expected windows of the split {split!r} among {num_windows} of all splits together, got none: they come in "
                f"shards of {WINDOWS_PER_SHARD}; make 10 of these or more (`labels.num_windows={10 * WINDOWS_PER_SHARD}`)."
            )
        self.facts: list[dict[str, Any]] = []
        self._places: list[tuple[Path, int]] = []
        scores: list[list[np.ndarray]] = [[] for _ in teachers]
        features: list[np.ndarray] = []
        for path in paths:
            with safe_open(path, "np") as file:
                rows = json.loads(file.metadata()["rows"])
            self._places += [(path, place) for place in range(len(rows))]
            self.facts += rows
            for number, teacher in enumerate(teachers):
                with safe_open(cache.folder / "labels" / teacher.digest / path.name, "np") as file:
                    scores[number].append(file.get_tensor("scores"))
                    if number == 0:
                        known = "features" in file.keys()  # noqa: SIM118  # no mapping
                        features.append(file.get_tensor("features") if known else np.zeros((0, 0)))
        each = [
            mapped_scores(np.concatenate(own), teacher.model.config, student_config, one)
            for own, teacher, one in zip(scores, teachers, options, strict=True)
        ]
        labels, self.lines = combined_labels(each, options, like.lines if like is not None else None)
        labelled = np.isfinite(labels).any(axis=1)
        for row, is_labelled in zip(self.facts, labelled, strict=True):
            if not is_labelled:
                self.excluded["window: no degradation" if row["status"] != "ok" else "window: no teacher gave a score"] += 1
        own = np.array([row["talker"] not in leave_out for row in self.facts], bool)
        if unknown := sorted(set(leave_out) - {row["talker"] for row in self.facts}):
            raise ValueError(
                f"Expected `labels.leave_out` to name talkers of the {split} windows, got {', '.join(unknown)}; there are "
                f"{', '.join(sorted({row['talker'] for row in self.facts}))}."
            )
        if left_out := int((labelled & ~own).sum()):
            self.excluded["window: talker left out"] = left_out
        labelled &= own
        if not labelled.any():
            raise ValueError(f"Expected labelled windows of the split {split!r} in {str(cache.folder)!r}, got none.")
        kept = np.flatnonzero(labelled)
        self.labels = labels[kept]
        self._places, self.facts = [self._places[row] for row in kept], [self.facts[row] for row in kept]
        self.num_windows = len(kept)
        widths = {one.shape[1:] for one in features}
        self.features = np.concatenate(features)[kept] if len(widths) == 1 and sum(map(len, features)) == len(labels) else None
        self._sign(
            cache.description, [teacher.digest for teacher in teachers], list(options), len(paths), split, *sorted(leave_out)
        )

    def _labelled_shards(self, teachers: Sequence[Teacher], num_windows: int | None) -> list[Path]:
        if num_windows is not None:
            splits = [split for split in ("train", "validation", "test") if self.cache.shards(split)]
            numbers = [number for split, number in plan_shards(splits, num_windows) if split == self.split]
            return [self.cache.folder / "windows" / f"{self.split}-{number:05}.safetensors" for number in numbers]
        labels = self.cache.folder / "labels"
        paths = [
            path for path in self.cache.shards(self.split) if all((labels / one.digest / path.name).exists() for one in teachers)
        ]
        if not paths:
            there = []
            for path in sorted(labels.glob("*/teacher.json")):
                identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
                there.append(f"{identity['id']} (weights {identity['weights']})")
            wanted = ", ".join(f"{one.identity['id']} (weights {one.identity['weights']})" for one in teachers)
            raise ValueError(
                f"Expected labels by {wanted} in {str(self.cache.folder)!r}, got labels by {', '.join(there) or 'nobody'}. Labels "
                "of another teacher, or of the same in another precision, are not used; give `labels.num_windows` to make them."
            )
        return paths

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        """Frames of the first teacher for windows, float16 `(len(rows), F, 2 D)`; none if they were not kept."""
        found = []
        for row in rows:
            path, place = self._places[row]
            reader = self._reader(self._labels_folder / path.name)
            if "frames" not in reader.keys():  # noqa: SIM118  # no mapping
                return None
            found.append(reader.get_slice("frames")[place : place + 1])
        return np.concatenate(found) if found else None

    def __len__(self) -> int:
        return len(self._places)

    def lengths(self) -> list[tuple[int, int]]:
        if self._lengths is None:
            counts: dict[Path, np.ndarray] = {}
            for path, _ in self._places:
                if path not in counts:
                    counts[path] = self._reader(path).get_tensor("num_samples")
            self._lengths = [(int(counts[path][place]), self.cache.sampling_rate) for path, place in self._places]
        return self._lengths

    def source(self, row: int) -> str:
        path, place = self._places[row]
        return f"{path.name}, window {place}"

    def waveform(self, row: int) -> np.ndarray:
        """Samples of a window."""
        path, place = self._places[row]
        reader = self._reader(path)
        length = int(reader.get_slice("num_samples")[place : place + 1][0])
        peak = float(reader.get_slice("peak")[place : place + 1][0])
        return as_waveform(reader.get_slice("samples")[place : place + 1][0, :length], peak)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        row, _ = key if isinstance(key, tuple) else (key, 0)
        stands_in, row = row < 0, -1 - row if row < 0 else row
        return {
            "row": -1 if stands_in else row,
            "labels": np.full_like(self.labels[row], np.nan) if stands_in else self.labels[row],
            "offset": 0.0,
            "failure": None,
            "waveform": self.waveform(row),
            "sampling_rate": self.sampling_rate,
        }

    def _reader(self, path: Path) -> Any:
        if path not in self._readers:
            self._readers[path] = safe_open(path, "np")
        return self._readers[path]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}


class FreshWindows(WindowExamples):
    """Windows made and labelled when they are asked for: in every epoch others, or, fixed, always the same.

    Args:
        maker ([`WindowMaker`]): What makes windows.
        num_windows (`int`): Windows of an epoch.
        fixed (`bool`, *optional*, defaults to `False`): Make and label them now and keep them.
    """

    def __init__(
        self,
        maker: WindowMaker,
        teachers: Sequence[Teacher],
        options: Sequence[TeacherOptions],
        student_config: Any,
        split: str,
        num_windows: int,
        fixed: bool = False,
    ):
        self._begin(f"{split} windows", student_config.score_names, maker.pool.sampling_rate)
        self.split, self._maker = split, maker
        self._teachers, self._options, self._student_config = list(teachers), list(options), student_config
        if any(one.align == "moments" for one in options):
            raise ValueError("Expected `labels.folder` for teachers with `align: moments`: the line is fitted to kept labels.")
        self._num_windows = num_windows
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        if fixed:
            for number in range(num_windows):
                waveform, labels = self._labelled(number)
                if np.isfinite(labels).any():
                    self._kept.append((waveform, labels))
                else:
                    self.excluded["window: no degradation, or no teacher gave a score"] += 1
            self._num_windows = len(self._kept)
        kept = [labels for _, labels in self._kept]
        self.labels = np.stack(kept) if kept else np.zeros((self._num_windows, len(self.score_names)), np.float32)
        self._sign(maker.description, [one.digest for one in teachers], list(options), num_windows, split)

    def __len__(self) -> int:
        return self._num_windows

    def lengths(self) -> list[tuple[int, int]]:
        rate = self._maker.pool.sampling_rate
        kept = [(len(waveform), rate) for waveform, _ in self._kept]
        return kept or [(self._maker.window_samples, rate)] * len(self)

    def source(self, row: int) -> str:
        return f"window {row}"

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        row, epoch = key if isinstance(key, tuple) else (key, 0)
        stands_in, row = row < 0, -1 - row if row < 0 else row
        waveform, labels = self._kept[row] if self._kept else self._labelled(epoch * self._num_windows + row)
        failed = not len(waveform)
        return {
            "row": -1 if stands_in or failed else row,
            "labels": np.full_like(labels, np.nan) if stands_in else labels,
            "offset": 0.0,
            "failure": None,
            "waveform": None if failed else waveform,
            "sampling_rate": self.sampling_rate,
        }

    def _labelled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        nothing = np.full(len(self.score_names), np.nan, np.float32)
        waveform, row = self._maker.make(self.split, number)
        if row["status"] != "ok":
            return waveform, nothing
        try:
            recording = load_recording({"array": waveform, "sampling_rate": self.sampling_rate})
        except AudioError:
            return waveform, nothing
        each = [
            mapped_scores(teacher.label([recording])[0], teacher.model.config, self._student_config, one)
            for teacher, one in zip(self._teachers, self._options, strict=True)
        ]
        return waveform, combined_labels(each, self._options)[0][0]


class MixedSpeech(WindowExamples):
    """Windows, and rated recordings among them: a share of the examples, all recordings equally often.

    Args:
        windows ([`WindowExamples`]): The windows.
        rated ([`RatedSpeech`]): The rated recordings.
        share (`float`): Share of the examples that are rated.
    """

    def __init__(self, windows: WindowExamples, rated: RatedSpeech, share: float):
        self._begin(windows.name, windows.score_names, windows.sampling_rate or 0)
        self.windows, self.rated, self.share = windows, rated, share
        self._num_rated = round(len(windows) * share / (1 - share))
        repeated = rated.labels[np.arange(self._num_rated) % len(rated)]
        self.labels = np.concatenate([windows.labels, repeated])
        self.features, self.num_windows = windows.features, len(windows)
        self.excluded = windows.excluded + rated.excluded
        self._sign(windows._fingerprint, len(rated), share, rated.labels.tolist())

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        """As for the windows; `rows` are theirs."""
        return self.windows.frames(rows)

    def __len__(self) -> int:
        return len(self.windows) + self._num_rated

    @property
    def corpora(self) -> list[str]:
        own = self.rated.corpora
        return self.windows.corpora + [own[place % len(own)] for place in range(self._num_rated)]

    def lengths(self) -> list[tuple[int, int]]:
        own = self.rated.lengths()
        return self.windows.lengths() + [own[place % len(own)] for place in range(self._num_rated)]

    def num_longer(self) -> int:
        return 0

    def source(self, row: int) -> str:
        return (
            self.windows.source(row) if row < len(self.windows) else self.rated.source((row - len(self.windows)) % len(self.rated))
        )

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        row, epoch = key if isinstance(key, tuple) else (key, 0)
        real = -1 - row if row < 0 else row
        if real < len(self.windows):
            return self.windows[row, epoch]
        place = (real - len(self.windows)) % len(self.rated)
        # Where a recording comes twice in an epoch it is cut at two places.
        turn = (real - len(self.windows)) // len(self.rated)
        example = self.rated[-1 - place if row < 0 else place, epoch * (1 + self._num_rated // len(self.rated)) + turn]
        return example | {"row": -1 if example["row"] < 0 else real}


class DistillationTrainer(AudioQualityTrainer):
    """Trains a student on [`CachedWindows`], [`FreshWindows`] or [`MixedSpeech`].

    On a CPU, what modules without weights make of a window, such as its spectrum, is remembered from one epoch to the next, in up
    to `MEMORY_SHARE` of the machine's memory.

    Args:
        *args, **kwargs: As for [`AudioQualityTrainer`].
        feature_weight (`float`, *optional*, defaults to 0): Weight of a smooth L1 loss between the first teacher's pooled features
            and a linear map of the student's, see [`TeacherMaps`]. Windows without features, and rated recordings, take no part.
        frame_weight (`float`, *optional*, defaults to 0): Weight of a squared error, likewise, on the frames that go into the
            transformer and on those that come out. Rated recordings take no part.

    Raises:
        ValueError: If a weight is above 0 and the teacher's labels have no features, or no frames, or the student does not pool
            before a layer called `score_head`, or has no transformer over frames.
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
        features = getattr(self.train_dataset, "features", None)
        if features is None:
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
        self._features = torch.from_numpy(features.astype(np.float32))
        self.teacher_maps.add("pooled", head.in_features, self._features[torch.isfinite(self._features).all(dim=1)])
        head.register_forward_pre_hook(lambda _, inputs: self._pooled.append(inputs[0]))

    def _watch_frames(self) -> None:
        data: Any = self.train_dataset
        sample = range(0, data.num_windows, max(1, data.num_windows // NUM_MEASURED)) if hasattr(data, "frames") else []
        frames = data.frames(list(sample)) if sample else None
        if frames is None:
            raise ValueError(
                "Expected frames among the labels for `loss.frame_weight`, got none: windows are labelled on the fly, or were "
                "labelled without them. Give `labels.num_windows` to label anew, or set it to 0."
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
        """See [`AudioQualityTrainer.create_optimizer`]; the maps are trained by AdamW at `learning_rate`."""
        optimizer = super().create_optimizer(model)
        if maps := list(self.teacher_maps.parameters()):
            adam = next(group for group in optimizer.param_groups if "momentum" not in group)
            optimizer.add_param_group({name: value for name, value in adam.items() if name != "params"} | {"params": maps})
            # The Trainer clears the gradients of the model, not those of all that the optimiser trains.
            optimizer.register_step_post_hook(lambda *_: self.teacher_maps.zero_grad())
        return optimizer

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """See [`Trainer.train`]."""
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
        own = (rows >= 0) & (rows < data.num_windows)
        if not own.any() or len(projected) != len(rows):
            return projected.sum() * 0
        theirs = torch.from_numpy(data.frames(rows[own].tolist())).to(projected.device).float()  # (B, F, 2 D)
        known = torch.isfinite(theirs).all(dim=2).all(dim=1)
        first, second = theirs[known].chunk(2, dim=2)
        before, after = same_length(projected[own][known], first), same_length(encoded[own][known], second)
        return self.teacher_maps.distance("projected", *before, F.mse_loss) + self.teacher_maps.distance(
            "encoded", *after, F.mse_loss
        )


class TeacherMaps(nn.Module):
    """Linear maps from what a student computes to what its teacher computes there, trained with the student and then left out.

    Args:
        seed (`int`): Of the weights at the start.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        self.maps = nn.ModuleDict()
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, name: str, size: int, theirs: torch.Tensor) -> None:
        """A map from vectors of `size` to those of the teacher, of which some are given, `(N, D)`: they say mean and deviation."""
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
        """A loss between mapped vectors of the student, `(..., D)`, and those of the teacher in deviations from its mean."""
        linear: Any = self.maps[name]
        if not len(ours):
            return (ours.sum() + linear.weight.sum()) * 0
        with torch.autocast(ours.device.type, enabled=False):
            return loss(linear(ours.float()), (theirs - linear.mean) / linear.deviation)


def same_length(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `(B, F, D)` and `(B, F', D')`, the longer averaged in time to as many as the shorter."""
    num_frames = min(ours.shape[1], theirs.shape[1])
    first, second = (
        F.adaptive_avg_pool1d(one.transpose(1, 2), num_frames).transpose(1, 2) if one.shape[1] != num_frames else one
        for one in (ours, theirs)
    )
    return first, second


def _averaged_over_processes(weight: torch.Tensor) -> None:
    assert weight.grad is not None
    torch.distributed.all_reduce(weight.grad)
    weight.grad.div_(torch.distributed.get_world_size())


def teacher_agreement(
    model: Any,
    cache: WindowCache,
    teachers: Sequence[Teacher],
    options: Sequence[TeacherOptions],
    split: str = "test",
    seed: int = 0,
    num_windows: int | None = None,
) -> dict[str, Any]:
    """Agreement of a student with its teachers on labelled windows of a split, with intervals over windows.

    `num_windows` counts those of all splits together, as in [`CachedWindows`]; without it, all that are labelled.

    Returns:
        `dict`: By score name `utt_lcc`, `utt_srcc` and `utt_rmse` as `{"value", "low", "high"}`, and `num_windows`; the same below
        `talkers` for each talker alone.
    """
    data = CachedWindows(cache, teachers, options, model.config, split, num_windows)
    predicted = score_windows(model, data)
    found: dict[str, Any] = {"num_windows": len(data), "split": split}
    talkers = np.array([row["talker"] for row in data.facts])
    for column, name in enumerate(data.score_names):
        ours, theirs = predicted[:, column], data.labels[:, column]
        found[name] = _with_intervals(ours, theirs, seed)
        found[name]["talkers"] = {
            talker: agreement(ours[talkers == talker], theirs[talkers == talker])["utt_lcc"] for talker in sorted(set(talkers))
        }
    return found


@torch.inference_mode()
def score_windows(model: Any, data: CachedWindows) -> np.ndarray:
    """Scores `(W, L)` of windows by a model, NaN where it gives none."""
    model.eval()
    extractor = model.make_feature_extractor()
    scores = np.full((len(data), model.config.num_labels), np.nan, np.float32)
    for row in range(len(data)):
        try:
            recording = load_recording({"array": data.waveform(row), "sampling_rate": data.sampling_rate})
            scores[row] = model.score_recordings([recording], extractor)[0].scores
        except AudioError:
            continue
    return scores


def _fresh_windows(
    recipe: DistillationRecipe, maker: WindowMaker, teachers: Sequence[Teacher], student: Any
) -> tuple[FreshWindows, FreshWindows]:
    assert recipe.labels.num_windows is not None
    train = FreshWindows(maker, teachers, recipe.teachers, student.config, "train", recipe.labels.num_windows)
    fixed = max(2 * MIN_VALIDATION_WINDOWS, recipe.labels.num_windows // 8)
    return train, FreshWindows(maker, teachers, recipe.teachers, student.config, "validation", fixed, fixed=True)


def _rated(recipe: DistillationRecipe, student: Any) -> RatedSpeech:
    sources = [asdict(one) for one in recipe.labelled.sources]
    rows, _, _ = load_rows(load_recipe({"model": {"family": "distilled_sqa"}, "data": {"train": sources}}))
    return RatedSpeech(
        rows,
        student.config.score_names,
        student.config.sampling_rate,
        window_samples=getattr(student.config, "window_samples", None),
    )


def _line_to(labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Slope and offset `(2, L)` that give labels the mean and deviation of the reference where both are known."""
    both = np.isfinite(labels) & np.isfinite(reference)
    ours, theirs = np.where(both, labels, np.nan), np.where(both, reference, np.nan)
    slope = np.nanstd(theirs, axis=0) / np.maximum(np.nanstd(ours, axis=0), 1e-6)
    return np.stack([slope, np.nanmean(theirs, axis=0) - slope * np.nanmean(ours, axis=0)])


def _with_intervals(ours: np.ndarray, theirs: np.ndarray, seed: int) -> dict[str, Any]:
    drawn = bootstrap_agreement(ours, theirs, metrics=["utt_lcc", "utt_srcc", "utt_rmse"], rng=seed)
    return {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in drawn.items()}


def _memory_bytes() -> int:
    """Memory of the machine, in bytes; where the system does not tell, 2 GiB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**31


def _kind_of(reason: str) -> str:
    """The code in front of a reason, to count by."""
    code = reason.split(":")[0]
    return code if code.isidentifier() else "failed"


def make_for_study(job: Any) -> dict[str, Any]:
    """What a study calls to train a student: `maker: hf_sqa.distillation.run:make_for_study`, with a recipe as here.

    `set` of the model changes the recipe (`set: {student.size: xs}`). The seed of the job is that of the training; windows and
    labels are those of the recipe, the same for every seed.
    """
    changes = {**job.model.set, "training.seed": job.seed, "output_dir": str(job.folder)}
    result = distill(
        load_distillation(job.recipe, [f"{key}={json.dumps(value)}" for key, value in changes.items()]), announce=lambda line: None
    )
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    return {"num_train": result.num_train, "num_validation": result.num_validation, "train_seconds": round(result.seconds, 2)}
