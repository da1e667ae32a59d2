"""Scores by an ONNX graph, without torch and transformers: NumPy, soundfile, soxr and onnxruntime are all it needs."""

from hf_sqa.audio import AudioError
from hf_sqa.lite.scorer import LitePipeline, pipeline

__all__ = ["AudioError", "LitePipeline", "pipeline"]
