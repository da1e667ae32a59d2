"""The Python in the pages on corpora runs, and gives what the pages say."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = [
    (page, number, block)
    for page in ("corpus_scoring.md", "engines.md")
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("page, number, block", BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS])
def test_every_block_runs(page, number, block, default_scorer, tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "block.py").write_text(block, encoding="utf-8")

    runpy.run_path(str(tmp_path / "block.py"))

    printed = capsys.readouterr().out
    assert ("['ok', 'failed'] [None, 'missing']" in printed) == (page == "engines.md")
    assert page == "engines.md" or "'ok': 6" in printed
