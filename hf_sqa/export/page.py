"""Writes the page that scores in a browser: its files, and the facts that it needs about the model, in `page.json`."""

import json
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from hf_sqa.blocks import faults, local_quality, timeline
from hf_sqa.blocks.score_intervals import half_widths
from hf_sqa.export.onnx import write_graph
from hf_sqa.modeling import AudioQualityPreTrainedModel
from hf_sqa.pipelines import quality_plot

PAGE_FILES = ("index.html", "page.js", "score.js", "local.js", "faults.js", "course.js", "live.js", "microphone.js", "picture.js")
LOCAL_GRAPH_FILE, FAULT_GRAPH_FILE, FACTS_FILE = "local.onnx", "faults.onnx", "page.json"
#: Coverage of the interval that the page shows: the share of recordings whose rating lies in it.
COVERAGE = 0.9


def write_page(model: AudioQualityPreTrainedModel, folder: str | Path) -> None:
    """Write the page that scores in a browser beside `model.onnx`; docs/onnx.md says how to serve it.

    Args:
        model (`AudioQualityPreTrainedModel`): A DistilledSQA in float32. A head for local quality is written too, as
            `local.onnx`, and the network that finds faults, as `faults.onnx`.
        folder (`str` or `Path`): Output folder; created if missing.

    Raises:
        ValueError: If the model is not a DistilledSQA, or has a `score_mapping`, which the page does not apply.
    """
    if not model.scores_in_browser or model.config.score_mapping:
        what = "one with a `score_mapping`" if model.scores_in_browser else f"a {type(model).__name__}"
        raise ValueError(f"Expected a DistilledSQA without `score_mapping` for the page, got {what}; leave `--page` out.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in PAGE_FILES:
        (folder / name).write_bytes(files("hf_sqa.export.browser").joinpath(name).read_bytes())
    facts = {
        "local": _local(model, folder),
        "faults": _faults(folder),
        "intervals": _intervals(model),
        "categories": quality_plot.CATEGORIES,
    }
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1, allow_nan=False), encoding="utf-8")


def _local(model: AudioQualityPreTrainedModel, folder: Path) -> dict[str, Any]:
    """Return the numbers by which the page computes local quality, from `hf_sqa.blocks.local_quality` and the model's scorer."""
    scorer = model.local_scorer(model.make_feature_extractor())
    found, head = model.local_graph(), None
    (folder / LOCAL_GRAPH_FILE).unlink(missing_ok=True)
    if found is not None:
        graph, cut = found
        head = {"graph": LOCAL_GRAPH_FILE, **cut}
        example = 0.1 * torch.randn(1, 2 * cut["chunk"], generator=torch.Generator().manual_seed(0))
        any_length = ({1: torch.export.Dim.DYNAMIC},)
        write_graph(graph, (example,), folder / LOCAL_GRAPH_FILE, ["input_values"], "steps", any_length, model.onnx_spectrum())
    return {
        "head": head,
        "method": scorer.method,
        "hop_seconds": scorer.hop_seconds,
        "half_seconds": scorer.half_seconds,
        **_constants(local_quality, "SLICE_SECONDS LEVEL_SECONDS ACTIVE_RANGE_DB MAXIMUM_FALLS_DB_PER_SECOND FLOOR_DBFS"),
        **_constants(local_quality, "LEAST_ACTIVE_SHARE"),
        **_constants(timeline, "EDGE_SHARE UNNAMED_DEPTH"),
    }


def _faults(folder: Path) -> dict[str, Any]:
    """Write the graph of the network that names faults; return the numbers of `hf_sqa.blocks.faults` that the page uses."""
    step_samples = faults.FRAME_SAMPLES * faults.FRAMES_PER_STEP
    example = 0.1 * torch.randn(2 * faults.EDGE_STEPS, step_samples, generator=torch.Generator().manual_seed(0))
    any_number = ({0: torch.export.Dim.DYNAMIC},)
    file = folder / FAULT_GRAPH_FILE
    write_graph(faults.FaultGraph().eval(), (example,), file, ["input_values"], "decided", any_number, None)
    return {
        "graph": FAULT_GRAPH_FILE,
        "step_samples": step_samples,
        **_constants(faults, "KINDS SAMPLING_RATE STEP_SECONDS SEGMENT_STEPS EDGE_STEPS SMOOTH_STEPS JOIN_STEPS CERTAIN REACHES"),
    }


def _constants(module: ModuleType, names: str) -> dict[str, Any]:
    """Return constants of a module, which Python uses too, under the names that the page uses."""
    return {name.lower(): getattr(module, name) for name in names.split()}


def _intervals(model: AudioQualityPreTrainedModel) -> dict[str, dict[str, Any]]:
    """Return the half-widths by predicted level for the scores that are calibrated for these weights."""
    try:
        model.check_interval(COVERAGE)
    except ValueError:
        return {}
    return {
        name: {
            "coverage": COVERAGE,
            "levels": calibration["levels"],
            "half_widths": half_widths(calibration["levels"], calibration, COVERAGE).tolist(),
            "ends": [model.config.score_min, model.config.score_max],
        }
        for name, calibration in (model.config.score_intervals or {}).items()
    }
