"""`hf-sqa pseudo-label`: stores a teacher's scores of a corpus, a table or a folder, with the teacher's identity."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import BatchSize, Column, Decoders, Device, Overwrite, Root, named_columns
from hf_sqa.cli.stopping import EXIT_FAILED, EXIT_INTERRUPTED, faults_end_it, need_extra, quiet, stop
from hf_sqa.progress import bar


@faults_end_it("Interrupted.", RuntimeError)
def pseudo_label(
    source: Annotated[
        list[str],
        typer.Argument(
            help="A corpus of `hf-sqa corpus list` or a part of one, `hub:<repository>`, a table with a column of recordings; or "
            "files, folders, globs, `@list.txt`."
        ),
    ],
    teacher: Annotated[str, typer.Option(help="`default` (Distill-MOS v7), a local folder, or a Hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: `.csv`, `.jsonl` or `.parquet`.")],
    root: Root = None,
    column: Column = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use this many recordings only, the first ones.")] = None,
    batch_size: BatchSize = 1,
    num_workers: Decoders = 0,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Label recordings with a teacher's scores, for `data.pseudo_labels` of a training recipe.

    The table has a row for every recording: the scores, the name of the teacher, and digests of its weights and preprocessing. A
    recording that cannot be scored is a row with the reason, and the exit code is 1. The same command resumes an interrupted run;
    it scores changed and failed recordings again, and refuses another teacher. Exit code 2: nothing could be done.

    Examples:

    - `hf-sqa pseudo-label bench/bench.csv --teacher mosa_net-teacher --output pseudo_labels.csv`
    - `hf-sqa pseudo-label nisqa/TRAIN_SIM --root NISQA_Corpus --teacher default -o labels.parquet`
    - `hf-sqa pseudo-label calls/ --teacher default -o calls.jsonl`
    """
    need_extra("`hf-sqa pseudo-label`", "train", "accelerate", "datasets")
    from hf_sqa.scoring.scorer import Settings, load_pipeline
    from hf_sqa.training.pseudo_label import SUFFIXES, pseudo_label as label

    if output.suffix.lower() not in SUFFIXES:
        stop(f"Expected --output to end in {', '.join(SUFFIXES)}, got {str(output)!r}.")
    quiet()
    rows = _rows(source, root, column or [])[:limit]
    if not rows:
        stop("There is nothing to label: the list is empty.")
    scorer = load_pipeline(Settings(model=teacher, device=device))
    num_done = 0
    with bar() as update:

        def show(done: int, num_failed: int, total: int) -> None:
            nonlocal num_done
            num_done = done
            update(done, total, f"{num_failed} failed")

        try:
            table = label(rows, scorer, output, batch_size=batch_size, num_workers=num_workers, overwrite=overwrite, progress=show)
        except KeyboardInterrupt:
            message = f"Interrupted: {num_done} of {len(rows)} recordings are labelled and kept; the same command goes on."
            stop(message, EXIT_INTERRUPTED)
    reused = f", {table.num_reused} of them from before" if table.num_reused else ""
    typer.echo(
        f"{len(table.rows) - table.num_failed} of {len(table.rows)} recordings labelled with {', '.join(table.score_names)} by "
        f"{table.teacher['teacher_id']} (weights {table.teacher['teacher_weights']}){reused}: {output}"
    )
    if table.num_failed:
        kinds = ", ".join(f"{count} {code}" for code, count in table.reasons.most_common())
        typer.echo(f"{table.num_failed} could not be scored ({kinds}); their rows say why.", err=True)
        raise typer.Exit(EXIT_FAILED)


def _rows(source: list[str], root: Path | None, columns: list[str]) -> list[Any]:
    """Return the recordings to label, with their names if known."""
    from hf_sqa.data.corpora import CORPORA
    from hf_sqa.data.corpora.own_table import SUFFIXES

    first = source[0]
    is_table = Path(first).suffix.lower() in SUFFIXES
    is_corpus = first.startswith("hub:") or (first.partition("/")[0].lower() in CORPORA and not Path(first).exists())
    if is_table or is_corpus:
        if len(source) > 1:
            raise ValueError(f"Expected one corpus or table, got {', '.join(source)}; label them one by one.")
        named = named_columns(columns)
        if first.startswith("hub:"):
            from hf_sqa.data import load_corpus

            return list(load_corpus(first, root, columns=named).select_columns(["audio", "utterance_id", "corpus"]))
        from hf_sqa.data.corpora.loading import read_corpus

        rows = read_corpus(first, root, columns=named, need_scores=False).rows
        return [{name: row[name] for name in ("audio", "utterance_id", "corpus")} for row in rows]
    if root is not None or columns:
        raise ValueError(f"Expected --root and --column beside a corpus or a table only, got them beside {first!r}.")
    from hf_sqa.audio import AudioError
    from hf_sqa.cli.files import find_recordings

    if {"-", "@-"} & set(source):
        raise ValueError("Expected recordings with a name, got standard input; write it to a file first.")
    found = list(find_recordings(source))
    for _, audio in found:
        if isinstance(audio, AudioError) and audio.code == "no_audio":
            raise ValueError(str(audio))
    return [{"audio": name} for name, _ in found]
