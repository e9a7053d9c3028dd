"""Long adaptations: `python -m tests.long_life`. Neither an episode's time nor memory may grow.

A team with a bounded memory plays 5,000 episodes. In its last 250 it takes turns with a young team,
which goes from episode 250 to 500 meanwhile, so that what else the machine does slows both alike.
Memory is that of the process when the old team was at episode 500, and at its end.
"""

from __future__ import annotations

import argparse
import gc
import io
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from tqdm import tqdm

from maicc.config import DecisionConfig, DecisionFit, MemoryConfig
from maicc.envs import get_family
from maicc.evaluation.adapt import _Adaptation
from maicc.evaluation.trained import load_folder
from maicc.experiments.run import run
from tests.conftest import tiny_config

FAMILY = get_family("lbf_7x7")
PAGE = 4096  # bytes
WINDOW, EARLY = 250, 500


def memory() -> float:
    """Memory that the process holds, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def team(folder: Path, episodes: int) -> _Adaptation:
    """Makes a team at the beginning of its life."""
    config = tiny_config()
    config.adapt.episodes = episodes
    config.adapt.memory = MemoryConfig(max_episodes=100, cache_gib=0.01)
    models = load_folder(folder, FAMILY.spec, "cpu")
    return _Adaptation(models, FAMILY, FAMILY.held_out_tasks[:4], config.adapt, 0, None)


def milliseconds(life: _Adaptation) -> float:
    """Plays the next episode and gives the processor's time."""
    start = time.process_time()
    life.play(life.finished)
    return 1e3 * (time.process_time() - start)


def live(episodes: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Plays so many episodes: time and memory, each early and late in life."""
    config = tiny_config()
    config.decision = DecisionFit(
        model=DecisionConfig(width=16, layers=1, heads=2, k=2, record=4), batch_size=8, steps=4
    )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run(config, folder)
    old, held = team(folder, episodes), {}
    for episode in tqdm(range(episodes - WINDOW), unit="episode"):
        milliseconds(old)
        if episode + 1 == EARLY:
            gc.collect()
            held["early"] = memory()
    gc.collect()
    held["late"] = memory()
    young = team(folder, EARLY)
    for _ in range(EARLY - WINDOW):
        milliseconds(young)
    turns = np.array([(milliseconds(young), milliseconds(old)) for _ in tqdm(range(WINDOW))])
    early, late = np.median(turns, 0).tolist()
    return {"an episode, ms": (early, late), "memory, MiB": (held["early"], held["late"])}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = live(options.episodes, Path(folder) / "run")
    print("| | early | late | growth |\n|---|---|---|---|")
    for name, (early, late) in found.items():
        print(f"| {name} | {early:.1f} | {late:.1f} | {late / early - 1:+.1%} |")
    sys.exit(1 if any(late > 1.05 * early for early, late in found.values()) else 0)


if __name__ == "__main__":
    _main()
