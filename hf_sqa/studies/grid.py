"""Studies: a grid of models x seeds x test sets from one YAML file, resumable cell by cell and shared by any number of processes.

Everything is in the output folder, written whole or not at all: `models/<run>/` (the checkpoint of one model and seed),
`cells/<run>/<test set>/` (its clips and its agreement there), `failures/`, and from these `results.parquet`, one row a model, seed,
test set, score, level and metric. A run, one model and seed, is claimed by a lock in `claims/` that ends with its process, however
that ends, so several processes, ranks or jobs may be given the same folder. Names of runs and cells carry a digest of what defines
them: what is changed in the file is done again, what is not is kept.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import hashlib
import json
import math
import os
import shutil
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hf_sqa.evaluation.suite import evaluate_checkpoint, load_scorer
from hf_sqa.metrics import Comparison, compare_models
from hf_sqa.runs import whole_file, write_whole
from hf_sqa.studies.study_data import StudyData, digest_of, find_overlap
from hf_sqa.studies.study_file import ModelSpec, Study, load_study, models_in_order, set_dotted

__all__ = [
    "MAKERS",
    "Event",
    "MakeJob",
    "Maker",
    "ModelSpec",
    "Study",
    "StudyData",
    "StudyReport",
    "collect_results",
    "compare_cells",
    "find_overlap",
    "load_study",
    "plan_runs",
    "read_clips",
    "read_results",
    "run_study",
]

RESULTS, RESULTS_TEXT, STUDY_COPY = "results.parquet", "results.csv", "study.yaml"
#: Between looks at runs that other processes are at.
WAIT_SECONDS = 1.0
#: Columns of the results that are not for makers to fill.
RESERVED_COLUMNS = frozenset(
    {"study", "model", "series", "seed", "test_set", "score", "level", "metric", "value", "low", "high", "num_clips", "num_failed"}
    | {"num_unrated", "num_units", "unit", "overlap", "overlap_clips", "overlap_sources", "overlap_talkers", "model_id", "weights"}
    | {"preprocessing", "num_parameters", "cpu_seconds_per_second"}
)
#: Of a failure on the screen; `failures/` has all of it.
TOLD_CHARACTERS = 300


@dataclass(frozen=True)
class MakeJob:
    """What a maker is given: it leaves a checkpoint that loads (weights, configuration, feature extractor) in `folder`.

    Args:
        folder (`Path`): Empty, or as an interrupted attempt at the same job left it; all that is in it in the end is kept.
        model ([`ModelSpec`]): What to make.
        seed (`int`): Everything random is to follow from it.
        train, validation (`datasets.Dataset`, *optional*): In the schema of [`~hf_sqa.data.load_corpus`].
        recipe (`dict` or `str`, *optional*): The model's recipe or the study's.
        needed (`dict[str, Path | str]`): Checkpoints of the models it needs: of the same seed where they have it, else of their
            first.
    """

    folder: Path
    model: ModelSpec
    seed: int
    train: Any
    validation: Any
    recipe: Any
    needed: Mapping[str, Path | str]

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model.options


#: Makes a model; what it returns goes into the columns of the results (`num_train`, `num_validation`, `train_seconds`, ...).
Maker = Callable[[MakeJob], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Event:
    """What a process has just done: `kind` is `made`, `tested` or `failed`; `done` and `total` count cells of the whole study."""

    kind: str
    run: str
    told: str
    done: int
    total: int


@dataclass(frozen=True)
class StudyReport:
    """What there is after a run.

    Args:
        folder (`Path`): The output folder.
        num_cells (`int`): Cells of the study.
        num_done (`int`): Those whose results are in the table.
        failures (`dict[str, str]`): Reason by run, of those that failed in the end.
        stale (`list[str]`): Runs in the folder that the study no longer has, or has otherwise; they are not in the table.
        figures (`list[Path]`): Drawn.
        remarks (`list[str]`): Figures that could not be drawn, and why.
    """

    folder: Path
    num_cells: int
    num_done: int
    failures: dict[str, str]
    stale: list[str]
    figures: list[Path]
    remarks: list[str]


@dataclass(frozen=True)
class Run:
    """One model and seed: what is claimed, made and then tested."""

    model: ModelSpec
    seed: int | None
    name: str
    #: Name of the folder of a test set's cell, by test set.
    cells: Mapping[str, str]


def plan_runs(study: Study, data: StudyData) -> list[Run]:
    """All runs with the names that their digests give them: needed ones first, and all models of one seed before the next seed, so
    that a study cut short compares all its models. Reads the corpora's labels."""
    runs: dict[tuple[str, int | None], Run] = {}
    for model in models_in_order(study):
        for seed in study.seeds_of(model):
            unsaid = dict.fromkeys(("name", "series", "test_sets", "seeds"))
            described: dict[str, Any] = {"model": {**_plain(model), **unsaid}}
            if model.checkpoint is not None:
                described["weights"] = _weights_of(model.checkpoint)
            else:
                used = {one: data.digest(one) for one in (model.train, model.validation) if isinstance(one, str)}
                recipe = _recipe_content(model.recipe if model.recipe is not None else study.recipe)
                described |= {"seed": seed, "sets": used, "recipe": recipe, "start": _starting_weights(recipe, model.set)}
                described["needs"] = [_needed_run(study, runs, one, seed).name for one in model.needs]
                if model.clips is not None:
                    described["sizes"] = sorted({one.clips for one in study.models if one.train == model.train and one.clips})
            name = f"{model.name}-{'published' if seed is None else f's{seed}'}-{digest_of(described)}"
            options = _plain(study.evaluation)
            cells = {one: f"{one}-{digest_of([data.digest(one), options])}" for one in study.test_sets_of(model)}
            runs[model.name, seed] = Run(model, seed, name, cells)
    turn = {key: study.seeds_of(run.model).index(key[1]) for key, run in runs.items()}
    return [runs[key] for key in sorted(runs, key=lambda key: turn[key])]


def _needed_run(study: Study, runs: Mapping[tuple[str, int | None], Run], name: str, seed: int | None) -> Run:
    """The run of a needed model: of the same seed, else of its first."""
    seeds = study.seeds_of(study.model(name))
    return runs[name, seed if seed in seeds else seeds[0]]


def _plain(value: Any) -> dict[str, Any]:
    return {one.name: getattr(value, one.name) for one in fields(value)}


def _recipe_content(recipe: Any) -> Any:
    if isinstance(recipe, (str, os.PathLike)):
        path = Path(recipe)
        if not path.is_file():
            raise FileNotFoundError(f"Expected the study's recipe, but there is no file {str(path)!r}.")
        return path.read_text(encoding="utf-8")
    return recipe


def _starting_weights(recipe: Any, changes: Mapping[str, Any]) -> str | None:
    """Digest of the local checkpoint that a recipe starts from, if there is one."""
    import yaml

    content = yaml.safe_load(recipe) if isinstance(recipe, str) else copy.deepcopy(recipe or {})
    for key, value in changes.items():
        set_dotted(content, key, value)
    model = content.get("model") if isinstance(content, dict) else None
    checkpoint = model.get("checkpoint") if isinstance(model, dict) else None
    return _weights_of(str(checkpoint)) if checkpoint else None


def _weights_of(checkpoint: str) -> str | None:
    """Digest of the weights of a local folder: trained again, it is another model under the same name."""
    file = Path(checkpoint) / "model.safetensors"
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class _Folder:
    """Where things are in an output folder."""

    root: Path

    def model(self, run: Run) -> Path:
        return self.root / "models" / run.name

    def cell(self, run: Run, test_set: str) -> Path:
        return self.root / "cells" / run.name / run.cells[test_set]

    def failure(self, run: Run) -> Path:
        return self.root / "failures" / f"{run.name}.json"

    def is_made(self, run: Run) -> bool:
        return run.model.checkpoint is not None or (self.model(run) / "made.json").is_file()

    def is_done(self, run: Run) -> bool:
        return self.is_made(run) and all((self.cell(run, one) / "cell.json").is_file() for one in run.cells)

    def failed_since(self, run: Run, began: float) -> str | None:
        """Why a run failed, if that was after a point in time."""
        with contextlib.suppress(OSError, ValueError):
            failure = json.loads(self.failure(run).read_text(encoding="utf-8"))
            if failure["time"] >= began:
                return str(failure["reason"])
        return None


def run_study(
    study: Study,
    folder: str | os.PathLike[str],
    *,
    makers: Mapping[str, Maker] | None = None,
    shard: tuple[int, int] | None = None,
    num_processes: int = 1,
    progress: Callable[[Event], None] | None = None,
) -> StudyReport:
    """Do what is not done yet, then write the table and draw the figures.

    Ctrl-C and kills lose the run under way, or of its cells the one under way, and nothing else; the same call goes on. A run that
    fails is told with its reason, does not stop the others, and is tried again by the next call.

    Args:
        study ([`Study`]): From [`load_study`].
        folder (path): Output folder; made if it is not there. Several calls, on several machines that share it, may be at work.
        makers (`dict[str, Maker]`, *optional*): Makers of your own by the name that models call them; functions of a module.
        shard (`tuple[int, int]`, *optional*): `(i, n)`: only every n-th run beginning with the i-th, counted from 0; for jobs on
            file systems without locks. Runs that need one of another shard wait for it. `(0, 1)` asks for no locks.
        num_processes (`int`, *optional*, defaults to 1): Processes to share the runs.
        progress (callable, *optional*): Told every [`Event`] of this process.

    Raises:
        ValueError: If something in the study does not fit the data.
    """
    output = _Folder(Path(folder))
    output.root.mkdir(parents=True, exist_ok=True)
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"Expected the shard to be i/n with i from 0 to n - 1, got {shard[0]}/{shard[1]}.")
    data = StudyData(study)
    runs = plan_runs(study, data)
    write_whole(output.root / STUDY_COPY, _as_yaml(study))
    began = time.time()
    processes = [_spawned(study, output.root, makers, shard, began, num_processes) for _ in range(num_processes - 1)]
    if processes:
        _share_cores(num_processes)
    try:
        _work(study, data, runs, output, makers, shard, began, progress or (lambda event: None))
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
    return collect_results(study, folder, began=began, data=data)


def _spawned(
    study: Study,
    root: Path,
    makers: Mapping[str, Maker] | None,
    shard: tuple[int, int] | None,
    began: float,
    num_processes: int,
) -> Any:
    import multiprocessing

    arguments = (study, root, makers, shard, began, num_processes)
    process = multiprocessing.get_context("spawn").Process(target=_worker, args=arguments)
    process.start()
    return process


def _worker(
    study: Study,
    root: Path,
    makers: Mapping[str, Maker] | None,
    shard: tuple[int, int] | None,
    began: float,
    num_processes: int,
) -> None:
    """A further process: it claims runs like the first, and leaves telling and drawing to it."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _share_cores(num_processes)
    data = StudyData(study)
    with contextlib.suppress(KeyboardInterrupt):
        _work(study, data, plan_runs(study, data), _Folder(root), makers, shard, began, lambda event: None)


def _share_cores(num_processes: int) -> None:
    """Threads of torch that wait for each other's cores take many times as long as few threads."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // num_processes))


def _work(
    study: Study,
    data: StudyData,
    runs: list[Run],
    output: _Folder,
    makers: Mapping[str, Maker] | None,
    shard: tuple[int, int] | None,
    began: float,
    progress: Callable[[Event], None],
) -> None:
    """Claim and do runs until each is done, by this process or another, or has failed."""
    total = sum(len(run.cells) for run in runs)

    def tell(kind: str, run: Run, told: str) -> None:
        done = sum((output.cell(one, test_set) / "cell.json").is_file() for one in runs for test_set in one.cells)
        progress(Event(kind, run.name, told, done, total))

    by_key = {(run.model.name, run.seed): run for run in runs}
    pending = runs[shard[0] :: shard[1]] if shard is not None else list(runs)
    while pending:
        worked = False
        for run in list(pending):
            if output.is_done(run) or output.failed_since(run, began):
                pending.remove(run)
                continue
            needed = {name: _needed_run(study, by_key, name, run.seed) for name in run.model.needs}
            failed = next((name for name, one in needed.items() if output.failed_since(one, began)), None)
            if failed is not None:
                _note_failure(output, run, ValueError(f"{failed!r}, which it needs, could not be made"))
                tell("failed", run, f"{failed!r}, which it needs, could not be made")
                pending.remove(run)
                continue
            if not all(output.is_made(one) for one in needed.values()):
                continue
            with _claim(output, run, needs_lock=shard is None) as mine:
                if not mine or output.is_done(run) or output.failed_since(run, began):
                    continue
                worked = True
                try:
                    _do(study, data, run, needed, output, makers, tell)
                except Exception as error:
                    _note_failure(output, run, error)
                    tell("failed", run, textwrap.shorten(_in_a_line(error), TOLD_CHARACTERS))
                pending.remove(run)
        if pending and not worked:
            time.sleep(WAIT_SECONDS)


@contextlib.contextmanager
def _claim(output: _Folder, run: Run, needs_lock: bool) -> Iterator[bool]:
    """Hold the lock of a run; false if another process does. The system lets go of it when the process ends in any way."""
    with _locked(output.root / "claims" / f"{run.name}.lock", wait=False, needed=needs_lock) as mine:
        yield mine


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool, needed: bool) -> Iterator[bool]:
    """Hold a lock. Where the system has none, that is an error if it is `needed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except (ImportError, OSError) as error:
            if needed:
                raise OSError(
                    f"There are no file locks at {str(path.parent)!r} ({error}); share the study by --shard i/n."
                ) from error
        yield True


def _do(
    study: Study,
    data: StudyData,
    run: Run,
    needed: Mapping[str, Run],
    output: _Folder,
    makers: Mapping[str, Maker] | None,
    tell: Callable[[str, Run, str], None],
) -> None:
    train, validation = data.for_training(run.model, run.seed) if run.seed is not None else (None, None)
    if not output.is_made(run):
        assert run.seed is not None
        checkpoints = {name: one.model.checkpoint or output.model(one) for name, one in needed.items()}
        recipe = run.model.recipe if run.model.recipe is not None else study.recipe
        maker = _find_maker(run.model.maker, makers or {})
        with _unfinished(output.root, run.name) as folder:
            job = MakeJob(folder, run.model, run.seed, train, validation, recipe, checkpoints)
            began = time.perf_counter()
            told_by_maker = dict(maker(job) or {})
            if clash := RESERVED_COLUMNS & set(told_by_maker):
                raise ValueError(f"Expected the maker {run.model.maker!r} to return columns of its own, got {sorted(clash)[0]!r}.")
            made = {"num_train": _length(train), "num_validation": _length(validation), **told_by_maker}
            made.setdefault("train_seconds", round(time.perf_counter() - began, 2))
            (folder / "made.json").write_text(json.dumps(made, indent=2, default=str), encoding="utf-8")
            _put(folder, output.model(run))
        tell("made", run, f"{made['num_train'] or 0:,} clips, {made['train_seconds']:.0f} s")
    scorer = None
    for test_set in run.cells:
        target = output.cell(run, test_set)
        if (target / "cell.json").is_file():
            continue
        scorer = scorer or load_scorer(run.model.checkpoint or str(output.model(run)), scoring=study.evaluation.scoring)
        dataset = data.select(test_set)
        result = evaluate_checkpoint(scorer, dataset, test_set=test_set, options=study.evaluation)
        if not result.complete:
            raise KeyboardInterrupt
        if run.model.checkpoint is None:
            met = [one for one in (train, validation) if one is not None]
        else:
            met = [data.select(name) for name in run.model.trained_on or ()]
        known = bool(met) or run.model.trained_on is not None
        overlap = data.overlap(met, dataset) if known else {"overlap": "unknown"}
        identity = {"model_id": result.identity["id"], **{key: result.identity[key] for key in ("weights", "preprocessing")}}
        cell = {
            "columns": {
                **overlap,
                **identity,
                "num_parameters": result.num_parameters,
                "cpu_seconds_per_second": result.cpu_seconds_per_second,
            },
            "rows": result.rows,
        }
        with _unfinished(output.root, f"{run.name}-{run.cells[test_set]}") as folder:
            _write_parquet(result.clips, folder / "clips.parquet")
            (folder / "cell.json").write_text(json.dumps(cell), encoding="utf-8")
            _put(folder, target)
        failed = f", {result.num_failed} clips not scored" if result.num_failed else ""
        first = result.rows[0]
        told = ", ".join(f"{row['metric']} {row['value']:.3f}" for row in result.rows if _same_block(row, first))
        tell("tested", run, f"{test_set}: {told}{failed}")


def train_by_recipe(job: MakeJob) -> dict[str, Any]:
    """The maker `train`: runs a recipe of `hf_sqa.training` on the clips of the job."""
    from hf_sqa.training import load_recipe, run_recipe

    if job.recipe is None:
        raise ValueError(f"Expected a recipe in the study, or for the model {job.model.name!r}, got none.")
    content = load_recipe(job.recipe).to_dict()
    for key, value in {**job.model.set, "training.seed": job.seed, "output_dir": str(job.folder / "run")}.items():
        set_dotted(content, key, value)
    sets = {"train_dataset": job.train, "validation_dataset": job.validation, "announce": lambda line: None}
    result = run_recipe(content, **sets, overwrite=True)  # over what an attempt with other data left
    shutil.rmtree(job.folder / "run" / "checkpoints", ignore_errors=True)
    for path in Path(result.output_dir).iterdir():
        os.replace(path, job.folder / path.name)
    (job.folder / "run").rmdir()
    return {
        "num_train": result.num_train,
        "num_validation": result.num_validation,
        "train_seconds": round(result.seconds, 2),
        "best_step": result.best_step,
    }


MAKERS: dict[str, Maker] = {"train": train_by_recipe}


def _find_maker(name: str, own: Mapping[str, Maker]) -> Maker:
    makers = {**MAKERS, **own}
    if name in makers:
        return makers[name]
    module, colon, function = name.partition(":")
    if not colon or module.split(".")[0] != "hf_sqa":
        raise ValueError(f"Expected the maker to be one of {', '.join(makers)}, or hf_sqa.<module>:<function>, got {name!r}.")
    from importlib import import_module

    try:
        found: Maker = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The maker {name!r} cannot be loaded: {error}.") from error
    return found


@contextlib.contextmanager
def _unfinished(root: Path, name: str) -> Iterator[Path]:
    """A folder to be finished in; what an interrupted attempt left is there again, what a failed one left is not."""
    folder = root / "unfinished" / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _put(folder: Path, target: Path) -> None:
    """Move a finished folder to its place at once. One that is there already without its last file is the rest of a broken disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    os.replace(folder, target)


def _note_failure(output: _Folder, run: Run, error: Exception) -> None:
    reason = _in_a_line(error)
    trace = "".join(traceback.format_exception(error))
    output.failure(run).parent.mkdir(parents=True, exist_ok=True)
    write_whole(output.failure(run), json.dumps({"reason": reason, "time": time.time(), "trace": trace}, indent=2))


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _length(dataset: Any) -> int | None:
    return None if dataset is None else len(dataset)


def _same_block(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (row["score"], row["level"]) == (other["score"], other["level"])


def collect_results(
    study: Study, folder: str | os.PathLike[str], *, began: float = 0.0, data: StudyData | None = None
) -> StudyReport:
    """Write `results.parquet` and `results.csv` of the cells that are done, and draw the figures; nothing is scored.

    Of several processes the last to come sees what all others did: the table is written under a lock.
    """
    output = _Folder(Path(folder))
    runs = plan_runs(study, data or StudyData(study))
    with _locked(output.root / "claims" / "results.lock", wait=True, needed=False):
        rows = [row for run in runs for row in _rows_of(study, run, output)]
        if rows:
            _write_results(rows, output.root)
    done = sum((output.cell(run, one) / "cell.json").is_file() for run in runs for one in run.cells)
    # A failure without a time limit is one that no later call has made good.
    failures = {run.name: output.failed_since(run, began) for run in runs if not output.is_done(run)}
    drawn, remarks = _draw(study, rows, output.root) if rows else ([], [])
    there = {path.name for path in (output.root / "cells").glob("*")} | {path.name for path in (output.root / "models").glob("*")}
    return StudyReport(
        folder=output.root,
        num_cells=sum(len(run.cells) for run in runs),
        num_done=done,
        failures={name: textwrap.shorten(reason, TOLD_CHARACTERS) for name, reason in failures.items() if reason},
        stale=sorted(there - {run.name for run in runs}),
        figures=drawn,
        remarks=remarks,
    )


def read_results(source: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a results table: of a study's folder, or of its `.parquet` or `.csv` file; missing numbers are NaN or None."""
    path = Path(source)
    path = path / RESULTS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"Expected the results of a study, but there is no file {str(path)!r}.")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def read_clips(
    study: Study, folder: str | os.PathLike[str], model: str, test_set: str, seed: int | None = None
) -> list[dict[str, Any]]:
    """Clips of one cell with labels and predictions, as [`~hf_sqa.evaluation.suite.SuiteResult`] has them.

    Raises:
        ValueError: If the study has no such cell.
        FileNotFoundError: If it is not done yet.
    """
    import pyarrow.parquet

    for run in plan_runs(study, StudyData(study)):
        if (run.model.name, run.seed) == (model, seed) and test_set in run.cells:
            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(
                _Folder(Path(folder)).cell(run, test_set) / "clips.parquet"
            ).to_pylist()
            return rows
    raise ValueError(f"Expected a cell of the study {study.name!r}, got model {model!r}, seed {seed}, test set {test_set!r}.")


def compare_cells(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    *,
    metric: str = "utt_srcc",
    score: str = "mos",
    cluster: str | None = None,
    names: tuple[str, str] = ("A", "B"),
    **kwargs: Any,
) -> Comparison:
    """Paired comparison of two models from the clips kept of their cells; see [`~hf_sqa.metrics.compare_models`].

    Raises:
        ValueError: If they were not tested on the same clips.
    """
    if [clip["audio"] for clip in first] != [clip["audio"] for clip in second]:
        raise ValueError("Expected two cells of the same test set, got other clips or another order.")
    return compare_models(
        [clip[f"predicted_{score}"] for clip in first],
        [clip[f"predicted_{score}"] for clip in second],
        [clip[f"label_{score}"] for clip in first],
        metric=metric,
        names=names,
        systems=[clip.get("system_id") for clip in first] if metric.startswith("sys_") else None,
        conditions=[clip.get("condition_id") for clip in first] if metric.startswith("con_") else None,
        clusters=[clip.get(cluster) for clip in first] if cluster else None,
        **{"rng": 0, **kwargs},
    )


def _rows_of(study: Study, run: Run, output: _Folder) -> list[dict[str, Any]]:
    made: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        made = json.loads((output.model(run) / "made.json").read_text(encoding="utf-8"))
    rows = []
    for test_set in run.cells:
        try:
            cell = json.loads((output.cell(run, test_set) / "cell.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        columns = {**cell["columns"], **made, **{f"variable_{name}": value for name, value in run.model.variables.items()}}
        head = {"study": study.name, "model": run.model.name, "series": run.model.series, "seed": run.seed}
        rows += [{**head, **row, **columns} for row in cell["rows"]]
    return rows


def _write_results(rows: list[dict[str, Any]], root: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: {isinstance(row[name], str) for row in rows if row.get(name) is not None} for name in columns}
    full = [
        # A variable that is a number in one model and a word in another is text: a Parquet column has one type.
        {name: str(row[name]) if len(kinds[name]) > 1 and row.get(name) is not None else row.get(name) for name in columns}
        for row in rows
    ]
    with whole_file(root / RESULTS) as parquet:
        _write_parquet(full, parquet)
    with whole_file(root / RESULTS_TEXT) as text, text.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: "" if _is_nan(value) else value for name, value in row.items()} for row in full)


def _draw(study: Study, rows: list[dict[str, Any]], root: Path) -> tuple[list[Path], list[str]]:
    from hf_sqa.studies import figures

    drawn, remarks = [], []
    for entry in study.figures:
        options = {name: value for name, value in entry.items() if name not in ("kind", "file")}
        path = root / entry.get("file", f"{entry.get('kind')}.png")
        try:
            figures.draw(str(entry.get("kind")), rows, path, **options)
            drawn.append(path)
        except (ValueError, TypeError) as error:
            remarks.append(f"{path.name}: {error}")
    return drawn, remarks


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _as_yaml(study: Study) -> str:
    import yaml

    models = {
        model.name: {k: v for k, v in _plain(model).items() if v and k not in ("name", "variables")} for model in study.models
    }
    content = {**_plain(study), "models": models, "evaluation": _plain(study.evaluation)}
    return str(yaml.safe_dump(json.loads(json.dumps(content, default=list)), sort_keys=False, allow_unicode=True))


def _value(text: str) -> Any:
    if text == "":
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
