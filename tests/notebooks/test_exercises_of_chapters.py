"""Every exercise of every chapter: stub fails with a reason, solution passes, wrong answers are caught."""

from pathlib import Path

import pytest

from bookkit import editions, exercises, notebooks

ROOT = Path(__file__).resolve().parents[2]
EXERCISES = [
    pytest.param(exercise, id=f"{exercise.where}:{exercise.label}")
    for path in notebooks.find(ROOT)
    for exercise in editions.exercises_of(path)
]
pytestmark = pytest.mark.filterwarnings("ignore")


def arguments_of(exercise, monkeypatch):
    """Return what the chapter hands to `check`, without checking anything."""
    handed = {}

    def note(answer, reference, cases, **settings):
        handed.update(answer=answer, reference=reference, cases=cases, settings=settings)

    monkeypatch.setattr(exercises, "check", note)
    editions.perform(exercise, exercise.solution)
    monkeypatch.undo()
    assert handed, f"{exercise.where}: the check cell of {exercise.label} does not call exercises.check"
    return handed


@pytest.mark.parametrize("exercise", EXERCISES)
def test_stub_fails_and_says_so(exercise):
    with pytest.raises(exercises.ExerciseNotSolved, match="not written yet"):
        editions.perform(exercise, exercise.stub)


@pytest.mark.parametrize("exercise", EXERCISES)
def test_solution_passes(exercise):
    assert editions.perform(exercise, exercise.solution).strip().splitlines()[-1].startswith("✓")


@pytest.mark.parametrize("exercise", EXERCISES)
def test_each_wrong_answer_is_rejected_with_its_own_reason(exercise, monkeypatch):
    handed = arguments_of(exercise, monkeypatch)
    wrong = handed["settings"].get("wrong", {})
    assert wrong, f"{exercise.where}: {exercise.label} lists no wrong answer; give its check at least one"
    for what, function in wrong.items():
        with pytest.raises(exercises.ExerciseNotSolved) as raised:
            exercises.check(function, handed["reference"], handed["cases"], **handed["settings"])
        assert f"an answer that {what}." in " ".join(str(raised.value).split())


@pytest.mark.parametrize("exercise", EXERCISES)
def test_reference_is_not_the_solution(exercise, monkeypatch):
    # a copy would hold the solution against itself, and a missing answer would not be noticed
    handed = arguments_of(exercise, monkeypatch)
    answer, reference = handed["answer"], handed["reference"]
    assert reference is not answer
    if code := getattr(reference, "__code__", None):
        mine = answer.__code__
        assert (code.co_code, code.co_names, code.co_consts) != (mine.co_code, mine.co_names, mine.co_consts)


def test_labels_are_unique_in_the_book():
    labels = [param.values[0].label for param in EXERCISES]
    assert sorted(labels) == sorted(set(labels))
