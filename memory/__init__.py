"""The team's memory: keys per step in FAISS, utility, schedules, offline and online memory.

It is handed vectors and never calls a network.
"""

from maicc.memory.index import KeyIndex
from maicc.memory.stores import BlendedMemory, OfflineMemory, OnlineMemory

__all__ = ["BlendedMemory", "KeyIndex", "OfflineMemory", "OnlineMemory"]
