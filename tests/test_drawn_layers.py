"""Some drawn networks over all layers; ``python tests/drawn_layers.py`` draws more, beside Neural Tangents too."""

from __future__ import annotations

import pytest
from drawn_layers import check


@pytest.mark.filterwarnings("ignore:.*counts on inputs of variance 1")
@pytest.mark.parametrize("number", [0, 14, 18, 29, 91, 381])
def test_backends_and_cuts(number):
    _, wrong = check(0, number)
    assert not wrong
