"""Studies: a grid of models, seeds and test sets from one file, and its figures."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_sqa.studies.grid import MakeJob, read_results, run_study
    from hf_sqa.studies.study_file import Study, load_study

_MODULES = {
    "MakeJob": "grid",
    "Study": "study_file",
    "load_study": "study_file",
    "read_results": "grid",
    "run_study": "grid",
}
__all__ = ["MakeJob", "Study", "load_study", "read_results", "run_study"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"hf_sqa.studies.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hf_sqa.studies' has no attribute {name!r}")
