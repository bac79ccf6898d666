"""Gluon's networks and files without MXNet: the bytes here are written by hand, as MXNet's source describes them."""

import struct

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from headstart.errors import ModelError, RunError
from headstart.models.backbones import create_backbone, describe_backbone
from headstart.models.gluon import SPEC, BatchNorm, load_params, resnet18_v2, resnet34_v2, save_params
from headstart.models.gluon_params import from_state_dict, read_params, to_state_dict, write_params
from headstart.models.stages import derive_stages, has_known_stages

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
GPU_3 = struct.pack("<ii", 2, 3)


def v2(values, number=0, magic=V2):
    """A dense array as MXNet writes it; V3 differs in the magic."""
    head = struct.pack("<Iii", magic, 0, values.ndim) + np.array(values.shape, "<i8").tobytes()
    return head + GPU_3 + struct.pack("<i", number) + values.tobytes()


def file_of(arrays, names=("a.weight",)):
    body = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names))
    return body + b"".join(struct.pack("<Q", len(name.encode())) + name.encode() for name in names)


def read_bytes(tmp_path, content):
    (tmp_path / "w.params").write_bytes(content)
    return read_params(tmp_path / "w.params")


def refusal(tmp_path, content):
    with pytest.raises(ModelError) as caught:
        read_bytes(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "w.params"))
    assert "\n" not in message
    return message.removeprefix(str(tmp_path / "w.params"))


VALUES = np.arange(6, dtype="<f4").reshape(2, 3)


def test_every_version_of_the_array(tmp_path):
    tail = GPU_3 + struct.pack("<i", 0) + VALUES.tobytes()
    arrays = [
        v2(VALUES),
        v2(VALUES, magic=V3),
        struct.pack("<Iiqq", V1, 2, 2, 3) + tail,
        struct.pack("<III", 2, 2, 3) + tail,  # before there was a magic
        v2(np.float32(7), magic=V3),
        v2(np.zeros((0, 4), "<f4"), magic=V3),
    ]
    names = ["v2", "v3", "v1", "v0", "scalar", "ünïcode.weight"]
    tensors = read_bytes(tmp_path, file_of(arrays, names))
    assert list(tensors) == names
    for name in names[:4]:
        assert tensors[name].tolist() == VALUES.tolist(), name
    assert tensors["scalar"].shape == ()
    assert tensors["scalar"].item() == 7
    assert tensors["ünïcode.weight"].shape == (0, 4)


@pytest.mark.parametrize(
    ("number", "numpy_type", "torch_type"),
    [
        (0, "<f4", torch.float32),
        (1, "<f8", torch.float64),
        (2, "<f2", torch.float16),
        (3, "u1", torch.uint8),
        (4, "<i4", torch.int32),
        (5, "i1", torch.int8),
        (6, "<i8", torch.int64),
        (7, "?", torch.bool),
        (8, "<i2", torch.int16),
        (9, "<u2", torch.uint16),
    ],
)
def test_types(number, numpy_type, torch_type, tmp_path):
    values = np.array([[1, 0], [1, 1]]).astype(numpy_type)
    tensor = read_bytes(tmp_path, file_of([v2(values, number)]))["a.weight"]
    assert tensor.dtype == torch_type
    assert tensor.tolist() == values.tolist()
    write_params(tmp_path / "again.params", {"a.weight": tensor})
    assert (tmp_path / "again.params").read_bytes() == file_of([v2(values, number)]).replace(
        GPU_3, struct.pack("<ii", 1, 0)
    )


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = file_of([v2(VALUES), v2(VALUES[0])], ["a.weight", "a.bias"])
    assert len(read_bytes(tmp_path, whole)) == 2
    for length in range(8, len(whole)):
        assert " is cut off: it ends after " in refusal(tmp_path, whole[:length])
    assert "is no .params file of Gluon: it begins with nothing" in refusal(tmp_path, b"")
    assert "1 bytes follow the names" in refusal(tmp_path, whole + b"x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 an archive", "is no .params file of Gluon: it begins with 504b0304"),
        (file_of([v2(VALUES, magic=0xF993FACB)]), "array 1 of 1 begins with 0xf993facb"),
        (file_of([v2(VALUES), struct.pack("<Ii", V2, 1)], ["a", "b"]), "array 2 of 2 is row_sparse; expected dense"),
        (file_of([struct.pack("<Ii", V2, 2)]), "array 1 of 1 is csr; expected dense"),
        (file_of([v2(VALUES, 13)]), "array 1 of 1 has type 13"),
        (file_of([struct.pack("<Iii", V2, 0, 0)]), "array 1 of 1 has no values; initialise"),
        (file_of([struct.pack("<Iii", V3, 0, -1)]), "array 1 of 1 has no values; initialise"),
        (file_of([struct.pack("<Iiiq", V3, 0, 1, -1)]), "array 1 of 1 has no values; initialise"),
        (file_of([struct.pack("<Iiiq", V2, 0, 1, 2**60) + GPU_3 + bytes(4)]), "is cut off"),
        (file_of([v2(VALUES)], []), "holds 1 arrays and 0 different names"),
        (file_of([v2(VALUES), v2(VALUES)], ["a", "a"]), "holds 2 arrays and 1 different names"),
        (file_of([v2(VALUES)])[:-1] + b"\xff", "a name is not UTF-8"),
    ],
)
def test_files_that_are_refused(content, message, tmp_path):
    assert message in refusal(tmp_path, content)


def test_missing_files(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.params cannot be read \(No such file"):
        read_params(tmp_path / "absent.params")
    with pytest.raises(RunError, match="cannot write"):
        save_params(resnet18_v2(2), tmp_path / "absent" / "w.params")


@pytest.mark.parametrize("tensor", [torch.tensor(1.0), torch.zeros(0, 2), torch.zeros(2, dtype=torch.complex64)])
def test_what_a_file_cannot_hold(tensor, tmp_path):
    with pytest.raises(ModelError, match=r"cannot hold 'a\.weight'"):
        write_params(tmp_path / "w.params", {"a.weight": tensor})
    assert not (tmp_path / "w.params").exists()


@pytest.mark.parametrize(("build", "num_tensors"), [(resnet18_v2, 98), (resnet34_v2, 178)])
def test_a_network_comes_back_bit_for_bit(build, num_tensors, tmp_path):
    network = build(3).train().to(memory_format=torch.channels_last)
    network(torch.rand(2, 3, 64, 64))
    save_params(network, tmp_path / "w.params")
    params = read_params(tmp_path / "w.params")
    assert len(params) == num_tensors
    assert params["features.0.gamma"].tolist() == [1, 1, 1]
    assert params["features.0.beta"].tolist() == [0, 0, 0]
    assert params["features.6.0.downsample.weight"].shape == (128, 64, 1, 1)
    assert torch.equal(params["features.5.0.bn1.gamma"], network.features[5][0].bn1.weight)
    other = build(3)
    assert load_params(other, tmp_path / "w.params") is other
    state = network.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.state_dict().items())


def test_flat_names_are_those_of_the_same_layers():
    """The order is that in which Gluon makes the layers, in which its scopes count them."""
    numbers = {}
    flat = {}
    params = from_state_dict(resnet34_v2(2).state_dict())
    for name in params:
        words = name.split(".")
        scope = "" if len(words) < 4 else f"stage{int(words[1]) - 4}_"
        is_norm = ".".join([*words[:-1], "gamma"]) in params
        kind = "batchnorm" if is_norm else "dense" if words[0] == "output" else "conv"
        layers = numbers.setdefault((scope, kind), [])
        layer = ".".join(words[:-1])
        if layer not in layers:
            layers.append(layer)
        flat[f"arg:resnetv23_{scope}{kind}{layers.index(layer)}_{words[-1]}"] = params[name]
    assert "arg:resnetv23_stage2_conv8_weight" in flat
    dotted = to_state_dict(params, "dotted")
    renamed = to_state_dict(flat, "flat")
    assert renamed.keys() == dotted.keys()
    assert all(renamed[key] is dotted[key] for key in dotted)


def test_what_does_not_fit(tmp_path):
    params = from_state_dict(resnet18_v2(2).state_dict())
    params["features.5.0.bn1.gama"] = params.pop("features.5.0.bn1.gamma")
    params["output.bias"] = torch.zeros(3)
    write_params(tmp_path / "w.params", params)
    with pytest.raises(ModelError) as caught:
        load_params(resnet18_v2(2), tmp_path / "w.params")
    message = str(caught.value)
    assert "w.params does not fit the network: 1 of" in message
    assert "missing (first: features.5.0.bn1.weight)" in message
    assert "(first: features.5.0.bn1.gama; did you mean 'features.5.0.bn1.weight'?)" in message
    assert "output.bias is (3,), expected (2,)" in message


def test_a_shift_that_the_network_lacks_is_refused():
    params = from_state_dict(resnet18_v2(2).state_dict())
    to_state_dict({**params, "features.0.gamma": torch.full((3,), 2.0)}, "w")  # ignored, as MXNet does
    with pytest.raises(ModelError, match=r"w: features\.0\.beta is not 0"):
        to_state_dict({**params, "features.0.beta": torch.tensor([0, 0, 0.1])}, "w")


def test_layers_and_their_order():
    network = resnet18_v2(7)
    kinds = [type(module).__name__ for module in network.features]
    assert kinds == ["BatchNorm", "Conv2d", "BatchNorm", "ReLU", "MaxPool2d", *["Sequential"] * 4, "BatchNorm", "ReLU",
                     "AdaptiveAvgPool2d", "Flatten"]  # fmt: skip
    assert [len(stage) for stage in resnet34_v2(2).features[5:9]] == [3, 4, 6, 3]
    assert not list(network.features[0].parameters())
    assert [stage.name for stage in derive_stages(network, "headstart")] == [
        "stem", "features.5", "features.6", "features.7", "features.8", "head"
    ]  # fmt: skip
    assert has_known_stages(network)
    assert (SPEC.size, SPEC.resize, SPEC.interpolation) == ((224, 224), 256, "bilinear")
    assert (SPEC.mean, SPEC.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_initial_weights_are_xavier():
    torch.manual_seed(0)
    network = resnet18_v2(10)
    for layer in (network.features[1], network.features[8][1].conv2, network.output):
        fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert not network.output.bias.any()


def test_batch_norm_is_pytorchs_but_for_the_variance_that_it_tracks():
    ours, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    images = torch.randn(2, 4, 3, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients = []
    for module in (ours, theirs):
        loss = functional.gelu(module(images)).sum()
        gradients.append(torch.autograd.grad(loss, images)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    values = images.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(ours.running_var, 0.9 + 0.1 * values.var(1, unbiased=False))
    torch.testing.assert_close(theirs.running_var, 0.9 + 0.1 * values.var(1, unbiased=True))
    ours.eval()
    expected = (values - ours.running_mean[:, None]) / (ours.running_var[:, None] + 1e-5).sqrt()
    torch.testing.assert_close(ours(images).detach().transpose(0, 1).flatten(1), expected)


def test_as_a_backbone(tmp_path):
    network = resnet18_v2(5)
    save_params(network, tmp_path / "w.params")
    backbone = create_backbone("resnet18_v2", weights=str(tmp_path / "w.params"))
    assert (backbone.library, backbone.weights, backbone.spec) == ("headstart", "file w.params", SPEC)
    assert "licence unknown" in backbone.licence
    assert torch.equal(backbone.network.features[8][1].conv2.weight, network.features[8][1].conv2.weight)
    assert describe_backbone(backbone)["head"] == "Linear(512, 5)"  # its own classes
    assert "no pretrained weights" in describe_backbone(backbone)["published_licence"]
    with pytest.raises(ModelError, match="does not fit the network"):
        create_backbone("resnet34_v2", weights=str(tmp_path / "w.params"))
    with pytest.raises(ModelError, match=r"Did you mean 'resnet18_v2'"):
        create_backbone("resnet18_v3")
