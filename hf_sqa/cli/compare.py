"""`hf-sqa compare`: finds out which of several systems is better."""

import itertools
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_sqa.cells import visible
from hf_sqa.cli.arguments import Device
from hf_sqa.cli.stopping import EXIT_FAILED, check_plot, faults_end_it, quiet, say, stop
from hf_sqa.cli.tables import coloured, interval_of, make_console, row_writer, show_table
from hf_sqa.progress import bar

#: Largest number of pairs printed; if there are more, only systems with neighbouring means are paired.
NUM_PAIRS = 15
NUM_NAMED = 5
#: Options that are passed to [`hf_sqa.scoring.comparison.compare`] under the same names.
HOW = (
    *("model", "systems", "pair_by", "cluster", "paired", "score", "confidence_level", "num_draws"),
    *("mode", "device", "num_workers"),
)


@faults_end_it("Interrupted: nothing was compared.")
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="One input per system: a folder of recordings, a table, a table by `hf-sqa score --output`, or the folder of a "
            "finished run; `name=path` names it. Or one table with `--systems`."
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="As in `hf-sqa score`; may be repeated to compare models. By default, scores that the inputs have are used."
        ),
    ] = None,
    systems: Annotated[str | None, typer.Option(help="Column with the system of each recording.")] = None,
    pair_by: Annotated[
        list[str] | None,
        typer.Option(
            help="Column that tells which clips of different systems belong together (may be repeated), or a regular expression "
            "whose groups tell it from file names; by default `sentence`, `sentence_id` or `source_id`, else the name of the file "
            "within its folder."
        ),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Column or regular expression of what clips to draw together share, such as the talker.")
    ] = None,
    paired: Annotated[
        bool | None, typer.Option("--paired/--unpaired", help="By default paired where half of the files have a partner.")
    ] = None,
    score: Annotated[str | None, typer.Option(help="Score to compare; the first of the model by default.")] = None,
    confidence_level: Annotated[float, typer.Option("--confidence", help="Confidence level of the intervals.")] = 0.95,
    num_draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws.")] = 10_000,
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse",
            help="Exit code 1 if a system is shown to be worse than the first, or lacks scores that the first has.",
        ),
    ] = False,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="With `--fail-if-worse`: a loss up to this many points is accepted.")
    ] = 0.0,
    fail_unless_better: Annotated[
        bool, typer.Option("--fail-unless-better", help="Exit code 1 unless all are shown to be better than the first.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write a row for each recording and model to `.csv`, `.jsonl` or `.parquet`."),
    ] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw means and differences with intervals into this PNG, PDF or SVG.")] = None,
    mode: Annotated[str | None, typer.Option(help="As in `hf-sqa score`.")] = None,
    device: Device = None,
    num_workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode; 1 by default.")] = None,
) -> None:
    """Which system is better? Compares mean scores sentence by sentence where file names match, and says how sure that is.

    Intervals come from a bootstrap over whole sentences, or over `--cluster`. With several pairs, significance is adjusted (Holm).
    Systems that are not shown to differ share a group. Recordings without a score are counted and named.

    Exit code 0: compared. 1: a check of `--fail-if-worse` or `--fail-unless-better` failed; without these, some recordings could
    not be scored. 2: nothing could be compared, or there are too few recordings for the check.

    Examples:

    - `hf-sqa compare build_a/ build_b/`
    - `hf-sqa compare tts.csv --systems voice --pair-by sentence --cluster talker`
    - `hf-sqa compare main=runs/main/ mine=runs/mine/ --fail-if-worse --tolerance 0.05`
    - `hf-sqa compare a/ b/ --model default --model m --plot ab.png`
    """
    how = {name: value for name, value in locals().items() if name in HOW}
    if plot is not None:
        check_plot(plot)
    if tolerance and not fail_if_worse:
        stop("--tolerance needs --fail-if-worse.")
    from hf_sqa.scoring.comparison import compare as compare_sources
    from hf_sqa.scoring.comparison_plot import plot_comparison
    from hf_sqa.scoring.shards import write_json

    quiet()
    writer = row_writer(output, sys.stdout) if output is not None else None
    with bar() as update:
        compared = compare_sources(*sources, on_progress=update, **how)
    if writer is not None:
        for row in compared.rows:
            writer.write(row)
        writer.close()
    if as_json is not None:
        write_json(as_json, compared.as_dict())
    if plot is not None:
        plot_comparison(compared, plot)
    if str(output) != "-":
        _print(compared)
    if plot is not None:
        say(f"Drawn: {plot}")
    if failed := compared.failed:
        named = ", ".join(f"{row['file']} of {row['system']} ({row['code']})" for row in failed[:NUM_NAMED])
        more = f" and {len(failed) - NUM_NAMED} more; --output writes them all" if len(failed) > NUM_NAMED else ""
        num_recordings = len(compared.rows) // len(compared.by_model)
        say(f"{len(failed)} of {num_recordings} recordings have no score and are not compared: {named}{more}.")
    raise typer.Exit(_exit_code(compared, fail_if_worse, tolerance, fail_unless_better))


def _exit_code(compared: Any, fail_if_worse: bool, tolerance: float, fail_unless_better: bool) -> int:
    if not (fail_if_worse or fail_unless_better):
        return EXIT_FAILED if compared.failed else 0
    faults = compared.worse_than_first(tolerance) if fail_if_worse else []
    faults += [fault for fault in (compared.not_better_than_first() if fail_unless_better else []) if fault not in faults]
    for fault in faults:
        say(f"Failed: {fault}")
    if faults:
        return EXIT_FAILED
    undecided = compared.undecided_against_first()
    if undecided:
        stop(f"Nothing can be decided: {undecided[0]}")
    return 0


def _print(compared: Any) -> None:
    console = make_console()
    for model, found in compared.by_model.items():
        console.print(f"By {visible(model)}, paired by {visible(compared.paired_by)}:", markup=False)
        _print_systems(console, found, compared.score)
        if len(found.systems) > 2:
            _print_pairs(console, found)
        console.print(f"\n{visible(found.verdict)}\n", markup=False, soft_wrap=True)
    if compared.agreement:
        console.print(visible(compared.agreement), markup=False, soft_wrap=True)


def _print_systems(console: Any, found: Any, score: str) -> None:
    group_of = {name: place for place, group in enumerate(found.groups, 1) for name in group}
    rows = []
    for system in sorted(found.systems, key=lambda system: (math.isnan(system.mean.value), -system.mean.value)):
        mean = system.mean
        value = "none" if math.isnan(mean.value) else coloured(mean.value)
        counts = [f"{system.num_clips:,}", str(system.num_failed or "")]
        rows.append([system.name, *counts, value, interval_of(mean), str(group_of.get(system.name, ""))])
    level = f"{100 * found.systems[0].mean.confidence_level:g} %"
    show_table(console, ["system", "scored", "failed", f"mean {score}", level, "group"], rows)


def _print_pairs(console: Any, found: Any) -> None:
    from hf_sqa.metrics.systems import in_per_cent

    pairs, note = found.pairs, ""
    if len(pairs) > NUM_PAIRS:
        ranked = [name for group in found.groups for name in group]
        neighbours = {frozenset(names) for names in itertools.pairwise(ranked)}
        pairs = [pair for pair in pairs if frozenset((pair.first, pair.second)) in neighbours]
        note = f" (neighbours; --json has all {len(found.pairs)} pairs)"
    rows = []
    for pair in pairs:
        difference, interval = pair.difference, interval_of(pair.difference, "+.2f")
        counted = f"{pair.num_pairs:,}{'' if pair.is_paired else ' unpaired'}"
        shown = pair.better or ("not shown" if not math.isnan(pair.p_value) else "too few")
        sure, won = in_per_cent(pair.probability), f"{100 * pair.share_won:.0f} %"
        rows.append([f"{pair.second} less {pair.first}", f"{difference.value:+.2f}", interval, sure, won, counted, shown])
    console.print(f"\nDifferences{note}", markup=False)
    show_table(console, ["pair", "difference", "interval", "P(higher)", "won", "pairs", "better"], rows)
