"""What `import hf_sqa` does: register families and task with transformers, give publishing to the models, offer names."""

import functools
from pathlib import Path
from typing import Any

import hf_sqa.torchaudio_loads  # noqa: F401  # first: it explains why transformers cannot be imported, if so
from hf_sqa.audio import AudioError as AudioError, load_recording as load_recording
from hf_sqa.auto import AutoModelForAudioQuality as AutoModelForAudioQuality
from hf_sqa.checkpoints import split_revision
from hf_sqa.configuration import AudioQualityConfig as AudioQualityConfig
from hf_sqa.modeling import AudioQualityPreTrainedModel
from hf_sqa.models import *  # noqa: F403
from hf_sqa.outputs import AudioQualityOutput as AudioQualityOutput
from hf_sqa.pipelines import (
    AudioQualityPipeline as AudioQualityPipeline,
    QualityMeter as QualityMeter,
    default_checkpoint as default_checkpoint,
    pipeline as pipeline,
)
from hf_sqa.short_names import shipped_checkpoint


def compare(*sources: Any, **options: Any) -> Any:
    """Which system is better? See [`hf_sqa.scoring.comparison.compare`]."""
    from hf_sqa.scoring.comparison import compare as compare_sources  # readers of corpora are slow to import

    return compare_sources(*sources, **options)


def _publish(model: Any, repo_id: str, **options: Any) -> Any:
    from hf_sqa.hub.publish import publish_model  # the Hub's client and the cards are slow to import

    return publish_model(model, repo_id, **options)


def _add_code(folder: str | Path) -> Any:
    from hf_sqa.hub.bundle import add_code

    return add_code(folder)


AudioQualityPipeline.add_code = staticmethod(_add_code)  # type: ignore[assignment]
AudioQualityPreTrainedModel.publish = staticmethod(_publish)  # type: ignore[assignment]


def _offer_short_names() -> None:
    """Let `pipeline` and `from_pretrained` of transformers find a short name on this machine, where they would ask the Hub.

    transformers has no register of names. All its classes look up files by one function, and commits by one method.
    """
    from transformers.utils import hub

    find_files, make_api = hub.cached_files, hub.hf_api

    @functools.wraps(find_files)
    def cached_files(path_or_repo_id: Any, filenames: list[str], **options: Any) -> Any:
        find_folder = shipped_checkpoint(path_or_repo_id, options.get("revision"))
        if find_folder is not None:
            return find_files(find_folder(), filenames, **options)
        place, revision = split_revision(str(path_or_repo_id))
        return find_files(place, filenames, **options if revision is None else {**options, "revision": revision})

    @functools.wraps(make_api)
    def hf_api() -> Any:
        api = make_api()
        if "resolve_revision" not in vars(api):
            resolve = api.resolve_revision

            @functools.wraps(resolve)
            def resolve_revision(repo_id: str, **options: Any) -> Any:
                if shipped_checkpoint(repo_id, options.get("revision")) is not None:
                    raise LookupError(f"{repo_id} is on this machine.")  # transformers goes on without a commit
                return resolve(repo_id, **options)

            api.resolve_revision = resolve_revision  # type: ignore[method-assign]
        return api

    hub.cached_files = cached_files  # type: ignore[assignment]
    hub.hf_api = hf_api


_offer_short_names()
