"""Read files that other toolkits wrote by `torch.save`, without running anything they name.

A pickle is a program. What weights need (tensors, plain containers) is built; what a training script left beside them (dates, data
frames, configurations) becomes an `InertRecord`; any other name is refused before it is imported.
"""

import pickle
import re
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

#: Objects that a file may really build.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
} | {("builtins", kind.__name__): kind for kind in (dict, list, set, frozenset, tuple, int, float, complex, bool, str, bytes)}
STORAGES = {
    f"{kind}Storage": getattr(torch, f"{kind}Storage") for kind in ("Float", "Double", "Half", "Long", "Int", "Byte", "Bool")
}
#: Packages whose objects become inert records, and single names that old pickles need as well.
INERT = re.compile(
    r"(argparse|datetime|enum|fairseq|hydra|numpy|omegaconf|pandas|pathlib|pytorch_lightning|typing)(\..+)?"
    r"|_codecs\.encode|builtins\.slice|copyreg\._reconstructor"
)


class InertRecord:
    """Stand-in for an object that is not built: it accepts what is done to the object, keeps attributes, runs no code of it."""

    def __init__(self, *_args: Any, **_kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop the entry of a dict subclass."""

    def append(self, value: Any) -> None:
        """Drop the element of a list subclass."""

    def extend(self, values: Any) -> None:
        """Drop the elements of a list subclass."""


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that builds what `ALLOWED` names, makes inert records of what `INERT` matches, and refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        # Protocol 2 writes the names of Python 2.
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        name = "int" if (module, name) == ("builtins", "long") else name
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if INERT.fullmatch(f"{module}.{name}"):
            return InertRecord
        raise pickle.UnpicklingError(f"it names {module}.{name}: weights do not need it, and calling it could run any code")


def read_foreign_checkpoint(path: str | Path) -> Any:
    """Read a file of `torch.save`, in its zip or its older format; objects of `INERT` packages become an `InertRecord`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, is truncated, or names anything else; nothing in it is imported or run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint file, found none at {path}.")
    if tarfile.is_tarfile(path):
        raise ValueError(
            f"Expected a file of `torch.save` at {path}, got a tar archive; pass what is inside it. (NISQA's published `.tar` "
            "files are no archives: pass them as they come.)"
        )
    if zipfile.is_zipfile(path) and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        raise ValueError(f"Expected tensors in {path}, got a TorchScript program, which is not run; convert a plain checkpoint.")
    restricted = types.SimpleNamespace(
        Unpickler=RestrictedUnpickler,
        load=lambda file, **kwargs: RestrictedUnpickler(file, **kwargs).load(),
        UnpicklingError=pickle.UnpicklingError,
        __name__="restricted_pickle",
    )
    try:
        return torch.load(path, map_location="cpu", pickle_module=restricted, weights_only=False)
    except Exception as error:  # a corrupt pickle may raise any exception
        raise ValueError(
            f"Cannot read {path} as weights ({type(error).__name__}: {error}). Objects named there are neither imported nor run; "
            "use the file as its authors published it, or have them save the tensors alone."
        ) from error


def tensors_of(content: Any, path: Path, entry: str | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by name; its content is such a dict, or has it as `entry`."""
    nested = f", or one with such a dict as the entry {entry!r}," if entry else ""
    tensors = content.get(entry, content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(
            f"Expected a dict of tensors{nested} in {path}, got other things ({type(content).__name__}): this is no model "
            "checkpoint."
        )
    return tensors


def renamed(name: str, prefixes: Mapping[str, str]) -> str:
    """Return the name with the first prefix that matches replaced; unchanged if none matches."""
    ours = next((ours for ours in prefixes if name.startswith(ours)), "")
    return prefixes.get(ours, "") + name.removeprefix(ours)


def converted_tensors(
    original: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    source_of: Callable[[str], str],
    what: str,
    layout: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, tensor: tensor,
    may_stay: Callable[[str], Any] = lambda source: False,
) -> dict[str, torch.Tensor]:
    """Return the tensors `original` of a foreign checkpoint under our names, in place of those in `expected`.

    `source_of` gives the checkpoint's name for one of ours, and `layout` the tensor in our layout. A tensor that is missing, of
    another shape, or left over without `may_stay`, is refused by name, as not being `what` the file should hold.
    """
    converted, used = {}, set()
    for name, ours in expected.items():
        source = source_of(name)
        if source not in original:
            raise ValueError(f"The checkpoint lacks the tensor {source!r}: this is not {what}.")
        used.add(source)
        try:
            tensor = layout(name, original[source])
        except (RuntimeError, IndexError, AttributeError):  # the shape cannot be right
            tensor = original[source]
        if not isinstance(tensor, torch.Tensor) or tensor.shape != ours.shape:
            got = tuple(getattr(original[source], "shape", ())) or type(original[source]).__name__
            raise ValueError(f"Expected {source!r} to give shape {tuple(ours.shape)}, got {got}: this is not {what}.")
        converted[name] = tensor.to(ours.dtype, copy=True, memory_format=torch.contiguous_format)
    if unknown := sorted(name for name in original if name not in used and not may_stay(name)):
        raise ValueError(f"Unknown tensors in the checkpoint: {', '.join(unknown[:5])}; expected those of {what} only.")
    return converted


def published_name(name: str) -> str:
    """Return the name that a tensor of [`SQATransformer`] has in the state dicts of XLS-R-SQA and Distill-MOS.

    There, queries, keys and values are one tensor, `self_attn.in_proj_weight` or `_bias`, with the rows in this order.
    """
    if not name.startswith("layers."):
        return renamed(name, PUBLISHED_NAMES)
    _, index, rest = name.split(".", 2)
    return f"transformer.transformer_encoder.layers.{index}.{renamed(rest, PUBLISHED_LAYER_NAMES)}"


def split_in_proj(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the rows of a published `in_proj` for queries, keys or values if `name` is one of them; else the whole tensor."""
    is_part = ".self_attn." in name and "out_proj" not in name
    return tensor.chunk(3)["qkv".index(name.split(".")[-2][0])] if is_part else tensor


#: Prefixes of names here and in the published state dicts, within a transformer and within one of its layers.
PUBLISHED_NAMES = {
    "feature_norm.": "norm_input.",
    "projection_norm.": "transformer.norm.",
    "projection.": "transformer.linear_proj.",
    "positions.table": "transformer.position_encoding.pe",
    "pooling_norm.": "norm_trans.",
    "pooling.attention_hidden.": "pool.linear1.",
    "pooling.attention_score.": "pool.linear2.",
    "pooling.score_head.": "pool.linear3.",
}
PUBLISHED_LAYER_NAMES = {
    **dict.fromkeys(("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."), "self_attn.in_proj_"),
    **{"self_attn_norm.": "norm1.", "fc1.": "linear1.", "fc2.": "linear2.", "fc_norm.": "norm2."},
}
