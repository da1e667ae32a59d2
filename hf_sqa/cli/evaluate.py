"""`hf-sqa evaluate`: measures the agreement of a model with listeners on rated test sets, with intervals."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import BatchSize, Decoders, Device, Model, assignments, words_of
from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it, need_extra, quiet
from hf_sqa.cli.tables import print_agreement, row_writer
from hf_sqa.progress import bar


@faults_end_it("Interrupted: the table covers the clips done.", KeyError, RuntimeError)
def evaluate(
    corpora: Annotated[
        list[str],
        typer.Argument(help="Tables (`mine.csv`), corpora with their folder (`nisqa/TEST_FOR=NISQA_Corpus`), `hub:<repo id>`."),
    ],
    model: Model = "default",
    score: Annotated[
        list[str] | None, typer.Option(help="A score; `mos=g_mos` if the label has another name; may be repeated.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="Metrics, separated by commas: lcc, srcc, ktau, mse, rmse, mae.")] = "lcc,srcc,rmse",
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Column whose clips are drawn together for the intervals, `none` for single clips; by default the first of "
            "system, condition, source and talker that the test set has."
        ),
    ] = None,
    num_draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws.")] = 10_000,
    split: Annotated[str | None, typer.Option(help="Only clips of this split, such as `test`.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--filter", help="Only clips with this value, `language=de` or `language=de,en`; may be repeated."),
    ] = None,
    join: Annotated[
        Path | None, typer.Option(help="Table with further labels of the same recordings, by file name, such as S/N/G-MOS.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the rows of agreement to `.csv`, `.jsonl` or `.parquet`.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Write a row for each clip: label, prediction, why there is none; `.csv`, `.jsonl` or `.parquet`."),
    ] = None,
    batch_size: BatchSize = 1,
    num_workers: Decoders = 0,
    device: Device = None,
) -> None:
    """How well does a model agree with listeners? Prints a table with 95 % intervals, one row for each test set, score and level.

    Clips that cannot be scored are counted, and the exit code is then 1. Exit code 2: nothing could be evaluated. After Ctrl-C
    the table covers the clips scored so far, and says so.

    Examples:

    - `hf-sqa evaluate my_test.csv`
    - `hf-sqa evaluate nisqa/TEST_FOR=NISQA_Corpus --model my-model --predictions predictions.csv`
    - `hf-sqa evaluate tmhint-qi=TMHINTQI --join 3quest.csv --filter split=test --model trained/mtq_net-wavlm-mpl`
    """
    need_extra("`hf-sqa evaluate`", "train", "datasets", "evaluate")
    writers = {name: row_writer(path, sys.stdout) for name, path in (("rows", output), ("clips", predictions)) if path is not None}
    quiet()
    from hf_sqa.data import load_corpus
    from hf_sqa.evaluation.suite import SuiteOptions, evaluate_checkpoint, load_scorer
    from hf_sqa.training.rows import select_rows

    scores = {predicted: label or predicted for predicted, _, label in (text.partition("=") for text in score or ())} or None
    options = SuiteOptions(scores=scores, metrics=tuple(words_of(metrics)), cluster=cluster, num_draws=num_draws)
    wanted = {} if split is None else {"split": [split]}
    for column, values in assignments("--filter", keep, "`column=value`, such as `language=de`"):
        wanted.setdefault(column, []).extend(values.split(","))
    test_sets = []
    for name, _, root in (text.partition("=") for text in dict.fromkeys(corpora)):
        test_sets.append((name, select_rows(load_corpus(name, root or None, join=join), wanted, repr(name))))
    scorer, results = load_scorer(model, device=device), []
    for name, dataset in test_sets:
        with bar(name) as update:
            how: dict[str, Any] = {"options": options, "batch_size": batch_size, "num_workers": num_workers, "progress": update}
            results.append(evaluate_checkpoint(scorer, dataset, test_set=Path(name).stem if Path(name).suffix else name, **how))
        if not results[-1].complete:  # Ctrl-C
            break
    for result in results:
        identity = {"model": result.identity["id"], "weights": result.identity["weights"], "complete": result.complete}
        for row in result.rows if "rows" in writers else ():
            writers["rows"].write({**identity, **row})
        for clip in result.clips if "clips" in writers else ():
            writers["clips"].write({"test_set": result.test_set, **clip})
    for writer in writers.values():
        writer.close()
    if "-" not in map(str, (output, predictions)):
        print_agreement([row for result in results for row in result.rows])
    failed = sum(result.num_failed for result in results)
    if failed:
        first = next(clip for result in results for clip in result.clips if clip["status"] != "ok")
        message = f"{failed} clips could not be scored; the first: {first['audio']}: {first['code']}: {first['reason']}"
        typer.echo(message + ("" if predictions else "; --predictions writes them all."), err=True)
    if not results or not results[-1].complete:
        raise KeyboardInterrupt
    if failed:
        raise typer.Exit(EXIT_FAILED)
