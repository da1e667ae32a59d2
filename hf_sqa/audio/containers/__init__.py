"""Where a recording lies in a file, and whether all of it is there; libsndfile does not tell."""

from hf_sqa.audio.containers.frame_chain import check_frames
from hf_sqa.audio.containers.layout import Layout, after_tags, find_layout
from hf_sqa.audio.containers.part import DamagedError, Part, PartFile

__all__ = ["DamagedError", "Layout", "Part", "PartFile", "after_tags", "check_frames", "find_layout"]
