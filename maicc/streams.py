"""Names of the random streams: two users of one seed draw from different streams.

A stream is `numpy.random.default_rng([seed, Stream.NAME, ...])`. NumPy takes missing numbers for 0:
`[seed, 30]` and `[seed, 30, 0]` are the same stream. A number is never changed or used again: data
and results follow from it.
"""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """Numbers of the streams.

    Agents draw from `[seed, number of the agent, episode]`, without a stream, unless they share
    their draws. In a team of more than 50 agents, agents 50 to 54, and 70 beside an explorer, share
    numbers with the streams of these names, which does no harm.
    """

    # of one episode that a behaviour policy plays, behind the episode's own seed
    RANDOM_ACTIONS = 0
    BEHAVIOUR = 1
    EXPERT_LABELS = 2
    # seeds of episodes
    CALIBRATION = 10
    COLLECTION = 11
    # which tasks
    DRAW_TASKS = 20
    SAMPLE_TASKS = 21
    # batches for training
    EPISODE_BATCHES = 30
    RETRIEVAL_BATCHES = 31
    CHAIN_BATCHES = 32
    RADT_BATCHES = 33
    HISSD_BATCHES = 34
    RECORD_BATCHES = 35
    PRACTICE_BATCHES = 36
    # which episodes are held back from training
    HELD_BACK = 37
    # order of trajectories that share a key
    KEY_ORDER = 40
    # seed of an adaptation episode
    ADAPT_RESET = 50
    # numbers that the agents of a team share
    SHARED_DRAWS = 54
    # practice: teams, episodes, and the labels of each
    PRACTICE_TEAMS = 51
    PRACTICE_RESET = 52
    PRACTICE_LABELS = 53
    # resampling of runs
    BOOTSTRAP = 60
    # yardsticks of a benchmark
    EXPLORER = 70
    BEHAVIOUR_YARDSTICK = 71
    RANDOM_YARDSTICK = 72
    CREDIT = 80
    # units of battles
    SMAX_UNITS = 90
    SMAC_UNITS = 91
    # trials of battles with a hidden commander
    COMMANDER_TRIALS = 92
    # scripted partners, behind the episode's seed
    PARTNERS = 93
