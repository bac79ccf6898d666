"""A classifier's graph on disk, in OpenVINO's own format. Importing this module loads no torch.

    graph.xml    the network from `uint8` pixels (1, H, W, 3) on: outputs `logits`, `features` and maybe `feature_map`
    graph.bin    its weights

What is read may come from a stranger. It is checked to be OpenVINO's format before OpenVINO sees it, because its reader
also takes formats that name further files; its size is bounded; and no extension is ever loaded.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from headstart.engines.openvino_engine import OpenVINOEngine, as_engine_error, why_unusable
from headstart.errors import EngineError, ModelError, listed
from headstart.model_folder import ModelFolder, file_sha256

GRAPH = "graph.xml"
GRAPH_WEIGHTS = "graph.bin"
LOGITS = "logits"
FEATURES = "features"
FEATURE_MAP = "feature_map"

# A graph describes its weights in a few bytes per layer, and holds each of them once in 32 bits.
_MOST_XML_BYTES = 64 << 20
_SPARE_BYTES = 64 << 20
_MOST_ELEMENTS = 1 << 30  # of one tensor between two layers; no network of pictures comes near
_START = re.compile(rb'\s*(<\?xml version="1\.0"[^<>]*\?>)?\s*<net name="[^"<>]*" version="1[01]">')
Shape = tuple[int, ...]
_PRECISIONS = ("32", "bf16")


@dataclass(frozen=True)
class GraphFacts:
    """What is known of a graph without reading it.

    Attributes:
        precision: What it runs in: `32` or `bf16`.
        made_from: What it was made from; see `origin_of`.
        xml_sha256: SHA-256 of `graph.xml`.
        bin_sha256: SHA-256 of `graph.bin`.
    """

    precision: str
    made_from: str
    xml_sha256: str
    bin_sha256: str

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Self | None:
        """Return what `to_dict` gave, or None where it is something else."""
        if not isinstance(values, dict) or values.get("precision") not in _PRECISIONS:
            return None
        try:
            return cls(**{name: str(values[name]) for name in cls.__dataclass_fields__})
        except KeyError:
            return None


def origin_of(folder: ModelFolder) -> str:
    """Name everything that a classifier's graph depends on: its weights and its preprocessing."""
    facts = [folder.own["weights_sha256"], folder.spec.to_dict()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write_graph(model: Any, folder: Path, *, precision: str, made_from: str) -> GraphFacts:
    """Write a graph's two files into a folder that nobody uses yet.

    Args:
        model: An `openvino.Model`.
        folder: An empty folder.
        precision: What it is to run in.
        made_from: What `origin_of` says.

    Raises:
        EngineError: OpenVINO is not there.
        OSError: It cannot be written.
    """
    xml = folder / GRAPH
    with as_engine_error():
        import openvino as ov
    try:
        ov.save_model(model, xml, compress_to_fp16=False)
    except Exception as error:  # whatever is wrong with the disk, it is no error of the system's own type
        raise OSError(None, "OpenVINO could not write it; the disk may be full") from error
    return GraphFacts(precision, made_from, file_sha256(xml), file_sha256(folder / GRAPH_WEIGHTS))


def open_graph(folder: Path, facts: GraphFacts, *, weights_bytes: int, expected: tuple[Shape, Shape]) -> OpenVINOEngine:
    """Check a graph's files and make them ready to run, on a CPU; the engine gives logits (N, C).

    Args:
        folder: Where the files are.
        facts: What they must be.
        weights_bytes: Size of the weight file that the graph was made from, which bounds its own.
        expected: Shapes of its input and of its logits, each for one image.

    Raises:
        ModelError: They are damaged, were changed, or are no graph of such a classifier.
        EngineError: OpenVINO is not there, or cannot run it.
    """
    xml = folder / GRAPH
    weights = folder / GRAPH_WEIGHTS
    check_graph_files(folder, facts, weights_bytes)
    with xml.open("rb") as stream:
        if not _START.match(stream.read(4096)):
            raise ModelError(f"{xml} is not in OpenVINO's own format, and others are not read; train again")
    reason = why_unusable()
    if reason:
        raise EngineError(reason)
    with as_engine_error():
        import openvino as ov

        model = ov.Core().read_model(xml, weights)
    _refuse_other_model(model, xml, expected)
    # What is not asked for need not be computed, or copied for every image.
    for output in model.outputs:
        if LOGITS not in output.get_names():
            model.remove_result(output.get_node())
    return OpenVINOEngine(model, facts.precision)


def check_graph_files(folder: Path, facts: GraphFacts, weights_bytes: int) -> None:
    """Refuse files that are missing, too large to be a graph of this model, or others than were saved.

    Args:
        folder: Where they are.
        facts: What they must be.
        weights_bytes: Size of the weight file that the graph was made from.

    Raises:
        ModelError: They are.
    """
    _refuse_other_file(folder / GRAPH, _MOST_XML_BYTES, facts.xml_sha256)
    _refuse_other_file(folder / GRAPH_WEIGHTS, 4 * weights_bytes + _SPARE_BYTES, facts.bin_sha256)


def _refuse_other_file(file: Path, most_bytes: int, sha256: str) -> None:
    """Refuse a file that is missing, too large to be what it says, or another one than was saved.

    Raises:
        ModelError: It is.
    """
    try:
        num_bytes = file.stat().st_size
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror}); copy the model folder again") from error
    if num_bytes > most_bytes:
        raise ModelError(
            f"{file} has {num_bytes:,} bytes, and the graph of this model at most {most_bytes:,}; "
            "copy the model folder again"
        )
    found = file_sha256(file)
    if found != sha256:
        raise ModelError(
            f"{file} is not the file that was saved: its SHA-256 is {found[:12]}..., config.json says "
            f"{sha256[:12]}...; it is damaged or was changed: copy the model folder again"
        )


def _refuse_other_model(model: Any, xml: Path, expected: tuple[Shape, Shape]) -> None:
    """Refuse a graph that is not one of such a classifier, or that would take any amount of memory.

    Raises:
        ModelError: It is.
    """
    inputs = [str(_fixed_shape(port)) for port in model.inputs]
    logits = [str(_fixed_shape(port)) for port in model.outputs if LOGITS in port.get_names()]
    expected_input, expected_logits = expected
    if inputs != [str(expected_input)] or logits != [str(expected_logits)]:
        raise ModelError(
            f"{xml} is no graph of this model: it maps {listed(inputs)} to {listed(logits)}, expected {expected_input} "
            f"to {expected_logits}; copy the model folder again"
        )
    for operation in model.get_ops():
        for output in operation.outputs():
            shape = _fixed_shape(output)
            if shape is None or math.prod(shape) > _MOST_ELEMENTS:
                raise ModelError(
                    f"{xml} is no graph of this model: {operation.get_friendly_name()[:80]} gives "
                    f"{shape or 'any number of'} numbers; copy the model folder again"
                )


def _fixed_shape(port: Any) -> Shape | None:
    """Return the shape of what goes through a port, or None where it is not fixed."""
    partial = port.get_partial_shape()
    if partial.is_dynamic:
        return None
    return tuple(partial.to_shape())
