"""Bundled code: a family's modules as flat files in a checkpoint's folder, so that it works where hf_sqa is not installed.

With `trust_remote_code=True`, transformers copies Python files of a repository and imports them, but only siblings imported as
`from .sibling import name`. Here every module of hf_sqa that a family and the pipeline need becomes such a sibling.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

import hf_sqa
import hf_sqa.models  # registers the families
from hf_sqa.auto import families

PACKAGE = "hf_sqa"
#: Module and class by task. The model page on the Hub shows how to use the second task.
PIPELINES = {
    "audio-quality": ("hf_sqa.pipelines.audio_quality", "AudioQualityPipeline"),
    "audio-classification": ("hf_sqa.pipelines.audio_classification", "QualityAsClassification"),
}
#: Packages that a bundle requires; `numpy` and others are installed with them.
NEEDED = ("torch", "transformers", "soundfile", "soxr")
ALLOWED_IMPORTS = {*NEEDED, "numpy", "huggingface_hub", "safetensors", "packaging", "filelock", *sys.stdlib_module_names}
HEADER = "# Copied from hf_sqa {version}, {module}; Apache-2.0. Change it there: every push overwrites this file.\n"


class BundleError(ValueError):
    """A module cannot be bundled: it imports a package that the user may lack, or imports in a way that cannot be flattened."""


def bundled_sources(model_type: str) -> dict[str, str]:
    """Return the source of every module that a family needs, by file name; the modules import each other as siblings."""
    waiting = [own.__module__ for own in _own_classes(model_type).values()] + [module for module, _ in PIPELINES.values()]
    sources: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        file_name = f"{_flat_name(module)}.py"
        if file_name in sources:
            continue
        source, siblings = _flattened(module)
        sources[file_name] = HEADER.format(version=hf_sqa.__version__, module=module) + source
        waiting += siblings
    return dict(sorted(sources.items()))


def add_code(folder: str | Path) -> list[str]:
    """Write the code of a checkpoint's family beside its weights, refer to it in `config.json`, and return the files written."""
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file() or not (folder / "config.json").is_file():
        raise BundleError(
            "Code is bundled with whole checkpoints, got an adapter: merge it first (`model.merge_and_unload()`), then push that."
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sources = bundled_sources(config["model_type"])
    for name, source in sources.items():
        (folder / name).write_text(source, encoding="utf-8")
    references = {auto: _reference(own.__module__, own.__name__) for auto, own in _own_classes(config["model_type"]).items()}
    extractor = references.pop("AutoFeatureExtractor", None)
    config["auto_map"] = {**references, "AutoModelForAudioClassification": references["AutoModel"]}
    config["custom_pipelines"] = {
        task: {"impl": _reference(module, name), "pt": ["AutoModel"], "type": "audio"} for task, (module, name) in PIPELINES.items()
    }
    write_json(folder / "config.json", config)
    extractor_file = folder / "preprocessor_config.json"
    if extractor is not None and extractor_file.is_file():
        content = json.loads(extractor_file.read_text(encoding="utf-8"))
        write_json(extractor_file, {**content, "auto_map": {"AutoFeatureExtractor": extractor}})
    return list(sources)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def scores_without_hf_sqa(recording: str | Path, *folders: str | Path) -> list[dict[str, float]]:
    """Return unrounded scores of a recording from a process that sees only torch, transformers, soundfile and soxr, not hf_sqa.

    The process loads the checkpoints in the folders, which contain their code, one after the other. Code that does not work there
    is a [`BundleError`], which ends with the reason.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"HF_MODULES_CACHE": cache, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        allowed = json.dumps(sorted(visible_modules()))
        paths = [str(Path(path).resolve()) for path in (recording, *folders)]
        arguments = [sys.executable, "-c", STRANGER, allowed, *paths]
        result = subprocess.run(arguments, capture_output=True, text=True, cwd=cache, env=environment)
    scores = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise BundleError(f"The code in {str(folders[len(scores)])!r} does not work without hf_sqa: {reason}")
    return scores


def visible_modules() -> set[str]:
    """Return the importable names that a user of a bundle has."""
    files = (file for distribution in needed_distributions() for file in distribution.files or ())
    return {file.parts[0].split(".")[0] for file in files if file.suffix in {".py", ".so"}}


def needed_distributions() -> Iterator[importlib.metadata.Distribution]:
    """Yield the packages of `NEEDED` and their requirements without extras, as far as installed."""
    waiting, seen = list(NEEDED), set()
    while waiting:
        package = canonicalize_name(waiting.pop())
        if package in seen:
            continue
        seen.add(package)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            distribution = importlib.metadata.distribution(package)
            required = map(Requirement, distribution.requires or ())
            waiting += [needed.name for needed in required if not needed.marker or needed.marker.evaluate({"extra": ""})]
            yield distribution


#: Code that [`scores_without_hf_sqa`] runs; its finders see only the standard library and allowed packages.
STRANGER = """
import json, sys
from importlib.machinery import PathFinder
allowed = {*json.loads(sys.argv[1]), *sys.stdlib_module_names, "transformers_modules"}
class Stranger(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        root = name.split(".")[0]
        # Names like _sysconfigdata_... belong to the standard library without being listed.
        return PathFinder.find_spec(name, path, target) if root in allowed or root.startswith("_sysconfig") else None
sys.meta_path = [Stranger if finder is PathFinder else finder for finder in sys.meta_path if not hasattr(finder, "MAPPING")]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
try:
    import hf_sqa
    raise SystemExit("hf_sqa can be seen")
except ModuleNotFoundError:
    pass
import torch
from transformers import pipeline
torch.set_num_threads(1)
for folder in sys.argv[3:]:
    score = pipeline("audio-quality", model=folder, trust_remote_code=True, device="cpu", dtype="float32")
    scored = score.forward([score.preprocess(sys.argv[2])])[0]["scores"].scores
    print(json.dumps(dict(zip(score.model.config.score_names, map(float, scored)))))
"""


def _own_classes(model_type: str) -> dict[str, type]:
    """Return a family's own classes, by the Auto class that loads them."""
    config_class, model_class = families()[model_type]
    extractor_class = FEATURE_EXTRACTOR_MAPPING[config_class]
    classes = {"AutoConfig": config_class, "AutoModel": model_class, "AutoFeatureExtractor": extractor_class}
    return {auto: own for auto, own in classes.items() if own.__module__.startswith(PACKAGE)}


def _reference(module: str, name: str) -> str:
    """Return the reference by which transformers finds a module's class among the siblings."""
    return f"{_flat_name(module)}.{name}"


def _flat_name(module: str) -> str:
    parts = module.split(".")[1:]
    return parts[-1] if parts[0] == "models" else "_".join(parts)


def _path(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise BundleError(f"Expected a module of hf_sqa, got {module!r}, which is none.")
    return Path(spec.origin)


def _flattened(module: str) -> tuple[str, list[str]]:
    """Return the source of a module with its imports from hf_sqa turned into sibling imports, and those siblings."""
    source = _path(module).read_text(encoding="utf-8")
    lines, siblings = source.splitlines(keepends=True), []
    for node in sorted(_imports(ast.parse(source)), key=lambda node: -node.lineno):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _check_import(module, alias.name)
            continue
        if node.level:
            raise BundleError(f"{module} imports relatively (line {node.lineno}); name hf_sqa in full.")
        if node.module is None or node.module.split(".")[0] != PACKAGE:
            _check_import(module, str(node.module))
            continue
        indent = " " * node.col_offset
        rewritten = []
        for alias in node.names:
            if (node.module, alias.name) == (PACKAGE, "__version__"):
                rewritten.append(f'{indent}{alias.asname or alias.name} = "{hf_sqa.__version__}"\n')
                continue
            home = _home(node.module, alias.name)
            siblings.append(home)
            suffix = f" as {alias.asname}" if alias.asname else ""
            rewritten.append(f"{indent}from .{_flat_name(home)} import {alias.name}{suffix}\n")
        lines[node.lineno - 1 : node.end_lineno] = rewritten
    return "".join(lines), siblings


def _imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """Return every import that must succeed. Imports inside `try` are left out, because transformers does not check them either."""
    attempts = [statement for node in ast.walk(tree) if isinstance(node, ast.Try) for statement in node.body]
    optional = {id(node) for statement in attempts for node in ast.walk(statement) if isinstance(node, ast.Import)}
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in optional]


def _check_import(module: str, imported: str) -> None:
    root = imported.split(".")[0]
    if root == PACKAGE:
        raise BundleError(f"{module} says `import {imported}`; say `from {imported} import ...`, which can be flattened.")
    if root not in ALLOWED_IMPORTS:
        raise BundleError(
            f"{module} imports {root}, which a user with only {', '.join(NEEDED)} does not have; do without it, or do not bundle."
        )


def _home(module: str, name: str) -> str:
    """Return the module that defines a name: the module itself, or the one that a package's `__init__` imports it from."""
    path = _path(module)
    if path.name != "__init__.py":
        return module
    for node in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and any((a.asname or a.name) == name for a in node.names):
            return _home(node.module, name)
    raise BundleError(f"{module} takes no {name!r} from a module of its own, so it cannot be flattened.")
