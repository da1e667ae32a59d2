"""Files of other toolkits' `torch.save`, read without running anything they name.

A pickle is a program. What weights need (tensors, plain containers) is built; what a training script left beside them (dates, data
frames, configurations) becomes an `InertRecord`; any other name is refused before it is imported.
"""

from __future__ import annotations

import pickle
import re
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import torch

#: What a file may really build.
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
#: Packages whose objects become inert records, and single names beside them that old pickles need.
INERT = re.compile(
    r"(argparse|datetime|enum|fairseq|hydra|numpy|omegaconf|pandas|pathlib|pytorch_lightning|typing)(\..+)?"
    r"|_codecs\.encode|builtins\.slice|copyreg\._reconstructor"
)


class InertRecord:
    """Stands for an object that is not built, and for whatever is done to it; keeps its attributes, runs none of its code."""

    def __init__(self, *_args: Any, **_kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        """Entries of dict subclasses are dropped."""

    def append(self, value: Any) -> None:
        """Elements of list subclasses are dropped."""

    def extend(self, values: Any) -> None:
        """Elements of list subclasses are dropped."""


class RestrictedUnpickler(pickle.Unpickler):
    """Builds what `ALLOWED` names, makes inert records of what `INERT` matches, refuses the rest."""

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
        raise pickle.UnpicklingError(f"it names {module}.{name}: weights need no such thing, and calling it could do anything")


def read_foreign_checkpoint(path: str | Path) -> Any:
    """Read a file of `torch.save`, in its zip or its older format.

    Args:
        path (`str` or `Path`): The file.

    Returns:
        What was saved; tensors on the CPU, objects of `INERT` packages as `InertRecord`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, is cut short, or names anything else; nothing of it was imported or run.
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
    except Exception as error:  # a corrupt pickle raises any kind
        raise ValueError(
            f"Cannot read {path} as weights ({type(error).__name__}: {error}). Objects named there are neither imported nor run; "
            "use the file as its authors published it, or have them save the tensors alone."
        ) from error
