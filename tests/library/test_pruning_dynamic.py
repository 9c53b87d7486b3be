"""Dynamic pruning: masks by mass of heat, gates, and predictors that learn the oracle's masks."""

import pytest
import torch
from torch import nn

from layerlab.models import seeded
from layerlab.pruning.dynamic import Gated, Oracle, Predictor, Static, fit_predictor, heat, top_mass


def make() -> tuple[list[nn.Module], nn.Module]:
    def stage(i: int, o: int) -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU()), i)

    head = seeded(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)), 9)
    return [stage(1, 4), stage(4, 6)], head


@pytest.fixture
def inputs():
    return torch.randn(50, 1, 5, 5, generator=torch.Generator().manual_seed(0))


def test_the_fewest_channels_with_enough_heat_are_kept():
    values = torch.rand(40, 7, generator=torch.Generator().manual_seed(1))
    for mass in (0.2, 0.5, 0.9, 1.0):
        mask = top_mass(values, mass)
        kept = (values * mask).sum(1)
        assert (kept >= mass * values.sum(1) - 1e-6).all()
        coldest = values.where(mask, torch.inf).min(1).values
        assert (kept - coldest < mass * values.sum(1)).all()  # one channel fewer would not do
        assert (values.where(~mask, -1.0).max(1).values <= coldest).all()


def test_without_heat_one_channel_stays():
    assert top_mass(torch.zeros(2, 3), 0.5).sum(1).tolist() == [1, 1]


def test_gates_that_keep_all_change_nothing_and_a_mask_is_what_the_next_stage_sees(inputs):
    stages, head = make()
    plain = head(stages[1](stages[0](inputs)))
    assert torch.equal(Gated(stages, head, {})(inputs), plain)
    assert torch.equal(Gated(stages, head, {0: Static(torch.ones(4, dtype=torch.bool))})(inputs), plain)
    mask = torch.tensor([True, False, True, False])
    gated = Gated(stages, head, {0: Static(mask)})
    by_hand = stages[0](inputs) * mask[:, None, None]
    assert torch.equal(gated(inputs), head(stages[1](by_hand)))
    (seen, answers, masks) = gated.watch(inputs)[0]
    assert torch.equal(seen, heat(inputs))
    assert torch.equal(answers, heat(stages[0](inputs)))
    assert masks.shape == (50, 4)


def test_the_oracle_sees_answers_and_the_predictor_does_not(inputs):
    stages, head = make()
    seen, answers, masks = Gated(stages, head, {1: Oracle(0.6)}).watch(inputs)[1]
    assert torch.equal(masks, top_mass(answers, 0.6))
    predictor = Predictor(torch.randn(6, 4), torch.zeros(6))
    assert torch.equal(predictor(seen, answers), predictor(seen, answers + 100))


def test_a_predictor_learns_masks_that_a_linear_map_makes():
    generator = torch.Generator().manual_seed(2)
    seen, weight = torch.randn(400, 3, generator=generator), torch.randn(5, 3, generator=generator)
    masks = seen @ weight.T > 0.3
    predicted = fit_predictor(seen, masks)(seen, seen)
    assert abs(int(predicted.sum()) - int(masks.sum())) <= 1  # the bill is the oracle's
    right = predicted == masks
    assert right.float().mean() > 0.97
    shuffled = fit_predictor(seen, masks).shuffled(0)(seen, seen) == masks
    assert shuffled.float().mean() < 0.8


def test_the_bill_is_the_oracles_where_masks_cannot_be_predicted():
    generator = torch.Generator().manual_seed(3)
    seen = torch.randn(200, 2, generator=generator)
    masks = torch.rand(200, 6, generator=generator) < 0.8
    assert abs(int(fit_predictor(seen, masks)(seen, seen).sum()) - int(masks.sum())) <= 1


def test_predictors_are_not_trained_with_the_task(inputs):
    stages, head = make()
    gated = Gated(stages, head, {1: Predictor(torch.ones(6, 4), torch.zeros(6))})
    gated(inputs).sum().backward()
    assert {name.split(".")[0] for name, _ in gated.named_parameters()} == {"stages", "head"}
    assert stages[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: top_mass(torch.ones(2, 3), 0.0), "mass"),
        (lambda: top_mass(torch.ones(3), 0.5), "heat"),
        (lambda: Oracle(1.5), "mass"),
        (lambda: Static(torch.zeros(3, dtype=torch.bool)), "mask"),
        (lambda: Static(torch.ones(3)), "mask"),
        (lambda: Predictor(torch.ones(3, 2), torch.ones(2)), "bias"),
        (lambda: fit_predictor(torch.ones(3, 2), torch.ones(3, 2)), "masks"),
        (lambda: fit_predictor(torch.ones(3, 2), torch.ones(2, 2, dtype=torch.bool)), "masks"),
        (lambda: Gated([nn.Identity()], nn.Identity(), {1: Oracle(0.5)}), "gates"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=f"^{word}: expected"):
        call()
