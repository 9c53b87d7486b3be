"""What the exercises on equivariance accept and refuse, beyond what holds for every exercise."""

from pathlib import Path

import pytest
import torch

from bookkit import editions, exercises

PART = Path(__file__).resolve().parents[2] / "chapters/equivariance"
pytestmark = pytest.mark.filterwarnings("ignore")


def perform(chapter: str, label: str, answer):
    """Check an answer in the place of the solution; return what the reader sees."""
    (exercise,) = [e for e in editions.exercises_of(PART / f"{chapter}.ipynb") if e.label == label]
    return editions.perform(exercise, exercise.solution, {answer.__name__: answer})


def test_a_filters_constant_part_may_come_back_without_a_sine():
    def steer(ab, theta):
        m = torch.arange(len(ab)).to(ab) * theta
        a, b = ab.T
        turned = torch.stack([m.cos() * a - m.sin() * b, m.sin() * a + m.cos() * b], 1)
        turned[0, 1] = 0  # sin 0 is 0, whatever stands before it
        return turned

    assert perform("01_group_convolutions", "equivariance-steer", steer).strip().startswith("✓")


def test_a_third_call_is_told():
    def weights_of(f, n):
        E = torch.zeros(2, n, n, dtype=torch.float64)
        E[0, 0, 1] = E[1, 0, 0] = 1
        return torch.stack([f(E[0])[0, 1], f(E[0])[1, 0], f(E[1])[1, 1]])

    with pytest.raises(exercises.ExerciseNotSolved, match="f is called a third time") as raised:
        perform("03_orthogonal_groups", "orthogonal-weights", weights_of)
    assert raised.value.kind == "raises"


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_refinement_takes_as_many_rounds_as_it_takes(rounds):
    def told_apart(A, B):
        sides = [[0] * len(A), [0] * len(B)]
        for _ in range(rounds):
            sides = [
                [(c[i], tuple(sorted(c[int(j)] for j in G[i].nonzero()))) for i in range(len(G))]
                for G, c in zip((A, B), sides, strict=True)
            ]
        return sorted(sides[0]) != sorted(sides[1])

    with pytest.raises(exercises.ExerciseNotSolved):
        perform("02_permutation_layers", "equivariance-refine", told_apart)
