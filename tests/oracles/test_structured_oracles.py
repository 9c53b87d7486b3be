"""Structured pruning and low rank, held against Torch-Pruning, torch's counter, SciPy and scikit-learn.

Where a library does something else, a test says what: Torch-Pruning leaves the number of heads to its user,
sums squares where p = 2, and counts the additions of biases among the multiply-adds.
"""

import copy

import numpy as np
import pytest
import scipy
import torch
from sklearn.linear_model import orthogonal_mp
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from layerlab.activations import gram
from layerlab.models import MLP, ConvNet, TinyViT
from layerlab.pruning import channels, count, fidelity, low_rank, ranks
from layerlab.pruning.dense_sparse import pursue
from layerlab.symmetry import permutation_spec

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MAKES = {
    "mlp": lambda: MLP(64, [8, 6], 3),
    "mlp-batch": lambda: MLP(64, [8, 6], 3, norm="batch"),
    "mlp-layer": lambda: MLP(64, [8, 6], 3, norm="layer"),
    **{
        f"convnet-{norm}-{'skip' if skip else 'plain'}-{pool}": (
            lambda norm=norm, skip=skip, pool=pool: ConvNet(1, 3, (8, 6), norm=norm, skip=skip, pool=pool)
        )
        for norm in ("batch", "layer")
        for skip in (True, False)
        for pool in (1, 4)
    },
    "convnet-deep": lambda: ConvNet(1, 3, (6, 8, 4), blocks=2),
    "vit": lambda: TinyViT(8, 4, 1, 3, dim=8, depth=2, heads=4),
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tp():
    return pytest.importorskip("torch_pruning", reason="Torch-Pruning is in the extra `oracles`")


def randomised(model):
    """Every weight and statistic drawn afresh, so that no norm is the identity."""
    generator = torch.Generator().manual_seed(0)
    for key, value in model.eval().state_dict().items():
        if value.is_floating_point():
            value.normal_(0, 0.3, generator=generator)
            if key.endswith("running_var"):
                value.abs_().add_(0.5)
    return model


def torch_pruned(tp, model, group, gone):
    """A copy pruned by Torch-Pruning, and the group that it found: (module, whether its inputs go)."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=X)
    layer = modules[group]
    prune = tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
    found = graph.get_pruning_group(layer, prune, idxs=gone)
    names = {module: name for name, module in modules.items()}
    touched = set()
    for dependency, _ in found:
        module = dependency.target.module
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            is_input = dependency.handler in (tp.prune_conv_in_channels, tp.prune_linear_in_channels)
            touched.add((f"{names[module]}.weight", int(is_input)))
    found.prune()
    return model, touched


def entries(units, block):
    return [unit * block + i for unit in units for i in range(block)]


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_torch_pruning_removes_the_same_entries_of_the_same_weights(make, tp):
    model = randomised(make())
    spec, dense = permutation_spec(model, X), count.parameters(model)
    for group, found in spec.items():
        gone, kept = [0, 2], [i for i in range(found.size) if i not in (0, 2)]
        ours = channels.remove(model, {group: kept}, X)
        block = len(model.state_dict()[f"{group}.weight"]) // found.size
        theirs, touched = torch_pruned(tp, model, group, entries(gone, block))
        weights = model.state_dict()
        writes = {(key, 0) for key in channels.writers(spec, group, weights)}
        assert touched == writes | {(key, 1) for key in channels.readers(spec, group, weights)}
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        for key, value in ours.state_dict().items():
            assert torch.equal(value, expected[key]), key
        assert count.parameters(ours) == sum(p.numel() for p in theirs.parameters()) < dense
        if "attention" in group:  # Torch-Pruning leaves the number of heads to its user
            theirs.get_submodule(group.removesuffix(".q")).heads = len(kept)
        torch.testing.assert_close(ours(X), theirs(X))


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
def test_all_groups_at_once_leave_as_many_parameters(tp):
    model = randomised(ConvNet(1, 3, (8, 6), pool=2))
    spec = permutation_spec(model, X)
    keep = {name: range(group.size // 2) for name, group in spec.items()}
    theirs = model
    for name, group in spec.items():
        theirs, _ = torch_pruned(tp, theirs, name, list(range(group.size // 2, group.size)))
    ours = channels.remove(model, keep, X)
    assert count.parameters(ours) == sum(p.numel() for p in theirs.parameters())
    torch.testing.assert_close(ours(X), theirs(X))


@pytest.mark.parametrize("make", [MAKES["mlp"], MAKES["convnet-batch-skip-4"], MAKES["convnet-deep"]])
def test_norms_of_channels(make, tp):
    """Torch-Pruning sums |w|ᵖ over all that holds a unit, without the root that makes it a norm."""
    model = make().double().eval()
    spec, modules = permutation_spec(model, X.double()), dict(model.named_modules())
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=X.double())
    for p in (1, 2):
        score = tp.importance.GroupMagnitudeImportance(
            p=p, group_reduction="sum", normalizer=None, target_types=[nn.Linear, nn.Conv2d]
        )
        ours = channels.channel_scores(model.state_dict(), spec, p=p, which="both")
        for name, group in spec.items():
            layer = modules[name]
            prune = (
                tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
            )
            theirs = score(graph.get_pruning_group(layer, prune, idxs=list(range(group.size))))
            if p == 1:
                torch.testing.assert_close(ours[name], theirs.double(), rtol=1e-5, atol=0)
            else:
                parts = [
                    channels.channel_scores({key: model.state_dict()[key]}, {name: group}, p=2, which="both")
                    for key, axis in group.axes
                    if model.state_dict()[key].ndim > 1
                ]
                torch.testing.assert_close(
                    sum(part[name].square() for part in parts), theirs.double(), rtol=1e-5, atol=0
                )


def test_multiply_adds_of_torch_pruning_have_the_biases(tp):
    model = MLP(64, [8, 6], 3)
    theirs, numbers = tp.utils.count_ops_and_params(model, X[:1])
    assert numbers == count.parameters(model)
    assert theirs == count.multiply_adds(model, X)["total"] + 8 + 6 + 3


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_multiply_adds_are_half_of_torchs_flops(make):
    model = make().eval()
    found = count.multiply_adds(model, X)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(X[:1])
    assert 2 * found["total"] == counter.get_total_flops()
    by_module = counter.get_flop_counts()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            assert 2 * found[name] == sum(by_module[f"{type(model).__name__}.{name}"].values())
    assert sum(found.values()) == 2 * found["total"]


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (5, 3, 3, 3)])
def test_eckart_young_by_scipy(shape):
    W = drawn(*shape)
    matrix = W.flatten(1).numpy()
    values = scipy.linalg.svdvals(matrix)
    for rank in range(1, len(values)):
        A, B = low_rank.svd(W, rank)
        error = matrix - (A @ B).numpy()
        assert np.linalg.norm(error, 2) == pytest.approx(values[rank])
        assert np.linalg.norm(error) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()))
        assert np.linalg.matrix_rank((A @ B).numpy()) == rank
        # no other matrix of the rank is nearer, in either norm
        for seed in range(5):
            other = (drawn(len(W), rank, seed=seed) @ drawn(rank, W[0].numel(), seed=seed + 9)).numpy()
            left = scipy.linalg.orth(other)
            other = left @ (left.T @ matrix)
            assert np.linalg.norm(matrix - other, 2) >= values[rank] - 1e-12
            assert np.linalg.norm(matrix - other) >= np.linalg.norm(error) - 1e-12


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("model", ["regression", "generalized"])
def test_activation_svd_against_direct_solves(rank, model):
    """Reduced-rank regression on the data; or the generalized eigenproblem WᵀW v = λ G⁻¹ v of the inputs."""
    inputs, W = drawn(60, 8, seed=1) @ drawn(8, 8, seed=2), drawn(6, 8, seed=3)
    G = inputs.T @ inputs
    ours = torch.mm(*low_rank.activation_svd(W, G, rank)).numpy()
    x, w = inputs.numpy(), W.numpy()
    if model == "regression":
        y = x @ w.T
        top = scipy.linalg.eigh(y.T @ y)[1][:, -rank:]
        fit = scipy.linalg.lstsq(x, y)[0]  # (in, out), W anew from the data
        direct = top @ (fit @ top).T
    else:
        inverse = np.linalg.inv(G.numpy())
        top = scipy.linalg.eigh(w.T @ w, inverse)[1][:, -rank:]  # VᵀG⁻¹V = 1
        direct = w @ top @ top.T @ inverse
    np.testing.assert_allclose(ours, direct, rtol=1e-6, atol=1e-8)
    values = scipy.linalg.eigvalsh(w @ G.numpy() @ w.T)
    lost = np.linalg.norm(x @ (w - ours).T) ** 2
    assert lost == pytest.approx(values[:-rank].sum())


def test_activation_svd_with_inputs_that_never_occur():
    """The pseudo-inverse on the data's subspace gives the same outputs."""
    inputs, W = drawn(5, 8, seed=1), drawn(6, 8, seed=3)  # five inputs in eight dimensions
    ours = torch.mm(*low_rank.activation_svd(W, inputs.T @ inputs, 2)).numpy()
    y = inputs.numpy() @ W.numpy().T
    U, S, V = scipy.linalg.svd(y, full_matrices=False)
    np.testing.assert_allclose(inputs.numpy() @ ours.T, (U[:, :2] * S[:2]) @ V[:2], atol=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_alds_against_an_integer_program(share):
    """One option per layer under the budget, the largest error least: solved by scipy's HiGHS."""
    model = ConvNet(1, 5, (8, 16), pool=2)
    weights = {k: v for k, v in model.state_dict().items() if k.endswith("weight") and v.ndim > 1}
    table = []  # layer, cost, error
    for layer, W in enumerate(weights.values()):
        table.append((layer, W.numel(), 0.0))
        norm = np.linalg.norm(W.double().flatten(1).numpy(), 2)
        for k in (k for k in (1, 2, 4) if W.shape[1] % k == 0):
            parts = np.split(W.double().flatten(1).numpy(), k, axis=1)
            values = np.stack([scipy.linalg.svdvals(part) for part in parts])
            for r in range(1, values.shape[1] + 1):
                rest = values[:, r].max() if r < values.shape[1] else 0.0
                table.append((layer, r * (k * len(W) + W[0].numel()), np.sqrt(k) * rest / norm))
    layers, costs, errors = map(np.array, zip(*table, strict=True))
    n, budget = len(table), share * sum(W.numel() for W in weights.values())
    one = (layers[None] == np.arange(len(weights))[:, None]).astype(float)
    rows = np.vstack([one * errors, costs[None]])  # each layer's error ≤ t; all costs ≤ budget
    rows = np.hstack([rows, np.vstack([-np.ones((len(weights), 1)), [[0.0]]])])
    solution = scipy.optimize.milp(
        np.r_[np.zeros(n), 1.0],
        integrality=np.r_[np.ones(n), 0],
        bounds=scipy.optimize.Bounds(0, np.r_[np.ones(n), np.inf]),
        constraints=[
            scipy.optimize.LinearConstraint(rows, ub=np.r_[np.zeros(len(weights)), budget]),
            scipy.optimize.LinearConstraint(np.hstack([one, np.zeros((len(weights), 1))]), 1, 1),
        ],
        options={"mip_rel_gap": 0},
    )
    chosen = ranks.alds(weights, share)
    worst = 0.0
    for key, (k, r) in chosen.items():
        norm = np.linalg.norm(weights[key].double().flatten(1).numpy(), 2)
        worst = max(worst, ranks.relative_error(ranks.singular_values(weights[key], k), r, norm=norm))
    assert worst == pytest.approx(solution.fun, abs=1e-6)


@pytest.mark.parametrize("nonzeros", [1, 2, 5])
def test_pursuit_is_scikit_learns(nonzeros):
    D, W = drawn(12, 9), drawn(12, 20, seed=1)
    norms = D.norm(dim=0)
    theirs = orthogonal_mp((D / norms).numpy(), W.numpy(), n_nonzero_coefs=nonzeros) / norms.numpy()[:, None]
    np.testing.assert_allclose(pursue(D, W, nonzeros).numpy(), theirs, rtol=1e-7, atol=1e-9)


def test_fidelity_of_a_convolution_is_that_of_a_fit_on_its_patches():
    model = ConvNet(1, 3, (6,), skip=False).double().eval()
    seen = []
    conv = model.features[3].conv2
    handle = conv.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        model(X.double())
    handle.remove()
    inputs, outputs = seen[0]
    patches = nn.functional.unfold(inputs, 3, padding=1).transpose(1, 2).reshape(-1, 6, 9)
    y = (outputs - conv.bias[:, None, None]).permute(0, 2, 3, 1).reshape(-1, 6).detach().numpy()
    keep = [0, 3, 4]
    fit, *_ = scipy.linalg.lstsq(patches[:, keep].flatten(1).numpy(), y)
    residual = y - patches[:, keep].flatten(1).numpy() @ fit
    G = gram(model, X.double())["features.3.conv2.weight"]
    share = fidelity.fidelity(conv.weight, G, keep)
    assert share == pytest.approx(1 - (residual**2).sum() / (y**2).sum(), abs=1e-9)
