"""Low-rank adapters: which modules they go to in each family, and a folder in which they are both merged and apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from hf_sqa.training.recipe import Lora

#: Linear layers that get an adapter, where a family has them; else all outside the heads.
ATTENTION = ("q_proj", "v_proj")
BASE_FILE = "base.json"
#: Modules of the families that are trained as a whole beside it.
HEADS = ("score_head", "score_heads", "layer_mix", "log_variance_head")


def add_adapter(model: Any, options: Lora) -> Any:
    """Wrap a model to train a low-rank adapter, and its heads as a whole.

    Raises:
        ImportError: If peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise ImportError("Expected the package peft for `model.lora`; install it with `pip install 'hf-sqa[peft]'`.") from None
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
    adapted.peft_config["default"].base_model_name_or_path = _name(model)
    return adapted


def save_adapter(adapted: Any, folder: Path) -> Any:
    """Save the adapter alone in `adapter/`, with what tells its base, and return the model with it merged in."""
    adapted.save_pretrained(folder / "adapter")
    (folder / "adapter" / BASE_FILE).write_text(json.dumps({"weights": adapted.base_digest}), encoding="utf-8")
    return adapted.merge_and_unload()


def load_adapted(folder: str | Path, base: str | None = None, *, announce: Any = None) -> Any:
    """The model that an adapter was trained on, with the adapter merged in.

    Args:
        folder (`str` or `Path`): Folder of the adapter.
        base (`str`, *optional*): Its base, if it is no longer where the adapter says.
        announce (callable, *optional*): Takes lines about what was done.

    Raises:
        ValueError: If the adapter was trained on other weights than those of the base, or does not fit them.
    """
    import peft

    from hf_sqa.auto import AutoModelForAudioQuality

    folder = Path(folder)
    base = base or json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"Expected the adapter in {str(folder)!r} to name its base, got none; train from the merged model beside it."
        )
    if base == "default":
        from hf_sqa.models.distilled_sqa.convert_distilled_sqa import convert

        model = convert()
    else:
        model = AutoModelForAudioQuality.from_pretrained(base, dtype=torch.float32)
    told = folder / BASE_FILE
    expected = json.loads(told.read_text(encoding="utf-8"))["weights"] if told.is_file() else None
    if expected not in (None, base_digest(model)):
        raise ValueError(
            f"Expected the base that the adapter in {str(folder)!r} was trained on (weights {expected}), got {base!r} with weights "
            f"{base_digest(model)}: its scores would be plausible and wrong. Put the base back, or train from the merged model."
        )
    try:
        merged = peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"The adapter in {str(folder)!r} does not fit its base {base!r}: {error}") from error
    if announce is not None:
        announce(f"{base} with the adapter in {folder} merged in.")
    return merged


def base_digest(model: Any) -> str:
    """16 characters that tell the weights of a model: SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:16]


def _name(model: Any) -> str:
    """What the base is loaded by: a folder, a Hub id, or `default`."""
    from hf_sqa.models.distilled_sqa.convert_distilled_sqa import CHECKPOINT_NAME

    return "default" if model.config.checkpoint_name == CHECKPOINT_NAME else model.config._name_or_path
