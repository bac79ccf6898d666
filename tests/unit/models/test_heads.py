import copy
import math
import pickle

import pytest
import torch
from torch import nn

from headstart.errors import ModelError
from headstart.models.heads import describe_head, head_of, new_head, num_features, replace_head
from headstart.models.simple_cnn import SimpleCNN
from headstart.models.stages import derive_stages


def test_linear_head_is_xavier_uniform_with_zero_bias() -> None:
    torch.manual_seed(0)
    head = new_head(100, 50)
    assert isinstance(head, nn.Linear)
    limit = math.sqrt(6 / (100 + 50))
    assert head.weight.abs().max() <= limit
    assert head.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    assert torch.count_nonzero(head.bias) == 0


@pytest.mark.parametrize("convolutional", [False, True])
def test_dropout_keeps_the_names_and_acts_in_training_only(convolutional: bool) -> None:
    torch.manual_seed(0)
    plain = new_head(8, 3, convolutional=convolutional)
    dropping = new_head(8, 3, dropout=0.5, convolutional=convolutional)
    dropping.load_state_dict(plain.state_dict())
    features = torch.ones(4, 8, 2, 2) if convolutional else torch.ones(4, 8)
    assert type(dropping) is type(plain)
    for copied in (dropping, copy.deepcopy(dropping), pickle.loads(pickle.dumps(dropping))):
        assert torch.equal(copied.eval()(features), plain(features))
        assert not torch.equal(copied.train()(features), plain(features))


def test_hidden_head() -> None:
    head = new_head(8, 3, hidden=5, dropout=0.5)
    assert [type(module) for module in head.children()] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert head(torch.zeros(2, 8)).shape == (2, 3)
    assert describe_head(head) == "Linear(8, 5) - ReLU - Dropout(0.5) - Linear(5, 3)"


def test_describe_head() -> None:
    assert describe_head(nn.Linear(512, 1000)) == "Linear(512, 1000)"
    assert describe_head(nn.Conv2d(512, 1000, 1)) == "Conv2d(512, 1000)"


def test_replace_head() -> None:
    network = SimpleCNN(2, (32, 32))
    stages = derive_stages(network, "headstart")
    head = new_head(num_features(head_of(network, stages)), 7)
    replace_head(network, stages, head)
    assert head_of(network, stages) is head
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_last_layer_that_cannot_be_replaced_is_refused() -> None:
    with pytest.raises(ModelError, match="Identity"):
        num_features(nn.Identity())
