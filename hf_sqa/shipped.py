"""Finds recipes, studies and configurations of accelerate that come with the package, by name.

In a checkout they are in `train_scripts/`; a wheel has them in `hf_sqa/assets/` (see `pyproject.toml`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from hf_sqa.choices import did_you_mean
from hf_sqa.options import parse_yaml

Kind = Literal["recipes", "studies", "accelerate"]
#: For each kind, its name in errors, and the command that lists its files.
WORDS: dict[str, tuple[str, str]] = {
    "recipes": ("recipe", "hf-sqa train --list` and `hf-sqa distill --list"),
    "studies": ("study", "hf-sqa study --list"),
    "accelerate": ("configuration of accelerate", "hf-sqa train --list"),
}


def shipped_files(kind: Kind) -> dict[str, Path]:
    """Return the YAML files of a kind that come with the package, by name without suffix, sorted."""
    package = Path(__file__).parent
    folder = package / "assets" / kind
    if not folder.is_dir():
        folder = package.parent / "train_scripts" / kind
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_file(name: str | os.PathLike[str], kind: Kind) -> Path:
    """Find a YAML file by its path, or by its name if it comes with the package, with or without `.yaml`.

    Raises:
        FileNotFoundError: If neither exists; the message suggests the nearest name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = shipped_files(kind)
    if path.parent == Path() and path.name.removesuffix(".yaml") in known:
        return known[path.name.removesuffix(".yaml")]
    word, command = WORDS[kind]
    raise FileNotFoundError(
        f"Expected a {word} by its name or as a YAML file, but there is no file {os.fspath(name)!r}, and none of that "
        f"name comes with hf-sqa{did_you_mean(path.name.removesuffix('.yaml'), known)} Those that do are listed by `{command}`."
    )


def about(path: Path) -> str:
    """Return the description in a file: its key `about`, or its first comment, up to the commands in it."""
    text = path.read_text(encoding="utf-8")
    content = parse_yaml(text, repr(str(path)))
    if isinstance(content, dict) and content.get("about"):
        return " ".join(str(content["about"]).split())
    lines = []
    for line in text.splitlines():
        words = line.removeprefix("# ")
        label = words.partition(" ")[0]
        if not line.startswith("# ") or words.startswith(" ") or (label.istitle() and label.endswith(":")):
            break
        lines.append(words.strip())
    return " ".join(lines).rstrip(":")
