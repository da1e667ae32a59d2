"""Run a study, models x seeds x test sets: resumable cell by cell, shared by any number of processes.

The output folder holds everything, each part written whole or not at all: `models/<run>/` (the checkpoint of one model and seed),
`cells/<run>/<test set>/` (its clips and its agreement there), `failures/`, and the tables made from them. A process claims a run by
a lock in `claims/`, which the system releases when the process ends. So several processes, ranks or jobs can share a folder.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_sqa.blocks.feature_cache import VARIABLE
from hf_sqa.evaluation.suite import SuiteResult, evaluate_checkpoint, load_scorer
from hf_sqa.runs import claim, write_whole
from hf_sqa.studies.makers import MakeJob, Maker, find_maker
from hf_sqa.studies.plan import Run, StudyFolder, plan_runs
from hf_sqa.studies.results import REASON_CHARACTERS, RESERVED_COLUMNS, StudyReport, collect_results, write_parquet
from hf_sqa.studies.study_data import StudyData
from hf_sqa.studies.study_file import Study, study_as_yaml

STUDY_COPY = "study.yaml"
#: Pause before looking again at runs that other processes hold.
WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Event:
    """A finished step of a process."""

    kind: str  # `made`, `tested` or `failed`
    run: str  # Name of the run
    message: str  # Details on one line
    done: int  # Finished cells of the whole study
    total: int  # All cells of the whole study


def run_study(
    study: Study,
    folder: str | os.PathLike[str],
    *,
    makers: Mapping[str, Maker] | None = None,
    shard: tuple[int, int] | None = None,
    num_processes: int = 1,
    progress: Callable[[Event], None] | None = None,
) -> StudyReport:
    """Do the unfinished cells of a study, then write the tables and draw the figures.

    Ctrl-C or a kill loses only the model being made or the cell being tested; the same call resumes. A failing run is reported with
    its reason, does not stop the others, and is tried again by the next call.

    Args:
        study ([`Study`]): From [`load_study`].
        folder (path): Output folder, created if missing. Several calls, also on machines that share it, may work in it at once.
        makers (`dict[str, Maker]`, *optional*): Your own makers, functions of a module, by the name that models use.
        shard (`tuple[int, int]`, *optional*): `(i, n)`: do only every n-th run, starting with the i-th, counted from 0; for jobs on
            file systems without locks. Runs that need a run of another shard wait for it. `(0, 1)` works without locks.
        num_processes (`int`, *optional*, defaults to 1): Processes that share the runs.
        progress (callable, *optional*): Called with every [`Event`] of this process.

    Raises:
        ValueError: If something in the study does not fit the data.
    """
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"Expected the shard to be i/n with i from 0 to n - 1, got {shard[0]}/{shard[1]}.")
    worker = _Worker(study, StudyFolder(Path(folder)), makers, shard, num_processes)
    worker.output.root.mkdir(parents=True, exist_ok=True)
    data = StudyData(study)
    runs = plan_runs(study, data)
    write_whole(worker.output.root / STUDY_COPY, study_as_yaml(study))
    spawned = multiprocessing.get_context("spawn").Process
    processes = [spawned(target=_work_in_background, args=(worker,)) for _ in range(num_processes - 1)]
    for process in processes:
        process.start()
    try:
        worker.work(data, runs, progress or (lambda event: None))
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
    return collect_results(study, folder, began=worker.began, data=data)


def _work_in_background(worker: _Worker) -> None:
    """Work in a further process, which claims runs like the first. Only the first process reports and draws."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data = StudyData(worker.study)
    with contextlib.suppress(KeyboardInterrupt):
        worker.work(data, plan_runs(worker.study, data), lambda event: None)


@dataclass(frozen=True)
class _Worker:
    """One of the processes that share a study."""

    study: Study
    output: StudyFolder
    makers: Mapping[str, Maker] | None
    shard: tuple[int, int] | None
    num_processes: int
    began: float = field(default_factory=time.time)

    def work(self, data: StudyData, runs: list[Run], progress: Callable[[Event], None]) -> None:
        """Claim and do runs until each one has failed or is done, here or in another process."""
        if self.study.keep_features:
            os.environ.setdefault(VARIABLE, str((self.output.root / "features").absolute()))
        if self.num_processes > 1:  # more threads than cores would wait for each other and take many times as long
            import torch

            torch.set_num_threads(max(1, torch.get_num_threads() // self.num_processes))

        def report(kind: str, run: Run, message: str) -> None:
            progress(Event(kind, run.name, message, self.output.num_tested(runs), sum(len(other.cells) for other in runs)))

        pending = runs[self.shard[0] :: self.shard[1]] if self.shard is not None else list(runs)
        while pending:
            waits = True
            for run in list(pending):
                if self._is_over(run):
                    pending.remove(run)
                    continue
                failed = next((name for name, other in run.needs.items() if self.output.failed_since(other, self.began)), None)
                if failed is not None:
                    message = f"{failed!r}, which it needs, could not be made"
                    self.output.note_failure(run, ValueError(message))
                    report("failed", run, message)
                    pending.remove(run)
                    continue
                if not all(self.output.is_made(other) for other in run.needs.values()):
                    continue
                with contextlib.ExitStack() as stack:
                    if not self._claims(run, stack) or self._is_over(run):
                        continue
                    waits = False
                    try:
                        self._do(data, run, report)
                    except Exception as error:
                        reason = self.output.note_failure(run, error)
                        report("failed", run, textwrap.shorten(reason, REASON_CHARACTERS))
                    pending.remove(run)
            if pending and waits:
                time.sleep(WAIT_SECONDS)

    def _claims(self, run: Run, stack: contextlib.ExitStack) -> bool:
        try:
            return stack.enter_context(claim(self.output.lock(run.name)))
        except OSError as error:
            if self.shard is None:
                place = str(self.output.lock(run.name).parent)
                raise OSError(f"There are no file locks at {place!r} ({error}); share the study by --shard i/n.") from error
            return True

    def _is_over(self, run: Run) -> bool:
        return self.output.is_done(run) or self.output.failed_since(run, self.began) is not None

    def _do(self, data: StudyData, run: Run, report: Callable[[str, Run, str], None]) -> None:
        """Make the model if it is not made yet, then test it on the remaining test sets."""
        train, validation = data.for_training(run.model, run.seed) if run.seed is not None else (None, None)
        if not self.output.is_made(run):
            made = self._make(run, train, validation)
            report("made", run, f"{made['num_train'] or 0:,} clips, {made['train_seconds']:.0f} s")
        seen = data.seen(run.model, run.seed)
        scorer = None
        for test_set in run.cells:
            if self.output.is_tested(run, test_set):
                continue
            scorer = scorer or load_scorer(run.model.checkpoint or str(self.output.model(run)))
            dataset = data.select(test_set)
            result = evaluate_checkpoint(scorer, dataset, test_set=test_set, options=self.study.evaluation)
            if not result.complete:
                raise KeyboardInterrupt
            self._write_cell(run, test_set, result, {"overlap": "unknown"} if seen is None else data.overlap(seen, dataset))
            report("tested", run, _summary(result))

    def _make(self, run: Run, train: Any, validation: Any) -> dict[str, Any]:
        assert run.seed is not None
        checkpoints = {name: other.model.checkpoint or self.output.model(other) for name, other in run.needs.items()}
        maker = find_maker(run.model.maker, self.makers)
        with self._unfinished(run.name, self.output.model(run)) as folder:
            began = time.perf_counter()
            columns = dict(
                maker(MakeJob(folder, run.model, run.seed, train, validation, self.study.recipe_of(run.model), checkpoints)) or {}
            )
            if clash := sorted(RESERVED_COLUMNS & set(columns)):
                raise ValueError(f"Expected the maker {run.model.maker!r} to return columns of its own, got {clash[0]!r}.")
            sizes = {"num_train": train, "num_validation": validation}
            made = {name: None if clips is None else len(clips) for name, clips in sizes.items()} | columns
            made.setdefault("train_seconds", round(time.perf_counter() - began, 2))
            (folder / "made.json").write_text(json.dumps(made, indent=2, default=str), encoding="utf-8")
        return made

    def _write_cell(self, run: Run, test_set: str, result: SuiteResult, overlap: Mapping[str, Any]) -> None:
        columns = {
            **overlap,
            "model_id": result.identity["id"],
            "weights": result.identity["weights"],
            "preprocessing": result.identity["preprocessing"],
            "num_parameters": result.num_parameters,
            "cpu_seconds_per_second": result.cpu_seconds_per_second,
        }
        with self._unfinished(f"{run.name}-{run.cells[test_set]}", self.output.cell(run, test_set)) as folder:
            write_parquet(result.clips, folder / "clips.parquet")
            (folder / "cell.json").write_text(json.dumps({"columns": columns, "rows": result.rows}), encoding="utf-8")

    @contextlib.contextmanager
    def _unfinished(self, name: str, target: Path) -> Iterator[Path]:
        """Yield a folder to work in, then move it to its place in one step. An interruption keeps it, a failure removes it."""
        folder = self.output.root / "unfinished" / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if target.exists():  # it lacks its last file, after a disk failure
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder, target)


def _summary(result: SuiteResult) -> str:
    """Return the metrics of the first score and level on one line."""
    first = result.rows[0]
    shown = [row for row in result.rows if (row["score"], row["level"]) == (first["score"], first["level"])]
    failed = f", {result.num_failed} clips not scored" if result.num_failed else ""
    return f"{result.test_set}: " + ", ".join(f"{row['metric']} {row['value']:.3f}" for row in shown) + failed
