"""What MXNet computes and writes, for test_gluon_parity.py; runs in an environment that has MXNet and no Headstart.

python gluon_side.py make FOLDER NETWORKS   from FOLDER/inputs.npz and scenarios.json: files, logits, training steps
python gluon_side.py read FOLDER NETWORK FILE   what MXNet finds in a file
"""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mxnet.gluon.model_zoo import vision

import mxnet as mx
from mxnet import autograd, gluon, init, nd, npx

NUM_CLASSES = 5


@contextmanager
def numpy_semantics(kind):
    """`legacy`: off; `set_np`: on for the whole process; `scoped`: on within a block."""
    if kind == "set_np":
        npx.set_np()
        try:
            yield
        finally:
            npx.reset_np()
    elif kind == "scoped":
        with mx.util.np_shape(True), mx.util.np_array(True):
            yield
    else:
        yield


def array(values, dtype="float32"):
    return (mx.np if mx.util.is_np_array() else nd).array(values, dtype=dtype)


def network_from(name, file):
    network = vision.get_model(name, classes=NUM_CLASSES)
    network.load_parameters(str(file))
    return network


def tensors_of(network):
    return {name: value.data().asnumpy() for name, value in network._collect_params_with_prefix().items()}


def make_files(folder, name, images):
    """Initialise as the lesson does, with norms as if they had been trained, and save in every way that MXNet has."""
    network = vision.get_model(name, classes=NUM_CLASSES)
    network.initialize(init.Xavier())
    network(array(images[:1]))
    rng = np.random.default_rng(0)
    for key, value in network._collect_params_with_prefix().items():
        low, high = {"gamma": (0.5, 1.5), "running_var": (0.5, 1.5)}.get(key.rpartition(".")[2], (-0.2, 0.2))
        if not key.endswith("weight") and key not in ("features.0.gamma", "features.0.beta"):
            value.set_data(array(rng.uniform(low, high, value.shape).astype("float32")))
    network.save_parameters(str(folder / f"{name}-legacy.params"))
    network.collect_params().save(str(folder / f"{name}-flat.params"), strip_prefix=network.prefix)
    logits = network(array(images)).asnumpy()
    network.hybridize()
    network(array(images[:1]))
    network.export(str(folder / f"{name}-exported"))
    (folder / f"{name}-exported-0000.params").rename(folder / f"{name}-exported.params")
    np.savez(folder / f"{name}.npz", logits=logits, **tensors_of(network))
    with numpy_semantics("set_np"):
        network_from(name, folder / f"{name}-legacy.params").save_parameters(str(folder / f"{name}-np.params"))


def train(folder, name, title, scenario, images, labels):
    """Take a step on each batch; save the losses (before each step) and what became of the network."""
    network, dtype = network_from(name, folder / f"{name}-legacy.params"), scenario["dtype"]
    network.cast(dtype)
    if scenario["frozen"]:
        network.features.collect_params().setattr("grad_req", "null")
    network.output.collect_params().setattr("lr_mult", scenario["lr_mult"])
    settings = {"learning_rate": scenario["lr"], "wd": scenario["weight_decay"]}
    trainer = gluon.Trainer(network.collect_params(), "sgd", settings)
    loss_of, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
    for batch, targets in zip(images, labels, strict=True):
        with autograd.record(train_mode=scenario["train_mode"]):
            loss = loss_of(network(array(batch, dtype)), array(targets, dtype))
        loss.backward()
        trainer.step(len(batch) if scenario["loss_reduction"] == "mean" else 1)
        losses.append(loss.mean().asscalar())
    network.save_parameters(str(folder / f"{title}.params"))
    np.savez(folder / f"{title}.npz", losses=losses, logits=network(array(images[0], dtype)).asnumpy())


def make(folder, networks):
    mx.random.seed(0)
    inputs = np.load(folder / "inputs.npz")
    for name in networks:
        make_files(folder, name, inputs["images"][0])
    for title, scenario in json.loads((folder / "scenarios.json").read_text()).items():
        train(folder, networks[0], title, scenario, inputs["images"], inputs["labels"])


def read(folder, name, file):
    images = np.load(folder / "inputs.npz")["images"][0]
    for kind in ("legacy", "set_np", "scoped"):
        with numpy_semantics(kind):
            network = network_from(name, file)
            np.savez(folder / f"read-{kind}.npz", logits=network(array(images)).asnumpy(), **tensors_of(network))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), sys.argv[3:])
    else:
        read(Path(sys.argv[2]), *sys.argv[3:])
