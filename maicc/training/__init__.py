"""Batches from the dataset, and the fits that train networks on them.

Lightning YAMLs name these classes: `class_path: maicc.training.EmbeddingModule`.
"""

from maicc.training.episode_data import EpisodeData
from maicc.training.modules import DecisionModule, EmbeddingModule
from maicc.training.practice_data import PracticeData
from maicc.training.record_data import RecordData
from maicc.training.retrieval_data import RetrievalData

__all__ = [
    "DecisionModule",
    "EmbeddingModule",
    "EpisodeData",
    "PracticeData",
    "RecordData",
    "RetrievalData",
]
