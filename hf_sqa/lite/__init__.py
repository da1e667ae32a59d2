"""Scores with an ONNX graph, without torch and transformers; needs only NumPy, soundfile, soxr and onnxruntime."""

from hf_sqa.audio import AudioError
from hf_sqa.lite.scorer import LitePipeline, pipeline

__all__ = ["AudioError", "LitePipeline", "pipeline"]
