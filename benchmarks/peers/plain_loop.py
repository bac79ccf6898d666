"""The loop of PyTorch's transfer learning tutorial: python -m benchmarks.peers.plain_loop head|full|gradual DATA ...

Eager fp32, SGD with momentum, a look at the held-out split after every epoch. `gradual` trains the head, then the last
stage too, then the next, each phase with a fresh optimizer and a tenth of the rate.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn, optim
from torch.utils.data import DataLoader

from benchmarks.peers import images, networks

# The stages that `gradual` opens, by the names of timm's EfficientNet: the last, then the one below it.
OPENED = ((), ("blocks.6", "conv_head", "bn2"), ("blocks.5",))


def epoch(network: nn.Module, batches: DataLoader, optimizer: optim.Optimizer | None) -> float:
    """Pass over the images once, training if there is an optimizer; return the accuracy."""
    network.train(optimizer is not None)
    criterion, correct = nn.CrossEntropyLoss(), 0
    for inputs, labels in batches:
        with torch.set_grad_enabled(optimizer is not None):
            outputs = network(inputs)
            loss = criterion(outputs, labels)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        correct += (outputs.argmax(1) == labels).sum().item()
    return correct / len(batches.dataset)


def optimizers(mode: str, network: nn.Module, head: nn.Linear) -> list:
    """Return a function per phase that freezes what the phase does not train and makes its optimizer."""
    own = {id(parameter) for parameter in head.parameters()}

    def full() -> optim.Optimizer:
        body = [parameter for parameter in network.parameters() if id(parameter) not in own]
        groups = [{"params": body, "lr": 1e-4}, {"params": head.parameters(), "lr": 1e-3}]
        return optim.SGD(groups, momentum=0.9)

    def opened(stages: tuple[str, ...], lr: float) -> optim.Optimizer:
        for name, parameter in network.named_parameters():
            parameter.requires_grad = id(parameter) in own or name.startswith(tuple(f"{stage}." for stage in stages))
        return optim.SGD([p for p in network.parameters() if p.requires_grad], lr=lr, momentum=0.9)

    if mode == "full":
        return [full]
    if mode == "head":
        return [lambda: opened((), 1e-3)]
    return [lambda count=count: opened(sum(OPENED[: count + 1], ()), 1e-3 / 10**count) for count in range(len(OPENED))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("head", "full", "gradual"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", choices=("lite0", "resnet18"), default="lite0")
    parser.add_argument("--weights", type=Path, help="state dict of the resnet18")
    parser.add_argument("--epochs", type=int, default=5, help="of every phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    train, held_out = images.splits(given.data)
    train_batches = images.loader(train, images.augmented(), shuffle=True)
    held_out_batches = images.loader(held_out, images.centred())
    classes = train_batches.dataset.classes
    network, head = networks.create(given.network, len(classes), given.weights)
    accuracies = []
    for make_optimizer in optimizers(given.mode, network, head):
        optimizer = make_optimizer()
        for _ in range(given.epochs):
            epoch(network, train_batches, optimizer)
            accuracies.append(epoch(network, held_out_batches, None))
    torch.save({"state_dict": network.state_dict(), "classes": classes}, given.out)
    print(json.dumps({"peer": f"plain-{given.mode}", "accuracy": accuracies[-1], "seed": given.seed}))


if __name__ == "__main__":
    main()
