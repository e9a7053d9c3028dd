"""MAICC: multi-agent in-context reinforcement learning by decentralised memory retrieval."""

__version__ = "0.1.0"


def load_team(*args, **kwargs):
    """A trained team, ready to act: see `maicc.evaluation.trained.load_team`."""
    from maicc.evaluation.trained import load_team

    return load_team(*args, **kwargs)
