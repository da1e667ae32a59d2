"""Extras: a command that lacks its packages says so, in the same words, and the page that lists them is whole."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_sqa.cli import app

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.mark.parametrize(
    ("arguments", "extra", "package"),
    [
        (["train", "w2v-ger"], "train", "accelerate"),
        (["distill", "distilled_sqa-s"], "train", "datasets"),
        (["study", "mtq_losses", "--output", "out"], "train", "accelerate"),
        (["finetune", "--train", "mine.csv", "--output", "out"], "train", "datasets"),
        (["pseudo-label", "mine.csv", "--teacher", "default", "-o", "labels.csv"], "train", "datasets"),
        (["evaluate", "mine.csv"], "train", "evaluate"),
        (["score", "examples", "--output", "out/"], "corpus", "pyarrow"),
        (["score", "a.wav", "--output", "out.parquet"], "corpus", "pyarrow"),
        (["report", "out"], "corpus", "pyarrow"),
        (["filter", "out", "--min-mos", "3"], "corpus", "pyarrow"),
        (["demo"], "demo", "gradio"),
        (["demo", "--mcp"], "mcp", "mcp"),
        (["serve"], "serve", "prometheus_client"),
        (["export", "onnx", "out", "--model", "distilled-sqa-xs"], "onnx", "onnxscript"),
        (["corpus", "build", "bench", "out", "--labels", "pesq"], "labels", "pesq"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_a_command_without_its_extra_says_which_it_needs(arguments, extra, package, tmp_path, monkeypatch):
    (tmp_path / "mine.csv").write_text("audio,mos\na.wav,3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.parquet", None)

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 2, result.output
    assert f"needs the extra `{extra}`: `pip install 'hf-sqa[{extra}]'`" in result.stderr


def test_extras_that_are_named_exist():
    place = {"needs_extra": 1, "need_extra": 1, "import_extra": 2}  # of the extra among the arguments
    calls = [
        node
        for path in (ROOT / "hf_sqa").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in place
    ]
    named = {call.args[place[call.func.id]] for call in calls}
    named = {extra.value for extra in named if isinstance(extra, ast.Constant)}

    assert {"train", "corpus", "onnx", "demo"} <= named <= set(EXTRAS)


def test_the_page_on_installing_lists_every_extra():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = {extra for line in page.splitlines() if line.startswith("|") for extra in re.findall(r"`(\w+)` \|$", line)}

    assert rows == set(EXTRAS) - {"all"}


def test_all_has_all():
    assert set(re.search(r"\[(.*)\]", EXTRAS["all"][0])[1].split(",")) == set(EXTRAS) - {"all"}


@pytest.mark.parametrize(
    "code",
    ["import hf_sqa, transformers", "import hf_sqa; hf_sqa.pipeline", "import hf_sqa_command; hf_sqa_command.main()"],
    ids=["transformers", "pipeline", "command"],
)
def test_a_torchaudio_that_does_not_load_is_named_with_what_to_do(code, tmp_path):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    (tmp_path / "torchaudio-2.0.dist-info").mkdir()
    (tmp_path / "torchaudio-2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.0\n")
    (tmp_path / "torchaudio-2.0.dist-info" / "RECORD").write_text("torchaudio/__init__.py,,\n")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])

    arguments = [sys.executable, "-c", f"import sys; sys.argv = ['hf-sqa', 'score', 'a.wav']; {code}"]
    result = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})

    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "torchaudio 2.0 does not load beside torch" in last and "pip uninstall torchaudio" in last
