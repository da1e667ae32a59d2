"""`benchmarks/teacher_heads.py`: the linear head on Whisper's third layer is a teacher like any other."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig

from hf_sqa.blocks.speech_encoder import build_encoder
from hf_sqa.checkpoints import load_checkpoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def heads(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    spec = importlib.util.spec_from_file_location("teacher_heads", BENCHMARKS / "teacher_heads.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "teacher_heads", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STEPS", 40)
    return module


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 4, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 20}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    config = WhisperConfig(**sizes, **tokens, vocab_size=5, max_source_positions=384, decoder_layers=1, decoder_attention_heads=2)
    build_encoder(config).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_a_saved_head_scores_a_window_as_it_did_on_kept_features(heads, encoder, tmp_path):
    features = heads.Features(tmp_path / "features", encoder)
    rng = np.random.default_rng(0)
    windows = [(rng.standard_normal(384 * 320) * rng.uniform(0.01, 1)).astype(np.float32) for _ in range(12)]
    known = {"whisper": np.stack([features.whisper(window) for window in windows]).astype(np.float32)}
    known |= {"v7": np.zeros((12, 4), np.float32), "scores": rng.uniform(1, 5, 12).astype(np.float32)}
    order = known | {"group": np.arange(12) // 2, "rank": np.arange(12.0) % 2, "mos": np.full(12, np.nan, np.float32)}

    head = heads.Head("linear", ("layer",), ranks=0.3).fit(known, order)
    head.save(encoder, tmp_path / "head")

    loaded = load_checkpoint(str(tmp_path / "head"))
    with torch.inference_mode():
        scores = [loaded.model(torch.from_numpy(window)[None]).logits.item() for window in windows]
    assert loaded.model.config.layer == 3
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose(scores, head.scores(known), atol=0.03)  # kept features are of bfloat16, and held in float16
