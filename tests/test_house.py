"""The house rules that a tool can keep."""

import ast
import dataclasses
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from hf_sqa.auto import families
from hf_sqa.hub.doc_tables import HEADER_FIELDS, TABLES, provenance, updated
from hf_sqa.options import parse_yaml

ROOT = Path(__file__).parents[1]
PYTHON_FILES = sorted((ROOT / "hf_sqa").rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_file_is_a_drawer():
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "core"}

    assert not [path for path in ROOT.glob("hf_sqa/**/*") if path.stem in drawers]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_the_models_folder_lists_the_families_and_nothing_else():
    folders = {path.name for path in (ROOT / "hf_sqa" / "models").iterdir() if path.is_dir() and path.name != "__pycache__"}

    assert folders == set(families())


@pytest.mark.parametrize("model_type", list(families()))
def test_every_family_has_the_same_files_and_a_full_header(model_type):
    config_class, model_class = families()[model_type]
    folder = ROOT / "hf_sqa" / "models" / model_type

    assert (folder / f"configuration_{model_type}.py").is_file()
    assert (folder / f"modeling_{model_type}.py").is_file()
    assert "register_family(" in (folder / "__init__.py").read_text(encoding="utf-8").splitlines()[-1]
    missing = [field for field in HEADER_FIELDS if not provenance(model_class).get(field)]
    assert not missing, f"modeling_{model_type}.py: the header lacks {missing}"
    assert config_class.__name__ == model_class.__name__ + "Config"


@pytest.mark.parametrize("model_type", list(families()))
def test_every_family_has_a_recipe_and_a_card(model_type):
    recipes = [parse_yaml(path.read_text(encoding="utf-8")) for path in (ROOT / "train_scripts" / "recipes").glob("*.yaml")]
    cards = [path.read_text(encoding="utf-8") for path in (ROOT / "model_cards").glob("*.md")]
    class_name = families()[model_type][1].__name__

    assert any(recipe.get("model", {}).get("family") == model_type or "student" in recipe for recipe in recipes)
    assert any(class_name in card for card in cards)


@pytest.mark.parametrize("model_type", list(families()))
def test_documented_defaults_are_the_real_ones(model_type):
    config_class, _ = families()[model_type]
    config = config_class()
    own = {field.name for field in dataclasses.fields(config_class)} & set(config_class.__annotations__)
    documented = dict(re.findall(r"^\s*(\w+) \(`[^)]*?defaults to `([^`]*)`\)", inspect.getdoc(config_class), re.MULTILINE))

    described = set(re.findall(r"^\s*(\w+) \(`", inspect.getdoc(config_class), re.MULTILINE))
    assert own - described == set(), "options without a line in the docstring"
    for name, text in documented.items():
        default = ast.literal_eval(text)
        real = getattr(config, name)
        assert (list(real) if isinstance(real, (list, tuple)) else real) == (
            list(default) if isinstance(default, (list, tuple)) else default
        ), name


@pytest.mark.parametrize("name", TABLES)
def test_the_generated_tables_are_up_to_date(name):
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")

    assert updated(page, name) == page, "run `python -m hf_sqa.hub.doc_tables`"


PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("scoring", "reading_scores", "models", "metrics"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{index}")
    for page in PAGES
    for index, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_python_block_of_the_first_pages_runs(block, default_scorer, tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")

    runpy.run_path(str(script))

    printed = capsys.readouterr().out
    promised = [float(number) for number in re.findall(r"# \{'mos': ([\d.]+)\}", block)]
    if promised:
        assert [float(number) for number in re.findall(r"'mos': ([\d.]+)", printed)] == pytest.approx(promised, abs=2e-3)


def test_the_help_comes_before_torch():
    code = (
        "import sys, hf_sqa_command; sys.argv = ['hf-sqa', '--help']\n"
        "try: hf_sqa_command.main()\n"
        "except SystemExit: print('torch' in sys.modules, 'transformers' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "Scores recordings" in result.stdout
    assert result.stdout.split()[-2:] == ["False", "False"]


def test_the_help_comes_before_torch_by_python_m_too():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hf_sqa", "--help"], capture_output=True, text=True, check=True
    )

    imported = {line.rsplit("|", 1)[1].strip() for line in result.stderr.splitlines() if "|" in line}
    assert "Scores recordings" in result.stdout
    assert "hf_sqa.cli" in imported and not {"torch", "transformers"} & imported


def test_no_module_of_ours_is_imported_by_name():
    """Such an import is an arrow that the contracts on imports cannot see."""
    by_name = {"import_module", "__import__"}
    allowed = {
        "hf_sqa/extras.py",
        "hf_sqa/training/run.py",
    }  # look whether another package is installed
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PYTHON_FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", None) in by_name or getattr(node.func, "attr", None) in by_name)
        and path.relative_to(ROOT).as_posix() not in allowed
    ]

    assert not calls


def test_nothing_names_a_machine():
    pattern = re.compile(r"/(work|root|home)/\w")
    files = [
        path
        for folder in ("hf_sqa", "tests", "docs", "examples", "benchmarks", "model_cards", "train_scripts")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md", ".json", ".yaml", ".toml"}
    ]

    assert not [path for path in files if path != Path(__file__) and pattern.search(path.read_text(encoding="utf-8"))]


# ---- Rooms of a size to live in

MOST_LINES_OF_A_MODULE, MOST_LINES_OF_A_FUNCTION = 600, 100


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Lines of a function with its signature, without its docstring, comments and empty lines."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    left_out = range(docstring.lineno, docstring.end_lineno + 1) if docstring is not None else ()
    lines = [source[line - 1].strip() for line in range(function.lineno, function.end_lineno + 1) if line not in left_out]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def test_no_module_and_no_function_is_too_large_to_read():
    too_large = []
    for path in PYTHON_FILES:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        source = text.splitlines()
        if len(source) > MOST_LINES_OF_A_MODULE:
            too_large.append(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node, source) > MOST_LINES_OF_A_FUNCTION:
                too_large.append(f"{name}: {node.name}")

    assert too_large == [], "split modules by what they do, and name the steps of functions"


def test_the_lines_of_a_function_are_counted_without_what_explains_them():
    text = 'def f(\n    a,\n):\n    """Two\n\n    lines."""\n    # why\n\n    return a\n'

    assert code_lines(ast.parse(text).body[0], text.splitlines()) == 4
