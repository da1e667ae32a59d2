"""SSL-MOS: wav2vec 2.0, or any other speech encoder of transformers, fine-tuned for opinion scores.

The family is registered with `Wav2Vec2FeatureExtractor`, which suits every encoder but w2v-BERT 2.0. The extractor's own defaults
suit none: `model.make_feature_extractor()` makes the extractor that a model needs.
"""

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.wav2vec2_mos.configuration_wav2vec2_mos import Wav2Vec2ForMOSConfig as Wav2Vec2ForMOSConfig
from hf_sqa.models.wav2vec2_mos.convert_wav2vec2_mos import READS, convert
from hf_sqa.models.wav2vec2_mos.modeling_wav2vec2_mos import Wav2Vec2ForMOS as Wav2Vec2ForMOS

register_family(Wav2Vec2ForMOS, Converter(convert, READS))
