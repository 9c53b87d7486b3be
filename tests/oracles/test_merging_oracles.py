"""Merges of random state dicts, held against mergekit and fusion-bench; and in what they differ.

Both libraries are in the extra `oracles-heavy`. Each difference has a test of its own: if a new version of a
library does away with it, that test says so.
"""

import pytest
import torch
from torch import nn

from layerlab.activations import gram
from layerlab.merging import task_vectors as tv
from layerlab.merging.combine import generator_for
from layerlab.merging.objectives import entropy
from layerlab.merging.sparsify import breadcrumbs, drop_and_rescale, elect_sign, trim
from layerlab.merging.statistics import fisher_merge, regmean
from layerlab.models import ConvNet, TinyViT, seeded

MAKES = {"convnet": lambda: ConvNet(1, 3, (8,)), "vit": lambda: TinyViT(8, 4, 1, 3, dim=16)}
DENSITIES = [0.05, 0.2, 0.5, 0.9, 1.0]


@pytest.fixture(scope="module")
def mergekit():
    return pytest.importorskip("mergekit.merge_methods", reason="mergekit is in the extra `oracles-heavy`")


@pytest.fixture(scope="module")
def fusion():
    """A function that imports a module of fusion-bench's methods."""
    pytest.importorskip("fusion_bench", reason="fusion-bench is in the extra `oracles-heavy`")
    return lambda name: pytest.importorskip(f"fusion_bench.method.{name}")


@pytest.fixture(scope="module", params=MAKES.values(), ids=MAKES)
def states(request):
    """A base and three models in float64; counters agree, since mergekit copies only counters that do."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            k: torch.randn(v.shape, generator=generator, dtype=torch.float64) if v.is_floating_point() else v
            for k, v in seeded(request.param, 0).state_dict().items()
        }
        for _ in range(4)
    ]


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], msg=lambda text, key=key: f"{key}: {text}")


def differ(a, b):
    return any(not torch.allclose(a[key], b[key]) for key in a if a[key].is_floating_point())


def flat(state):
    return torch.cat([v.flatten() for v in state.values() if v.is_floating_point()])


# mergekit


@pytest.fixture
def kit(mergekit, states):
    """A merge by mergekit: the base has no weight of its own."""

    def merge(method, weight=1.0, **parameters):
        named = dict(zip(("base", "a", "b", "c"), states, strict=True))
        if not isinstance(weight, float):
            weight = dict(zip("abc", weight, strict=True))
        parameters |= {"weight": weight}
        return mergekit.merge_state_dicts(named, method, base="base", parameters=parameters)

    return merge


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0], [1.0, -0.5, 0.25]])
def test_task_arithmetic(kit, states, weights):
    base, *models = states
    merged = tv.combine(base, models, scale=0.4, weights=weights)
    equal(merged, kit("task_arithmetic", weights or 1.0, **{"lambda": 0.4}))
    if weights is None:
        equal(tv.task_arithmetic(base, models, 0.4), merged)


def test_averages(mergekit, states):
    _, *models = states
    for weights in ([1.0, 1.0, 1.0], [1.0, 0.5, 2.0]):
        expected = mergekit.merge_state_dicts(models, "linear", parameters={"weight": weights})
        equal(tv.average(models, weights), expected)


@pytest.mark.parametrize("density", DENSITIES)
def test_ties_per_tensor(kit, states, density):
    base, *models = states
    equal(tv.ties(base, models, density, scope="tensor"), kit("ties", density=density))
    merged = tv.ties(base, models, density, scale=0.6, scope="tensor")
    equal(merged, kit("ties", density=density, **{"lambda": 0.6}))


@pytest.mark.parametrize("mean", [True, False])
def test_ties_with_weights(kit, states, mean):
    base, *models = states
    options = {"scale": 1.0, "elect": True, "mean": mean, "sparsify": lambda d, _: trim(d, 0.3)}
    merged = tv.combine(base, models, weights=[1.0, 0.5, 2.0], **options)
    equal(merged, kit("ties", [1.0, 0.5, 2.0], density=0.3, normalize=mean))


@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.1), (0.85, 0.1), (0.1, 0.01), (0.3, 0.7)])
def test_breadcrumbs(kit, states, density, gamma):
    base, *models = states
    models = [m | {"head.bias": m["head.bias"][:3]} for m in models]
    merged = tv.breadcrumbs(base, models, density, gamma, 0.5)
    expected = kit("breadcrumbs", density=density, gamma=gamma, **{"lambda": 0.5})
    small = {k for k, v in base.items() if v.is_floating_point() and int(density * v.numel()) == 0}
    for key in small:  # mergekit leaves a small tensor without any change, here one entry is kept
        torch.testing.assert_close(expected.pop(key), base[key])
        assert (merged.pop(key) != base[key]).sum().item() in range(1, 4)
    equal(merged, expected)


@pytest.mark.parametrize("elect", [False, True])
def test_dare_at_fixed_masks(kit, states, elect, monkeypatch):
    """mergekit draws the same masks as ours; without its rescaling, what is left to do is divide by 1 − p."""
    base, *models = states
    drop, seed = 0.6, 3
    masks = [
        (torch.rand(base[k].shape, generator=generator_for(seed, k, i)) >= drop).float()
        for k in base
        if base[k].is_floating_point()
        for i in range(3)
    ]
    drawn = iter(masks)

    def bernoulli(p):
        mask = next(drawn)
        assert mask.shape == p.shape
        assert p.unique().item() == pytest.approx(1 - drop)
        return mask

    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    method = "dare_ties" if elect else "dare_linear"
    # mergekit rounds a sparse change to float32 on its way
    found = kit(method, density=1 - drop, rescale=False, normalize=elect, **{"lambda": 0.3 / (1 - drop)})
    assert next(drawn, None) is None
    expected = tv.dare(base, models, drop, 0.3, seed=seed, elect=elect)
    for key in expected:
        torch.testing.assert_close(expected[key], found[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp_per_tensor(mergekit, states, t):
    a, b = states[:2]
    found = mergekit.merge_state_dicts([a, b], "slerp", base=0, parameters={"t": t})
    equal(tv.slerp(a, b, t, per_tensor=True), found)
    if 0 < t < 1:
        assert differ(tv.slerp(a, b, t), found)  # one angle for the whole model


# where mergekit differs


def test_mergekit_trims_tensor_by_tensor_and_the_paper_the_whole_vector(kit, states):
    base, *models = states
    assert differ(tv.ties(base, models, 0.2), kit("ties", density=0.2))
    delta = flat(tv.task_vector(base, models[0]))
    one = flat(tv.task_vector(base, tv.ties(base, models[:1], 0.2)))
    torch.testing.assert_close(one, trim(delta, 0.2))


def test_dare_is_unbiased_and_mergekits_rescaling_is_not():
    """mergekit scales what is left to the L1 norm of all; the mean over masks is not the change itself."""
    sparsify = pytest.importorskip("mergekit.sparsify", reason="mergekit is in the extra `oracles-heavy`")
    delta = torch.tensor([3.0, 1.0])
    masks = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    theirs = torch.stack([sparsify.rescaled_masked_tensor(delta, m, sparsify.RescaleNorm.l1) for m in masks])
    assert theirs.tolist() == [[3, 1], [4, 0], [0, 4], [0, 0]]
    assert theirs.mean(0).tolist() == [1.75, 1.25]
    draws = {
        tuple(drop_and_rescale(delta, 0.5, torch.Generator().manual_seed(s)).tolist()) for s in range(60)
    }
    assert draws == {(6, 2), (6, 0), (0, 2), (0, 0)}
    assert torch.tensor(list(draws)).mean(0).tolist() == delta.tolist()


def test_mergekits_slerp_is_straight_near_a_line_and_turns_about_zero(mergekit):
    def theirs(a, b):
        merged = mergekit.merge_state_dicts([{"w": a}, {"w": b}], "slerp", base=0, parameters={"t": 0.5})
        return merged["w"]

    angle = torch.tensor(0.02, dtype=torch.float64)  # cos = 0.9998: beyond its threshold of 0.9995
    a, b = torch.tensor([1.0, 0.0]).double(), torch.stack([angle.cos(), angle.sin()])
    torch.testing.assert_close(theirs(a, b), (a + b) / 2)
    ours = tv.slerp({"w": a}, {"w": b}, 0.5)["w"]
    assert ours.norm().item() == pytest.approx(1, abs=1e-12)
    assert theirs(a, b).norm() < 1 - 1e-5
    torch.testing.assert_close(theirs(a, 0 * a), a * 0.5**0.5)  # sin 45° / sin 90°
    torch.testing.assert_close(tv.slerp({"w": a}, {"w": 0 * a}, 0.5)["w"], a / 2)


def test_a_mean_without_election_counts_zeros_in_mergekit_only(mergekit):
    base = {"w": torch.zeros(2)}
    models = [{"w": torch.tensor([4.0, 2.0])}, {"w": torch.tensor([0.0, 6.0])}]
    named = {"base": base, "a": models[0], "b": models[1]}
    parameters = {"weight": 1.0, "normalize": True}
    theirs = mergekit.merge_state_dicts(named, "task_arithmetic", base="base", parameters=parameters)
    assert theirs["w"].tolist() == [2, 4]
    assert tv.combine(base, models, scale=1.0, mean=True)["w"].tolist() == [4, 4]
    assert tv.average(models)["w"].tolist() == [2, 4]


def test_a_sum_of_zero_elects_plus_here_and_in_mergekit(mergekit, fusion):
    gta = pytest.importorskip("mergekit.merge_methods.generalized_task_arithmetic")
    deltas = torch.tensor([[2.0, -1.0, -3.0, -5.0], [-2.0, 1.0, 0.0, -5.0]])
    assert elect_sign(deltas).tolist() == [1, 1, -1, -1]
    assert gta.get_mask(deltas).tolist() == [[True, False, True, True], [False, True, False, True]]
    reference = fusion("ties_merging.ties_merging_utils")
    assert reference.resolve_sign(deltas.clone()).tolist() == [-1, -1, -1, -1]  # as most entries
    assert reference.resolve_sign(deltas[:, :2].clone()).tolist() == [0, 0]


# fusion-bench


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5])
def test_ties_over_the_model_keeps_one_entry_less_than_the_reference(fusion, states, density):
    """The reference code of TIES keeps int(density · n) + 1 entries, and fails at density 1."""
    reference = fusion("ties_merging.ties_merging_utils")
    base, *models = states
    rows = torch.stack([flat(tv.task_vector(base, m)) for m in models])
    n = rows.shape[1]
    kept = int(density * n)
    theirs, _ = reference.topk_values_mask(rows, K=density)
    assert (theirs != 0).sum(1).tolist() == [kept + 1] * 3
    assert torch.count_nonzero(trim(rows[0], density)) == kept
    found = reference.ties_merging(rows, reset_thresh=density, merge_func="dis-mean")
    one_more = flat(tv.task_vector(base, tv.ties(base, models, (kept + 1.5) / n)))
    torch.testing.assert_close(one_more, found)
    with pytest.raises(RuntimeError):
        reference.topk_values_mask(rows, K=1.0)


@pytest.mark.parametrize("normalize", [False, True])
def test_fisher_merging(fusion, states, normalize):
    reference = fusion("fisher_merging.fisher_merging")
    models = states[1:]
    keys = [k for k, v in models[0].items() if v.is_floating_point()]
    generator = torch.Generator().manual_seed(1)
    fishers = [
        {k: torch.rand(m[k].shape, generator=generator, dtype=torch.float64) * 10.0**-t for k in keys}
        for t, m in enumerate(models)
    ]
    found = reference.merging_with_fisher_weights(
        {k: [m[k] for m in models] for k in keys},
        fishers,
        torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64),
        normalize_fisher_weight=normalize,
        minimal_fisher_weight=1e-6,
    )
    merged = fisher_merge(models, fishers, weights=[1.0, 0.5, 2.0], eps=1e-6, normalize=normalize)
    equal({k: merged[k] for k in keys}, found)


@pytest.mark.parametrize("shrink", [1.0, 0.9, 0.3])
def test_regmean(fusion, shrink):
    """On the linear layers. Behind a LayerNorm inputs sum to zero: with shrink 1 there is no inverse."""
    reference = fusion("regmean.regmean")
    model = seeded(MAKES["vit"], 0).double()
    models = [seeded(MAKES["vit"], s).double().state_dict() for s in range(3)]
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.randn(64, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in models]
    grams = [gram(model, x, state=s) for x, s in zip(inputs, models, strict=True)]
    linear = [f"{k}.weight" for k, m in model.named_modules() if isinstance(m, nn.Linear)]
    grams = [{k: g[k] for k in linear} for g in grams]
    found = reference.merging_with_regmean_weights(
        {k: [m[k] for m in models] for k in models[0]},
        [{k.removesuffix(".weight"): G.clone() for k, G in g.items()} for g in grams],
        reduce_non_diagonal_ratio=shrink,
    )
    merged = regmean(models, grams, shrink=shrink)
    singular = {k for k in linear if torch.linalg.matrix_rank(sum(g[k] for g in grams)) < len(grams[0][k])}
    assert singular == {k for k in linear if "proj" not in k and "fc2" not in k}
    if shrink < 1:
        singular = set()
    equal({k: v for k, v in merged.items() if k not in singular},
          {k: v for k, v in found.items() if k not in singular})  # fmt: skip
    for key in singular:  # the best fit is not unique; ours keeps the average where no input looks
        null = torch.ones(len(grams[0][key]), dtype=torch.float64)
        average = sum(m[key] for m in models) / 3
        torch.testing.assert_close(merged[key] @ null, average @ null)
        assert not torch.allclose(found[key] @ null, average @ null)


def test_entropy(fusion):
    reference = fusion("adamerging.entropy_loss")
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(entropy(logits), reference.entropy_loss(logits), atol=1e-6, rtol=0)


def test_a_kept_outlier_of_breadcrumbs_is_exactly_that_of_the_kernel(mergekit):
    """Small gammas round down to no outlier at all, in both."""
    sparsify = pytest.importorskip("mergekit.sparsify")
    delta = torch.randn(37, generator=torch.Generator().manual_seed(5))
    for density, gamma in ((0.5, 0.01), (0.5, 0.3), (0.1, 0.9), (1.0, 0.0)):
        found = sparsify.magnitude_outliers(delta, density, gamma=gamma)
        torch.testing.assert_close(breadcrumbs(delta, density, gamma), found)
