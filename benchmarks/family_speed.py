"""What the other families cost: NISQA beside torchmetrics, MOSA-Net in batches, XLS-R cut at a layer.

    python benchmarks/family_speed.py

CPU time on one thread. NISQA's two sides take turns on the same clips; that part needs `pip install torchmetrics librosa
onnxruntime requests` and the published `nisqa.tar` (`--nisqa`), and says so where they are missing.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from score_speed import RATE, peak_resident_bytes, speech

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


def nisqa(checkpoint: Path, num_clips: int) -> None:
    """Seconds a ten-second clip of NISQA v2 here and in torchmetrics, clips one by one."""
    from hf_sqa.audio import load_recording
    from hf_sqa.models.nisqa.convert_nisqa import convert

    if not checkpoint.is_file() or importlib.util.find_spec("torchmetrics") is None:
        print("NISQA: left out; it needs torchmetrics, librosa, onnxruntime, requests, and --nisqa nisqa.tar")
        return
    cached = Path.home() / ".torchmetrics" / "NISQA" / "nisqa.tar"
    if not cached.is_file():  # where torchmetrics would download it to
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkpoint, cached)
    from torchmetrics.functional.audio.nisqa import non_intrusive_speech_quality_assessment

    model = convert(checkpoint)
    extractor = model.make_feature_extractor()
    clips = speech(10 * num_clips).reshape(num_clips, -1)
    ours, theirs, off = 0.0, 0.0, 0.0
    non_intrusive_speech_quality_assessment(torch.from_numpy(clips[0]), RATE)
    for clip in clips:
        start = time.process_time()
        recording = load_recording(clip, input_sampling_rate=RATE)
        scores = model.score_recordings([recording], extractor)[0].scores
        ours += time.process_time() - start
        start = time.process_time()
        expected = non_intrusive_speech_quality_assessment(torch.from_numpy(clip), RATE).numpy()
        theirs += time.process_time() - start
        off = max(off, float(np.abs(np.sort(scores) - np.sort(expected)).max()))
    print(f"NISQA v2, {num_clips} clips of 10 s, CPU ms a clip, checks of the input included")
    print(f"  torchmetrics {1000 * theirs / num_clips:6.1f}   1.00x")
    print(f"  hf-sqa       {1000 * ours / num_clips:6.1f}  {theirs / ours:5.2f}x   largest difference {off:.1e}")


def mosa_net(batch_size: int, seconds: float) -> None:
    """Seconds a training step of MOSA-Net's full-size trunk takes, one clip and many."""
    from hf_sqa import MOSANet, MOSANetConfig

    torch.manual_seed(0)
    model = MOSANet(MOSANetConfig(precomputed_features=True)).train()
    waveforms = 0.1 * torch.randn(batch_size, round(seconds * RATE))
    frames = round(seconds * RATE) // 320 - 1
    features = torch.randn(batch_size, frames, 1024)
    labels = torch.full((batch_size, 3), 2.0)
    times = {}
    for name, parts in (("one by one", 1), ("one batch", batch_size)):
        start = time.process_time()
        for first in range(0, batch_size, parts):
            rows = slice(first, first + parts)
            model(input_values=waveforms[rows], ssl_features=features[rows], labels=labels[rows]).loss.backward()
        times[name] = time.process_time() - start
    print(f"\nMOSA-Net, training step on {batch_size} clips of {seconds:g} s, features given, CPU s")
    for name, cpu in times.items():
        print(f"  {name:<12} {cpu:6.2f}  {times['one by one'] / cpu:5.2f}x")


def truncated_encoder() -> None:
    """Bytes read and memory taken by layer 5 of an XLS-R 300M with random weights, and by all of it."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with tempfile.TemporaryDirectory() as folder:
        config = Wav2Vec2Config(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, feat_extract_norm="layer",
            do_stable_layer_norm=True, conv_bias=True,
        )  # fmt: skip
        Wav2Vec2Model(config).save_pretrained(folder)
        size = (Path(folder) / "model.safetensors").stat().st_size
        print(f"\nXLS-R 300M, file of {size / 1e6:.0f} MB: memory gained by loading")
        for layer in ("5", "24"):
            child = subprocess.run([sys.executable, __file__, "--load", folder, layer], check=True, capture_output=True, text=True)
            print(f"  up to layer {layer:<3} {child.stdout.splitlines()[-1]}")


def load(folder: str, layer: str) -> None:
    from hf_sqa.blocks.speech_encoder import load_encoder, load_encoder_config

    config = load_encoder_config(folder)
    before = peak_resident_bytes()
    start = time.process_time()
    encoder = load_encoder(folder, config, int(layer))
    touched = sum(float(parameter.sum()) for parameter in encoder.parameters())
    assert np.isfinite(touched)
    gained = peak_resident_bytes() - before
    print(f"{gained / 1e6:6.0f} MB, {time.process_time() - start:.1f} s CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = ROOT.parent / "shared" / "checkpoints" / "nisqa" / "nisqa.tar"
    parser.add_argument("--nisqa", type=Path, default=shared, help="published nisqa.tar")
    parser.add_argument("--clips", type=int, default=60, help="ten-second clips for NISQA")
    parser.add_argument("--batch-size", type=int, default=16, help="clips in MOSA-Net's batch")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(*options.load)
        return
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    nisqa(options.nisqa, options.clips)
    mosa_net(options.batch_size, seconds=4.0)
    truncated_encoder()


if __name__ == "__main__":
    main()
