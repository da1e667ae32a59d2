"""The cross-domain trunk of MOSA-Net and MTQ-Net, their task heads and their loss.

Paper:    Zezario et al., "Deep Learning-Based Non-Intrusive Multi-Objective Speech Assessment Model With Cross-Domain Features",
          IEEE/ACM TASLP 31, 2023, arXiv:2111.02363
Code:     https://github.com/dhimasryan/MOSA-Net-Cross-Domain, MOSA-Net_Cross_Domain.py, SincNet.py, Generate_PS_Feature.py
Differs:  any batch, where the original takes one recording at a time: every row is computed as if it were alone, with its own
          length in the padding of the spectra, of every convolution and of the recurrence, in the attention and in the mean.
          The attention's scalar bias is left out: it adds the same number to every logit of a softmax and changes no score.
Shapes:   B batch, T samples, F frames, K frequency bins (and filters), C channels, D hidden size, L labels
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from hf_sqa.blocks.feature_cache import encoder_features
from hf_sqa.blocks.sincnet import SINC_EDGES, sinc_filters
from hf_sqa.blocks.speech_encoder import (
    FINE_TUNING_OPTIONS,
    build_encoder,
    check_encoder_config,
    check_layer,
    freeze_idle_parameters,
    is_quality_model,
    load_encoder,
    load_encoder_config,
    min_num_samples,
    num_frames_of,
    num_frames_of_quality_model,
    output_size,
    pads_safely,
    published_sampling_rate,
    takes_spectra,
)

SCORE_ACTIVATIONS = ("linear", "sigmoid")
#: What the encoder sees: the waveform divided by its peak, as it is, or with zero mean and unit variance.
ENCODER_INPUTS = ("peak", "raw", "standardized")
#: Recordings that go through the convolutions together, each without padding. A processor's caches hold one; an accelerator wants
#: all of them, padded.
ROWS_PER_CALL = {"cpu": 1}
#: Convolutions in a block; the last of them keeps every third frequency bin.
CONVS_PER_BLOCK = 3
FREQUENCY_STRIDE = 3


class MagnitudeSpectrum(nn.Module):
    """Magnitude of the short-time spectrum, symmetric Hamming window, mirrored at both ends: what the original calls PS."""

    def __init__(self, fft_size: int, hop_samples: int):
        super().__init__()
        self.fft_size, self.hop_samples = fft_size, hop_samples
        # A NumPy attribute: from_pretrained leaves non-persistent buffers and tensors uninitialised.
        self._window = np.hamming(fft_size).astype(np.float32)

    def num_frames(self, num_samples: Any) -> Any:
        """Spectra of so many samples: `1 + num_samples // hop_samples`."""
        return 1 + num_samples // self.hop_samples

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            waveform (`torch.Tensor` of shape `(B, T)`): In float32.
            lengths (`torch.Tensor` of shape `(B,)`, *optional*): Samples of each row; all of them if not given.

        Returns:
            `torch.Tensor` of shape `(B, F, K)`; frames beyond a row's own are padding.
        """
        margin = self.fft_size // 2
        if lengths is None:
            padded = F.pad(waveform, (margin, margin), mode="reflect")
        else:
            position = torch.arange(-margin, waveform.shape[1] + margin, device=waveform.device).abs()
            last = lengths[:, None] - 1
            padded = waveform.gather(1, torch.where(position > last, 2 * last - position, position).clamp(min=0))
        frames = padded.unfold(1, self.fft_size, self.hop_samples)  # (B, F, fft_size)
        window = torch.from_numpy(self._window).to(waveform.device)
        return torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(dim=-1).sqrt()


class SincFilterBank(nn.Module):
    """Waveform through fixed band-pass filters, one value per filter and hop, padded as TensorFlow pads `"same"`: the LFB."""

    def __init__(self, num_filters: int, kernel_size: int, hop_samples: int, sampling_rate: int, edges: str):
        super().__init__()
        self.kernel_size, self.hop_samples = kernel_size, hop_samples
        self._filters = sinc_filters(num_filters, kernel_size, sampling_rate, edges)  # NumPy, for the same reason as above

    def num_frames(self, num_samples: Any) -> Any:
        """Frames of so many samples: `num_samples / hop_samples`, rounded up."""
        return (num_samples + self.hop_samples - 1) // self.hop_samples

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            waveform (`torch.Tensor` of shape `(B, T)`): In float32.
            lengths (`torch.Tensor` of shape `(B,)`, *optional*): Samples of each row; all of them if not given.

        Returns:
            `torch.Tensor` of shape `(B, F, K)`; frames beyond a row's own are padding.
        """
        num_samples = waveform.shape[1]
        num_frames = self.num_frames(num_samples)
        spanned = (num_frames - 1) * self.hop_samples + self.kernel_size
        if lengths is None:
            total = max(spanned - num_samples, 0)
            padded = F.pad(waveform, (total // 2, total - total // 2))
        else:
            # The padding on the left depends on the length: each row is shifted by its own.
            total = (self.num_frames(lengths) - 1) * self.hop_samples + self.kernel_size - lengths
            position = torch.arange(spanned, device=waveform.device) - total.clamp(min=0)[:, None] // 2
            inside = (position >= 0) & (position < lengths[:, None])
            padded = waveform.gather(1, position.clamp(0, num_samples - 1)) * inside
        frames = padded.unfold(1, self.kernel_size, self.hop_samples)[:, :num_frames]  # (B, F, kernel_size)
        return frames @ torch.from_numpy(self._filters).to(waveform.device).T


class ConvStack(nn.Module):
    """Blocks of three 3×3 convolutions with ReLU, padded as TensorFlow pads `"same"`; each block keeps a third of the bins."""

    def __init__(self, channels: list[int] | tuple[int, ...], num_bins: int):
        super().__init__()
        sizes = [1, *(size for size in channels for _ in range(CONVS_PER_BLOCK))]
        self.layers = nn.ModuleList(nn.Conv2d(sizes[i], sizes[i + 1], 3) for i in range(len(sizes) - 1))
        self.frame_size = channels[-1] * num_bins_after(num_bins, len(channels))

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            frames (`torch.Tensor` of shape `(B, F, K)`): Spectra. With `lengths`, the last one of every row must be padding.
            lengths (`torch.Tensor` of shape `(B,)`, *optional*): Real frames of each row; all of them if not given.

        Returns:
            `torch.Tensor` of shape `(B, F, K' * C)`, bins first.
        """
        batch_size = frames.shape[0]
        if not torch.compiler.is_exporting() and batch_size > ROWS_PER_CALL.get(frames.device.type, batch_size):
            row_lengths = [frames.shape[1]] * batch_size if lengths is None else lengths.tolist()
            rows = [self._one_call(row[None, :length]) for row, length in zip(frames, row_lengths, strict=True)]
            return torch.cat([F.pad(row, (0, 0, 0, frames.shape[1] - row.shape[1])) for row in rows])
        return self._one_call(frames, lengths)

    def _one_call(self, frames: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        hidden_states = _end_rows(frames[:, None], lengths)  # (B, 1, F, K)
        for index, layer in enumerate(self.layers):
            strided = index % CONVS_PER_BLOCK == CONVS_PER_BLOCK - 1
            hidden_states = F.relu(_end_rows(self._convolve(layer, hidden_states, strided), lengths), inplace=True)
        return hidden_states.permute(0, 2, 3, 1).flatten(2)

    @staticmethod
    def _convolve(layer: nn.Conv2d, hidden_states: torch.Tensor, strided: bool) -> torch.Tensor:
        if not strided:
            return F.conv2d(hidden_states, layer.weight, layer.bias, padding=1)
        num_bins = hidden_states.shape[3]
        total = max((-(-num_bins // FREQUENCY_STRIDE) - 1) * FREQUENCY_STRIDE + 3 - num_bins, 0)
        hidden_states = F.pad(hidden_states, (total // 2, total - total // 2))  # TensorFlow pads the odd bin on the right
        return F.conv2d(hidden_states, layer.weight, layer.bias, stride=(1, FREQUENCY_STRIDE), padding=(1, 0))


class Frames(NamedTuple):
    """Frames of a padded batch.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, F, D)`): Features; those of padding mean nothing.
        mask (`torch.Tensor` of shape `(B, F)` or `None`): `True` on real frames; `None` if all are real.
    """

    hidden_states: torch.Tensor
    mask: torch.Tensor | None


class MOSATrunk(nn.Module):
    """Spectrum, filter bank and self-supervised features to one sequence of frames.

    The three are laid one behind the other in time, not aligned: the spectrum and the filter bank go through the convolutions
    as one image, the self-supervised features through a linear layer, and one recurrence runs over all of them.

    Args:
        config: A configuration with the options that [`check_trunk_options`] names.
        ssl_feature_size (`int`): Width of the self-supervised features.
    """

    def __init__(self, config: Any, ssl_feature_size: int):
        super().__init__()
        num_bins = config.fft_size // 2 + 1
        self.spectrum = MagnitudeSpectrum(config.fft_size, config.hop_samples)
        self.filter_bank = SincFilterBank(
            num_bins, config.sinc_kernel_size, config.hop_samples, config.sampling_rate, config.sinc_edges
        )
        self.convolutions = ConvStack(config.conv_channels, num_bins)
        self.bottleneck = nn.Linear(ssl_feature_size, self.convolutions.frame_size)
        self.bottleneck_relu, self.smooth_ssl_features = config.bottleneck_relu, config.smooth_ssl_features
        # One module per direction: reversing each row by its own length replaces packing, and exports to ONNX.
        self.forward_lstm = nn.LSTM(self.convolutions.frame_size, config.lstm_hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(self.convolutions.frame_size, config.lstm_hidden_size, batch_first=True)
        self.dense = nn.Linear(2 * config.lstm_hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def min_samples(self) -> int:
        """Samples the spectrum needs: one more than it mirrors."""
        return self.spectrum.fft_size // 2 + 1

    def forward(
        self,
        waveform: torch.Tensor,
        ssl_features: torch.Tensor,
        lengths: torch.Tensor | None = None,
        ssl_lengths: torch.Tensor | None = None,
    ) -> Frames:
        """
        Args:
            waveform (`torch.Tensor` of shape `(B, T)`): Float32, scaled as the spectrum should see it.
            ssl_features (`torch.Tensor` of shape `(B, F, D)`): Self-supervised features.
            lengths (`torch.Tensor` of shape `(B,)`, *optional*): Samples of each row; all of them if not given.
            ssl_lengths (`torch.Tensor` of shape `(B,)`, *optional*): Frames of each row of `ssl_features`; goes with `lengths`.
        """
        spectrum, filter_bank = self.spectrum(waveform, lengths), self.filter_bank(waveform, lengths)
        if lengths is None:
            return self.join(spectrum, filter_bank, ssl_features)
        frame_lengths = (self.spectrum.num_frames(lengths), self.filter_bank.num_frames(lengths), ssl_lengths)
        return self.join(spectrum, filter_bank, ssl_features, frame_lengths)

    def join(
        self,
        spectrum: torch.Tensor,
        filter_bank: torch.Tensor,
        ssl_features: torch.Tensor,
        lengths: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> Frames:
        """From the three features to the frames.

        Args:
            spectrum (`torch.Tensor` of shape `(B, F1, K)`): Magnitudes.
            filter_bank (`torch.Tensor` of shape `(B, F2, K)`): Filter outputs.
            ssl_features (`torch.Tensor` of shape `(B, F3, D)`): Self-supervised features.
            lengths (`tuple` of three `torch.Tensor` of shape `(B,)`, *optional*): Real frames of each; all if not given.

        Returns:
            [`Frames`] with `F1 + F2 + F3` frames (and padding), real ones first: spectrum, filter bank, features.
        """
        spectrum_lengths, filter_bank_lengths, ssl_lengths = lengths or (None, None, None)
        image = lay_end_to_end(spectrum, filter_bank, spectrum_lengths)  # (B, F1 + F2, K)
        image_lengths = None
        if lengths is not None:
            image = F.pad(image, (0, 0, 0, 1))
            image_lengths = spectrum_lengths + filter_bank_lengths
        conv_frames = self.convolutions(image.to(self.dense.weight.dtype), image_lengths)  # (B, F1 + F2, C')
        ssl_frames = self._narrow(ssl_features.to(self.dense.weight.dtype), ssl_lengths)  # (B, F3, C')
        sequence = lay_end_to_end(conv_frames, ssl_frames, image_lengths)  # (B, F, C')
        sequence_lengths = None if lengths is None else image_lengths + ssl_lengths
        mask = None
        if lengths is not None:
            mask = torch.arange(sequence.shape[1], device=sequence.device) < sequence_lengths[:, None]
        recurrent = torch.cat(
            [
                self.forward_lstm(sequence)[0],
                reverse_rows(self.backward_lstm(reverse_rows(sequence, sequence_lengths))[0], sequence_lengths),
            ],
            dim=-1,
        )
        return Frames(self.dropout(F.relu(self.dense(recurrent))), mask)

    def _narrow(self, ssl_features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        if self.smooth_ssl_features:
            # Mean of a frame and the next; the last one of a row has no next.
            following = torch.cat([ssl_features[:, 1:], ssl_features[:, -1:]], dim=1)
            if lengths is not None:
                position = torch.arange(ssl_features.shape[1], device=ssl_features.device)
                following = torch.where((position == lengths[:, None] - 1)[..., None], ssl_features, following)
            ssl_features = (ssl_features + following) / 2
        narrowed = self.bottleneck(ssl_features)
        return F.relu(narrowed) if self.bottleneck_relu else narrowed


class TaskHead(nn.Module):
    """Frames to one score: multiplicative self-attention, a linear layer per frame, the mean over frames."""

    def __init__(self, hidden_size: int, activation: str, scale: float):
        super().__init__()
        self.attention = nn.Linear(hidden_size, hidden_size, bias=False)
        self.frame_score = nn.Linear(hidden_size, 1)
        self.activation, self.scale = activation, scale

    def forward(self, frames: Frames, keep_attention: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: Frame scores `(B, F)` in label units, float32, and, if kept, the attention
            weights `(B, F, F)`, zero in the rows and columns of padding.
        """
        hidden_states, mask = frames
        query = self.attention(hidden_states)
        attention = None
        # The fused attention below would fix the number of frames in an export.
        if keep_attention or torch.compiler.is_exporting():
            weights = query @ hidden_states.transpose(1, 2)  # (B, F, F)
            if mask is not None:
                weights = weights.masked_fill(~mask[:, None], float("-inf"))
            attention = weights.float().softmax(dim=-1)
            context = attention.to(hidden_states.dtype) @ hidden_states
            if mask is not None:
                attention = attention * mask[..., None]
        else:
            keys, key_mask = hidden_states[:, None], None if mask is None else mask[:, None, None]
            context = F.scaled_dot_product_attention(query[:, None], keys, keys, attn_mask=key_mask, scale=1.0)[:, 0]
        scores = self.frame_score(context)[..., 0].float()
        return (torch.sigmoid(scores) if self.activation == "sigmoid" else scores) * self.scale, attention

    def penalty(self, attention: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """How far attention rows are from orthogonal, `||A A' - I||²` per recording `(B,)`, plus `||W||²` of the weights."""
        products = attention @ attention.transpose(1, 2)
        num_frames = attention.shape[1] if frame_mask is None else frame_mask.sum(dim=1)
        # ||P - I||² = ||P||² - 2 tr P + F, and tr(A A') = ||A||²: no identity matrix per row's length is needed.
        distance = products.square().sum(dim=(1, 2)) - 2 * attention.square().sum(dim=(1, 2)) + num_frames
        return distance + self.attention.weight.float().square().sum()


class Scores(NamedTuple):
    """What the heads return.

    Args:
        logits (`torch.Tensor` of shape `(B, L)`): Scores of the recordings, label units.
        frame_logits (`torch.Tensor` of shape `(B, F, L)`): Scores of the frames, label units, 0 on padding.
        penalties (`torch.Tensor` of shape `(B, L)` or `None`): Attention penalties, if asked for.
    """

    logits: torch.Tensor
    frame_logits: torch.Tensor
    penalties: torch.Tensor | None


class TaskHeads(nn.ModuleDict):
    """One [`TaskHead`] per score name, in column order."""

    def __init__(self, score_names: list[str], hidden_size: int, activations: Any, scales: Any):
        super().__init__(
            {
                name: TaskHead(hidden_size, activation, scale)
                for name, activation, scale in zip(score_names, activations, scales, strict=True)
            }
        )

    def forward(self, frames: Frames, with_penalties: bool = False) -> Scores:
        mask = frames.mask
        logits, frame_logits, penalties = [], [], []
        for head in self.values():  # each on its own, to the last bit: dropping a head leaves the others' scores
            scores, attention = head(frames, keep_attention=with_penalties)
            if mask is not None:
                scores = scores.masked_fill(~mask, 0.0)
            frame_logits.append(scores)
            logits.append(scores.mean(dim=1) if mask is None else scores.sum(dim=1) / mask.sum(dim=1))
            if with_penalties:
                penalties.append(head.penalty(attention, mask))
        stacked_penalties = torch.stack(penalties, dim=-1) if with_penalties else None
        return Scores(torch.stack(logits, dim=-1), torch.stack(frame_logits, dim=-1), stacked_penalties)


def utterance_and_frame_loss(
    scores: Scores,
    frame_mask: torch.Tensor | None,
    labels: torch.Tensor,
    *,
    kind: str,
    huber_delta: float = 1.0,
    frame_loss_weight: float = 1.0,
    penalty_weight: float = 0.0,
    scales: Any = None,
) -> torch.Tensor:
    """Sum over the scores of the loss of the recording plus the mean loss of its frames against the same label.

    Equations 1 to 3 of the MTQ-Net paper, with the linear branch of the frame loss as `delta * (|e| - delta / 2)` (its bracket is
    misprinted). Both levels are means over the recordings that are rated for the score.

    Args:
        scores ([`Scores`]): Predictions.
        frame_mask (`torch.Tensor` of shape `(B, F)`, *optional*): `True` on real frames; all of them if not given.
        labels (`torch.Tensor` of shape `(B, L)`): Target scores in label units, NaN if not rated.
        kind (`str`): `"mse"` (error squared), `"l1"`, or `"huber"` (half the error squared up to `huber_delta`).
        huber_delta (`float`, *optional*, defaults to `1.0`): Error from which `"huber"` grows linearly.
        frame_loss_weight (`float`, *optional*, defaults to `1.0`): Weight of the frame level, alpha of the papers.
        penalty_weight (`float`, *optional*, defaults to `0.0`): Weight of the attention penalties of rated recordings.
        scales (`Sequence[float]`, *optional*): Errors of each score are divided by these; 1 if not given.

    Returns:
        `torch.Tensor` of shape `()`: 0 with a zero gradient if nothing is rated.

    Raises:
        ValueError: If the shapes differ.
    """
    logits = scores.logits
    if logits.shape != labels.shape:
        raise ValueError(
            f"Expected labels of shape {tuple(logits.shape)} (batch_size, num_labels), got {tuple(labels.shape)}; give one column "
            "per score name of the configuration's `id2label`, NaN where a score was not rated."
        )
    labels = labels.to(logits)
    rated = ~torch.isnan(labels)
    divisor = 1.0 if scales is None else torch.tensor(scales, dtype=logits.dtype, device=logits.device)
    # where() before the subtraction: NaN times zero is NaN in the backward pass.
    targets = torch.where(rated, labels, logits.detach())
    utterance_losses = _errors(logits / divisor, targets / divisor, kind, huber_delta)  # (B, L)
    frame_targets = torch.where(rated[:, None], labels[:, None], scores.frame_logits.detach())
    frame_losses = _errors(scores.frame_logits / divisor, frame_targets / divisor, kind, huber_delta)  # (B, F, L)
    if frame_mask is None:
        frame_losses = frame_losses.mean(dim=1)
    else:
        frame_losses = torch.where(frame_mask[..., None], frame_losses, 0.0).sum(dim=1) / frame_mask.sum(dim=1, keepdim=True)
    losses = utterance_losses + frame_loss_weight * frame_losses
    if scores.penalties is not None:
        losses = losses + penalty_weight * torch.where(rated, scores.penalties, 0.0)
    return (losses.sum(dim=0) / rated.sum(dim=0).clamp(min=1)).sum()


def _errors(predictions: torch.Tensor, targets: torch.Tensor, kind: str, huber_delta: float) -> torch.Tensor:
    if kind == "huber":
        return F.huber_loss(predictions, targets, reduction="none", delta=huber_delta)
    return {"mse": F.mse_loss, "l1": F.l1_loss}[kind](predictions, targets, reduction="none")


def mark_padding(frame_logits: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Frame scores `(B, F, L)` with NaN where there is no frame."""
    return frame_logits if frame_mask is None else frame_logits.masked_fill(~frame_mask[..., None], float("nan"))


def peak_normalize(waveform: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Divide every row of `(B, T)` by its largest magnitude, in float32; digital silence stays as it is, padding becomes 0."""
    waveform = waveform.float()
    if lengths is not None:
        waveform = torch.where(torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None], waveform, 0.0)
    peak = waveform.abs().amax(dim=1, keepdim=True)
    return waveform / torch.where(peak > 0, peak, 1.0)


def lay_end_to_end(first: torch.Tensor, second: torch.Tensor, first_lengths: torch.Tensor | None) -> torch.Tensor:
    """`first` `(B, F1, D)` and right behind each row's `first_lengths` real frames all of `second` `(B, F2, D)`.

    Returns:
        `torch.Tensor` of shape `(B, F1 + F2, D)`; what follows the frames of `second` is padding.
    """
    both = torch.cat([first, second], dim=1)
    if first_lengths is None:
        return both
    position = torch.arange(both.shape[1], device=both.device)
    behind = (position - first_lengths[:, None] + first.shape[1]).clamp(max=both.shape[1] - 1)
    index = torch.where(position < first_lengths[:, None], position, behind)
    return both.gather(1, index[..., None].expand(-1, -1, both.shape[2]))


def reverse_rows(frames: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Each row of `(B, F, D)` backwards within its own length; padding stays at the end."""
    if lengths is None:
        return frames.flip(1)
    position = torch.arange(frames.shape[1], device=frames.device)
    index = torch.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return frames.gather(1, index[..., None].expand(-1, -1, frames.shape[2]))


def _end_rows(image: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Zero the frame behind each row's last in `(B, C, F, K)`: all that a kernel of three frames sees beyond the end."""
    if lengths is not None:
        image[torch.arange(image.shape[0], device=image.device), :, lengths] = 0.0
    return image


class CrossDomainScoring:
    """What [`MOSANet`] and [`MTQNet`] share beyond their layers: the encoder, the inputs, and their way to the scores.

    Mixed into a model, before its base class. Of `score_min` and `score_max` nothing here makes use: scores come in label units.
    """

    def build_network(self, config: Any) -> None:
        """Add `trunk`, `score_heads` and, unless features are precomputed, `encoder` to the model."""
        self.trunk = MOSATrunk(config, output_size(config.encoder_config))
        self.score_heads = TaskHeads(config.score_names, config.hidden_size, config.score_activations, config.score_scales)
        if not config.precomputed_features:
            self.attach_encoder(build_encoder(config.encoder_config, config.encoder_layer))

    @classmethod
    def from_encoder(
        cls,
        name_or_path: str,
        config: Any = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        hub_options: dict[str, Any] | None = None,
        **options: Any,
    ):
        """Build a model around a pre-trained speech encoder; trunk and heads are randomly initialised.

        Args:
            name_or_path (`str`): Hub id or folder of the encoder, with or without a head for CTC or pre-training.
            config (*optional*): Configuration to take all but the encoder from; the family's defaults if not given.
            encoder_options (`dict[str, Any]`, *optional*): Values of the encoder's configuration to change, for example dropouts.
                Frames are not masked in training unless asked for here.
            hub_options (`dict[str, Any]`, *optional*): `revision`, `token`, `cache_dir`, ... of `from_pretrained`.
            **options: Options of the configuration, if none is given.

        Raises:
            ValueError: If the encoder is not known, lacks tensors or is for another sampling rate, or if both `config` and options
                are given.
        """
        if config is not None and options:
            raise ValueError(f"Expected `config` or options, got both: {', '.join(options)}; set them in the configuration.")
        encoder_config = cls.pretrained_encoder_config(name_or_path, encoder_options, hub_options)
        if config is None:
            config = cls.config_class(**options, encoder_config=encoder_config)
        else:
            config = copy.deepcopy(config)
            config.encoder_config = encoder_config
            check_encoder_options(config)
        model = cls(config)
        if not config.precomputed_features:
            model.load_pretrained_encoder(name_or_path, hub_options)
        return model.eval()

    @staticmethod
    def pretrained_encoder_config(
        name_or_path: str, encoder_options: dict[str, Any] | None = None, hub_options: dict[str, Any] | None = None
    ) -> Any:
        """Configuration of a pre-trained encoder that masks no frames in training unless the options say so."""
        return load_encoder_config(name_or_path, FINE_TUNING_OPTIONS | (encoder_options or {}), **(hub_options or {}))

    def load_pretrained_encoder(self, name_or_path: str, hub_options: dict[str, Any] | None = None) -> None:
        """Replace the encoder by the pre-trained one that the configuration describes.

        Raises:
            ValueError: If it lacks tensors, or its feature extractor asks for another sampling rate.
        """
        published_rate = published_sampling_rate(name_or_path, **(hub_options or {}))
        if published_rate not in (None, self.config.sampling_rate):
            raise ValueError(
                f"Expected an encoder for audio sampled at {self.config.sampling_rate} Hz, got {name_or_path}, whose feature "
                f"extractor asks for {published_rate} Hz; pass `sampling_rate={published_rate}`."
            )
        config = self.config
        self.attach_encoder(load_encoder(name_or_path, config.encoder_config, config.encoder_layer, **(hub_options or {})))

    def attach_encoder(self, encoder: nn.Module) -> None:
        """Make an encoder of the configuration's kind, up to its layer, the model's own; frozen if the configuration says so."""
        self.encoder = encoder
        self._freeze()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any):
        """Load a checkpoint as transformers does; what is frozen stays frozen, which loading alone would undo."""
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze()
        return loaded

    @property
    def pads_safely(self) -> bool:
        """Whether padding leaves scores as they are: true unless the encoder averages over time before any mask is seen."""
        return self.config.precomputed_features or pads_safely(self.config.encoder_config)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest waveform that gives a frame of every feature."""
        encoder_config = self.config.encoder_config
        return (
            self.trunk.min_samples
            if takes_spectra(encoder_config)
            else max(self.trunk.min_samples, min_num_samples(encoder_config))
        )

    def onnx_inputs(self) -> dict[str, tuple[torch.Tensor, tuple[int, ...]]]:
        """Example inputs of the ONNX graph; short ones, since tracing walks through the recurrence frame by frame."""
        generator = torch.Generator().manual_seed(0)
        waveforms = 0.1 * torch.randn(2, self.config.sampling_rate // 4, generator=generator)
        inputs: dict[str, tuple[torch.Tensor, tuple[int, ...]]] = {"input_values": (waveforms, (0, 1))}
        if self.config.precomputed_features:
            features = torch.randn(2, 12, output_size(self.config.encoder_config), generator=generator)
            inputs["ssl_features"] = (features, (0, 1))
        return inputs

    def train(self, mode: bool = True):
        """Set training mode; a frozen encoder stays in evaluation, its features are constants."""
        super().train(mode)  # type: ignore[misc]
        if self.config.freeze_encoder and not self.config.precomputed_features:
            self.encoder.eval()
        return self

    def _freeze(self) -> None:
        if self.config.precomputed_features:
            return
        freeze_idle_parameters(self.encoder)
        if self.config.freeze_encoder:
            self.encoder.requires_grad_(False).eval()

    def cross_domain_frames(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        ssl_features: torch.Tensor | None,
        ssl_attention_mask: torch.Tensor | None,
    ) -> Frames:
        """Waveforms, and features if they are precomputed, to frames; the arguments are those of `forward`."""
        lengths = self._lengths(input_values, attention_mask)
        normalized = peak_normalize(input_values, lengths)
        if ssl_features is None:
            ssl_features = self._encode(input_values, normalized, lengths)
            ssl_lengths = None if lengths is None else num_frames_of(self.encoder, lengths)
        else:
            ssl_lengths = self._ssl_lengths(ssl_features, input_values, lengths, ssl_attention_mask)
            if ssl_lengths is not None and lengths is None:
                lengths = torch.full((input_values.shape[0],), input_values.shape[1], device=input_values.device)
        return self.trunk(normalized, ssl_features, lengths, ssl_lengths)

    def _lengths(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Samples of each row, or `None` if no row has padding."""
        if input_values.dim() != 2:
            raise ValueError(f"Expected `input_values` of shape (batch_size, num_samples), got {tuple(input_values.shape)}.")
        lengths = None if attention_mask is None else attention_mask.sum(dim=1)
        if torch.compiler.is_exporting():
            return lengths
        shortest = input_values.shape[1] if lengths is None else int(lengths.min())
        if shortest < self.min_samples:
            rate = self.config.sampling_rate
            raise ValueError(
                f"Expected at least {self.min_samples} samples ({1000 * self.min_samples / rate:.1f} ms at {rate} Hz) in every "
                f"recording, got {shortest}: shorter audio gives no frame. Leave such recordings out."
            )
        return None if lengths is None or shortest == input_values.shape[1] else lengths

    def _encode(self, input_values: torch.Tensor, normalized: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        if self.config.precomputed_features:
            raise ValueError(
                "Expected `ssl_features`, got none: this model was built with `precomputed_features=True` and has no encoder. Pass "
                f"features of shape (batch_size, num_frames, {output_size(self.config.encoder_config)}), or convert the checkpoint "
                "again with an encoder."
            )
        mask = None
        if lengths is not None:
            mask = (torch.arange(input_values.shape[1], device=input_values.device) < lengths[:, None]).long()
        waveform = {"peak": normalized, "raw": input_values.float(), "standardized": None}[self.config.encoder_input]
        if waveform is None:
            waveform = standardize(input_values, mask)
        elif mask is not None:
            waveform = waveform * mask
        dtype = next(self.encoder.parameters()).dtype
        return encoder_features(self.encoder, waveform.to(dtype), mask)

    def _ssl_lengths(
        self,
        ssl_features: torch.Tensor,
        input_values: torch.Tensor,
        lengths: torch.Tensor | None,
        ssl_attention_mask: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Frames of each row of precomputed features, or `None` if no row of anything has padding."""
        expected = (input_values.shape[0], output_size(self.config.encoder_config))
        if ssl_features.dim() != 3 or (ssl_features.shape[0], ssl_features.shape[2]) != expected:
            raise ValueError(
                f"Expected `ssl_features` of shape ({expected[0]}, num_frames, {expected[1]}), got {tuple(ssl_features.shape)}; "
                "their width is the `hidden_size` of `encoder_config`."
            )
        if ssl_attention_mask is not None:
            ssl_lengths = ssl_attention_mask.sum(dim=1)
            if lengths is None and not torch.compiler.is_exporting() and bool((ssl_lengths == ssl_features.shape[1]).all()):
                return None
            return ssl_lengths
        if lengths is None:
            return None
        ssl_lengths = num_encoder_frames(self.config.encoder_config, lengths)
        if not torch.compiler.is_exporting() and int(ssl_lengths.max()) > ssl_features.shape[1]:
            raise ValueError(
                f"Expected `ssl_features` with {int(ssl_lengths.max())} frames for {int(lengths.max())} samples, got "
                f"{ssl_features.shape[1]}; if they come at another rate, tell their padding by `ssl_attention_mask`."
            )
        return ssl_lengths

    def cross_domain_loss(self, scores: Scores, frames: Frames, labels: torch.Tensor | None) -> torch.Tensor | None:
        """Loss of the configuration's kind at both levels; `None` without labels."""
        if labels is None:
            return None
        config = self.config
        return utterance_and_frame_loss(
            scores,
            frames.mask,
            labels,
            kind=config.score_loss,
            huber_delta=config.huber_delta,
            frame_loss_weight=config.frame_loss_weight,
            penalty_weight=config.attention_penalty_weight,
            scales=config.score_scales,
        )


def num_encoder_frames(encoder_config: Any, num_samples: Any) -> Any:
    """Frames that the convolutions of a speech encoder make of so many samples (`int` or integer tensor).

    Raises:
        ValueError: If the encoder takes spectra or ends in an adapter: its frames cannot be told from samples here.
    """
    if takes_spectra(encoder_config) or getattr(encoder_config, "add_adapter", False):
        raise ValueError(
            f"Expected `ssl_attention_mask` beside the `ssl_features` of a {encoder_config.model_type} encoder in a padded batch, "
            "got none: how many frames it makes of a recording is not known here. Pass 1 on frames, 0 on padding."
        )
    if is_quality_model(encoder_config):
        return num_frames_of_quality_model(encoder_config, num_samples)
    for kernel, stride in zip(encoder_config.conv_kernel, encoder_config.conv_stride, strict=True):
        num_samples = (num_samples - kernel) // stride + 1
    return num_samples


def standardize(waveform: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Zero mean and unit variance per row of `(B, T)`, as `Wav2Vec2FeatureExtractor(do_normalize=True)` does; padding becomes 0."""
    waveform = waveform.float()
    real = torch.ones_like(waveform) if mask is None else mask.float()
    count = real.sum(dim=1, keepdim=True)
    centered = (waveform - (waveform * real).sum(dim=1, keepdim=True) / count) * real
    return centered / (centered.square().sum(dim=1, keepdim=True) / count + 1e-7).sqrt()


def num_bins_after(num_bins: int, num_blocks: int) -> int:
    """Frequency bins left after so many blocks of convolutions."""
    for _ in range(num_blocks):
        num_bins = -(-num_bins // FREQUENCY_STRIDE)
    return num_bins


def init_trunk_weights(module: nn.Module) -> None:
    """Keras's initial values, for `_init_weights`: Glorot, orthogonal recurrences, a forget bias of 1."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        init.xavier_uniform_(module.weight)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.LSTM):
        init.xavier_uniform_(module.weight_ih_l0)
        init.orthogonal_(module.weight_hh_l0)
        forget_bias = torch.zeros(4, module.hidden_size, dtype=torch.float32, device="cpu")
        forget_bias[1] = 1
        init.copy_(module.bias_ih_l0, forget_bias.flatten())
        init.zeros_(module.bias_hh_l0)
    elif isinstance(module, TaskHead):
        init.xavier_normal_(module.attention.weight)


def default_score_activations(score_names: list[str]) -> list[str]:
    """The published output of a score: sigmoid for STOI, which lies between 0 and 1, linear for the others."""
    return ["sigmoid" if name == "stoi" else "linear" for name in score_names]


#: Options of a configuration that the trunk is built from, in both families.
TRUNK_OPTIONS = (
    "sampling_rate",
    "fft_size",
    "hop_samples",
    "sinc_kernel_size",
    "sinc_edges",
    "conv_channels",
    "smooth_ssl_features",
    "bottleneck_relu",
    "lstm_hidden_size",
    "hidden_size",
    "dropout",
)
#: Options that say which self-supervised features the trunk gets.
ENCODER_OPTIONS = ("encoder_config", "encoder_layer", "encoder_input", "precomputed_features")


def check_encoder_options(config: Any) -> None:
    """Refuse an encoder, a layer or an encoder's input that cannot be used.

    Raises:
        ValueError: If `encoder_config` is not that of a known speech encoder that takes waveforms (precomputed features may come
            from one that takes spectra), `encoder_layer` is beyond it, or `encoder_input` is unknown.
    """
    check_encoder_config(config.encoder_config, with_quality_models=True)
    check_layer(config.encoder_config, config.encoder_layer, "encoder_layer")
    if takes_spectra(config.encoder_config) and not config.precomputed_features:
        raise ValueError(
            f"Expected an encoder that takes waveforms, got {config.encoder_config.model_type!r}, which takes mel spectra; compute "
            "its features beforehand and set `precomputed_features=True`."
        )
    if config.encoder_input not in ENCODER_INPUTS:
        raise ValueError(f"Expected `encoder_input` to be one of {', '.join(ENCODER_INPUTS)}, got {config.encoder_input!r}.")


def check_trunk_options(config: Any) -> None:
    """Refuse sizes that the trunk cannot be built with.

    Raises:
        ValueError: If an option of the trunk, of the scores or of the loss is out of range; the message names it.
    """
    if config.sampling_rate is None:
        raise ValueError("Expected `sampling_rate` in Hz, got None: the filter bank is built for one rate.")
    if config.sinc_edges not in SINC_EDGES:
        raise ValueError(f"Expected `sinc_edges` to be one of {', '.join(SINC_EDGES)}, got {config.sinc_edges!r}.")
    for option in ("fft_size", "hop_samples", "lstm_hidden_size", "hidden_size", "sinc_kernel_size"):
        if getattr(config, option) < 1:
            raise ValueError(f"Expected `{option}` of at least 1, got {getattr(config, option)}.")
    if config.fft_size % 2 or config.fft_size < 4:
        raise ValueError(f"Expected `fft_size` to be even and at least 4, got {config.fft_size}.")
    if config.sinc_kernel_size % 2 == 0 or config.sinc_kernel_size < 3:
        raise ValueError(f"Expected `sinc_kernel_size` to be odd and at least 3, got {config.sinc_kernel_size}.")
    if not config.conv_channels or min(config.conv_channels) < 1:
        raise ValueError(f"Expected `conv_channels` to hold one positive size per block, got {config.conv_channels}.")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"Expected `dropout` in [0, 1), got {config.dropout}.")
    for option in ("frame_loss_weight", "attention_penalty_weight"):
        if not (math.isfinite(getattr(config, option)) and getattr(config, option) >= 0):
            raise ValueError(f"Expected `{option}` of at least 0, got {getattr(config, option)}.")
    if config.huber_delta <= 0:
        raise ValueError(f"Expected `huber_delta` above 0, got {config.huber_delta}.")
    for option in ("score_activations", "score_scales"):
        if len(getattr(config, option)) != len(config.id2label):
            raise ValueError(
                f"Expected one entry of `{option}` per score {', '.join(config.id2label.values())}, got {getattr(config, option)}."
            )
    if unknown := set(config.score_activations) - set(SCORE_ACTIVATIONS):
        raise ValueError(f"Expected `score_activations` among {', '.join(SCORE_ACTIVATIONS)}, got {unknown.pop()!r}.")
    if min(config.score_scales) <= 0:
        raise ValueError(f"Expected positive `score_scales`, got {config.score_scales}.")
