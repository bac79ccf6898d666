"""What a name says about splits: the words of a table's column, and the names that people give to folders."""

import re
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_WORDS = tuple(_SPLIT_WORDS)
# In names of folders only.
_SHORT_WORDS = {"trn": "train", "vld": "validation", "tst": "test"}
# Words that say nothing about what is in a folder of images.
_FILLERS = frozenset({
    "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos",
    "sample", "samples", "folder", "split", "part",
})  # fmt: skip
# Words for a part of a data set that is none of the three splits.
_PART_WORDS = frozenset({
    "labeled", "labelled", "unlabeled", "unlabelled", "annotated", "unannotated", "holdout", "eval", "evaluation",
    "predict", "prediction", "submission",
})  # fmt: skip


def split_of(word: str) -> str | None:
    """Return `train`, `validation` or `test` for a word that means it (any case), else None."""
    return _SPLIT_WORDS.get(word.strip().lower())


@dataclass(frozen=True)
class SplitName:
    """What the name of a folder says about splits.

    Attributes:
        split: The one split that it names, or None.
        rest: The other words in it that mean something: those of `hymenoptera_train` are {hymenoptera}.
    """

    split: str | None
    rest: frozenset[str]

    @property
    def is_whole(self) -> bool:
        """Whether the name says nothing but which split it is."""
        return self.split is not None and not self.rest


def split_in(name: str) -> SplitName:
    """Find the split in a folder's name: `Train Data`, `test_set`, `01_train`, `trainImages`, `seg_test`."""
    splits = set()
    rest = set()
    for word in _lower_case_words(name):
        split = _split_of_part(word)
        if split is not None:
            splits.add(split)
        elif word not in _FILLERS:
            rest.add(word)
    return SplitName(splits.pop() if len(splits) == 1 else None, frozenset(rest))


def is_part_name(name: str) -> bool:
    """Tell whether a folder is named for a part of a data set that is no split, such as `unlabeled`."""
    words = [word for word in _lower_case_words(name) if word not in _FILLERS]
    return len(words) == 1 and words[0] in _PART_WORDS


def is_filler_name(name: str) -> bool:
    """Tell whether a folder's name says nothing about what is in it, such as `images` or `data_set`."""
    words = _lower_case_words(name)
    return bool(words) and all(word in _FILLERS for word in words)


def _lower_case_words(name: str) -> list[str]:
    """Part a name into words in lower case: at what is no letter, and where a capital follows a small letter."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W\d_]+", apart)]


def _split_of_part(word: str) -> str | None:
    """Return the split that a word of a folder's name means: `train`, `tst`, `trainset`."""
    words = {**_SPLIT_WORDS, **_SHORT_WORDS}
    if word in words:
        return words[word]
    for filler in _FILLERS:
        shorter = word.removesuffix(filler)
        if shorter != word and shorter in words:
            return words[shorter]
    return None
