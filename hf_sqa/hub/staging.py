"""The checks before a push: a temporary folder with exactly what would be published, or a [`PublishError`]."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

import hf_sqa
from hf_sqa.checkpoint_files import CARD_FILE, GRAPH_FILE, HUB_GRAPHS, RECORDS, checkpoint_files, graph_files
from hf_sqa.checkpoints import load_checkpoint, local_folder, split_revision
from hf_sqa.configuration import CODE_ENTRIES
from hf_sqa.hub import endpoint_handler
from hf_sqa.hub.bundle import BundleError, add_code, scores_without_hf_sqa, write_json
from hf_sqa.hub.card import SAMPLE_FILE, make_card, missing_from_card, tidy
from hf_sqa.hub.card_facts import CardFacts, read_configs
from hf_sqa.modeling import model_identity
from hf_sqa.models.distilled_sqa.onnx_distilled_sqa import OnnxDistilledSQA
from hf_sqa.options import parse_yaml
from hf_sqa.pipelines import AudioQualityPipeline
from hf_sqa.short_names import short_names

PARITY_FILE = "parity.json"
HANDLER_FILE = "handler.py"
#: Largest difference, in MOS points, of bundled code from our own; rounding depends on where weights lie in memory.
CODE_TOLERANCE = 1e-5
#: Largest difference of a graph, which may compute in 8 bits, from the weights.
GRAPH_TOLERANCE = 0.1
#: Note in the configuration of a checkpoint without its code.
PACKAGE_NEEDED = "pip install hf-sqa; then `import hf_sqa` makes this model known to transformers"
TEXT_SUFFIXES = {".json", ".yaml", ".yml", ".md", ".txt", ".csv", ""}
ROOTS = (
    "home|root|Users|mnt|media|tmp|var|opt|srv|data|datasets|work|workspace|scratch|gpfs|nfs|lustre|private|content|kaggle|storage"
)
LOCAL_PATH = re.compile(
    rf"(?<![\w.:/<-])(?:/(?:{ROOTS})/[^\s\"'`<>)\]]+|~/[^\s\"'`<>)\]]+|(?:\.\./)+[^\s\"'`<>)\]]+|[A-Za-z]:\\[^\s\"'`<>)\]]+"
    r"|file://[^\s\"'`<>)\]]+)"
)
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")


class PublishError(ValueError):
    """A check failed, or the Hub refused the checkpoint; the message says what to do."""


@dataclass
class Publication:
    """The result of a push or, after a dry run, what a push would do."""

    repo_id: str  # The repository
    files: dict[str, int]  # Size of every published file in bytes, by its name in the repository
    left_out: dict[str, str]  # Unpublished files of the folder, with the reason
    sample_scores: dict[str, float]  # Scores of the built-in sample
    card: str  # The card as published
    removed: list[str] = field(default_factory=list)  # Files of an earlier push that this one deletes from the repository
    commit: str | None = None  # The commit; `None` after a dry run
    url: str | None = None  # Address of the repository or the pull request
    changed: bool = False  # `False` if the repository already held everything


@contextmanager
def staged(
    folder: str | Path,
    repo_id: str,
    facts: CardFacts,
    *,
    with_code: bool | None = None,
    with_handler: bool = False,
    announce: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[Path, Publication]]:
    """Yield a temporary, checked folder with exactly what would be published; see [`~hf_sqa.hub.publish.publish`]."""
    folder = Path(folder) if isinstance(folder, Path) else local_folder(folder)
    config, adapter = read_configs(folder)
    try:
        published, left_out = checkpoint_files(folder)
    except ValueError as error:
        raise PublishError(str(error)) from None
    if config.get("model_type") != OnnxDistilledSQA.config_class.model_type or adapter is not None:
        left_out |= dict.fromkeys(graph_files(folder), "only graphs of a whole DistilledSQA score recordings")
        published = [name for name in published if name not in left_out]
    has_weights = any(name.endswith(".safetensors") for name in published)
    if with_code and (adapter is not None or not has_weights):
        what = "a graph, which runs without it" if adapter is None else "a LoRA adapter: merge it first, then push that"
        raise PublishError(f"Code is bundled with whole checkpoints, got {what}.")
    with_code = has_weights and adapter is None if with_code is None else with_code
    with tempfile.TemporaryDirectory(prefix="hf-sqa-push-") as name:
        stage = Path(name) / folder.resolve().name
        stage.mkdir()
        _fill(stage, folder, published)
        _prepare_configs(stage, facts.base_model, with_code)
        announce("loading the weights and scoring the sample")
        scorer = _scorer(stage, None if has_weights else graph_files(stage)[0])
        if not (stage / "preprocessor_config.json").is_file():
            scorer.model.make_feature_extractor().save_pretrained(stage)
        scores = _sample_scores(scorer)
        for graph in graph_files(stage):
            found = _sample_scores(_scorer(stage, graph))
            if not all(abs(found[name] - score) <= GRAPH_TOLERANCE for name, score in scores.items()):
                raise PublishError(
                    f"The graph {graph} scores the sample {found}, what lies beside it {scores}: export it again from "
                    "these weights."
                )
        identity = model_identity(scorer.model, scorer.feature_extractor, mode=scorer.model.modes[0], hop_seconds=None)
        identity["id"] = repo_id
        (stage / SAMPLE_FILE).write_bytes(_sample())
        parity = {"recording": SAMPLE_FILE, "scores": scores, "dtype": "float32", "device": "cpu"}
        write_json(stage / PARITY_FILE, parity | {key: identity[key] for key in ("weights", "preprocessing")})
        for file in RECORDS:
            if (stage / file).is_file():
                _shorten_paths(stage / file)
        made = make_card(stage, replace(facts, repo_id=repo_id, sample_scores=scores, identity=identity, with_code=with_code))
        (stage / CARD_FILE).write_text(tidy(made), encoding="utf-8")
        if lacking := missing_from_card(made):
            raise PublishError("The card is not complete; it lacks " + "; ".join(lacking) + ".")
        if with_code:  # last, because it takes seconds
            announce("adding the code, and scoring the sample without hf_sqa")
            _add_code(stage, scores)
        if with_handler:
            (stage / HANDLER_FILE).write_bytes(Path(endpoint_handler.__file__).read_bytes())
            (stage / "requirements.txt").write_text("soundfile\nsoxr\n" if with_code else "hf-sqa\n", encoding="utf-8")
        _refuse_traces(stage, folder)
        sizes = {path.relative_to(stage).as_posix(): path.stat().st_size for path in _files_of(stage)}
        yield stage, Publication(repo_id, sizes, left_out, scores, str(made))


def _fill(stage: Path, folder: Path, published: list[str]) -> None:
    """Copy what is published. Weights and graphs, which may be large and are only read, become links.

    A graph `model.onnx` gets the name by which other tools find it, which depends on its precision.
    """
    for file in published:
        if not file.endswith((".safetensors", ".onnx")):
            shutil.copy(folder / file, stage / file)
            continue
        place = stage / file
        if file == GRAPH_FILE:
            is_narrow = b"MatMulInteger" in (folder / file).read_bytes()  # the operation that computes in 8 bits
            place = stage / HUB_GRAPHS[is_narrow]
        if place.exists():
            raise PublishError(f"Expected one graph of a precision in {str(folder)!r}, got {file} and another one; remove one.")
        place.parent.mkdir(exist_ok=True)
        place.symlink_to((folder / file).resolve())


def _files_of(stage: Path) -> list[Path]:
    return sorted(path for path in stage.rglob("*") if path.is_file())


def _prepare_configs(stage: Path, base_model: str | None, with_code: bool) -> None:
    """Remove entries that only make sense on this machine, and code of an earlier push, from the configurations."""
    for file in ("config.json", "preprocessor_config.json"):
        if (stage / file).is_file():
            text = (stage / file).read_text(encoding="utf-8")
            config = json.loads(
                text, object_pairs_hook=lambda pairs: {key: value for key, value in pairs if key != "_name_or_path"}
            )
            config = {key: value for key, value in config.items() if key not in CODE_ENTRIES}
            if file == "config.json":
                config["hf_sqa_version"] = hf_sqa.__version__
                config |= {} if with_code else {"hf_sqa_needed": PACKAGE_NEEDED}
            write_json(stage / file, config)
    path = stage / "adapter_config.json"
    if not path.is_file():
        return
    adapter = json.loads(path.read_text(encoding="utf-8"))
    base = base_model or adapter.get("base_model_name_or_path")
    adapter["base_model_name_or_path"] = base
    _check_base(base)
    write_json(path, adapter)


def _check_base(base: Any) -> None:
    """Refuse an adapter if nobody else could find its base."""
    advice = "name it with `--base owner/name` (or `base_model=`)"
    if not isinstance(base, str) or not base:
        raise PublishError(f"The adapter does not say which model it belongs to; {advice}.")
    if base in short_names():
        return
    if Path(base).exists() or LOCAL_PATH.search(base) or split_revision(base)[0].count("/") != 1:
        raise PublishError(f"The adapter belongs to {base!r}, a folder of this machine; push that model first, then {advice}.")
    try:
        repository, revision = split_revision(base)
        HfApi().model_info(repository, revision=revision, timeout=20)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise PublishError(f"The adapter belongs to {base!r}, which is not on the Hub or not visible to you; {advice}.") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise PublishError(f"Could not check whether {base!r}, the adapter's base, is on the Hub: {on_one_line(error)}") from None


def _scorer(stage: Path, graph: str | None = None) -> AudioQualityPipeline:
    """Return a pipeline with the checkpoint to publish, whose weights must all come from the files, or with one of its graphs."""
    try:
        if graph is None:
            loaded = load_checkpoint(stage, dtype="float32")
            return AudioQualityPipeline(model=loaded.model, feature_extractor=loaded.feature_extractor, device=-1)
        model = OnnxDistilledSQA.from_folder(stage, graph)
        return AudioQualityPipeline(model=model, feature_extractor=model.make_feature_extractor(), device=-1)
    except Exception as error:
        what = "checkpoint" if graph is None else f"graph {graph}"
        raise PublishError(f"The {what} does not load: {on_one_line(error).replace(str(stage), stage.name)}") from error


def _sample() -> bytes:
    return files("hf_sqa").joinpath("assets/sample.flac").read_bytes()


def _sample_scores(scorer: AudioQualityPipeline) -> dict[str, float]:
    scored = scorer.forward([scorer.preprocess(_sample())])[0]
    if scored.get("error"):
        raise PublishError(f"The model cannot score the built-in sample: {scored['error']}")
    scores = {name: float(score) for name, score in zip(scorer.model.config.score_names, scored["scores"].scores, strict=True)}
    if not np.isfinite(list(scores.values())).all():
        raise PublishError(f"The model scores the built-in sample {scores}: its weights are damaged.")
    return scores


def _add_code(stage: Path, scores: Mapping[str, float]) -> None:
    try:
        add_code(stage)
        (bundled,) = scores_without_hf_sqa(stage / SAMPLE_FILE, stage)
    except BundleError as error:
        raise PublishError(
            f"The code cannot travel with this checkpoint: {error} Push `--without-code` (`with_code=False`); who uses "
            "it then needs hf_sqa."
        ) from error
    _refuse_other_scores(bundled, scores)


def _refuse_other_scores(bundled: Mapping[str, float], scores: Mapping[str, float]) -> None:
    """Refuse bundled code whose scores differ by more than rounding."""
    if bundled.keys() != scores.keys() or not all(abs(bundled[name] - score) <= CODE_TOLERANCE for name, score in scores.items()):
        raise PublishError(f"The code beside the weights scores the sample {bundled}, hf_sqa {dict(scores)}: report this.")


def _shorten_paths(path: Path) -> None:
    """Shorten every path to its last part, because folders of this machine mean nothing elsewhere."""
    text = path.read_text(encoding="utf-8")
    shortened = LOCAL_PATH.sub(lambda match: re.split(r"[/\\]", match.group().rstrip("/\\"))[-1], text)
    if shortened != text:
        parse_yaml(shortened, path.name)  # check that it is still well-formed; JSON is YAML too
        path.write_text(shortened, encoding="utf-8")


def _refuse_traces(stage: Path, folder: Path) -> None:
    """Refuse paths of this machine and tokens in any text to be published."""
    places = {str(folder.resolve().parent), str(Path.home()), str(Path.cwd())} - {"/"}
    here = re.compile("|".join(rf"(?<![\w.:/-]){re.escape(place)}(?![\w-])" for place in sorted(places)) or r"(?!)")
    for path in _files_of(stage):
        if path.suffix not in TEXT_SUFFIXES:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if TOKEN.search(line):
                raise PublishError(f"{path.name}, line {number}, holds what looks like a token of the Hub; remove and revoke it.")
            if found := LOCAL_PATH.search(line) or here.search(line):
                raise PublishError(
                    f"{path.name}, line {number}, names a path of this machine: {found.group()!r}; remove it: nobody else has it."
                )


def on_one_line(error: Any) -> str:
    """Return an error on one line, with tokens masked."""
    return TOKEN.sub("hf_***", " ".join(str(error).split()))[:400]
