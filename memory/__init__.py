"""The team's memory: trajectories that are looked up by the similarity of their keys.

It is handed vectors and never calls a network. One decision of one agent:

    query: the key of the agent's running trajectory
      |
    coin: offline or online?    heads with a probability from schedule.py; the team tosses it
      |
      +-- heads --> OfflineMemory   the dataset, shared by all agents, one KeyIndex for all
      |
      +-- tails --> OnlineMemory    the agent's own episodes, in a row of its own; while too few of
      |                             them reached the step, the offline memory is asked instead
      |
    candidates: the nearest keys of the same step
      |
    score: similarity and returns, see utility.py
      |
    the k best trajectories, which the decision model reads

`BlendedMemory` does all of it but the coin.
"""

if __name__ == "memory":  # the folder's own name: a second copy of every module, unlike the first
    raise ImportError("import maicc.memory: the folder memory/ is a part of the package maicc")


from maicc.memory.blended import BlendedMemory
from maicc.memory.index import KeyIndex
from maicc.memory.stores import OfflineMemory, OnlineMemory, best_and_latest

__all__ = ["BlendedMemory", "KeyIndex", "OfflineMemory", "OnlineMemory", "best_and_latest"]
