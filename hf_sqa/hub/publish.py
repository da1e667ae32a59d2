"""Publish a checkpoint: everything is checked before anything is sent, and one commit holds all of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, constants
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
from rich.filesize import decimal

import hf_sqa
from hf_sqa.auto import families
from hf_sqa.checkpoint_files import COPIED, HUB_GRAPHS, PICKLES, TRAINING_LEFTOVERS, is_one_of
from hf_sqa.hub.card import SAMPLE_FILE
from hf_sqa.hub.card_facts import CardFacts
from hf_sqa.hub.staging import PARITY_FILE, Publication, PublishError, on_one_line, staged

__all__ = ["Publication", "PublishError", "publish", "publish_model"]

#: HTTP libraries that the Hub client may use; their errors have no common base class.
HTTP_CLIENTS = {"httpx", "httpx2", "httpcore2"}
#: Files in a repository that are ours; a new push removes those that it does not replace.
OURS = (*COPIED, *HUB_GRAPHS, *TRAINING_LEFTOVERS, SAMPLE_FILE, PARITY_FILE, "*.py")


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    with_code: bool | None = None,
    with_handler: bool = False,
    dry_run: bool = False,
    replace: bool = False,
    base_model: str | None = None,
    message: str | None = None,
    token: str | bool | None = None,
    announce: Callable[[str], None] = lambda line: None,
    **card: Any,
) -> Publication:
    """Publish a checkpoint, an ONNX graph or a LoRA adapter on the Hub, in one commit, after checking it.

    Nothing is sent unless the weights are safetensors and all of them load, the built-in sample gets a finite score, the card is
    complete and names the licence of the weights apart from that of the code, no file holds a path of this machine or a token, and
    others can find an adapter's base. If the push is interrupted, the repository is unchanged or complete; push again.

    Args:
        folder (`str` or `Path`): The checkpoint's folder, or another name for it, see
            [`~hf_sqa.checkpoints.load_checkpoint`]; it is not changed.
        repo_id (`str`): `owner/name`.
        private (`bool`, *optional*): Visibility of a new repository.
        revision (`str`, *optional*): Branch to commit to, created from `main` if it is new; `main` if not given.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead.
        with_code (`bool`, *optional*): Whether to add the code, so that the model works without hf_sqa, with
            `trust_remote_code=True`. By default it is added to whole checkpoints, not to adapters and graphs.
        with_handler (`bool`, *optional*, defaults to `False`): Add `handler.py` for Inference Endpoints.
        dry_run (`bool`, *optional*, defaults to `False`): Check everything and list what would be published; send nothing.
        replace (`bool`, *optional*, defaults to `False`): Overwrite a repository that holds a model of another library.
        base_model (`str`, *optional*): Hub id of an adapter's base, if the adapter was trained from a folder.
        message (`str`, *optional*): Title of the commit.
        token (`str`, *optional*): Taken from `hf auth login` or `HF_TOKEN` if not given.
        announce (callable, *optional*): Called with a line for every step.
        **card: Fields of [`~hf_sqa.hub.card_facts.CardFacts`]: `license`, `languages`, `results`, ...

    Raises:
        PublishError: If a check fails or the Hub refuses; the message says what was expected and what to do.
        FileNotFoundError: If the folder holds no checkpoint.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"Expected a repository as `owner/name`, got {repo_id!r}: {error}") from None
    if "/" not in repo_id:
        raise PublishError(f"Expected a repository as `owner/name`, got {repo_id!r}; put your user name in front.")
    facts = CardFacts(base_model=base_model, **card)
    staging = staged(folder, repo_id, facts, with_code=with_code, with_handler=with_handler, announce=announce)
    with staging as (stage, publication), explained(repo_id, revision):
        if dry_run:
            return publication
        api = HfApi(token=token)
        info = _repository(api, repo_id, create_pr, replace)
        if info is None:
            announce(f"creating {repo_id}")
            api.create_repo(repo_id, private=private, exist_ok=True)
        elif private is not None and bool(info.private) != private:
            shown = "private" if info.private else "public"
            raise PublishError(f"{repo_id} is {shown} already; change that in its settings, or leave out --private/--public.")
        branch = revision or constants.DEFAULT_REVISION
        if not create_pr and revision and revision not in {known.name for known in api.list_repo_refs(repo_id).branches}:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        parent = api.model_info(repo_id, revision=branch)
        there = [sibling.rfilename for sibling in parent.siblings or []]
        _refuse_pickles(there, repo_id)
        publication.removed = _stale(there, list(publication.files))
        announce(f"uploading {len(publication.files)} files, {decimal(sum(publication.files.values()))}")
        made = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, stage / name) for name in publication.files),
                *(CommitOperationDelete(name) for name in publication.removed),
            ],
            commit_message=message or f"Publish with hf_sqa {hf_sqa.__version__}",
            revision=branch,
            create_pr=create_pr,
            parent_commit=parent.sha,
        )
        publication.commit = made.oid
        publication.changed = made.oid != parent.sha
        publication.url = made.pr_url or f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")
    return publication


def publish_model(model: Any, repo_id: str, *, feature_extractor: Any = None, **options: Any) -> Publication:
    """Publish a model in memory with its feature extractor; see [`publish`] for the options."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / repo_id.rsplit("/", 1)[-1]
        model.save_pretrained(folder)
        (feature_extractor or model.make_feature_extractor()).save_pretrained(folder)
        return publish(folder, repo_id, **options)


def _repository(api: HfApi, repo_id: str, create_pr: bool, replace: bool) -> ModelInfo | None:
    """Return the repository if it exists; refuse one that must not take the model."""
    api.whoami()  # only this call distinguishes a wrong token from a missing repository
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


def _refuse_pickles(names: Sequence[str], repo_id: str) -> None:
    pickled = [name for name in names if is_one_of(name, PICKLES) and not is_one_of(name, TRAINING_LEFTOVERS)]
    if pickled:
        raise PublishError(
            f"{repo_id} holds {', '.join(pickled)}: opening such a file can run code. Delete it "
            f"(`hf repos delete-files {repo_id} {pickled[0]}`), or choose another name."
        )


def _stale(there: Sequence[str], coming: Sequence[str]) -> list[str]:
    """Return files of an earlier push that this one does not replace: other shards, code, the adapter's format."""
    return [name for name in there if name not in coming and is_one_of(name, OURS) and ("/" not in name or name in HUB_GRAPHS)]


@contextmanager
def explained(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn errors of the Hub client into a [`PublishError`] that says what to do."""
    login = "log in with `hf auth login`, or set HF_TOKEN to a token with the right to write"
    try:
        try:
            yield
        except RuntimeError as error:  # the client wraps the failure of one of many uploads
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
        reason = on_one_line(error.server_message or error)
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
        raise PublishError(f"{advice}. (HTTP {status}: {reason})") from None
    except ValueError as error:
        raise PublishError(f"The Hub refuses what was sent: {on_one_line(error)}") from None
    except Exception as error:
        if not isinstance(error, OSError | RuntimeError) and type(error).__module__.split(".")[0] not in HTTP_CLIENTS:
            raise
        raise PublishError(
            f"The Hub cannot be reached ({on_one_line(error)}); nothing is half done: push again when the network is back."
        ) from None
