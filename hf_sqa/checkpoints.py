"""Loads the model that a user names, with its feature extractor and identity; the only way to a checkpoint.

A name may be a short name of a checkpoint inside a package, a folder, a Hub id with a revision, or an adapter on any of these.
Everything that is loaded by name is loaded by [`load_checkpoint`]; only this module has to know a new kind of name.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.utils import cached_file, is_peft_available
from transformers.utils.hub import extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

import hf_sqa.models  # noqa: F401  # registers the families
from hf_sqa import __version__
from hf_sqa.auto import AutoModelForAudioQuality, converters, families
from hf_sqa.blocks.partial_weights import refuse_partial_weights, refuse_weights_not_finite
from hf_sqa.choices import did_you_mean
from hf_sqa.configuration import CODE_ENTRIES
from hf_sqa.extras import needs_extra
from hf_sqa.modeling import model_identity, weights_digest
from hf_sqa.models.distilled_sqa import DistilledSQAConfig
from hf_sqa.short_names import DEFAULT_MODEL, HUB_OWNER, short_names, students

#: Files of a checkpoint to download from a repository.
CHECKPOINT_FILES = ("*.json", "*.safetensors", "README.md", "sample.flac")
AT_REVISION = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<revision>[\w./-]+)")
#: File beside an adapter with the digest of the weights that it was trained on.
BASE_FILE = "base.json"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its feature extractor."""

    name: str  # The name that the user gave
    model: Any  # An [`AudioQualityPreTrainedModel`] in evaluation mode
    feature_extractor: Any  # The checkpoint's own, or the one that its model needs

    def identity(self, **scoring_options: Any) -> dict[str, str | None]:
        """Return name, revision and digests; see [`~hf_sqa.modeling.model_identity`]."""
        return model_identity(self.model, self.feature_extractor, **scoring_options)


def load_checkpoint(
    name: str | os.PathLike[str] | None = None, *, merge: bool = False, trust_remote_code: bool = False, **options: Any
) -> Checkpoint:
    """Load a model by any name that a user may give; every command, recipe, study, teacher and base uses this function.

    Args:
        name (`str`, *optional*, defaults to `"default"`): One of [`short_names`]; a folder; a repository on the Hub, `"owner/name"`
            or `"owner/name@revision"`. Each holds a whole checkpoint, or a LoRA adapter whose base has one of these names.
        merge (`bool`, *optional*, defaults to `False`): Whether to merge an adapter into its base, for training, pruning or export.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the code of a repository may run if hf_sqa has none.
        **options: Options of `from_pretrained`: `dtype`, `revision`, `token`, `cache_dir`, `local_files_only`, ...

    Raises:
        OSError: If the model or revision does not exist, its weights are pickled, or its base cannot be loaded.
        ValueError: If its family is unknown here or does not score speech, or if its weights are incomplete.
    """
    try:
        model, extractor = _load(name, merge, trust_remote_code, options, ())
    except (OSError, ValueError) as error:
        explanation = explained(name, error)
        if explanation is error:
            raise
        raise explanation from error
    return Checkpoint("default" if name is None else str(name), model.eval(), extractor)


def _load(name: Any, merge: bool, trust_remote_code: bool, options: dict[str, Any], adapters: tuple[str, ...]) -> tuple[Any, Any]:
    """Return model and feature extractor; `adapters` are those whose base this is."""
    place, options = _located(name, options)
    adapter_file = _adapter_file(place, options)
    if adapter_file is not None:
        return _load_adapter(place, adapter_file, merge, options, adapters)
    model = _load_whole(place, trust_remote_code, options)
    return model, _extractor(place, options, model)


def resolve_checkpoint(model: Any) -> Any:
    """Convert a name that a user gave to one that `from_pretrained` of any class of transformers accepts.

    Args:
        model (*optional*): `None` or `"default"` for the default; another of [`short_names`]; `"owner/name@revision"` for that
            branch, tag or commit, which is downloaded. A folder, a Hub id or a loaded model is returned unchanged.
    """
    if model is not None and not isinstance(model, str | Path):
        return model
    place, options = _located(model, {})
    return str(local_folder(model)) if "revision" in options else place


def local_folder(name: str | os.PathLike[str] | None, files: Sequence[str] = CHECKPOINT_FILES, **hub_options: Any) -> Path:
    """Return the folder of a checkpoint; `files` of a repository on the Hub, names or patterns, are downloaded.

    `name` is any name that [`load_checkpoint`] accepts. Of `hub_options`, `revision`, `token`, `cache_dir` and `local_files_only`
    count. A checkpoint that does not exist is an `OSError`.
    """
    kept = ("revision", "token", "cache_dir", "local_files_only")
    place, options = _located(name, {option: hub_options[option] for option in kept if hub_options.get(option) is not None})
    if Path(place).is_dir():
        return Path(place)
    try:
        return Path(snapshot_download(place, allow_patterns=list(files), **options))
    except (OSError, ValueError, RuntimeError) as error:
        raise explained(name, error) from error


def split_revision(model: str) -> tuple[str, str | None]:
    """Split `"owner/name@revision"` into name and revision; `None` if it names no revision, or a folder has this name."""
    match = None if Path(model).exists() else AT_REVISION.fullmatch(model)
    return (match["name"], match["revision"]) if match else (model, None)


def portable_name(model: Any) -> str:
    """Return the name by which anybody can load a model: its short name, or the folder or Hub id that it was loaded from."""
    name = model.config.checkpoint_name
    if name in students():
        return f"{HUB_OWNER}/{name}"
    return name if name in short_names() else model.config._name_or_path


def _located(name: Any, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the folder or Hub id for a name, and the options with the revision in the name."""
    # No shell expands the `~` of `--model=~/folder` or of a recipe.
    name = "default" if name is None else os.path.expanduser(os.fspath(name))
    if Path(name).is_dir():
        return name, options
    if name in short_names():
        return short_names()[name](), options
    if Path(name).exists():
        raise OSError(
            f"Expected the folder of a checkpoint, got the file {name!r}; name the folder it is in. Weights as their authors "
            "publish them are converted by `hf-sqa convert`."
        )
    place, revision = split_revision(name)
    if not _is_hub_id(place):
        raise OSError(no_such_checkpoint(name))
    return place, options if revision is None else options | {"revision": revision}


def _is_hub_id(name: str) -> bool:
    """Whether a repository can have this name; on the Hub all have an owner."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _shown_names() -> str:
    """List the short names, each model once."""
    return ", ".join(name for name in short_names() if "/" not in name)


def no_such_checkpoint(name: str) -> str:
    """Message for a name that is neither a folder nor a short name."""
    return (
        f"there is no folder {name!r} here, and no model of that name comes with hf_sqa ({_shown_names()}); a repository on "
        f"the Hub is named owner/name{did_you_mean(name.lower(), short_names())}"
    )


def family_of(name: str | os.PathLike[str] | None) -> str:
    """Return the family of a checkpoint, for an adapter that of its base; nothing is downloaded or converted.

    Raises:
        OSError: If the checkpoint, or the base of an adapter, is not on this machine.
        ValueError: If its configuration cannot be read.
    """
    adapters: list[Any] = []
    while name not in adapters:
        if name in (None, "default", DEFAULT_MODEL):
            return DistilledSQAConfig.model_type
        for family, converter in converters().items():
            if name in {published.name for published in converter.published}:
                return family
        folder = local_folder(name, local_files_only=True)
        if (folder / "config.json").is_file() or not (folder / "adapter_config.json").is_file():
            return str(_load_config(str(folder), False, {}).model_type)
        adapters.append(name)
        name = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    raise ValueError(f"The adapter {adapters[0]!r} is the base of itself.")


def _hub_options(options: dict[str, Any]) -> dict[str, Any]:
    names = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
    return {name: options[name] for name in names if options.get(name) is not None}


def is_adapter(name: str | os.PathLike[str] | None) -> bool:
    """Whether a name is that of a LoRA adapter rather than a whole checkpoint."""
    return _adapter_file(*_located(name, {})) is not None


def _adapter_file(place: str, options: dict[str, Any]) -> str | None:
    """Return the path of `adapter_config.json`, `None` if there is none; a whole checkpoint beside it does not matter."""
    return find_adapter_config_file(place, **_hub_options(options))


def _cached(place: str, file: str, options: dict[str, Any]) -> str | None:
    """Return the path of a file of a checkpoint; `None` if it does not exist."""
    return cached_file(
        place,
        file,
        **_hub_options(options),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
    )


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from an untrusted file; raise a `ValueError` if it holds none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a JSON object in {str(path)!r}, got something else ({str(error)[:100]}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"Expected a JSON object in {str(path)!r}, got {type(content).__name__}.")
    return content


def _load_config(place: str, trust_remote_code: bool, options: dict[str, Any]) -> Any:
    """Load the configuration, with one message for any fault in it."""
    file = _cached(place, "config.json", options)
    if file is None and Path(place).is_dir():
        raise OSError(f"Expected a checkpoint in {place!r}, with config.json or adapter_config.json, got neither.")
    family = read_json(file).get("model_type") if file is not None else ""
    if not isinstance(family, str):
        raise ValueError(f"Expected the family's name as `model_type` in config.json of {place!r}, got {family!r}.")
    try:
        return transformers.AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code, **_hub_options(options))
    except OSError:
        raise
    except Exception as error:  # transformers and families raise all kinds of errors for unexpected values
        reason = " ".join(str(error).split())
        if "does not recognize this architecture" in reason or "trust_remote_code" in reason:
            raise
        raise ValueError(f"The configuration of {place!r} cannot be used: {reason[:600]}") from error


def _load_whole(place: str, trust_remote_code: bool, options: dict[str, Any]) -> Any:
    config = options.get("config") or _load_config(place, trust_remote_code, options)
    is_foreign = trust_remote_code and "AutoModel" in (getattr(config, "auto_map", None) or {})
    auto_class = transformers.AutoModel if is_foreign else AutoModelForAudioQuality
    try:
        # Always passed, because transformers would otherwise ask on the terminal whether to run a stranger's code.
        return auto_class.from_pretrained(place, **{**options, "config": config, "trust_remote_code": trust_remote_code})
    except (RuntimeError, TypeError, KeyError, AttributeError, ArithmeticError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The model in {place!r} cannot be built by its configuration ({reason[:300]}).") from error


def _extractor(place: str, options: dict[str, Any], model: Any) -> Any:
    """Return the feature extractor beside the weights, or else the one that the model needs."""
    file = _cached(place, "preprocessor_config.json", options)
    if file is None:
        return model.make_feature_extractor()
    read_json(file)
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(place, **_hub_options(options))
    except OSError:
        raise
    except Exception as error:  # as for the configuration
        reason = " ".join(str(error).split())
        raise ValueError(f"The feature extractor of {place!r} cannot be used: {reason[:300]}") from error
    for name in CODE_ENTRIES:  # saving the extractor would pass them on
        extractor.__dict__.pop(name, None)
    rates = extractor.sampling_rate, model.config.sampling_rate
    if None not in rates and rates[0] != rates[1]:
        raise ValueError(
            f"Expected the feature extractor of {place!r} to work at the rate of the model, {rates[1]} Hz, got {rates[0]!r}; save "
            "it again with `model.make_feature_extractor().save_pretrained(...)`."
        )
    return extractor


def _load_adapter(
    place: str, adapter_file: str, merge: bool, options: dict[str, Any], adapters: tuple[str, ...] = ()
) -> tuple[Any, Any]:
    """Load an adapter on its base, in float32 until the base is known to be the one that the adapter was trained on."""
    if not is_peft_available():
        raise OSError(needs_extra(f"{place!r} is a LoRA adapter, which", "peft"))
    hub_options = _hub_options(options)
    if _cached(place, "adapter_model.safetensors", options) is None:
        raise OSError(
            f"Expected the adapter's weights in adapter_model.safetensors of {place!r}, got none: hf_sqa does not read pickled "
            "weights (adapter_model.bin), which can run code. Ask for a safetensors version."
        )
    base = read_json(adapter_file).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise OSError(f"The adapter {place!r} does not say which model it belongs to (base_model_name_or_path is {base!r}).")
    if place in adapters:
        raise ValueError(f"The adapter {place!r} is the base of itself: {' on '.join((*adapters, place))}.")
    token = {"token": options["token"]} if options.get("token") is not None else {}
    try:
        located, base_options = _located(base, token)
        if located == place or _is_same_folder(located, place):
            model = _load_beside_adapter(place)
        else:
            model, _ = _load(base, True, False, {"dtype": torch.float32, **token}, (*adapters, place))
    except (OSError, ValueError) as error:
        raise OSError(f"The adapter {place!r} belongs to {base!r}, which cannot be loaded: {error}") from error
    _check_base(place, base, model, options)
    dtype = options.get("dtype", "auto")
    try:
        if merge:
            model = _merged(place, model, hub_options)
        else:
            model.load_adapter(place, adapter_kwargs=hub_options)
    except OSError:
        raise
    except Exception as error:  # peft raises all kinds of errors for unexpected options and tensors
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The adapter {place!r} does not fit {base!r}, the base it names ({reason[:300]}): it was trained on another one. Name "
            "the right one as base_model_name_or_path in its adapter_config.json."
        ) from error
    refuse_weights_not_finite(place, model.state_dict())
    if dtype not in (None, "auto"):
        model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    model.config._name_or_path = place
    model.config._commit_hash = extract_commit_hash(str(adapter_file), None)
    model.config.checkpoint_name = None
    has_extractor = _cached(place, "preprocessor_config.json", options) is not None
    return model, _extractor(place, options, model) if has_extractor else _extractor(located, base_options, model)


def _load_beside_adapter(place: str) -> Any:
    """Load the whole checkpoint from the folder of its adapter, which `from_pretrained` would load with it."""
    config = transformers.AutoConfig.from_pretrained(place)
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(Path(place).glob("model*.safetensors")):
        weights |= load_file(file)
    if not weights or config.model_type not in families():
        raise OSError(
            f"Expected the base of the adapter in {place!r} beside it, where the adapter says it is, got no weights there."
        )
    return families()[config.model_type][1].from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)


def _is_same_folder(first: str, second: str) -> bool:
    return Path(first).is_dir() and Path(second).is_dir() and Path(first).samefile(second)


def _check_base(place: str, base: str, model: Any, options: dict[str, Any]) -> None:
    """Refuse a base with other weights than those that the adapter was trained on, if the adapter states them."""
    file = _cached(place, BASE_FILE, options)
    expected = read_json(file).get("weights") if file is not None else None
    if expected is not None and expected != base_digest(model):
        raise ValueError(
            f"Expected the base that the adapter in {place!r} was trained on (weights {expected}), got {base!r} with weights "
            f"{base_digest(model)}: its scores would be plausible and wrong. Put the base back, or use the merged model."
        )


def _merged(place: str, model: Any, hub_options: dict[str, Any]) -> Any:
    import peft

    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
        adapted = peft.PeftModel.from_pretrained(model, place, **hub_options)
    with safe_open(str(cached_file(place, "adapter_model.safetensors", **hub_options)), "pt") as file:
        in_file = set(file.keys())
    in_model = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    refuse_partial_weights(place, missing=in_model - in_file, unexpected=in_file - in_model)
    merged = adapted.merge_and_unload()
    for name, parameter in merged.named_parameters():  # because peft has frozen the base
        parameter.requires_grad_(name in trainable)
    return merged


def base_digest(model: Any) -> str:
    """Return 16 characters that identify the weights of a model: SHA-256 over names and values."""
    return weights_digest(model, with_form=False)


def _open_named(load: Callable[..., Any], name: Any, *arguments: Any, **options: Any) -> Any:
    """Implement `AutoModelForAudioQuality.from_pretrained`; `load` is that of transformers, for a folder or a Hub id."""
    place, options = _located(name, options)
    adapter_file = _adapter_file(place, options) if not arguments else None
    if adapter_file is not None and "adapter_kwargs" not in options:
        return _load_adapter(place, adapter_file, False, options)[0]
    return load(place, *arguments, **options)


AutoModelForAudioQuality.open_named = staticmethod(_open_named)  # type: ignore[assignment]


def explained(model: Any, error: Exception) -> Exception:
    """Add advice to the error of a model that does not load; return the same error if there is none."""
    message = str(error)
    if "See the original errors" in message and (
        causes := re.findall(r"^(?:[\w.]+(?:Error|Exception)): (.*)$", message, re.MULTILINE)
    ):
        message = causes[-1]
        error = OSError(message)
    message = " ".join(message.split())
    if isinstance(error, ValueError) and (
        match := re.search(r"has model type `([^`]+)` but Transformers does not recognize", message)
    ):
        return ValueError(
            f"{model!r} is of the family {match[1]!r}, which neither hf_sqa {__version__} ({', '.join(families())}) nor "
            f"transformers {transformers.__version__} knows. A newer hf_sqa may: `pip install --upgrade hf-sqa`; if another "
            "package has it, import that first; if the repository carries its own code, read it and pass `trust_remote_code=True`."
        )
    if match := re.search(r"Unrecognized configuration class <class '([^']+)'>", message):
        return ValueError(
            f"{model!r} does not score speech: it is a {match[1].rsplit('.', 1)[-1].removesuffix('Config')} model. Expected one "
            f"of the families {', '.join(families())}; `hf-sqa models` lists what is there."
        )
    if "trust_remote_code" in message:
        return ValueError(
            f"{model!r} runs code of its own repository, and hf_sqa {__version__} has no class for it. Read that code; if you "
            f"trust it, pass `trust_remote_code=True`. ({message})"
        )
    name = str(model)
    is_missing = "is not a local folder and is not a valid model identifier" in message
    is_unreachable = "couldn't connect to" in message or isinstance(error, LocalEntryNotFoundError)
    if not (is_missing or is_unreachable) or Path(name).exists():
        return error
    hint = did_you_mean(name.lower(), short_names(), likeness=0.8 if is_unreachable else 0.6)
    if is_unreachable:
        return OSError(f"there is no folder {name!r} here, it is not in the cache, and the Hub cannot be reached{hint} ({message})")
    return OSError(
        f"there is no folder {name!r} here, it is no short name ({_shown_names()}), and no repository on the Hub that you may see; "
        f"a private one needs `hf auth login` or HF_TOKEN{hint}"
    )
