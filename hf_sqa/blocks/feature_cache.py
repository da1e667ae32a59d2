"""Features of a frozen speech encoder, computed once a recording and kept in a folder: epochs, seeds and studies share them.

The environment variable `HF_SQA_FEATURE_CACHE` names the folder; without it nothing is kept. A file is found again by the
weights and the configuration of the encoder and by the samples it saw, so that another encoder, a random crop or a changed
recording never gets the features of another. Files are whole or absent; one that cannot be read is computed again.
Shapes:   B batch, T samples, F frames, D hidden size
"""

import hashlib
import json
import os
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_sqa.blocks.speech_encoder import last_hidden_state, takes_spectra
from hf_sqa.runs import whole_file

VARIABLE = "HF_SQA_FEATURE_CACHE"

_digests: WeakKeyDictionary[PreTrainedModel, tuple[tuple[int, ...], str]] = WeakKeyDictionary()


def encoder_features(encoder: PreTrainedModel, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """An encoder's output, from the folder where it is there.

    Kept are the features of an encoder that is in evaluation and has no parameter to train; each recording is then computed
    alone, which changes its features by rounding at most.

    Args:
        encoder (`PreTrainedModel`): From `build_encoder` or `load_encoder`.
        inputs (`torch.Tensor` of shape `(B, T)`): What the encoder sees.
        attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.

    Returns:
        `torch.Tensor` of shape `(B, F, D)`. Frames of padding mean nothing.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder = os.environ.get(VARIABLE)
    keeps = folder and not torch.compiler.is_exporting() and not encoder.training and not takes_spectra(encoder.config)
    if not folder or not keeps or any(parameter.requires_grad for parameter in encoder.parameters()):
        return last_hidden_state(encoder, inputs, attention_mask)
    lengths = [inputs.shape[1]] * len(inputs) if attention_mask is None else attention_mask.sum(dim=1).tolist()
    encoder_folder = Path(folder) / _digest_of(encoder)
    return nn.utils.rnn.pad_sequence(
        [_features_of_one(encoder, row[: int(length)], encoder_folder) for row, length in zip(inputs, lengths, strict=True)],
        batch_first=True,
    )


def _features_of_one(encoder: PreTrainedModel, samples: torch.Tensor, folder: Path) -> torch.Tensor:
    """Features `(F, D)` of one recording `(T,)`."""
    content = samples.detach().cpu().contiguous()
    name = hashlib.sha256(f"{content.dtype} {len(content)} ".encode() + content.view(torch.uint8).numpy().tobytes()).hexdigest()
    path = folder / name[:2] / f"{name[2:32]}.npy"
    try:
        return torch.from_numpy(np.load(path)).to(samples.device, samples.dtype)
    except (OSError, ValueError, EOFError):
        with torch.no_grad():
            features = last_hidden_state(encoder, samples[None])[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, features.float().cpu().numpy())
    return features


def _digest_of(encoder: PreTrainedModel) -> str:
    """Twenty digits that differ where weights, buffers or configuration do, computed again after a tensor has changed."""
    tensors = encoder.state_dict(keep_vars=True)
    versions = tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors.values())
    known = _digests.get(encoder)
    if known is not None and known[0] == versions:
        return known[1]
    configuration = {name: value for name, value in encoder.config.to_dict().items() if name not in NOT_COMPUTED_WITH}
    digest = hashlib.sha256(json.dumps(configuration, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    _digests[encoder] = versions, digest.hexdigest()[:20]
    return _digests[encoder][1]


#: Entries of a configuration that do not change what is computed.
NOT_COMPUTED_WITH = ("_name_or_path", "transformers_version", "dtype", "architectures", "checkpoint_name")
