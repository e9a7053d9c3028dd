"""Draws battles and lists those that are won by who knows the commander, and by no plain fight.

`python -m maicc.envs.games.smax_commander_tasks` writes the list of `smax_commander` anew, and
prints how often both scripts win the listed tasks in games that had no say in the choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.envs.batch import BatchStep
from maicc.envs.games.smax_commander import TASKS, CommanderBatch, smax_commander, tasks
from maicc.envs.games.smax_policies import hunt
from maicc.files import write_text
from maicc.streams import Stream
from maicc.types import Task

SIZES = ((3, 4), (3, 5), (4, 5), (4, 6), (4, 7), (5, 6), (5, 7))  # allies, enemies, in turn
COMPOSITIONS = 203  # that are drawn; each of their enemies is tried as the commander
HUNTER, NEAREST = 0.85, 0.4  # the hunter wins at least, attack-the-nearest at most
COMMANDERS = 2  # of each composition at least, so that it does not tell who commands
EVERY = 14  # one composition of so many is held out
GAMES = 16  # of each task and script
_AT_ONCE = 32  # tasks that are played side by side

# games, number of a game, what all games showed, random numbers -> actions by agent
Script = Callable[[CommanderBatch, int, BatchStep, np.random.Generator], Mapping[str, int]]


def hunter(
    games: CommanderBatch, row: int, shown: BatchStep, rng: np.random.Generator
) -> Mapping[str, int]:
    """Plays as the family's expert."""
    return hunt(games.envs[row], rng)


def nearest(
    games: CommanderBatch, row: int, shown: BatchStep, rng: np.random.Generator
) -> Mapping[str, int]:
    """Plays as the family's first behaviour."""
    act = smax_commander.behaviour_policies[0]
    sights = zip(games.rosters[row], shown.observations[row], shown.action_mask[row], strict=False)
    return {agent: act(seen, mask, agent, rng) for agent, seen, mask in sights}


def wins(battles: Sequence[Mapping[str, Any]], script: Script, games: int, seed: int) -> np.ndarray:
    """Plays battles, with a progress bar.

    Args:
        battles: Parameters of each task.
        script: Player.
        games: Games of each task.
        seed: Seed of the games.

    Returns:
        Share of each task's games that are won, (len(battles),).
    """
    shares = []
    with tqdm(desc=script.__name__, unit="task", total=len(battles)) as bar:
        for start in range(0, len(battles), _AT_ONCE):
            some = battles[start : start + _AT_ONCE]
            batch = CommanderBatch([Task("", "", p) for p in some for _ in range(games)])
            rng = np.random.default_rng([seed, Stream.COMMANDER_TRIALS, start])
            shown = batch.reset(rng.integers(2**31, size=len(batch.tasks)).tolist())
            while not shown.done.all():
                actions = np.zeros(batch.agent_mask.shape, np.int64)  # (B, A)
                for b in np.flatnonzero(~shown.done).tolist():
                    for agent, action in script(batch, b, shown, rng).items():
                        actions[b, batch.rosters[b].index(agent)] = action
                shown = batch.step(actions)
            shares.append(batch.won.reshape(-1, games).mean(1))
            bar.update(len(some))
    return np.concatenate(shares)


def main() -> None:
    """Draws compositions, keeps those that fit, and writes and checks the list."""
    drawn = []
    for seed in range(COMPOSITIONS):
        allies, enemies = SIZES[seed % len(SIZES)]
        composition = {"allies": allies, "enemies": enemies, "seed": seed}
        drawn += [{**composition, "commander": commander} for commander in range(enemies)]
    fits = (wins(drawn, hunter, GAMES, 0) >= HUNTER) & (wins(drawn, nearest, GAMES, 0) <= NEAREST)
    fitting: dict[str, list[int]] = {}  # commanders by composition
    for task in (drawn[i] for i in np.flatnonzero(fits)):
        composition = {key: task[key] for key in ("allies", "enemies", "seed")}
        fitting.setdefault(json.dumps(composition), []).append(task["commander"])
    kept = [
        {**json.loads(composition), "commanders": commanders}
        for composition, commanders in fitting.items()
        if len(commanders) >= COMMANDERS
    ]
    lines = [json.dumps({**c, "held_out": i % EVERY == 0}) for i, c in enumerate(kept)]
    write_text(TASKS, "[\n" + ",\n".join(lines) + "\n]\n")
    print(
        f"{len(drawn)} tasks of {COMPOSITIONS} compositions drawn, of which {fits.sum()} fit; "
        f"{len(kept)} compositions kept"
    )
    for kind, held_out in (("training", False), ("held-out", True)):
        listed = list(tasks(held_out=held_out).values())
        won = [wins(listed, script, GAMES, 1).mean() for script in (hunter, nearest)]
        print(f"{len(listed)} {kind} tasks: hunter {won[0]:.1%}, nearest {won[1]:.1%}")


if __name__ == "__main__":
    main()
