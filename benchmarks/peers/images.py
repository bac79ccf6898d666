"""The images as PyTorch's transfer learning tutorial loads them."""

from pathlib import Path

from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import InterpolationMode

BATCH, WORKERS = 32, 2
_TO_INPUT = (transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3))


def augmented() -> transforms.Compose:
    return transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *_TO_INPUT])


def centred(interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> transforms.Compose:
    return transforms.Compose([transforms.Resize(256, interpolation), transforms.CenterCrop(224), *_TO_INPUT])


def splits(data: Path) -> tuple[Path, Path]:
    """Return the folder to train on and the one to report on."""
    return data / "train", next(data / name for name in ("val", "test") if (data / name).is_dir())


def loader(folder: Path, transform: transforms.Compose, *, shuffle: bool = False) -> DataLoader:
    dataset = datasets.ImageFolder(str(folder), transform)
    return DataLoader(dataset, batch_size=BATCH, shuffle=shuffle, num_workers=WORKERS)
