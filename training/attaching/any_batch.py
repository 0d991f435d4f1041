"""A network that was exported for one batch, rewritten for any."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx.helper import make_node

from training.attaching.preprocessing import IMAGES
from training.attaching.rewriting import BATCH

Values = Mapping[str, NDArray[np.generic]]


def without_images(model: ModelProto) -> ModelProto:
    """The part of a network that computes what is the same for all images."""
    part = ModelProto()
    part.CopyFrom(model)
    del part.graph.input[:], part.graph.node[:]
    from_images = {IMAGES}
    for node in model.graph.node:
        if from_images.intersection(node.input):
            from_images.update(node.output)
        else:
            part.graph.node.append(node)
    return part


def free_batch(model: ModelProto, computed: Values) -> None:
    """Takes a batch out of a network that was exported for it.

    `computed` is what it computes without images. Where a reshape names the batch first, it is left
    to be worked out. What was made for the whole batch, such as class tokens, is repeated for each
    image.
    """
    graph = model.graph
    (dim, *_) = graph.input[0].type.tensor_type.shape.dim
    fixed = {**computed, **{w.name: numpy_helper.to_array(w) for w in graph.initializer}}
    free_reshapes(model, dim.dim_value, fixed)
    repeat_rows(model, dim.dim_value, fixed)
    dim.ClearField("dim_value")
    dim.dim_param = BATCH
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def free_reshapes(model: ModelProto, batch: int, fixed: Values) -> None:
    """Lets reshapes to `fixed` shapes work the batch out, where they name it first."""
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or node.input[1] not in fixed:
            continue
        shape = fixed[node.input[1]].astype(np.int64)
        if len(shape) < 2 or shape[0] != batch or 0 in shape[1:]:
            continue
        shape[0] = 0 if -1 in shape else -1
        for attribute in [a for a in node.attribute if a.name == "allowzero"]:
            node.attribute.remove(attribute)  # 0 is the size that there is
        name = f"{node.input[1]}_{index}_any_batch"
        model.graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name


def repeat_rows(model: ModelProto, batch: int, fixed: Values) -> None:
    """Repeats, once for each image, the equal rows of `fixed` tensors that are joined with others.

    They are joined behind the batch: a class token becomes the first token of each image.
    """
    graph = model.graph
    repeated: dict[str, NDArray[np.generic]] = {}
    for node in graph.node:
        if node.op_type != "Concat" or node.attribute[0].i == 0 or fixed.keys() >= set(node.input):
            continue
        for place, name in enumerate(node.input):
            rows = fixed.get(name)
            if rows is not None and len(rows) == batch and not np.any(rows != rows[:1]):
                repeated[name] = rows[:1]
                node.input[place] = f"{name}/each"
    if not repeated:
        return
    nodes = [
        make_node("Shape", [IMAGES], ["images/shape"]),
        make_node("Gather", ["images/shape", "images/axis"], ["images/batch"]),
    ]
    made: dict[str, NDArray[np.generic]] = {"images/axis": np.array([0])}
    for name, row in repeated.items():
        each = f"{name}/each"
        made |= {f"{each}/row": row, f"{each}/sizes": np.array(row.shape[1:])}
        nodes += [
            make_node("Concat", ["images/batch", f"{each}/sizes"], [f"{each}/shape"], axis=0),
            make_node("Expand", [f"{each}/row", f"{each}/shape"], [each]),
        ]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in made.items())
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
