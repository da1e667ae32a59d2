"""Distill-MOS: students of XLS-R-SQA, from thousands to millions of weights."""

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import DistilledSQAConfig as DistilledSQAConfig
from hf_sqa.models.distilled_sqa.convert_distilled_sqa import READS, convert
from hf_sqa.models.distilled_sqa.modeling_distilled_sqa import DistilledSQA as DistilledSQA

register_family(DistilledSQA, Converter(convert, READS))
