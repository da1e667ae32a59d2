"""The model of a recipe: loaded or new, with the recipe's options, partly frozen, or with a low-rank adapter."""

import fnmatch
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_sqa.auto import families
from hf_sqa.checkpoints import BASE_FILE, base_digest, load_checkpoint, portable_name, resolve_checkpoint
from hf_sqa.choices import check_choice
from hf_sqa.extras import import_extra
from hf_sqa.training.losses import loss_options
from hf_sqa.training.recipe import Lora, Model

#: Parts of a configuration that training makes invalid, and what is announced when they are dropped.
OF_TRAINED_SCORES = {
    "score_mapping": "The checkpoint's mapping of its scores is dropped: it was fitted to predictions that training changes.",
    "score_intervals": "The checkpoint's calibration of intervals is dropped: training changes its errors. `hf-sqa calibrate` "
    "makes one.",
}
#: Linear layers that get an adapter if a family has them; otherwise all linear layers outside the heads get one.
ATTENTION = ("q_proj", "v_proj")
#: Modules of the families that are trained as a whole beside an adapter.
HEADS = ("score_head", "score_heads", "layer_mix", "log_variance_head")


def build_model(section: Model, loss: Any = None, *, announce: Any = None) -> Any:
    """Load or make the model of a recipe, in float32."""
    options = dict(section.config)
    if section.size is not None:
        options = dict(families()[str(section.family)][0].sizes[section.size]) | options
    if section.scores is not None:
        options["id2label"] = dict(enumerate(section.scores))
    if section.checkpoint is None:
        check_choice("model.family", section.family, families())
        config_class, model_class = families()[str(section.family)]
        options |= loss_options(loss, config_class)
        if section.knowledge_from is not None:
            return _with_knowledge(model_class, section, options, announce)
        if section.encoder is None:
            config = config_class(**options)
            if getattr(config, "encoder_config", None) is not None and not getattr(config, "precomputed_features", False):
                warnings.warn(
                    f"The {config.encoder_config.model_type} encoder of this {section.family} begins with random weights, which "
                    "rated speech alone hardly trains. Name a pre-trained one: `model.encoder`.",
                    UserWarning,
                    stacklevel=2,
                )
            return model_class(config)
        encoder = resolve_checkpoint(section.encoder)
        return model_class.from_encoder(encoder, encoder_options=section.encoder_options, **options)
    model = load_checkpoint(section.checkpoint, merge=True, dtype="float32").model
    for name, sentence in OF_TRAINED_SCORES.items():
        if getattr(model.config, name) is not None:
            setattr(model.config, name, None)
            if announce:
                announce(sentence)
    if any(getattr(model.config, name, None) != value for name, value in options.items()):
        model = _with_other_options(model, options, announce)
    for name, value in loss_options(loss, type(model.config)).items():
        setattr(model.config, name, value)
    return model


def _with_knowledge(model_class: Any, section: Model, options: dict[str, Any], announce: Any) -> Any:
    model, info = model_class.with_knowledge_from(
        load_checkpoint(section.knowledge_from, merge=True, dtype="float32").model,
        encoder=section.encoder and resolve_checkpoint(section.encoder),
        encoder_options=section.encoder_options,
        **options,
    )
    if announce:
        announce(f"From {section.knowledge_from}: {len(info['copied'])} tensors. New: {', '.join(info['initialized'])}.")
    return model


def _with_other_options(model: Any, options: dict[str, Any], announce: Any) -> Any:
    """Return the model with changed configuration options, such as its scores. Tensors whose shape changes are initialised anew."""
    values = model.config.to_dict() | options
    for name in ("label2id", "num_labels", "architectures", "transformers_version", "model_type", "dtype"):
        values.pop(name, None)
    new = type(model)(type(model.config)(**values))
    old_tensors, new_tensors = model.state_dict(), new.state_dict()
    kept = {name: tensor for name, tensor in old_tensors.items() if name in new_tensors and new_tensors[name].shape == tensor.shape}
    new.load_state_dict(kept, strict=False)
    new.config._name_or_path = model.config._name_or_path
    if announce and (fresh := sorted(set(new_tensors) - set(kept))):
        announce(f"New, randomly initialised: {', '.join(fresh)}.")
    if announce and (left_out := sorted(set(old_tensors) - set(new_tensors))):
        announce(f"Left out, as the options of the model leave no place for them: {', '.join(left_out)}.")
    return new


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Freeze modules by name."""
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


def add_adapter(model: Any, options: Lora) -> Any:
    """Wrap a model to train a low-rank adapter together with the whole heads."""
    peft = import_extra("peft", "The section `model.lora`", "peft")
    heads = []
    for name, module in model.named_modules():
        if name.split(".")[-1] in HEADS:
            is_container = isinstance(module, torch.nn.ModuleDict | torch.nn.ModuleList)  # peft accepts no containers
            heads += [f"{name}.{child}" for child, _ in module.named_children()] if is_container else [name]
    targets = sorted({name.split(".")[-1] for name, _ in model.named_modules()} & set(ATTENTION)) or sorted(
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(name == head or name.startswith(f"{head}.") for head in heads)
    )
    config = peft.LoraConfig(
        r=options.r, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets, modules_to_save=heads or None
    )
    digest = base_digest(model)
    adapted: Any = peft.get_peft_model(model, config)
    adapted.base_digest = digest
    adapted.peft_config["default"].base_model_name_or_path = portable_name(model)
    return adapted


def save_adapter(adapted: Any, folder: Path) -> Any:
    """Save the adapter alone in `adapter/`, with what identifies its base, and return the model with the adapter merged in."""
    # None of our models has embeddings, which peft would otherwise look up in the base model on the Hub.
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    (folder / "adapter" / BASE_FILE).write_text(json.dumps({"weights": adapted.base_digest}), encoding="utf-8")
    return adapted.merge_and_unload()
