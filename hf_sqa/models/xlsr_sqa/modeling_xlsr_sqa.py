"""XLS-R-SQA: a small transformer that scores speech on one or two layers of XLS-R, or on MFCC features.

Paper:    Tamm et al., "Analysis of XLS-R for Speech Quality Assessment", WASPAA 2023, arXiv:2308.12077
Code:     https://github.com/lcn-kul/xls-r-analysis-sqa, package `xls_r_sqa` (MIT)
Weights:  40 heads in the PyPI package `xls-r-sqa` (MIT), 17 MB; XLS-R itself from the Hub (Apache-2.0), not for MFCC heads
Differs:  recordings of different length can share a batch, each scored as if alone; the floor of the MFCC's mel bands (`top_db`)
          follows each recording, the original's the loudest of the batch; encoder blocks above the last one used are not kept (the
          original keeps one more, since its final norm touched the last); batch norms are folded in evaluation.
          Batches of one give the original's scores up to rounding.
Shapes:   B batch, T samples, F frames, N frames the head sees, M mel bands, C feature channels, L labels
"""

import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from transformers import Wav2Vec2FeatureExtractor, initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.utils import can_return_tuple

from hf_sqa.audio import Recording
from hf_sqa.blocks.encoder_mixin import FreezesEncoder
from hf_sqa.blocks.feature_cache import encoder_features
from hf_sqa.blocks.pruning_layout import EncoderLayout
from hf_sqa.blocks.speech_encoder import build_encoder, has_convolutions, in_precision_of
from hf_sqa.blocks.sqa_transformer import LayerTrace, SinusoidalPositions, SQATransformer, batch_norm_over_channels
from hf_sqa.modeling import AudioQualityPreTrainedModel, FineTuningDefaults
from hf_sqa.models.xlsr_sqa.configuration_xlsr_sqa import XLSRSQAConfig
from hf_sqa.outputs import AudioQualityOutput, RecordingScores

Count = TypeVar("Count", int, torch.Tensor)

#: MFCC frames computed at a time from a recording: 12.8 s, 1.6 MB of waveform pieces.
MFCC_FRAMES_PER_CALL = 1024


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients as torchaudio's defaults give them: HTK mel bands of the power spectrum, in dB."""

    def __init__(self, config: XLSRSQAConfig):
        super().__init__()
        self.fft_size, self.hop_samples, self.top_db = config.fft_size, config.fft_hop_samples, config.top_db
        # NumPy attributes: from_pretrained leaves non-persistent buffers and tensors uninitialised.
        self._hann = np.hanning(config.fft_size + 1)[:-1].astype(np.float32)
        rate = config.sampling_rate
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the lowest bands are narrower than a bin, and their power is the floor
            mel_bands = mel_filter_bank(config.fft_size // 2 + 1, config.num_mel_bins, 0.0, rate / 2, rate)
        self._mel_bands = mel_bands.astype(np.float32)
        self._cosines = _orthonormal_cosines(config.num_mel_bins, config.num_mfcc).astype(np.float32)

    @property
    def margin(self) -> int:
        """Samples that a spectrum reaches on either side of its centre."""
        return self.fft_size // 2

    def num_frames(self, num_samples: Count) -> Count:
        """Return the number of frames for a number of samples: one every hop, the first centred on the first sample."""
        return num_samples // self.hop_samples + 1

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Map waveforms `(B, T)` in float32, of `lengths` `(B,)` of more than half an `fft_size` each, to frames `(B, F, C)`."""
        mel_db = self.mel_db(waveform, lengths)  # (B, F, M)
        real = torch.arange(mel_db.shape[1], device=mel_db.device) < self.num_frames(lengths)[:, None]
        loudest_db = mel_db.masked_fill(~real[..., None], -torch.inf).amax(dim=(1, 2), keepdim=True)
        return self.cepstrum(mel_db, loudest_db)

    def mel_db(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the power in mel bands, in dB and not below -100 dB, `(B, F, M)`; every row is mirrored at its own two ends."""
        position = torch.arange(waveform.shape[1] + 2 * self.margin, device=waveform.device)[None] - self.margin
        last = lengths[:, None] - 1
        mirrored = last - (last - position.abs()).abs()  # beyond the end this walks back from it, or out of the row: clamped
        waveform = waveform.gather(1, mirrored.clamp(min=0))
        frames = waveform.unfold(1, self.fft_size, self.hop_samples)  # (B, F, fft_size)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self._constant(self._hann, waveform)))
        power = spectrum.square().sum(dim=-1)
        return 10 * torch.log10((power @ self._constant(self._mel_bands, waveform)).clamp(min=1e-10))

    def cepstrum(self, mel_db: torch.Tensor, loudest_db: torch.Tensor) -> torch.Tensor:
        """Return coefficients `(B, F, C)` of mel bands `(B, F, M)`, raised to `top_db` below the recording's loudest band."""
        return torch.maximum(mel_db, loudest_db - self.top_db) @ self._constant(self._cosines, mel_db)

    @staticmethod
    def _constant(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(values).to(like.device)


class LayerFusion(nn.Module):
    """Fusion of several layers' features to one: a batch norm for each, then a learned mix with a bias."""

    def __init__(self, num_layers: int, feature_size: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(feature_size) for _ in range(num_layers))
        self.mix = nn.Linear(num_layers, 1)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Map a tensor `(B, N, C)` for every layer to one tensor `(B, N, C)`."""
        normalised = [batch_norm_over_channels(norm, layer) for norm, layer in zip(self.norms, features, strict=True)]
        return self.mix(torch.stack(normalised, dim=-1)).squeeze(-1)


class XLSRSQA(FreezesEncoder, AudioQualityPreTrainedModel):
    """XLS-R-SQA: speech quality from layers of an XLS-R encoder, or from MFCC features if the configuration has no encoder.

    The head sees `num_frames` frames: the middle 7.68 s of a recording (MFCC: 4.8 s), or the whole of a shorter one.

    Modes:
        `published`: the encoder's attention, and the normalisation of the waveform before it, span the whole recording, so memory
            grows with its length. MFCC need only the middle, but what is inaudible beside the loudest moment of the whole recording
            is floored; a recording of any length is read in pieces.
    """

    config: XLSRSQAConfig
    config_class = XLSRSQAConfig
    # The head is a thousandth of the encoder's work; MFCC are logarithms of sums over six decades.
    _keep_in_fp32_modules_strict = ["fusion", "transformer"]

    def __init__(self, config: XLSRSQAConfig, encoder: nn.Module | None = None):
        super().__init__(config)
        if config.encoder_config is None:
            self.mfcc = MFCC(config)
        else:
            self.encoder = build_encoder(config.encoder_config, self.last_layer(config)) if encoder is None else encoder
        num_inputs = len(config.layers or (0,))
        if num_inputs > 1:
            self.fusion = LayerFusion(num_inputs, config.feature_size)
        self.transformer = SQATransformer(config, config.feature_size, normalize_features=num_inputs == 1)
        self.post_init()
        self.freeze()

    @staticmethod
    def reads_layers(options: dict[str, Any]) -> bool:
        return True

    @staticmethod
    def last_layer(config: XLSRSQAConfig) -> int | None:
        return None if config.layers is None else config.layers[-1]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SinusoidalPositions):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)

    def fine_tuning_defaults(self, device: str) -> FineTuningDefaults:
        return FineTuningDefaults() if self.config.encoder_config is None else FineTuningDefaults(("encoder",), learning_rate=3e-4)

    def pruning_layout(self) -> EncoderLayout:
        """See [`AudioQualityPreTrainedModel.pruning_layout`]; a model on MFCC has nothing to prune."""
        return super().pruning_layout() if self.config.encoder_config is None else EncoderLayout(self, "layers")

    def make_feature_extractor(self) -> Wav2Vec2FeatureExtractor:
        """Return this checkpoint's feature extractor: zero mean and unit variance for XLS-R, as is for MFCC and Whisper."""
        encoder = self.config.encoder_config
        return Wav2Vec2FeatureExtractor(
            sampling_rate=self.config.sampling_rate,
            do_normalize=encoder is not None and has_convolutions(encoder),
            return_attention_mask=True,
        )

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> AudioQualityOutput:
        """
        Args:
            input_values (`torch.Tensor` of shape `(B, T)`): Mono waveforms at 16 kHz; for an encoder each with zero mean and unit
                variance, as the checkpoint's feature extractor gives them.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on audio, 0 on padding at the end.
            labels (`torch.Tensor` of shape `(B, L)`, *optional*): Target scores in label units, NaN if not rated.
            output_attentions (`bool`, *optional*): Whether to return the weights of every layer of the head, `(B, H, N, N)`.
            output_hidden_states (`bool`, *optional*): Whether to return what goes into the head's transformer and the output of
                each of its layers, `(B, N, D)`; those of the encoder are `features`.

        Returns:
            [`AudioQualityOutput`], with `logits` of shape `(B, L)` in label units.

        Raises:
            ValueError: If a row is too short for one frame.
        """
        lengths = self._lengths(input_values, attention_mask)
        features = self.features(input_values, attention_mask, lengths)  # one (B, F, C) for every layer
        frame_lengths = self._frame_lengths(lengths)
        centred = [centre_frames(layer, frame_lengths, self.config.num_frames) for layer in features]
        trace = self.layer_trace(output_attentions, output_hidden_states)
        logits = self.score_features(centred, trace)
        return AudioQualityOutput(loss=self.compute_loss(logits, labels), logits=logits, **trace.outputs())

    def features(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, lengths: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return all frames of the MFCC, or of every encoder layer in `layers`: `(B, F, C)` each."""
        if self.config.encoder_config is None:
            with torch.autocast(input_values.device.type, enabled=False):
                return [self.mfcc(input_values.float(), lengths)]
        input_values = in_precision_of(self.encoder, input_values)
        layers = self.config.layers if len(self.config.layers) > 1 else None
        return encoder_features(self.encoder, input_values, attention_mask, layers)

    def score_features(self, features: Sequence[torch.Tensor], trace: LayerTrace | None = None) -> torch.Tensor:
        """Return scores `(B, L)` in label units from a tensor `(B, N, C)` for every layer, with N exactly `num_frames`."""
        trace = trace or self.layer_trace()
        features = [layer.to(self.transformer.projection.weight.dtype) for layer in features]
        raw = self.transformer(self.fusion(features) if len(features) > 1 else features[0], trace).float()
        return self.in_score_range(raw)

    def _lengths(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        lengths = self.row_lengths(input_values, attention_mask)
        if lengths is None:
            return torch.full((input_values.shape[0],), input_values.shape[1], device=input_values.device)
        return lengths.long()

    @property
    def min_samples(self) -> int:
        """Samples that one frame needs; the waveform is mirrored at its ends for MFCC."""
        return self.mfcc.margin + 1 if self.config.encoder_config is None else super().min_samples

    def _frame_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        if self.config.encoder_config is None:
            return self.mfcc.num_frames(lengths)
        return self.encoder._get_feat_extract_output_lengths(lengths)

    def _score_recordings(
        self, recordings: Sequence[Recording], feature_extractor: Any, mode: str, hop_seconds: float | None
    ) -> list[RecordingScores]:
        for recording in recordings:
            if recording.sampling_rate != self.config.sampling_rate:
                raise ValueError(
                    f"Expected {recording.source} at {self.config.sampling_rate} Hz, got {recording.sampling_rate} Hz; load it "
                    f"with `load_recording(..., sampling_rate={self.config.sampling_rate})`."
                )
            if recording.num_samples < self.min_samples:
                raise ValueError(
                    f"Expected at least {self.min_samples} samples, one frame, in {recording.source}, got {recording.num_samples}."
                )
        if self.config.encoder_config is None:
            return [self._score_mfcc(recording) for recording in recordings]
        return super()._score_recordings(recordings, feature_extractor, mode, hop_seconds)

    def _score_mfcc(self, recording: Recording) -> RecordingScores:
        """Score a recording of any length while holding only the mel bands of its middle; the segment is what the head saw."""
        hop, num_frames = self.mfcc.hop_samples, self.mfcc.num_frames(recording.num_samples)
        first_kept = max(0, (num_frames - self.config.num_frames) // 2)
        end_kept = min(num_frames, first_kept + self.config.num_frames)
        firsts = range(0, num_frames, MFCC_FRAMES_PER_CALL)
        lead = self.mfcc.margin // hop + 1  # frames before the first that see the piece's edge instead of the recording
        starts = [max(0, first - lead) * hop for first in firsts]
        piece_samples = (MFCC_FRAMES_PER_CALL + 2 * lead) * hop
        loudest, kept = [], []
        for first, start, piece in zip(firsts, starts, recording.windows(starts, piece_samples), strict=True):
            waveform = torch.from_numpy(piece)[None].to(self.device)
            mel_db = self.mfcc.mel_db(waveform, torch.tensor([len(piece)], device=self.device))
            mel_db = mel_db[:, first - start // hop :][:, : min(MFCC_FRAMES_PER_CALL, num_frames - first)]
            loudest.append(mel_db.max())
            kept.append(mel_db[:, max(0, first_kept - first) : max(0, end_kept - first)])
        mfcc = self.mfcc.cepstrum(torch.cat(kept, dim=1), torch.stack(loudest).max())
        frame_lengths = torch.tensor([mfcc.shape[1]], device=self.device)
        scores = self.score_features([centre_frames(mfcc, frame_lengths, self.config.num_frames)]).cpu().numpy()
        end = recording.num_samples if end_kept == num_frames else end_kept * hop
        return RecordingScores(scores[0], np.array([first_kept * hop]), np.array([end]), scores)


def centre_frames(features: torch.Tensor, frame_lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Return the middle of every row of `(B, F, C)`, or its real frames followed by zero frames: `(B, num_frames, C)`."""
    start = ((frame_lengths - num_frames) // 2).clamp(min=0)
    index = start[:, None] + torch.arange(num_frames, device=features.device)  # (B, N)
    real = index < frame_lengths[:, None]
    index = index.clamp(max=features.shape[1] - 1)[..., None].expand(-1, -1, features.shape[2])
    return features.gather(1, index).masked_fill(~real[..., None], 0.0)


def _orthonormal_cosines(num_bands: int, num_coefficients: int) -> np.ndarray:
    """Return the first coefficients of a DCT-II with orthonormal columns, `(num_bands, num_coefficients)`."""
    angle = np.pi / num_bands * (np.arange(num_bands)[:, None] + 0.5) * np.arange(num_coefficients)
    cosines = np.cos(angle) * np.sqrt(2 / num_bands)
    cosines[:, 0] /= np.sqrt(2)
    return cosines
