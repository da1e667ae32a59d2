"""Try a recipe in seconds and offline, without its corpora and encoder: every key is used, on a tiny model of the family."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from transformers import set_seed

from hf_sqa.auto import families
from hf_sqa.blocks.speech_encoder import load_encoder_config
from hf_sqa.checkpoints import family_of, resolve_checkpoint
from hf_sqa.choices import check_choice
from hf_sqa.data.corpora.loading import find_corpus
from hf_sqa.data.schema import SCORE_RANGES, TEXT_COLUMNS
from hf_sqa.data.splits import TRAINING_SETS
from hf_sqa.training.losses import loss_options
from hf_sqa.training.recipe import Model, Recipe, load_recipe
from hf_sqa.training.run import TrainingResult, run_recipe

NUM_STEPS, NUM_TRAIN, NUM_VALIDATION, RATE = 2, 12, 6, 16_000
#: Options that a dry run sets itself.
SHORT = {
    "num_train_epochs": 1,
    "gradient_accumulation_steps": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "dataloader_num_workers": 0,
    "use_cpu": True,
    "fp16": False,
    "report_to": "none",
    "push_to_hub": False,
    "logging_steps": 1,
    "eval_on_start": False,
}
#: Options that depend on the encoder, which a tiny model does not have.
OF_ENCODER = {"encoder_config", "layer", "layers"}
LEFT_OUT = ("eval_delay", "deepspeed", "fsdp", "fsdp_config", "tf32", "dataloader_prefetch_factor", "torch_compile")


def dry_run_recipe(recipe: Recipe | str | Path | Mapping[str, Any]) -> TrainingResult:
    """Train a tiny model of the recipe's family for two steps on generated clips, with the recipe's options.

    This checks all keys and values, the names of corpora and training sets, the configuration, loss, freezing, adapter and
    augmentation; but not the corpora, the checkpoint and the encoder.
    """
    recipe = load_recipe(recipe)
    check_names(recipe)
    model = tiny_model(recipe)
    training = {name: value for name, value in recipe.training.items() if name not in LEFT_OUT} | SHORT
    training |= {"max_steps": NUM_STEPS, "save_strategy": "steps", "save_steps": NUM_STEPS}
    if training.get("eval_strategy") != "no":
        training |= {"eval_strategy": "steps", "eval_steps": NUM_STEPS}
    if training.get("max_seconds"):
        # The generated clips last up to 1.2 s. Clips that are cut have no fixed features to keep, see `feature_cache`.
        training["max_seconds"] = min(training["max_seconds"], 1.2 if training.get("feature_cache") else 1.0)
    if training.get("feature_cache"):
        training["feature_cache"] = "run"
    score_names, corpora = model.config.score_names, [recipe.loss.anchor_corpus] if recipe.loss.anchor_corpus else ["first"]
    rows = generated_rows(score_names, NUM_TRAIN + NUM_VALIDATION, [*corpora, "second"])
    with tempfile.TemporaryDirectory(prefix="hf-sqa-dry-run-") as scratch:
        augmentation = recipe.augmentation
        if augmentation is not None:
            soundfile.write(Path(scratch, "noise.wav"), 0.1 * np.random.default_rng(1).standard_normal(RATE), RATE)
            folders: dict[str, Any] = {name: scratch for name in ("noises", "talkers") if getattr(augmentation, name) is not None}
            augmentation = replace(augmentation, **folders)
        tried = replace(
            recipe,
            model=replace(recipe.model, freeze=[name for name in recipe.model.freeze if not any(map(str.isdigit, name))]),
            data=replace(recipe.data, pseudo_labels=None, split=None),
            training=training,
            augmentation=augmentation,
            output_dir=f"{scratch}/trained",
        )
        return run_recipe(
            tried,
            train_dataset=rows[:NUM_TRAIN],
            validation_dataset=None if training.get("eval_strategy") == "no" else rows[NUM_TRAIN:],
            model=model,
            announce=lambda line: None,
        )


def check_names(recipe: Recipe) -> None:
    """Refuse corpora, training sets and group columns that do not exist."""
    for source in [*recipe.data.train, *(recipe.data.validation or []), *recipe.evaluation]:
        corpus, part = find_corpus(source.name)
        if corpus is not None:
            corpus.parts(part)
    if recipe.data.training_set is not None and recipe.data.training_set not in TRAINING_SETS:
        raise ValueError(f"Expected `data.training_set` to be one of {', '.join(TRAINING_SETS)}, got {recipe.data.training_set!r}.")
    group = recipe.data.split.group if recipe.data.split is not None else None
    for column in [group] if isinstance(group, str) else group or []:
        if column not in TEXT_COLUMNS:
            raise ValueError(f"Expected `data.split.group` to name columns of {', '.join(TEXT_COLUMNS)}, got {column!r}.")


def look_at_encoder(recipe: Recipe) -> str | None:
    """Return a line that says where the encoder of a new model comes from; `None` if it has none, or its checkpoint includes it.

    Raises:
        ValueError: If the encoder is on this machine and is of an unknown kind, or lacks the layers that the recipe names.
    """
    model = recipe.model
    if model.checkpoint is not None or model.knowledge_from is not None or model.family not in families():
        return None
    config_class = families()[model.family][0]
    options = {name: value for name, value in model.config.items() if name != "encoder_config"}
    if model.encoder is None:
        given = config_class(**model.config)
        has_encoder = getattr(given, "encoder_config", None) is not None and not getattr(given, "precomputed_features", False)
        return "encoder: random weights; name a pre-trained one by model.encoder" if has_encoder else None
    try:
        encoder_config = load_encoder_config(resolve_checkpoint(model.encoder), model.encoder_options, local_files_only=True)
    except OSError:
        if Path(model.encoder).is_absolute() or model.encoder.startswith("."):
            raise ValueError(
                f"Expected `model.encoder` to be a folder or a Hub id, got {model.encoder!r}: it is not there."
            ) from None
        return f"encoder: {model.encoder} is not on this machine; it will be fetched from the Hub"
    config_class(encoder_config=encoder_config, **options)
    return f"encoder: {model.encoder}, {encoder_config.model_type} with {encoder_config.num_hidden_layers} layers"


def tiny_model(recipe: Recipe) -> Any:
    """Return a tiny random model of the recipe's family, with its scores, its loss and every option except sizes."""
    family = _family(recipe.model)
    check_choice("model.family", family, families())
    config_class, model_class = families()[family]
    options = dict(recipe.model.config)
    if recipe.model.scores is not None:
        options["id2label"] = dict(enumerate(recipe.model.scores))
    options |= loss_options(recipe.loss, config_class)
    known = {field.name for field in fields(config_class)}
    tiny, default = config_class.tiny(), config_class()
    sizes = {name for name in known if getattr(tiny, name) != getattr(default, name)}
    config_class(**{name: value for name, value in options.items() if name not in OF_ENCODER})  # misspelled options
    set_seed(int(recipe.training.get("seed", 42)))
    return model_class(config_class.tiny(**{name: value for name, value in options.items() if name not in sizes | OF_ENCODER}))


def generated_rows(score_names: Sequence[str], num_rows: int, corpora: Sequence[str] = ("first",)) -> list[dict[str, Any]]:
    """Return rows, with all columns, of voiced tones in noise. The score sets the noise level, so a few steps can learn it."""
    rng, ranges = np.random.default_rng(0), {name: SCORE_RANGES.get(name, (1.0, 5.0)) for name in score_names}
    rows: list[dict[str, Any]] = []
    for number in range(num_rows):
        quality = number % 6 / 5  # 0 (noisy) to 1
        voice = _voice(round((1.0 + 0.1 * (number % 3)) * RATE))
        noise = rng.standard_normal(len(voice))
        waveform = (0.1 * voice + 0.1 * (1 - quality) * noise + 1e-3 * noise).astype(np.float32)
        rows.append(
            {
                "audio": {"array": waveform, "sampling_rate": RATE},
                **{name: low + quality * (min(high, low + 5) - low) for name, (low, high) in ranges.items()},
                "system_id": f"system {number % 6}",
                "condition_id": f"condition {number % 6}",
                "talker_id": f"talker {number % 4}",
                "source_id": f"sentence {number}",
                "corpus": corpora[number // 6 % len(corpora)],
                "mos_std": 0.5 + 0.05 * (number % 5),
                "num_ratings": 5 + number % 7,
            }
        )
    return rows


@cache
def _voice(num_samples: int) -> np.ndarray:
    time = np.arange(num_samples) / RATE
    return sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20)) * 0.5 * (1 - np.cos(2 * np.pi * 4 * time))


def _family(model: Model) -> str:
    if model.family is not None:
        return model.family
    try:
        return family_of(model.checkpoint)
    except OSError as error:
        raise ValueError(
            f"Expected `model.family` beside the checkpoint {model.checkpoint!r} for a dry run, which downloads nothing: {error}"
        ) from error
