"""The families. A line here makes one exist; every shared test covers it from then on."""

from hf_sqa.models.distilled_sqa import DistilledSQA, DistilledSQAConfig

__all__ = ["DistilledSQA", "DistilledSQAConfig"]
