"""JaxMARL environments: one as a PettingZoo environment, and many in lock step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.envs.adapters import ResetResult, StepResult
from maicc.envs.batch import BatchStep, team_rewards
from maicc.envs.jax_setup import needs_jaxmarl
from maicc.envs.tasks import TeamReward
from maicc.types import Task, UserError

OF_STEPS = 2**32 - 1  # folded into an episode's key for its steps; no `split` gives that key


class JaxMARLBatch:
    """Games of one JaxMARL environment in lock step, with the interface of `BatchEnv`.

    All games are one function, which is compiled once for each number of games. The parameters of a
    task are numbers and lists of numbers, and `env.reset(key, **parameters)` takes them. It puts
    into the state what later steps need of them.

    JaxMARL does not tell a time limit from another end: an end at `max_steps` or later is a
    truncation. An agent that is done before the others stays, and is not alive.

    Args:
        env: JaxMARL environment with discrete actions. Observations of any shape are ravelled. A
            second object of the same kind is compiled again: make one and keep it.
        tasks: One per game, with parameters of the same names and shapes.
        team_reward: The way in which the agents' rewards make the team's.
        max_steps: Time limit; `env.max_steps` if None and if there is one.
        sizes: Agents, observation numbers and actions to pad to; those of `env` if None.

    Raises:
        UserError: jax is not installed, there is no task, `env.reset` does not take its parameters,
            or the environment's observations, actions or sizes do not fit.
    """

    def __init__(
        self,
        env: Any,
        tasks: Sequence[Task],
        team_reward: TeamReward = "sum",
        max_steps: int | None = None,
        sizes: tuple[int, int, int] | None = None,
    ) -> None:
        if not tasks:
            raise UserError("JaxMARLBatch needs at least one task")
        self._parameters = _stacked(env, [task.parameters for task in tasks])
        shapes = {name: (x.shape[1:], x.dtype) for name, x in self._parameters.items()}
        self.engine = _engine(env, tuple(shapes.items()))
        self.team_reward = team_reward
        self.max_steps = getattr(env, "max_steps", None) if max_steps is None else max_steps
        needed = self.engine.sizes
        B, (N, O, A) = len(tasks), sizes or needed  # noqa: E741
        if needed[0] > N or needed[1] > O or needed[2] > A:
            raise UserError(
                f"{type(env).__name__}: agents, observation numbers and actions {needed} do not "
                f"fit into the family's {(N, O, A)}; raise its `sizes`"
            )
        self.rosters = [list(self.engine.agents) for _ in tasks]
        self.envs = [GameView(self, b) for b in range(B)]
        self.crashed = np.zeros(B, bool)  # games never break off
        self.agent_mask = np.tile(np.arange(N) < needed[0], (B, 1))
        self._observations = np.zeros((B, N, O), np.float32)
        self._mask = np.zeros((B, N, A), bool)
        self._mask[:, needed[0] :, 0] = True
        self._alive = self.agent_mask.copy()
        self._state: Any = None
        self._states: Any = None

    @property
    def game_states(self) -> Any:
        """States of the games, as the environment makes them: arrays (B, ...) of NumPy."""
        if self._states is None:
            import jax

            self._states = jax.device_get(self._state)
        return self._states

    def reset(self, seeds: Sequence[int]) -> BatchStep:
        """Starts an episode in every game, with one seed each."""
        B = len(self.envs)
        self._seeds = np.asarray(seeds, np.uint32)
        self._over = np.zeros((2, B), bool)  # terminated, truncated
        self.steps = 0
        self._state, *seen = self.engine.reset(self._seeds, self._parameters)
        self._read(seen, np.ones((B, len(self.engine.agents)), bool), np.ones(B, bool))
        return self._result(np.zeros(self.agent_mask.shape, np.float32))

    def step(self, actions: np.ndarray) -> BatchStep:
        """Steps every game; those that have ended stay as they are.

        Args:
            actions: (B, N) int; those of games that have ended are not read.
        """
        n = len(self.engine.agents)
        running = ~(self._over[0] | self._over[1])
        chosen = np.where(running[:, None], actions[:, :n], 0).astype(np.int32)
        self._state, *seen, paid, done, over = self.engine.step(
            self._seeds, np.int32(self.steps), self._state, chosen
        )
        self.steps += 1
        late = self.max_steps is not None and self.steps >= self.max_steps
        self._over[1 if late else 0] |= running & (np.asarray(over) | late)
        # at an end all are done: whoever lived until then stays alive, and the dead stay dead
        alive = np.where(np.asarray(over)[:, None], self._alive[:, :n], ~np.asarray(done))
        self._read(seen, alive, running)
        rewards = np.zeros(self.agent_mask.shape, np.float32)
        rewards[running, :n] = np.asarray(paid)[running]
        return self._result(rewards)

    def close(self) -> None:
        """Does nothing: nothing is held open."""

    def _read(self, seen: Sequence[Any], alive: Any, running: np.ndarray) -> None:
        """Takes over what the agents of the games that are `running` (B,) bool see and may do.

        Args:
            seen: Observations (B, agents, numbers) float32, and masks (B, agents, actions) bool.
            alive: (B, agents) bool.
        """
        n, o, a = self.engine.sizes
        self._observations[running, :n, :o] = np.asarray(seen[0])[running]
        self._mask[running, :n, :a] = np.asarray(seen[1])[running]
        self._alive[running, :n] = np.asarray(alive)[running]
        self._states = None

    def _result(self, rewards: np.ndarray) -> BatchStep:
        living = np.where(self._alive.any(1, keepdims=True), self._alive, self.agent_mask)
        return BatchStep(
            self._observations.copy(),
            self._mask.copy(),
            self._alive.copy(),
            team_rewards(rewards, self.agent_mask, self.team_reward, living),
            rewards,
            *self._over.copy(),
        )


class GameView:
    """View of one whole game for scripted policies."""

    def __init__(self, games: JaxMARLBatch, row: int) -> None:
        self.games, self.row = games, row

    @property
    def game_state(self) -> Any:
        """State of the game, as the environment makes it, with arrays of NumPy."""
        import jax

        return jax.tree.map(lambda x: x[self.row], self.games.game_states)


def _stacked(env: Any, parameters: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Parameters of B tasks by name, (B, ...) float32, int32 or bool.

    Raises:
        UserError: they are not numbers of one shape, or `env.reset` does not take them.
    """
    name = type(env).__name__
    for own in parameters:
        try:
            inspect.signature(env.reset).bind(None, **own)
        except (AttributeError, TypeError) as error:
            raise UserError(
                f"{name} has no `reset` that takes a key and the task's parameters {dict(own)} "
                f"({error}); give a JaxMARL environment whose reset(key, ...) takes them"
            ) from None
        if set(own) != set(parameters[0]):
            raise UserError(f"{name}: tasks have the parameters {[*own]} and {[*parameters[0]]}")
    stacked: dict[str, np.ndarray] = {}
    kinds = {"f": np.float32, "i": np.int32, "b": np.bool_}
    for key in parameters[0]:
        try:
            array = np.array([own[key] for own in parameters])
            stacked[key] = array.astype(kinds[array.dtype.kind])
        except (KeyError, ValueError):
            raise UserError(
                f"{name}: {key} of the tasks must be numbers, or lists of them of the same shape"
            ) from None
    return stacked


class _Engine:
    """Compiled functions of any number of games of `env`: `reset` and `step`.

    Args:
        env: JaxMARL environment.
        shapes: Shape and type of each parameter that `env.reset` takes, by name.

    Raises:
        UserError: jax is not installed, or the environment's observations or actions do not fit.
    """

    def __init__(self, env: Any, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        with needs_jaxmarl(type(env).__name__):
            import jax
            import jax.numpy as jnp
        example = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
        shown, state = jax.eval_shape(env.reset, jax.random.PRNGKey(0), **example)
        self.agents = [str(agent) for agent in env.agents]
        # of each agent
        self.n_actions = [_action_count(env, agent) for agent in env.agents]
        self.observation_sizes = [_observation_size(env, agent, shown) for agent in env.agents]
        O, A = max(self.observation_sizes), max(self.n_actions)  # noqa: E741
        self.sizes = len(self.agents), O, A
        own_actions = np.arange(A) < np.array([[n] for n in self.n_actions])  # (N, A)
        masks = hasattr(env, "get_avail_actions")
        try:
            masks = masks and bool(jax.eval_shape(env.get_avail_actions, state))
        except NotImplementedError:  # as in the base class of JaxMARL
            masks = False

        def look(observations, state):
            padded = jnp.zeros((len(self.agents), O), jnp.float32)
            mask = jnp.asarray(own_actions)
            available = env.get_avail_actions(state) if masks else {}
            for i, agent in enumerate(env.agents):
                seen = jnp.ravel(observations[agent]).astype(jnp.float32)
                padded = padded.at[i, : len(seen)].set(seen)
                if masks:
                    mask = mask.at[i, : self.n_actions[i]].set(available[agent].astype(bool))
            return padded, mask

        def plain(state):
            # a step's state must have the very types of the first, or the next compiles again
            arrays = jax.tree.map(jnp.asarray, state)
            return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), arrays)

        def reset(seed, parameters):
            observations, state = env.reset(jax.random.PRNGKey(seed), **parameters)
            return plain(state), *look(observations, state)

        def step(seed, at, state, actions):
            of_steps = jax.random.fold_in(jax.random.PRNGKey(seed), OF_STEPS)
            key = jax.random.fold_in(of_steps, at)
            chosen = {agent: actions[i] for i, agent in enumerate(env.agents)}
            observations, state, rewards, dones, _ = env.step_env(key, state, chosen)
            over = jnp.bool_(dones["__all__"])
            paid = jnp.stack([jnp.float32(rewards[agent]) for agent in env.agents])
            done = jnp.stack([jnp.bool_(dones[agent]) for agent in env.agents])
            return plain(state), *look(observations, state), paid, done, over

        self.reset = jax.jit(jax.vmap(reset))
        self.step = jax.jit(jax.vmap(step, (0, None, 0, 0)))


@functools.cache
def _engine(env: Any, shapes: tuple[tuple[str, tuple[tuple[int, ...], Any]], ...]) -> _Engine:
    """Makes the engine of `env` in this process, once."""
    return _Engine(env, dict(shapes))


def _action_count(env: Any, agent: str) -> int:
    """Number of an agent's actions.

    Raises:
        UserError: they are not discrete.
    """
    space = env.action_space(agent)
    if not hasattr(space, "n"):
        raise UserError(
            f"{type(env).__name__}: {agent} has the action space {type(space).__name__}; supported "
            "is Discrete: ask the environment for discrete actions, or subclass it"
        )
    return int(space.n)


def _observation_size(env: Any, agent: str, shown: Any) -> int:
    """Number of numbers that an agent observes, of any shape.

    Raises:
        UserError: there is no array for the agent.
    """
    if not isinstance(shown, Mapping) or not hasattr(shown.get(agent), "shape"):
        raise UserError(
            f"{type(env).__name__} gives no array of observations for {agent}; subclass it, and "
            "let `reset` and `step_env` give a dict with an array for each agent"
        )
    return int(np.prod(shown[agent].shape))


class _JaxMARLEnv(ParallelEnv):
    """One game as a PettingZoo environment: a batch of one."""

    def __init__(self, env: Any, parameters: Mapping[str, Any], max_steps: int | None) -> None:
        self.games = JaxMARLBatch(env, [Task("", "", parameters)], max_steps=max_steps)
        self.metadata = {"name": type(env).__name__, "render_modes": []}
        self.render_mode = None
        engine = self.games.engine
        self.possible_agents = list(engine.agents)
        self.agents: list[str] = []
        self._observation_spaces = {
            agent: spaces.Box(-np.inf, np.inf, (size,), np.float32)
            for agent, size in zip(engine.agents, engine.observation_sizes, strict=True)
        }
        self._action_spaces: dict[str, spaces.Discrete] = {
            agent: spaces.Discrete(n)
            for agent, n in zip(engine.agents, engine.n_actions, strict=True)
        }
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_spaces[agent]

    @property
    def game_state(self) -> Any:
        """State of the game, as the environment makes it, with arrays of NumPy."""
        return self.games.envs[0].game_state

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        """Starts an episode. Without a seed, it follows from the last seed that was given."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        drawn = int(self._rng.integers(2**31)) if seed is None else seed
        self.agents = list(self.possible_agents)
        return self._shown(self.games.reset([drawn]))

    def step(self, actions: dict[str, int]) -> StepResult:
        chosen = np.array([[int(actions[agent]) for agent in self.possible_agents]])
        batch, agents = self.games.step(chosen), self.agents
        observations, infos = self._shown(batch)
        if batch.done[0]:
            self.agents = []
        return (
            observations,
            dict(zip(agents, batch.individual_rewards[0].tolist(), strict=True)),
            dict.fromkeys(agents, bool(batch.terminated[0])),
            dict.fromkeys(agents, bool(batch.truncated[0])),
            infos,
        )

    def _shown(self, batch: BatchStep) -> ResetResult:
        """Observations and infos by agent, of a batch of one."""
        observations, infos, engine = {}, {}, self.games.engine
        for i, agent in enumerate(self.possible_agents):
            observations[agent] = batch.observations[0, i, : engine.observation_sizes[i]]
            mask = batch.action_mask[0, i, : engine.n_actions[i]].astype(np.int8)
            infos[agent] = {"action_mask": mask, "alive": bool(batch.alive[0, i])}
        return observations, infos


def from_jaxmarl(
    env: Any, parameters: Mapping[str, Any] | None = None, max_steps: int | None = None
) -> ParallelEnv:
    """Makes a PettingZoo environment of a JaxMARL environment.

    Seed s starts the episode of `jax.random.PRNGKey(s)`, and step t draws from that key folded with
    `OF_STEPS` and then with t, so that no step draws what `reset` drew. Every agent stays to the
    end. `infos` hold `action_mask` and `alive`, and the attribute `game_state` is the state that
    scripted policies may look at.

    Args:
        env: JaxMARL environment with discrete actions, as `jaxmarl.make` gives it. Observations of
            any shape are ravelled. Make one for all tasks: each object is compiled by itself.
        parameters: Numbers, and lists of numbers, that `env.reset` takes behind the key.
        max_steps: Time limit; `env.max_steps` if None and if there is one.

    Raises:
        UserError: see `JaxMARLBatch`.
    """
    return _JaxMARLEnv(env, parameters or {}, max_steps)
