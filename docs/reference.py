"""The API reference: a page for each room of the package, made from its docstrings.

Docstrings are Markdown with the sections of Hugging Face (`Args:`, `Returns:`, `Raises:`). Sections become lists. References
such as [`pipeline`] or [`~hf_sqa.data.load_corpus`] become links; one that leads nowhere is a warning, which fails the build.
A field of a class is described there, or by a comment beside it or above.
"""

import io
import logging
import re
import textwrap
import tokenize
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File

from hf_sqa.degradations import KINDS

PACKAGE = "hf_sqa"
#: Rooms without a page: commands say what they do by --help.
LEFT_OUT = {"__init__", "__main__", "__pycache__", "assets", "cli"}
REFERENCE = re.compile(r"\[`(~?)([A-Za-z_][\w.]*)`\](?![(\[])")
SECTION = re.compile(r"(Args(?: \([^)]*\))?|Returns|Raises|Yields):")
ITEM = re.compile(r"( {4})([\w*, ]+)( \(.*?\))?: (.*)")
log = logging.getLogger("mkdocs.plugins.reference")


def on_config(config: Any) -> Any:
    """Put the pages into the table of contents."""
    config.nav = [*config.nav, {"API reference": [f"reference/{room}.md" for room in _rooms(config)]}]
    return config


def on_files(files: Any, config: Any) -> Any:
    for room in _rooms(config):
        content = f"# {PACKAGE}.{room}\n\n::: {PACKAGE}.{room}\n"
        files.append(File.generated(config, f"reference/{room}.md", content=content))
    return files


def _rooms(config: Any) -> list[str]:
    folder = Path(config.config_file_path).parent / PACKAGE
    return sorted({path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"} - LEFT_OUT)


class MarkdownDocstrings(griffe.Extension):
    """Rewrites every docstring of the package as Markdown with links."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        if pkg.name != PACKAGE:
            return
        objects = {item.path: item for item in _walk(pkg)}
        by_name: dict[str, list[str]] = {}
        for path in objects:
            parts = path.split(".")
            for depth in range(1, len(parts)):
                by_name.setdefault(".".join(parts[-depth:]), []).append(path)
        for item in objects.values():
            if item.is_module:
                item.exports = None  # what a room exports is shown once, where it is defined
            if item.is_attribute and item.docstring is None and _describes_fields_beside_them(item.parent):
                item.docstring = griffe.Docstring(_comment(item), parent=item)
            if item.docstring is not None:
                if item.path.startswith(f"{PACKAGE}.degradations.") and item.name in KINDS:
                    item.docstring.value = str(KINDS[item.name].__doc__)  # with the parameters that kinds share
                item.docstring.value = _linked(_listed(item.docstring.value), item, objects, by_name)


def _walk(parent: Any) -> Any:
    """All objects that have a page: public, and not imported from elsewhere."""
    for name, item in parent.members.items():
        if not item.is_alias and not name.startswith("_") and item.path.split(".")[1] not in LEFT_OUT:
            yield item
            yield from _walk(item)


def _describes_fields_beside_them(parent: Any) -> bool:
    return parent.is_class and "dataclass" in parent.labels and "Args:" not in getattr(parent.docstring, "value", "")


def _comment(field: Any) -> str:
    """The comments above a field and beside it."""
    lines = field.lines_collection[field.filepath]
    start = field.lineno - 1
    while lines[start - 1].lstrip().startswith("#"):
        start -= 1
    code = textwrap.dedent("\n".join(lines[start : field.endlineno]) + "\n")
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return " ".join(token.string.lstrip("#: ") for token in tokens if token.type == tokenize.COMMENT)


def _linked(text: str, item: Any, objects: dict[str, Any], by_name: dict[str, list[str]]) -> str:
    def link(match: re.Match[str]) -> str:
        short, name = match.groups()
        shown = name.rsplit(".", 1)[-1] if short else name
        imported = _imported(name, item)
        if imported and not imported.startswith(f"{PACKAGE}."):  # a class of another package
            return f"`{shown}`"
        target = _target(imported or name, item, objects, by_name)
        if target is None:
            log.warning("%s: the reference [`%s`] leads nowhere", item.path, name)
            return f"`{shown}`"
        return f"[`{shown}`][{target}]"

    return REFERENCE.sub(link, text)


def _target(name: str, item: Any, objects: dict[str, Any], by_name: dict[str, list[str]]) -> str | None:
    """Path of what a reference means: in full, a name of the docstring's own module, or the only one of that name."""
    if name in objects:
        return name
    scope = item.path
    while scope:
        if f"{scope}.{name}" in objects:
            return f"{scope}.{name}"
        scope = scope.rpartition(".")[0]
    candidates = by_name.get(name.removeprefix(f"{PACKAGE}."), []) or by_name.get(name.rsplit(".", 1)[-1], [])
    if name.startswith(f"{PACKAGE}."):
        room = ".".join(name.split(".")[:2])
        candidates = [path for path in candidates if path.startswith(f"{room}.")] or candidates
    return candidates[0] if len(candidates) == 1 else None


def _imported(name: str, item: Any) -> str | None:
    """Where the module of a docstring imports a name from, if it does."""
    first, dot, rest = name.partition(".")
    alias = item.module.members.get(first)
    return f"{alias.target_path}{dot}{rest}" if alias is not None and alias.is_alias else None


def _listed(text: str) -> str:
    """Sections as lists: an item for each argument, with the lines that continue it."""
    lines: list[str] = []
    inside = in_item = False
    for line in text.splitlines():
        if SECTION.fullmatch(line):
            lines += ["", f"**{line}**", ""]
            inside, in_item = True, False
        elif inside and line and not line.startswith(" "):
            inside = False
            lines.append(line)
        elif inside and (match := ITEM.fullmatch(line)):
            _, name, kind, words = match.groups()
            lines.append(f"- `{name}`{kind or ''}: {words}")
            in_item = True
        elif inside and line.strip():
            lines.append(f"  {line.strip()}" if in_item else line.strip())
        else:
            lines.append(line)
    return "\n".join(lines)
