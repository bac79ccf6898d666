"""Small settings for the command line, and what it answers."""

from typing import NamedTuple

# A network that trains in a second on 32-pixel pictures.
TINY = ("--backbone", "simple-cnn", "--image-size", "32", "--strategy", "scratch", "--augment", "flip")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
