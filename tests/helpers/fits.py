"""One fit by the loop alone: what feeds it, what kills it, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from lightning_fabric import Fabric
from torch import nn

from headstart.data.loading import BatchSource
from headstart.display import Display
from headstart.features.supply import PhaseInputs
from headstart.training.checkpoint import Checkpoints
from headstart.training.consumers import run_fit
from headstart.training.loop import Fit
from headstart.training.plan import Phase, Plan, Rule
from headstart.training.settings import FitSettings
from tests.helpers.tiny import make_model

HEAD = Phase("head", (Rule("fc", 1.0), Rule("*", None)), 0.05, 2)


@dataclass(frozen=True)
class PixelSupply:
    """Feeds every phase with pixels and the whole network."""

    network: nn.Module
    train: BatchSource
    held_out: BatchSource | None = None
    display: Display = field(default_factory=Display)

    def phase(self, boundary: int, epochs: Sequence[int], *, all_views: bool = False) -> PhaseInputs:
        shape = tuple(next(iter(self.train.epoch(0))).pixels.shape[1:])
        return PhaseInputs(self.network, self.train, self.held_out, shape)


class Activations:
    """What the head of `TinyNet` sees of all images, in one view."""

    def __init__(self, model, pixels, targets):
        seen = []
        hook = model.network.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            model.network(model.normalize(pixels))
        hook.remove()
        self.rows, self.targets = seen[0].numpy(), targets.numpy()
        self.num_images, self.width = self.rows.shape
        self.num_views, self.groups = 1, [str(i) for i in range(self.num_images)]

    def view(self, view, images):
        return self.rows[images]


class SolvableSupply(PixelSupply):
    """Has features where all of them are asked for."""

    def phase(self, boundary, epochs, *, all_views=False):
        inputs = super().phase(boundary, epochs)
        if not all_views:
            return inputs
        assert not self.network.layer1[3].training  # the dropout below the head
        model = replace(make_model(), network=self.network)
        features = Activations(model, self.train.pixels, self.train.targets)
        return PhaseInputs(inputs.module, inputs.train, inputs.held_out, inputs.shape, features)


class Rows:
    def __init__(self):
        self.rows = []

    def append(self, row):
        self.rows.append(dict(row))

    def truncate_to(self, num_rows):
        del self.rows[num_rows:]


def run(
    model,
    phases,
    train,
    folder,
    held_out=None,
    *,
    rows=None,
    display=None,
    supply=PixelSupply,
    checkpoints=Checkpoints,
    checkpoint_every_s=120.0,
    **settings,
):
    rows = rows if rows is not None else Rows()
    fit = Fit(
        model,
        Plan("test", tuple(phases)),
        supply(model.network, train, held_out),
        FitSettings(**settings),
        Fabric(accelerator="cpu", devices=1),
        held_out_name="validation",
    )
    result = run_fit(
        fit,
        checkpoints=checkpoints(folder),
        checkpoint_every_s=checkpoint_every_s,
        log=rows,
        display=display or Display(),
    )
    return result, rows.rows


def state(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different
