"""Battles on SMAX (jaxmarl): the unit types and dynamics of StarCraft in JAX.

Every task of a family is played in a game of one size, here 12 against 12, in which the units that
the task does not have are dead from the start. Observations and actions therefore mean the same at
any team size, and one compiled function serves all tasks.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from maicc.envs.adapters import ResetResult, StepResult
from maicc.envs.batch import BatchStep
from maicc.envs.games.battles import MAX_STEPS, MOST, Battle, battle_families, check_parameters
from maicc.envs.games.smax_drawing import action_names, draw
from maicc.envs.games.smax_policies import LAYOUT, MAP, WALL, attack_nearest, focus_fire
from maicc.envs.jax_setup import needs_jaxmarl
from maicc.streams import Stream
from maicc.types import Task, UserError

RACES = {"terran": (0, 1), "protoss": (2, 3), "zerg": (4, 5)}  # SMAX numbers of the basic types
STOP = 4  # actions: 0 north, 1 east, 2 south, 3 west, 4 stop, 5 + j attack enemy j
OBSERVATION_SIZE = sum(LAYOUT.own)  # allies, enemies, own features


class GameView:
    """View of one whole game for scripted policies. Arrays hold the allies, then the enemies."""

    def __init__(self, games: SmaxBatch, row: int) -> None:
        self.games, self.row = games, row

    @property
    def steps(self) -> int:
        """Steps played so far."""
        return self.games.steps

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the task."""
        return self.games.tasks[self.row]

    def __getattr__(self, name: str) -> np.ndarray:
        """Array of the game of A allies and M enemies: `position` (A + M, 2); `health`, `cooldown`,
        `kind` and `alive` (A + M,); `legal` (A, 5 + M).
        """
        if name not in self.games.known:
            raise AttributeError(name)
        return self.games.known[name][self.row]


class SmaxBatch:
    """Games in lock step, with the interface of `BatchEnv`.

    Args:
        tasks: One per game, with the parameters `race`, `allies`, `enemies`, `seed` and `vary`. If
            `vary` is true, unit types and spawns are drawn anew in each episode. Without `race`
            units are of all types.

    Attributes:
        sides: Most allies and most enemies, of which observations, actions and arrays tell.
        layout: Where an observation holds which unit; oneself comes last.
        max_steps: Largest number of steps of a game.
        commands: Units with which all enemies fall, (B, A + M) bool; None where there are none.

    Raises:
        UserError: there is no task, or its parameters are wrong.
    """

    sides = (MOST, MOST)
    layout = LAYOUT
    max_steps = MAX_STEPS
    commands: np.ndarray | None = None

    def __init__(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            raise UserError("SmaxBatch needs at least one task")
        self.tasks = [dict(task.parameters) for task in tasks]
        for p in self.tasks:
            self.check(p)
        self.agent_mask, enemies = (
            np.arange(most) < np.array([[p[side]] for p in self.tasks])
            for side, most in zip(("allies", "enemies"), self.sides, strict=True)
        )
        self._there = np.concatenate([self.agent_mask, enemies], 1)
        self.rosters = [[f"ally_{i}" for i in range(p["allies"])] for p in self.tasks]
        self.envs = [GameView(self, b) for b in range(len(self.tasks))]
        self.known: dict[str, np.ndarray] = {}
        self.won = np.zeros(len(self.tasks), bool)
        self.crashed = np.zeros(len(self.tasks), bool)  # games never break off

    @staticmethod
    def check(parameters: dict[str, Any]) -> None:
        """Checks the parameters of a task, see `check_parameters`."""
        check_parameters(parameters, RACES)

    def reset(self, seeds: Sequence[int]) -> BatchStep:
        B = len(self.tasks)
        # where a task is fixed its own seed gives units and spawns, and the episode's the battle
        vary = np.array([p.get("vary", False) for p in self.tasks])
        drawn = [s if v else p["seed"] for s, v, p in zip(seeds, vary, self.tasks, strict=True)]
        kinds = np.stack(
            [units(p, seed, self.sides) for p, seed in zip(self.tasks, drawn, strict=True)]
        )
        engine = _engine(*self.sides)
        self._keys = engine.keys(np.asarray(seeds, np.uint32))
        spawns = engine.keys(np.asarray(drawn, np.uint32))
        self._state, *seen = engine.reset(spawns, kinds.astype(np.uint8), self._there, vary)
        self._over = np.zeros((2, B), bool)  # terminated, truncated
        self.steps = 0
        self.won = np.zeros(B, bool)
        self._read(seen, np.ones(B, bool))
        return self._result(np.zeros(B, np.float32))

    def step(self, actions: np.ndarray) -> BatchStep:
        """`actions` (B, N) int; those of games that have ended are not read."""
        running = ~self._over.any(0)
        self._state, reward, terminated, won, *seen = _engine(*self.sides).step(
            self._keys, np.int32(self.steps), self._state, np.asarray(actions, np.int32),
            self._there, self.commands,
        )  # fmt: skip
        self.steps += 1
        ended = running & np.asarray(terminated)
        self.won |= running & np.asarray(won)
        self._over[0] |= ended
        self._over[1] |= running & ~ended & (self.steps >= self.max_steps)
        self._read(seen, running)
        return self._result(np.where(running, np.asarray(reward), 0.0).astype(np.float32))

    def close(self) -> None:
        """Does nothing: nothing is held open."""

    def _read(self, arrays: Sequence[Any], running: np.ndarray | np.bool) -> None:
        """Keeps the arrays that the engine gave of the games that are `running` (B,) bool."""
        names = ("observations", "legal", "position", "health", "cooldown", "alive", "kind")
        for name, array in zip(names, arrays, strict=True):
            new = np.asarray(array)
            if name not in self.known or running.all():
                self.known[name] = new.copy()
            else:
                self.known[name][running] = new[running]

    def _result(self, rewards: np.ndarray) -> BatchStep:
        return BatchStep(
            self.known["observations"].copy(),
            self.known["legal"].copy(),
            self.known["alive"][:, : self.sides[0]].astype(bool),
            rewards,
            rewards[:, None] * self.agent_mask / self.agent_mask.sum(1, keepdims=True),
            *self._over.copy(),
        )


def units(parameters: dict[str, Any], seed: int, sides: tuple[int, int]) -> np.ndarray:
    """Draws unit types (A + M,). Both sides have the same ones, as far as both have units."""
    rng = np.random.default_rng([seed, Stream.SMAX_UNITS])
    types = RACES[parameters["race"]] if "race" in parameters else sum(RACES.values(), ())
    kinds = rng.choice(types, max(sides))
    return np.concatenate([kinds[:side] for side in sides])


class _Engine:
    """Compiled functions `keys`, `reset` and `step` of any number of games at a time.

    Args:
        allies: Most allies of a game.
        enemies: Most enemies.

    Raises:
        UserError: jaxmarl is not installed.
    """

    def __init__(self, allies: int, enemies: int) -> None:
        with needs_jaxmarl("SMAX"):
            import jax
            import jax.numpy as jnp
            from jaxmarl.environments.smax import HeuristicEnemySMAX
        sides = {"num_allies": allies, "num_enemies": enemies}
        fixed = HeuristicEnemySMAX(**sides)
        drawn = HeuristicEnemySMAX(**sides, smacv2_position_generation=True)
        game = fixed._env

        def look(state):
            observations, legal = game.get_obs(state.state), fixed.get_avail_actions(state)
            s = state.state
            return (
                jnp.stack([observations[agent] for agent in fixed.agents]),
                jnp.stack([legal[agent] for agent in fixed.agents]).astype(bool),
                s.unit_positions, s.unit_health, s.unit_weapon_cooldowns, s.unit_alive,
                s.unit_types,
            )  # fmt: skip

        def reset(key, kinds, exists, vary):
            state = fixed.reset(key)[1]
            # jaxmarl draws some beyond the wall, where the first step kills them
            spawns = jnp.where(
                vary, drawn.reset(key)[1].state.unit_positions, state.state.unit_positions
            ).clip(WALL, MAP - WALL)
            state = state.replace(
                state=state.state.replace(
                    unit_types=kinds,
                    unit_positions=spawns,
                    unit_health=jnp.where(exists, game.unit_type_health[kinds], 0.0),
                    unit_alive=exists,
                )
            )
            # of exactly the types that a step leaves, or the second step would compile again
            state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
            return state, *look(state)

        def step(key, at, state, actions, exists, commands):
            before = state.state.unit_health
            chosen = {agent: actions[i] for i, agent in enumerate(fixed.agents)}
            state = fixed.step_env(jax.random.fold_in(key, at), state, chosen)[1]
            s = state.state
            if commands is not None:
                fallen = (commands & ~s.unit_alive).any() & (jnp.arange(len(before)) >= allies)
                s = s.replace(
                    unit_health=jnp.where(fallen, 0.0, s.unit_health),
                    unit_alive=s.unit_alive & ~fallen,
                )
                state = state.replace(state=s)
            lost = (before - s.unit_health) / game.unit_type_health[s.unit_types]
            damage = lost[allies:].sum() / exists[allies:].sum()
            all_dead, all_enemies_dead = ~s.unit_alive[:allies].any(), ~s.unit_alive[allies:].any()
            won = all_enemies_dead & ~all_dead
            return state, damage + won, all_dead | all_enemies_dead, won, *look(state)

        self.keys = jax.vmap(jax.random.PRNGKey)
        self.reset = self._timed(jax.jit(jax.vmap(reset)))
        self.step = self._timed(jax.jit(jax.vmap(step, (0, None, 0, 0, 0, 0))))

    @staticmethod
    def _timed(compiled: Any) -> Any:
        """Wraps a compiled function: it says how long it took to compile for a number of games."""
        sizes: set[int] = set()  # numbers of games that it has been compiled for

        def call(*arguments: Any) -> Any:
            games, start = len(arguments[0]), time.perf_counter()
            result = compiled(*arguments)
            if games not in sizes:
                sizes.add(games)
                print(f"smax: compiled for {games} games in {time.perf_counter() - start:.1f} s")
            return result

        return call


@functools.cache
def _engine(allies: int, enemies: int) -> _Engine:
    """Makes the engine of this process for games of that size, once."""
    return _Engine(allies, enemies)


class Smax(Battle):
    """One game as a PettingZoo environment: a batch of one.

    Every ally is paid an equal share of the team reward. This is the share of the enemies' health
    that was destroyed, 1 in all, and 1 more for winning. Dead allies stay in the roster and may
    only stop. `infos` hold `action_mask`, `alive` and `battle_won`.
    """

    metadata = {"name": "smax", "render_modes": [], "is_parallelizable": True}  # noqa: RUF012
    batch: type[SmaxBatch] = SmaxBatch

    def __init__(self, **parameters: Any) -> None:
        self.games = self.batch([Task("smax", "", parameters)])
        super().__init__(parameters, self.games.layout, sum(self.games.layout.own))

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        batch = self.games.reset([self.episode_seed(seed)])
        self.agents = list(self.possible_agents)
        return self._by_agent(batch.observations[0]), self._infos(batch)

    def step(self, actions: dict[str, int]) -> StepResult:
        chosen = np.full((1, self.games.sides[0]), STOP)
        for i, agent in enumerate(self.possible_agents):
            chosen[0, i] = actions[agent]
        batch = self.games.step(chosen)
        result = (
            self._by_agent(batch.observations[0]),
            {a: float(r) for a, r in self._by_agent(batch.individual_rewards[0]).items()},
            dict.fromkeys(self.agents, bool(batch.terminated[0])),
            dict.fromkeys(self.agents, bool(batch.truncated[0])),
            self._infos(batch),
        )
        if batch.done[0]:
            self.agents = []
        return result

    def __getattr__(self, name: str) -> Any:
        """What a scripted policy reads of the game, as `GameView` gives it."""
        if name == "games":  # it is not made yet
            raise AttributeError(name)
        return getattr(self.games.envs[0], name)

    def _by_agent(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, rows, strict=False))

    def _infos(self, batch: BatchStep) -> dict[str, dict[str, Any]]:
        won = bool(self.games.won[0])
        alive = self._by_agent(batch.alive[0])
        return {
            agent: {
                "action_mask": mask.astype(np.int8),
                "alive": bool(alive[agent]),
                "battle_won": won,
            }
            for agent, mask in self._by_agent(batch.action_mask[0]).items()
        }


_families = battle_families(
    "smax", "battles", list(RACES), Smax, LAYOUT, OBSERVATION_SIZE, 2.0, focus_fire,
    behaviours=attack_nearest, make_batch=SmaxBatch, draw=functools.partial(draw, layout=LAYOUT),
    action_names=action_names(LAYOUT),
)  # fmt: skip
smax_protoss, smax_terran = _families["protoss"], _families["terran"]
smax_zerg, smax_all = _families["zerg"], _families["all"]
