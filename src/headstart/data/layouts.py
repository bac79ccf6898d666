"""Understand a tree of folders: which of them are classes and which are splits. What is not clear is refused.

There are four readings, and the setting `layout` chooses one:

    class          ROOT/<class>/...          each folder is a class, with all that is below it
    split/class    ROOT/<split>/<class>/...  the folders are named for splits
    class/split    ROOT/<class>/<split>/...  the folders in each class are named for splits
    part/class     ROOT/<part>/<class>/...   parts of one data set that have the same classes and are no splits
"""

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from headstart.data.split_names import is_filler_name, is_part_name, split_in
from headstart.data.walk import Tree
from headstart.errors import DataError, counted, listed
from headstart.types import Layout

Read = Literal["class", "split/class", "class/split", "part/class"]  # how folders were read


@dataclass(frozen=True)
class ClassFolder:
    """A folder of images of one class.

    Attributes:
        label: Name of the class.
        split: `train`, `validation`, `test`, or '' where the folders say nothing about splits.
        tree: The folder; everything below it belongs to the class.
    """

    label: str
    split: str
    tree: Tree


@dataclass
class Reading:
    """What a folder is understood as.

    Attributes:
        layout: Way in which its folders were read.
        classes: The folders of images, also those without an image.
        splits: Split -> name of the folder that holds it, where the splits lie above the classes.
        notes: A sentence about each thing with images that is passed over, or could be something else.
    """

    layout: Read
    classes: list[ClassFolder] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def class_name(text: str) -> str:
    """Return a class's name in one spelling: macOS and Linux compose the same accented letter differently."""
    return unicodedata.normalize("NFC", text)


def data_tree(tree: Tree, layout: Layout, known: Iterable[str] = ()) -> Tree:
    """Return the tree that holds the data: `tree`, or the only folder in it, as in `dataset/dataset/train`.

    Args:
        tree: The folder that was named.
        layout: Way in which it is to be read. With `class` its own folders are the classes.
        known: Classes that a model knows: a folder with such a name is a class, also where it is the only one.
    """
    names = {class_name(name) for name in known}
    while layout != "class":
        filled = tree.filled()
        if len(filled) != 1:
            return tree
        (name, only), *_ = filled.items()
        inner = only.filled()
        is_class = not inner or class_name(name) in names
        is_split = split_in(name).is_whole and len(_whole_splits(inner)) < 2
        is_too_deep = layout != "auto" and not any(each.filled() for each in inner.values())
        if is_class or is_split or is_too_deep:
            return tree
        tree = only
    return tree


def understand(tree: Tree, layout: Layout) -> Reading:
    """Say which folders of a tree are classes and which are splits.

    Args:
        tree: Folder that holds at least one image.
        layout: Way in which to read it; `auto`: as the names of the folders say, where these say so clearly.

    Raises:
        DataError: With `auto`, the folders can be read in more than one way. Otherwise, they do not fit the layout.
    """
    if not tree.filled():
        raise DataError(
            f"{tree.folder.path} holds {counted(tree.folder.images)} and no class folder; expected "
            "FOLDER/<class>/picture.jpg or FOLDER/train/<class>/picture.jpg"
        )
    if layout == "auto":
        reading = _recognise(tree)
    elif layout == "class":
        reading = _by_class(tree)
    elif layout == "split/class":
        reading = _by_named_split(tree)
    elif layout == "class/split":
        reading = _by_class_and_split(tree)
    else:
        reading = _by_part(tree)
    _note_strays(reading, tree, tree.folder.path)
    return reading


# The four readings.


def _by_class(tree: Tree) -> Reading:
    """Read each folder as a class."""
    reading = Reading("class")
    for name, folder in tree.below.items():
        reading.classes.append(ClassFolder(class_name(name), "", folder))
        inner = list(_named_splits(folder.filled()))
        if inner:
            reading.notes.append(
                f"{_quoted(inner)} inside class {name!r} is read as a part of the class; --layout class/split reads it "
                "as a split"
            )
    return reading


def _by_split(tree: Tree, named: Mapping[str, str], *, leaves_out: bool = False) -> Reading:
    """Read folders that are named for splits.

    Args:
        tree: The folder above them.
        named: Name of a folder -> the split that it is.
        leaves_out: Whether a split without class folders is left out; otherwise it is refused.
    """
    root = tree.folder.path
    reading = Reading("split/class")
    for name, split in named.items():
        folder = tree.below[name]
        place = folder.folder.path
        same = [other for other, its_split in named.items() if its_split == split]
        if len(same) > 1:
            raise DataError(
                f"in {root}, {len(same)} folders are named for {split}: {_quoted(same)}; merge them, or keep one"
            )
        if not any(folder.images()):
            raise DataError(f"no image in {place}; add some, or remove the folder")
        folder = _folder_of_classes(folder, name)
        if folder.filled():
            reading.splits[split] = name
            _add_classes(reading, folder, split)
            _note_strays(reading, folder, place)
        elif leaves_out:
            reading.notes.append(
                f"{place} holds {counted(folder.folder.images)} and no class folder; left out. headstart predict "
                "classifies images without labels"
            )
        else:
            _refuse_unlabelled(place, folder)
    _note_others(reading, tree, named)
    return reading


def _by_named_split(tree: Tree) -> Reading:
    """Read the folders whose names say so as splits, and refuse a tree without such folders."""
    named = _named_splits(tree.below)
    with_classes = [name for name in named if tree.below[name].filled()]
    if not with_classes:
        raise DataError(
            f"layout split/class: no folder in {tree.folder.path} is named for a split and holds class folders. "
            f"Expected train, validation or test in its name; there are {_quoted(tree.filled())}"
        )
    filled = {name: split for name, split in named.items() if any(tree.below[name].images())}
    return _by_split(tree, filled, leaves_out=True)


def _by_class_and_split(tree: Tree) -> Reading:
    """Read each folder as a class, and the folders in it as splits."""
    reading = Reading("class/split")
    for name, folder in tree.below.items():
        named = _named_splits(folder.filled())
        for inner, split in named.items():
            reading.classes.append(ClassFolder(class_name(name), split, folder.below[inner]))
        _note_others(reading, folder, named)
        _note_strays(reading, folder, folder.folder.path)
    if not reading.classes:
        raise DataError(
            f"layout class/split: no folder in {tree.folder.path} holds folders that are named for splits. "
            f"Expected FOLDER/<class>/train/picture.jpg; there are {_quoted(tree.filled())}"
        )
    return reading


def _by_part(tree: Tree) -> Reading:
    """Read each folder as a part of the data that holds class folders."""
    reading = Reading("part/class")
    parts = []
    for name, folder in tree.filled().items():
        part = _folder_of_classes(folder, name)
        if part.filled():
            parts.append(name)
            _add_classes(reading, part, "")
            _note_strays(reading, part, folder.folder.path)
    if not parts:
        raise DataError(
            f"layout part/class: no folder in {tree.folder.path} holds class folders. "
            f"Expected FOLDER/<part>/<class>/picture.jpg; there are {_quoted(tree.filled())}"
        )
    _note_others(reading, tree, parts)
    return reading


def _add_classes(reading: Reading, folder: Tree, split: str) -> None:
    """Add the class folders of a split, or of a part of the data ('')."""
    for name, inner in folder.below.items():
        reading.classes.append(ClassFolder(class_name(name), split, inner))


def _folder_of_classes(folder: Tree, name: str) -> Tree:
    """Return the folder of the classes: of `seg_train/seg_train/<class>` and `train/images/<class>` the lower one."""
    filled = folder.filled()
    if len(filled) == 1:
        (inner_name, inner), *_ = filled.items()
        if inner.filled() and (inner_name.lower() == name.lower() or is_filler_name(inner_name)):
            return _folder_of_classes(inner, inner_name)
    return folder


# What the names say.


def _recognise(tree: Tree) -> Reading:
    """Choose the reading that the names say; refuse where they could mean two things."""
    filled = tree.filled()
    nested = [name for name, folder in filled.items() if folder.filled()]
    whole = _whole_splits(tree.below)
    others = [name for name in filled if name not in whole]
    with_classes = [name for name in whole if name in nested]

    # Folders that are named for nothing but a split.
    if whole and not others:
        if not with_classes and any(tree.below[name].folder.images for name in whole):
            _refuse_unlabelled_splits(tree, whole)
        return _by_split(tree, whole)
    if len(with_classes) > 1:
        return _by_split(tree, whole)
    if with_classes:
        _refuse_split_beside_others(tree, with_classes[0], others)
    judging = [name for name, split in whole.items() if name in filled and split != "train"]
    if judging:
        _refuse_judging_beside_classes(tree, judging, others)

    # Names in which the word for a split is one of several.
    named = _named_splits(filled)
    if len(set(named.values())) > 1:
        if _differ_in_split_only(filled, named):
            return _by_split(tree, named)
        _refuse_splits_or_classes(tree, named)

    # Splits inside the classes.
    inner = {name: _whole_splits(filled[name].filled()) for name in filled}
    if any(len(set(splits.values())) > 1 for splits in inner.values()):
        if all(_holds_splits_only(filled[name], splits) for name, splits in inner.items()):
            return _by_class_and_split(tree)
        _refuse_splits_inside(tree, inner)

    # Folders that could be parts of one data set.
    shared = _shared_names(filled[name] for name in nested)
    if len(nested) > 1 and len(shared) > 1:
        _refuse_parts(tree, nested, shared, f"{_quoted(nested)} hold folders of the same names")
    parts = [name for name in filled if is_part_name(name)]
    if parts and len(filled) > 1:
        _refuse_parts(tree, parts, (), f"{_quoted(parts)} may be a part of the data, or a class")
    for name in nested:
        inside = filled[name].filled().keys()
        if len(inside) > 1 and inside <= filled.keys():
            _refuse_copied_folder(tree, name, inside)
    reading = _by_class(tree)
    for name in whole:
        reading.notes.append(f"{name!r} beside {_quoted(others)} is read as a class")
    return reading


def _whole_splits(names: Iterable[str]) -> dict[str, str]:
    """Return name -> split of those that say nothing else."""
    found = {}
    for name in names:
        said = split_in(name)
        if said.is_whole and said.split is not None:
            found[name] = said.split
    return found


def _named_splits(names: Iterable[str]) -> dict[str, str]:
    """Return name -> split of those that name one, also among other words."""
    found = {}
    for name in names:
        split = split_in(name).split
        if split is not None:
            found[name] = split
    return found


def _holds_splits_only(folder: Tree, splits: Mapping[str, str]) -> bool:
    """Tell whether a class folder holds nothing but folders that are named for splits."""
    return bool(splits) and splits.keys() == folder.filled().keys() and not folder.folder.images


def _differ_in_split_only(filled: Mapping[str, Tree], named: Mapping[str, str]) -> bool:
    """Tell whether folders are the splits of one data set: `seg_train` and `seg_test`, with the same classes."""
    rests = {split_in(name).rest for name in named}
    classes = {frozenset(_folder_of_classes(filled[name], name).filled()) for name in named}
    if len(rests) != 1 or len(classes) != 1:
        return False
    (shared,) = classes
    return len(shared) > 1


def _shared_names(trees: Iterable[Tree]) -> tuple[str, ...]:
    """Return the names of folders that all of the trees hold."""
    held = [tree.filled().keys() for tree in trees]
    if not held:
        return ()
    shared = set.intersection(*map(set, held))
    return tuple(name for name in held[0] if name in shared)


# What is refused, with the readings and the flag that chooses.


def _refuse_unclear(tree: Tree, seen: str, *choices: str) -> NoReturn:
    """Refuse a layout that can be read in several ways, and say how to choose one."""
    raise DataError(f"the layout of {tree.folder.path} is not clear: {seen}. Choose: {'; '.join(choices)}")


def _refuse_unlabelled(place: str, folder: Tree) -> NoReturn:
    """Refuse a split without class folders beside others that have some."""
    raise DataError(
        f"{place} holds {counted(folder.folder.images)} and no class folder, so the class of each is not known. "
        "Choose: --layout split/class leaves them out, and headstart predict classifies them once a model is trained; "
        "or move them into class folders"
    )


def _refuse_unlabelled_splits(tree: Tree, whole: Mapping[str, str]) -> NoReturn:
    """Refuse splits of which none has class folders."""
    name, *_ = whole
    folder = tree.below[name].folder
    raise DataError(
        f"{folder.path} holds {counted(folder.images)} and no class folder, so the class of each is not "
        f"known; move them into class folders, as in {name}/<class>/picture.jpg. If the names of the classes are "
        f"{_quoted(whole)}, use --layout class"
    )


def _refuse_split_beside_others(tree: Tree, name: str, others: list[str]) -> NoReturn:
    """Refuse one folder named for a split, with class folders in it, beside others."""
    choices = [
        f"--layout split/class if {name!r} is a split (what lies beside it is left out)",
        f"--layout class if {_quoted([name, *others])} are the classes",
    ]
    filled = tree.filled()
    shared = _shared_names(filled[each] for each in (name, *others))
    if shared:
        choices.append(f"--layout part/class if {_quoted(shared)} are the classes, in each of them")
    _refuse_unclear(tree, f"{name!r} may be a split or a class beside {_quoted(others)}", *choices)


def _refuse_judging_beside_classes(tree: Tree, judging: list[str], others: list[str]) -> NoReturn:
    """Refuse folders named for validation or test, without class folders, beside what looks like classes."""
    _refuse_unclear(
        tree,
        f"{_quoted(judging)} beside {_quoted(others)} may be a class, or a split whose images have no class",
        f"--layout class if {_quoted(judging)} is a class",
        "otherwise move it out of the folder, and give it to headstart predict once a model is trained",
    )


def _refuse_splits_or_classes(tree: Tree, named: Mapping[str, str]) -> NoReturn:
    """Refuse folders that have the word for a split in their names, and differ in more than that."""
    filled = tree.filled()
    if any(filled[name].filled() for name in named):
        as_splits = "--layout split/class if they are splits (what has no class folders is left out)"
    else:
        as_splits = "class folders in them, as in train/<class>/picture.jpg, if they are splits"
    seen = f"{_quoted(named)} may be splits or classes"
    _refuse_unclear(tree, seen, as_splits, f"--layout class if {_quoted(filled)} are the classes")


def _refuse_splits_inside(tree: Tree, inner: Mapping[str, Mapping[str, str]]) -> NoReturn:
    """Refuse class folders of which only some hold nothing but splits."""
    first, *_ = [name for name, splits in inner.items() if len(set(splits.values())) > 1]
    _refuse_unclear(
        tree,
        f"{_quoted(inner[first])} in {first!r} may be splits or parts of a class, and not all classes hold them alone",
        "--layout class/split if they are splits (what is in none of them is left out)",
        "--layout class if they are parts of the class",
    )


def _refuse_parts(tree: Tree, parts: list[str], classes: Iterable[str], seen: str) -> NoReturn:
    """Refuse folders that may be classes, or parts of the data that hold class folders.

    Args:
        tree: The folder above them.
        parts: Names of the folders.
        classes: Names of the folders that all of them hold; where there are none, those of the first that holds some.
        seen: Words for what is not clear.
    """
    filled = tree.filled()
    inside = list(classes)
    for part in parts:
        if not inside:
            inside = list(filled[part].filled())
    choices = []
    if inside:
        choices.append(f"--layout part/class if {_quoted(inside)} are the classes")
    choices.append(f"--layout class if {_quoted(filled)} are the classes")
    _refuse_unclear(tree, seen, *choices, "otherwise move what is no class out of the folder")


def _refuse_copied_folder(tree: Tree, name: str, inside: Iterable[str]) -> NoReturn:
    """Refuse a folder that holds folders of the same names as lie beside it, as after a copy into itself."""
    _refuse_unclear(
        tree,
        f"{name!r} holds {_quoted(inside)}, which also lie beside it",
        f"--layout class if {_quoted(tree.filled())} are the classes",
        f"otherwise move {name!r} out of the folder, or give it alone",
    )


# What is passed over.


def _note_others(reading: Reading, tree: Tree, used: Collection[str]) -> None:
    """Note the folders with images beside those that are used."""
    others = [name for name in tree.filled() if name not in used]
    if others:
        beside = "parts" if reading.layout == "part/class" else "splits"
        reading.notes.append(f"{_quoted(others)} beside the {beside} in {tree.folder.path}: left out")


def _note_strays(reading: Reading, tree: Tree, place: str) -> None:
    """Note images that lie beside folders."""
    images = tree.folder.images
    if images:
        lie = "lies" if len(images) == 1 else "lie"
        reading.notes.append(f"{counted(images)} {lie} directly in {place}, outside any class; left out")


def _quoted(names: Iterable[str]) -> str:
    """List names in quotation marks."""
    return listed(map(repr, names))
