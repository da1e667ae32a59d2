"""Convert UTMOS weights, as published by SpeechMOS and by the authors, to a model.

Nothing of fairseq, Lightning or omegaconf is imported, and nothing in a checkpoint is executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Wav2Vec2Config

from hf_sqa.blocks.fairseq_encoder import fairseq_name, infer_encoder
from hf_sqa.blocks.foreign_checkpoint import converted_tensors, read_foreign_checkpoint, renamed, tensors_of
from hf_sqa.blocks.speech_encoder import WAV2VEC2_BASE, check_encoder_options
from hf_sqa.models.utmos.configuration_utmos import UTMOSConfig
from hf_sqa.models.utmos.modeling_utmos import UTMOS

#: What `convert` accepts, for `hf-sqa convert --list`.
READS = (
    "utmos22_strong_step7459_v1.pt: UTMOS22's strong learner as published by SpeechMOS (MIT)",
    "*.ckpt: a checkpoint of the authors' code, without phoneme encoder",
)
#: Attention heads of wav2vec 2.0 base, on which the strong learner is built. No tensor shows their number.
NUM_HEADS = 12
#: Domain and listener for which the authors' Space scores, in the original's tables.
DOMAIN_ID, JUDGE_ID = 0, 288
#: From names in the authors' checkpoint to those in SpeechMOS's file.
LIGHTNING_NAMES = {
    "feature_extractors.0.ssl_model.": "wav2vec2.",
    "feature_extractors.1.embedding.weight": "domain_emb",
    "output_layers.0.judge_embedding.weight": "judge_emb",
    "output_layers.0.decoder_rnn.": "blstm.",
    "output_layers.1.net.0.": "projection.0.",
    "output_layers.1.net.3.": "projection.2.",
}
#: From our names of the layers after the encoder to those in SpeechMOS's file.
HEAD_NAMES = {
    "domain_embedding.weight": "domain_emb",
    "judge_embedding.weight": "judge_emb",
    "lstm_projection.weight": "projection.0.weight",
    "lstm_projection.bias": "projection.0.bias",
    "score_head.weight": "projection.2.weight",
    "score_head.bias": "projection.2.bias",
}
#: Sizes by option of the configuration: the table and its dimension.
SIZES = {
    **{"num_domains": ("domain_emb", 0), "domain_size": ("domain_emb", 1)},
    **{"num_judges": ("judge_emb", 0), "judge_size": ("judge_emb", 1)},
    **{"lstm_hidden_size": ("blstm.weight_hh_l0", 1), "projection_size": ("projection.0.weight", 0)},
}
#: Vector that replaces masked frames in pre-training.
UNUSED = {"wav2vec2.mask_emb"}


def convert(checkpoint: str | Path, encoder_config: dict[str, Any] | None = None) -> UTMOS:
    """Build the model from a published file; sizes are read from its tensors.

    SpeechMOS's file holds one domain and one listener, already looked up; the authors' checkpoint holds all of them.

    Args:
        checkpoint (`str` or `Path`): The file.
        encoder_config (`dict`, *optional*): Values of the encoder's configuration that override those of wav2vec 2.0 base.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it needs a transcription (phoneme encoder), holds objects that are refused, or a tensor is missing, unknown
            or of another shape, which the message names.
    """
    path = Path(checkpoint)
    tensors, ids = _tensors(read_foreign_checkpoint(path), path)
    encoder = {name.removeprefix("wav2vec2."): tensor for name, tensor in tensors.items() if name.startswith("wav2vec2.")}
    values = infer_encoder(encoder, heads_known=True) | WAV2VEC2_BASE | {"num_attention_heads": NUM_HEADS}
    check_encoder_options(Wav2Vec2Config(), encoder_config or {})
    values |= encoder_config or {}
    config = UTMOSConfig(encoder_config=values, **_sizes(tensors), **ids, checkpoint_name=path.stem)
    model = UTMOS(config)
    model.load_state_dict(convert_state_dict(tensors, model))
    return model.eval()


def convert_state_dict(original: dict[str, torch.Tensor], model: UTMOS) -> dict[str, torch.Tensor]:
    """Return the tensors with SpeechMOS's names under our names; see [`converted_tensors`]."""
    grouped = model.config.encoder_config.feat_extract_norm == "group"

    def source_of(name: str) -> str:
        if name.startswith("encoder."):
            return "wav2vec2." + fairseq_name(name.removeprefix("encoder."), grouped)
        return HEAD_NAMES.get(name) or f"b{name}"  # the LSTM

    return converted_tensors(original, model.state_dict(), source_of, "UTMOS's strong learner", may_stay=UNUSED.__contains__)


def _tensors(content: Any, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Return the tensors by SpeechMOS's names, and the domain and listener to score for."""
    state = tensors_of(content, path, "state_dict")
    if state is content:
        return state, {"domain_id": 0, "judge_id": 0}
    if "feature_extractors.1.encoder.weight_ih_l0" in state:
        raise ValueError(
            f"Expected a strong learner without phoneme encoder, got one with it in {path}: it needs a transcription of every "
            "recording. The authors' Space and SpeechMOS publish the one without."
        )
    tensors = {renamed(name, LIGHTNING_NAMES): tensor for name, tensor in state.items()}
    return tensors, {"domain_id": DOMAIN_ID, "judge_id": JUDGE_ID}


def _sizes(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Return the sizes of the layers after the encoder, from the shapes of tensors."""
    for name, _ in SIZES.values():
        if name not in tensors or tensors[name].dim() != 2:
            raise ValueError(f"The checkpoint lacks the table {name!r}: expected a strong learner of UTMOS22.")
    return {option: tensors[name].shape[dim] for option, (name, dim) in SIZES.items()}
