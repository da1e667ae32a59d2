"""Score a corpus of any size: any source, shards that survive every kill, a report, a filter. Importing it loads no torch."""

from hf_sqa.runs import Locked as OutputLocked, RunMismatch
from hf_sqa.scoring.items import Item
from hf_sqa.scoring.run import score_corpus
from hf_sqa.scoring.run_part import Progress
from hf_sqa.scoring.scorer import CorpusScorer, Settings, score_batch
from hf_sqa.scoring.shards import OutputError
from hf_sqa.scoring.sources import Source, open_source

__all__ = [
    "CorpusScorer",
    "Item",
    "OutputError",
    "OutputLocked",
    "Progress",
    "RunMismatch",
    "Settings",
    "Source",
    "open_source",
    "score_batch",
    "score_corpus",
]
