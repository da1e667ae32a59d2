"""Features of a frozen speech encoder, computed once per recording and kept in a folder: epochs, seeds and studies share them.

A recipe names the folder as `training.feature_cache`; outside training, the environment variable `HF_SQA_FEATURE_CACHE` does.
Without either, nothing is kept. Files are named after the encoder's weights and configuration, the layers, the precision, and the
samples, so that another encoder, a random crop or a changed recording never gets wrong features. Files are complete or absent;
one that cannot be read is computed again. A full folder takes no more files, and features that it lacks are computed as usual.
Shapes:   B batch, T samples, F frames, D hidden size, L layers
"""

import contextlib
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_sqa.blocks.speech_encoder import all_layers, last_hidden_state, takes_spectra
from hf_sqa.runs import whole_file

VARIABLE = "HF_SQA_FEATURE_CACHE"
#: Largest number of bytes in a folder by default.
MAX_BYTES = 50 * 10**9

_digests: WeakKeyDictionary[PreTrainedModel, tuple[tuple[int, ...], str]] = WeakKeyDictionary()


class FeatureFolder:
    """A folder that holds at most `max_bytes` of features; it is created when the first features are kept.

    Several processes may share it; each counts the bytes present when it began and those that it adds. `num_read` and
    `num_computed` count the recordings whose features were found and those whose features were computed.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES):
        self.path, self.max_bytes = path, max_bytes
        self.num_bytes = sum(file.stat().st_size for file in path.rglob("*.npy"))
        self.num_read = self.num_computed = 0
        self._is_full = False

    def read(self, name: str) -> np.ndarray | None:
        """Return the features with that name; `None` if there are none or they cannot be read."""
        try:
            features: np.ndarray = np.load(self.path / name)
        except (OSError, ValueError, EOFError):
            return None
        self.num_read += 1
        return features

    def keep(self, name: str, features: np.ndarray) -> None:
        """Write features, unless the folder is full."""
        self.num_computed += 1
        if self.num_bytes + features.nbytes > self.max_bytes:
            if not self._is_full:
                warnings.warn(
                    f"The feature cache {str(self.path)!r} is full ({self.num_bytes / 1e9:.3g} of {self.max_bytes / 1e9:.3g} GB): "
                    "further features are computed anew in every epoch. Allow more by `training.feature_cache_gb`.",
                    UserWarning,
                    stacklevel=2,
                )
            self._is_full = True
            return
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, features)
        self.num_bytes += features.nbytes


#: The folder in use, and those that the environment variable named.
_in_use: list[FeatureFolder | None] = []
_of_environment = functools.cache(FeatureFolder)


@contextlib.contextmanager
def kept_features(path: Path | None, max_bytes: int = MAX_BYTES) -> Iterator[FeatureFolder | None]:
    """Keep features of frozen encoders in this folder within the block, whatever the environment variable names.

    `None` keeps nothing, so that every encoder computes its features: for code that watches the layers.
    """
    folder = None if path is None else FeatureFolder(path, max_bytes)
    _in_use.append(folder)
    try:
        yield folder
    finally:
        _in_use.pop()


def encoder_features(
    encoder: PreTrainedModel, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None, layers: Sequence[int] | None = None
) -> list[torch.Tensor]:
    """Return some layers of an encoder, `(B, F, D)` each, or only its own output if none are named, from the folder if there.

    Features are kept if the encoder is in evaluation mode and has no trainable parameter; each recording is then computed alone,
    which changes its features by rounding at most. Frames of padding are meaningless.
    """
    folder = _folder_for(encoder)
    if folder is None:
        return _computed(encoder, inputs, attention_mask, layers)
    lengths = [inputs.shape[1]] * len(inputs) if attention_mask is None else attention_mask.sum(dim=1).tolist()
    rows = [_features_of_one(encoder, row[: int(length)], layers, folder) for row, length in zip(inputs, lengths, strict=True)]
    return list(nn.utils.rnn.pad_sequence(rows, batch_first=True).permute(2, 0, 1, 3))


def _computed(
    encoder: PreTrainedModel, inputs: torch.Tensor, attention_mask: torch.Tensor | None, layers: Sequence[int] | None
) -> list[torch.Tensor]:
    if layers is None:
        return [last_hidden_state(encoder, inputs, attention_mask)]
    hidden_states = all_layers(encoder, inputs, attention_mask)
    return [hidden_states[layer] for layer in layers]


def _folder_for(encoder: PreTrainedModel) -> FeatureFolder | None:
    """Return the folder for the features of an encoder; `None` if they must not be kept."""
    folder, named = _in_use[-1] if _in_use else None, os.environ.get(VARIABLE)
    if not _in_use and named:
        folder = _of_environment(Path(named))
    if folder is None or torch.compiler.is_exporting() or encoder.training or takes_spectra(encoder.config):
        return None
    return None if any(parameter.requires_grad for parameter in encoder.parameters()) else folder


def _features_of_one(
    encoder: PreTrainedModel, samples: torch.Tensor, layers: Sequence[int] | None, folder: FeatureFolder
) -> torch.Tensor:
    """Return the features `(F, L, D)` of one recording `(T,)`; L is 1 for the encoder's own output."""
    content = samples.detach().cpu().contiguous()
    device = samples.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else encoder.dtype
    described = f"{content.dtype} {len(content)} {layers and tuple(layers)} {precision} ".encode()
    digest = hashlib.sha256(described + content.view(torch.uint8).numpy().tobytes()).hexdigest()
    name = f"{_digest_of(encoder)}/{digest[:2]}/{digest[2:32]}.npy"
    kept = folder.read(name)
    if kept is None:
        with torch.no_grad():
            computed = torch.cat(_computed(encoder, samples[None], None, layers), dim=2)
        kept = computed[0].float().cpu().numpy()  # (F, L * D)
        folder.keep(name, kept)
    return torch.from_numpy(kept).unflatten(1, (len(layers or [None]), -1)).to(samples.device, samples.dtype)


def _digest_of(encoder: PreTrainedModel) -> str:
    """Return a 20-digit digest of weights, buffers and configuration, computed again after a tensor has changed."""
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


#: Entries of a configuration that do not affect the features.
NOT_COMPUTED_WITH = ("_name_or_path", "transformers_version", "dtype", "architectures", "checkpoint_name")
