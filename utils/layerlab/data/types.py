"""What every classification data set returns: a training and a test split with the names of the classes."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Examples and their labels; unpacks as `X, y = data.train`.

    `X` is float32 of shape (N, C, H, W), in [0, 1], for pictures and (N, 1, L) for one-dimensional signals.
    `y` is int64 of shape (N,), an index into the data set's `classes`.
    """

    X: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.X) != len(self.y):
            raise ValueError(f"X and y: expected equal lengths, got {len(self.X)} and {len(self.y)}")

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.X, self.y))

    def __repr__(self) -> str:
        return f"Split(X={tuple(self.X.shape)} {self.X.dtype}, y={tuple(self.y.shape)} {self.y.dtype})"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A named pair of disjoint splits; `classes[i]` is the name of label `i`."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]

    def standardized(self) -> "Dataset":
        """The same data, each channel shifted and scaled to mean 0 and deviation 1 over the training split.

        >>> from layerlab.data import digits
        >>> X, y = digits().standardized().train
        >>> bool(X.mean().abs() < 1e-4), bool((X.std() - 1).abs() < 1e-4)
        (True, True)
        """
        X = self.train.X
        axes = [axis for axis in range(X.ndim) if axis != 1]
        mean, std = X.mean(axes, keepdim=True), X.std(axes, keepdim=True).clamp_min(1e-6)
        train, test = (Split((split.X - mean) / std, split.y) for split in (self.train, self.test))
        return Dataset(self.name, train, test, self.classes)

    def __repr__(self) -> str:
        sizes = f"train {tuple(self.train.X.shape)}, test {tuple(self.test.X.shape)}"
        return f"Dataset({self.name!r}: {sizes}, {len(self.classes)} classes)"
