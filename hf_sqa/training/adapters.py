"""Low-rank adapters: which modules they go to in each family, and a folder in which they are both merged and apart."""

import json
from pathlib import Path
from typing import Any

import torch

from hf_sqa.checkpoints import BASE_FILE, base_digest, portable_name
from hf_sqa.extras import import_extra
from hf_sqa.training.recipe import Lora

#: Linear layers that get an adapter, where a family has them; else all outside the heads.
ATTENTION = ("q_proj", "v_proj")
#: Modules of the families that are trained as a whole with it.
HEADS = ("score_head", "score_heads", "layer_mix", "log_variance_head")


def add_adapter(model: Any, options: Lora) -> Any:
    """Wrap a model to train a low-rank adapter, and its heads as a whole."""
    peft = import_extra("peft", "The section `model.lora`", "peft")
    heads = []
    for name, module in model.named_modules():
        if name.split(".")[-1] in HEADS:
            is_container = isinstance(module, torch.nn.ModuleDict | torch.nn.ModuleList)  # peft takes no containers
            heads += [f"{name}.{child}" for child, _ in module.named_children()] if is_container else [name]
    targets = sorted({name.split(".")[-1] for name, _ in model.named_modules()} & set(ATTENTION)) or sorted(
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(name == head or name.startswith(f"{head}.") for head in heads)
    )
    config = peft.LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        modules_to_save=heads or None,
    )
    digest = base_digest(model)
    adapted: Any = peft.get_peft_model(model, config)
    adapted.base_digest = digest
    adapted.peft_config["default"].base_model_name_or_path = portable_name(model)
    return adapted


def save_adapter(adapted: Any, folder: Path) -> Any:
    """Save the adapter alone in `adapter/`, with what tells its base, and return the model with it merged in."""
    # No model of ours has the embeddings that peft would otherwise look for at the base, on the Hub.
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    (folder / "adapter" / BASE_FILE).write_text(json.dumps({"weights": adapted.base_digest}), encoding="utf-8")
    return adapted.merge_and_unload()
