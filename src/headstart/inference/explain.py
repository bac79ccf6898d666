"""Where a network looks: Grad-CAM pictures in the run folder, for reports to show."""

import io
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from headstart.data.manifest import read_source
from headstart.data.predictions import read_predictions
from headstart.data.sources import Source, read_picture
from headstart.errors import ModelError, UnreadableImageError
from headstart.files import file_error, write_atomic, write_json
from headstart.models.classifier import ClassifierNetwork
from headstart.models.saved import load_classifier
from headstart.preprocessing import Pixels, eval_view
from headstart.runs import EXPLANATIONS, MANIFEST, Run

_OPACITY = 0.65  # of the strongest evidence; weaker evidence lets more of the picture through


def explain(run: Run, *, num_mistakes: int = 6, num_right: int = 4) -> dict[str, Any]:
    """Draw for some reported images what speaks for the predicted class, and for the true one where that differs.

    The most confident mistakes come first, then right predictions from the most to the least confident one. Pictures
    that are gone are passed over.

    Args:
        run: A finished run; its `explanations/` is written: PNGs and, last, `explanations.json`.
        num_mistakes: Most wrongly classified images.
        num_right: Most rightly classified images.

    Returns:
        What `explanations.json` holds: `method`, `layer`, `reason` (why there is none, or None) and `images`, each with
        `path`, `label`, `predicted`, `probability`, whether there `has_evidence` for the predicted and, in a mistake,
        the true class, and the PNGs `input`, `file` and, in a mistake, `label_file`.

    Raises:
        RunError: The run is not finished, or cannot be written to.
        ModelError: Its model cannot be loaded.
        DataError: Another version of Headstart wrote its manifest.
    """
    model = load_classifier(run.model_folder)
    folder = run.path / EXPLANATIONS
    source = read_source(run.path / MANIFEST)
    found: dict[str, Any] = {"method": "Grad-CAM", "layer": None, "reason": None, "images": []}
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise file_error("create", folder, error) from error
    try:
        for row in _rows_to_explain(run, num_mistakes, num_right):
            view = _eval_view_of(source, row["path"], model)
            if view is None:
                continue
            classes = dict.fromkeys((row["predicted"], row["label"]))
            maps, found["layer"] = grad_cam(model, view, [model.labels.index(name) for name in classes])
            files = _write_pictures(folder, len(found["images"]), view, maps)
            found["images"].append({**row, "has_evidence": [bool(each.any()) for each in maps], **files})
    except ModelError as error:
        found["reason"] = str(error)
    write_json(folder / f"{EXPLANATIONS}.json", found)
    return found


def grad_cam(
    model: ClassifierNetwork, view: Pixels, classes: Sequence[int]
) -> tuple[list[npt.NDArray[np.float32]], str]:
    """Compute where in a picture the evidence for some classes lies (Selvaraju et al. 2017, arXiv:1610.02391).

    With activations A_k at positions (i, j) and the class's logit y, the weight of channel k is the mean of
    dy/dA_k(i, j) over the positions, and the map is ReLU(sum_k weight_k A_k). The activations are those of the last
    layer below the head that still has positions which the logit depends on: in a network whose head reads a class
    token only, that is the input of the last block. Tokens are laid out on the grid of patches that they stand for.

    Args:
        model: Classifier in eval mode, on any device.
        view: `uint8` (H, W, 3), made by the model's spec.
        classes: Positions of the classes among the outputs.

    Returns:
        A map (h, w) per class, scaled to 0..1 by its own maximum (all 0 where nothing speaks for the class), and the
        name of the layer.

    Raises:
        ModelError: The network has no such layer.
    """
    outputs, logits = _outputs_and_logits(model, view)
    size = (view.shape[0], view.shape[1])
    for name, output in reversed(outputs):
        maps = [_evidence_map(logits[index], output, size) for index in classes]
        if all(each is not None for each in maps):
            return [each for each in maps if each is not None], name
    raise ModelError(f"Grad-CAM needs a layer whose output has positions; {model.architecture} has none below its head")


def _outputs_and_logits(model: ClassifierNetwork, view: Pixels) -> tuple[list[tuple[str, Tensor]], Tensor]:
    """Run the network with gradients; return the outputs of the parts of its stages as they came, and the logits."""
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.append((name, output))

    modules = dict(model.network.named_modules())
    handles = []
    for stage in model.stages[:-1]:
        for name in stage.prefixes:
            if name in modules:  # else it is a parameter of the network itself
                handles.append(modules[name].register_forward_hook(partial(keep, name)))
    device = next(model.network.parameters()).device
    try:
        with torch.enable_grad():
            pixels = torch.from_numpy(view).permute(2, 0, 1)[None].to(device)
            logits = model.network(model.normalize(pixels).requires_grad_())[0]
    finally:
        for handle in handles:
            handle.remove()
    return outputs, logits


def _evidence_map(logit: Tensor, output: Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32] | None:
    """Return the class's map at a layer, or None where its output has no positions that the logit depends on."""
    activations = _positions(output, size)
    if activations is None:
        return None
    gradient = torch.autograd.grad(logit, output, retain_graph=True, allow_unused=True)[0]
    gradients = None if gradient is None else _positions(gradient, size)
    if gradients is None or not gradients.any():
        return None
    weights = gradients.mean(dim=(1, 2), keepdim=True)
    evidence = (weights * activations).sum(0).clamp(min=0).detach().float().cpu()
    strongest = float(evidence.max())
    return np.asarray(evidence / strongest if strongest > 0 else evidence, np.float32)


def _positions(output: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Bring an output for one picture to (C, h, w), or return None where it has no grid of positions.

    Args:
        output: (1, C, h, w), (1, h, w, C) as in Swin, or tokens (1, T, C) with special tokens first.
        size: Height and width of the picture, whose aspect ratio the grid has.
    """
    if output.ndim == 3:
        height = math.isqrt(output.shape[1] * size[0] // size[1])
        width = height * size[1] // size[0]
        num_special = output.shape[1] - height * width
        if not 0 <= num_special < height + width or not height * width:
            return None
        grid = output[0, num_special:].T.reshape(-1, height, width)
    elif output.ndim == 4:
        _, a, b, c = output.shape
        is_channels_last = a * size[1] == b * size[0] and b * size[1] != c * size[0]
        grid = output[0].permute(2, 0, 1) if is_channels_last else output[0]
    else:
        return None
    return grid if grid.shape[1] * grid.shape[2] > 1 else None


def _rows_to_explain(run: Run, num_mistakes: int, num_right: int) -> Iterator[dict[str, Any]]:
    """Give path, label, predicted class and its probability of the images to explain."""
    found = read_predictions(run)
    confidence = found.confidence
    right = found.right()
    rows = found.mistakes()[:num_mistakes]
    if right:
        spread = np.unique(np.linspace(0, len(right) - 1, num_right).astype(int))
        rows += [right[position] for position in spread]
    for row in rows:
        yield {
            "path": found.paths[row],
            "label": found.labels[row],
            "predicted": found.predicted[row],
            "probability": float(confidence[row]),
        }


def _eval_view_of(source: Source, key: str, model: ClassifierNetwork) -> Pixels | None:
    try:
        return eval_view(read_picture(source, key, model.spec.decoding), model.spec)
    except UnreadableImageError:
        return None


def _write_pictures(folder: Path, number: int, view: Pixels, maps: Sequence[npt.NDArray[np.float32]]) -> dict[str, str]:
    """Write what the network saw and the evidence over it; return the names of the files."""
    panels = [("input", "input", view), ("file", "predicted", _overlaid(view, maps[0]))]
    if len(maps) > 1:
        panels.append(("label_file", "label", _overlaid(view, maps[1])))
    written = {}
    for key, name, pixels in panels:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        written[key] = f"{number:02}-{name}.png"
        write_atomic(folder / written[key], buffer.getvalue())
    return written


def _overlaid(view: Pixels, evidence: npt.NDArray[np.float32]) -> Pixels:
    """Lay a map (h, w) over a picture (H, W, 3), which is greyed, so that all colour is evidence."""
    from matplotlib import colormaps

    height, width = view.shape[:2]
    large = np.asarray(Image.fromarray(evidence).resize((width, height), Image.Resampling.BILINEAR))
    colours = 255 * colormaps["inferno"](large)[..., :3]
    opacity = _OPACITY * large[..., None]
    grey = np.asarray(Image.fromarray(view).convert("L"))[..., None]
    mixed: Pixels = np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)
    return mixed
