"""Whisper's encoder on waveforms of any length: log-mel spectra, stretches of 30 s, no frames after the end.

Paper:    Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, arXiv:2212.04356
Code:     the blocks are transformers' `WhisperEncoder`; the spectra are those of its `WhisperFeatureExtractor`
Differs:  the original takes exactly 30 s, and pads what is shorter with silence. Here the frames of this silence are left out,
          and a longer recording is cut into stretches of 30 s, each computed alone, whose frames are joined.
Shapes:   B batch, T samples at 16 kHz, S stretches in a row, N stretches computed, P frames in a stretch, F frames, D hidden size
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import WhisperConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel, sinusoids

from hf_sqa.blocks.mel_bands import slaney_bands
from hf_sqa.blocks.speech_encoder import WHISPER_FRAME_SAMPLES, num_frames_of_samples

#: Rate in Hz that every Whisper was trained at; samples in a spectrum, and between spectra.
SAMPLING_RATE, SPECTRUM_SAMPLES, HOP_SAMPLES = 16_000, 400, 160
#: Smallest power, and how far below the loudest band of a stretch the lowest level lies, in powers of ten.
LEAST_POWER, DYNAMIC_RANGE = 1e-10, 8.0


class WhisperOnWaveforms(WhisperPreTrainedModel):
    """A Whisper's encoder from waveforms to frames of 20 ms.

    Args:
        config (`WhisperConfig`): Configuration of the whole model; the decoder is not built. `max_source_positions` is the number
            of frames in a stretch, 1500 in every published model. With fewer (`encoder_options={"max_source_positions": 384}` for
            7.68 s), less silence is computed after short clips, and the features are slightly different.

    Raises:
        ValueError: If the configuration asks for masked spectra in training, which are not supported here.
    """

    main_input_name = "input_values"

    def __init__(self, config: WhisperConfig):
        super().__init__(config)
        if config.apply_spec_augment:
            raise ValueError(
                "Expected `apply_spec_augment=False` for a whisper encoder, got True: its spectra are not masked in training here. "
                "Set it in `encoder_config`."
            )
        self.encoder = WhisperEncoder(config)
        # NumPy attributes: from_pretrained leaves non-persistent buffers and tensors uninitialised.
        self._window = np.hanning(SPECTRUM_SAMPLES + 1)[:-1].astype(np.float32)
        self._mel_filters = slaney_bands(SPECTRUM_SAMPLES, config.num_mel_bins, SAMPLING_RATE, SAMPLING_RATE / 2)
        self.post_init()

    @property
    def stretch_samples(self) -> int:
        """Samples in a stretch: 480,000, which are 30 s."""
        return self.config.max_source_positions * WHISPER_FRAME_SAMPLES

    @torch.no_grad()
    def takes_positions(self, name: str, published: Any, expected: Any) -> bool:
        """Take the first published positions, which are sines, for shorter stretches; return `False` for any other tensor."""
        if not name.endswith("embed_positions.weight") or published[0] < expected[0] or published[1] != expected[1]:
            return False
        self.encoder.embed_positions.weight.copy_(sinusoids(*expected))
        return True

    def log_mel(self, stretches: torch.Tensor) -> torch.Tensor:
        """Return `WhisperFeatureExtractor`'s spectra `(N, num_mel_bins, 2 * P)` of waveforms `(N, stretch_samples)`, in float32."""
        with torch.autocast(stretches.device.type, enabled=False):
            margin = SPECTRUM_SAMPLES // 2
            padded = F.pad(stretches.float(), (margin, margin), mode="reflect")
            frames = padded.unfold(1, SPECTRUM_SAMPLES, HOP_SAMPLES)[:, :-1]  # (N, 2 P, SPECTRUM_SAMPLES)
            window = torch.from_numpy(self._window).to(stretches.device)
            power = torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(dim=-1)
            mel = power @ torch.from_numpy(self._mel_filters).to(stretches.device)  # (N, 2 P, num_mel_bins)
            logarithms = mel.clamp(min=LEAST_POWER).log10()
            floor = logarithms.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE
            return (torch.maximum(logarithms, floor).transpose(1, 2) + 4.0) / 4.0

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,  # as other encoders take it; the result is always an object
    ) -> BaseModelOutput:
        """Map mono waveforms `(B, T)` at 16 kHz to `T / 320` frames F, rounded up; those of padding are meaningless.

        Attention weights are `(N, heads, P, P)`, for every stretch that holds samples; hidden states are layers 0 to the last one
        built, all before the final norm.
        """
        batch_size, num_samples = input_values.shape
        if attention_mask is not None:  # padding may hold anything
            input_values = torch.where(attention_mask.bool(), input_values, torch.zeros_like(input_values))
        num_stretches = (num_samples + self.stretch_samples - 1) // self.stretch_samples  # ONNX rounds division towards zero
        padded = F.pad(input_values, (0, num_stretches * self.stretch_samples - num_samples))
        stretches = padded.reshape(batch_size * num_stretches, self.stretch_samples)
        holding = None  # indices of the stretches that hold samples, if some do not
        if attention_mask is not None and not torch.compiler.is_exporting() and num_stretches > 1:
            starts = torch.arange(num_stretches, device=input_values.device) * self.stretch_samples
            holding = (starts < attention_mask.sum(dim=1)[:, None]).flatten().nonzero()[:, 0]
            stretches = stretches[holding]

        spectra = self.log_mel(stretches).to(self.encoder.conv1.weight.dtype)
        last_layer: list[torch.Tensor] = []
        norm = self.encoder.layer_norm  # its input is the last layer
        hook = norm.register_forward_pre_hook(lambda _, inputs: last_layer.append(inputs[0])) if output_hidden_states else None
        try:
            outputs = self.encoder(spectra, output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        finally:
            if hook is not None:
                hook.remove()

        def in_rows(frames: torch.Tensor) -> torch.Tensor:
            """Return frames of stretches `(N, P, D)` as frames of recordings `(B, F, D)`."""
            if holding is not None:
                empty = frames.new_zeros(batch_size * num_stretches, *frames.shape[1:])
                frames = empty.index_copy(0, holding, frames)
            rows = frames.reshape(batch_size, num_stretches * frames.shape[1], frames.shape[2])
            return rows[:, : self._get_feat_extract_output_lengths(num_samples)]

        layers = (*outputs.hidden_states[:-1], last_layer[0]) if output_hidden_states else None
        return BaseModelOutput(
            last_hidden_state=in_rows(outputs.last_hidden_state),
            hidden_states=None if layers is None else tuple(in_rows(layer) for layer in layers),
            attentions=outputs.attentions if output_attentions else None,
        )

    def _get_feat_extract_output_lengths(self, input_lengths: Any) -> Any:
        """Return the number of frames for a number of samples (`int` or integer tensor)."""
        return num_frames_of_samples(self.config, input_lengths)
