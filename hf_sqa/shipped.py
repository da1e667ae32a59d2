"""Recipes, studies and configurations of accelerate that come with the package, by name, from any folder.

In a checkout they lie in `train_scripts/`; a wheel carries them as `hf_sqa/assets/` (see `pyproject.toml`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from hf_sqa.choices import did_you_mean
from hf_sqa.options import parse_yaml

Kind = Literal["recipes", "studies", "accelerate"]
#: What errors call one of a kind, and the command that lists them.
WORDS: dict[str, tuple[str, str]] = {
    "recipes": ("recipe", "hf-sqa train --list` and `hf-sqa distill --list"),
    "studies": ("study", "hf-sqa study --list"),
    "accelerate": ("configuration of accelerate", "hf-sqa train --list"),
}


def shipped_files(kind: Kind) -> dict[str, Path]:
    """The YAML files of a kind that come with the package, by name without suffix, sorted."""
    package = Path(__file__).parent
    folder = package / "assets" / kind
    if not folder.is_dir():
        folder = package.parent / "train_scripts" / kind
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_file(name: str | os.PathLike[str], kind: Kind) -> Path:
    """The YAML file that is meant: a path, or the name of one that comes with the package, with or without `.yaml`.

    Raises:
        FileNotFoundError: If there is neither; the message suggests the nearest name.
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
    """What a file says it is for: its key `about`, or the comment that it begins with, up to the commands there."""
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
