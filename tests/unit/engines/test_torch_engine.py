import torch

from headstart.engines import torch_engine


def test_convolutions_on_a_gpu_are_not_rounded_to_tf32():
    before = torch.backends.cudnn.allow_tf32
    with torch_engine._exact_arithmetic(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
