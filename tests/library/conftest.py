"""What several tests share: small models of each kind, and permutations of their units."""

import copy

import pytest
import torch
from torch import Tensor, nn

from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.symmetry import apply_permutation, permutation_spec, random_permutations


def _randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                fan_in = value[0].numel() if value.ndim > 1 else 1
                value.normal_(0, fan_in**-0.5, generator=generator)
                if key.endswith("running_var"):
                    value.abs_().add_(0.5)
    return model


@torch.no_grad()
def _assert_preserved(model: nn.Module, x: Tensor, *, draws: int = 3) -> dict[str, int]:
    spec = permutation_spec(copy.deepcopy(model).double(), x)
    for seed in range(draws):
        probe = _randomised(model, seed)
        state, before = copy.deepcopy(probe.state_dict()), probe(x)
        for name, group in spec.items():
            turned = apply_permutation(spec, {name: torch.arange(group.size).flip(0)}, state)
            assert any(not torch.equal(turned[key], state[key]) for key, _ in group.axes)
        probe.load_state_dict(apply_permutation(spec, random_permutations(spec, seed + 1), state))
        assert (probe(x) - before).abs().max() <= 1e-10 * max(1.0, before.abs().max().item())
    return {name: group.size for name, group in spec.items()}


@pytest.fixture(scope="session")
def randomised():
    """f(model, seed): a float64 copy in evaluation mode whose every weight and statistic is drawn afresh."""
    return _randomised


@pytest.fixture(scope="session")
def assert_preserved():
    """f(model, x): permuting a randomised copy changes its weights and not its outputs; the groups' sizes."""
    return _assert_preserved


class _Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))


_MAKES = {
    "mlp": lambda: MLP(64, [12, 12], 3, norm="batch"),
    "convnet": lambda: ConvNet(1, 3, (4, 6)),
    "vit": lambda: TinyViT(8, 4, 1, 3, dim=8, depth=1, heads=2),
}


@pytest.fixture(scope="session")
def makes():
    """What makes a model of each kind for three classes of 8×8 pictures; "tied" shares a weight."""
    return {**_MAKES, "tied": _Tied}


@pytest.fixture(params=_MAKES.values(), ids=_MAKES)
def model(request):
    """A model of each kind in turn."""
    return seeded(request.param, 0)


@pytest.fixture(scope="module")
def data():
    """40 pictures and their classes, at random."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 1, 8, 8, generator=generator), torch.randint(3, (40,), generator=generator)
