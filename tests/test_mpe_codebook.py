"""Speaker and listener with a hidden codebook: what is hidden, what is paid, who gets how much."""

from __future__ import annotations

import numpy as np
import pytest

from maicc.data.behaviour import play
from maicc.envs import BatchEnv, get_family

pytest.importorskip("jaxmarl", reason="the extra `smax` is not installed")

from maicc.envs.games.mpe_codebook import (
    COLOURS,
    LISTENER,
    SIDES,
    SPEAKER,
    STEPS,
    WORDS,
    expert,
    reveal,
    steer,
)

FAMILY = get_family("mpe_codebook")
SHOWN = slice(8, 8 + COLOURS)
HEARD = slice(8 + COLOURS, 8 + COLOURS + WORDS)


def env_of(*codebook):
    return FAMILY.make_env(FAMILY.task(codebook=list(codebook)))


@pytest.mark.slow
def test_pettingzoo_contract():
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(env_of(0, 1, 2), num_cycles=50)
    parallel_seed_test(lambda: env_of(0, 1, 2), num_cycles=10)


def test_tasks_are_codebooks_and_none_is_in_both_lists():
    books = [tuple(t.parameters["codebook"]) for t in FAMILY.training_tasks]
    held_out = [tuple(t.parameters["codebook"]) for t in FAMILY.held_out_tasks]
    assert (len(books), len(held_out)) == (250, 24)
    assert len({*books, *held_out}) == 274
    assert all(len(set(book)) == COLOURS and max(book) < WORDS for book in [*books, *held_out])
    assert set(np.ravel(books)) == set(range(WORDS))


def test_the_codebook_hides_which_colour_was_said_and_nothing_else():
    first, second = env_of(0, 1, 2), env_of(7, 2, 4)
    a, b = first.reset(seed=5)[0], second.reset(seed=5)[0]
    assert not a[LISTENER][HEARD].any()  # nothing has been said yet
    for t in range(STEPS):
        assert np.array_equal(a[SPEAKER][:COLOURS], b[SPEAKER][:COLOURS])
        assert np.array_equal(a[LISTENER][:8], b[LISTENER][:8])
        assert np.array_equal(a[LISTENER][SHOWN], b[LISTENER][SHOWN])
        said = t % COLOURS
        actions = {SPEAKER: said, LISTENER: t % 5}
        (a, paid, *_), (b, again, *_) = first.step(actions), second.step(actions)
        assert a[LISTENER][HEARD].tolist() == np.eye(WORDS)[[0, 1, 2][said]].tolist()
        assert np.array_equal(a[SPEAKER][COLOURS:], a[LISTENER][HEARD])
        assert np.array_equal(b[SPEAKER][COLOURS:], b[LISTENER][HEARD])
        assert b[LISTENER][HEARD].tolist() == np.eye(WORDS)[[7, 2, 4][said]].tolist()
        assert paid == again


def test_the_speaker_sees_the_goal_which_is_drawn_anew():
    env, goals = env_of(0, 1, 2), set()
    for seed in range(12):
        seen = env.reset(seed=seed)[0]
        goal = int(env.game_state.mpe.goal)
        assert np.allclose(seen[SPEAKER][:COLOURS], np.where(np.arange(3) == goal, 0.65, 0.15))
        goals.add(goal)
    assert goals == {0, 1, 2}


def test_landmarks_lie_on_three_sides_of_the_listener_drawn_anew():
    env, drawn = env_of(0, 1, 2), set()
    for seed in range(60):
        seen = env.reset(seed=seed)[0][LISTENER]
        landmarks = tuple(map(tuple, seen[2:8].reshape(COLOURS, 2).tolist()))
        assert len(set(landmarks) & set(SIDES)) == COLOURS
        drawn.add((landmarks, int(env.game_state.mpe.goal)))
    assert len(drawn) > 40  # of 24 places times 3 goals


def test_the_goal_is_shown_in_the_end_and_paid_is_who_was_nearest_to_it():
    env, rng, outcomes = env_of(3, 4, 5), np.random.default_rng(0), set()
    for seed in range(12):
        seen, aim = env.reset(seed=seed)[0], seed % COLOURS
        goal = int(env.game_state.mpe.goal)
        for step in range(STEPS):
            landmarks = seen[LISTENER][2:8].reshape(COLOURS, 2)
            nearest = np.linalg.norm(landmarks, axis=1).argmin()
            last = step == STEPS - 1
            assert seen[LISTENER][SHOWN].tolist() == (np.eye(COLOURS)[goal] * last).tolist()
            walk = steer(landmarks[aim], seen[LISTENER][:2])
            seen, paid, *_, truncated, _ = env.step({**expert(env, rng), LISTENER: walk})
            reached = last and nearest == goal
            assert paid == {SPEAKER: float(reached), LISTENER: float(reached)}
        assert not env.agents
        assert all(truncated.values())
        outcomes.add((aim == goal, bool(reached)))
    assert {(True, True), (False, False)} <= outcomes


def test_games_in_lock_step_equal_games_alone():
    tasks, rng = FAMILY.draw_tasks(3, seed=0), np.random.default_rng(0)
    together = FAMILY.make_batch(tasks)
    sizes = (FAMILY.spec.n_agents, FAMILY.spec.observation_size, FAMILY.spec.n_actions)
    alone = BatchEnv([FAMILY.make_env(t) for t in tasks], "shared", STEPS, sizes)
    now, each = together.reset([1, 2, 3]), alone.reset([1, 2, 3])
    for _ in range(STEPS):
        for part, other in zip(now, each, strict=True):
            assert np.array_equal(part, other)
        assert [expert(env, rng) for env in together.envs] == [
            expert(env, rng) for env in alone.envs
        ]
        actions = (rng.random(now.action_mask.shape) * now.action_mask).argmax(-1)
        now, each = together.step(actions), alone.step(actions)
    assert now.truncated.all()


@pytest.mark.slow
def test_who_knows_the_codebook_reaches_the_goal_and_others_do_so_once_in_three():
    seeds = [(0, e) for e in range(300)]
    reached = {
        policy: play(FAMILY, FAMILY.training_tasks[0], 0.0, seeds, policy).returns
        for policy in ("expert", "policy0", "random")
    }
    assert all(set(returns) <= {0.0, 1.0} for returns in reached.values())
    assert reached["expert"].mean() > 0.96
    for policy in ("policy0", "random"):
        assert 0.25 < reached[policy].mean() < 0.42


def test_the_expert_waits_for_the_word_and_then_walks():
    episodes = play(FAMILY, FAMILY.training_tasks[0], 0.0, [(0, e) for e in range(20)])
    listener = episodes.actions[..., 1]
    assert not episodes.observations[:, 0, 1, -WORDS:].any()  # nothing is heard at first
    assert not listener[:, 0].any()
    assert listener[:, 1].any()


def test_what_is_revealed_is_the_word_of_each_colour():
    told = np.reshape(reveal({"codebook": [5, 0, 7]}), (COLOURS, WORDS))
    assert told.argmax(1).tolist() == [5, 0, 7]
    assert told.sum() == COLOURS
    assert len({tuple(reveal(task.parameters)) for task in FAMILY.training_tasks}) == 250
