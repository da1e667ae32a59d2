"""The families. A line here makes one exist; every shared test covers it from then on."""

from hf_sqa.models.distilled_sqa import DistilledSQA as DistilledSQA, DistilledSQAConfig as DistilledSQAConfig
from hf_sqa.models.xlsr_sqa import XLSRSQA as XLSRSQA, XLSRSQAConfig as XLSRSQAConfig
