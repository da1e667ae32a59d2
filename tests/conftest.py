"""Every test runs offline, on one thread, with a cache of its own."""

import ctypes.util
import functools
import gc
import os
import random
import shutil
import tempfile
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    HF_HOME=tempfile.mkdtemp(prefix="hf-sqa-tests-"),
)

import numpy as np
import pytest
import torch
from filelock import FileLock
from transformers.utils import logging

from tests.processes import Nursery

HOME = os.environ["HF_HOME"]
torch.set_num_threads(1)
logging.disable_progress_bar()

SHARED = Path(__file__).parents[2] / "shared"
#: Files whose tests take seconds each and share nothing that is costly to make.
APART = {
    "degradations": ("test_degrade_command",),
    "hub": ("test_bundle", "test_pull"),
    "pipelines": ("test_memory",),
    "scoring": ("test_command", "test_decoding", "test_processes", "test_run"),
    "studies": ("test_distillation_study", "test_paper_studies", "test_paper_three"),
    "training": ("test_distributed", "test_every_family_trains", "test_resume", "test_trainer"),
    "": ("test_gpu_page", "test_notebooks"),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of a file run in one process, which makes once what they share; those of `APART` come first, wherever there is room.

    Files with few tests come last, so that all processes end at about the same time.
    """
    from xdist.scheduler import LoadScopeScheduling

    apart = {Path("tests", folder, f"{name}.py").as_posix() for folder, names in APART.items() for name in names}
    absent = [name for name in apart if not (config.rootpath / name).is_file()]
    assert not absent, f"APART names files that are not there: {absent}"

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return nodeid if file in apart else file

        def _assign_work_unit(self, node):
            if slow := next((scope for scope in self.workqueue if "::" in scope), None):
                self.workqueue.move_to_end(slow, last=False)
            super()._assign_work_unit(node)  # the first; files are sorted by the number of their tests

    return Scheduling(config, log)


def pytest_unconfigure():
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What a test or its fixtures draw without a generator of their own does not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collecting tests imports a million objects, none of which is garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        keep_what_is_there()
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_through():
    """Tests import more, and cache it."""
    if len(gc.get_objects(generation=2)) > 20_000:
        keep_what_is_there()


def keep_what_is_there():
    """What is imported stays: every training run collects garbage, and would look through a million objects for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of rated speech and reference numbers beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder shared/ beside the project: rated speech and reference numbers")
    return SHARED


@pytest.fixture(scope="session")
def default_scorer():
    """The audio-quality pipeline with the published default weights."""
    import hf_sqa

    try:
        return hf_sqa.pipeline(device="cpu")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    """Starts processes that have imported everything: see `tests.processes.Nursery`."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery-home"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def bare_nursery(tmp_path_factory):
    """The same for processes that are to import transformers and hf_sqa themselves; what else costs seconds they have."""
    modules = ("torch", "torch._dynamo", "torch.distributed.tensor", "scipy.optimize", "huggingface_hub", "tokenizers")
    nursery = Nursery(tmp_path_factory.mktemp("bare-nursery-home"), *modules)
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)`: a folder that `make(folder)` fills, once for all workers of a run; tests leave it as it is."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers

    def folder(name: str, make) -> Path:
        whole, part = root / f"once-{name}", root / f"once-{name}.part"
        with FileLock(root / f"once-{name}.lock"):
            if not whole.exists():
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                make(part)
                part.rename(whole)
        return whole

    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def speech_like(rng):
    """`speech_like(seconds, sampling_rate)`: a voiced tone with syllables and some noise, float32, peak near 0.5."""

    def make(seconds: float, sampling_rate: int = 16_000) -> np.ndarray:
        voice = voiced(round(seconds * sampling_rate), sampling_rate)
        return (voice + 0.005 * rng.standard_normal(len(voice))).astype(np.float32)

    return make


@functools.lru_cache(maxsize=32)
def voiced(num_samples: int, sampling_rate: int) -> np.ndarray:
    """A tone of thirty harmonics with syllables."""
    time = np.arange(num_samples) / sampling_rate
    voice = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 30))
    syllables = 0.5 * (1 - np.cos(2 * np.pi * 4 * time)) * (time % 2 < 1.7)
    return 0.15 * voice * syllables


@pytest.fixture
def no_libraries(monkeypatch):
    """A machine without shared libraries and without ffmpeg."""
    from hf_sqa.degradations.codec.shared_library import load_library

    def missing(name, *arguments, **options):
        raise OSError(f"{name}: cannot open shared object file")

    load_library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    yield
    load_library.cache_clear()


@pytest.fixture(scope="session")
def make_tiny():
    """`make_tiny(**options)`: a random DistilledSQA, windows of 0.64 s, whose scores differ between recordings."""
    from hf_sqa import DistilledSQA, DistilledSQAConfig

    def make(seed: int = 0, **options):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = DistilledSQA(DistilledSQAConfig.tiny(**options)).eval()
            # A head as initialised hardly tells recordings apart: without this, equal scores prove nothing.
            model.transformer.pooling.score_head.weight.mul_(5)
            for layer in model.trunk.layers:
                layer.bias.normal_(std=0.1)
            for norm in (model.transformer.feature_norm, model.transformer.projection_norm, model.transformer.pooling_norm):
                norm.running_mean.normal_(std=0.3)
                norm.running_var.uniform_(0.5, 2)
        return model

    return make


@pytest.fixture(scope="session")
def tiny_folder(make_tiny, tmp_path_factory) -> Path:
    """The tiny model as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("tiny-checkpoint")
    model = make_tiny()
    model.save_pretrained(folder)
    model.make_feature_extractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_scorer(tiny_folder):
    """The audio-quality pipeline with the tiny model."""
    import hf_sqa

    return hf_sqa.pipeline(str(tiny_folder), device="cpu")


@pytest.fixture(scope="session")
def exported(make_tiny, once):
    """`exported(kind)`: a folder with the weights of a tiny model in `weights` and its graphs in `float32` and `int8`.

    The kind `"student"` has mel bands and windows side by side, the kind `"published"` is as the published model.
    """
    # Large enough that 8 bits have something to round.
    wide = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 64}
    bands = {"num_mel_bins": 20, "num_conv_layers": 3, "conv_layer_channels": [4, 6, 8], "hop_samples": 10_240}
    models = {"student": {"seed": 3, **wide, **bands}, "published": {"seed": 6, **wide}}

    def make(kind: str) -> Path:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")
        from hf_sqa.export.int8 import quantize
        from hf_sqa.export.onnx import GRAPH_FILE, export_onnx

        def fill(folder: Path) -> None:
            model = make_tiny(**models[kind])
            with torch.no_grad():
                model.transformer.pooling.score_head.weight.mul_(0.2)  # away from the ends of the scale, where the sigmoid is flat
            model.save_pretrained(folder / "weights")
            model.make_feature_extractor().save_pretrained(folder / "weights")
            export_onnx(model, folder / "float32")
            # As `export_onnx(int8=True)` does, without tracing the same graph again; the command does it in the tests of exports.
            shutil.copytree(folder / "float32", folder / "int8")
            quantize(folder / "float32" / GRAPH_FILE, folder / "int8" / GRAPH_FILE)

        return once(f"exported-{kind}", fill)

    return make


@pytest.fixture(scope="session")
def page_of_xs(once) -> Path:
    """A folder with the page of the smallest student, which has a head for local quality and intervals, and all its graphs."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx: pip install 'hf-sqa[onnx]'")

    def fill(folder: Path) -> None:
        import hf_sqa
        from hf_sqa.export.onnx import export_onnx
        from hf_sqa.export.page import write_page

        model = hf_sqa.pipeline("distilled-sqa-xs", device="cpu").model
        write_page(model, folder)
        export_onnx(model, folder)

    return once("page-of-xs", fill)
