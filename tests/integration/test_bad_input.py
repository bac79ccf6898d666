"""Bad input, command by command: one line that says what to do, its exit code, and nothing written.

The table pins the messages as they are. Where a message is made better, its row changes with it.
"""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart import experiment
from headstart.config import make_config
from headstart.experiment.tools import write_delta
from tests.helpers.pictures import COLOURS, write_folder

# What `{tiny}` stands for: a network that trains in less than a second.
TINY = "--backbone simple-cnn --image-size 16 --strategy scratch --augment flip"

Action = Callable[[], object]


class Row(NamedTuple):
    """A command that is refused.

    Attributes:
        name: What is wrong.
        words: What follows `headstart`.
        error: All of standard error. `{here}` is the folder of the test, `{any}` what another library or the machine
            decides.
        before: What is done to the folder first.
        variables: Environment variables.
        code: Exit code.
        out: All of standard output.
        leaves: What is new or changed in the folder afterwards.
    """

    name: str
    words: str
    error: str
    before: tuple[Action, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    code: int = 2
    out: str = ""
    leaves: tuple[str, ...] = ()


# What may be done to the folder before a command; paths are relative to it.


def write(path: str, content: str | bytes = "") -> Action:
    def act() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return act


def folder(path: str) -> Action:
    return lambda: Path(path).mkdir(parents=True)


def copy(source: str, target: str) -> Action:
    def act() -> None:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)

    return act


def remove(path: str) -> Action:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def cut(path: str, count: int) -> Action:
    """Leave out the last bytes of a file."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-count])


def replace(path: str, old: str, new: str) -> Action:
    def act() -> None:
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new))

    return act


def without(path: str, key: str) -> Action:
    """Leave a key out of a JSON object."""

    def act() -> None:
        values = json.loads(Path(path).read_text())
        del values[key]
        Path(path).write_text(json.dumps(values))

    return act


def save_weights(path: str, content: object) -> Action:
    return lambda: torch.save(content, path)


def shift_weights(source: str, target: str) -> Action:
    """Write other weights of the same network."""
    return lambda: save_file({name: tensor + 1 for name, tensor in load_file(source).items()}, target)


# Settings: unknown, wrong, contradictory.
SETTINGS = [
    Row(
        "unknown setting",
        "train fruit --set epohcs=3",
        "error: unknown setting 'epohcs'. Did you mean 'epochs'? See: headstart train --help",
    ),
    Row(
        "--set without a value",
        "train fruit --set epochs",
        "error: --set takes key=value; got 'epochs'",
    ),
    Row(
        "--set with broken YAML",
        "train fruit --set 'epochs=[1'",
        "error: --set 'epochs=[1': the value is not valid YAML; quote it",
    ),
    Row(
        "--set with a word for a number",
        "train fruit --set epochs=many",
        "error: epochs='many' is not valid: input should be a valid integer, unable to parse string as an integer",
    ),
    Row(
        "unknown word of a setting",
        "train fruit --optimizer adamm",
        "error: optimizer='adamm' is not one of adamw, adam, sgd. Did you mean 'adam' or 'adamw'?",
    ),
    Row(
        "unknown precision",
        "train fruit --precision 16",
        "error: precision='16' is not one of auto, 32, bf16. Did you mean 'bf16'?",
    ),
    Row(
        "unknown engine",
        "train fruit --engine openvno",
        "error: engine='openvno' is not one of auto, openvino, torch-compiled, torch. Did you mean 'openvino'?",
    ),
    Row(
        "unknown device",
        "train fruit --device tpu",
        "error: device='tpu' is not one of auto, cpu, cuda, cuda:N, mps",
    ),
    Row(
        "device that is not there",
        "train fruit --device cuda:99",
        "error: device='cuda:99': no such device is visible to PyTorch here; use auto or cpu",
    ),
    Row(
        "number too small",
        "train fruit --lr=-1",
        "error: lr=-1.0 is not valid: input should be greater than 0",
    ),
    Row(
        "number that is not finite",
        "train fruit --lr inf",
        "error: lr=inf is not valid: input should be a finite number",
    ),
    Row(
        "share of one",
        "train fruit --dropout 1",
        "error: dropout=1.0 is not valid: input should be less than 1",
    ),
    Row(
        "network input too small",
        "train fruit --image-size 8",
        "error: image_size=8 is not valid: input should be greater than or equal to 16",
    ),
    Row(
        "negative seed",
        "train fruit --seed=-1",
        "error: seed=-1 is not valid: input should be greater than or equal to 0",
    ),
    Row(
        "resize of three numbers",
        "train fruit --resize 1,2,3",
        "error: resize takes one number (shorter side) or two (height, width); got [1, 2, 3]",
    ),
    Row(
        "resize smaller than what is cut from it",
        "train fruit {tiny} --resize 8",
        "error: resize=[8] is smaller than the input of (16, 16) that is cut from it",
    ),
    Row(
        "time limit that is no time",
        "train fruit --time-limit soon",
        "error: time_limit='soon' is not valid: expected seconds, or 10m, 1h",
    ),
    Row(
        "time limit of nothing",
        "train fruit --time-limit 0",
        "error: time_limit=0.0 is not valid: input should be greater than 0",
    ),
    Row(
        "subset of no images",
        "train fruit --max-per-class 0",
        "error: max_per_class='0' is not valid: expected N, or train=N,test=M, each at least 1",
    ),
    Row(
        "map without a target",
        "train fruit --map apple",
        "error: map='apple' is not valid: expected name=value pairs separated by commas, or a YAML file; got 'apple'",
    ),
    Row(
        "map file that is missing",
        "train fruit --map map.yaml",
        "error: cannot read map.yaml: No such file or directory; give the path of a YAML file",
    ),
    Row(
        "phase lengths of words",
        "train fruit --phase-epochs 1,x",
        "error: phase_epochs='x' is not valid: input should be a valid integer, unable to parse string as an integer",
    ),
    Row(
        "two rates of the head",
        "train fruit --head-lr 0.1 --head-lr-mult 5",
        "error: head_lr and head_lr_mult both set the head's rate; give one of them",
    ),
    Row(
        "random weights and given ones",
        "train fruit --strategy scratch --weights run",
        "error: strategy 'scratch' starts from random weights; leave out weights, or use 'full'",
    ),
    Row(
        "match and a random head",
        "train fruit --match apple=apple --head-init random",
        "error: match names rows of the weights' own head, and head_init=random uses none; leave one out",
    ),
    Row(
        "source head without weights",
        "train fruit --head-init source --weights none",
        "error: head_init=source needs pretrained weights; leave out head_init, or weights=none",
    ),
    Row(
        "source head and a hidden layer",
        "train fruit --head-init source --head-hidden 8",
        "error: head_init=source fills a head of one linear layer; leave out head_hidden",
    ),
    Row(
        "settings file that is missing",
        "train fruit --config mine.yaml",
        "error: cannot read mine.yaml: No such file or directory; give the path of a YAML file",
    ),
    Row(
        "settings file that is a folder",
        "train fruit --config fruit",
        "error: cannot read fruit: Is a directory; give the path of a YAML file",
    ),
    Row(
        "settings file that is no YAML",
        "train fruit --config mine.yaml",
        "error: mine.yaml is not valid YAML in line {any}, column {any}: {any}; correct it there",
        before=(write("mine.yaml", "epochs: [1"),),
    ),
    Row(
        "settings file that is a list",
        "train fruit --config mine.yaml",
        "error: mine.yaml holds a list; expected a mapping of settings such as 'epochs: 5'",
        before=(write("mine.yaml", "- epochs"),),
    ),
    Row(
        "settings file with a wrong value",
        "train fruit --config mine.yaml",
        "error: epochs='many' is not valid: input should be a valid integer, unable to parse string as an integer",
        before=(write("mine.yaml", "epochs: many"),),
    ),
    Row(
        "what version 0.1 decided, in a file of one's own",
        "train --config mine.yaml",
        "error: unknown setting 'choices'. See: headstart train --help",
        before=(
            write(
                "mine.yaml",
                "{data: fruit, backbone: simple-cnn, image_size: 16, strategy: scratch, choices: {epochs: [1, 2]}}",
            ),
        ),
    ),
    Row(
        "batch of one with BatchNorm",
        "train fruit --backbone lite0 --image-size 32 --strategy scratch --batch-size 1",
        "error: phase 'all' normalises by the statistics of a batch, and a batch of one image has none; use "
        "a larger --batch-size, or --batch-norm fixed",
    ),
    Row(
        "size of the cache",
        "train fruit {tiny}",
        "error: HEADSTART_CACHE_LIMIT must be a size such as 10GB, 500MB or 0; got 'much'",
        variables=(("HEADSTART_CACHE_LIMIT", "much"),),
    ),
    Row(
        "memory that is no size",
        "train fruit {tiny} --memory-limit much",
        "error: memory_limit='much' is not valid: expected gigabytes, such as 8 or 8GB, or 800MB",
    ),
    Row(
        "training that diverges",
        "train fruit {tiny} --lr 1e30 --epochs 5 --optimizer sgd --out run-2",
        "memory: about {any} GB\n"
        "run folder: run-2\n"
        "error: the held-out loss became {any} in phase 'all', epoch 1, step 1 (learning rate 2.80e+29); lower --lr, "
        "or clip gradients with --clip-norm 1",
        code=1,
        leaves=("run-2",),
    ),
]


# Strategies and backbones.
STRATEGIES = [
    Row(
        "unknown strategy",
        "train fruit --strategy haed",
        "error: strategy 'haed' is not known. Did you mean 'head'? There are: scratch, head, partial, full, "
        "layerwise, gradual, lp-ft, l2-sp, lora, adapter, norm, or a YAML file with your own table",
    ),
    Row(
        "table file that is missing",
        "train fruit --strategy mine.yaml",
        "error: cannot read mine.yaml: No such file or directory; give the path of a YAML file",
    ),
    Row(
        "table called as a strategy is",
        "train fruit {tiny} --strategy mine.yaml",
        "error: the table in mine.yaml is called 'head', as a strategy is; name it otherwise",
        before=(write("mine.yaml", "name: head\nphases: [{rules: {'*': 1}}]"),),
    ),
    Row(
        "table without phases",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': phases: field required; got {'name': 'mine'}. A table is such as "
        "{phases: [{lr: 1e-3, epochs: 5, rules: {classifier: 10, '*': null}}]}; null freezes",
        before=(write("mine.yaml", "name: mine"),),
    ),
    Row(
        "table of phases without rules",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': phases[0].rules: field required; got {'epochs': 1}. A table is such "
        "as {phases: [{lr: 1e-3, epochs: 5, rules: {classifier: 10, '*': null}}]}; null freezes",
        before=(write("mine.yaml", "phases: [{epochs: 1}]"),),
    ),
    Row(
        "unknown key of a table",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': unknown key phasses. Did you mean 'phases'?",
        before=(write("mine.yaml", "phasses: [{rules: {'*': 1}}]"),),
    ),
    Row(
        "unknown key of a phase",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': unknown key phases[0].epoch. Did you mean 'epochs'?",
        before=(write("mine.yaml", "phases: [{epoch: 1, rules: {'*': 1}}]"),),
    ),
    Row(
        "phases that are no list",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': phases: input should be a valid list; got {'rules': {'*': 1}}. A "
        "table is such as {phases: [{lr: 1e-3, epochs: 5, rules: {classifier: 10, '*': null}}]}; null freezes",
        before=(write("mine.yaml", "phases: {rules: {'*': 1}}"),),
    ),
    Row(
        "multiplier that is no number",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': phases[0].rules.*: input should be a valid number, unable to parse "
        "string as a number; got 'fast'. A table is such as {phases: [{lr: 1e-3, epochs: 5, rules: "
        "{classifier: 10, '*': null}}]}; null freezes",
        before=(write("mine.yaml", "phases: [{rules: {'*': fast}}]"),),
    ),
    Row(
        "negative multiplier",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': phases[0].rules.*: input should be greater than 0; got -1. A table is "
        "such as {phases: [{lr: 1e-3, epochs: 5, rules: {classifier: 10, '*': null}}]}; null freezes",
        before=(write("mine.yaml", "phases: [{rules: {'*': -1}}]"),),
    ),
    Row(
        "parameters without a rule",
        "train fruit {tiny} --strategy mine.yaml",
        "error: phase 'phase 1' of the strategy's table covers no rate for 'conv1.0.weight' and 9 more; add "
        "a last rule '*' (null for frozen)",
        before=(write("mine.yaml", "phases: [{rules: {head: 1}}]"),),
    ),
    Row(
        "rule that fits nothing",
        "train fruit {tiny} --strategy mine.yaml",
        "error: phase 'phase 1' of the strategy's table: the pattern 'haed' matches no parameter that an "
        "earlier rule left; see the names with: headstart model NAME --parameters",
        before=(write("mine.yaml", "phases: [{rules: {haed: 1, '*': null}}]"),),
    ),
    Row(
        "everything frozen",
        "train fruit {tiny} --strategy mine.yaml",
        "error: phase 'phase 1' of the strategy's table freezes every parameter; give at least one pattern a "
        "multiplier such as 1",
        before=(write("mine.yaml", "phases: [{rules: {'*': null}}]"),),
    ),
    Row(
        "solved phase with a penalty",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': phases[0] is solved, which takes no penalty; leave it out, or use solver: loop",
        before=(write("mine.yaml", "phases: [{solver: lbfgs, rules: {head: 1, '*': null}, penalty: {alpha: 1}}]"),),
    ),
    Row(
        "unknown parts",
        "train fruit {tiny} --strategy mine.yaml",
        "error: strategy table 'mine': parts: input should be 'lora' or 'adapter'; got 'lora2'. A table is "
        "such as {phases: [{lr: 1e-3, epochs: 5, rules: {classifier: 10, '*': null}}]}; null freezes",
        before=(write("mine.yaml", "parts: lora2\nphases: [{rules: {'*': 1}}]"),),
    ),
    Row(
        "more stages than there are",
        "train fruit {tiny} --strategy partial --stages 99",
        "error: stages=99: the backbone has 4 stages below its head",
    ),
    Row(
        "more phases than there are stages",
        "plan fruit {tiny} --strategy gradual --phases 99",
        "error: gradual has one phase per stage at most: 5 here; got 99",
    ),
    Row(
        "lengths of another number of phases",
        "train fruit {tiny} --phase-epochs 1,2",
        "error: phase_epochs names 2 phases; scratch has 1",
    ),
    Row(
        "rates of another number of phases",
        "train fruit {tiny} --strategy lp-ft --phase-lrs 1e-3",
        "error: phase_lrs names 1 phases; lp-ft has 2",
    ),
    Row(
        "unknown backbone",
        "train fruit --backbone resnet81",
        "error: unknown backbone 'resnet81'. Did you mean 'resnet18'{any}? It takes lite0, lite1, lite2, "
        "lite3, lite4, simple-cnn, resnet18_v2, resnet34_v2, a torchvision classifier such as resnet18, or "
        "timm/NAME",
    ),
    Row(
        "unknown backbone of timm",
        "train fruit --backbone timm/resnet18x",
        "error: unknown backbone 'timm/resnet18x'. Did you mean 'timm/resnet18'{any}? It takes lite0, lite1, "
        "lite2, lite3, lite4, simple-cnn, resnet18_v2, resnet34_v2, a torchvision classifier such as "
        "resnet18, or timm/NAME",
    ),
    Row(
        "network that classifies no images",
        "train fruit --backbone fcn_resnet50",
        "error: backbone 'fcn_resnet50' is in torchvision but is no image classifier; choose one, such as resnet18",
    ),
    Row(
        "another input size than a network has",
        "train fruit --backbone vit_b_16 --image-size 64",
        "error: torchvision's vit_b_16 has position embeddings for 224 px; got image size 64: leave it at "
        "224, or use timm/vit_base_patch16_224, which adapts",
    ),
]


# Data: none, broken, ambiguous.
DATA = [
    Row(
        "no data",
        "train",
        "error: no data given; name a folder of class folders, a manifest or a catalogue name such as snacks",
    ),
    Row(
        "no data for plan",
        "plan",
        "error: no data given; name a folder of class folders, a manifest or a catalogue name such as snacks",
    ),
    Row(
        "folder that is not there",
        "train friut",
        "error: there is no folder, manifest or catalogue data set 'friut'. Did you mean 'fruit'? Give a "
        "folder of class folders, a CSV or parquet manifest, or a name from: headstart data list",
    ),
    Row(
        "a picture",
        "train fruit/train/apple/000.jpg",
        "error: {here}/fruit/train/apple/000.jpg is no folder and no .csv or .parquet manifest; give one of these",
    ),
    Row(
        "an empty folder",
        "train empty",
        "error: no image in {here}/empty; expected FOLDER/<class>/picture.jpg or FOLDER/train/<class>/picture.jpg",
        before=(folder("empty"),),
    ),
    Row(
        "files of other kinds",
        "train empty",
        "error: none of the 2 images can be read: a HEIC photograph, which needs a package more: pip install "
        "'headstart[heic]', or convert it to JPEG; the first is {here}/empty/apple/a.heic",
        before=(
            write("empty/apple/a.heic", b"\0\0\0\x18ftypheic"),
            write("empty/sky/b.heic", b"\0\0\0\x18ftypheic"),
        ),
    ),
    Row(
        "one class",
        "train single",
        "error: single has only one class, 'apple'; expected two or more class folders (FOLDER/<class>/ or "
        "FOLDER/train/<class>/)",
        before=(copy("fruit/train/apple", "single/apple"),),
    ),
    Row(
        "one class after a map",
        "train fruit --map leaf=apple,sky=apple",
        "error: fruit has only one class, 'apple'; expected two or more class folders (FOLDER/<class>/ or "
        "FOLDER/train/<class>/)",
    ),
    Row(
        "map of an unknown class",
        "train fruit --map pear=fruit",
        "error: the label map names the class 'pear', which is not in the data. Classes: apple, leaf, sky",
    ),
    Row(
        "an empty class",
        "train fruit",
        "error: class 'pear' in fruit has no image; add images, or remove the class",
        before=(
            folder("fruit/train/pear"),
            folder("fruit/val/pear"),
        ),
    ),
    Row(
        "a class that a split lacks",
        "train fruit",
        "error: class 'sky' in fruit has no image in validation. Every split needs every class: add images, "
        "or remove or --map the class",
        before=(remove("fruit/val/sky"),),
    ),
    Row(
        "a class with another name in a split",
        "train fruit",
        "error: class 'Sky_' in fruit has no image in train. Did you mean 'sky'? Every split needs every "
        "class: add images, or remove or --map the class",
        before=(
            copy("fruit/val/sky", "fruit/val/Sky_"),
            remove("fruit/val/sky"),
        ),
    ),
    Row(
        "no image",
        "train fruit",
        "error: cannot read image {here}/fruit/train/apple/000.jpg: not an image in a format that Pillow "
        "reads; repair or remove it, or leave such images out with --skip-bad",
        before=(write("fruit/train/apple/000.jpg", "no picture"),),
    ),
    Row(
        "a truncated image",
        "train fruit",
        "error: cannot read image {here}/fruit/train/apple/000.jpg: {any}; repair or remove it, or leave "
        "such images out with --skip-bad",
        before=(cut("fruit/train/apple/000.jpg", 200),),
    ),
    Row(
        "bad images left out leave a class empty",
        "train fruit --skip-bad",
        "error: class 'sky' in fruit has no image in validation (2 unreadable images left out). Every split "
        "needs every class: add images, or remove or --map the class",
        before=(
            write("fruit/val/sky/001.png"),
            write("fruit/val/sky/000.jpg"),
        ),
    ),
    Row(
        "images without class folders",
        "train fruit/train/apple",
        "error: {here}/fruit/train/apple holds 4 images and no class folder; expected "
        "FOLDER/<class>/picture.jpg or FOLDER/train/<class>/picture.jpg",
    ),
    Row(
        "a split without class folders",
        "train fruit",
        "error: {here}/fruit/test holds 1 image and no class folder, so the class of each is not known. Choose: "
        "--layout split/class leaves them out, and headstart predict classifies them once a model is trained; or "
        "move them into class folders",
        before=(copy("fruit/val/sky/000.jpg", "fruit/test/000.jpg"),),
    ),
    Row(
        "split beside class",
        "train mixed",
        "error: the layout of {here}/mixed is not clear: 'train' may be a split or a class beside 'sky'. Choose: "
        "--layout split/class if 'train' is a split (what lies beside it is left out); --layout class if 'train', "
        "'sky' are the classes",
        before=(
            copy("fruit/train", "mixed/train"),
            copy("fruit/train/sky", "mixed/sky"),
        ),
    ),
    Row(
        "parts with the same classes",
        "train mixed",
        "error: the layout of {here}/mixed is not clear: 'north', 'south' hold folders of the same names. Choose: "
        "--layout part/class if 'apple', 'leaf', 'sky' are the classes; --layout class if 'north', 'south' are the "
        "classes; otherwise move what is no class out of the folder",
        before=(
            copy("fruit/train", "mixed/north"),
            copy("fruit/val", "mixed/south"),
        ),
    ),
    Row(
        "test beside classes",
        "train fruit/train",
        "error: the layout of {here}/fruit/train is not clear: 'test' beside 'apple', 'leaf', 'sky' may be a class, "
        "or a split whose images have no class. Choose: --layout class if 'test' is a class; otherwise move it out of "
        "the folder, and give it to headstart predict once a model is trained",
        before=(copy("fruit/val/sky", "fruit/train/test"),),
    ),
    Row(
        "layout that is none",
        "train fruit --layout classes",
        "error: layout='classes' is not one of auto, class, split/class, class/split, part/class. Did you mean 'class' "
        "or 'class/split'?",
    ),
    Row(
        "layout that does not fit",
        "train fruit/train --layout split/class",
        "error: layout split/class: no folder in {here}/fruit/train is named for a split and holds class folders. "
        "Expected train, validation or test in its name; there are 'apple', 'leaf', 'sky'",
    ),
    Row(
        "one split under two names",
        "train fruit",
        "error: in {here}/fruit, 2 folders are named for validation: 'val', 'valid'; merge them, or keep one",
        before=(copy("fruit/val", "fruit/valid"),),
    ),
    Row(
        "no train split",
        "train fruit",
        "error: fruit has validation but no train split; add train/<class>/ folders",
        before=(remove("fruit/train"),),
    ),
    Row(
        "an empty split",
        "train fruit",
        "error: no image in {here}/fruit/test; add some, or remove the folder",
        before=(folder("fruit/test/apple"),),
    ),
    Row(
        "copies in two splits",
        "train fruit --leaks error",
        "error: {here}/fruit/train/sky/copy.jpg (train) is an exact copy of {here}/fruit/val/sky/000.jpg "
        "(validation); remove them, or use --leaks drop",
        before=(copy("fruit/val/sky/000.jpg", "fruit/train/sky/copy.jpg"),),
    ),
    Row(
        "subset of an unknown split",
        "train fruit --max-per-class tset=5",
        "error: max_per_class names the split 'tset'; the data has train, validation.",
    ),
    Row(
        "too few images to split",
        "train few",
        "error: too few images to have each class in both a train and a test split: 'apple' has 1 image. Add images, "
        "leave out such classes with --exclude apple, or make the splits yourself (folders train and test, or a table "
        "with a column split)",
        before=(
            copy("fruit/train/apple/000.jpg", "few/apple/000.jpg"),
            copy("fruit/train/sky", "few/sky"),
        ),
    ),
    Row(
        "too few images to select on",
        "train few {tiny} --best-epoch",
        "error: too few images to have each class in both a part that trains and one that selects: 'sky' has 1 "
        "training image. Add images, leave out such classes with --exclude sky, or make the splits yourself (folders "
        "train and test, or a table with a column split)",
        before=(
            copy("fruit", "few"),
            remove("few/train/sky"),
            copy("fruit/train/sky/000.jpg", "few/train/sky/000.jpg"),
        ),
    ),
    Row(
        "a run in place of data",
        "train run",
        "error: run is the folder of a run, not of images. Its model is used by headstart predict and evaluate; "
        "--weights run starts a training from it, and --resume goes on with it",
    ),
    Row(
        "unknown name of the catalogue",
        "data get hotdgo",
        "error: catalogue data set 'hotdgo' is not known. Did you mean 'hotdog'? There are: hotdog, "
        "hymenoptera, cifar10-animals-vehicles, snacks",
    ),
    Row(
        "class to leave out that is not there",
        "train fruit --exclude sky,lea",
        "error: exclude names the class 'lea', which is not in the data. Did you mean 'leaf'? Classes: apple, leaf, "
        "sky",
    ),
    Row(
        "table with two columns of labels",
        "train list.csv",
        "error: {here}/list.csv has 2 columns 'label'; keep one of them",
        before=(write("list.csv", "path,label,label\nfruit/train/sky/000.jpg,sky,leaf\n"),),
    ),
    Row(
        "table without the column",
        "train list.csv",
        "error: {here}/list.csv has no column 'label'. Its columns are: path, class. Rename the one with the files to "
        "path, and the one with the classes to label; split and group are optional",
        before=(write("list.csv", "path,class\nfruit/train/sky/000.jpg,sky\n"),),
    ),
    Row(
        "empty table",
        "train list.csv",
        "error: {here}/list.csv is empty; expected a header line with the columns path,label",
        before=(write("list.csv"),),
    ),
    Row(
        "table without rows",
        "train list.csv",
        "error: {here}/list.csv lists no image; expected one row per image with path and label",
        before=(write("list.csv", "path,label\n"),),
    ),
    Row(
        "table of missing files",
        "train list.csv",
        "error: none of the 2 images can be read: no such file or directory; the first is {here}/gone/1.jpg. Paths in "
        "a table are relative to the folder of the table",
        before=(write("list.csv", "path,label\ngone/1.jpg,sky\ngone/2.jpg,leaf\n"),),
    ),
    Row(
        "row with a field too many",
        "train list.csv",
        "error: {here}/list.csv line 2: number of fields 3, expected 2; quote values that contain ','",
        before=(write("list.csv", "path,label\na,b.jpg,sky\n"),),
    ),
    Row(
        "row without a label",
        "train list.csv",
        "error: {here}/list.csv line 2: label is empty; every image needs a path and a label",
        before=(write("list.csv", "path,label\na.jpg,\n"),),
    ),
    Row(
        "unknown split in a table",
        "train list.csv",
        "error: {here}/list.csv line 2: unknown split 'trian'. Did you mean 'train' or 'training'? Expected "
        "train, validation or test",
        before=(write("list.csv", "path,label,split\na.jpg,sky,trian\n"),),
    ),
    Row(
        "rows without a split",
        "train list.csv",
        "error: {here}/list.csv: 1 of 2 rows have no split; fill in all of them or none",
        before=(write("list.csv", "path,label,split\na.jpg,sky,train\nb.jpg,sky,\n"),),
    ),
    Row(
        "table in another encoding",
        "train list.csv",
        "error: {here}/list.csv is not a CSV file in UTF-8: {any}; save it as 'CSV UTF-8'",
        before=(write("list.csv", b"path,label\n\xe9.jpg,sky\n"),),
    ),
    Row(
        "table that is no parquet",
        "train list.parquet",
        "error: {here}/list.parquet is not a parquet file: {any}",
        before=(write("list.parquet", "path,label"),),
    ),
]


# Places to write to.
OUTPUTS = [
    Row(
        "predictions over a file that is there",
        "predict run fruit/val/sky/000.jpg --out run/config.yaml --format csv",
        "error: run/config.yaml is there already; --overwrite replaces it, or name another file with --out",
    ),
    Row(
        "rows over a file that is there",
        "evaluate run fruit --predictions notes.txt",
        "error: notes.txt is there already; --overwrite replaces it, or name another file with --predictions",
        before=(write("notes.txt", "mine"),),
    ),
    Row(
        "a page over a file that is there",
        "report run --out notes.html",
        "error: notes.html is there already; --overwrite replaces it, or name another file with --out",
        before=(write("notes.html", "mine"),),
    ),
    Row(
        "a sheet over a file that is there",
        "data show fruit --sheet sheet.png",
        "error: sheet.png is there already; --overwrite replaces it, or name another file with --sheet",
        before=(write("sheet.png", "mine"),),
    ),
    Row(
        "a delta over a file that is there",
        "delta run --out mine.safetensors",
        "error: mine.safetensors is there already; --overwrite replaces it, or name another file with --out",
        before=(write("mine.safetensors", "mine"),),
    ),
    Row(
        "a plot over a file that is there",
        "lr-find fruit --plot plot.png",
        "error: plot.png is there already; --overwrite replaces it, or name another file with --plot",
        before=(write("plot.png", "mine"),),
    ),
    Row(
        "a format that the name contradicts",
        "predict run fruit/val/sky/000.jpg --out rows.parquet --format csv",
        "error: --format csv and rows.parquet, a parquet file by its name, contradict each other; change one",
    ),
    Row(
        "a name that says no format",
        "predict run fruit/val/sky/000.jpg --out rows.xlsx",
        "error: the format of rows.xlsx is not clear; name a file that ends in .txt, .json, .csv or .parquet, or give "
        "--format",
    ),
    Row(
        "a folder with other things",
        "train fruit {tiny} --out mine",
        "error: {here}/mine is not empty and is no run folder (no config.yaml and environment.json); choose "
        "another --out",
        before=(write("mine/thesis.txt"),),
    ),
    Row(
        "a folder with other things, to be replaced",
        "train fruit {tiny} --out mine --overwrite",
        "error: {here}/mine is not empty and is no run folder (no config.yaml and environment.json); choose "
        "another --out",
        before=(write("mine/thesis.txt"),),
    ),
    Row(
        "a folder with a run",
        "train fruit {tiny} --out run",
        "error: {here}/run already holds a run; replace it with --overwrite, go on with it by headstart "
        "train --resume {here}/run, or choose another --out",
    ),
    Row(
        "a run folder that is a file",
        "train fruit {tiny} --out notes.txt",
        "error: cannot create run folder {here}/notes.txt: a file has that name; choose another --out",
        before=(write("notes.txt"),),
    ),
    Row(
        "a run folder in a file",
        "train fruit {tiny} --out notes.txt/run",
        "error: cannot create {here}/notes.txt/run: {here}/notes.txt is a file, not a folder; choose another --out",
        before=(write("notes.txt"),),
    ),
    Row(
        "a run folder among the images",
        "train fruit {tiny} --out fruit/run",
        "error: fruit/run lies among the images of fruit, where nothing is written; name another --out",
    ),
    Row(
        "a sheet among the images",
        "data show fruit --sheet fruit/sheet.png",
        "error: fruit/sheet.png lies among the images of fruit, where nothing is written; name another --sheet",
    ),
    Row(
        "a sheet of an unknown kind",
        "data show fruit --sheet sheet.foo",
        "error: cannot write sheet.foo: expected a name that ends in .png, .jpg, .jpeg or .webp; change --sheet",
    ),
    Row(
        "a sheet of an unknown split",
        "data show fruit --split test",
        "error: there is no split 'test'; there are train, validation",
    ),
    Row(
        "a plot of an unknown kind",
        "lr-find fruit --plot plot.foo",
        "error: cannot write plot.foo: expected a name that ends in .png, .jpg, .jpeg, .webp, .pdf or .svg; "
        "change --plot",
    ),
    Row(
        "a plot in a file",
        "lr-find fruit --plot notes.txt/plot.png",
        "error: cannot create notes.txt/plot.png: {here}/notes.txt is a file, not a folder; choose another --plot",
        before=(write("notes.txt"),),
    ),
    Row(
        "rates in the wrong order",
        "lr-find fruit --low 1 --high 0.1",
        "error: --low 1.0 must be above 0 and below --high 0.1",
    ),
    Row(
        "predictions over the picture",
        "predict run fruit/val/sky/000.jpg --out fruit/val/sky/000.jpg",
        "error: fruit/val/sky/000.jpg lies among the images of fruit/val/sky/000.jpg, where nothing is "
        "written; name another --out",
    ),
    Row(
        "predictions among the pictures",
        "predict run 'fruit/val/sky/*' --out fruit/val/sky/found.csv",
        "error: fruit/val/sky/found.csv lies among the images of fruit/val/sky/*, where nothing is written; "
        "name another --out",
    ),
    Row(
        "predictions into a folder",
        "predict run fruit --out study",
        "error: --out study is a folder; name a file in it",
    ),
    Row(
        "predictions as parquet without a file",
        "predict run fruit --format parquet",
        "error: parquet is no text and needs a file; give one with --out predictions.parquet",
    ),
    Row(
        "predictions in an unknown format",
        "predict run fruit --format jsn",
        "error: --format 'jsn' is not known. Did you mean 'json'? There are: table, json, csv, parquet",
    ),
    Row(
        "evaluation in an unknown format",
        "evaluate run fruit --format csv",
        "error: --format 'csv' is not known. There are: table, json",
    ),
    Row(
        "rows of an evaluation among the images",
        "evaluate run fruit --predictions fruit/rows.parquet",
        "error: fruit/rows.parquet lies among the images of fruit, where nothing is written; name another "
        "--predictions",
    ),
    Row(
        "page among the images",
        "report run --no-explain --out fruit/report.html",
        "error: fruit/report.html lies among the images of {here}/fruit, where nothing is written; name another --out",
    ),
    Row(
        "rows of an evaluation into a folder",
        "evaluate run fruit --predictions study",
        "error: --predictions study is a folder; name a file in it",
    ),
    Row(
        "a delta into a folder",
        "delta tuned --out study",
        "error: --out study is a folder; name a file in it",
    ),
    Row(
        "a model folder that is not empty",
        "rebuild tuned.safetensors --out study",
        "error: study is not empty; choose another --out",
    ),
    Row(
        "a page into a folder",
        "report run --no-explain --out study",
        "error: --out study is a folder; name a file in it",
    ),
    Row(
        "a page in a file",
        "report run --no-explain --out notes.txt/page.html",
        "error: cannot create notes.txt/page.html: {here}/notes.txt is a file, not a folder; choose another --out",
        before=(write("notes.txt"),),
    ),
]


# Weights, and heads that start from them.
WEIGHTS = [
    Row(
        "weights that are not there",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights best.pth",
        "error: no weight file at best.pth; give a .safetensors or .pth file, a run folder, or 'none'",
    ),
    Row(
        "weights in a folder without any",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights fruit",
        "error: fruit is no run or model folder: it holds no model.safetensors; give a finished run, or a file",
    ),
    Row(
        "weights of an unfinished run",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights unfinished",
        "error: unfinished is no run or model folder: it holds no model.safetensors; give a finished run, or a file",
    ),
    Row(
        "weights of an unknown kind",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights w.h5",
        "error: w.h5 is no known weight file: got '.h5'; expected .safetensors, .pth or .params",
        before=(write("w.h5"),),
    ),
    Row(
        "damaged safetensors",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights w.safetensors",
        "error: w.safetensors cannot be read as safetensors ({any}): it is damaged; copy it again",
        before=(write("w.safetensors", "no tensors"),),
    ),
    Row(
        "cut safetensors",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights w.safetensors",
        "error: w.safetensors cannot be read as safetensors ({any}): it is damaged; copy it again",
        before=(
            copy("run/model/model.safetensors", "w.safetensors"),
            cut("w.safetensors", 99),
        ),
    ),
    Row(
        "damaged PyTorch file",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights w.pth",
        "error: w.pth is refused: it is damaged, or holds Python objects, and loading those could run code; "
        "save only tensors: torch.save(network.state_dict(), path)",
        before=(write("w.pth", "no tensors"),),
    ),
    Row(
        "PyTorch file with objects",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights w.pth",
        "error: w.pth is refused: it is damaged, or holds Python objects, and loading those could run code; "
        "save only tensors: torch.save(network.state_dict(), path)",
        before=(save_weights("w.pth", Path("a")),),
    ),
    Row(
        "PyTorch file without tensors",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights w.pth",
        "error: w.pth holds no state dict: got list; expected tensors by name, at the top or under one of "
        "state_dict, model_state_dict, model, net",
        before=(save_weights("w.pth", [1, 2]),),
    ),
    Row(
        "damaged file of Gluon",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights w.params",
        "error: w.params is no .params file of Gluon: it begins with 6e6f2074656e736f; expected "
        "1201000000000000: write one with net.save_parameters",
        before=(write("w.params", "no tensors"),),
    ),
    Row(
        "weights of another network, as a file",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights w.pth",
        "error: w.pth does not fit the network: 10 of 10 tensors are missing (first: conv1.0.weight, "
        "conv1.0.bias, conv2.0.weight); 1 tensors are not known to it (first: fc.weight; did you mean "
        "'conv3.0.weight'?); give weights saved from the same architecture",
        before=(save_weights("w.pth", {"fc.weight": torch.zeros(2, 2)}),),
    ),
    Row(
        "weights of a run of another network",
        "train fruit --weights run --strategy full",
        "error: run/model holds a simple-cnn of headstart; the backbone is tf_efficientnet_lite0 of timm: "
        "give --backbone simple-cnn, or other weights",
    ),
    Row(
        "weights of a run of another image size",
        "train fruit --backbone simple-cnn --image-size 32 --strategy full --weights run",
        "error: run does not fit the network: 1 tensors have another shape (first: hidden.1.weight is (256, "
        "512), expected (256, 2048)); give weights saved from the same architecture",
    ),
    Row(
        "weights of a damaged run",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights run",
        "error: run/model/config.json cannot be read as JSON ({any}); copy the model folder again",
        before=(write("run/model/config.json", "{"),),
    ),
    Row(
        "weights of another library's folder",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights run",
        "error: run/model was not written by Headstart; give its weight file: --weights run/model/model.safetensors",
        before=(without("run/model/config.json", "headstart"),),
    ),
    Row(
        "source head without a known class",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights run --head-init source "
        "--map apple=a,leaf=b,sky=c",
        "error: none of a, b, c is a class of the source. Say which is which with --match CLASS=NUMBER, or "
        "leave out --head-init source",
    ),
    Row(
        "match of an unknown class of the data",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights run --match pear=apple",
        "error: match names 'pear', which is no class of the data. It takes apple, leaf, sky",
    ),
    Row(
        "match with an unknown class of the source",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights run --match apple=aple",
        "error: match apple=aple: the source has no class of that name. Did you mean 'apple'? Give the "
        "number of an output, a name, none or rest",
    ),
    Row(
        "match with a number that the source lacks",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights run --match apple=3",
        "error: match apple=3: the source's outputs are numbered from 0 to 2",
    ),
    Row(
        "two classes of one row",
        "train fruit --backbone simple-cnn --image-size 16 --strategy full --weights run --match apple=0,leaf=0",
        "error: 'apple' and 'leaf' both mean 0 (apple) of the source. Give one of them another class with "
        "--match leaf=NUMBER, or none in the number's place for a new row",
    ),
]


# Runs and model folders that are none, unfinished or damaged.
RUNS = [
    Row(
        "a run that is not there",
        "predict runn fruit",
        "error: there is no run folder runn. Did you mean 'run'? Give the folder that headstart train "
        "printed, such as runs/NAME",
    ),
    Row(
        "a folder that is no run",
        "evaluate fruit fruit",
        "error: fruit holds no trained model (config.json is missing); give a finished run or model folder",
    ),
    Row(
        "a study",
        "predict study fruit",
        "error: study holds no trained model (config.json is missing); give a finished run or model folder",
    ),
    Row(
        "an unfinished run",
        "predict unfinished fruit",
        "error: run unfinished has no model/config.json: the run is not finished; go on: headstart train "
        "--resume unfinished",
    ),
    Row(
        "an unfinished run to report",
        "report unfinished",
        "error: run unfinished has no metrics.json: the run is not finished; go on: headstart train --resume "
        "unfinished",
    ),
    Row(
        "an unfinished run for a delta",
        "delta unfinished",
        "error: run unfinished has no metrics.json: the run is not finished; go on: headstart train --resume "
        "unfinished",
    ),
    Row(
        "a model folder to report",
        "report run/model",
        "error: run/model is a model folder, not a run folder (it has no config.yaml); give the run it belongs to",
    ),
    Row(
        "a file to report",
        "report notes.txt",
        "error: notes.txt is a file; give the folder that headstart train printed, such as runs/NAME",
        before=(write("notes.txt"),),
    ),
    Row(
        "a run of random weights for a delta",
        "delta run",
        "error: run started from random weights, so all of it is new; copy run/model instead",
    ),
    Row(
        "a delta without its weights",
        "delta tuned",
        "error: no weight file at run; give a .safetensors or .pth file, a run folder, or 'none'",
        before=(remove("run"),),
    ),
    Row(
        "no delta",
        "rebuild run/model/model.safetensors --out model",
        "error: run/model/model.safetensors is no delta; give a file written by: headstart delta RUN",
    ),
    Row(
        "no delta at all",
        "rebuild notes.txt --out model",
        "error: notes.txt cannot be read ({any}); give a file written by: headstart delta RUN",
        before=(write("notes.txt", "no delta"),),
    ),
    Row(
        "a delta that is not there",
        "rebuild gone.safetensors --out model",
        "error: gone.safetensors cannot be read ({any}); give a file written by: headstart delta RUN",
    ),
    Row(
        "a delta on other weights",
        "rebuild tuned.safetensors --out model --weights w.safetensors",
        "error: w.safetensors does not fit the network: 1 tensors have another shape (first: hidden.1.weight "
        "is (256, 512), expected (256, 100352)); give weights saved from the same architecture",
        before=(shift_weights("run/model/model.safetensors", "w.safetensors"),),
    ),
    Row(
        "a delta without weights",
        "rebuild tuned.safetensors --out model",
        "error: tuned.safetensors belongs on simple-cnn with weights {any}... (it was trained from: file "
        "run). Got simple-cnn with weights {any}... (none). Give the weights that it was trained from",
    ),
    Row(
        "settings damaged",
        "report run",
        "error: run/config.yaml is not valid YAML in line {any}, column {any}: {any}; correct it there",
        before=(write("run/config.yaml", "epochs: ["),),
    ),
    Row(
        "figures damaged",
        "report run",
        "error: run/metrics.json is damaged: {any}; train again with --overwrite",
        before=(write("run/metrics.json", "{"),),
    ),
    Row(
        "figures incomplete",
        "report run --no-explain",
        "error: run/metrics.json holds no accuracy, confusion and per_class; train again with --overwrite",
        before=(without("run/metrics.json", "accuracy"),),
    ),
    Row(
        "model without its config",
        "predict run fruit",
        "error: run run has no model/config.json: it was removed, or written by another version; train again "
        "with --overwrite",
        before=(remove("run/model/config.json"),),
    ),
    Row(
        "model's config damaged",
        "predict run fruit",
        "error: run/model/config.json is damaged: {any}; train again with --overwrite",
        before=(write("run/model/config.json", "{"),),
    ),
    Row(
        "model's config without labels",
        "predict run fruit",
        "error: run/model names no label; train again with --overwrite",
        before=(without("run/model/config.json", "label_names"),),
    ),
    Row(
        "model's config of another program",
        "predict run fruit",
        "error: run/model/config.json was not written by Headstart (no 'headstart' section); give a run or "
        "model folder that it wrote",
        before=(without("run/model/config.json", "headstart"),),
    ),
    Row(
        "model of a newer version",
        "predict run fruit",
        "error: run/model/config.json has format 99; this version reads up to 1: update Headstart",
        before=(replace("run/model/config.json", '"format": 1', '"format": 99'),),
    ),
    Row(
        "model without its weights",
        "predict run fruit",
        "error: run/model/model.safetensors cannot be read (No such file or directory); copy the model folder again",
        before=(remove("run/model/model.safetensors"),),
    ),
    Row(
        "model's weights damaged",
        "predict run fruit",
        "error: run/model/model.safetensors is not the file that was saved: its SHA-256 is {any}..., "
        "config.json says {any}...; it is damaged or was changed: copy the model folder again",
        before=(cut("run/model/model.safetensors", 99),),
    ),
    Row(
        "model without its preprocessing",
        "predict run fruit",
        "error: run/model/preprocessor_config.json is missing: the model folder is not complete; copy it again",
        before=(remove("run/model/preprocessor_config.json"),),
    ),
    Row(
        "model's preprocessing damaged",
        "predict run fruit",
        "error: run/model/preprocessor_config.json is damaged: no usable 'input_spec'; copy the model folder again",
        before=(write("run/model/preprocessor_config.json", "{}"),),
    ),
    Row(
        "model's labels changed",
        "predict run fruit",
        "error: run/model/graph.xml is no graph of this model: it maps (1, 16, 16, 3) to (1, 3), expected "
        "(1, 16, 16, 3) to (1, 4); copy the model folder again",
        before=(replace("run/model/config.json", '"sky"', '"sea", "sky"'),),
    ),
    Row(
        "model's labels changed, with PyTorch",
        "predict run fruit --engine torch",
        "error: run/model/model.safetensors does not fit the network: 2 tensors have another shape (first: "
        "head.weight is (3, 64), expected (4, 64)); give weights saved from the same architecture",
        before=(replace("run/model/config.json", '"sky"', '"sea", "sky"'),),
    ),
    Row(
        "no picture of that name",
        "predict run fruit/gone.jpg",
        "error: there is no file or folder fruit/gone.jpg; check the path",
    ),
    Row(
        "no picture in the folder",
        "predict run empty",
        "error: folder empty holds no image file; give a folder of pictures, or name the files",
        before=(folder("empty"),),
    ),
    Row(
        "no picture matches",
        "predict run 'fruit/*.gif'",
        "error: no image matches fruit/*.gif; check the pattern",
    ),
    Row(
        "unknown engine of a model",
        "predict run fruit --engine onnx",
        "error: engine='onnx' is not one of auto, openvino, torch-compiled, torch.",
    ),
    Row(
        "unknown precision of a model",
        "predict run fruit --precision 16",
        "error: precision='16' is not one of auto, 32, bf16. Did you mean 'bf16'?",
    ),
    Row(
        "classes that the model does not know",
        "evaluate run fruit",
        "note: 2 images found under different labels, first {here}/fruit/val/pear/000.jpg (pear) and "
        "{here}/fruit/val/sky/000.jpg (sky)\n"
        "error: the data has classes that the model does not know: 'pear'; it knows apple, leaf, sky. Rename "
        "them by --map 'pear=apple', or leave them out by --exclude pear",
        before=(copy("fruit/val/sky", "fruit/val/pear"),),
    ),
    Row(
        "an unknown split to evaluate",
        "evaluate run fruit --split test",
        "error: fruit has no split 'test'; it has train, validation",
    ),
    Row(
        "unreadable picture to evaluate",
        "evaluate run fruit",
        "error: cannot read image {here}/fruit/val/sky/000.jpg: the image itself is missing, this is a pointer to it "
        "of Git LFS; fetch it with: git lfs pull; repair or remove it, or leave such images out with --skip-bad",
        before=(write("fruit/val/sky/000.jpg", "version https://git-lfs.github.com/spec/v1"),),
    ),
]


# Runs that cannot be resumed.
RESUMES = [
    Row(
        "resume and data",
        "train fruit --resume unfinished",
        "error: --resume takes its settings from the run folder; leave out DATA and other settings",
    ),
    Row(
        "resume and a setting",
        "train --resume unfinished --epochs 3",
        "error: --resume takes its settings from the run folder; leave out DATA and other settings",
    ),
    Row(
        "resume of nothing",
        "train --resume gone",
        "error: there is no run folder gone. Give the folder that headstart train printed, such as runs/NAME",
    ),
    Row(
        "resume of a folder",
        "train --resume fruit",
        "error: fruit is no run folder: it has no config.yaml; give the folder that headstart train printed, "
        "such as runs/NAME",
    ),
    Row(
        "resume of a study",
        "train --resume study",
        "error: study holds several runs and is no run itself; name its runs: study/*/seed*",
    ),
    Row(
        "resume of a model folder",
        "train --resume run/model",
        "error: run/model is a model folder, not a run folder (it has no config.yaml); give the run it belongs to",
    ),
    Row(
        "resume of damaged settings",
        "train --resume unfinished",
        "error: unfinished/config.yaml is not valid YAML in line {any}, column {any}: {any}; correct it there",
        before=(write("unfinished/config.yaml", "["),),
    ),
    Row(
        "resume of settings with a wrong value",
        "train --resume unfinished",
        "error: epochs=-1 is not valid: input should be greater than or equal to 0",
        before=(replace("unfinished/config.yaml", "epochs: 1", "epochs: -1"),),
    ),
    Row(
        "resume without a manifest",
        "train --resume unfinished",
        "error: cannot read unfinished/manifest.parquet: unfinished/manifest.parquet; give a parquet file "
        "that you may read",
        before=(remove("unfinished/manifest.parquet"),),
    ),
    Row(
        "resume of a damaged manifest",
        "train --resume unfinished",
        "error: unfinished/manifest.parquet is not a parquet file: {any}",
        before=(write("unfinished/manifest.parquet", "no table"),),
    ),
    Row(
        "resume of a changed image",
        "train --resume unfinished",
        "error: {here}/fruit/train/sky/002.jpg has changed since the run began, so it cannot be resumed; "
        "start a new run",
        before=(copy("fruit/train/sky/000.jpg", "fruit/train/sky/002.jpg"),),
    ),
    Row(
        "resume without an image",
        "train --resume unfinished",
        "error: {here}/fruit/train/sky/000.jpg is gone since the run began, so it cannot be resumed; start a new run",
        before=(remove("fruit/train/sky/000.jpg"),),
    ),
    Row(
        "resume of a damaged checkpoint",
        "train --resume unfinished",
        "resuming unfinished\n"
        "error: the checkpoint unfinished/checkpoints/final/last.safetensors is damaged ({any}); delete it "
        "and --resume starts over",
        before=(write("unfinished/checkpoints/final/last.safetensors", "no tensors"),),
    ),
    Row(
        "resume of a checkpoint without its state",
        "train --resume unfinished",
        "resuming unfinished\n"
        "error: the checkpoint unfinished/checkpoints/final/last.safetensors is damaged (it does not say where "
        "training stood); delete it "
        "and --resume starts over",
        before=(copy("run/model/model.safetensors", "unfinished/checkpoints/final/last.safetensors"),),
    ),
]


# Comparisons and rankings.
COMPARISONS = [
    Row(
        "no data to compare",
        "compare",
        "error: no data given; name a folder of class folders, a manifest, a catalogue name, or run folders",
    ),
    Row(
        "one run",
        "compare run",
        "error: run is one run, with nothing to compare it with; name two or more runs, or data",
    ),
    Row(
        "a run named twice",
        "compare run run",
        "error: run is named twice; name each run once",
    ),
    Row(
        "a run beside data",
        "compare run fruit",
        "error: fruit is no run folder (no config.yaml there); name run folders only, or one data folder, "
        "manifest or catalogue name",
    ),
    Row(
        "two folders of data",
        "compare fruit study/scratch",
        "error: study/scratch holds several runs and is no run itself; name its runs: study/scratch/seed*",
    ),
    Row(
        "runs and settings",
        "compare run tuned --epochs 3 --seeds 2",
        "error: run is a run, and runs have their settings; leave out epochs, seeds",
    ),
    Row(
        "runs, one unfinished",
        "compare run unfinished",
        "error: run unfinished has no metrics.json: the run is not finished; go on: headstart train --resume "
        "unfinished",
    ),
    Row(
        "runs, one with damaged figures",
        "compare run tuned",
        "error: tuned/metrics.json is damaged: {any}; train again with --overwrite",
        before=(write("tuned/metrics.json", "{"),),
    ),
    Row(
        "runs, one with incomplete figures",
        "compare run tuned",
        "error: tuned/metrics.json has no seed; train again with --overwrite",
        before=(without("tuned/metrics.json", "seed"),),
    ),
    Row(
        "runs, one with damaged predictions",
        "compare run tuned",
        "error: tuned/predictions.parquet is damaged: {any}; train again with --overwrite",
        before=(write("tuned/predictions.parquet", "no table"),),
    ),
    Row(
        "runs, one without predictions",
        "compare run tuned",
        "error: run tuned has no predictions.parquet: it was removed, or written by another version; train "
        "again with --overwrite",
        before=(remove("tuned/predictions.parquet"),),
    ),
    Row(
        "runs, one with a damaged manifest",
        "compare run tuned",
        "error: tuned/manifest.parquet is not a parquet file: {any}",
        before=(write("tuned/manifest.parquet", "no table"),),
    ),
    Row(
        "one cell",
        "compare fruit {tiny}",
        "error: there is only 'scratch' to run, and nothing to compare it with; name several --strategies, "
        "several --backbones, or values of a setting such as --vary lr=1e-4,1e-3",
    ),
    Row(
        "unknown strategy among several",
        "compare fruit {tiny} --strategies scratch,haed",
        "error: strategy 'haed' is not known. Did you mean 'head'? There are: scratch, head, partial, full, "
        "layerwise, gradual, lp-ft, l2-sp, lora, adapter, norm, or a YAML file with your own table",
    ),
    Row(
        "two tables of one name",
        "compare fruit {tiny} --strategies a/mine.yaml,b/mine.yaml",
        "error: two strategies are called 'mine'; give one of the files another name",
        before=(
            write("a/mine.yaml", "phases: [{rules: {'*': 1}}]"),
            write("b/mine.yaml", "phases: [{rules: {'*': 2}}]"),
        ),
    ),
    Row(
        "varied without values",
        "compare fruit {tiny} --vary lr",
        "error: --vary takes setting=value,value once for each setting; got 'lr'",
    ),
    Row(
        "varied twice",
        "compare fruit {tiny} --vary lr=1,2 --vary lr=3",
        "error: --vary takes setting=value,value once for each setting; got 'lr=3'",
    ),
    Row(
        "varied unknown setting",
        "compare fruit {tiny} --vary epohcs=1,2",
        "error: --vary epohcs: there is no such setting. Did you mean 'epochs'?",
    ),
    Row(
        "varied seed",
        "compare fruit {tiny} --vary seed=1,2",
        "error: --vary seed is not possible: use --seeds",
    ),
    Row(
        "varied data",
        "compare fruit {tiny} --vary max_per_class=1,2",
        "error: --vary max_per_class is not possible: all cells are compared on the same images",
    ),
    Row(
        "a strategy twice",
        "compare fruit {tiny} --strategies scratch,scratch",
        "error: --strategies scratch,scratch: scratch is named twice; name each once",
    ),
    Row(
        "a backbone twice",
        "compare fruit {tiny} --backbones simple-cnn,lite0,simple-cnn",
        "error: --backbones simple-cnn,lite0,simple-cnn: simple-cnn is named twice; name each once",
    ),
    Row(
        "varied values alike",
        "compare fruit {tiny} --vary lr=1,1",
        "error: --vary lr=1,1: expected one or more values, no two alike",
    ),
    Row(
        "one value in two spellings",
        "compare fruit {tiny} --vary lr=1e-3,0.001",
        "error: 'scratch, lr=1e-3' and 'scratch, lr=0.001' are one and the same; give each value of --vary once",
    ),
    Row(
        "varied wrong value",
        "compare fruit {tiny} --vary lr=1e-3,fast",
        "error: --vary lr=fast: lr='fast' is not valid: input should be a valid number, unable to parse "
        "string as a number",
    ),
    Row(
        "varied contradiction",
        "compare fruit --backbone simple-cnn --vary head_lr=1e-3,1e-2 --head-lr-mult 3 --strategy full",
        "error: --vary head_lr=1e-3: head_lr and head_lr_mult both set the head's rate; give one of them",
    ),
    Row(
        "study in a run",
        "compare fruit {tiny} --strategies scratch,full --out run",
        "error: run is a run; name another folder for the study with --out",
    ),
    Row(
        "study among the images",
        "compare fruit {tiny} --strategies scratch,full --out fruit/study",
        "error: fruit/study lies among the images of fruit, where nothing is written; name another --out",
    ),
    Row(
        "cell's folder holds other things",
        "compare fruit {tiny} --strategies scratch,full --seeds 1 --out mine",
        "error: {here}/mine/full/seed0 is not empty and is no run folder (no config.yaml and "
        "environment.json); choose another --out",
        before=(write("mine/full/seed0/thesis.txt"),),
    ),
    Row(
        "cell's folder holds a run of other settings",
        "compare fruit {tiny} --strategies scratch,full --seeds 1 --out study",
        "error: study/scratch/seed0 holds a run with other settings: epochs=1 (here 5), "
        "selection_score=False (here True); choose another --out, or remove it",
    ),
    Row(
        "cell's folder holds a run of other images",
        "compare fruit {tiny} --epochs 1 --no-selection-score --strategies scratch,full --seeds 1 --out study",
        "error: study/scratch/seed0 was made with other images, labels or splits: 1 of its 18 are not in the "
        "data now, and 0 are new; choose another --out, or remove it",
        before=(remove("fruit/train/sky/000.jpg"),),
    ),
    Row(
        "backbone unknown in a study",
        "compare fruit {tiny} --backbones simple-cnn,resnet81 --seeds 1",
        "error: resnet81: scratch: unknown backbone 'resnet81'. Did you mean 'resnet18'{any}? It takes "
        "lite0, lite1, lite2, lite3, lite4, simple-cnn, resnet18_v2, resnet34_v2, a torchvision classifier "
        "such as resnet18, or timm/NAME",
    ),
    Row(
        "every cell fails",
        "compare fruit {tiny} --strategies a.yaml,b.yaml --seeds 1 --out mine",
        "error: every cell failed: a: phase 'phase 1' of the strategy's table covers no rate for "
        "'conv1.0.weight' and 11 more; add a last rule '*' (null for frozen); b: phase 'phase 1' of the "
        "strategy's table covers no rate for 'conv1.0.weight' and 11 more; add a last rule '*' (null for "
        "frozen)",
        before=(
            write("a.yaml", "phases: [{rules: {a: 1}}]"),
            write("b.yaml", "phases: [{rules: {b: 1}}]"),
        ),
    ),
    Row(
        "comparison that is not there",
        "report run --no-explain --comparison gone.json",
        "error: cannot read gone.json: [Errno 2] No such file or directory: 'gone.json'; name the "
        "comparison.json of headstart compare",
    ),
    Row(
        "comparison that is none",
        "report run --no-explain --comparison notes.txt",
        "error: cannot read notes.txt: {any}; name the comparison.json of headstart compare",
        before=(write("notes.txt", "none"),),
    ),
    Row(
        "comparison that is a list",
        "report run --no-explain --comparison list.json",
        "error: list.json holds no comparison; name the comparison.json of headstart compare",
        before=(write("list.json", "[]"),),
    ),
    Row(
        "comparison of other runs",
        "report run --no-explain --comparison c.json",
        "error: c.json is not about run; name the comparison of these runs, or none",
        before=(write("c.json", '{"rows": [{"name": "x", "seeds": [0], "runs": ["tuned"]}]}'),),
    ),
    Row(
        "backbones alike",
        "rank fruit --backbones simple-cnn,simple-cnn",
        "error: backbones='simple-cnn,simple-cnn': expected names, no two alike, such as lite0,resnet18",
    ),
    Row(
        "no backbones",
        "rank fruit --backbones ,",
        "error: backbones='': expected names, no two alike, such as lite0,resnet18",
    ),
    Row(
        "weights in a ranking",
        "rank fruit --backbones simple-cnn --weights run",
        "error: weights='run' belong to one backbone; leave them out, and each has its own",
    ),
    Row(
        "ranking without data",
        "rank --backbones simple-cnn",
        "error: no data given; name a folder of class folders, a manifest or a catalogue name such as snacks",
    ),
]


# Recipes and networks.
OTHERS = [
    Row(
        "unknown recipe",
        "recipe show hotdogs",
        "error: recipe 'hotdogs' is not known. Did you mean 'hotdog' or 'hotdog-gluon'? There are: "
        "animals-vehicles, ants-bees, hotdog, hotdog-gluon, pretrain-transfer, or a YAML file of your own",
    ),
    Row(
        "unknown part",
        "recipe show hotdog --part fine",
        "error: recipe hotdog: part 'fine' is not known. There are: lesson, larger-rates, other-settings, "
        "head-ratio, frozen, source-row",
    ),
    Row(
        "smoke run with seeds",
        "recipe run hotdog --quick --seeds 2",
        "error: --quick is a smoke run with one seed; leave out --seeds",
    ),
    Row(
        "several networks where one is meant",
        "recipe show hotdog --backbone lite0,resnet18",
        "error: --backbone lite0,resnet18: no part of recipe hotdog to be run compares networks; name one",
    ),
    Row(
        "source without use",
        "recipe show hotdog --source snacks",
        "error: --source has no use here: with these options recipe hotdog trains no source network",
    ),
    Row(
        "weights of a recipe that are not there",
        "recipe run hotdog --weights gone.pth",
        "error: no weight file at gone.pth; give a .safetensors or .pth file, a run folder, or 'none'",
    ),
    Row(
        "data of a recipe that is not there",
        "recipe run hotdog --quick --data friut",
        "note: frozen layers keep their BatchNorm statistics; the source leaves them in training mode, where "
        "they drift although no gradient reaches them\n"
        "note: training images that copy a reported one are dropped\n"
        "error: there is no folder, manifest or catalogue data set 'friut'. Did you mean 'fruit'? Give a "
        "folder of class folders, a CSV or parquet manifest, or a name from: headstart data list",
        out="Hot dog or not: fine-tuning against training from scratch\n"
        "How much is a network that was pretrained on ImageNet worth on 2,000 photographs?\n",
    ),
    Row(
        "data of a recipe that is a file",
        "recipe run hotdog --quick --data notes.txt",
        "error: {here}/notes.txt is no folder and no .csv or .parquet manifest; give one of these",
        before=(write("notes.txt"),),
    ),
    Row(
        "unknown network to show",
        "model resnet81",
        "error: unknown backbone 'resnet81'. Did you mean 'resnet18'{any}? It takes lite0, lite1, lite2, "
        "lite3, lite4, simple-cnn, resnet18_v2, resnet34_v2, a torchvision classifier such as resnet18, or "
        "timm/NAME",
    ),
    Row(
        "weights to show that are not there",
        "model simple-cnn --weights gone.pth --parameters",
        "error: no weight file at gone.pth; give a .safetensors or .pth file, a run folder, or 'none'",
    ),
]

ROWS = [*SETTINGS, *STRATEGIES, *DATA, *OUTPUTS, *WEIGHTS, *RUNS, *RESUMES, *COMPARISONS, *OTHERS]

# What typer itself refuses: the sentence in its box.
USAGE = {
    "trian fruit": "No such command 'trian'. Did you mean 'train', 'rank'?",
    "data gte": "No such command 'gte'. Did you mean 'get'?",
    "recipe rnu hotdog": "No such command 'rnu'. Did you mean 'run'?",
    "train fruit --epoch 5": "No such option: --epoch (Possible options: --best-epoch, --epochs, --step-epochs)",
    "train fruit more": "Got unexpected extra argument(s) (more)",
    "train fruit --lr": "Option '--lr' requires an argument.",
    "train fruit --epochs many": "Invalid value for '--epochs': Input should be a valid integer, unable to parse "
    "string as an integer",
    "evaluate run": "Missing argument 'data'.",
    "predict": "Missing argument 'run'.",
    "predict run": "Missing argument 'paths'.",
    "predict run fruit --top-k 0": "Invalid value for '--top-k': Input should be greater than or equal to 1",
    "compare fruit --seeds 0": "Invalid value for '--seeds': Input should be greater than or equal to 1",
    "lr-find fruit --steps 3": "Invalid value for '--steps': Input should be greater than or equal to 10",
    "data show fruit --per-class 0": "Invalid value for '--per-class': Input should be greater than or equal to 1",
    "rebuild tuned.safetensors": "Missing option '--out'.",
    "report": "Missing argument 'RUN...'.",
    "model": "Missing argument 'name'.",
    "recipe show": "Missing argument 'name'.",
    "recipe run hotdog --seeds 0": "Invalid value for '--seeds': Input should be greater than or equal to 1",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with pictures, two runs of them, an unfinished one, a study and a delta; it is copied, never changed."""
    torch.set_num_threads(1)
    here = tmp_path_factory.mktemp("bad") / "here"
    splits = {"train": 4, "val": 2}
    write_folder(here / "fruit", {f"{split}/{label}": count for split, count in splits.items() for label in COLOURS})
    settings = {"data": "fruit", "backbone": "simple-cnn", "image_size": 16, "augment": "flip", "epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        experiment.train(make_config({**settings, "strategy": "scratch", "out": "run"}))
        experiment.train(make_config({**settings, "strategy": "head", "weights": "run", "out": "tuned"}))
        write_delta(Path("tuned"), Path("tuned.safetensors"))
        not_yet_written = shutil.ignore_patterns("model", "metrics.json", "predictions.parquet")
        shutil.copytree("run", "unfinished", ignore=not_yet_written)
        shutil.copytree("run", "study/scratch/seed0")
    template = here.with_name("template")
    here.rename(template)
    yield template
    shutil.rmtree(template.parent)


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's current folder: a copy where the runs in it believe that their pictures are."""
    folder = made.with_name("here")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return size and time of everything in a folder, by its path in it."""
    found = {}
    for path in folder.rglob("*"):
        status = path.stat()
        found[path.relative_to(folder)] = (status.st_size, status.st_mtime_ns)
    return found


def without_progress(err: str) -> str:
    """Leave out what the data was understood as, and how far a long pass is.

    The second is said when 15 seconds have gone by since a test before this one.
    """
    usual = r"[a-z ]+: [\d,]+( of [\d,]+)?|data: \d+ images of .+|splits: .+"
    lines = [line for line in err.splitlines() if not re.fullmatch(usual, line)]
    return "\n".join(lines)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input(headstart, here, monkeypatch, row):
    for name, value in row.variables:
        monkeypatch.setenv(name, value)
    for act in row.before:
        act()
    before = stamps(here)
    outcome = headstart(*shlex.split(row.words.replace("{tiny}", TINY)))
    said = without_progress(outcome.err)
    expected = re.escape(row.error).replace(r"\{any\}", ".+").replace(r"\{here\}", re.escape(str(here)))
    assert re.fullmatch(expected, said), said
    assert outcome.code == row.code
    assert outcome.out == row.out
    # Notes may come first; the error is one line, the last.
    assert [line.startswith("error: ") for line in said.splitlines()].index(True) == said.count("\n")
    changed = {path.parts[0] for path, _ in before.items() ^ stamps(here).items()}
    assert changed == set(row.leaves)


@pytest.mark.parametrize("words", USAGE)
def test_usage(headstart, here, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "160")
    before = stamps(here)
    outcome = headstart(*words.split())
    assert outcome.code == 2
    assert outcome.out == ""
    assert stamps(here) == before
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", outcome.err)
    text = " ".join(re.sub("[╭╮╰╯│─]", " ", without_colours).split())
    assert text.endswith(f" {USAGE[words]}"), text


def test_an_unreadable_picture_is_a_row_and_the_exit_code_is_1(headstart, here):
    write("fruit/val/sky/000.jpg", "no picture")()
    outcome = headstart("predict", "run", "fruit/val/sky/000.jpg", "fruit/val/sky/001.png", "--format", "csv")
    assert outcome.code == 1
    assert outcome.err == "1 file could not be read; its row says why\n"
    rows = outcome.out.splitlines()
    assert len(rows) == 3
    assert "not an image in a format that Pillow reads" in rows[1]
    assert "not an image" not in rows[2]


class Failing:
    """Standard input that fails when it is read."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __iter__(self) -> Iterator[str]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            KeyboardInterrupt(),
            130,
            "interrupted\n",
        ),
        (
            RuntimeError("it broke\nhere"),
            1,
            "unexpected error: RuntimeError: it broke here (HEADSTART_DEBUG=1 shows where; please report it)\n",
        ),
    ],
)
def test_what_nobody_expected_is_one_line_too(headstart, here, monkeypatch, error, code, line):
    monkeypatch.setattr("sys.stdin", Failing(error))
    outcome = headstart("predict", "run", "-", "--format", "csv")
    assert (outcome.code, outcome.err) == (code, line)
