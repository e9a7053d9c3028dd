from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from maicc.config import DecisionConfig, EmbeddingConfig
from maicc.envs import get_family
from maicc.models.decision import DecisionTransformer
from maicc.models.embedding import Embedding
from maicc.models.heads import ActionHead, DynamicsHead
from maicc.models.observations import observation_encoder, split_entities, waves
from maicc.models.tokens import TokenEncoders
from maicc.models.transformer import take_tokens
from maicc.types import ObsLayout, Spec, UserError

LAYOUT = ObsLayout(own=(14, 3), allies=(0, 2, 4), enemies=(8, 3, 2), attack=2)
SPEC = Spec("toy", 3, 17, 5, 6, 0.0, 1.0, LAYOUT)


def encoder(seed: int = 0):
    torch.manual_seed(seed)
    return observation_encoder(SPEC, 8, "entities")


def observations(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 17, generator=torch.Generator().manual_seed(1))


def swapped(x: torch.Tensor, first: int, second: int, size: int) -> torch.Tensor:
    y = x.clone()
    y[..., first : first + size] = x[..., second : second + size]
    y[..., second : second + size] = x[..., first : first + size]
    return y


def test_an_observation_is_taken_apart_by_its_layout():
    entities = split_entities(LAYOUT, torch.arange(17.0))
    assert entities.allies.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert entities.enemies.tolist() == [[8, 9], [10, 11], [12, 13]]
    assert entities.own.tolist() == [14, 15, 16]


def test_order_does_not_matter_and_the_absent_change_nothing():
    read, x = encoder(), observations(5)
    embedding, enemies = read(x)
    assert torch.allclose(embedding, read(swapped(x, 0, 4, 4)).embedding, atol=1e-6)
    moved = read(swapped(x, 8, 12, 2))
    assert torch.allclose(embedding, moved.embedding, atol=1e-6)
    assert torch.allclose(enemies, moved.attack_targets[:, [2, 1, 0]], atol=1e-6)
    assert not torch.allclose(embedding, read(swapped(x, 0, 8, 2)).embedding, atol=1e-3)
    x[:, 4:8] = 0  # one ally is out of sight: as if the team had one fewer
    fewer = Spec("toy", 2, 13, 5, 6, 0.0, 1.0, ObsLayout((10, 3), (0, 1, 4), (4, 3, 2), 2))
    smaller = observation_encoder(fewer, 8, "entities")
    smaller.load_state_dict(read.state_dict())
    for part, other in zip(read(x), smaller(x[:, [0, 1, 2, 3, *range(8, 17)]]), strict=True):
        assert torch.allclose(part, other, atol=1e-6)


def test_an_enemy_is_read_beside_the_others():
    read, x = encoder(), observations(5)
    nearer = x.clone()
    nearer[:, 8:10] += 1.0  # the first enemy alone
    before, after = read(x).attack_targets, read(nearer).attack_targets
    assert not torch.allclose(before[:, 1], after[:, 1], atol=1e-4)
    x[:, 10:12] = 0
    assert (read(x).attack_targets[:, 1] == 0).all()


def test_rows_that_show_nothing_leave_the_others_in_their_places():
    read, x = encoder(), observations(3, 4)
    x[0, 1], x[2, 2:] = 0, 0
    together = read(x).embedding
    together.sum().backward()
    bias = read.entities.tokens.each[0].bias
    gradient = bias.grad.clone()
    read.zero_grad()
    alone = torch.stack([torch.stack([read(one[None]).embedding[0] for one in row]) for row in x])
    alone.sum().backward()
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(gradient, bias.grad, atol=1e-4)
    assert torch.equal(together[0, 1], together[2, 3])
    assert torch.allclose(read(x[1, 0]).embedding, together[1, 0], atol=1e-6)
    assert read(x[:0]).embedding.shape == (0, 4, 8)
    nothing = torch.zeros(2, 17)
    assert torch.allclose(read(nothing).embedding, together[2, 2:], atol=1e-6)


def test_outputs_that_are_wanted_equal_those_among_all():
    reader, x = encoder().entities, observations(7)
    x[0, 0:4], x[2, 0:8], x[3, 8:12], x[4, 8:14] = 0, 0, 0, 0  # allies and enemies out of sight
    front = torch.randn(7, 2, 64)
    for positions in ([0], [0, 3, 4, 5], [5, 1]):
        wanted = reader(x, positions=torch.tensor(positions))
        assert torch.allclose(wanted, reader(x)[:, positions], atol=1e-6)
        behind = [1, *(2 + i for i in positions)]
        wanted = reader(x, front, torch.tensor(behind))
        assert torch.allclose(wanted, reader(x, front)[:, behind], atol=1e-6)
    assert (reader(x, positions=torch.tensor([4]))[4] == 0).all()
    each = torch.randint(6, (7, 3), generator=torch.Generator().manual_seed(0))
    wanted = reader(x, positions=each)
    assert torch.allclose(wanted, take_tokens(reader(x), each), atol=1e-6)
    each[3, 1] = -1
    assert torch.equal(reader(x, positions=each)[3, 1], torch.zeros(64))


FEW_ENEMIES = ObsLayout(own=(14, 3), allies=(0, 3, 4), enemies=(12, 1, 2), attack=4)


@pytest.mark.parametrize("heals", [None, 0])
@pytest.mark.parametrize("layout", [LAYOUT, FEW_ENEMIES])
def test_a_step_that_is_over_reads_as_one_whose_attacks_are_all_asked_for(layout, heals):
    spec = replace(SPEC, layout=replace(layout, heals=heals))
    torch.manual_seed(0)
    encoders, x = TokenEncoders(spec, 8, "entities"), observations(3, 30)
    x[0, :5], x[1, 4:9, 8:12], x[:, 20:, 14] = 0, 0, -1.0
    actions = torch.arange(90).view(3, 30) % 5  # 2 to 4 are attacks, or 4 alone
    seen, did = encoders.encode_taken(x, actions)
    encoded = encoders.observation(x)
    assert torch.allclose(seen, encoded.embedding, atol=1e-6)
    assert torch.allclose(did, encoders.encode_action(actions, encoded), atol=1e-6)
    nothing = encoders.encode_taken(x[:0], actions[:0])
    assert [part.shape for part in nothing] == [(0, 30, 8)] * 2


def test_an_attack_goes_with_the_enemy_it_is_aimed_at():
    read, x, z = encoder(), observations(5), torch.randn(5, 8)
    head = ActionHead(SPEC, 8, "entities")
    encoded, other = read(x), read(swapped(x, 8, 10, 2))
    logits, moved = head(z, encoded.attack_targets), head(z, other.attack_targets)
    assert logits.shape == (5, 5)
    assert torch.allclose(moved, logits[:, [0, 1, 3, 2, 4]], atol=1e-6)
    assert not torch.allclose(moved, logits, atol=1e-3)
    aimed = encoded.target(torch.full((5,), 1))
    assert torch.allclose(aimed, other.target(torch.full((5,), 0)), atol=1e-6)
    assert (encoded.target(torch.full((5,), -1)) == 0).all()


def test_those_who_heal_aim_at_allies():
    """The first of one's own numbers says who heals; action 2 + j is then ally j's."""
    x, z = observations(6), torch.randn(6, 8)
    x[:, 14] = torch.tensor([-1.0, 1, -1, 1, 1, -1])
    heals = x[:, 14] > 0
    spec = replace(SPEC, layout=replace(LAYOUT, heals=0))
    torch.manual_seed(0)
    read, head = observation_encoder(spec, 8, "entities"), ActionHead(spec, 8, "entities")
    logits = head(z, read(x).attack_targets)
    allies, enemies = swapped(x, 0, 4, 4), swapped(x, 8, 10, 2)
    by_ally, by_enemy = head(z, read(allies).attack_targets), head(z, read(enemies).attack_targets)
    assert torch.allclose(by_ally[heals], logits[heals][:, [0, 1, 3, 2, 4]], atol=1e-6)
    assert torch.allclose(by_ally[~heals], logits[~heals], atol=1e-6)
    assert torch.allclose(by_enemy[heals], logits[heals], atol=1e-6)
    assert torch.allclose(by_enemy[~heals], logits[~heals][:, [0, 1, 3, 2, 4]], atol=1e-6)
    assert (logits[heals, 4] == 0).all()  # there is no third ally
    x[:, 8:14] = 0  # behind the lines: no enemy in sight
    unseen = head(z, read(x).attack_targets)
    assert unseen[heals][:, 2:4].all()
    assert (unseen[~heals][:, 2:] == 0).all()


def test_dynamics_count_only_those_who_are_or_were_seen():
    torch.manual_seed(0)
    head = DynamicsHead(SPEC, 8, "entities")
    before, after = observations(4), observations(4) + 0.5
    outcome, embedding = torch.randn(2, 4, 8)
    before[:, 8:], after[:, 8:14] = 0, 0  # no enemy, before or after
    loss = head(outcome, embedding, before, after)
    shared = head.shared(torch.cat([outcome, embedding], -1))
    with torch.no_grad():
        head.next_enemy.weight.fill_(3.0)  # whatever is said of enemies is not asked for
    assert torch.allclose(head(outcome, embedding, before, after), loss)

    def expected(predicted, value):
        mean, log_variance = predicted.chunk(2, -1)
        spread = torch.exp(log_variance.clamp(-2, 0))
        return 0.5 * (spread.log() + (value - mean) ** 2 / spread)

    total = expected(head.own(shared.relu()), after[:, 14:]).sum(-1)
    for start in (0, 4):
        ally = slice(start, start + 4)
        hidden = (shared + head.ally(before[:, ally])).relu()
        total = total + expected(head.next_ally(hidden), after[:, ally]).sum(-1)
    assert torch.allclose(loss, total / 11, atol=1e-5)


def test_entities_need_a_layout():
    spec = replace(SPEC, layout=None)
    for model, config in ((Embedding, EmbeddingConfig), (DecisionTransformer, DecisionConfig)):
        with pytest.raises(UserError, match="give its TaskFamily a layout"):
            model(spec, config(encoder="entities"))


def test_a_layout_must_fit():
    family = get_family("lbf_7x7")
    with pytest.raises(UserError, match="does not fit observations of 8 numbers"):
        _ = replace(family, layout=LAYOUT).spec
    fits = ObsLayout(own=(2, 2), allies=(4, 2, 2), enemies=(0, 1, 2), attack=5)
    assert replace(family, layout=fits).spec.layout == fits
    with pytest.raises(UserError, match="one of one's own numbers"):
        _ = replace(family, layout=replace(fits, heals=2)).spec


def test_a_spec_survives_json():
    import json
    from dataclasses import asdict

    assert Spec.from_json(json.loads(json.dumps(asdict(SPEC)))) == SPEC


def test_a_family_without_enemies():
    spec = Spec("allies", 3, 7, 2, 6, 0.0, 1.0, ObsLayout((0, 3), (3, 2, 2), (7, 0, 1), 2))
    read, x = observation_encoder(spec, 8, "entities"), torch.randn(4, 7)
    encoded = read(x)
    assert encoded.embedding.shape == (4, 8)
    actions = torch.tensor([0, 1, 1, 0])
    assert (encoded.target(actions) == 0).all()
    encoders = TokenEncoders(spec, 8, "entities")
    assert torch.equal(encoders.encode_taken(x, actions).action, encoders.action(actions))
    assert ActionHead(spec, 8, "entities")(torch.randn(4, 8), encoded.attack_targets).shape == (
        4,
        2,
    )


def test_sines_and_cosines_by_hand():
    lengths = [2, 4, 8, 16, 32]
    sines = [math.sin(2 * math.pi * number / length) for length in lengths for number in (0.5, 3)]
    cosines = [math.cos(2 * math.pi * number / length) for length in lengths for number in (0.5, 3)]
    assert waves(torch.tensor([0.5, 3.0])).tolist() == pytest.approx(sines + cosines, abs=1e-5)
    places = waves(torch.arange(32.0)[:, None])
    assert torch.pdist(places).min() > 0.15  # none of 32 rows looks like another
