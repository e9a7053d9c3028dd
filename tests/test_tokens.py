from __future__ import annotations

import pytest

from maicc.models.tokens import ACTION, OBSERVATION, OUTCOME, RETURN_TO_GO, rank_mask, team_kinds


def test_order_of_a_step():
    assert team_kinds(2, False) == (OBSERVATION, ACTION, OBSERVATION, ACTION, OUTCOME)
    assert team_kinds(1, True) == (RETURN_TO_GO, OBSERVATION, ACTION, OUTCOME)


@pytest.mark.parametrize("n_agents", [1, 2, 3, 5])
@pytest.mark.parametrize("with_g", [False, True])
def test_who_sees_whom(n_agents, with_g):
    """METHOD.md, section 3, in words: earlier steps always, and inside a step by kind."""
    kinds = team_kinds(n_agents, with_g)
    mask = rank_mask(kinds, 3)
    inside = {
        RETURN_TO_GO: {RETURN_TO_GO},
        OBSERVATION: {RETURN_TO_GO, OBSERVATION},
        ACTION: {RETURN_TO_GO, OBSERVATION, ACTION},
        OUTCOME: {RETURN_TO_GO, OBSERVATION, ACTION, OUTCOME},
    }
    m = len(kinds)
    for q in range(3 * m):
        for k in range(3 * m):
            same, earlier = k // m == q // m, k // m < q // m
            expected = earlier or (same and kinds[k % m] in inside[kinds[q % m]])
            assert bool(mask[q, k]) == expected
