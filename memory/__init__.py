"""The team's memory: keys per step in FAISS, utility, schedules, offline and online memory.

It is handed vectors and never calls a network.
"""

if __name__ == "memory":  # the folder's own name: a second copy of every module, unlike the first
    raise ImportError("import maicc.memory: the folder memory/ is a part of the package maicc")


from maicc.memory.blended import BlendedMemory
from maicc.memory.index import KeyIndex
from maicc.memory.stores import OfflineMemory, OnlineMemory

__all__ = ["BlendedMemory", "KeyIndex", "OfflineMemory", "OnlineMemory"]
