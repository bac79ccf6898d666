from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.features.supply import PhaseInputs
from headstart.models.heads import head_of, replace_head
from headstart.models.source_head import Matching, SourceHead, fit_rest_row
from headstart.training.checkpoint import Checkpoints
from headstart.training.rest_row import start_rest_row
from tests.helpers.features import FeatureBlocks
from tests.helpers.tiny import make_model


class Supply:
    """Features below the head of `TinyNet`."""

    def __init__(self, network, features):
        self.network, self.features, self.calls = network, features, 0

    def phase(self, boundary, epochs, *, all_views=False):
        assert (boundary, list(epochs), all_views, self.network.training) == (3, [], True, False)
        self.calls += 1
        return PhaseInputs(self.network, None, None, (3, 8, 8), self.features)


def started_model():
    model = make_model(num_classes=2)
    torch.manual_seed(5)
    source = SourceHead(torch.randn(6, 8), torch.randn(6), (), Matching(("a", "not a"), (4, None), 1))
    return replace(model, source_head=source)


def test_the_row_is_written_once_and_found_again(tmp_path):
    rng = np.random.default_rng(0)
    features = FeatureBlocks(rng.gamma(1.0, size=(1, 60, 8)))
    first, again, elsewhere, said = started_model(), started_model(), started_model(), []
    before = head_of(first.network, first.stages).weight.detach().clone()
    start_rest_row(first, Supply(first.network, features), Checkpoints(tmp_path), said.append)
    head = head_of(first.network, first.stages)
    others = [0, 1, 2, 3, 5]
    source = first.source_head
    weight, bias = fit_rest_row(features, source.weight[others].numpy(), source.bias[others].numpy())
    assert torch.allclose(head.weight[1], torch.from_numpy(weight).float())
    assert float(head.bias[1]) == pytest.approx(bias)
    assert torch.equal(head.weight[0], before[0])
    assert said == []
    unused = Supply(again.network, None)
    start_rest_row(again, unused, Checkpoints(tmp_path), said.append)
    start_rest_row(elsewhere, Supply(elsewhere.network, features), None, said.append)
    assert unused.calls == 0
    for other in (again, elsewhere):
        assert torch.equal(head_of(other.network, other.stages).weight, head.weight)
        assert torch.equal(head_of(other.network, other.stages).bias, head.bias)


def test_without_features_it_stays_a_new_row_and_says_so(tmp_path):
    model, said = started_model(), []
    before = head_of(model.network, model.stages).weight.detach().clone()
    start_rest_row(model, Supply(model.network, None), Checkpoints(tmp_path), said.append)
    assert torch.equal(head_of(model.network, model.stages).weight, before)
    assert said == ["not a starts from a new row: the head's inputs cannot be computed for all views at once"]
    plain = make_model()
    start_rest_row(plain, Supply(plain.network, None), Checkpoints(tmp_path), said.append)
    assert len(said) == 1


def test_a_head_that_is_a_convolution_says_that_it_is_one():
    """Before it said that the network could not be cut below its head."""
    model, said = started_model(), []
    replace_head(model.network, model.stages, torch.nn.Conv2d(8, 2, 1))
    start_rest_row(model, Supply(model.network, None), None, said.append)
    assert said[0].startswith("not a starts from a new row: the head is a convolution")
