"""How far an engine's results may be from PyTorch's."""

import numpy as np
import pytest

from headstart.engines.parity import TOLERANCE, disagreement


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_disagreement_has_a_limit_for_each_precision(precision: str) -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(64, 10)).astype(np.float32)
    noise = rng.normal(size=(64, 10)).astype(np.float32)
    noise *= TOLERANCE[precision] * np.linalg.norm(expected) / np.linalg.norm(noise)
    assert disagreement(expected + 0.9 * noise, expected, precision, has_head=False) == ""
    assert "relative error" in disagreement(expected + 1.1 * noise, expected, precision, has_head=False)
    assert disagreement(expected, expected, precision, has_head=True) == ""
    for wrong in (np.nan, np.inf, -np.inf):
        found = expected.copy()
        found[3, 4] = wrong
        assert "relative error" in disagreement(found, expected, precision, has_head=False)
    assert "shape (63, 10)" in disagreement(expected[1:], expected, precision, has_head=False)
    zeros = np.zeros_like(expected)
    assert disagreement(zeros, zeros, precision, has_head=False) == ""
    assert "relative error" in disagreement(expected, zeros, precision, has_head=False)


def test_one_image_of_two_hundred_may_have_another_class() -> None:
    expected = np.full((200, 2), 1e4, np.float32)
    expected[:, 0] += 0.5
    for count, is_accepted in ((1, True), (2, False)):
        found = expected.copy()
        found[:count] = found[:count, ::-1]
        reason = disagreement(found, expected, "32", has_head=True)
        assert (reason == "") == is_accepted
        assert disagreement(found, expected, "32", has_head=False) == ""
