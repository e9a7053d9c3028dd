"""Small untrained rivals, and what tests do with them."""

from __future__ import annotations

from maicc.baselines import METHODS as ALL
from maicc.data.dataset import EpisodeFile
from maicc.envs import batch_env, get_family
from maicc.evaluation.adapt import play_episode
from maicc.training.chain_data import ChainBatch, ChainData
from maicc.training.fit import seeded

FAMILY = get_family("lbf_7x7")


METHODS = [name for name in ALL if name != "maicc"]


SMALL = {"width": 16, "layers": 2, "heads": 2}


def make(method: str, dataset, **changes):
    return make_for(method, EpisodeFile(dataset).spec, **changes)


def make_for(method: str, spec, **changes):
    kind = ALL[method].load_module_type()
    window = {"window": 4} if method == "radt" else {}
    config = kind.config_type(**{**SMALL, **window, **changes})
    with seeded(1):
        return kind(spec, config).eval()


def chains(dataset, seed: int = 0, **options) -> ChainBatch:
    options = {"batch_size": 5, "episodes": 4, **options}
    data = ChainData("lbf_7x7", str(dataset), seed=seed, **options)
    data.setup("fit")
    return next(data.batches(0))


def play(team, episodes: int = 3):
    tasks = FAMILY.draw_tasks(2, 0)
    env = batch_env(FAMILY, tasks)
    for e in range(episodes):
        play_episode(team, env, [e, e + 100])
    return team


def spied(team):
    """The team, with the logits of every step kept."""
    team.seen, logits = [], team.logits

    def keep(active):
        team.seen.append(logits(active))
        return team.seen[-1]

    team.logits = keep
    return team
