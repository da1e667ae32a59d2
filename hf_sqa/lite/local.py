"""Where a recording sounds bad, without torch: by the graphs that `hf-sqa export onnx --page` writes beside the model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.blocks.local_steps import StepCut, StepScorer

FACTS_FILE = "page.json"


class GraphScorer(StepScorer):
    """Local quality by the graph of a head.

    Args:
        session: Of onnxruntime, for `local.onnx`.
        score_windows (callable): Windows `(1, num_samples)` to scores `(1, num_labels)`.
        facts (`dict`): `local` of `page.json`.
        sampling_rate (`int`): Of the samples, in Hz.
    """

    def __init__(self, session: Any, score_windows: Callable[[np.ndarray], np.ndarray], facts: dict[str, Any], sampling_rate: int):
        super().__init__(StepCut.of_settings(facts["head"]), sampling_rate, facts["hop_seconds"])
        self._session, self._score_windows = session, score_windows

    def score_steps(self, samples: np.ndarray) -> np.ndarray:
        return self._session.run(["steps"], {"input_values": samples[None]})[0].T

    def score_window(self, samples: np.ndarray) -> float:
        return float(self._score_windows(samples[None])[0, 0])


def local_facts(folder: Path) -> dict[str, Any] | None:
    """`local` of `page.json`, if there is one, and a graph for local quality."""
    file = folder / FACTS_FILE
    facts = json.loads(file.read_text(encoding="utf-8")).get("local", {}) if file.is_file() else {}
    head = facts.get("head")
    return facts if head and (folder / head["graph"]).is_file() else None
