"""The head that a network came with, and the new head that starts from it: matched classes, their rows, the rest's row.

`matching` finds the source's class for each class of the data, `rows` copies what the source knows of them, and
`rest_row` fits the row of a class that stands for all others.
"""

from headstart.models.source_head.matching import NEW, REST, Matching, SourceClass, match_labels, matching_lines
from headstart.models.source_head.rest_row import FeatureRows, fit_rest_row, write_rest_row
from headstart.models.source_head.rows import SourceHead, read_source_head, run_labels, start_from_source

__all__ = [
    "NEW",
    "REST",
    "FeatureRows",
    "Matching",
    "SourceClass",
    "SourceHead",
    "fit_rest_row",
    "match_labels",
    "matching_lines",
    "read_source_head",
    "run_labels",
    "start_from_source",
    "write_rest_row",
]
