"""Studies: a grid of models, seeds and test sets from one file, with its results table and figures."""

from hf_sqa.studies.grid import Event, run_study
from hf_sqa.studies.makers import MakeJob
from hf_sqa.studies.plan import plan_runs
from hf_sqa.studies.results import StudyReport, collect_results, compare_cells, read_clips, read_results
from hf_sqa.studies.study_data import StudyData, find_overlap
from hf_sqa.studies.study_file import ModelSpec, Study, load_study

__all__ = [
    "Event",
    "MakeJob",
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
