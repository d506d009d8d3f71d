"""How the network's drawing is told to the page: groups of rows of items, which the browser lays out and folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine import Node
from ..hierarchy import Group, Item, Operation, Source
from ..layout import lines_of


def drawing(item: Item, number_of: Mapping[Node, int]) -> dict[str, Any]:
    """`item`, and what is in it. A lane has its id alone."""
    if isinstance(item, Operation):
        return {
            "id": item.id,
            "operation": number_of[item.node],
            "label": item.label,
            "name": item.name,
            "detail": item.detail,
            "family": item.family,
        }
    if isinstance(item, Source):
        return {"id": item.id, "label": item.label, "detail": item.detail}
    if isinstance(item, Group):
        return {
            "id": item.id,
            "name": item.name,
            "kind": item.kind,
            "path": item.path,
            "detail": [rest for _, rest in lines_of(item)[1:]],
            "inputs": [lane.id for lane in item.inputs.values()],
            "outputs": [lane.id for lane in item.outputs.values()],
            "rows": [[drawing(each, number_of) for each in row] for row in item.rows],
            "links": [(tail.id, head.id) for tail, head in item.links],
        }
    return {"id": item.id}
