"""[`hf_sqa.metrics.agreement`] as a metric for the library `evaluate`: `evaluate.load("<this folder>")`, or import the class."""

from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import evaluate

from hf_sqa.metrics import agreement

_DESCRIPTION = """\
Agreement of predicted speech quality scores with listeners: linear and rank correlations and errors at utterance, system and
condition level (averaged first, compared second), and RMSE and RMSE* after a monotonic mapping (ITU-T P.1401).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `float`): Predicted scores in label units; NaN or None where a clip could not be scored.
    references (`list` of `float`): Mean opinion scores; NaN or None where unrated.
    systems (`list`, *optional*): System of every clip; adds the `sys_` keys.
    conditions (`list`, *optional*): Condition of every clip; adds the `con_` keys.
    ci95 (`list` of `float`, *optional*): Half-width of the 95 % interval of every reference; needs `mapping`, adds `rmse_star`.
    mapping (`str`, *optional*): `"first"` or `"third"`; adds `rmse_mapped` keys.
Returns:
    `dict`: `utt_lcc`, `utt_srcc`, `utt_ktau`, `utt_mse`, `utt_rmse`, `utt_mae`, the same with `sys_` and `con_`, and the counts
    `num_scored`, `num_failed`, `num_unrated`. NaN means undefined.
Examples:
    >>> metric = evaluate.load("hf_sqa/metrics/hub/speech_quality_agreement")
    >>> metric.compute(predictions=[1.0, 2.0, 4.0], references=[1.5, 2.0, 4.5])["utt_srcc"]
    1.0
"""

_CITATION = """\
@techreport{itu_p1401,
  title = {Recommendation {ITU-T} {P.1401}: Methods, metrics and procedures for statistical evaluation, qualification and
           comparison of objective quality prediction models},
  institution = {International Telecommunication Union},
}
"""


class SpeechQualityAgreement(evaluate.Metric):
    """Agreement with listeners; see [`hf_sqa.metrics.agreement`] for keys, units and edge cases."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}),
            reference_urls=["https://www.itu.int/rec/T-REC-P.1401"],
        )

    def _compute(
        self,
        *,
        predictions: Any,
        references: Any,
        systems: Sequence[Hashable] | None = None,
        conditions: Sequence[Hashable] | None = None,
        ci95: Sequence[float] | None = None,
        mapping: str | None = None,
    ) -> dict[str, float]:
        return agreement(predictions, references, systems=systems, conditions=conditions, ci95=ci95, mapping=mapping)
