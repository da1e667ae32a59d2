"""Distillation: students learn teachers' scores of unrated degraded speech, and from a share of rated speech.

Paper:    Stahl & Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment",
          ICASSP 2025, arXiv:2502.05356
Differs:  the paper's loss, optimiser and degradations are not known; those here are ours. Its share of rated speech, 0.2, is the
          default if rated speech is given.

The unit is the window: teacher and student hear the same samples, one window of the student, and scores are window scores.
`hf_sqa.data.windows` says how windows and labels are kept on disk.

    student: {size: s}                                    # or checkpoint, or family and config
    teachers: [{checkpoint: default, dtype: bfloat16}]
    speech: {bench: packages/}                            # or folder: recordings/
    degradations: {distillation: 0.55, bench: 0.35, none: 0.1}
    labels: {folder: labels, num_windows: 20000}
    loss: {kind: l1, feature_weight: 0.5}
    training: {learning_rate: 2e-3, num_train_epochs: 20, per_device_train_batch_size: 32}
    output_dir: students/s
"""

import functools
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import torch
from transformers import TrainingArguments, set_seed

from hf_sqa.auto import families
from hf_sqa.data.speech import SpeechPool, bench_speech, folder_speech, joined_speech
from hf_sqa.data.windows import WINDOWS_PER_SHARD, WindowCache, WindowMaker, load_degradations
from hf_sqa.distillation.examples import CachedWindows, FreshWindows, MixedSpeech, WindowExamples
from hf_sqa.distillation.labels import label_windows, plan_shards
from hf_sqa.distillation.recipe import DEFAULT_WINDOW_SECONDS, DistillationRecipe, load_distillation
from hf_sqa.distillation.teacher import Teacher, check_teacher, load_teacher
from hf_sqa.distillation.trainer import DistillationTrainer
from hf_sqa.models.distilled_sqa import DistilledSQA, DistilledSQAConfig
from hf_sqa.training.dry_run import LEFT_OUT, SHORT, generated_rows
from hf_sqa.training.examples import RatedSpeech
from hf_sqa.training.model import build_model
from hf_sqa.training.recipe import Data, Model, Recipe
from hf_sqa.training.rows import load_rows
from hf_sqa.training.run import TrainingResult, run_recipe

RECIPE_FILE = "distillation.yaml"
#: Least number of windows of other talkers to validate a student on.
MIN_VALIDATION_WINDOWS = 16


def distill(
    recipe: DistillationRecipe | str | os.PathLike[str] | Mapping[str, Any],
    *,
    resume: bool = True,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    announce: Any = None,
    progress: Any = None,
    rated: Any = None,
) -> TrainingResult:
    """Label the windows that are not labelled yet, and train the student on them.

    An interrupted run continues where it stopped, in labelling as in training; nothing is labelled twice.

    Args:
        recipe ([`DistillationRecipe`], path or `dict`): The recipe.
        resume, overwrite, callbacks, announce: As for [`~hf_sqa.training.run_recipe`].
        progress (callable, *optional*): Called as `progress(done, total)` with numbers of windows while labelling.
        rated (`datasets.Dataset`, *optional*): Rated rows instead of those of `labelled.sources`; `labelled.share` is their share.

    Returns:
        [`~hf_sqa.training.TrainingResult`]: Its metrics are agreement with the teachers on windows of other talkers; `excluded`
        counts windows without a label and recordings that were not used, by reason.

    Raises:
        ValueError: If teacher and student do not fit together, or there is no speech; the message says what to do.
        Interrupted: After Ctrl-C in training, once a checkpoint is saved. In labelling: `KeyboardInterrupt`; whole shards are kept.
    """
    recipe = recipe if isinstance(recipe, DistillationRecipe) else load_distillation(recipe)
    if recipe.labels.part is not None:
        raise ValueError(
            f"Expected `labels.part` with --labels-only, got {recipe.labels.part!r} in training, which needs all parts."
        )
    set_seed(int(recipe.training.get("seed", TrainingArguments.seed)))
    student = build_model(recipe.student, recipe.loss.on_scores, announce=announce)
    teachers = [load_teacher(options) for options in recipe.teachers]
    for teacher in teachers:
        check_teacher(teacher.model.config, student.config, teacher.options)
    maker = make_windows(recipe, student)
    _check_windows(maker, student)
    train, validation, excluded = _windows(recipe, maker, teachers, student, progress, rated)
    if len(validation) < MIN_VALIDATION_WINDOWS:
        raise ValueError(
            f"Expected {MIN_VALIDATION_WINDOWS} windows for validation or more, got {len(validation)}: make more windows "
            "(`labels.num_windows`), or give speech of more talkers."
        )
    training = {"metric_for_best_model": "utt_lcc"} | recipe.training
    weights = {"feature_weight": recipe.loss.feature_weight, "frame_weight": recipe.loss.frame_weight}
    result = run_recipe(
        Recipe(recipe.student, loss=recipe.loss.on_scores, order=recipe.order, training=training, output_dir=recipe.output_dir),
        train_dataset=train,
        validation_dataset=validation,
        model=student,
        resume=resume,
        overwrite=overwrite,
        callbacks=callbacks,
        announce=announce,
        trainer_class=DistillationTrainer,
        trainer_options={name: weight for name, weight in weights.items() if weight},
    )
    counts = Counter(result.excluded) + Counter(f"recording: {finding.code}" for finding in excluded.values())
    result.excluded = dict(counts)
    result.failures |= {name: str(finding) for name, finding in excluded.items()}
    result.save()
    recipe.save(result.output_dir / RECIPE_FILE)
    return result


def _windows(
    recipe: DistillationRecipe, maker: WindowMaker, teachers: Sequence[Teacher], student: Any, progress: Any, rated: Any = None
) -> tuple[WindowExamples, WindowExamples, Mapping[str, Any]]:
    labels = recipe.labels
    train: WindowExamples
    validation: WindowExamples
    if labels.folder is None:
        assert labels.num_windows is not None
        num_fixed = max(2 * MIN_VALIDATION_WINDOWS, labels.num_windows // 8)
        fresh = functools.partial(FreshWindows, maker, teachers, student.config)
        train, validation = fresh("train", labels.num_windows), fresh("validation", num_fixed, fixed=True)
        excluded: Mapping[str, Any] = maker.pool.excluded
    else:
        cache = label(recipe, maker, teachers, progress)
        kept = functools.partial(CachedWindows, cache, teachers, student.config)
        train = kept("train", labels.num_windows, leave_out=labels.leave_out)
        validation = kept("validation", labels.num_windows, like=train)
        excluded = cache.excluded
    if (recipe.labelled.sources or rated is not None) and recipe.labelled.share:
        rows = rated if rated is not None else load_rows(Recipe(recipe.student, Data(train=recipe.labelled.sources)))[0]
        config = student.config
        clips = RatedSpeech(rows, config.score_names, config.sampling_rate, window_samples=student.window_samples)
        train = MixedSpeech(train, clips, recipe.labelled.share)
    return train, validation, excluded


def label(recipe: DistillationRecipe, maker: WindowMaker, teachers: Sequence[Teacher], progress: Any = None) -> WindowCache:
    """Return the folder of a recipe's windows, after making and labelling the missing ones."""
    assert recipe.labels.folder is not None
    if recipe.labels.num_windows is None:
        return WindowCache(recipe.labels.folder)
    cache = WindowCache(recipe.labels.folder, maker)
    number, count = map(int, recipe.labels.part.split("/")) if recipe.labels.part else (1, 1)
    plan = plan_shards(maker.pool.splits, recipe.labels.num_windows)[number - 1 :: count]
    total, done = len(plan) * WINDOWS_PER_SHARD, 0
    workers, with_frames = recipe.labels.num_workers, recipe.loss.frame_weight > 0
    for row in label_windows(cache, teachers, plan, num_workers=workers, with_frames=with_frames):
        done += row["num_windows"]
        if progress is not None:
            progress(done, total)
    return cache


def make_windows(recipe: DistillationRecipe, student: Any) -> WindowMaker:
    """Return the maker of a recipe's windows for a student."""
    rate = student.config.sampling_rate or 16_000
    clips = []
    if recipe.speech.bench is not None:
        clips = bench_speech(None if recipe.speech.bench == "installed" else recipe.speech.bench)
    if recipe.speech.folder is not None:
        further = folder_speech(recipe.speech.folder, recipe.speech.validation_share)
        clips = joined_speech(clips, further, recipe.speech.folder_share) if clips else further
    samples = student.window_samples
    if samples is None or recipe.labels.seconds is not None:
        samples = round((recipe.labels.seconds or DEFAULT_WINDOW_SECONDS) * rate)
    return WindowMaker(SpeechPool(clips, rate), recipe.degradations, samples, recipe.labels.seed)


def _check_windows(maker: WindowMaker, student: Any) -> None:
    """Refuse windows of another length than the student's, and speech without talkers to train or to validate on."""
    if student.window_samples not in (None, maker.window_samples):
        raise ValueError(
            f"Expected windows as long as the student's, {student.window_samples} samples, so that teacher and student hear the "
            f"same, got {maker.window_samples}; leave `labels.seconds` out, or change the student's `window_samples`."
        )
    if missing := [split for split in ("train", "validation") if split not in maker.pool.splits]:
        raise ValueError(
            f"Expected speech of two talkers or more, some to train and others to validate on, got nobody for {missing[0]}; put "
            "the recordings of each talker into a folder of their own."
        )


def dry_run_distillation(recipe: DistillationRecipe) -> TrainingResult:
    """Train two steps of a recipe with a tiny student and a tiny teacher, on generated recordings; nothing is kept."""
    load_degradations(recipe.degradations)
    student = recipe.student
    if student.checkpoint is None:
        config = families()[str(student.family)][0].tiny()
        student = Model(family=student.family, config=config.changed_options(), scores=student.scores)
    training = {name: value for name, value in recipe.training.items() if name not in LEFT_OUT}
    training |= SHORT | {"per_device_train_batch_size": 16, "max_steps": 2, "bf16": False, "logging_strategy": "steps"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, row in enumerate(generated_rows(["mos"], 24)):
            path = folder / f"speech/talker{number}/a.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, row["audio"]["array"], row["audio"]["sampling_rate"])
        torch.manual_seed(0)
        teacher = DistilledSQA(DistilledSQAConfig.tiny())
        teacher.save_pretrained(folder / "teacher")
        teacher.make_feature_extractor().save_pretrained(folder / "teacher")
        miniature = load_distillation(
            {
                "student": {"checkpoint": "unused"},
                "teachers": [{"checkpoint": str(folder / "teacher")}],
                "speech": {"folder": str(folder / "speech"), "validation_share": 0.3},
                "degradations": {"none": 1},
                "labels": {"num_windows": 32, "seconds": 0.64},
                "training": training,
                "output_dir": str(folder / "student"),
            }
        )
        loss = replace(recipe.loss, feature_weight=0.0, frame_weight=0.0)  # these terms need stored labels
        return distill(replace(miniature, student=student, loss=loss), announce=lambda line: None)
