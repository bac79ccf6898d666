"""What a `Classifier` runs: a saved graph, or a network of PyTorch. Importing this module loads no torch."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, final

from headstart.engines.engine import Engine
from headstart.engines.graph import GRAPH, GRAPH_WEIGHTS, GraphFacts, check_graph_files, open_graph, origin_of
from headstart.errors import ModelError
from headstart.features.limits import default_cache_folder
from headstart.files import file_error
from headstart.model_folder import ModelFolder, read_model_json
from headstart.types import InputSpec

# Beside a graph in the user's cache, where no config.json describes it.
FACTS = "graph.json"


class Model(Protocol):
    """A trained network that an engine can be opened for."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the outputs."""

    @property
    def spec(self) -> InputSpec:
        """How a picture becomes the network's input."""

    @property
    def backbone(self) -> str:
        """The name of the pretrained network that it was made from."""

    @property
    def device(self) -> str:
        """Where it runs, such as `cpu` or `cuda:0`."""

    def open(self, say: Callable[[str], None]) -> Engine:
        """Return a new engine that gives logits (N, C); `say` is told which engine was refused, and why."""


@final
class GraphModel:
    """A saved graph, which runs on a CPU without torch; a pickle of it holds the graph itself.

    Attributes:
        labels: Class names, in the order of the outputs.
        spec: How pictures become its input.
        backbone: Name of the pretrained network that it was made from.
        precision: What it runs in.
        device: `cpu`.
    """

    device = "cpu"

    def __init__(self, model: ModelFolder, folder: Path, facts: GraphFacts) -> None:
        """Take what a model folder says, and where its graph is."""
        self.labels = model.labels
        self.spec = model.spec
        self.backbone: str = model.own["backbone"]
        self._weights_bytes = model.weights.stat().st_size
        self._folder = folder
        self._facts = facts
        self._content: dict[str, bytes] = {}

    @property
    def precision(self) -> str:
        """What it runs in: `32` or `bf16`."""
        return self._facts.precision

    def __getstate__(self) -> dict[str, Any]:
        """Put the graph into a pickle: where it is read, the folder need not be.

        Raises:
            RunError: The graph cannot be read.
        """
        content = dict(self._content)
        if not content:
            for name in (GRAPH, GRAPH_WEIGHTS):
                try:
                    content[name] = (self._folder / name).read_bytes()
                except OSError as error:
                    raise file_error("read", self._folder / name, error) from error
        return {**vars(self), "_content": content}

    def open(self, say: Callable[[str], None]) -> Engine:
        """Check the graph's files and return a new engine.

        Raises:
            ModelError: They are damaged, were changed, or are no graph of such a classifier.
            EngineError: OpenVINO is not there, or cannot run it.
        """
        if not self._content:
            return self._open_in(self._folder)
        with tempfile.TemporaryDirectory(prefix="headstart-", ignore_cleanup_errors=True) as place:
            for name, content in self._content.items():
                (Path(place) / name).write_bytes(content)
            return self._open_in(Path(place))

    def _open_in(self, folder: Path) -> Engine:
        expected = ((1, *self.spec.size, 3), (1, len(self.labels)))
        return open_graph(folder, self._facts, weights_bytes=self._weights_bytes, expected=expected)


def find_graph(model: ModelFolder) -> GraphModel | None:
    """Find a model's graph: the one in its folder, or the one that was made of it in the user's cache.

    Returns:
        None where there is none, where it was made from other weights or for another preprocessing, and where the one
        in the cache is damaged.
    """
    facts = GraphFacts.from_dict(model.own.get("graph"))
    if facts is not None and facts.made_from == origin_of(model):
        return GraphModel(model, model.path, facts)
    folder = cached_graph_folder(model)
    try:
        facts = GraphFacts.from_dict(read_model_json(folder / FACTS))
        if facts is None:
            return None
        check_graph_files(folder, facts, model.weights.stat().st_size)
    except ModelError:
        return None
    return GraphModel(model, folder, facts)


def cached_graph_folder(model: ModelFolder) -> Path:
    """Return where in the user's cache the graph of a model without one belongs."""
    return default_cache_folder() / "graphs" / origin_of(model)
