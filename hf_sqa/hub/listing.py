"""List models: inside PyPI packages, convertible from authors' files, in the cache, on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, scan_cache_dir
from huggingface_hub.errors import CacheNotFound, HfHubHTTPError, OfflineModeIsEnabled

from hf_sqa.auto import families
from hf_sqa.checkpoint_files import CARD_FILE
from hf_sqa.checkpoints import read_json
from hf_sqa.hub.card import TAGS
from hf_sqa.models.distilled_sqa.convert_distilled_sqa import PUBLISHED, WHEEL
from hf_sqa.short_names import DEFAULT_MODEL, published_checkpoints, students
from hf_sqa.wheels import Wheel


@dataclass(frozen=True)
class ListedModel:
    """A model that `--model` takes."""

    name: str
    where: str  # `shipped`, `cached` or `hub`
    scores: str = ""  # separated by spaces; empty if unknown without loading it
    license: str = ""  # of the weights
    note: str = ""


def shipped_models() -> Iterator[ListedModel]:
    """Yield models inside this and other PyPI packages; those of other packages are converted on first use."""
    there = PUBLISHED.is_here
    yield ListedModel(DEFAULT_MODEL, "shipped", "mos", "mit", f"the default; {_at_hand(there, WHEEL)}")
    for name, folder in students().items():
        yield ListedModel(name, "shipped", "mos", _license(folder), f"student of {DEFAULT_MODEL}; installed")
    for published, _ in published_checkpoints():
        scores, license_ = " ".join(published.scores), published.wheel.license.lower()
        yield ListedModel(published.name, "shipped", scores, license_, _at_hand(published.is_here, published.wheel))


def _at_hand(is_here: bool, wheel: Wheel) -> str:
    return "on this machine" if is_here else f"fetched when first used, {wheel.megabytes} MB"


def cached_models() -> Iterator[ListedModel]:
    """Yield checkpoints of our families, and their adapters, in the Hugging Face cache."""
    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda repo: repo.repo_id)
    except CacheNotFound:
        return
    for repository in repositories:
        if repository.repo_type != "model":
            continue
        for revision in sorted(repository.revisions, key=lambda revision: -revision.last_modified):
            config = _config(revision.snapshot_path)
            if config.get("model_type") not in families():
                continue
            refs = ", ".join(sorted(revision.refs)) or "no branch"
            scores = " ".join(str(name) for name in config.get("id2label", {}).values())
            yield ListedModel(
                repository.repo_id, "cached", scores, _license(revision.snapshot_path), f"{revision.commit_hash[:7]} ({refs})"
            )


def hub_models() -> Iterator[ListedModel]:
    """Yield models on the Hub with our tag, most downloaded first; an `OSError` says that the Hub cannot be reached."""
    try:
        found = list(HfApi().list_models(filter=TAGS[0], sort="downloads", limit=100, full=True))
    except (HfHubHTTPError, OfflineModeIsEnabled):
        raise
    except Exception as error:
        raise OSError(f"The Hub cannot be reached: {' '.join(str(error).split())}") from None
    for model in found:
        licence = next((tag.removeprefix("license:") for tag in model.tags or [] if tag.startswith("license:")), "")
        licence = licence or (str(model.card_data.get("license") or "") if model.card_data else "")
        yield ListedModel(model.id, "hub", "", licence, f"{(model.sha or '')[:7]}{', private' if model.private else ''}")


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}


def _license(folder: Path) -> str:
    try:
        return str(ModelCard((folder / CARD_FILE).read_text(encoding="utf-8")).data.get("license") or "")
    except (OSError, ValueError):
        return ""
