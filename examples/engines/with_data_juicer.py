"""An operator for data-juicer: name this file under `custom_operator_paths`, and `speech_quality_mapper` in the process list."""

from data_juicer.ops.base_op import OPERATORS, Mapper

from hf_sqa.scoring import score_batch


@OPERATORS.register_module("speech_quality_mapper")
class SpeechQualityMapper(Mapper):
    """Adds the scores of the first recording of every sample."""

    _batched_op = True

    def __init__(self, model: str | None = None, mode: str | None = None, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.settings = {"model": model, "mode": mode}

    def process_batched(self, samples):
        recordings = [some[0] if some else None for some in samples[self.audio_key]]
        return {**samples, **score_batch({"audio": recordings}, **self.settings)}
