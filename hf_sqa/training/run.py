"""From a recipe to a trained checkpoint: the model, the rows, the Trainer, and a folder that loads everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import set_seed
from transformers.utils import logging

from hf_sqa.degradations import Chain, RecordingFolder
from hf_sqa.extras import import_extra
from hf_sqa.progress import bar
from hf_sqa.runs import RunMismatch, check_same_run, digest_of, locked, move_into, write_whole
from hf_sqa.training.arguments import AudioQualityTrainingArguments
from hf_sqa.training.callbacks import Interrupt, Progress
from hf_sqa.training.examples import Augmentation, Examples
from hf_sqa.training.front_memory import features_of_run
from hf_sqa.training.model import add_adapter, build_model, freeze, save_adapter
from hf_sqa.training.recipe import AugmentationOptions, Recipe, load_recipe
from hf_sqa.training.rows import add_pseudo_labels, load_rows, split_rows
from hf_sqa.training.trainer import AudioQualityTrainer

#: Messages of a full disk or quota from Python, Rust (safetensors) and C++ (torch).
FULL_DISK = ("No space left on device", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed")
CHECKPOINTS, RESULT, RECIPE = "checkpoints", "training_result.json", "recipe.yaml"
#: Number of clips to measure mean and deviation of mel bands on.
NUM_MEASURED = 256
STATE_FILE = "trainer_state.json"
#: Folders of DeepSpeed and FSDP checkpoints, which name their files differently.
SHARDED = ("global_step", "pytorch_model_fsdp", "optimizer_")


class TrainingError(RuntimeError):
    """Training cannot continue; the message says what to do."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; it resumes from `checkpoint`."""

    def __init__(self, checkpoint: Path | None):
        super().__init__("training was interrupted")
        self.checkpoint = checkpoint


@dataclass
class TrainingResult:
    """The result of a run; `training_result.json` in its folder."""

    output_dir: Path  # folder with the best weights, configuration, feature extractor, recipe and this result
    metrics: dict[str, float] = field(default_factory=dict)  # validation metrics of these weights, such as `eval_utt_srcc`
    # `num_train` and `num_validation`: numbers of rated rows
    num_train: int = 0
    num_validation: int = 0
    best_step: int | None = None  # optimiser steps to these weights; all steps if there was no validation
    num_steps: int = 0  # optimiser steps in all
    num_processes: int = 1  # number of processes that trained
    seconds: float = 0.0  # duration of this attempt
    excluded: dict[str, int] = field(default_factory=dict)  # number of rows and recordings left out, by reason
    failures: dict[str, str] = field(default_factory=dict)  # recordings that could not be read, and why
    notes: list[str] = field(default_factory=list)  # remarks: clips cut, splits made
    history: list[dict[str, float]] = field(default_factory=list)  # losses and metrics that were logged, by step
    recipe_digest: str = ""  # digest of the recipe and the data of the run

    def save(self) -> None:
        """Write the result into its folder."""
        content = asdict(self) | {"output_dir": None}
        write_whole(self.output_dir / RESULT, json.dumps(content, indent=1, default=float) + "\n", sole_writer=True)

    @classmethod
    def load(cls, folder: str | Path) -> TrainingResult:
        """Read a result from its folder."""
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
    trainer_class: Any = None,
    trainer_options: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train a model by a recipe.

    An interrupted run resumes from its newest complete checkpoint. A finished run is not repeated: its result is returned.

    Args:
        recipe ([`Recipe`], path or `dict`): The recipe.
        train_dataset, validation_dataset (`datasets.Dataset`, *optional*): Rows instead of those of the recipe, in the schema of
            `hf_sqa.data`. Without `validation_dataset` the recipe's `data.split` applies to `train_dataset`.
        model (*optional*): A model in memory instead of the recipe's.
        resume (`bool`, *optional*, defaults to `True`): Whether to resume the run in `output_dir`, or to return its result.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to delete a run of another recipe in `output_dir`.
        callbacks (*optional*): Callbacks of transformers' Trainer.
        announce (callable, *optional*): Receives lines about progress; if not given, they go to standard error.
        trainer_class (*optional*): Class of the trainer, instead of [`AudioQualityTrainer`].
        trainer_options (mapping, *optional*): Further options of the trainer; a run with other ones is another run.

    Raises:
        TypeError, ValueError: If the recipe, a label or an option cannot be used.
        RunMismatch: If `output_dir` holds another run; the message names the difference.
        Locked: If another process is training in `output_dir`.
        TrainingError: If memory or disk runs out, or the loss is NaN.
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    recipe = load_recipe(recipe)
    announce = announce or _announce
    _check_services(recipe)
    folder = Path(recipe.output_dir)
    definition = _definition(recipe, train_dataset, validation_dataset, model)
    if trainer_options:
        definition["trainer"] = dict(trainer_options)
    args = AudioQualityTrainingArguments(output_dir=str(folder / CHECKPOINTS), **recipe.training)
    with contextlib.ExitStack() as held:
        with args.main_process_first(local=False, desc="preparing the folder"):
            if args.should_save:
                held.enter_context(locked(folder / CHECKPOINTS / ".lock", refusal=f"Another process trains into {str(folder)!r}."))
                _begin(folder, definition, resume, overwrite)
        if (folder / RESULT).exists():
            announce(f"{folder} holds the finished run of this recipe; nothing to do.")
            return TrainingResult.load(folder)
        logging.disable_progress_bar()
        notes: list[str] = []
        train_dataset, validation_dataset, excluded = _rows(recipe, train_dataset, validation_dataset, args.seed, notes)
        model, adapted = _model(recipe, model, args.seed, announce)
        started = time.monotonic()
        with Interrupt(announce) as interrupt, bar(unit="steps", tell=announce, shown=args.process_index == 0) as update:
            trainer: Any = (trainer_class or AudioQualityTrainer)(
                adapted,
                args,
                train_dataset=train_dataset,
                eval_dataset=validation_dataset,
                augmentation=_augmentation(recipe.augmentation),
                loss=recipe.loss,
                order=recipe.order,
                callbacks=[interrupt, Progress(update, announce), *callbacks],
                **(trainer_options or {}),
            )
            if model.needs_bands:
                data = trainer.train_dataset
                waveforms = (data[row]["waveform"] for row in range(0, len(data), max(1, len(data) // NUM_MEASURED)))
                model.measure_bands(waveform for waveform in waveforms if waveform is not None)
            if args.begin_at_mean:
                _begin_at_mean(model, recipe, trainer.train_dataset.labels)
            with features_of_run(trainer, folder, augments=recipe.augmentation is not None):
                _train(trainer, interrupt, resume, notes, announce)
        result = _result(trainer, folder, excluded, notes)
        result.recipe_digest, result.seconds = digest_of(definition), time.monotonic() - started
        if args.should_save:
            _save_finished(trainer, recipe, result)
        trainer.accelerator.wait_for_everyone()
        return result


def _rows(recipe: Recipe, train: Any, validation: Any, seed: int, notes: list[str]) -> tuple[Any, Any, Counter[str]]:
    set_seed(seed)
    excluded: Counter[str] = Counter()
    if train is None:
        train, validation, excluded = load_rows(recipe, notes)
    elif validation is None and recipe.data.split is not None:
        train, validation = split_rows(train, recipe, notes)
    if recipe.data.pseudo_labels is not None:
        train, validation = add_pseudo_labels(train, validation, recipe, notes)
    return train, validation, excluded


def _model(recipe: Recipe, model: Any, seed: int, announce: Any) -> tuple[Any, Any]:
    set_seed(seed)
    model = build_model(recipe.model, recipe.loss, announce=announce) if model is None else model
    adapted = model if recipe.model.lora is None else add_adapter(model, recipe.model.lora)
    freeze(adapted, recipe.model.freeze)
    return model, adapted


def _begin_at_mean(model: Any, recipe: Recipe, labels: Any) -> None:
    if recipe.model.checkpoint is not None:
        raise ValueError(
            f"Expected `training.begin_at_mean` of a new model, got the checkpoint {recipe.model.checkpoint!r}, whose heads are "
            "trained; leave it out."
        )
    model.begin_at(np.nanmean(labels, axis=0))


def _train(trainer: Any, interrupt: Any, resume: bool, notes: list[str], announce: Any) -> None:
    args, data = trainer.args, trainer.train_dataset
    if (num_longer := data.num_longer()) and args.should_save:
        notes.append(
            f"{num_longer} of {len(data)} training clips are longer than {args.max_seconds:g} s: a stretch of that length is drawn "
            "from each in every epoch"
        )
    checkpoint, torn = find_resumable_checkpoint(args.output_dir, args.world_size) if resume else (None, [])
    for line in [*notes, *torn]:
        announce(line)
    if checkpoint is not None:
        announce(f"Going on from {checkpoint}.")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        if args.dataloader_num_workers and trainer.waiting.num_windows:
            announce(trainer.waiting.sentence(args.dataloader_num_workers))
    except Exception as error:
        if (explained := _explained(error, args) or _not_resumable(error, checkpoint, trainer)) is None:
            raise
        raise explained from error
    if interrupt.requested and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(find_resumable_checkpoint(args.output_dir, args.world_size)[0])
    if any(not np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry):
        raise TrainingError(
            "The training loss is not a number any more: lower `training.learning_rate`, set `training.max_grad_norm`, or train in "
            f"float32. The checkpoints before are in {args.output_dir}."
        )


def find_resumable_checkpoint(folder: str | Path, num_processes: int = 1) -> tuple[Path | None, list[str]]:
    """Return the newest complete `checkpoint-<step>` in a folder, which need not exist, and a line for every newer incomplete one.

    Each of the `num_processes` that resume needs its own random state.
    """
    checkpoints = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    torn: list[str] = []
    for path in sorted(checkpoints, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        problem = what_is_torn(path, num_processes)
        if problem is None:
            return path, torn
        torn.append(f"{path.name} is not complete ({problem}); it is skipped")
    return None, torn


def what_is_torn(path: Path, num_processes: int = 1) -> str | None:
    """Return why a run cannot resume from a checkpoint; `None` if it can."""
    state = path / STATE_FILE
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return f"{STATE_FILE} is missing or cut short"
    if not isinstance(content, dict) or not isinstance(content.get("global_step"), int):
        return f"{STATE_FILE} does not say the step"
    sharded = any(entry.is_dir() and entry.name.startswith(SHARDED) for entry in path.iterdir())
    weights = sorted(path.glob("*.safetensors"))
    if not weights and not sharded:
        return "no weights"
    for file in weights:
        try:
            with safe_open(file, "np"):  # refuses a file of another length than its header says
                pass
        except (OSError, SafetensorError):
            return f"{file.name} is cut short"
    wanted = [] if sharded else ["optimizer.pt", "scheduler.pt"]
    wanted += ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{index}.pth" for index in range(num_processes)]
    for name in wanted:
        if not (path / name).is_file():
            hint = "; it was saved by another number of processes" if name.startswith("rng_state") else ""
            return f"{name} is missing{hint}"
        if not _is_whole_archive(path / name):
            return f"{name} is cut short"
    return None


def _is_whole_archive(path: Path) -> bool:
    """Return whether a file of `torch.save` has its directory, which is written last, and every entry listed there."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _result(trainer: Any, folder: Path, excluded: Counter[str], notes: list[str]) -> TrainingResult:
    args, state, failures = trainer.args, trainer.state, trainer.failures
    if args.world_size > 1:
        from accelerate.utils import gather_object

        failures = dict(gather_object(list(failures.items())))
    excluded = excluded + Counter(code for code, _ in failures.values())
    for data in (trainer.train_dataset, trainer.eval_dataset):
        if isinstance(data, Examples):
            excluded += data.excluded
    return TrainingResult(
        output_dir=folder,
        metrics=_best_metrics(trainer),
        num_train=len(trainer.train_dataset),
        num_validation=len(trainer.eval_dataset) if trainer.eval_dataset is not None else 0,
        best_step=state.best_global_step if args.load_best_model_at_end else state.global_step,
        num_steps=state.global_step,
        num_processes=args.world_size,
        excluded=dict(excluded),
        failures={source: message for source, (_, message) in failures.items()},
        notes=notes,
        history=state.log_history,
    )


def _check_services(recipe: Recipe) -> None:
    """Refuse publishing, and a tracker that is not installed, before anything is loaded."""
    if recipe.training.get("push_to_hub"):
        raise ValueError(
            "Expected no `training.push_to_hub`: a finished run is published by `hf-sqa push "
            f"{recipe.output_dir} owner/name --license ...`, which checks it first."
        )
    asked = recipe.training.get("report_to")
    for name in [asked] if isinstance(asked, str) else asked or []:
        if name == "tensorboard":
            import_extra(name, "`training.report_to=tensorboard`", "train", "leave it out")
        elif name == "trackio" and find_spec(name) is None:
            raise ImportError("`training.report_to=trackio` needs the package trackio: `pip install trackio`; or leave it out.")


def _definition(recipe: Recipe, train: Any, validation: Any, model: Any) -> dict[str, Any]:
    given = {"train": train, "validation": validation}
    data = {name: str(getattr(rows, "_fingerprint", len(rows))) for name, rows in given.items() if rows is not None}
    return {"recipe": recipe.definition(), "given data": data, "given model": type(model).__name__ if model is not None else None}


def _begin(folder: Path, definition: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Refuse the files of another run in the folder, or remove them with `overwrite`."""
    run_file, result_file = folder / CHECKPOINTS / "run.json", folder / RESULT
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    remedy = "choose another `output_dir`, delete the folder, or pass `overwrite=True` (`--overwrite`)"
    try:
        if not resume and (run_file.exists() or result_file.exists()):
            raise RunMismatch(f"{str(folder)!r} holds a run, and `resume` is off; {remedy}.")
        if not run_file.exists() and result_file.exists() and TrainingResult.load(folder).recipe_digest != digest_of(definition):
            raise RunMismatch(f"{str(folder)!r} holds the result of another recipe or other data; {remedy}.")
        if not run_file.exists() and not result_file.exists() and weights:
            raise RunMismatch(f"{str(folder)!r} holds {weights[0]}, which this run did not write; {remedy}.")
        check_same_run(run_file, definition, remedy)
    except RunMismatch:
        is_empty = not (result_file.exists() or weights or any((folder / CHECKPOINTS).glob("checkpoint-*")))
        if not (overwrite or is_empty):  # a run that failed before its first checkpoint, at a misspelled name say, holds nothing
            raise
        for path in (folder / CHECKPOINTS).glob("checkpoint-*"):
            shutil.rmtree(path)
        for path in (run_file, result_file):
            path.unlink(missing_ok=True)
        check_same_run(run_file, definition)


def _augmentation(options: AugmentationOptions | None) -> Any:
    if options is None:
        return None
    folders = {"noises": options.noises, "talkers": options.talkers}
    sources: dict[str, Any] = {name: RecordingFolder(folder) for name, folder in folders.items() if folder is not None}
    if options.preset is not None:
        chain = Chain.load(options.preset, **sources)
    else:
        chain = Chain(options.steps or [], name="augmentation", **sources)
    return Augmentation(chain, options.probability)


def _best_metrics(trainer: Any) -> dict[str, float]:
    best_step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    entries = [entry for entry in trainer.state.log_history if best_step in (None, entry["step"])]
    evaluations = ({name: value for name, value in entry.items() if name.startswith("eval_")} for entry in reversed(entries))
    return next(filter(None, evaluations), {})


def _save_finished(trainer: Any, recipe: Recipe, result: TrainingResult) -> None:
    """Write everything aside, then move it into the folder. The result comes last: it marks the folder as complete."""
    unfinished = result.output_dir / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not isinstance(model, type(trainer.quality_model)):  # an adapter
            model = save_adapter(model, unfinished)
        model.config.checkpoint_name = None  # these are no longer the published weights
        model.save_for_inference(unfinished)
        trainer.processing_class.save_pretrained(unfinished)
        recipe.save(unfinished / RECIPE)
        move_into(unfinished, result.output_dir)
        unfinished.rmdir()  # before the result, after which nobody would remove it
        result.save()
    except Exception as error:
        if (explained := _explained(error, trainer.args)) is None:
            raise
        raise explained from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _explained(error: Exception, args: Any) -> TrainingError | None:
    """Return an error that says what to try, or `None` if there is nothing to try."""
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        size = args.per_device_train_batch_size
        return TrainingError(
            f"Memory ran out with batches of {size} clips. Try training.per_device_train_batch_size={max(1, size // 2)} with "
            f"training.gradient_accumulation_steps={args.gradient_accumulation_steps * (2 if size > 1 else 1)} (the same optimiser "
            "step), training.max_seconds=10, training.bf16=true, or training.activation_checkpointing=true."
        )
    if any(message in text for message in FULL_DISK):
        return TrainingError(
            f"The disk of {str(Path(args.output_dir).parent)!r} is full ({text}). Free some space, or set "
            "training.save_total_limit=1, and start the same command again: it goes on from the newest complete checkpoint, which "
            "is untouched."
        )
    return None


def _not_resumable(error: Exception, checkpoint: Path | None, trainer: Any) -> TrainingError | None:
    """Return an error that says what to do if a run fails before it gets past its checkpoint, or `None` if it failed later."""
    if checkpoint is None or trainer.state.global_step > int(checkpoint.name.split("-")[1]):
        return None
    if isinstance(error, UnpicklingError):  # torch's message would say how to open it anyway
        reason = "one of its files holds other things than tensors and numbers, which could run code, and is not opened"
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return TrainingError(
        f"Training cannot go on from {str(checkpoint)!r} ({reason}). Delete that folder, and start the same command again: it goes "
        "on from the checkpoint before, or starts from the beginning."
    )


def _announce(line: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, file=sys.stderr)  # noqa: T201
