"""Pruning held against torch.nn.utils.prune, Torch-Pruning, a direct solve and a textbook brain surgeon."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.pruning import masks as M
from layerlab.pruning.allocate import brute_force, dynamic_program
from layerlab.pruning.scores import lamp, magnitude, obs
from layerlab.pruning.second_order import inverse_hessian, reconstruct, sparsegpt

MAKES = {
    "mlp": lambda: MLP(64, [24, 16], 3),
    "convnet": lambda: ConvNet(1, 3, (4, 6)),
    "vit": lambda: TinyViT(8, 4, 1, 3, dim=8, depth=1, heads=2),
}


def layers(model):
    return {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.83])
def test_magnitude_masks_are_torchs(make, share):
    model, theirs = seeded(make, 0), seeded(make, 0)
    for module in layers(theirs).values():
        prune.l1_unstructured(module, "weight", share)
    masks = M.unstructured(magnitude(M.prunable(model)), share)
    assert list(masks) == list(layers(theirs))
    for key, module in layers(theirs).items():
        assert torch.equal(masks[key], module.weight_mask.bool())
    M.apply(model, masks)
    x = draw(5, 1, 8, 8).float()
    torch.testing.assert_close(model.eval()(x), theirs.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.83])
@pytest.mark.parametrize("score", [magnitude, lamp])
def test_global_masks_are_torchs(make, share, score):
    model, theirs = seeded(make, 0), seeded(make, 0)
    modules, scores = layers(theirs), score(M.prunable(model))
    prune.global_unstructured(
        [(module, "weight") for module in modules.values()],
        pruning_method=prune.L1Unstructured,
        importance_scores={(module, "weight"): scores[key] for key, module in modules.items()},
        amount=share,
    )
    masks = M.unstructured(scores, share, per="model", allow_empty=True)
    for key, module in modules.items():
        assert torch.equal(masks[key], module.weight_mask.bool())


def test_a_mask_applied_twice_is_torchs_container():
    model, theirs = seeded(MAKES["mlp"], 0), seeded(MAKES["mlp"], 0)
    weights = M.prunable(model)
    for seed in (0, 1):
        masks = {key: draw(*w.shape, seed=seed) > 0 for key, w in weights.items()}
        M.apply(model, masks)
        for key, module in layers(theirs).items():
            prune.custom_from_mask(module, "weight", masks[key].float())
    for key, module in layers(theirs).items():
        prune.remove(module, "weight")
        assert torch.equal(M.prunable(model)[key], module.weight)
    M.make_permanent(model)
    for key, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


@pytest.mark.parametrize("make", [MAKES["mlp"], MAKES["convnet"]], ids=["mlp", "convnet"])
def test_whole_units_are_torchs_structured_masks(make):
    model, theirs = seeded(make, 0), seeded(make, 0)
    weights, keep = M.prunable(model), {}
    for key, module in layers(theirs).items():
        prune.ln_structured(module, "weight", amount=0.5, n=2, dim=0)
        norms = weights[key].flatten(1).norm(dim=1)
        keep[key] = norms.topk(len(norms) - round(0.5 * len(norms))).indices
    masks = M.channels(weights, keep)
    for key, module in layers(theirs).items():
        assert torch.equal(masks[key], module.weight_mask.bool())


@pytest.mark.parametrize("seed", range(3))
def test_lamp_is_torch_prunings(seed):
    importance = pytest.importorskip("torch_pruning").pruner.importance
    normalise = importance.LAMPImportance()._lamp
    weight = draw(20, 30, seed=seed).float()  # it knows no other type, and rounds the sums to it
    found = lamp({"a": weight})["a"]
    theirs = normalise(weight.square().flatten()).view(weight.shape)
    torch.testing.assert_close(found.float(), theirs, rtol=1e-3, atol=1e-7)
    masks = [M.unstructured({"a": score}, 0.9)["a"] for score in (found, theirs)]
    assert torch.equal(*masks)


def surgeon(row, H, count):
    """Optimal brain surgeon on one unit: remove the cheapest weight, update all others, and again."""
    row, left = row.clone(), list(range(len(row)))
    for _ in range(count):
        inverse = torch.zeros_like(H)
        inverse[torch.tensor(left)[:, None], torch.tensor(left)] = torch.linalg.inv(H[left][:, left])
        j = min(left, key=lambda i: (row[i] ** 2 / inverse[i, i]).item())
        row -= row[j] / inverse[j, j] * inverse[:, j]
        left.remove(j)
        row[[i for i in range(len(row)) if i not in left]] = 0
    return row


def cost(new, old, H):
    return torch.einsum("oi,ij,oj->", new - old, H, new - old).item()


@pytest.fixture(params=range(4))
def layer(request):
    seed = 10 * request.param
    X = draw(80, 4, seed=seed) @ draw(4, 10, seed=seed + 1) + 0.5 * draw(80, 10, seed=seed + 2)
    return draw(6, 10, seed=seed + 3), X.T @ X, X


def test_the_surgeons_first_step_is_the_obs_score(layer):
    weight, H, _ = layer
    score = obs({"a": weight}, {"a": H}, damp=0)["a"]
    for row, new, worth in zip(weight, [surgeon(r, H, 1) for r in weight], score, strict=True):
        assert new[worth.argmin()] == 0
        assert cost(new[None], row[None], H) == pytest.approx(worth.min().item())


def test_the_surgeon_ends_in_the_least_squares_solution(layer):
    weight, H, _ = layer
    new = torch.stack([surgeon(row, H, 5) for row in weight])
    torch.testing.assert_close(reconstruct(weight, H, new != 0), new)


def test_sparsegpt_is_the_surgeon_going_left_to_right_with_what_was_passed_frozen(layer):
    weight, H, _ = layer
    mask = draw(6, 10, seed=9) > 0
    expected = weight.clone()
    for row, kept in zip(expected, mask, strict=True):
        for j in (~kept).nonzero().flatten().tolist():
            inverse = torch.linalg.inv(H[j:, j:])  # over the columns from j on, solved anew each time
            row[j:] -= row[j] / inverse[0, 0] * inverse[:, 0]
            row[j] = 0
    found, _ = sparsegpt(weight, H, mask, damp=0)
    torch.testing.assert_close(found, expected)


def test_sparsegpts_last_step_is_a_direct_solve(layer):
    weight, H, X = layer
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:, 0] = False
    found, _ = sparsegpt(weight, H, mask, damp=0)
    solution = torch.linalg.lstsq(X[:, 1:], X @ weight.T).solution.T
    torch.testing.assert_close(found[:, 1:], solution)


def test_no_mask_of_that_size_beats_the_best_of_all(layer):
    weight, H, _ = layer
    best = []
    for row in weight[:2]:
        options = []
        for kept in itertools.combinations(range(10), 5):
            mask = torch.zeros(1, 10, dtype=torch.bool)
            mask[0, list(kept)] = True
            options.append(cost(reconstruct(row[None], H, mask), row[None], H))
        best.append(min(options))
    for row, least in zip(weight[:2], best, strict=True):
        for new in (surgeon(row, H, 5)[None], sparsegpt(row[None], H, sparsity=0.5, damp=0)[0]):
            assert int((new != 0).sum()) == 5
            assert cost(new, row[None], H) >= least - 1e-9
        assert cost(surgeon(row, H, 5)[None], row[None], H) <= 3 * least


def test_damping_is_a_ridge(layer):
    _, H, X = layer
    ridge = 0.05 * H.diagonal().mean()
    stacked = torch.cat([X, ridge.sqrt() * torch.eye(10, dtype=torch.float64)])
    torch.testing.assert_close(inverse_hessian(H, 0.05), torch.linalg.inv(stacked.T @ stacked))


@pytest.mark.parametrize("seed", range(20))
def test_the_dynamic_program_is_scipys_integer_program(seed):
    optimize = pytest.importorskip("scipy.optimize")
    generator = torch.Generator().manual_seed(seed)
    levels = [0.0, 0.3, 0.5, 0.8, 0.95]
    sizes = {str(i): int(torch.randint(50, 3000, (), generator=generator)) for i in range(7)}
    curves = {
        k: torch.rand(5, generator=generator, dtype=torch.float64).cumsum(0) * n for k, n in sizes.items()
    }
    goal = round(0.7 * sum(sizes.values()))
    costs = torch.cat(list(curves.values())).numpy()
    gone = [round(level * n) for n in sizes.values() for level in levels]
    once = torch.block_diag(*[torch.ones(1, 5)] * 7).numpy()
    answer = optimize.milp(
        costs,
        integrality=[1] * 35,
        bounds=(0, 1),
        constraints=[(once, 1, 1), ([gone], goal, float("inf"))],
        options={"mip_rel_gap": 0},
    )
    found = dynamic_program(curves, sizes, levels, 0.7)
    total = sum(curves[k][levels.index(share)].item() for k, share in found.items())
    assert total == pytest.approx(answer.fun, rel=1e-6)
    if seed < 2:
        best = brute_force(curves, sizes, levels, 0.7)
        assert total == pytest.approx(sum(curves[k][levels.index(s)].item() for k, s in best.items()))
