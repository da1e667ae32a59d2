"""The table of corpora, generated from their modules so that it stays up to date.

python -m hf_sqa.data.corpora.table      # rewrites docs/corpora.md
"""

from pathlib import Path

from hf_sqa.data.corpora import CORPORA

BEGIN, END = "<!-- corpora:begin -->", "<!-- corpora:end -->"


def corpora_table() -> str:
    """Return a Markdown table with one row per corpus."""
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
    """Return the text of the page with its table updated."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{corpora_table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path("docs/corpora.md")
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
