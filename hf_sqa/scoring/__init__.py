"""Score a corpus of any size: any source, shards that survive every kill, a report, a filter. Importing it does not load torch."""

from hf_sqa.runs import Locked as Locked, RunMismatch as RunMismatch
from hf_sqa.scoring.items import Item as Item
from hf_sqa.scoring.run import Progress as Progress, score_corpus as score_corpus
from hf_sqa.scoring.scorer import CorpusScorer as CorpusScorer, Settings as Settings, score_batch as score_batch
from hf_sqa.scoring.shards import OutputError as OutputError
from hf_sqa.scoring.sources import Source as Source, open_source as open_source
