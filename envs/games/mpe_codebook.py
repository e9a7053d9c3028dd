"""Speaker and listener of MPE (jaxmarl) with a hidden codebook.

The speaker sees the colour of the goal and says a colour. Both hear a word in its place,
`codebook[colour]` of 8 words, which the task fixes. The listener sees a red, a green and a blue
landmark, and should end nearest to the goal. Goal and landmarks are drawn anew in each episode.

An episode is short, and all landmarks are equally near. In a long walk almost every step follows
from the one before it: whoever learns from walks learns to go on, and not to look words up.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from maicc.envs.drawing import Drawing, Shape
from maicc.envs.jax_setup import needs_jaxmarl
from maicc.envs.jaxmarl import JaxMARLBatch, from_jaxmarl
from maicc.envs.tasks import TaskFamily, sample_tasks
from maicc.types import Task

COLOURS, WORDS = 3, 8
STEPS = 5
SIDES = ((0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5))  # of the listener, where landmarks lie
DRAWN = ("#dc2626", "#16a34a", "#2563eb")  # the landmarks' colours in drawings
SPEAKER, LISTENER = "speaker_0", "listener_0"


class State(NamedTuple):
    """State of a game: MPE's own state, and the word of each colour, (COLOURS,) int."""

    mpe: Any
    codebook: Any


class Codebook:
    """JaxMARL environment: MPE's speaker and listener, between whom a codebook stands.

    The listener begins in the middle, and the landmarks lie on three of its four sides. The speaker
    sees the colour of the goal (3, as in MPE). The listener sees its own velocity (2), the three
    landmarks relative to itself (6), and the goal once it is shown (3, one is 1). The observations
    of both end with the word that is heard (8, one is 1). The goal is shown before the last step,
    when it is too late to go there. The team is paid once, in the last step: 1 if the landmark that
    was nearest when the goal was shown is the goal.

    Raises:
        UserError: jaxmarl is not installed.
    """

    max_steps = STEPS

    def __init__(self) -> None:
        with needs_jaxmarl("mpe_codebook"):
            from jaxmarl.environments.mpe.simple_speaker_listener import SimpleSpeakerListenerMPE
        self.mpe = SimpleSpeakerListenerMPE(max_steps=STEPS)
        self.agents = self.mpe.agents
        self.action_space = self.mpe.action_space

    def reset(self, key: Any, codebook: Any) -> tuple[dict[str, Any], State]:
        import jax
        import jax.numpy as jnp

        key, of_sides = jax.random.split(key)
        mpe: Any = self.mpe.reset(key)[1]
        landmarks = jax.random.permutation(of_sides, jnp.array(SIDES))[:COLOURS]
        mpe = mpe.replace(p_pos=mpe.p_pos.at[1].set(0.0).at[2:].set(landmarks))
        seen = self.mpe.get_obs(mpe)
        return _coded(seen, mpe, codebook), State(mpe, codebook)

    def step_env(self, key: Any, state: State, actions: Mapping[str, Any]) -> tuple[Any, ...]:
        seen, mpe, *_ = self.mpe.step_env(key, state.mpe, actions)
        over = mpe.step >= STEPS
        paid = over & (_nearest(state.mpe) == mpe.goal)
        return (
            _coded(seen, mpe, state.codebook),
            State(mpe, state.codebook),
            dict.fromkeys(self.agents, paid),
            dict.fromkeys([*self.agents, "__all__"], over),
            {},
        )


def _nearest(mpe: Any) -> Any:
    """Number of the landmark that is nearest to the listener."""
    import jax.numpy as jnp

    return jnp.linalg.norm(mpe.p_pos[2:] - mpe.p_pos[1], axis=1).argmin()


def _coded(seen: Mapping[str, Any], mpe: Any, codebook: Any) -> dict[str, Any]:
    """Observations in which both hear a word in place of the colour that was said."""
    import jax.numpy as jnp

    view = seen[LISTENER]
    goal = jnp.zeros(COLOURS).at[mpe.goal].set(mpe.step >= STEPS - 1)
    heard = jnp.zeros(WORDS).at[codebook].set(view[-COLOURS:])
    return {
        SPEAKER: jnp.concatenate([seen[SPEAKER], heard]),
        LISTENER: jnp.concatenate([view[:-COLOURS], goal, heard]),
    }


@functools.cache
def game() -> Codebook:
    """Makes the environment of this process, once."""
    return Codebook()


def steer(landmark: np.ndarray, velocity: np.ndarray) -> int:
    """Action of a listener that goes to a landmark and stops there.

    An action adds 0.5 to the speed along one axis, and a listener that does nothing more rolls on
    for 0.4 of its velocity.

    Args:
        landmark: Relative to the listener, (2,).
        velocity: (2,).
    """
    missing = landmark - 0.4 * velocity
    axis = int(np.abs(missing).argmax())
    if abs(missing[axis]) <= 0.1:  # an action moves the listener by 0.2 in all
        return 0
    return 1 + 2 * axis + int(missing[axis] > 0)


def expert(env: Any, rng: np.random.Generator) -> dict[str, int]:
    """Says the goal's colour, and walks to the goal once its word has been heard.

    The listener waits for the word. If it left at once, whoever learned from it would take its own
    first step for knowledge of the goal, and walk on whatever it heard.
    """
    mpe = env.game_state.mpe
    goal, heard = int(mpe.goal), mpe.step > 0
    walk = steer(mpe.p_pos[2 + goal] - mpe.p_pos[1], mpe.p_vel[1]) if heard else 0
    return {SPEAKER: goal, LISTENER: walk}


def guess(
    observation: np.ndarray,
    mask: np.ndarray,
    agent: str,
    rng: np.random.Generator,
    towards: tuple[int, int] = (1, 0),
) -> int:
    """Says the goal's colour, and walks to the landmark that is furthest in a direction.

    This landmark has any colour, and stays the same for an episode. Whatever is heard changes
    nothing.

    Args:
        towards: The direction: east is (1, 0), north is (0, 1).
    """
    if agent == SPEAKER:
        return int(observation[:COLOURS].argmax())
    landmarks = observation[2:8].reshape(COLOURS, 2)
    return steer(landmarks[(landmarks @ towards).argmax()], observation[:2])


GUESSES = [
    functools.partial(guess, towards=direction) for direction in ((1, 0), (0, 1), (-1, 0), (0, -1))
]


def reveal(parameters: Mapping[str, Any]) -> Sequence[float]:
    """Tells the codebook: for each colour 8 numbers, of which that of its word is 1."""
    return np.eye(WORDS)[parameters["codebook"]].ravel().tolist()


def draw(observations: np.ndarray, present: np.ndarray) -> Drawing:
    """Draws the listener in the middle of its landmarks, with the word that it hears."""
    goal, seen = observations[0, :COLOURS], observations[1]
    shapes = [
        Shape("circle", 2 + 2 * x, 2 - 2 * y, 0.4, colour, "goal" if is_goal else "")
        for (x, y), colour, is_goal in zip(
            seen[2:8].reshape(COLOURS, 2).tolist(), DRAWN, goal > goal.mean(), strict=True
        )
    ]
    words = seen[-WORDS:]
    word = f"hears word {words.argmax()}" if words.any() else "hears nothing"
    shapes += [Shape("circle", 2, 2, 0.25, agent=1), Shape("text", 2, 3.8, 0.2, label=word)]
    return Drawing(4, 4, shapes)


def _batch(tasks: Sequence[Task]) -> JaxMARLBatch:
    return JaxMARLBatch(game(), tasks, "shared")


_training, _held_out = sample_tasks(
    lambda rng: {"codebook": rng.permutation(WORDS)[:COLOURS].tolist()}, training=250, held_out=24
)

mpe_codebook = TaskFamily(
    name="mpe_codebook",
    make=lambda codebook: from_jaxmarl(game(), {"codebook": codebook}),
    training=_training,
    held_out=_held_out,
    max_steps=STEPS,
    return_bounds=(0.0, 1.0),
    expert=expert,
    behaviours=GUESSES,
    make_batch=_batch,
    team_reward="shared",
    sizes=(2, 8 + COLOURS + WORDS, 5),
    reveal=reveal,
    draw=draw,
    distance=lambda a, b: sum(x != y for x, y in zip(a["codebook"], b["codebook"], strict=True)),
    description="MPE's speaker and listener with a hidden codebook of words for colours",
)
