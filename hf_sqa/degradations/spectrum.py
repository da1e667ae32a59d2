"""Short-time spectra and back: square-root Hann windows that overlap by half or more, perfect reconstruction."""

import numpy as np
import scipy.fft


class ShortTimeSpectrum:
    """Analysis and synthesis of waveforms of one length; a frame has `window` samples, an even multiple of `hop`."""

    def __init__(self, num_samples: int, window: int, hop: int):
        assert window % 2 == 0 and (window // 2) % hop == 0, (window, hop)
        self.num_samples, self.window, self.hop = num_samples, window, hop
        self.num_frames = -(-(num_samples + window) // hop)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        # Squares of the window add up to `window / (2 hop)` at every sample.
        self._taper = np.sqrt(hann * 2 * hop / window).astype(np.float32)

    def analyse(self, waveform: np.ndarray) -> np.ndarray:
        """Return spectra of shape `(num_frames, window / 2 + 1)`, complex64."""
        padded = np.zeros(self.num_frames * self.hop + self.window, np.float32)
        padded[self.window : self.window + self.num_samples] = waveform
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.window)[self.hop :: self.hop][: self.num_frames]
        return scipy.fft.rfft(frames * self._taper, axis=1)

    def synthesise(self, spectra: np.ndarray) -> np.ndarray:
        """Return the waveform of shape `(num_samples,)` whose spectra are nearest to `spectra` in the mean square."""
        frames = scipy.fft.irfft(spectra, self.window, axis=1) * self._taper
        overlap = self.window // self.hop
        blocks = frames.reshape(self.num_frames, overlap, self.hop)
        summed = np.zeros((self.num_frames + overlap, self.hop), np.float32)
        for part in range(overlap):
            summed[part : part + self.num_frames] += blocks[:, part]
        start = self.window - self.hop
        return summed.reshape(-1)[start : start + self.num_samples]


def frame_size(sampling_rate: int, milliseconds: float, divisor: int = 4) -> int:
    """Return the number of samples in about `milliseconds`: a multiple of `divisor` that suits the fast Fourier transform."""
    return divisor * int(scipy.fft.next_fast_len(max(1, round(sampling_rate * milliseconds / 1000 / divisor))))
