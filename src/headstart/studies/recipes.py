"""The field's standard lessons as data: what each one trains, with every number of its source.

Nothing here runs; `headstart.studies.lessons` does. Importing this module loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Settings = Mapping[str, Any]

HALF: Final = -1
"""As `stages`: the upper half of the backbone's stages, counted when the backbone is known."""


@dataclass(frozen=True)
class Variant:
    """One way to train, a row of a lesson's table.

    Attributes:
        name: What tables call it; the same name in two parts is the same run.
        settings: Fields of `Config` that differ from what all variants of the recipe share.
        backbone: A network of its own, or None for the recipe's.
    """

    name: str
    settings: Settings
    backbone: str | None = None


@dataclass(frozen=True)
class Published:
    """A figure that the lesson printed.

    Attributes:
        variant: Which row it belongs to.
        accuracy: As it was published.
        source: Where.
    """

    variant: str
    accuracy: str
    source: str


@dataclass(frozen=True)
class Part:
    """Variants that answer one question together, each compared with the most accurate on the reported images.

    Attributes:
        name: For `--part`.
        question: What the table below it answers.
        variants: Its rows.
        published: Figures of the source, printed beside it.
        needs: What must be there, or the part is left out and says why: `source classes` (the weights' own final
            layer, with names or `match`), `backbones` (several), or nothing.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    published: tuple[Published, ...] = ()
    needs: str = ""


@dataclass(frozen=True)
class Recipe:
    """A lesson, from data to verdict.

    Attributes:
        name: For the command line.
        title: One line for people.
        question: What it asks.
        data: Catalogue name of its data set.
        backbone: Its network.
        shared: Settings of every variant.
        parts: In order; the first is the lesson as it is taught.
        notes: Where Headstart knowingly does otherwise than the source.
        duration: What a run costs.
        label_map: Merges classes, where the data has all of those that it names.
        train_per_class: Balanced, seeded subset of train, or None for all.
        reported_per_class: The same for the reported split.
        pretraining: Settings of a source network that is trained first where no weights are given, or None.
        pretrains_always: Whether that is so for backbones with published weights too.
        backbones: What is compared side by side where no other backbone is asked for.
    """

    name: str
    title: str
    question: str
    data: str
    backbone: str
    shared: Settings
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    duration: str
    label_map: Mapping[str, str] = field(default_factory=dict)
    train_per_class: int | None = None
    reported_per_class: int | None = None
    pretraining: Settings | None = None
    pretrains_always: bool = False
    backbones: tuple[str, ...] = ()


# A fresh random crop for every epoch also where a frozen part is computed once: of a hundred numbered views an image
# meets as many as there are epochs, so none comes twice, and only those that are met are computed.
_VIEWS = 100


def _settings(*bases: Settings, **own: Any) -> Settings:
    return {key: value for base in (*bases, own) for key, value in base.items()}


def _variant(name: str, *bases: Settings, backbone: str | None = None, **own: Any) -> Variant:
    return Variant(name, _settings(*bases, **own), backbone)


# A lesson's numbers hold on any machine, so nothing about them is left to timing.
_EXACT = _settings(interpolation="bilinear", head_init="random", precision="32", tune="off")
# Tutorials train BatchNorm with the batch's statistics.
_TUTORIAL = _settings(_EXACT, image_size=224, batch_norm="batch", views=_VIEWS)
# The row of "not hot dog" is fitted on all views of all images, so there are no more of them than epochs.
_SOURCE_ROW = _settings(head_init="source", views=5)
_FROZEN_NOTE = (
    "frozen layers keep their BatchNorm statistics; the source leaves them in training mode, where they drift although "
    "no gradient reaches them"
)
_LEAKS_NOTE = "training images that copy a reported one are dropped"

# How a source network is trained where none is given.
_PRETRAINING = _settings(
    _EXACT, strategy="scratch", image_size=96, resize=[112], augment="crop", batch_size=64, epochs=10, lr=1e-3
)

_HOTDOG_SHARED = _settings(
    _TUTORIAL, resize=[256, 256], augment="crop", optimizer="sgd", momentum=0.0, weight_decay=1e-3, decay_all=True,
    batch_size=128, epochs=5, loss_reduction="sum", schedule="constant",
)  # fmt: skip
_FULL = _settings(strategy="full", lr=5e-5, head_lr_mult=10.0)
_FINE_TUNED = _variant("fine-tuned", _FULL)
_SCRATCH = _variant("from scratch", strategy="scratch", lr=5e-4)
_LONGER = _settings(epochs=15, schedule="cosine")
_ADAMW = _settings(
    optimizer="adamw", momentum=0.9, weight_decay=0.01, decay_all=False, loss_reduction="mean", schedule="one-cycle",
    epochs=10,
)  # fmt: skip
_D2L = "Dive into Deep Learning, arXiv:2106.11342, section 14.2"
_HOTDOG_PUBLISHED = (Published("fine-tuned", "0.94", _D2L), Published("from scratch", "0.83 to 0.85", _D2L))

HOTDOG = Recipe(
    "hotdog",
    "Hot dog or not: fine-tuning against training from scratch",
    "How much is a network that was pretrained on ImageNet worth on 2,000 photographs?",
    "hotdog",
    "resnet18",
    _HOTDOG_SHARED,
    (
        Part("lesson", "Is fine-tuning better than training from scratch?", (_FINE_TUNED, _SCRATCH), _HOTDOG_PUBLISHED),
        Part(
            "larger-rates",
            "What happens as the learning rate grows?",
            (_FINE_TUNED, *(_variant(f"fine-tuned rate x{k}", _FULL, lr=5e-5 * k) for k in (4, 20, 100))),
        ),
        Part(
            "other-settings",
            "Does the gap stay when both are given better settings?",
            (
                _variant("fine-tuned 15 epochs", _FULL, _LONGER),
                _variant("from scratch 15 epochs", _SCRATCH.settings, _LONGER),
                _variant("fine-tuned AdamW", _FULL, _ADAMW, lr=3e-4),
                _variant("from scratch AdamW", _SCRATCH.settings, _ADAMW, lr=1e-3),
            ),
        ),
        Part(
            "head-ratio",
            "What is the head's own rate worth?",
            (_FINE_TUNED, *(_variant(f"fine-tuned head x{k}", _FULL, head_lr_mult=float(k)) for k in (1, 100))),
        ),
        Part(
            "frozen",
            "What if the backbone is frozen, wholly or from below?",
            (
                _FINE_TUNED,
                _variant("backbone frozen", strategy="head", lr=5e-4),
                *(_variant(f"head and last {k} stages", _FULL, strategy="partial", stages=k) for k in (1, 2, 3)),
            ),
        ),
        Part(
            "source-row",
            "The source has a class 'hot dog' of its own: what is its row of the final layer worth?",
            (
                _variant("source row untrained", _SOURCE_ROW, strategy="head", epochs=0),
                _variant("source row backbone frozen", _SOURCE_ROW, strategy="head", lr=5e-4),
                _variant("source row fine-tuned", _SOURCE_ROW, _FULL),
                _FINE_TUNED,
            ),
            needs="source classes",
        ),
    ),
    (_FROZEN_NOTE, _LEAKS_NOTE),
    "on two CPU cores with ResNet-18 25 minutes a seed for the first part and 4 hours for all; minutes on a GPU",
)

# Plain SGD on the loss summed over 128 images at 7.8125e-5 takes the steps of the mean loss at 0.01. Its weight decay
# is 128 times weaker, though: the decay joins the gradient before the rate is applied.
_GLUON_FULL = _settings(strategy="full", lr=0.01, head_lr_mult=10.0, loss_reduction="mean")
_GLUON_HEAD = _settings(strategy="head", lr=0.1, loss_reduction="mean")
_GLUON_ROW = _settings(_SOURCE_ROW, match={"hot_dog": 713})
_GLUON_FINE_TUNED = _variant("fine-tuned", _GLUON_FULL)

HOTDOG_GLUON = Recipe(
    "hotdog-gluon",
    "Hot dog or not in Gluon's terms: ResNet-18 v2, features and output",
    "Do both editions of the lesson, on the mean and on the summed loss, say the same?",
    "hotdog",
    "resnet18_v2",
    _HOTDOG_SHARED,
    (
        Part(
            "lesson",
            "Is fine-tuning better than training from scratch? The first edition, on the mean loss",
            (_GLUON_FINE_TUNED, _variant("from scratch", strategy="scratch", lr=0.1, loss_reduction="mean")),
            _HOTDOG_PUBLISHED,
        ),
        Part(
            "summed",
            "The second edition, on the summed loss",
            (
                _variant("fine-tuned summed", strategy="full", lr=7.8125e-5, head_lr_mult=10.0),
                _variant("from scratch summed", strategy="scratch", lr=7.8125e-4),
            ),
            tuple(Published(f"{each.variant} summed", each.accuracy, each.source) for each in _HOTDOG_PUBLISHED),
        ),
        Part(
            "frozen",
            "What if the features are frozen (grad_req='null')?",
            (_GLUON_FINE_TUNED, _variant("features frozen", _GLUON_HEAD)),
        ),
        Part(
            "source-row",
            "The source has a class 'hot dog' of its own, number 713: what is its row of the output layer worth?",
            (
                _variant("source row untrained", _GLUON_ROW, strategy="head", epochs=0),
                _variant("source row features frozen", _GLUON_HEAD, _GLUON_ROW),
                _variant("source row fine-tuned", _GLUON_FULL, _GLUON_ROW),
                _GLUON_FINE_TUNED,
            ),
            needs="source classes",
        ),
    ),
    (_FROZEN_NOTE, "Gluon resizes with OpenCV's bilinear filter, which is not antialiased", _LEAKS_NOTE),
    "on two CPU cores 10 minutes for the source, then 25 minutes a seed for the first part and 1.5 hours for all",
    pretraining=_PRETRAINING,
)

_ANIMALS, _VEHICLES = ("bird", "cat", "deer", "dog", "frog", "horse"), ("airplane", "automobile", "ship", "truck")
_ADAM_HEAD = _settings(strategy="head", lr=1e-3)

ANIMALS_VEHICLES = Recipe(
    "animals-vehicles",
    "Animals or vehicles: a small network from scratch, a new head, gradual unfreezing",
    "What does each step bring, from learning everything anew to adapting what was learnt?",
    "cifar10-animals-vehicles",
    "resnet18",
    _settings(
        _TUTORIAL,
        resize=[224, 224],
        augment="flip",
        optimizer="adam",
        weight_decay=0.0,
        batch_size=32,
        epochs=10,
        schedule="constant",
    ),
    (
        Part(
            "lesson",
            "From scratch, the head only, or unfrozen step by step?",
            (
                _variant("simple-cnn from scratch", backbone="simple-cnn", strategy="scratch", lr=1e-3),
                _variant("head", _ADAM_HEAD),
                _variant(
                    "gradual unfreezing",
                    strategy="gradual",
                    phases=3,
                    phase_epochs=[5, 5, 5],
                    phase_lrs=[1e-3, 1e-4, 1e-5],
                ),
            ),
        ),
        Part(
            "grid",
            "How much should be frozen, at which rate?",
            (
                _variant("all but the head frozen", _ADAM_HEAD, epochs=5),
                _variant("nothing frozen", strategy="full", lr=1e-4, head_lr_mult=1.0, epochs=5),
                _variant("first half frozen", strategy="partial", stages=HALF, lr=1e-5, head_lr_mult=1.0),
            ),
        ),
        Part(
            "batch-sizes",
            "What does the batch size change, at one rate?",
            (
                _variant("head", _ADAM_HEAD),
                *(_variant(f"head batch {size}", _ADAM_HEAD, batch_size=size) for size in (8, 128)),
            ),
        ),
    ),
    (
        _FROZEN_NOTE,
        "where part of the network is frozen an image is mirrored in every other epoch, not in a random half of them",
        "half of a network is counted in stages: of ResNet-18 the first half is all below layer3",
    ),
    "on two CPU cores with ResNet-18 20 minutes a seed for the first part and an hour for all; minutes on a GPU",
    label_map={**dict.fromkeys(_ANIMALS, "animal"), **dict.fromkeys(_VEHICLES, "vehicle")},
    train_per_class=1000,
    reported_per_class=200,
)

_TAUGHT = _settings(best_epoch=True, select_by="accuracy", select_on="reported")
_HONEST = _settings(best_epoch=True, select_by="accuracy", select_on="auto")
_EXTRACTED = _settings(strategy="head", lr=1e-3)
_TUNED = _settings(strategy="full", lr=1e-3, head_lr_mult=1.0)
_WAYS: Mapping[str, Settings] = {
    "feature extraction": _EXTRACTED,
    "fine-tuned": _TUNED,
    "fine-tuned 1e-4 with head 1e-3": _settings(_TUNED, lr=1e-4, head_lr_mult=10.0),
    "extraction then all": _settings(strategy="lp-ft", solver="loop", phase_lrs=[1e-3, 1e-4], phase_epochs=[5, 5]),
}
_PYTORCH = "PyTorch's transfer-learning tutorial, best of 25 epochs"

ANTS_BEES = Recipe(
    "ants-bees",
    "Ants or bees: feature extraction, fine-tuning, and which epoch to keep",
    "On 245 images, is it better to train the head or everything, and what does choosing the best epoch hide?",
    "hymenoptera",
    "resnet18",
    _settings(
        _TUTORIAL,
        resize=[256],
        augment="crop",
        optimizer="sgd",
        momentum=0.9,
        weight_decay=0.0,
        batch_size=4,
        epochs=5,
        schedule="step",
        step_epochs=7,
    ),
    (
        Part(
            "lesson",
            "The head or everything? As taught (the best epoch on the reported images), and under the honest protocol",
            (
                *(_variant(name, way, _TAUGHT) for name, way in _WAYS.items()),
                *(_variant(f"honest: {name}", way, _HONEST) for name, way in _WAYS.items()),
            ),
        ),
        Part(
            "published",
            "And over the 25 epochs of the published figures, the rate falling to a tenth after every seventh?",
            (
                _variant("feature extraction 25 epochs", _EXTRACTED, _TAUGHT, epochs=25),
                _variant("fine-tuned 25 epochs", _TUNED, _TAUGHT, epochs=25),
            ),
            (
                Published("feature extraction 25 epochs", "0.948", _PYTORCH),
                Published("fine-tuned 25 epochs", "0.935", _PYTORCH),
            ),
        ),
        Part(
            "rates",
            "Which single rate for everything?",
            (
                _variant("fine-tuned", _TUNED, _TAUGHT),
                *(_variant(f"fine-tuned {lr:g}", _TUNED, _TAUGHT, lr=lr) for lr in (1e-4, 1e-2)),
            ),
        ),
        Part(
            "backbones",
            "ResNet, VGG and MobileNet side by side",
            (_variant("feature extraction", _EXTRACTED, _TAUGHT), _variant("fine-tuned", _TUNED, _TAUGHT)),
            needs="backbones",
        ),
    ),
    (_FROZEN_NOTE, "within five epochs the rate never falls: it falls after every seventh", _LEAKS_NOTE),
    "on two CPU cores with ResNet-18 15 minutes a seed for the first part and an hour for all",
    backbones=("resnet18", "vgg16", "mobilenet_v2"),
)

PRETRAIN_TRANSFER = Recipe(
    "pretrain-transfer",
    "The first step too: train a source network, then fine-tune it",
    "Is a source network of one's own worth its training?",
    "hotdog",
    "resnet18",
    _settings(_EXACT, image_size=96, resize=[112], augment="crop", epochs=10, views=10),
    (
        Part(
            "lesson",
            "Does what the source taught help on the target?",
            (
                _variant("from scratch", strategy="scratch"),
                _variant("head on the source", strategy="head"),
                _variant("fine-tuned source", strategy="full"),
            ),
        ),
    ),
    ("the lesson has no figures of its own: rates and schedules are Headstart's defaults", _LEAKS_NOTE),
    "on two CPU cores with ResNet-18 10 minutes for the source, then 10 minutes a seed",
    pretraining=_PRETRAINING,
    pretrains_always=True,
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (HOTDOG, HOTDOG_GLUON, ANIMALS_VEHICLES, ANTS_BEES, PRETRAIN_TRANSFER)
}
