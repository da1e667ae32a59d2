"""What the other families cost: NISQA and DNSMOS beside other packages, MOSA-Net in batches, XLS-R cut at a layer.

    python benchmarks/family_speed.py

CPU time on one thread. NISQA's two sides take turns on the same clips; that part needs `pip install torchmetrics librosa
onnxruntime requests` and the published `nisqa.tar` (`--nisqa`), and says so where they are missing. DNSMOS takes turns with the
package `speechmos` in the same way; that part needs `pip install speechmos librosa onnxruntime requests tqdm`, and `--p808 FOLDER`
adds the files and ratings of P.808.
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
from machine import print_machine
from score_speed import RATE, peak_resident_bytes, speech
from torch.utils.flop_counter import FlopCounterMode

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
    with FlopCounterMode(display=False) as counter:
        model.score_recordings([load_recording(clips[0], input_sampling_rate=RATE)], extractor)
    operations, rate = counter.get_total_flops(), matrix_rate()
    at_rate = f"{1000 * operations / rate:.0f} ms at the {rate / 1e9:.0f} GFLOPS of matrix products in this process"
    print(f"  arithmetic of hf-sqa: {operations / 1e9:.1f} GFLOP, {at_rate}")


def dnsmos(p808: Path | None) -> None:
    """Seconds a clip of DNSMOS takes here and in the package `speechmos`, clips one by one, each package once a clip in turn."""
    if missing := [name for name in ("speechmos", "librosa", "onnxruntime") if importlib.util.find_spec(name) is None]:
        print(f"\nDNSMOS: left out; it needs {', '.join(missing)}")
        return
    import onnxruntime
    import soundfile

    from hf_sqa.audio import load_recording
    from hf_sqa.models.dnsmos.convert_dnsmos import convert

    session = onnxruntime.InferenceSession
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    onnxruntime.InferenceSession = lambda path: session(path, options)  # the package would take all cores
    from speechmos import dnsmos as package

    model = convert()
    extractor = model.make_feature_extractor()

    def both(clip: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
        start = time.process_time()
        theirs = package.run(clip, RATE)
        middle = time.process_time()
        recording = load_recording(clip, input_sampling_rate=RATE)
        ours = model.score_recordings([recording], extractor)[0].scores
        end = time.process_time()
        expected = np.array([theirs[f"{name.removesuffix('_mos')}_mos"] for name in model.config.score_names])
        return middle - start, end - middle, ours, expected

    print("\nDNSMOS, CPU s a clip, checks of the input included, least of 3; and the largest difference of a score")
    both(speech(3.0))
    for seconds in (3.0, 5.005, 8.0, 10.0, 15.0, 30.0, 60.0):
        runs = [both(speech(seconds)) for _ in range(3)]
        theirs, ours = min(run[0] for run in runs), min(run[1] for run in runs)
        off = max(float(np.abs(run[2] - run[3]).max()) for run in runs)
        print(f"  {seconds:6.3f} s   speechmos {theirs:6.2f}   hf-sqa {ours:6.2f}  {theirs / ours:5.2f}x   {off:.1e}")
    with FlopCounterMode(display=False) as counter:  # with gradients on, so by the definition of a convolution
        model.score_windows(torch.zeros(1, model.config.window_samples))
    operations, rate = counter.get_total_flops(), matrix_rate()
    at_rate = f"{operations / rate:.2f} s at the {rate / 1e9:.0f} GFLOPS of matrix products in this process"
    print(f"  a window by definition: {operations / 1e9:.1f} GFLOP, {at_rate}")
    if p808 is not None:
        import csv

        from scipy.stats import spearmanr

        with (p808 / "labels.csv").open() as file:
            rows = list(csv.DictReader(file))
        runs = [both(soundfile.read(p808 / row["filepath"], dtype="float32")[0]) for row in rows]
        theirs, ours = sum(run[0] for run in runs), sum(run[1] for run in runs)
        off = max(float(np.abs(run[2] - run[3]).max()) for run in runs)
        print(f"  {len(rows)} clips of P.808   speechmos {theirs:.1f}   hf-sqa {ours:.1f}  {theirs / ours:.2f}x   {off:.1e}")
        for column, (name, rated) in enumerate(zip(model.config.score_names, ("sig", "bak", "mos", "mos"), strict=True)):
            truth = [float(row[rated]) for row in rows]
            here, there = (spearmanr([run[side][column] for run in runs], truth).statistic for side in (2, 3))
            print(f"    {name:<8} against {rated}: rank correlation {there:.4f} speechmos, {here:.4f} hf-sqa")


def matrix_rate(size: int = 1024, rounds: int = 10) -> float:
    """Operations a second, multiplications and additions, in products of large matrices in float32: the fastest of some."""
    left, right = torch.randn(2, size, size)
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        torch.mm(left, right)
        times.append(time.process_time() - start)
    return 2 * size**3 / min(times)


def mosa_net(batch_size: int, seconds: float) -> None:
    """Seconds that MOSA-Net's full-size trunk takes, to train and to score, one clip and many; and what arithmetic would take."""
    from hf_sqa import MOSANet, MOSANetConfig

    torch.manual_seed(0)
    model = MOSANet(MOSANetConfig(precomputed_features=True))
    waveforms = 0.1 * torch.randn(batch_size, round(seconds * RATE))
    frames = round(seconds * RATE) // 320 - 1
    features = torch.randn(batch_size, frames, 1024)
    labels = torch.full((batch_size, 3), 2.0)

    def train(rows: slice) -> None:
        model.train()
        model(input_values=waveforms[rows], ssl_features=features[rows], labels=labels[rows]).loss.backward()

    def score(rows: slice) -> None:
        with torch.inference_mode():
            model.eval()(input_values=waveforms[rows], ssl_features=features[rows])

    print(f"\nMOSA-Net, {batch_size} clips of {seconds:g} s, features given, CPU s")
    rate = matrix_rate()
    for name, run in (("training step", train), ("scoring", score)):
        with FlopCounterMode(display=False) as counter:
            run(slice(0, 1))
        times = {}
        for way, rows in (("one by one", 1), ("one batch", batch_size)):
            start = time.process_time()
            for first in range(0, batch_size, rows):
                run(slice(first, first + rows))
            times[way] = time.process_time() - start
        bound = batch_size * counter.get_total_flops() / rate
        for way, cpu in times.items():
            print(f"  {name:<14} {way:<11} {cpu:6.2f}  {times['one by one'] / cpu:5.2f}x")
        print(f"  {name:<14} arithmetic  {bound:6.2f}, at the {rate / 1e9:.0f} GFLOPS of matrix products in this process")


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
    parser.add_argument("--p808", type=Path, help="folder with labels.csv and clips of P.808, for DNSMOS")
    parser.add_argument("--only", choices=["nisqa", "dnsmos", "mosa_net", "xls_r"], help="one part")
    parser.add_argument("--batch-size", type=int, default=16, help="clips in MOSA-Net's batch")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(*options.load)
        return
    print_machine()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    parts = {
        "nisqa": lambda: nisqa(options.nisqa, options.clips),
        "dnsmos": lambda: dnsmos(options.p808),
        "mosa_net": lambda: mosa_net(options.batch_size, seconds=4.0),
        "xls_r": truncated_encoder,
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()
