"""A corpus anyone can rebuild: recorded speech from Debian packages, simulated conditions, human scores of the conditions.

`mos`, `s_mos` and `n_mos` are listeners' scores of the condition for other speech: suitable for training, regression tests and
agreement over conditions, not to be reported as agreement on recordings. Conditions without such scores are steps of ladders.
"""

from hf_sqa.data.bench.build import BenchPlan, Clip, build_clips, label_clips, ladder_pairs, plan_bench
from hf_sqa.data.bench.conditions import CONDITIONS, FORMS, LADDERS, Condition, ladders
from hf_sqa.data.bench.speech import FORM_VOICES, VOICES, MissingPackagesError, Phrase, Voice, find_phrases, reference_waveform

__all__ = [
    "CONDITIONS",
    "FORMS",
    "FORM_VOICES",
    "LADDERS",
    "VOICES",
    "BenchPlan",
    "Clip",
    "Condition",
    "MissingPackagesError",
    "Phrase",
    "Voice",
    "build_clips",
    "find_phrases",
    "label_clips",
    "ladder_pairs",
    "ladders",
    "plan_bench",
    "reference_waveform",
]
