"""A corpus anyone can rebuild: recorded speech from Debian packages, simulated conditions, human scores of the conditions.

`mos`, `s_mos` and `n_mos` are listeners' scores of the condition for other speech: suitable for training, regression tests and
agreement over conditions, not to be reported as agreement on recordings. Conditions without such scores are steps of ladders.
"""

from hf_sqa.data.bench.build import build_clips as build_clips, label_clips as label_clips, plan_bench as plan_bench
from hf_sqa.data.bench.conditions import CONDITIONS as CONDITIONS, FORMS as FORMS, ladders as ladders
from hf_sqa.data.bench.speech import (
    FORM_VOICES as FORM_VOICES,
    VOICES as VOICES,
    MissingPackagesError as MissingPackagesError,
    Phrase as Phrase,
    find_phrases as find_phrases,
    reference_waveform as reference_waveform,
)
