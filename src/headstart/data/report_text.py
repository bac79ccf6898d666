"""What the checks of a data set found, in words."""

from collections import Counter

from headstart.data.checks import DataReport, shared_group_text
from headstart.errors import counted, listed
from headstart.text import visible_line


def data_lines(report: DataReport) -> tuple[str, str]:
    """Say in two lines what a data set was understood as: its classes, and its splits, with how many images each."""
    of_class: Counter[str] = Counter()
    of_split: dict[str, int] = {}
    for split, counts in report.counts.items():
        of_class.update(counts)
        of_split[split] = sum(counts.values())
    classes = listed((f"{visible_line(name)} {count}" for name, count in of_class.items()), 8)
    splits = ", ".join(f"{split} {count}" for split, count in of_split.items())
    if report.splits_made:
        splits += " (made here: the data has none)"
    return f"data: {of_class.total()} images of {len(of_class)} classes: {classes}", f"splits: {splits}"


def report_sentences(report: DataReport) -> list[str]:
    """Return what the checks found in sentences for people."""
    sentences = []
    bad = report.unreadable
    if bad:
        sentences.append(f"left out {counted(bad, 'unreadable ')}, first {bad[0].path}: {bad[0].reason}")
    leaks = report.leaks
    if leaks:
        done = "dropped" if report.leaks_policy == "drop" else "kept"
        sentences.append(
            f"{done} {counted(leaks)} with exactly the pixels of one in another split, first {leaks[0].path} "
            f"({leaks[0].split}), a copy of {leaks[0].copy_of} ({leaks[0].copy_of_split})"
        )
    shared = report.shared_groups
    if shared:
        groups = "1 group" if len(shared) == 1 else f"{len(shared)} groups"
        sentences.append(f"kept {groups} in more than one split, first {shared_group_text(shared[0])}")
    duplicates = report.duplicates
    if duplicates:
        sentences.append(f"{counted(duplicates)} found more than once within a split, first {duplicates[0][0]}")
    conflicts = report.conflicts
    if conflicts:
        (first, its_label), *copies = conflicts[0]
        (other, other_label), *_ = [copy for copy in copies if copy[1] != its_label]
        pictures = f"{first} ({its_label}) and {other} ({other_label})"
        sentences.append(f"{counted(conflicts)} found under different labels, first {pictures}")
    return sentences
