"""Distillation: students learn what teachers say of degraded speech that nobody rated, and a share of what listeners said.

Paper:    Stahl & Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment",
          ICASSP 2025, arXiv:2502.05356
Differs:  the paper's loss, optimiser and degradations are not known; those here are ours. Its share of rated speech, 0.2, is the
          default where rated speech is given.

The unit is the window: teacher and student hear the same samples, one window of the student, so a score is a window score. How
windows and labels are kept on disk is told in `hf_sqa.data.windows`.

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
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments, set_seed

from hf_sqa.data.speech import SpeechClip, SpeechPool, bench_speech, folder_speech, joined_speech
from hf_sqa.data.windows import WINDOWS_PER_SHARD, WindowCache, WindowMaker
from hf_sqa.distillation.examples import CachedWindows, FreshWindows, MixedSpeech, WindowExamples
from hf_sqa.distillation.labels import label_windows, plan_shards
from hf_sqa.distillation.recipe import DistillationRecipe, load_distillation
from hf_sqa.distillation.teacher import Teacher, check_teacher, load_teacher
from hf_sqa.distillation.trainer import DistillationTrainer
from hf_sqa.training.examples import RatedSpeech
from hf_sqa.training.recipe import load_recipe
from hf_sqa.training.rows import load_rows
from hf_sqa.training.run import TrainingResult, build_model, run_recipe

RECIPE_FILE = "distillation.yaml"
#: Fewer windows of another talker than this say nothing about a student.
MIN_VALIDATION_WINDOWS = 16


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
        {
            "model": asdict(recipe.student),
            "loss": asdict(recipe.loss),
            "order": asdict(recipe.order) if recipe.order is not None else None,
            "training": training,
            "output_dir": recipe.output_dir,
        },
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
    own = student.window_samples
    samples = own if own and recipe.labels.seconds is None else round((recipe.labels.seconds or 7.68) * rate)
    return WindowMaker(SpeechPool(clips, rate), recipe.degradations, samples, recipe.labels.seed)


def _check_windows(maker: WindowMaker, student: Any) -> None:
    """Refuse windows of another length than the student's, and speech that leaves nobody to train or to validate on."""
    own = student.window_samples
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
        window_samples=student.window_samples,
    )


def _kind_of(reason: str) -> str:
    """The code in front of a reason, to count by."""
    code = reason.split(":")[0]
    return code if code.isidentifier() else "failed"
