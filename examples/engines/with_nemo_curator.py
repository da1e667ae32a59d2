"""A stage for NeMo Curator: `pipeline.add_stage(SpeechQualityStage())`; follow it with `PreserveByValueStage("mos", 3, "ge")`."""

from dataclasses import dataclass, field

from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import AudioTask

from hf_sqa.scoring import score_batch


@dataclass
class SpeechQualityStage(ProcessingStage[AudioTask, AudioTask]):
    """Adds scores to every task; what cannot be scored gets a NaN, its status and its reason, and is not dropped."""

    name: str = "speech_quality"
    filepath_key: str = "audio_filepath"
    batch_size: int = 16
    resources: Resources = field(default_factory=lambda: Resources(cpus=1.0))

    def inputs(self):
        return [], [self.filepath_key]

    def outputs(self):
        return [], [self.filepath_key, "mos", "status", "code", "reason"]

    def process(self, task):
        return self.process_batch([task])[0]

    def process_batch(self, tasks):
        scored = score_batch({"audio": [task.data[self.filepath_key] for task in tasks]}, suffix="")
        for index, task in enumerate(tasks):
            task.data.update({name: values[index] for name, values in scored.items()})
            if task.data["mos"] is None:
                task.data["mos"] = float("nan")
        return tasks
