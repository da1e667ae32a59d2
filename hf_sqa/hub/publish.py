"""Publishing a checkpoint: everything is checked before a byte leaves, then one commit holds all of it."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo, constants
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

import hf_sqa
from hf_sqa.auto import AutoModelForAudioQuality, families
from hf_sqa.checkpoints import short_names
from hf_sqa.hub.bundle import add_code, scores_without_hf_sqa
from hf_sqa.hub.card import CARD_FILE, RECIPE_FILE, RESULT_FILES, make_card, missing_from_card, read_configs
from hf_sqa.pipelines import AudioQualityPipeline, pipeline
from hf_sqa.pipelines.identity import model_identity

SAMPLE_FILE, PARITY_FILE = "sample.flac", "parity.json"
#: What of a folder is published; everything else stays, and is listed.
PUBLISHED = (
    "config.json",
    "preprocessor_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    CARD_FILE,
    RECIPE_FILE,
    *RESULT_FILES,
    "training_result.json",
    "LICENSE*",
    "NOTICE*",
)
#: Weights in formats that can run code when they are opened.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.h5", "*.keras", "*.tar", "*.npy", "*.npz")
#: Pickles that training leaves beside a checkpoint; nobody needs them to score, so they stay without a word of refusal.
TRAINING_LEFTOVERS = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "scaler.*")
#: Files of ours in a repository; those that a new push does not bring are removed by it.
OURS = (*PUBLISHED, *TRAINING_LEFTOVERS, SAMPLE_FILE, PARITY_FILE, "*.py")
#: MOS points between the code that travels and our own: how a product is rounded depends on where weights lie in memory.
CODE_TOLERANCE = 1e-5
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
    """A checkpoint that must not be published as it is, or a Hub that did not take it; says what to do."""


@dataclass
class Publication:
    """What a push did, or, after a dry run, would do.

    Args:
        repo_id (`str`): Where to.
        files (`dict[str, int]`): Bytes of every file that goes, by its name in the repository.
        left_out (`dict[str, str]`): Files of the folder that stay, with the reason.
        removed (`list[str]`): Files that an earlier push left in the repository and this one takes away.
        sample_scores (`dict[str, float]`): Scores of the built-in sample.
        card (`str`): The card as published.
        commit (`str`, *optional*): Commit that holds all of it; `None` after a dry run.
        url (`str`, *optional*): Where to look at it: the repository, or the pull request.
        changed (`bool`): `False` if the repository held all of it already.
    """

    repo_id: str
    files: dict[str, int]
    left_out: dict[str, str]
    sample_scores: dict[str, float]
    card: str
    removed: list[str] = field(default_factory=list)
    commit: str | None = None
    url: str | None = None
    changed: bool = False


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    with_code: bool = False,
    dry_run: bool = False,
    replace: bool = False,
    base_model: str | None = None,
    message: str | None = None,
    token: str | bool | None = None,
    announce: Callable[[str], None] = lambda line: None,
    **card: Any,
) -> Publication:
    """Publish a checkpoint or a LoRA adapter on the Hub, in one commit, after checking it.

    Before a byte leaves: the weights are safetensors, every one of them is loaded, the built-in sample gets a finite score, the
    card is complete and names the licence of the weights apart from that of the code, no file holds a path of this machine or a
    token, an adapter's base can be found by others. Interrupted at any point, the repository is as before or complete; pushing
    again ends in the same state.

    Args:
        folder (`str` or `Path`): The checkpoint; it is not changed.
        repo_id (`str`): `owner/name`.
        private (`bool`, *optional*): Visibility of a new repository.
        revision (`str`, *optional*): Branch to commit to, made from `main` if it is new; `main` if not given.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead.
        with_code (`bool`, *optional*, defaults to `False`): Add the code, so that the model works without hf_sqa, given
            `trust_remote_code=True`.
        dry_run (`bool`, *optional*, defaults to `False`): Check everything and list what would go, without a request that writes.
        replace (`bool`, *optional*, defaults to `False`): Allow a repository that holds a model of another family.
        base_model (`str`, *optional*): Hub id of an adapter's base, where the adapter was trained from a folder.
        message (`str`, *optional*): Title of the commit.
        token (`str`, *optional*): Taken from `hf auth login` or `HF_TOKEN` if not given.
        announce (callable, *optional*): Is told what happens, line by line.
        **card: Options of [`hf_sqa.hub.card.make_card`]: `license`, `languages`, `results`, ...

    Raises:
        PublishError: If a check fails or the Hub refuses; says what was expected and what to do.
        FileNotFoundError: If the folder holds no checkpoint.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"Expected a repository as `owner/name`, got {repo_id!r}: {error}") from None
    if "/" not in repo_id:
        raise PublishError(f"Expected a repository as `owner/name`, got {repo_id!r}; put your user name before it.")
    with staged(folder, repo_id, with_code=with_code, base_model=base_model, announce=announce, **card) as (stage, publication):
        if dry_run:
            return publication
        _upload(HfApi(token=token), stage, publication, private, revision, create_pr, replace, message, announce)
    return publication


def publish_model(model: Any, repo_id: str, *, feature_extractor: Any = None, **options: Any) -> Publication:
    """[`publish`] for a model in memory, with its feature extractor; see there for the options."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / repo_id.rsplit("/", 1)[-1]
        model.save_pretrained(folder)
        (feature_extractor or model.make_feature_extractor()).save_pretrained(folder)
        return publish(folder, repo_id, **options)


@contextmanager
def staged(
    folder: str | Path,
    repo_id: str,
    *,
    with_code: bool = False,
    base_model: str | None = None,
    announce: Callable[[str], None] = lambda line: None,
    **card: Any,
) -> Iterator[tuple[Path, Publication]]:
    """A temporary folder with exactly what would be published, checked; see [`publish`]."""
    folder = Path(folder)
    read_configs(folder)
    going, left_out = _sorted_out(folder)
    if with_code and "adapter_config.json" in going:
        raise PublishError("Code travels with whole checkpoints, got a LoRA adapter: merge it first, then push that.")
    with tempfile.TemporaryDirectory(prefix="hf-sqa-push-") as name:
        stage = Path(name) / folder.resolve().name
        stage.mkdir()
        for file in going:
            # A link, not a copy: weights may be large, and are only read.
            (stage / file).symlink_to((folder / file).resolve()) if file.endswith(".safetensors") else shutil.copy(
                folder / file, stage / file
            )
        adapter = _prepare_configs(stage, base_model)
        announce("loading the weights and scoring the sample")
        scorer = _loaded(stage, adapter)
        if not (stage / "preprocessor_config.json").is_file():
            scorer.model.make_feature_extractor().save_pretrained(stage)
        scores = _sample_scores(scorer)
        identity = model_identity(scorer.model, scorer.feature_extractor, mode=scorer.model.modes[0], hop_seconds=None)
        identity["id"] = repo_id
        (stage / SAMPLE_FILE).write_bytes(_sample())
        _write_parity(stage / PARITY_FILE, scores, identity)
        if with_code:
            announce("adding the code, and scoring the sample without hf_sqa")
            _add_code(stage, scores)
        for file in (RECIPE_FILE, *RESULT_FILES, "training_result.json"):
            if (stage / file).is_file():
                _shorten_paths(stage / file)
        made = make_card(stage, repo_id=repo_id, sample_scores=scores, identity=identity, base_model=base_model, **card)
        made = _with_use_without_us(made, repo_id) if with_code else made
        (stage / CARD_FILE).write_text(re.sub(r"\n{3,}", "\n\n", str(made)).rstrip() + "\n", encoding="utf-8")
        if lacking := missing_from_card(made):
            raise PublishError("The card is not complete; it lacks " + "; ".join(lacking) + ".")
        _refuse_traces(stage, folder)
        sizes = {path.name: path.stat().st_size for path in sorted(stage.iterdir())}
        yield stage, Publication(repo_id, sizes, left_out, scores, str(made))


def _sorted_out(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the files to publish, and those that stay with the reason.

    Raises:
        PublishError: If weights are pickled, or there are none in safetensors.
    """
    going, left_out, pickled = [], {}, []
    is_adapter = (folder / "adapter_config.json").is_file()
    for path in sorted(folder.iterdir()):
        if is_adapter and path.name in {"config.json", "model.safetensors"}:
            left_out[path.name] = "an adapter's base brings it"
        elif path.is_dir():
            left_out[path.name + "/"] = "a folder"
        elif _is_one_of(path.name, PUBLISHED):
            going.append(path.name)
        elif _is_one_of(path.name, TRAINING_LEFTOVERS):
            left_out[path.name] = "state of a training run, pickled"
        elif _is_one_of(path.name, PICKLES):
            pickled.append(path.name)
        else:
            left_out[path.name] = "not part of a checkpoint"
    if pickled:
        raise PublishError(
            f"Expected weights as safetensors only, got {', '.join(pickled)} in {str(folder)!r}: opening such a file can run code. "
            "Load the model and `save_pretrained` it into a new folder, or move the file away."
        )
    if not any(name.endswith(".safetensors") for name in going):
        raise PublishError(f"Expected weights in {str(folder)!r} (model.safetensors or adapter_model.safetensors), got none.")
    return going, left_out


def _prepare_configs(stage: Path, base_model: str | None) -> dict[str, Any] | None:
    """Remove from the configurations what only this machine understands; returns the adapter's, if it is one."""
    if (stage / "config.json").is_file():
        config = _without_local_names(json.loads((stage / "config.json").read_text(encoding="utf-8")))
        config.pop("auto_map", None)
        config.pop("custom_pipelines", None)
        config["hf_sqa_version"] = hf_sqa.__version__
        _write_json(stage / "config.json", config)
    path = stage / "adapter_config.json"
    if not path.is_file():
        return None
    adapter = json.loads(path.read_text(encoding="utf-8"))
    base = base_model or adapter.get("base_model_name_or_path")
    adapter["base_model_name_or_path"] = base
    _check_base(base)
    _write_json(path, adapter)
    return adapter


def _without_local_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_local_names(item) for key, item in value.items() if key != "_name_or_path"}
    return value


def _check_base(base: Any) -> None:
    """Refuse an adapter whose base nobody else could find."""
    advice = "name it with `--base owner/name` (or `base_model=`)"
    if not isinstance(base, str) or not base:
        raise PublishError(f"The adapter does not say which model it belongs to; {advice}.")
    if base in short_names():
        return
    if Path(base).exists() or LOCAL_PATH.search(base) or base.count("/") != 1:
        raise PublishError(f"The adapter belongs to {base!r}, a folder of this machine; push that model first, then {advice}.")
    try:
        HfApi().model_info(base, timeout=20)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise PublishError(f"The adapter belongs to {base!r}, which is not on the Hub or not visible to you; {advice}.") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise PublishError(f"Whether {base!r}, the adapter's base, is on the Hub could not be found out: {_short(error)}") from None


def _loaded(stage: Path, adapter: dict[str, Any] | None) -> AudioQualityPipeline:
    """The pipeline with what is to be published; every weight must come from the files.

    Raises:
        PublishError: If it does not load, or weights are missing, left over or of another shape.
    """
    try:
        if adapter is not None:
            return pipeline(str(stage), device="cpu", dtype="float32")
        model, report = AutoModelForAudioQuality.from_pretrained(stage, output_loading_info=True, dtype="float32")
        wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names and kind.endswith("_keys")}
        if wrong:
            told = "; ".join(f"{kind.removesuffix('_keys')}: {', '.join(names[:3])}" for kind, names in wrong.items())
            raise PublishError(f"The weights do not fit the configuration ({told}); save the model again with `save_pretrained`.")
        extractor = model.make_feature_extractor()
        if (stage / "preprocessor_config.json").is_file():
            extractor = type(extractor).from_pretrained(stage)
        return AudioQualityPipeline(model=model.eval(), feature_extractor=extractor, device=-1)
    except PublishError:
        raise
    except Exception as error:
        raise PublishError(f"The checkpoint does not load: {_short(error)}") from error


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


def _write_parity(path: Path, scores: Mapping[str, float], identity: Mapping[str, Any]) -> None:
    """What the sample scored when it was pushed, so that anyone can check what they pulled."""
    digests = {key: identity[key] for key in ("weights", "preprocessing")}
    _write_json(path, {"recording": SAMPLE_FILE, "scores": dict(scores), "dtype": "float32", "device": "cpu", **digests})


def _add_code(stage: Path, scores: Mapping[str, float]) -> None:
    add_code(stage)
    found = scores_without_hf_sqa(stage, stage / SAMPLE_FILE)
    if found.keys() != scores.keys() or any(abs(found[name] - score) > CODE_TOLERANCE for name, score in scores.items()):
        raise PublishError(f"The code beside the weights scores the sample {found}, hf_sqa {dict(scores)}: report this.")


def _with_use_without_us(card: ModelCard, repo_id: str) -> ModelCard:
    """The card's section on use, with how it works where hf_sqa is not installed."""
    block = (
        "\nWithout `hf_sqa`, from the code in this repository (read it first; `pip install torch transformers soundfile soxr`):\n\n"
        f'```python\nfrom transformers import pipeline\n\nscore = pipeline("audio-quality", model="{repo_id}", '
        'trust_remote_code=True)\nprint(score("recording.wav"))\n```\n'
    )
    end = "<!-- /hf-sqa:use -->"
    if end in card.text and "trust_remote_code=True" not in card.text:
        card.text = card.text.replace(end, block + end, 1)
    return card


def _shorten_paths(path: Path) -> None:
    """Keep of every path only its last part; recipes name folders, and a stranger has others."""
    text = path.read_text(encoding="utf-8")
    shortened = LOCAL_PATH.sub(lambda match: re.split(r"[/\\]", match.group().rstrip("/\\"))[-1], text)
    if shortened != text:
        yaml.safe_load(shortened)  # JSON is YAML: still well-formed
        path.write_text(shortened, encoding="utf-8")


def _refuse_traces(stage: Path, folder: Path) -> None:
    """Refuse paths of this machine, and tokens, in any text that is to be published."""
    places = {str(folder.resolve().parent), str(Path.home()), str(Path.cwd())} - {"/"}
    here = re.compile("|".join(rf"(?<![\w.:/-]){re.escape(place)}(?![\w-])" for place in sorted(places)) or r"(?!)")
    for path in sorted(stage.iterdir()):
        if path.suffix not in TEXT_SUFFIXES:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if TOKEN.search(line):
                raise PublishError(f"{path.name}, line {number}, holds what looks like a token of the Hub; remove and revoke it.")
            if found := LOCAL_PATH.search(line) or here.search(line):
                raise PublishError(
                    f"{path.name}, line {number}, names a path of this machine: {found.group()!r}; remove it, it helps nobody else."
                )


def _upload(
    api: HfApi,
    stage: Path,
    publication: Publication,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    replace: bool,
    message: str | None,
    announce: Callable[[str], None],
) -> None:
    repo_id = publication.repo_id
    with explained(repo_id, revision):
        info = _repository(api, repo_id, create_pr, replace)
        if info is None:
            announce(f"creating {repo_id}")
            api.create_repo(repo_id, private=private, exist_ok=True)
            info = api.model_info(repo_id)
        elif private is not None and bool(info.private) != private:
            shown = "private" if info.private else "public"
            raise PublishError(f"{repo_id} is {shown} already; change that in its settings, or leave out --private/--public.")
        if revision and not create_pr and not _has_branch(api, repo_id, revision):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        branch = revision or constants.DEFAULT_REVISION
        parent = api.model_info(repo_id, revision=branch)
        _refuse_pickles(parent, repo_id)
        there = [sibling.rfilename for sibling in parent.siblings or []]
        publication.removed = _stale(there, list(publication.files))
        operations = [CommitOperationAdd(name, stage / name) for name in publication.files]
        deletions = [CommitOperationDelete(name) for name in publication.removed]
        announce(f"uploading {len(operations)} files, {_size(sum(publication.files.values()))}")
        made = api.create_commit(
            repo_id,
            [*operations, *deletions],
            commit_message=message or f"Publish with hf_sqa {hf_sqa.__version__}",
            revision=branch,
            create_pr=create_pr,
            parent_commit=parent.sha,
        )
    publication.commit = made.oid
    publication.changed = made.oid != parent.sha
    publication.url = made.pr_url or f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")


def _repository(api: HfApi, repo_id: str, create_pr: bool, replace: bool) -> ModelInfo | None:
    """The repository, if it exists and is fit to take the model."""
    api.whoami()  # a wrong token is told from a missing repository only here
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        if create_pr:
            raise PublishError(f"{repo_id} does not exist: a pull request needs a repository; leave out --create-pr.") from None
        return None
    model_type = (info.config or {}).get("model_type")
    if model_type and model_type not in families() and not replace:
        raise PublishError(
            f"The name {repo_id} is taken by a model of type {model_type!r}; choose another, or pass --replace to overwrite it."
        )
    return info


def _has_branch(api: HfApi, repo_id: str, revision: str) -> bool:
    return any(branch.name == revision for branch in api.list_repo_refs(repo_id).branches)


def _refuse_pickles(info: ModelInfo, repo_id: str) -> None:
    names = [one.rfilename for one in info.siblings or []]
    pickled = [name for name in names if _is_one_of(name, PICKLES) and not _is_one_of(name, TRAINING_LEFTOVERS)]
    if pickled:
        raise PublishError(
            f"{repo_id} holds {', '.join(pickled)}: opening such a file can run code. Delete it "
            f"(`hf repos delete-files {repo_id} {pickled[0]}`), or choose another name."
        )


def _stale(there: Sequence[str], coming: Sequence[str]) -> list[str]:
    """Files of an earlier push that this one does not bring: other shards, code, the adapter's format."""
    return [name for name in there if name not in coming and _is_one_of(name, OURS) and "/" not in name]


def _is_one_of(name: str, patterns: Sequence[str]) -> bool:
    return any(Path(name).match(pattern) for pattern in patterns)


@contextmanager
def explained(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the Hub's client raises into a [`PublishError`] that says what to do."""
    login = "log in with `hf auth login`, or set HF_TOKEN to a token with the right to write"
    try:
        try:
            yield
        except RuntimeError as error:  # how the client wraps what happened to one of many uploads
            raise error.__cause__ or error from None
    except PublishError:
        raise
    except LocalTokenNotFoundError:
        raise PublishError(f"Publishing needs a token; {login}.") from None
    except OfflineModeIsEnabled:
        raise PublishError("Publishing needs the network, and HF_HUB_OFFLINE is set; unset it.") from None
    except RevisionNotFoundError:
        raise PublishError(f"{repo_id} has no revision {revision!r}; name a branch.") from None
    except RepositoryNotFoundError:
        raise PublishError(f"{repo_id} does not exist, or your token may not see it; {login}.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        told = _short(error.server_message or error)
        advice = {
            401: f"The Hub does not accept the token; {login}",
            403: f"The token may not write to {repo_id}: choose a name of your own, or a token with the right to write",
            402: "Your account has no room left on the Hub: free some, or push to a public repository",
            409: "The name is taken, or another push is under way: look at the repository, then push again",
            412: "Somebody pushed in the meantime; nothing was changed. Look at it, then push again",
            413: "The Hub refuses the size of a file: push smaller shards (`max_shard_size`), or a smaller model",
            429: "The Hub asks to wait: too many requests; push again in some minutes",
        }.get(status or 0, "Push again: what was uploaded is not uploaded twice")
        if isinstance(error, BadRequestError):
            advice = "The Hub refuses what was sent"
        raise PublishError(f"{advice}. (HTTP {status}: {told})") from None
    except ValueError as error:
        raise PublishError(f"The Hub refuses what was sent: {_short(error)}") from None
    except (OSError, RuntimeError) as error:
        raise PublishError(
            f"The Hub cannot be reached ({_short(error)}); nothing is half done: push again when the network is back."
        ) from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in {"httpx", "httpx2", "httpcore2"}:
            raise
        raise PublishError(
            f"The Hub cannot be reached ({_short(error)}); nothing is half done: push again when the network is back."
        ) from None


def _short(error: Any) -> str:
    """An error on one line, without tokens."""
    return TOKEN.sub("hf_***", " ".join(str(error).split()))[:400]


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
