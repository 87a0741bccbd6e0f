"""A short run of tests/fuzz.py, and that it sees what is wrong."""

from __future__ import annotations

import fuzz
import numpy as np
import pytest


def test_drawn_calls():
    done = fuzz.run(seed=0, cases=250)
    assert min(done[kind] for kind in ("rows", "images", "refused")) > 30


def found_for(case):
    return [a.copy() for a in fuzz.outcome(case, "numpy", None)]


def first_of(kind):
    """The first case of a kind whose results have entries."""
    cases = (case for case in (fuzz.draw(1, k) for k in range(100)) if case.kind == kind)
    return next(case for case in cases if all(a.size for a in found_for(case)))


@pytest.mark.parametrize("kind", ["rows", "images"])
def test_a_wrong_digit_is_seen(kind, monkeypatch):
    case = first_of(kind)
    found, (values, measures) = found_for(case), case.expected()
    fuzz.compare(found, values, measures, case.bound)
    for wrong in (1 + 10 * case.bound, np.nan):
        hurt = [a * wrong for a in found]
        with pytest.raises(fuzz.Failure, match=r"bounds of|not finite"):
            fuzz.compare(hurt, values, measures, case.bound)
    with pytest.raises(fuzz.Failure, match="has shape"):
        fuzz.compare([a[..., :-1] for a in found], values, measures, case.bound)
    monkeypatch.setattr(fuzz, "outcome", lambda case, backend, isa: hurt)
    with pytest.raises(fuzz.Failure, match=kind):
        fuzz.check(case)


def test_what_is_not_refused_or_breaks_is_seen():
    answered = fuzz.Case("refused", "a call", lambda: 1.0)
    with pytest.raises(fuzz.Failure, match="answered what is to be refused"):
        fuzz.check(answered)

    def breaks():
        raise IndexError("out of range")

    with pytest.raises(fuzz.Failure, match="IndexError"):
        fuzz.check(fuzz.Case("refused", "a call", breaks))

    def silent():
        raise ValueError

    with pytest.raises(fuzz.Failure, match="without a word"):
        fuzz.check(fuzz.Case("refused", "a call", silent))


def test_a_case_stands_for_itself():
    for number in (3, 11):
        assert fuzz.draw(5, number).what == fuzz.draw(5, number).what
    assert fuzz.draw(5, 3).what != fuzz.draw(6, 3).what


def test_the_command(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--seconds", "0.2", "--seed", "7"])
    assert fuzz.main() == 0
    assert "cases good" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--seed", "7", "--case", "2"])
    assert fuzz.main() == 0
