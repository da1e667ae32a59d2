"""`hf-sqa study`: runs models x seeds x test sets from one file; resumable, shared by processes."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cli.arguments import parse_part
from hf_sqa.cli.shipped import list_option
from hf_sqa.cli.stopping import EXIT_FAILED, faults_end_it, need_extra, quiet, stop
from hf_sqa.progress import bar

#: Variables that torchrun and accelerate set. Here their processes share a study, not a training: each trains alone.
LAUNCHER_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK"),
)
MARKDOWN_TABLE = "results.md"


@faults_end_it("Interrupted: what is done is kept; the same command resumes from there.")
def study(
    file: Annotated[str, typer.Argument(help="The study: its name, such as `mtq_losses` (see `--list`), or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Options to change, by dotted key: `seeds=[0]` `corpora.bench.table=bench.csv`.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for checkpoints, predictions, table and figures.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Which variant of the study, such as `small`; its first if not given.")
    ] = None,
    num_processes: Annotated[int, typer.Option(min=1, help="Processes to share the work.")] = 1,
    shard: Annotated[
        str | None, typer.Option(help="`i/n`: only every n-th run from the i-th (0 to n - 1); for job arrays.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the study needs, what is done and what is left, and exit.")
    ] = False,
    list_studies: Annotated[bool, list_option("studies", "study")] = False,
) -> None:
    """Run a study: train the models it asks for, test all of them, write one table and the figures.

    The same command resumes a study: finished runs are kept, runs that changed in the file are done again. Several processes may
    share the folder; under `torchrun` or `accelerate launch` every process takes its part. Writes `results.parquet`,
    `results.csv`, `results.md`, the figures, `models/`, and `cells/` with the predictions for each clip.

    Exit code 1: some runs failed, each with its reason. Exit code 2: nothing could be done. Ctrl-C loses only the run in progress.

    Examples:

    - `hf-sqa study finetuning_size corpora.bench.table=bench/bench.csv --output size/`
    - `hf-sqa study paper_one --variant small --output one/ encoder=whisper-base/`
    - `hf-sqa study mine.yaml "seeds=[0,1,2,3,4]" --output mine/ --num-processes 4`
    """
    need_extra("`hf-sqa study`", "train", "accelerate", "datasets")
    rank = _leave_the_launcher()
    if output is None and not dry_run:
        stop("Expected --output, the folder for checkpoints, predictions, table and figures; name the same folder to resume.")
    from hf_sqa.studies import load_study, run_study

    quiet()
    part = None if shard is None else parse_part(shard, "--shard")
    asked = load_study(file, overrides or [], variant)
    if dry_run or output is None:
        _print_plan(asked, output)
        return
    with bar(unit="cells", shown=sys.stderr.isatty() and rank == 0) as update:

        def show(event: Any) -> None:
            update(event.done, event.total)
            typer.echo(f"{event.run} {event.kind}: {event.message}", err=True)

        report = run_study(asked, output, shard=part, num_processes=num_processes, progress=show)
    _print_report(report, rank)
    if report.failures:
        raise typer.Exit(EXIT_FAILED)


def _leave_the_launcher() -> int:
    """Return the number of this process under a launcher, 0 without one; give each process its own GPU if there are any."""
    rank, local = int(os.environ.get("RANK", 0)), os.environ.get("LOCAL_RANK")
    if local is not None:
        visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(local) % len(visible)] if visible else local
    for name in (*LAUNCHER_VARIABLES, *[name for name in os.environ if name.startswith("TORCHELASTIC_")]):
        os.environ.pop(name, None)
    return rank


def _print_plan(asked: Any, folder: Path | None) -> None:
    from hf_sqa.studies.plan import StudyFolder, plan_runs
    from hf_sqa.studies.requirements import encoder_lines, gpu_hours, needed_corpora
    from hf_sqa.studies.study_data import StudyData

    corpora = needed_corpora(asked)
    for heading, used in (("Corpora", True), ("Further corpora, for `test_sets`", False)):
        if lines := [f"  {corpus}" for corpus in corpora if corpus.is_used is used]:
            typer.echo("\n".join([f"{heading}:", *lines]))
    for line in encoder_lines(asked):
        typer.echo(line)
    if (hours := gpu_hours(asked)) is not None:
        typer.echo(f"About {hours:,.0f} hours of a GPU, an estimate: {asked.gpu_cost.source}")
    if absent := [corpus.name for corpus in corpora if corpus.is_used and corpus.is_here is False]:
        num_runs = sum(len(asked.seeds_of(model)) for model in asked.models)
        typer.echo(f"{num_runs} runs; to say which of them are done, {', '.join(absent)} must be there.")
        return
    runs = plan_runs(asked, StudyData(asked))
    size = f"{len(runs)} runs, {sum(len(run.cells) for run in runs)} cells"
    if folder is None:
        typer.echo(f"{size}; --output says which of them are done in a folder.")
        return
    output = StudyFolder(folder)
    for run in runs:
        done = [test_set for test_set in run.cells if output.is_tested(run, test_set)]
        left = [test_set for test_set in run.cells if test_set not in done]
        made = "published" if run.model.checkpoint else "made" if output.is_made(run) else "to make"
        tested = f"tested on {', '.join(done)}" if done else "not tested"
        typer.echo(f"{run.name}: {made}; {tested}" + (f"; left: {', '.join(left)}" if left else ""))
    typer.echo(f"{size} in {folder}.")


def _print_report(report: Any, rank: int) -> None:
    from hf_sqa.evaluation.suite import markdown_table
    from hf_sqa.studies.results import RESULTS, read_results

    if (report.folder / RESULTS).is_file():
        rows = read_results(report.folder)
        table = markdown_table(rows, metrics=("utt_srcc",), columns="test_set")
        whole = markdown_table(rows, metrics=("utt_lcc", "utt_srcc", "utt_mse"))
        (report.folder / MARKDOWN_TABLE).write_text(whole, encoding="utf-8")
        if rank == 0:
            typer.echo(f"SRCC of clips\n\n{table}")
    for name, reason in report.failures.items():
        typer.echo(f"{name} failed: {reason}", err=True)
    for remark in report.remarks:
        typer.echo(f"Not drawn: {remark}", err=True)
    if report.stale:
        typer.echo(f"Kept, but not in the table, since the study now defines them otherwise: {', '.join(report.stale)}.", err=True)
    typer.echo(f"{report.num_done} of {report.num_cells} cells in {report.folder / RESULTS}.", err=True)
