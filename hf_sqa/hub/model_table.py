"""The table of models, generated from the families.

python -m hf_sqa.hub.model_table      # rewrites docs/models.md
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import hf_sqa.models  # noqa: F401  # registers the families
from hf_sqa.auto import families

BEGIN, END = "<!-- models:begin -->", "<!-- models:end -->"
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


def updated(page: str) -> str:
    """Return the text of the page with the table updated."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{model_table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path("docs/models.md")
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
