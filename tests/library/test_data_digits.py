"""The bundled handwritten digits, the generated signals of MNIST-1D's kind, and the plain signals."""

import math

import numpy as np
import pytest
import torch

from layerlab.data import chirp, digits, mnist1d, sines


def rows(X: torch.Tensor) -> set[bytes]:
    return {x.numpy().tobytes() for x in X}


def test_digits_are_all_of_scikit_learns_once():
    from sklearn.datasets import load_digits

    data = digits()
    (X, y), (X_test, y_test) = data.train, data.test
    assert X.shape[1:] == (1, 8, 8)
    assert X.dtype == torch.float32
    assert y.dtype == torch.int64
    assert (X.min(), X.max()) == (0, 1)
    bunch = load_digits()
    ours = sorted(
        (x.numpy().tobytes(), int(k))
        for x, k in zip(torch.cat([X, X_test]), torch.cat([y, y_test]), strict=True)
    )
    theirs = sorted(
        ((x / 16).astype(np.float32).tobytes(), int(k))
        for x, k in zip(bunch.images, bunch.target, strict=True)
    )
    assert ours == theirs


def test_digits_are_split_in_the_same_shares():
    data = digits(test_size=0.25)
    assert len(data.test.y) == 450
    share = data.test.y.bincount() / torch.cat([data.train.y, data.test.y]).bincount()
    assert (share - 0.25).abs().max() < 0.005
    assert not rows(data.train.X) & rows(data.test.X)


@pytest.mark.parametrize(
    "make", [digits, lambda seed=0: mnist1d(200, 100, seed=seed)], ids=["digits", "mnist1d"]
)
def test_the_seed_decides_and_the_global_generators_are_left_alone(make):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = make(), make(), make(seed=1)
    assert torch.equal(first.train.X, again.train.X)
    assert torch.equal(first.test.X, again.test.X)
    assert torch.equal(first.test.y, again.test.y)
    assert not torch.equal(first.train.X, other.train.X)
    assert not torch.equal(first.test.X, other.test.X)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("bad", [0, 1, 1.5, -0.1, float("nan"), 0.001])
def test_digits_refuse_an_empty_split(bad):
    with pytest.raises(ValueError, match=r"test_size: expected a fraction from 0.01 to 0.99"):
        digits(test_size=bad)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed: expected a whole number of at least 0, got -1"):
        digits(seed=-1)
    with pytest.raises(ValueError, match=r"seed: .* got -1"):
        mnist1d(seed=-1)


def test_mnist1d_is_balanced_and_of_forty_points():
    data = mnist1d(205, 100)
    X, y = data.train
    assert X.shape == (205, 1, 40)
    assert X.dtype == torch.float32
    assert y.dtype == torch.int64
    assert y.bincount().tolist() == [21] * 5 + [20] * 5
    assert y[:10].tolist() == list(range(10))
    assert torch.isfinite(X).all()
    same_size = mnist1d(100, 100)
    assert not rows(same_size.train.X) & rows(same_size.test.X)


def test_mnist1d_hides_each_template_at_changing_places():
    from sklearn.linear_model import LogisticRegression

    from layerlab.data._mnist1d import _TEMPLATES

    data = mnist1d(2000, 500)
    X, y = (part.numpy() for part in data.train)
    X_test, y_test = (part.numpy() for part in data.test)
    linear = LogisticRegression(max_iter=300).fit(X[:, 0], y).score(X_test[:, 0], y_test)

    def correlate(signals: np.ndarray) -> np.ndarray:
        """How well each template fits at its best place and stretch, without the line that best fits all."""
        line = np.vander(np.arange(40), 2)
        fits = []
        for template in _TEMPLATES:
            best = np.full(len(signals), -np.inf)
            for width in (7, 8, 9, 10):
                shape = np.interp(np.linspace(0, 11, width), np.arange(12), template)
                for start in range(0, 41 - width):
                    probe = np.zeros(40)
                    probe[start : start + width] = shape
                    probe -= line @ np.linalg.lstsq(line, probe, rcond=None)[0]
                    best = np.maximum(best, signals @ probe / np.linalg.norm(probe))
            fits.append(best)
        return np.array(fits).argmax(0)

    matched = (correlate(X_test[:, 0]) == y_test).mean()
    assert linear < 0.35  # a fixed weight per place cannot follow a moving template
    assert matched > 0.7  # but the template is there


def test_mnist1d_refuses_too_few():
    with pytest.raises(ValueError, match="n: expected a whole number of at least 10, got 9"):
        mnist1d(9)
    with pytest.raises(ValueError, match=r"test_n: expected a whole number of at least 10, got 0"):
        mnist1d(10, 0)
    with pytest.raises(TypeError, match=r"n: expected a whole number, got 20.5"):
        mnist1d(20.5)


def test_sines_have_the_frequencies_asked_for():
    t, value = sines([3, 10], [1.0, 0.25], n=256)
    assert t.shape == value.shape == (256, 1)
    assert t.min() == 0
    assert t.max() < 1
    spectrum = torch.fft.rfft(value[:, 0]).abs() / 128
    assert (spectrum > 1e-4).nonzero().flatten().tolist() == [3, 10]
    torch.testing.assert_close(spectrum[[3, 10]], torch.tensor([1.0, 0.25]), atol=1e-4, rtol=0)


def test_a_chirp_rises_from_low_to_high():
    t, value = chirp(low=2, high=20, n=4096)
    crossings = ((value[1:, 0] >= 0) != (value[:-1, 0] >= 0)).sum().item()
    assert abs(crossings - 2 * (2 + 20) / 2) <= 1  # two a cycle, at the mean frequency over a unit of time
    slope = (value[1, 0] - value[0, 0]) / (t[1, 0] - t[0, 0])
    assert slope.item() == pytest.approx(2 * math.pi * 2, rel=0.01)


def test_signals_refuse_what_cannot_be_sampled():
    with pytest.raises(
        ValueError, match="n: expected at least two samples a cycle, 64 for this signal, got 63"
    ):
        chirp(high=32, n=63)
    with pytest.raises(ValueError, match=r"frequencies: expected at least one"):
        sines([])
    with pytest.raises(ValueError, match=r"amplitudes: expected 2, one for each frequency, got 1"):
        sines([1, 2], [1])
