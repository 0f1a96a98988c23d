"""Names that nothing of a model has yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir


class Names:
    """Gives out names: the wanted one, or `wanted.1`, `wanted.2`, ... where it is taken.

    A name once seen stays taken, and the next number of a wanted name is remembered, so that a name
    costs no walk over the graph.
    """

    def __init__(self, taken: Iterable[str | None]) -> None:
        self._taken = set(taken)
        self._given: Counter[str] = Counter()

    def new(self, wanted: str) -> str:
        name = wanted
        while name in self._taken:
            self._given[wanted] += 1
            name = f"{wanted}.{self._given[wanted]}"
        self._taken.add(name)
        return name


def of(model: ir.Model) -> Names:
    """Every value and node of the graph, and of the graphs inside it, has its name taken."""
    taken: set[str | None] = set()
    for node in model.graph.all_nodes():
        taken.add(node.name)
        taken.update(output.name for output in node.outputs)
    for graph in (model.graph, *model.graph.subgraphs()):
        taken.update(value.name for value in graph.inputs)
        taken.update(graph.initializers)
    return Names(taken)
