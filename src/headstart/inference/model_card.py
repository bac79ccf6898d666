"""The model card: what a model folder says about itself to people, and to the Hugging Face hub."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import yaml

from headstart._version import __version__
from headstart.models.adapters import adapter_layout
from headstart.models.classifier import ClassifierNetwork
from headstart.models.libraries import library_named
from headstart.stats.baseline import absent_classes, baseline, baseline_note, worst_class
from headstart.stats.caveats import caveats
from headstart.text import visible_line
from headstart.types import InputSpec

_MAX_LABELS = 50


def render_model_card(
    model: ClassifierNetwork, metrics: Mapping[str, Any], *, data_name: str, data_licence: str | None = None
) -> str:
    """Describe a model in Markdown, with the hub's front matter.

    Args:
        model: What it is made of.
        metrics: What `metrics.json` holds, with `strategy`.
        data_name: Name of the data set that the model was trained on.
        data_licence: What is known of the data's licence.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(files(__package__).joinpath("model_card.md.j2").read_text(encoding="utf-8"))
    own_loader = ""
    if model.head_hidden is None and adapter_layout(model.network) is None:
        own_loader = library_named(model.library).own_loader
    shown_labels = [_as_code(label) for label in model.labels[:_MAX_LABELS]]
    absent = [_as_code(label) for label in absent_classes(metrics)]
    return template.render(
        front_matter=_front_matter(model.library if own_loader else None),
        title=_one_line(f"{data_name}: {model.backbone}"),
        version=__version__,
        labels=model.labels,
        shown_labels=shown_labels,
        backbone=_as_code(model.backbone),
        architecture=_as_code(model.architecture),
        library=model.library,
        weights=_one_line(model.weights),
        strategy=_as_code(str(metrics.get("strategy", "unknown"))),
        data_name=_as_code(data_name),
        spec=model.spec,
        resize=_resize_words(model.spec),
        metrics=metrics,
        caveats=caveats(metrics),
        baseline=baseline(metrics),
        baseline_label=_as_code(baseline(metrics).label),
        baseline_note=_one_line(baseline_note(metrics)),
        worst_class=worst_class(metrics),
        worst_label=_as_code(worst_class(metrics).label),
        split=_as_code(str(metrics["split"])),
        accuracy=metrics["accuracy"],
        own_loader=own_loader,
        licence=_one_line(model.licence).rstrip("."),
        data_licence=_one_line(data_licence or "not known to Headstart; that of your images applies").rstrip("."),
        absent=absent,
    )


def _front_matter(loading_library: str | None) -> str:
    """Write the hub's front matter; `loading_library` is the one that loads the folder without Headstart."""
    tags = ["image-classification", "headstart"]
    if loading_library is not None:
        tags.append(loading_library)
    values = {
        "library_name": loading_library or "headstart",
        "pipeline_tag": "image-classification",
        "tags": tags,
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _resize_words(spec: InputSpec) -> str:
    """Say how a picture is resized before it is cropped."""
    if isinstance(spec.resize, int):
        return f"Resized so that the shorter side has {spec.resize} pixels"
    return f"Resized to {spec.resize[0]} x {spec.resize[1]} pixels (height x width)"


def _one_line(text: str) -> str:
    """Keep text from being read as markup that spans lines, and its control characters from a terminal."""
    return visible_line(" ".join(text.split()))


def _as_code(text: str) -> str:
    """Show text as it is, whatever characters it has."""
    text = visible_line(text)
    if "`" not in text:
        return f"`{text}`"
    if "``" not in text:
        return f"`` {text} ``"
    return repr(text).replace("`", "'")
