"""Convert authors' checkpoints to folders that `from_pretrained` loads: checked, and written whole or not at all."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import hf_sqa.models  # noqa: F401  # registers the families
from hf_sqa.audio import load_recording
from hf_sqa.auto import AutoModelForAudioQuality, converters
from hf_sqa.choices import did_you_mean
from hf_sqa.runs import whole_folder

#: Largest difference of a score before and after saving, in label units.
TOLERANCE = 1e-5


@dataclass
class Conversion:
    """The result of a conversion: folder, class and number of parameters of the model, and scores of the built-in sample."""

    folder: Path
    model: str
    checkpoint_name: str | None
    num_weights: int
    sample_scores: dict[str, float]


def readable_checkpoints() -> dict[str, tuple[str, ...]]:
    """Return the families that have a converter, with what each converter reads."""
    return {family: converter.reads for family, converter in converters().items()}


def convert_checkpoint(
    family: str,
    checkpoint: str | Path | None,
    folder: str | Path,
    *,
    encoder: str | Path | None = None,
    encoder_config: str | Path | None = None,
) -> Conversion:
    """Convert an authors' checkpoint, verify it on a sample, and write it into a new folder.

    `family` is one of [`readable_checkpoints`], `checkpoint` the authors' file or a name that its converter knows, by default the
    converter's own. For checkpoints that hold only a head, `encoder` is the folder or Hub id of the speech encoder, and the JSON
    file `encoder_config` describes it if the tensors do not.

    Raises:
        ValueError: If the family or an option is unknown, the folder is in use, or a tensor does not match (it is named).
        FileNotFoundError: If the checkpoint, or the package that holds it, is missing.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"Expected a new or an empty folder, got {str(folder)!r}, which is in use; choose another name.")
    if family not in (known := converters()):
        hint = did_you_mean(family, known, otherwise=f"; expected one of {', '.join(known)}.")
        raise ValueError(f"There is no converter for {family!r}{hint}")
    convert = known[family].convert
    arguments = _arguments(family, convert, checkpoint, {"encoder": encoder, "encoder_config": encoder_config})
    try:
        model = convert(**arguments).eval()
    except (AttributeError, IndexError, KeyError, TypeError, RuntimeError) as error:  # errors of converters on unexpected content
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Expected a checkpoint that the converter of {family!r} reads (`hf-sqa convert --list`), got "
            f"{checkpoint or 'published'!r} ({type(error).__name__}: {reason})."
        ) from error
    if not model.scores_waveforms:
        raise ValueError(
            f"The checkpoint of {family!r} holds no speech encoder, without which it cannot score a recording; name the folder or "
            "Hub id of the one that made its features by `--encoder`."
        )
    extractor = model.make_feature_extractor()
    before = _sample_scores(model, extractor)
    if not np.isfinite(list(before.values())).all():
        raise ValueError(f"The converted model scores the built-in sample {before}: the checkpoint's weights are damaged.")

    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        extractor.save_pretrained(unfinished)
        after = _sample_scores(AutoModelForAudioQuality.from_pretrained(unfinished).eval(), extractor)
        # Scores are not bit-identical, because rounding depends on where weights lie in memory.
        if any(abs(after[name] - score) > TOLERANCE for name, score in before.items()):
            raise ValueError(f"The saved model scores the built-in sample {after}, the converted one {before}: report this.")
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    return Conversion(folder, type(model).__name__, model.config.checkpoint_name, num_weights, before)


def _arguments(family: str, convert: Callable[..., Any], checkpoint: str | Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for a family's `convert`. An option that it does not have is refused, not ignored."""
    parameters = inspect.signature(convert).parameters
    given = {option: value for option, value in options.items() if value is not None}
    if unknown := given.keys() - parameters:
        raise ValueError(f"The converter of {family!r} takes no --{min(unknown).replace('_', '-')}: its checkpoints need none.")
    if "encoder_config" in given:
        given["encoder_config"] = json.loads(Path(given["encoder_config"]).read_text(encoding="utf-8"))
    first = next(iter(parameters.values()))
    if checkpoint is None and first.default is inspect.Parameter.empty:
        raise ValueError(f"The converter of {family!r} needs a checkpoint file: `hf-sqa convert {family} <file> <folder>`.")
    return given if checkpoint is None else {**given, first.name: checkpoint}


def _sample_scores(model: Any, extractor: Any) -> dict[str, float]:
    sample = files("hf_sqa").joinpath("assets/sample.flac").read_bytes()
    recording = load_recording(sample, sampling_rate=model.config.sampling_rate)
    scores = model.score_recordings([recording], extractor)[0].scores
    return {name: float(score) for name, score in zip(model.config.score_names, scores, strict=True)}
