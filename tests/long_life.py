"""Long adaptations: `python -m tests.long_life`. Neither an episode's time nor memory may grow.

A team with a bounded memory plays 5,000 episodes. The seconds of an episode and the memory of the
process, each as the median of 250 episodes, are compared with those up to episode 500.
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


def live(episodes: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Plays so many episodes: seconds and MiB of each."""
    config = tiny_config()
    config.decision = DecisionFit(
        model=DecisionConfig(width=16, layers=1, heads=2, k=2, record=4), batch_size=8, steps=4
    )
    config.adapt.episodes = episodes
    config.adapt.memory = MemoryConfig(max_episodes=100, cache_gib=0.01)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        config.adapt.episodes = 2
        run(config, folder)
    config.adapt.episodes = episodes
    models = load_folder(folder, FAMILY.spec, "cpu")
    life = _Adaptation(models, FAMILY, FAMILY.held_out_tasks[:4], config.adapt, 0, None)
    seconds, held = np.zeros(episodes), np.zeros(episodes)
    for episode in tqdm(range(episodes), unit="episode"):
        start = time.process_time()
        life.play(episode)
        seconds[episode] = time.process_time() - start
        held[episode] = memory()
        if episode == EARLY - WINDOW:
            gc.collect()
    return seconds, held


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds, held = live(options.episodes, Path(folder) / "run")
    early, late = slice(EARLY - WINDOW, EARLY), slice(-WINDOW, None)
    print("| | up to episode 500 | at the end | growth |\n|---|---|---|---|")
    worst = 0.0
    for name, values, unit in (("an episode", 1e3 * seconds, "ms"), ("memory", held, "MiB")):
        before, after = float(np.median(values[early])), float(np.median(values[late]))
        worst = max(worst, after / before - 1)
        print(f"| {name} | {before:.1f} {unit} | {after:.1f} {unit} | {after / before - 1:+.1%} |")
    sys.exit(1 if worst > 0.05 else 0)


if __name__ == "__main__":
    _main()
