"""Agreement with listeners as an `evaluate` metric; imports `evaluate` and `datasets`."""

from hf_sqa.metrics.hub.speech_quality_agreement.speech_quality_agreement import SpeechQualityAgreement as SpeechQualityAgreement
