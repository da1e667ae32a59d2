"""The tables of models and of corpora in the documentation, generated from the families and the readers.

python -m hf_sqa.hub.doc_tables      # rewrites docs/models.md and docs/corpora.md
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import hf_sqa.models  # noqa: F401  # registers the families
from hf_sqa.auto import families

HEADER_FIELDS = ("Paper", "Code", "Weights", "Differs", "Shapes")


def provenance(model_class: type) -> dict[str, str]:
    """Return header fields of a family's modeling file: `Title` and those of `HEADER_FIELDS` that it has."""
    lines = (inspect.getdoc(inspect.getmodule(model_class)) or "").splitlines()
    found = {"Title": lines[0] if lines else ""}
    field = None
    for line in lines[1:]:
        if match := re.match(rf"({'|'.join(HEADER_FIELDS)}):\s+(.*)", line):
            field = match.group(1)
            found[field] = match.group(2).strip()
        elif field and line.startswith(" "):
            found[field] += " " + line.strip()
        else:
            field = None
    return found


def model_table() -> str:
    """Return a Markdown table with a row for each family."""
    rows = ["| model | scores | what it is | paper | weights |", "|---|---|---|---|---|"]
    for model_type, (config_class, model_class) in families().items():
        header = provenance(model_class)
        scores = " ".join(f"`{name}`" for name in config_class().score_names)
        rows.append(
            f"| `{model_class.__name__}`<br>`{model_type}` | {scores} | {header['Title'].rstrip('.')} | {header['Paper']} | "
            f"{header['Weights']} |"
        )
    return "\n".join(rows)


def corpora_table() -> str:
    """Return a Markdown table with a row for each corpus."""
    from hf_sqa.data.corpora import CORPORA  # cards import this module, and readers of corpora are slow to import

    rows = ["| name | corpus | language | clips | size | licence | where |", "|---|---|---|---:|---|---|---|"]
    for corpus in CORPORA.values():
        parts = " ".join(f"`/{part}`" for part in corpus.clips if part)
        name = f"`{corpus.name}`" + (f"<br>{parts}" if parts else "")
        link, _, remark = corpus.source.partition(" ")
        where = f"[{link.split('/')[2]}]({link})" + (f" {remark}" if remark else "")
        rows.append(
            f"| {name} | {corpus.title} | {corpus.language} | {corpus.num_clips:,} | {corpus.size} | {corpus.licence} | {where} |"
        )
    return "\n".join(rows)


#: The pages in docs/ with a table between `<!-- name:begin -->` and `<!-- name:end -->`, by name.
TABLES = {"models": model_table, "corpora": corpora_table}


def updated(page: str, name: str) -> str:
    """Return the text of a page with its table updated."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    return page[: page.index(begin)] + f"{begin}\n{TABLES[name]()}\n" + page[page.index(end) :]


if __name__ == "__main__":
    for table in TABLES:
        path = Path(f"docs/{table}.md")
        path.write_text(updated(path.read_text(encoding="utf-8"), table), encoding="utf-8")
