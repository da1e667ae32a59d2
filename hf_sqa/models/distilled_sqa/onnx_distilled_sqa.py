"""DistilledSQA whose network is an ONNX graph; the same code checks, cuts and averages recordings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from hf_sqa.blocks.local_quality import HOP_SECONDS, LocalScorer
from hf_sqa.blocks.sqa_transformer import LayerTrace
from hf_sqa.checkpoint_files import GRAPH_FILE
from hf_sqa.extras import import_extra
from hf_sqa.modeling import AudioQualityPreTrainedModel
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import DistilledSQAConfig
from hf_sqa.models.distilled_sqa.modeling_distilled_sqa import DistilledSQA


class OnnxDistilledSQA(DistilledSQA):
    """DistilledSQA with a graph of `hf-sqa export onnx` instead of layers, run by onnxruntime on the CPU with torch's thread count.

    It only scores, and has no weights to train. The bytes of the graph, `model.onnx`, are a buffer, so that the identity of a
    score covers them.
    """

    modes = ("published",)

    graph: torch.Tensor

    def __init__(self, config: DistilledSQAConfig, graph: bytes):
        AudioQualityPreTrainedModel.__init__(self, config)
        self.register_buffer("graph", torch.frombuffer(bytearray(graph), dtype=torch.uint8))
        self._session: Any = None

    @classmethod
    def from_folder(cls, folder: str | Path, graph: str = GRAPH_FILE) -> OnnxDistilledSQA:
        """Load the graph of this name, and `config.json`, from a folder.

        Raises:
            OSError: If there is no such graph, onnxruntime is not installed, or it cannot run the graph.
            ValueError: If the graph was exported with a configuration other than the one beside it.
        """
        import_extra("onnxruntime", f"{str(folder)!r} is an ONNX graph, which", "onnx", error=OSError)
        file = Path(folder) / graph
        if not file.is_file():
            raise OSError(f"Expected an ONNX graph {str(file)!r}, got none; `hf-sqa export onnx {folder} --model ...` writes it.")
        model = cls(DistilledSQAConfig.from_pretrained(folder), file.read_bytes())
        try:
            num_scores = model.score_windows(torch.zeros(1, 1)).shape[-1]
        except Exception as error:  # onnxruntime's errors have no common class
            reason = " ".join(str(error).split())[:300]
            raise OSError(f"onnxruntime cannot run {str(file)!r}: {reason}") from error
        made_for = model._session.get_modelmeta().custom_metadata_map.get("hf_sqa_form")
        if made_for not in (None, model.config.graph_metadata["hf_sqa_form"]) or num_scores != len(model.config.score_names):
            raise ValueError(
                f"Expected config.json in {str(folder)!r} to be the one that {graph} was exported with, got another: its "
                "scores would be wrong. Export the model again."
            )
        return model.eval()

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the graph and its configuration."""
        self.config.save_pretrained(save_directory)
        (Path(save_directory) / GRAPH_FILE).write_bytes(self.graph.numpy().tobytes())

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def has_weights(self, digest: str) -> bool:
        """Return `True`: the calibration beside a graph is that of the model it was exported from."""
        return True

    def score_windows(self, windows: torch.Tensor, trace: LayerTrace | None = None) -> torch.Tensor:
        """Score windows `(W, T)`; as [`DistilledSQA.score_windows`]."""
        if trace is not None and trace.keeps_any:
            raise ValueError(
                "Expected the weights of the model for what its layers give, got an ONNX graph: it returns scores alone."
            )
        windows = F.pad(windows.float(), (0, self.config.window_samples - windows.shape[1]))
        if self._session is None:
            self._session = _session(self.graph.numpy().tobytes())
        return torch.from_numpy(self._session.run(["logits"], {"input_values": windows.numpy()})[0])

    @contextmanager
    def keep_frames(self) -> Iterator[dict[int, Any]]:
        """Keep nothing: the graph does not return frames."""
        yield {}

    @property
    def bfloat16_error(self) -> None:
        """Unknown, because the precision of a graph is fixed."""

    def local_scorer(
        self, feature_extractor: Any, hop_seconds: float = HOP_SECONDS, sampling_rate: int | None = None
    ) -> LocalScorer:
        """Return a scorer by pieces, because the graph does not return what it computes on the way."""
        return AudioQualityPreTrainedModel.local_scorer(self, feature_extractor, hop_seconds)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # a session cannot be sent to another process


def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised anyway
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
