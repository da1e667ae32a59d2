"""Lyra v2 (Google, 2022), a generative speech coder: SoundStream's encoder, residual quantisers and a generator, by LiteRT."""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.choices import check_choice
from hf_sqa.degradations.codec.frames import coded_at, coded_in_frames
from hf_sqa.degradations.codec.shared_library import CodecUnavailableError
from hf_sqa.degradations.kind import degradation
from hf_sqa.extras import import_extra

RATE, FRAME = 16000, 320
#: Each quantiser codes a frame of 20 ms in 4 bits.
NUM_QUANTIZERS = {3.2: 16, 6: 30, 9.2: 46}
NETWORKS = ("soundstream_encoder", "quantizer", "lyragan")
FOLDER_VARIABLE = "HF_SQA_LYRA"


@degradation(requires=lambda parameters: (_find_folder(parameters.get("networks")), _interpreter_class()))
def lyra(waveform: np.ndarray, sampling_rate: int, *, bitrate_kbps: float = 6, networks: str | None = None) -> np.ndarray:
    """Code with Lyra v2, a generative coder, at 16 kHz in frames of 20 ms; other rates are resampled.

    Args:
        bitrate_kbps (`float`, *optional*, defaults to `6`): 3.2, 6 or 9.2 kb/s.
        networks (`str`, *optional*): Folder of the coder's three networks, `soundstream_encoder.tflite`, `quantizer.tflite` and
            `lyragan.tflite` of https://github.com/google/lyra (Apache-2.0); by default the one that the environment variable
            `HF_SQA_LYRA` names.

    Raises:
        CodecUnavailableError: If the networks or the package `ai-edge-litert` are missing.
    """
    check_choice("bitrate_kbps", bitrate_kbps, tuple(NUM_QUANTIZERS))
    # New networks for every recording: what is left after resetting their variables is audible for 300 ms.
    folder = _find_folder(networks)
    encoder, quantizer, generator = (_interpreter_class()(str(folder / f"{name}.tflite"), num_threads=1) for name in NETWORKS)
    for network in (encoder, quantizer, generator):
        network.allocate_tensors()
    num_quantizers = np.int32(NUM_QUANTIZERS[bitrate_kbps])
    quantize, restore = quantizer.get_signature_runner("encode"), quantizer.get_signature_runner("decode")

    def code(samples: np.ndarray, is_lost: bool) -> np.ndarray:
        features = _run(encoder, samples[None])
        quantized = quantize(num_quantizers=num_quantizers, input_frames=features)
        indices = next(output for output in quantized.values() if output.dtype == np.int32)
        return _run(generator, restore(encoding_indices=indices)["output_0"])[0]

    no_loss = functools.partial(np.zeros, dtype=bool)
    return coded_at(waveform, sampling_rate, RATE, lambda samples: coded_in_frames(samples, FRAME, 0, no_loss, code))


def _run(network: Any, given: np.ndarray) -> np.ndarray:
    network.set_tensor(network.get_input_details()[0]["index"], given)
    network.invoke()
    return np.array(network.get_tensor(network.get_output_details()[0]["index"]))


def _interpreter_class() -> Any:
    return import_extra("ai_edge_litert.interpreter", "The codec 'lyra'", "lyra", error=CodecUnavailableError).Interpreter


def _find_folder(networks: str | None) -> Path:
    folder = networks or os.environ.get(FOLDER_VARIABLE)
    missing = [f"{name}.tflite" for name in NETWORKS if folder is None or not (Path(folder) / f"{name}.tflite").is_file()]
    if folder is None or missing:
        raise CodecUnavailableError(
            f"The codec 'lyra' needs {', '.join(missing)}, got {f'a folder without them, {folder!r}' if folder else 'no folder'}; "
            "take them from lyra/model_coeffs of https://github.com/google/lyra (in a clone of hf_sqa, `sh "
            f"train_scripts/neural_coders.sh` fetches them), and name their folder by `networks` or the environment variable "
            f"{FOLDER_VARIABLE}."
        )
    return Path(folder)
