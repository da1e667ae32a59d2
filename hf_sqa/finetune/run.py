"""Fine-tune, or calibrate, a checkpoint on a listening test of one's own, and say honestly what it brought.

The same steps for any family: parts without leaks ([`make_plan`]), scores before, training through [`run_recipe`], scores after on
clips that were held out, intervals and a paired comparison ([`compare_before_after`]), a folder that loads. With few clips the
front of a model stays as it is, and what it makes of a clip is remembered ([`FrontMemory`]).
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hf_sqa.models  # noqa: F401  # registers the families
from hf_sqa.audio import AudioError, load_recording
from hf_sqa.auto import AutoModelForAudioQuality
from hf_sqa.blocks.score_mapping import apply_score_mapping
from hf_sqa.finetune.before_after import compare_before_after
from hf_sqa.finetune.calibration import MIN_CLIPS as MIN_CLIPS_TO_CALIBRATE, cross_fitted_mapping, fit_score_mapping, make_folds
from hf_sqa.finetune.folder import (
    PREDICTIONS,
    REPORT,
    WORK,
    begin,
    check_folder,
    for_the_card,
    write_checkpoint,
    write_predictions,
)
from hf_sqa.finetune.plan import MIN_CLIPS, Part, Plan, check_labels, choose_groups, make_plan, shared_values, told_few
from hf_sqa.finetune.rated_clips import RatedClips, Track, clip_name, rated_scores
from hf_sqa.runs import whole_file, write_whole
from hf_sqa.training.front_memory import FrontMemory
from hf_sqa.training.run import freeze, run_recipe

#: Scores of the original, in the folder of a run that is not finished.
BEFORE = "before.npz"
#: Clips that train are scored before training too, up to so many: the straight line behind the original is fitted on them.
MAX_TRAIN_CLIPS_SCORED = 500
CALIBRATION_FOLDS = 10


@dataclass(frozen=True)
class FinetuneOptions:
    """How to fine-tune.

    Args:
        group (`str`, *optional*): Column of the schema whose values stay together; found in the table if not given.
        calibrate (`str`, *optional*): `"first"` or `"third"`: fit a mapping of that order instead of training.
        lora (`bool`, *optional*, defaults to `False`): Train a low-rank adapter instead of the weights.
        lora_rank (`int`, *optional*, defaults to 8): Its rank.
        epochs (`float`, *optional*): At most so many times over the clips; the family's default if not given.
        learning_rate (`float`, *optional*): The highest; the family's default if not given.
        batch_size (`int`, *optional*, defaults to 8): Clips in a step.
        freeze (`tuple[str, ...]`, *optional*): Modules, by name or pattern, that stay as they are; the family's default if not
            given, nothing if empty.
        folds (`int`, *optional*): Folds of the evaluation; 0 holds a fifth out. Chosen by the number of clips if not given.
        limit_seconds (`float`, *optional*): Longer clips are cut at random in training; never where they are judged.
        seed (`int`, *optional*, defaults to 0): Of parts, order, cuts and draws.
        device (`str`, *optional*): `"cpu"` stays off an accelerator; the first one there is if not given.
        checkpoint_name (`str`, *optional*): What to call the new weights.
    """

    group: str | None = None
    calibrate: str | None = None
    lora: bool = False
    lora_rank: int = 8
    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int = 8
    freeze: tuple[str, ...] | None = None
    folds: int | None = None
    limit_seconds: float | None = None
    seed: int = 0
    device: str | None = None
    checkpoint_name: str | None = None


@dataclass(frozen=True)
class FamilyDefaults:
    """What suits a few hundred clips: modules that stay as they are, learning rate, epochs."""

    freeze: tuple[str, ...]
    learning_rate: float
    epochs: float


#: Of low-rank adapters, whatever the family: they start at zero and need more.
LORA_LEARNING_RATE = 1e-3
PATIENCE = 3


def family_defaults(model: Any, device: str) -> FamilyDefaults:
    """Defaults of a model's family. Distill-MOS v7: by the experiments in `docs/finetune.md`; the others by analogy."""
    family = model.config.model_type
    if family == "distilled_sqa":
        frozen_layers = range(max(model.config.num_hidden_layers - 2, 0))
        norms = ("feature_norm", "projection_norm", "projection", "pooling_norm")
        names = [*norms, *(f"layers.{layer}" for layer in frozen_layers)]
        return FamilyDefaults(("trunk", *(f"transformer.{name}" for name in names)), 3e-4, 6)
    if family == "nisqa":
        return FamilyDefaults(("segment_encoder",), 1e-4, 10)
    if family == "wav2vec2_mos" and device != "cpu":
        return FamilyDefaults(("encoder.*feature_extractor", "encoder.*feature_projection"), 1e-5, 10)
    if getattr(model, "encoder", None) is not None:
        return FamilyDefaults(("encoder",), 3e-4, 10)
    return FamilyDefaults((), 1e-4, 10)


def finetune(
    checkpoint: str,
    train: Any,
    output: str | os.PathLike[str],
    *,
    options: FinetuneOptions | None = None,
    test: Any = None,
    base_name: str | None = None,
    data_name: str = "the rated clips",
    resume: bool = False,
    announce: Callable[[str], None] | None = None,
    track: Track | None = None,
) -> dict[str, Any]:
    """Fine-tune or calibrate; the report, as it is written to `report.json`.

    The folder gets the checkpoint (with `--lora` merged, and the adapter alone in `adapter/`), `report.json` and
    `predictions.csv`, a row a clip with its scores before and after.

    Args:
        checkpoint (`str`): Folder or Hub id of the original, or of an adapter.
        train (`datasets.Dataset`): Rated clips in the schema of `hf_sqa.data`.
        output (path): Folder to make.
        options ([`FinetuneOptions`], *optional*): How.
        test (`datasets.Dataset`, *optional*): Held-out clips; otherwise they are taken from `train`.
        base_name (`str`, *optional*): What the original is called, and found by; `checkpoint` if not given.
        data_name (`str`, *optional*): What the clips are called in the report.
        resume (`bool`, *optional*, defaults to `False`): Go on with a run that was cut short.
        announce (callable, *optional*): Takes lines about what happens.
        track (callable, *optional*): Wraps an iterable, with a title and a length, in a progress bar.

    Raises:
        ValueError: If the table, an option, or the checkpoint cannot be used; says what to do.
        FileExistsError: If the folder holds something else, or a run of other options.
        TrainingError, Interrupted: As [`run_recipe`].
    """
    options = options or FinetuneOptions()
    tell = announce or (lambda line: None)
    track = track or (lambda items, title, total: items)
    started = time.monotonic()
    folder, base_name = Path(output), base_name or checkpoint
    model, extractor = load_base(checkpoint, lora=options.lora and options.calibrate is None)
    scores = rated_scores(model, train, data_name)
    fingerprint = _fingerprint(options, base_name, train, test, scores)
    check_folder(folder, fingerprint, resume)

    column, said = choose_groups(train, options.group)
    tell(said)
    clips, held_out, remarks = _read(train, test, scores, column, model, track)
    plan = _plan(clips, held_out, options)
    tell(plan.sentence)
    shared = _shared(clips, held_out, plan, column)
    remarks += [*plan.remarks, *shared.values()]
    for remark in remarks:
        tell(remark)

    run = _Run(options, checkpoint, folder, model, extractor, scores, clips, held_out, plan, tell, track)
    if options.calibrate is not None:
        outcome = run.calibrate(options.calibrate)
        made = "calibrated"
    else:
        begin(folder, fingerprint)
        outcome = run.train()
        made = "finetuned"
        if model.config.score_mapping:
            outcome.remarks.append("The original's score mapping was fitted to its own scores: the fine-tuned model has none.")
    name = options.checkpoint_name or f"{Path(base_name).name}-{made}"
    by_score = _compared(run, outcome)
    if shared and by_score[scores[0]]["recommendation"] == "use" and options.calibrate is None:
        columns = " and ".join(shared)
        by_score[scores[0]]["verdict"] += f" The held-out clips share {columns} with those it learned from: new ones may gain less."
    report: dict[str, Any] = {
        "checkpoint_name": name,
        "base_model": base_name,
        "method": _method(options),
        "recommendation": by_score[scores[0]]["recommendation"],
        "verdict": by_score[scores[0]]["verdict"],
        "evaluation_plan": {"kind": plan.kind, "sentence": plan.sentence, "num_parts": len(plan.parts)},
        "remarks": [*remarks, *outcome.remarks, *by_score[scores[0]]["remarks"]],
        "data": _described(clips, held_out, column, data_name),
        "scores": by_score,
        "score_mapping": outcome.mapping or None,
        "training": outcome.training or None,
        "options": asdict(options),
        "seconds": round(time.monotonic() - started, 1),
        "evaluation": for_the_card(by_score, data_name, plan),
    }
    write_checkpoint(folder, outcome.model, extractor, outcome.mapping, name, (checkpoint, base_name), outcome.adapter)
    write_predictions(folder / PREDICTIONS, run.judged, outcome.predictions, scores, plan, held_out)
    write_whole(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False, default=str) + "\n")
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return report


def load_base(checkpoint: str, *, lora: bool = False) -> tuple[Any, Any]:
    """A trained model in float32 and its feature extractor; an adapter is merged into its base.

    Raises:
        ValueError: If weights are missing, or an adapter does not fit its base; also for an adapter on top of an adapter.
    """
    from transformers import AutoFeatureExtractor

    adapter = Path(checkpoint) / "adapter_config.json"
    if adapter.is_file():
        if lora:
            raise ValueError(
                f"Expected a whole checkpoint for `--lora`, got the adapter {checkpoint!r}: the new adapter's base would exist "
                "nowhere. Fine-tune the adapter's base, or leave `--lora` out."
            )
        model = _merged(checkpoint, json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    else:
        model, info = AutoModelForAudioQuality.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(
                f"Expected a trained checkpoint, got {checkpoint!r} without weights for {told_few(sorted(info['missing_keys']))}; "
                "to train a new head or a new model use `hf-sqa train`."
            )
    try:
        extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    except (OSError, ValueError):
        extractor = model.make_feature_extractor()
    return model.eval(), extractor


def _merged(folder: str, base: str) -> Any:
    try:
        import peft
    except ImportError:
        raise ValueError(f"{folder!r} is an adapter: it needs the package peft, `pip install 'hf-sqa[peft]'`.") from None
    import warnings

    model = AutoModelForAudioQuality.from_pretrained(base, dtype=torch.float32)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (RuntimeError, ValueError, UserWarning) as error:
        told = " ".join(str(error).split())
        raise ValueError(
            f"The adapter {folder!r} does not fit {base!r}, the base it names ({told[:200]}): it was trained on another one. Name "
            "the right one as base_model_name_or_path in its adapter_config.json."
        ) from error


@dataclass
class _Outcome:
    """What calibrating or training gave.

    Args:
        model: The model to keep.
        predictions (`dict[str, np.ndarray]`): `"before"`, `"after"` and perhaps `"calibrated"`, each `(num_judged, num_scores)`,
            NaN where a clip was not judged.
        mapping (`dict[str, list[float]]`): The score mapping, of a calibration.
        training (`dict`): About the training of the model to keep.
        adapter (`Path`, *optional*): Folder of the adapter alone.
        remarks (`list[str]`): What a reader must know.
    """

    model: Any
    predictions: dict[str, np.ndarray]
    mapping: dict[str, list[float]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    adapter: Path | None = None
    remarks: list[str] = field(default_factory=list)


class _Run:
    """One run: the clips, how they are parted, the original, and what is remembered of its front."""

    def __init__(
        self,
        options: FinetuneOptions,
        checkpoint: str,
        folder: Path,
        model: Any,
        extractor: Any,
        scores: Sequence[str],
        clips: RatedClips,
        held_out: RatedClips | None,
        plan: Plan,
        tell: Callable[[str], None],
        track: Track,
    ):
        self.options, self.checkpoint, self.folder, self.extractor = options, checkpoint, folder, extractor
        self.scores, self.clips, self.held_out, self.plan = list(scores), clips, held_out, plan
        self.judged = clips if held_out is None else held_out
        self.tell, self.track, self.memory = tell, track, FrontMemory()
        self.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        settings = family_defaults(model, self.device)
        frozen = options.freeze if options.freeze is not None else () if options.lora else settings.freeze
        metric = "utt_mse" if len(model.config.score_names) == 1 else f"{scores[0]}_utt_mse"
        self.recipe = _recipe(checkpoint, options, settings, frozen, self.device, metric)
        self.columns = [model.config.label2id[name] for name in scores]
        self.model = self._ready(model)

    def calibrate(self, order: str) -> _Outcome:
        """A mapping fitted on all clips, judged on clips that its fit did not see."""
        raw, raw_judged = self._scores_before(None)
        folds = np.zeros(len(self.clips), int)
        for number, part in enumerate(self.plan.parts):
            folds[part.test] = number
        mapped, mapping, remarks = [], {}, []
        for index, (name, column) in enumerate(zip(self.scores, self.columns, strict=True)):
            labels = self.clips.labels[:, index]
            try:
                fitted = fit_score_mapping(raw[:, column], labels, order)
                mapped.append(
                    cross_fitted_mapping(raw[:, column], labels, folds, order)
                    if self.held_out is None
                    else apply_score_mapping(raw_judged[:, column], fitted)
                )
                mapping[name] = fitted
            except ValueError as error:
                if index == 0:
                    raise
                remarks.append(f"{name} is not calibrated: {error}")
                mapped.append(raw_judged[:, column])
        predictions = {"before": self._as_given(raw_judged), "after": np.stack(mapped, axis=1)}
        return _Outcome(self.model, predictions, mapping, remarks=remarks)

    def train(self) -> _Outcome:
        """Train for every part of the plan, judge, and train the model to keep."""
        config = self.model.config
        unrated = [name for name in config.score_names if name not in self.scores]
        raw, raw_judged = self._scores_before(None if unrated else _needed_before(self.plan, self.clips))
        anchors = {name: raw[:, config.label2id[name]] for name in unrated}
        predictions = {"before": self._as_given(raw_judged)}
        line = self._behind_a_line(raw, raw_judged)
        if line is not None:
            predictions["calibrated"] = line
        after = np.full((len(self.judged), len(self.scores)), np.nan)
        remarks = []
        if unrated:
            remarks.append(f"Nobody rated {', '.join(unrated)}: training holds these scores to what the original gives.")
        for part in self.plan.parts:
            model, result = self._trained(part, anchors)
            rows = self._judged_rows(part)
            scored = self._scores_of(model, self.judged, rows, f"after, {part.name}")
            after[rows] = scored[np.ix_(rows, self.columns)]
            remarks += [note for note in result.notes if note not in remarks]
        if self.plan.final is not None:
            model, result = self._trained(self.plan.final, anchors)
        training = {
            "num_train": result.num_train,
            "num_validation": result.num_validation,
            "best_step": result.best_step,
            "num_steps": result.num_steps,
            "unreadable": result.failures,
            "settings": self.recipe,
        }
        adapter = self._work(self.plan.final or self.plan.parts[0]) / "adapter" if self.options.lora else None
        return _Outcome(model, predictions | {"after": after}, training=training, adapter=adapter, remarks=remarks)

    def _trained(self, part: Part, anchors: dict[str, np.ndarray]) -> tuple[Any, Any]:
        """The model of a part, trained now or before it was cut short, and the result of its training."""
        self.tell(f"Training, {part.name}: {len(part.train)} clips, {len(part.validation)} choose the epoch.")
        model, _ = load_base(self.checkpoint)
        model.config.score_mapping = None
        result = run_recipe(
            self.recipe | {"output_dir": str(self._work(part))},
            train_dataset=self.clips.rows(part.train, anchors),
            validation_dataset=self.clips.rows(part.validation, anchors),
            model=self._ready(model, move=False),
            callbacks=[trains_only(self.recipe["model"])],
            announce=self.tell,
        )
        return self._ready(load_base(str(self._work(part)))[0]), result

    def _ready(self, model: Any, *, move: bool = True) -> Any:
        """The model with its front frozen and, on a CPU, remembered."""
        if self.options.calibrate is None:
            _freeze_for(model, self.recipe)
        if self.device == "cpu":
            self.memory.attach(model)
        return model.to(self.device) if move else model

    def _scores_before(self, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the original for its clips and for those that are judged, as the model gives them; kept for `--resume`."""
        kept = self.folder / WORK / BEFORE
        if kept.is_file():
            with np.load(kept) as found:
                return found["clips"], found["judged"]
        raw = raw_judged = self._scores_of(self.model, self.clips, rows, "before")
        if self.held_out is not None:
            raw_judged = self._scores_of(self.model, self.held_out, None, "before, held out")
        if kept.parent.is_dir():
            with whole_file(kept) as unfinished, unfinished.open("wb") as file:
                np.savez(file, clips=raw, judged=raw_judged)
        return raw, raw_judged

    def _scores_of(self, model: Any, clips: RatedClips, rows: np.ndarray | None, title: str) -> np.ndarray:
        """Scores `(num_clips, num_labels)`, unmapped; NaN for rows not asked for, and for what the model refuses."""
        scores = np.full((len(clips), len(model.config.score_names)), np.nan)
        numbers = np.arange(len(clips)) if rows is None else rows
        for row in self.track(numbers.tolist(), title, len(numbers)):
            try:
                recording = load_recording(clips.audio[row], sampling_rate=model.config.sampling_rate)
                scores[row] = model.score_recordings([recording], self.extractor)[0].scores
            except AudioError:
                continue
        return scores

    def _as_given(self, raw: np.ndarray) -> np.ndarray:
        """Scores `(num_clips, num_scores)` as the pipeline gives them: behind the original's mapping, if it has one."""
        mappings = self.model.config.score_mapping or {}
        given = raw[:, self.columns].copy()
        for index, name in enumerate(self.scores):
            if name in mappings:
                given[:, index] = apply_score_mapping(given[:, index], mappings[name])
        return given

    def _behind_a_line(self, raw: np.ndarray, raw_judged: np.ndarray) -> np.ndarray | None:
        """The original behind a line fitted on what the training sees, `(num_judged, num_scores)`; `None` if there is none."""
        mapped = np.full((len(raw_judged), len(self.columns)), np.nan)
        try:
            for index, column in enumerate(self.columns):
                for part in self.plan.parts:
                    seen = np.concatenate([part.train, part.validation])
                    line = fit_score_mapping(raw[seen, column], self.clips.labels[seen, index], "first")
                    rows = self._judged_rows(part)
                    mapped[rows, index] = apply_score_mapping(raw_judged[rows, column], line)
        except ValueError:
            return None
        return mapped

    def _judged_rows(self, part: Part) -> np.ndarray:
        return part.test if self.held_out is None else np.arange(len(self.judged))

    def _work(self, part: Part) -> Path:
        return self.folder / WORK / part.name.replace(" ", "-")


def _read(
    train: Any, test: Any, scores: Sequence[str], column: str | None, model: Any, track: Track
) -> tuple[RatedClips, RatedClips | None, list[str]]:
    """The clips of both tables, none in both, and what to say of them."""
    rate = model.config.sampling_rate
    clips = RatedClips.read(train, scores, column, rate, track, at_least=MIN_CLIPS)
    remarks = clips.told_excluded()
    held_out = None
    if test is not None:
        held_out = RatedClips.read(test, scores, column, rate, track, at_least=2, name="held-out clips")
        clips, more = clips.without_those_of(held_out)
        remarks += [*held_out.told_excluded(), *more]
    return clips, held_out, remarks + clips.told_repeated()


def _plan(clips: RatedClips, held_out: RatedClips | None, options: FinetuneOptions) -> Plan:
    if options.calibrate is not None:
        return _calibration_plan(clips, options, held_out)
    return make_plan(clips.labels[:, 0], clips.groups, num_folds=options.folds, held_out=held_out is not None, seed=options.seed)


def _calibration_plan(clips: RatedClips, options: FinetuneOptions, held_out: RatedClips | None) -> Plan:
    check_labels(clips.labels[:, 0])
    needed = MIN_CLIPS_TO_CALIBRATE.get(options.calibrate or "", MIN_CLIPS)
    everything = np.arange(len(clips))
    none = np.zeros(0, int)
    if held_out is not None:
        return Plan("table", [Part("all", everything, none, none)], None, f"The mapping is fitted on {len(clips)} clips.")
    num_groups = None if clips.groups is None else len(set(clips.groups))
    num_folds = min(CALIBRATION_FOLDS, num_groups or CALIBRATION_FOLDS, len(clips))
    folds = make_folds(np.nan_to_num(clips.labels[:, 0], nan=3.0), num_folds, groups=clips.groups, seed=options.seed)
    if np.bincount(folds).max() > len(clips) - needed:
        raise ValueError(
            f"Expected {needed} clips or more outside every fold to fit a mapping of the {options.calibrate} order, got fewer of "
            f"{len(clips)}: rate more, or give held-out clips by `--test`."
        )
    parts = [
        Part(f"fold {fold + 1}", np.flatnonzero(folds != fold), none, np.flatnonzero(folds == fold)) for fold in range(num_folds)
    ]
    sentence = (
        f"The mapping is fitted on all {len(clips)} clips; the numbers are cross-fitted: each clip is mapped by a fit without its "
        f"{'group' if clips.groups is not None else 'fold'}, {num_folds} in all. One mapping keeps ranks; correlations differ here "
        "only because several are pooled."
    )
    return Plan("crossfit", parts, None, sentence)


def _shared(clips: RatedClips, held_out: RatedClips | None, plan: Plan, column: str | None) -> dict[str, str]:
    if held_out is not None:
        return shared_values(clips.data, np.arange(len(clips)), np.arange(len(held_out)), None, held_out.data)
    part = plan.parts[0]
    return shared_values(clips.data, np.concatenate([part.train, part.validation]), part.test, column)


def _needed_before(plan: Plan, clips: RatedClips) -> np.ndarray | None:
    """Rows to score before training; `None` for all."""
    if plan.kind == "crossfit" or len(clips) <= MAX_TRAIN_CLIPS_SCORED:
        return None
    part = plan.parts[0]
    return np.union1d(part.validation, part.test)


def _compared(run: _Run, outcome: _Outcome) -> dict[str, Any]:
    """Before and after of every score that the held-out clips rate."""
    labels = run.judged.labels
    if (~np.isnan(labels[:, 0])).sum() < 2:
        raise ValueError(f"Expected held-out clips with a label {run.scores[0]!r}, got none; rate them, or leave `--test` out.")
    return {
        name: compare_before_after(
            {what: values[:, index] for what, values in outcome.predictions.items()},
            labels[:, index],
            groups=run.judged.groups,
            calibration=run.options.calibrate,
            seed=run.options.seed,
        )
        for index, name in enumerate(run.scores)
        if (~np.isnan(labels[:, index])).sum() >= 2
    }


def _described(clips: RatedClips, held_out: RatedClips | None, column: str | None, data_name: str) -> dict[str, Any]:
    return {
        "name": data_name,
        "num_clips": len(clips),
        "num_held_out_clips": None if held_out is None else len(held_out),
        "group": column,
        "num_groups": None if clips.groups is None else len(set(clips.groups)),
        "languages": sorted({one for one in clips.data["language"] if one}),
        "excluded": clips.excluded + ([] if held_out is None else held_out.excluded),
    }


def _method(options: FinetuneOptions) -> str:
    if options.calibrate is not None:
        return f"calibration, {options.calibrate} order"
    return "low-rank adapter" if options.lora else "fine-tuning"


def _recipe(
    checkpoint: str, options: FinetuneOptions, settings: FamilyDefaults, frozen: Sequence[str], device: str, metric: str
) -> dict[str, Any]:
    learning_rate = options.learning_rate or (LORA_LEARNING_RATE if options.lora else settings.learning_rate)
    training: dict[str, Any] = {
        "learning_rate": learning_rate,
        "num_train_epochs": options.epochs or settings.epochs,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": options.batch_size,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "early_stopping_patience": PATIENCE,
        "metric_for_best_model": metric,
        "seed": options.seed,
    }
    if device == "cpu":
        training["use_cpu"] = True
    if options.limit_seconds is not None:
        training["max_seconds"] = options.limit_seconds
    section: dict[str, Any] = {"checkpoint": checkpoint}
    if options.lora:
        section["lora"] = {"r": options.lora_rank, "alpha": 2 * options.lora_rank}
    elif frozen:
        section["freeze"] = list(frozen)
    return {"model": section, "training": training}


def _freeze_for(model: Any, recipe: dict[str, Any]) -> None:
    """Freeze what the training leaves as it is; of a model to be adapted the parts that no adapter goes to."""
    if "lora" not in recipe["model"]:
        freeze(model, recipe["model"].get("freeze", ()))
        return
    for child in model.children():
        if not any(isinstance(module, torch.nn.Linear) for module in child.modules()):
            child.requires_grad_(False)


def trains_only(section: dict[str, Any]) -> Any:
    """A callback that stops a training whose trainable weights are not those meant: peft takes wrong names in silence."""
    from transformers import TrainerCallback

    frozen = section.get("freeze", ())

    class TrainableSet(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            if not names:
                raise ValueError("Expected something to train, got nothing.")
            if "lora" in section:
                strays = [name for name in names if "lora_" not in name and ".modules_to_save." not in name]
                without = [what for what in ("lora_", ".modules_to_save.") if not any(what in name for name in names)]
            else:
                strays = [name for name in names if any(_matches(name, pattern) for pattern in frozen)]
                without = []
            if strays or without:
                raise ValueError(
                    f"Expected other weights to be trained: {told_few(strays or without)} "
                    + ("should stay as they are." if strays else "are missing among those that are trained.")
                )

    return TrainableSet()


def _matches(parameter: str, pattern: str) -> bool:
    parts = parameter.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts)))


def _fingerprint(options: FinetuneOptions, base_name: str, train: Any, test: Any, scores: Sequence[str]) -> str:
    """Of everything that decides what a run does."""
    described: list[Any] = [asdict(options), base_name, list(scores)]
    for data in (train, test):
        if data is not None:
            described.append([[clip_name(one) for one in data["audio"]], *(list(data[name]) for name in scores)])
    return hashlib.blake2b(json.dumps(described, default=str).encode(), digest_size=16).hexdigest()
