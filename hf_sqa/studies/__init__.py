"""Studies: a grid of models, seeds and test sets defined in one file, with a results table and figures."""

from hf_sqa.studies.grid import Event as Event, run_study as run_study
from hf_sqa.studies.makers import MakeJob as MakeJob
from hf_sqa.studies.plan import plan_runs as plan_runs
from hf_sqa.studies.results import (
    StudyReport as StudyReport,
    collect_results as collect_results,
    compare_cells as compare_cells,
    read_clips as read_clips,
    read_results as read_results,
)
from hf_sqa.studies.study_data import StudyData as StudyData, find_overlap as find_overlap
from hf_sqa.studies.study_file import ModelSpec as ModelSpec, Study as Study, load_study as load_study
