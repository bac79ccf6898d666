"""Networks that cannot be cut, or not where one asks, and what tracing may leave behind: nothing."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.features.cut import cut
from headstart.types import Stage

STAGES = (Stage("stem", ("stem", "act")), Stage("block", ("block",)), Stage("head", ("drop", "head")))


class Net(nn.Module):
    """Three stages on 4x4 pictures; members of this family differ in the code between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.block, self.drop, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.act(self.block(self.act(self.stem(images))))
        return self.head(self.drop(hidden.mean((2, 3))))


class Branching(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.sum() > 0 else -images)


class Moody(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.dropout(images, 0.5, self.training))


class Dicing(Net):
    """Skips its block half of the time; a single trace may find it as it is in evaluation."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        if float(torch.rand(())) < 0.5 and self.training:
            return self.head(hidden.mean((2, 3)))
        return self.head(self.block(hidden).mean((2, 3)))


class Constant(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * torch.ones(3, 1, 1))


@torch.fx.wrap
def run(module: nn.Module, inputs: Tensor) -> Tensor:
    return module(inputs)


class Handing(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(run(self.block, self.stem(images)).mean((2, 3)))


class Demanding(Net):
    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        return super().forward(images + text)


class Skipping(Net):
    """What enters the block is used after it too, so that two tensors cross before the head's first step."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        pooled = self.block(hidden).mean((2, 3))
        return self.head(self.drop(pooled) + hidden.mean((2, 3)))


class Pairs(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block = Pair()

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.block(self.stem(images))
        return self.head(self.drop(first.mean((2, 3)))) + second.mean()


class Pair(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(4, 4, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = super().forward(images)
        return hidden, -hidden


class Noting(Net):
    """Keeps notes on itself, and takes more than images."""

    def forward(self, images: Tensor, scale: float = 2.0, mask: Tensor | None = None, **more: object) -> Tensor:
        self.seen = images
        assert mask is None
        return super().forward(images * scale)


class Tied(Net):
    """Reads the head's weights below the block."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * self.head.weight.mean())


IMAGES = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "control flow"),
        (Moody, "differs between training and evaluation"),
        (Dicing, "random numbers"),
        (Constant, "tensors of its own"),
        (Handing, "hands a module to a function"),
        (Demanding, "text"),
    ],
)
def test_what_cannot_be_traced_is_not_cut(kind: type[Net], reason: str) -> None:
    network = kind()
    attributes, state = dict(vars(network)), torch.get_rng_state()
    result = cut(network, STAGES, 2)
    assert (result.trunk, result.tail, result.boundary) == (None, network, 0)
    assert re.search(f"^{kind.__name__} cannot be cut.*{reason}", result.note)
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(network) == attributes


@pytest.mark.parametrize("kind", [Skipping, Pairs, Tied])
def test_where_no_single_tensor_crosses_the_cut_is_lower(kind: type[Net]) -> None:
    network = kind()
    result = cut(network, STAGES, 2)
    expected = 0 if kind is Tied else 1
    assert result.boundary == expected
    assert f"{kind.__name__} is cut after {'no stage' if kind is Tied else 'stem'}: after block" in result.note
    network.eval()
    if result.trunk is not None:
        assert torch.equal(result.tail(result.trunk(IMAGES)), network(IMAGES))
        assert {name for name, _ in result.trunk.named_parameters()} == {"stem.weight", "stem.bias"}


def test_other_arguments_keep_their_defaults_and_notes_are_taken_back() -> None:
    network = Noting()
    attributes = dict(vars(network))
    result = cut(network, STAGES, 2)
    assert result.boundary == 2
    assert vars(network) == attributes
    network.eval()
    assert torch.equal(result.tail(result.trunk(IMAGES)), network(IMAGES))


def test_dropout_above_the_boundary_is_in_the_tail_and_obeys_the_network() -> None:
    network = Net()
    result = cut(network, STAGES, 2)
    activations = result.trunk(IMAGES)
    assert activations.shape == (3, 4)
    assert not torch.equal(result.tail(activations), result.tail(activations))
    network.drop.eval()
    assert torch.equal(result.tail(activations), network(IMAGES))


def test_an_activation_shared_by_stages_does_not_move_the_boundary() -> None:
    result = cut(Net(), STAGES, 1)
    assert (result.boundary, result.note) == (1, "")
    assert [name for name, _ in result.tail.named_children()] == ["block", "act", "drop", "head"]


def test_modes_are_as_before() -> None:
    network = Net()
    network.drop.eval()
    cut(network, STAGES, 2)
    assert [name for name, module in network.named_modules() if not module.training] == ["drop"]


@pytest.mark.parametrize("boundary", [-1, 0])
def test_below_the_first_stage_the_tail_is_the_network(boundary: int) -> None:
    network = Branching()
    result = cut(network, STAGES, boundary)
    assert (result.trunk, result.tail, result.boundary, result.note) == (None, network, 0, "")


def test_more_stages_than_there_are_is_all_of_them() -> None:
    assert cut(Net(), STAGES, 9).boundary == 3
