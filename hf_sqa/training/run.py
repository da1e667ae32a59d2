"""From a recipe to a trained checkpoint: the model, the rows, the Trainer, and a folder that anything can load."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.runs import write_whole
from hf_sqa.training.recipe import AugmentationOptions, Model, Recipe, Source, load_recipe

#: What a full disk, or a quota, sounds like from Python, Rust (safetensors) and C++ (torch).
FULL_DISK = ("No space left on device", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed")
CHECKPOINTS, RESULT, RECIPE = "checkpoints", "training_result.json", "recipe.yaml"
#: Clips that tell mean and deviation of mel bands.
NUM_MEASURED = 256


class TrainingError(RuntimeError):
    """Training cannot go on, and the message says what to do."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; `checkpoint` is where it goes on."""

    def __init__(self, checkpoint: Path | None):
        super().__init__("training was interrupted")
        self.checkpoint = checkpoint


@dataclass
class TrainingResult:
    """What came of a run; `training_result.json` in its folder.

    Args:
        output_dir (`Path`): Folder with the best weights, configuration, feature extractor, recipe and this result.
        metrics (`dict[str, float]`): Validation metrics of these weights: `eval_utt_srcc`, `eval_loss`, ...
        num_train, num_validation (`int`): Rated rows.
        best_step (`int`, *optional*): Optimiser steps to these weights; the last step without validation.
        num_steps (`int`): Optimiser steps in all.
        num_processes (`int`): Processes that trained.
        seconds (`float`): Time of this attempt.
        excluded (`dict[str, int]`): Rows and recordings left out, by reason.
        failures (`dict[str, str]`): Recordings that could not be read, and why.
        notes (`list[str]`): What else was said: clips cut, splits made.
        history (`list[dict]`): What was logged: losses and metrics by step.
        recipe_digest (`str`): Of the recipe, see [`Recipe.digest`].
    """

    output_dir: Path
    metrics: dict[str, float] = field(default_factory=dict)
    num_train: int = 0
    num_validation: int = 0
    best_step: int | None = None
    num_steps: int = 0
    num_processes: int = 1
    seconds: float = 0.0
    excluded: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    recipe_digest: str = ""

    def save(self) -> None:
        """Write it into its folder."""
        content = asdict(self) | {"output_dir": None}
        write_whole(self.output_dir / RESULT, json.dumps(content, indent=1, default=float) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> TrainingResult:
        """Read it from its folder."""
        content = json.loads((Path(folder) / RESULT).read_text(encoding="utf-8"))
        return cls(**content | {"output_dir": Path(folder)})


def run_recipe(
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any],
    *,
    train_dataset: Any = None,
    validation_dataset: Any = None,
    model: Any = None,
    resume: bool = True,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    announce: Any = None,
    noises: Any = None,
    trainer_class: Any = None,
) -> TrainingResult:
    """Train.

    A run that was cut short goes on from its newest complete checkpoint. A finished one is not repeated: its result is returned.

    Args:
        recipe ([`Recipe`], path or `dict`): What to train, on what, how.
        train_dataset, validation_dataset (`datasets.Dataset`, *optional*): Rows instead of those of the recipe, in the schema of
            `hf_sqa.data`. Without `validation_dataset` the recipe's `data.split` applies to `train_dataset`.
        model (*optional*): A model in memory instead of the recipe's.
        resume (`bool`, *optional*, defaults to `True`): Whether to go on with, or return, what is in `output_dir`.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to delete a run of another recipe in `output_dir`.
        callbacks (*optional*): Callbacks of transformers' Trainer.
        announce (callable, *optional*): Takes lines about progress; standard error if not given.
        trainer_class (*optional*): What to make the trainer with, in place of [`AudioQualityTrainer`].
        noises (*optional*): Recordings for the augmentation, instead of the folder of the recipe.

    Raises:
        TypeError, ValueError: If the recipe, a label or an option cannot be used.
        FileExistsError: If `output_dir` holds another run.
        TrainingError: If memory or disk runs out, or the loss is no number.
        Interrupted: After Ctrl-C, when a checkpoint is saved.
    """
    from transformers import set_seed
    from transformers.utils import logging

    from hf_sqa.training.arguments import AudioQualityTrainingArguments
    from hf_sqa.training.callbacks import Interrupt, Progress
    from hf_sqa.training.checkpoints import find_resumable_checkpoint
    from hf_sqa.training.examples import Augmentation
    from hf_sqa.training.trainer import AudioQualityTrainer, excluded_rows

    recipe = load_recipe(recipe)
    announce = announce or _tell
    _check_trackers(recipe.training.get("report_to"))
    folder = Path(recipe.output_dir)
    digest = _digest(recipe, train_dataset, validation_dataset, model)
    options = _training_options(
        recipe, has_validation=validation_dataset is not None or train_dataset is None or _validates(recipe)
    )
    args = AudioQualityTrainingArguments(output_dir=str(folder / CHECKPOINTS), **options)
    with args.main_process_first(local=False, desc="preparing the folder"):
        finished = _prepare_folder(folder, digest, resume, overwrite) if args.should_save else None
    if (folder / RESULT).exists() and resume:
        finished = finished or TrainingResult.load(folder)
    if finished is not None:
        announce(f"{folder} holds the finished run of this recipe; nothing to do.")
        return finished

    logging.disable_progress_bar()
    notes: list[str] = []
    set_seed(args.seed)
    excluded: Counter[str] = Counter()
    if train_dataset is None:
        train_dataset, validation_dataset, excluded = load_rows(recipe, notes)
    elif validation_dataset is None and recipe.data.split is not None:
        train_dataset, validation_dataset = _split_rows(train_dataset, recipe, notes)
    if recipe.data.pseudo_labels is not None:
        train_dataset, validation_dataset = _with_pseudo_labels(train_dataset, validation_dataset, recipe, notes)
    set_seed(args.seed)
    model = build_model(recipe.model, recipe.loss, announce=announce) if model is None else model
    adapted = _adapted(model, recipe.model) if recipe.model.lora is not None else model
    freeze(adapted, recipe.model.freeze)
    augmentation = None
    if recipe.augmentation is not None:
        augmentation = Augmentation(_chain(recipe.augmentation, noises), recipe.augmentation.probability)

    started = time.monotonic()
    progress = Progress(announce)
    checkpoints = folder / CHECKPOINTS
    with Interrupt(announce) as interrupt:
        trainer: Any = (trainer_class or AudioQualityTrainer)(
            adapted,
            args,
            train_dataset=train_dataset,
            eval_dataset=validation_dataset,
            augmentation=augmentation,
            loss=recipe.loss,
            callbacks=[interrupt, progress, *callbacks],
        )
        if getattr(model, "needs_bands", False):
            _measure_bands(model, trainer.train_dataset)
        if (longer := trainer.train_dataset.num_longer()) and args.should_save:
            notes.append(
                f"{longer} of {len(trainer.train_dataset)} training clips are longer than {args.max_seconds:g} s: cut to it at "
                "random, elsewhere every epoch"
            )
        checkpoint, torn = find_resumable_checkpoint(checkpoints, args.world_size) if resume else (None, [])
        for line in [*notes, *torn]:
            announce(line)
        if checkpoint is not None:
            announce(f"Going on from {checkpoint}.")
        try:
            output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        except Exception as error:
            if (explained := _explained(error, args, folder)) is None:
                raise
            raise explained from error
        finally:
            progress.close()
    if interrupt.requested and trainer.state.global_step < trainer.state.max_steps:
        saved, _ = find_resumable_checkpoint(checkpoints, args.world_size)
        raise Interrupted(saved)
    metrics = _best_metrics(trainer)
    if any(not np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry):
        raise TrainingError(
            "The training loss is not a number any more: lower `training.learning_rate`, set `training.max_grad_norm`, or train in "
            f"float32. The checkpoints before are in {args.output_dir}."
        )
    failures = _gathered_failures(trainer)
    counts = Counter(excluded_rows(trainer)) if args.world_size == 1 else Counter(code for code, _ in failures.values())
    result = TrainingResult(
        output_dir=folder,
        metrics=metrics,
        num_train=len(trainer.train_dataset),
        num_validation=len(trainer.eval_dataset) if trainer.eval_dataset is not None else 0,
        best_step=trainer.state.best_global_step if args.load_best_model_at_end else trainer.state.global_step,
        num_steps=trainer.state.global_step,
        num_processes=args.world_size,
        seconds=time.monotonic() - started,
        excluded=dict(counts + excluded),
        failures={source: message for source, (_, message) in failures.items()},
        notes=notes,
        history=trainer.state.log_history,
        recipe_digest=digest,
    )
    assert output.global_step == result.num_steps
    if args.should_save:
        _save_finished(trainer, recipe, result)
    trainer.accelerator.wait_for_everyone()
    return result


def load_rows(recipe: Recipe, notes: list[str] | None = None) -> tuple[Any, Any, Counter[str]]:
    """Training and validation rows of a recipe, and how many were left out, by reason; what was drawn is added to `notes`."""
    notes = notes if notes is not None else []
    data = recipe.data
    excluded: Counter[str] = Counter()
    if not data.train:
        raise ValueError("Expected `data.train` to name the training rows, such as [{table: mine.csv}], got none.")
    rows = _filtered(_load_sources(data.train, excluded), data.filter, "data.filter", excluded)
    validation = None
    if data.validation is not None:
        validation = _load_sources(data.validation, excluded)
    elif data.split is not None:
        rows, validation = _split_rows(rows, recipe, notes)
    elif data.training_set is not None:
        from hf_sqa.data.splits import training_set

        drawn = training_set(data.training_set, rows, seed=data.seed)
        notes.append(f"{data.training_set}: {drawn}")
        rows, validation = rows.select(drawn.train), rows.select(drawn.validation)
    else:
        parts = np.array([one or "train" for one in rows["split"]])
        if (parts == "test").any():
            excluded["test split"] += int((parts == "test").sum())
        validation = rows.select(np.flatnonzero(parts == "validation"))
        rows = rows.select(np.flatnonzero((parts != "validation") & (parts != "test")))
        validation = validation if len(validation) else None
    if not len(rows):
        raise ValueError("Expected training rows, got none: all rows of `data.train` are set aside for validation or tests.")
    if data.limit is not None:
        rows = _limited(rows, data.limit, data.seed)
    return rows, validation, excluded


def build_model(section: Model, loss: Any = None, *, announce: Any = None) -> Any:
    """The model of a recipe, in float32.

    Raises:
        ValueError: If the family or an option is unknown, or the checkpoint is not at hand.
    """
    import torch

    import hf_sqa.models  # noqa: F401  # registers the families
    from hf_sqa.auto import AutoModelForAudioQuality, families
    from hf_sqa.training.losses import loss_options

    options = dict(section.config)
    if section.size is not None:
        from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import STUDENTS

        options = STUDENTS[section.size] | options
    if section.scores is not None:
        options["id2label"] = dict(enumerate(section.scores))
    if section.checkpoint is None:
        if section.family not in families():
            raise ValueError(f"Expected `model.family` to be one of {', '.join(families())}, got {section.family!r}.")
        config_class, model_class = families()[section.family]
        options |= loss_options(loss, config_class)
        if section.knowledge_from is not None:
            return _with_knowledge(model_class, section, options, announce)
        if section.encoder is None:
            return model_class(config_class(**options))
        if not hasattr(model_class, "from_encoder"):
            raise ValueError(f"Expected no `model.encoder` for {section.family}, which is built on none, got {section.encoder!r}.")
        with _encoder_at_hand(section.encoder) as encoder:
            return model_class.from_encoder(encoder, encoder_options=section.encoder_options, **options)
    if section.checkpoint in ("default", "distill-mos-v7"):
        from hf_sqa.models.distilled_sqa.convert_distilled_sqa import convert

        model = convert()
        if "id2label" in options and model.config.id2label != options["id2label"]:
            model = _with_new_head(model, options["id2label"], announce)
            options.pop("id2label")
    elif (Path(section.checkpoint) / "adapter_config.json").is_file():
        from hf_sqa.training.adapters import load_adapted

        model = load_adapted(section.checkpoint, announce=announce)
    else:
        model, info = AutoModelForAudioQuality.from_pretrained(
            section.checkpoint, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        options = {}
        fresh = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
        if fresh and announce:
            announce(f"New, randomly initialised: {', '.join(fresh)}.")
    if model.config.score_mapping is not None:
        model.config.score_mapping = None
        if announce:
            announce("The checkpoint's mapping of its scores is dropped: it was fitted to its predictions, which training changes.")
    for name, value in (options | loss_options(loss, type(model.config))).items():
        setattr(model.config, name, value)
    return model


def _with_knowledge(model_class: Any, section: Model, options: dict[str, Any], announce: Any) -> Any:
    """A new model that begins with what another family's model has learned."""
    if not hasattr(model_class, "from_mosa_net"):
        raise ValueError(f"Expected no `model.knowledge_from` for {section.family}, which takes over no trunk; it is for mtq_net.")
    with _encoder_at_hand(section.encoder) as encoder:
        model, info = model_class.from_mosa_net(
            section.knowledge_from, encoder=encoder, encoder_options=section.encoder_options, output_loading_info=True, **options
        )
    if announce:
        announce(f"From {section.knowledge_from}: {len(info['copied'])} tensors. New: {', '.join(info['initialized'])}.")
    return model


@contextlib.contextmanager
def _encoder_at_hand(name: str | None) -> Iterator[str | None]:
    """The folder of an encoder for as long as it is read: of `default` one of the moment, all others as they are."""
    if name not in ("default", "distill-mos-v7"):
        yield name
        return
    from hf_sqa.models.distilled_sqa.convert_distilled_sqa import convert

    with tempfile.TemporaryDirectory() as folder:
        model = convert()
        model.save_pretrained(folder)
        model.make_feature_extractor().save_pretrained(folder)
        yield folder


def _with_pseudo_labels(train: Any, validation: Any, recipe: Recipe, notes: list[str]) -> tuple[Any, Any]:
    from hf_sqa.training.pseudo_label import read_pseudo_labels, with_pseudo_labels

    table = read_pseudo_labels(str(recipe.data.pseudo_labels))
    names = [name for name in table.score_names if recipe.model.scores is None or name in recipe.model.scores]
    notes.append(f"pseudo-labels {', '.join(names)} by {table.teacher['teacher_id']}, weights {table.teacher['teacher_weights']}")
    train = with_pseudo_labels(train, table, score_names=names)
    return train, None if validation is None else with_pseudo_labels(validation, table, score_names=names)


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Leave the parameters of modules as they are.

    Raises:
        ValueError: If a pattern matches no module, or nothing is left to train.
    """
    modules = {name.removeprefix("base_model.model."): module for name, module in model.named_modules()}  # an adapter's wrapper
    names = [name for name in modules if name]
    for pattern in patterns:
        matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            outer = [name for name in names if name.count(".") < 2]
            raise ValueError(f"Expected `model.freeze` to name modules, got {pattern!r}; the outer ones are {', '.join(outer)}.")
        for name in matched:
            modules[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"Expected something to train, got `model.freeze` of everything: {', '.join(patterns)}.")


def _training_options(recipe: Recipe, has_validation: bool) -> dict[str, Any]:
    options = dict(recipe.training)
    for name, value in options.items():
        if isinstance(value, str) and name in ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps"):
            options[name] = float(value)
    if options.get("push_to_hub"):
        raise ValueError(
            "Expected no `training.push_to_hub`: a finished run is published by `hf-sqa push "
            f"{recipe.output_dir} owner/name --license ...`, which checks it first."
        )
    return options


def _check_trackers(asked: Any) -> None:
    """Refuse a tracker that is not installed before anything is loaded; transformers would name it less helpfully, and later."""
    for name in [asked] if isinstance(asked, str) else asked or []:
        if name in ("tensorboard", "trackio"):
            try:
                __import__(name)
            except ImportError:
                raise ImportError(
                    f"Expected the package {name} for `training.report_to`; install it with `pip install {name}`, or leave it out."
                ) from None


def _validates(recipe: Recipe) -> bool:
    return recipe.data.split is not None or recipe.data.validation is not None


def _measure_bands(model: Any, data: Any) -> None:
    """Let a new student put its mel bands on one scale, that of some training clips."""
    rows = range(0, len(data), max(1, len(data) // NUM_MEASURED))
    waveforms = (data[row]["waveform"] for row in rows)
    model.measure_bands(waveform for waveform in waveforms if waveform is not None)


def _digest(recipe: Recipe, train: Any, validation: Any, model: Any) -> str:
    parts = [recipe.digest()]
    for data in (train, validation):
        if data is not None:
            parts.append(str(getattr(data, "_fingerprint", len(data))))
    if model is not None:
        parts.append(type(model).__name__)
    return "-".join(parts)


def _prepare_folder(folder: Path, digest: str, resume: bool, overwrite: bool) -> TrainingResult | None:
    """Make the folder, or find what a run of the same recipe left in it."""
    owner = folder / CHECKPOINTS / "run.json"
    other = None
    if owner.exists():
        other = json.loads(owner.read_text(encoding="utf-8"))["digest"]
    elif (folder / RESULT).exists():
        other = TrainingResult.load(folder).recipe_digest
    if other is not None and (other != digest or not resume):
        if not overwrite:
            raise FileExistsError(
                f"Expected {str(folder)!r} to be empty or to hold this run, got another recipe's or data's. Choose another "
                "`output_dir`, delete the folder, or pass `overwrite=True` (`--overwrite`)."
            )
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        (folder / RESULT).unlink(missing_ok=True)
    elif other is not None and (folder / RESULT).exists():
        return TrainingResult.load(folder)
    owner.parent.mkdir(parents=True, exist_ok=True)
    write_whole(owner, json.dumps({"digest": digest}))
    return None


def _load_sources(sources: Sequence[Source], excluded: Counter[str]) -> Any:
    from hf_sqa.data import load_corpus
    from hf_sqa.data.schema import import_datasets

    parts = []
    for source in sources:
        rows = load_corpus(
            source.name,
            source.root,
            columns=source.columns,
            scale=None if source.scale is None else (source.scale[0], source.scale[1]),
            ratings=source.ratings,  # type: ignore[arg-type]
            join=source.join,
            language=source.language,
            split=source.split,
            revision=source.revision,
            on_missing=source.on_missing,  # type: ignore[arg-type]
        )
        if source.on_missing == "drop":
            number = int(rows.info.description.rsplit("dropped ", 1)[-1].split(", whose")[0].replace(",", ""))
            if number:
                excluded["missing"] += number
        rows = _filtered(rows, source.filter, f"the filter of {source.name}", excluded)
        if source.limit is not None:
            rows = _limited(rows, source.limit, 0)
        parts.append(rows)
    return parts[0] if len(parts) == 1 else import_datasets().concatenate_datasets(parts)


def _filtered(rows: Any, wanted: Mapping[str, Any] | None, where: str, excluded: Counter[str]) -> Any:
    keep = np.ones(len(rows), bool)
    for column, value in (wanted or {}).items():
        if column not in rows.column_names:
            raise ValueError(f"Expected {where} to name a column ({', '.join(rows.column_names)}), got {column!r}.")
        own = list(rows[column])
        if isinstance(value, Mapping):
            if not value or set(value) - {"min", "max"}:
                raise ValueError(f"Expected `min` and `max` for {column!r} in {where}, got {dict(value)!r}.")
            numbers = np.array([np.nan if one is None else one for one in own], float)
            keep &= (numbers >= value.get("min", -np.inf)) & (numbers <= value.get("max", np.inf))
        else:
            allowed = value if isinstance(value, list) else [value]
            keep &= np.array([one in allowed for one in own], bool)
    if not keep.any():
        raise ValueError(f"Expected rows that meet {where}, {dict(wanted or {})}, got none of {len(rows)}.")
    if not keep.all():
        excluded["filter"] += int((~keep).sum())
    return rows if keep.all() else rows.select(np.flatnonzero(keep))


def _limited(rows: Any, limit: int, seed: int) -> Any:
    if limit >= len(rows):
        return rows
    from hf_sqa.data.splits import subset

    if any(one is None or one != one for one in rows["mos"]):
        return rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False)))
    return rows.select(subset(rows, limit, corpus_column=_corpus_column(rows), seed=seed))


def _split_rows(rows: Any, recipe: Recipe, notes: list[str]) -> tuple[Any, Any]:
    from hf_sqa.data.splits import stratified_split

    split = recipe.data.split
    assert split is not None
    score = "mos"
    for name in [*(recipe.model.scores or []), "mos"]:
        if name in rows.column_names and any(one is not None and one == one for one in rows[name]):
            score = name
            break
    rated = np.array([one is not None and one == one for one in rows[score]])
    rows = rows if rated.all() else rows.select(np.flatnonzero(rated))
    parts = stratified_split(
        rows,
        validation_share=split.share,
        group_columns=split.group or (),
        score_column=score,
        corpus_column=_corpus_column(rows),
        seed=split.seed,
    )
    notes.append(f"split: {parts}")
    return rows.select(parts.train), rows.select(parts.validation)


def _corpus_column(rows: Any) -> str | None:
    return "corpus" if "corpus" in rows.column_names and all(rows["corpus"]) else None


def _chain(options: AugmentationOptions, noises: Any) -> Any:
    from hf_sqa.degradations import Chain, RecordingFolder

    sources: dict[str, Any] = {
        name: RecordingFolder(folder)
        for name, folder in (("noises", options.noises), ("talkers", options.talkers))
        if folder is not None
    }
    if noises is not None:
        sources["noises"] = noises
    if options.preset is not None:
        return Chain.load(options.preset, **sources)
    return Chain(options.steps or [], name="augmentation", **sources)


def _with_new_head(model: Any, id2label: dict[int, str], announce: Any) -> Any:
    """The same model with other scores: tensors whose shape depends on their number begin anew."""
    values = model.config.to_dict() | {"id2label": id2label}
    for name in ("label2id", "num_labels", "architectures", "transformers_version", "model_type", "dtype"):
        values.pop(name, None)
    new = type(model)(type(model.config)(**values))
    state, own = model.state_dict(), new.state_dict()
    kept = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    new.load_state_dict(kept, strict=False)
    if announce:
        announce(f"New, randomly initialised: {', '.join(sorted(set(own) - set(kept)))}.")
    return new


def _adapted(model: Any, section: Model) -> Any:
    from hf_sqa.training.adapters import add_adapter

    assert section.lora is not None
    return add_adapter(model, section.lora)


def _best_metrics(trainer: Any) -> dict[str, float]:
    """Metrics of the weights that are kept: those of the best step, or of the last evaluation."""
    wanted = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    found: dict[str, float] = {}
    for entry in trainer.state.log_history:
        metrics = {name: value for name, value in entry.items() if name.startswith("eval_")}
        if metrics and (wanted is None or entry["step"] == wanted):
            found = metrics
    return found


def _gathered_failures(trainer: Any) -> dict[str, tuple[str, str]]:
    if trainer.args.world_size == 1:
        return trainer.failures
    from accelerate.utils import gather_object

    return dict(gather_object(list(trainer.failures.items())))


def _save_finished(trainer: Any, recipe: Recipe, result: TrainingResult) -> None:
    """Write everything beside the checkpoints first, then put it in place; the result, which says that all is there, is last."""
    folder = result.output_dir
    unfinished = folder / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not isinstance(model, type(trainer.quality_model)):  # an adapter
            from hf_sqa.training.adapters import save_adapter

            model = save_adapter(model, unfinished)
        model.config.checkpoint_name = None  # these are not the published weights any more
        # MTQNet leaves the heads behind that served training only.
        getattr(model, "save_for_inference", model.save_pretrained)(unfinished)
        trainer.processing_class.save_pretrained(unfinished)
        recipe.save(unfinished / RECIPE)
        for path in sorted(unfinished.iterdir()):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
        result.save()
    except Exception as error:
        if (explained := _explained(error, trainer.args, folder)) is None:
            raise
        raise explained from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _explained(error: Exception, args: Any, folder: Path) -> TrainingError | None:
    """What to try, where there is something to try."""
    import torch

    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        size = args.per_device_train_batch_size
        return TrainingError(
            f"Memory ran out with batches of {size} clips. Try training.per_device_train_batch_size={max(1, size // 2)} with "
            f"training.gradient_accumulation_steps={args.gradient_accumulation_steps * (2 if size > 1 else 1)} (the same optimiser "
            "step), training.max_seconds=10, training.bf16=true, or training.activation_checkpointing=true."
        )
    if any(one in text for one in FULL_DISK):
        return TrainingError(
            f"The disk of {str(folder)!r} is full ({text}). Free some space, or set training.save_total_limit=1, and start the "
            "same command again: it goes on from the newest complete checkpoint, which is untouched."
        )
    return None


def _tell(line: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, file=sys.stderr)  # noqa: T201
