import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from headstart import preprocessing
from headstart.decoding import decode
from headstart.preprocessing import byte_statistics, eval_view, normalize, train_view
from headstart.types import Decoding, InputSpec

SPEC = InputSpec(size=(24, 32), resize=40)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_the_spec_says_how_small_a_picture_may_be_decoded() -> None:
    assert SPEC.decoding == Decoding()
    assert replace(SPEC, decoder="pillow-scaled").decoding == Decoding(40)
    assert replace(SPEC, decoder="pillow-scaled", resize=(30, 50), grey_range=(0, 1)).decoding == Decoding(50, (0, 1))


def test_a_picture_given_is_not_changed(picture: Image.Image) -> None:
    before = picture.tobytes(), picture.mode, dict(picture.info)
    eval_view(decode(picture), SPEC)
    train_view(decode(picture), SPEC, "strong", np.random.default_rng(0))
    assert (picture.tobytes(), picture.mode, dict(picture.info)) == before


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (33, 71), (640, 640), (41, 40)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_eval_view_is_torchvisions(size: tuple[int, int], interpolation: str) -> None:
    from torchvision.transforms import v2

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    spec = InputSpec(size=(36, 36), resize=40, interpolation=interpolation)  # type: ignore[arg-type]
    mode = v2.InterpolationMode(interpolation)
    theirs = v2.Compose([v2.Resize(40, interpolation=mode), v2.CenterCrop(36)])(picture)
    assert np.array_equal(eval_view(picture, spec), np.asarray(theirs))


@pytest.mark.parametrize("resize", [40, (30, 50), (24, 32), 10, (5, 5)])
@pytest.mark.parametrize("size", [(60, 45), (1, 1), (3, 2000), (2000, 3), (31, 24)])
@pytest.mark.parametrize("augment", ["none", "flip", "crop", "strong"])
def test_every_view_has_the_size_asked_for(
    resize: int | tuple[int, int], size: tuple[int, int], augment: preprocessing.Augment
) -> None:
    picture = Image.new("RGB", size, "teal")
    spec = InputSpec(size=(24, 32), resize=resize)
    view = train_view(picture, spec, augment, np.random.default_rng(1))
    assert (view.shape, view.dtype) == ((24, 32, 3), np.uint8)
    if augment != "strong":
        assert (view == np.array([0, 128, 128])).all()


def test_a_very_long_picture_costs_no_more_memory_than_a_strip() -> None:
    assert eval_view(Image.new("RGB", (60_000, 2)), SPEC).shape == (24, 32, 3)


def test_flip_is_the_evaluation_view_or_its_mirror(picture: Image.Image) -> None:
    plain = eval_view(picture, SPEC)
    views = [train_view(picture, SPEC, "flip", np.random.default_rng(seed)) for seed in range(40)]
    flipped = [np.array_equal(view, plain[:, ::-1]) for view in views]
    assert all(turned or np.array_equal(view, plain) for turned, view in zip(flipped, views, strict=True))
    assert 8 < sum(flipped) < 32
    assert np.array_equal(train_view(picture, SPEC, "none", np.random.default_rng(0)), plain)


def test_crops_vary_within_the_bounds_of_the_method(picture: Image.Image) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, bottom = preprocessing._random_box(picture, rng)
        width, height = right - left, bottom - top
        assert 0 <= left < right <= picture.width
        assert 0 <= top < bottom <= picture.height
        assert 0.07 <= width * height / (picture.width * picture.height) <= 1
        assert 0.68 <= width / height <= 1.47  # 3/4 to 4/3, rounded to whole pixels of a small crop


@pytest.mark.parametrize("augment", ["flip", "crop", "strong"])
def test_views_depend_on_the_generator_only(picture: Image.Image, augment: preprocessing.Augment) -> None:
    def view(seed: int) -> bytes:
        return train_view(picture, SPEC, augment, np.random.default_rng(seed)).tobytes()

    assert view(5) == view(5)
    assert len({view(seed) for seed in range(8)}) > 1


@pytest.mark.parametrize("name", list(preprocessing._OPERATIONS))
@pytest.mark.parametrize("strength", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_each_operation_keeps_size_and_mode(name: str, strength: float) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(20, 200, (45, 60, 3), dtype=np.uint8))
    result = preprocessing._OPERATIONS[name](picture, strength)
    assert (result.size, result.mode) == (picture.size, "RGB")
    if strength == 0 and name not in ("autocontrast", "equalize", "solarize"):
        assert np.array_equal(np.asarray(result), np.asarray(picture))
    if abs(strength) == 1 and name != "identity":
        assert not np.array_equal(np.asarray(result), np.asarray(picture))


def test_normalisation_of_tensors_and_of_bytes_is_one() -> None:
    import torch

    spec = replace(SPEC, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixels = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    before = pixels.clone()
    found = normalize(pixels, spec)
    assert torch.equal(pixels, before)
    assert found.dtype == torch.float32
    assert found.stride() == pixels.stride()
    for channel in range(3):
        expected = pixels[:, channel].float().div(255).sub(spec.mean[channel]).div(spec.std[channel])
        assert torch.equal(found[:, channel], expected)
        mean, std = (values[channel] for values in byte_statistics(spec))
        assert torch.allclose((pixels[:, channel] - mean) / std, expected, atol=1e-6)


def test_preparing_pictures_loads_no_torch() -> None:
    modules = "headstart.preprocessing, headstart.data.dataset, headstart.data.pictures, headstart.inference.inputs"
    code = f"import sys, {modules}, headstart.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
