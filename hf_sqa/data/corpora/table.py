"""The table of corpora, generated from their modules so that it cannot fall behind.

python -m hf_sqa.data.corpora.table      # rewrites docs/corpora.md
"""

from pathlib import Path

from hf_sqa.data.corpora import CORPORA

BEGIN, END = "<!-- corpora:begin -->", "<!-- corpora:end -->"


def corpora_table() -> str:
    """Markdown table with a row a corpus."""
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


def updated(page: str) -> str:
    """The text of the page with the table brought up to date."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{corpora_table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path("docs/corpora.md")
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
