"""Function bodies in few bytes: every file carries the body of every op it uses."""

from __future__ import annotations

from itertools import count
from string import ascii_letters

import onnx_ir as ir


def compact(body: ir.Function) -> None:
    """Say the same in fewer bytes: each constant once, values called a, b, c, ..., nodes nameless,
    and no types, which every engine infers.

    Inputs keep their names, and the output, which must be one, is called "y".
    """
    _merge_constants(body)
    taken = {value.name for value in body.inputs} | {"y"}
    names = (name for name in map(_letters, count()) if name not in taken)
    for graph in body.subgraphs():
        graph.name = next(names)
        for value in graph.inputs:
            value.name = next(names)
    for node in body.all_nodes():
        node.name = None
        node.metadata_props.clear()
        for output in node.outputs:
            output.name = next(names)
            output.type, output.shape = None, None
    body.outputs[0].name = "y"


def _letters(number: int) -> str:
    """a, b, ..., Z, aa, ab, ...

    >>> [_letters(number) for number in (0, 51, 52, 53)]
    ['a', 'Z', 'aa', 'ab']
    """
    rest, last = divmod(number, len(ascii_letters))
    return (_letters(rest - 1) if rest else "") + ascii_letters[last]


def _merge_constants(body: ir.Function) -> None:
    """Equal Constant nodes become the first one of them."""
    first: dict[tuple, ir.Value] = {}
    for node in list(body):
        if node.op_type != "Constant":
            continue
        output = node.outputs[0]
        kept = first.setdefault(_key(*node.attributes.values()), output)
        if kept is not output:
            ir.convenience.replace_all_uses_with(output, kept)
            body.remove(node, safe=True)


def _key(attribute: ir.Attr) -> tuple:
    """What two equal constants have in common: an attribute of the function, or a value."""
    if attribute.is_ref():
        return attribute.name, attribute.ref_attr_name
    tensor = attribute.as_tensor()
    return attribute.name, tensor.dtype, tuple(tensor.shape), tensor.tobytes()
