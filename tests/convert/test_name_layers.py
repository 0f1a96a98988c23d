"""What a layer is called: as its torch module, however the exporter spells it."""

import numpy as np
import pytest

from bindeploy.convert.name_layers import NameLayers
from bindeploy.convert.pipeline import run


@pytest.fixture
def named(sketch):
    """A function: a convolution or product whose node has the given name, its weight none."""

    def make(name: str, op: str = "Conv"):
        graph = sketch((3, 4, 4))
        shape = (3, 3, 1, 1) if op == "Conv" else (4, 4)
        weight = graph.constant(
            "onnx::Conv_12", np.linspace(0.5, 1.5, np.prod(shape)).reshape(shape)
        )
        model = graph.model(graph.node(op, ["x", weight]))
        model.graph[0].name = name
        return model

    return make


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("/stem/Conv", "stem"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/features/features.0/features.0.1/Conv_3", "features.0.1"),
        ("/3/down/down.1/Conv", "3.down.1"),
        ("/blocks.10/proj/Conv", "blocks.10.proj"),
        ("/Conv", "/Conv"),
        ("sequential/conv2d/Conv2D", "sequential/conv2d/Conv2D"),
    ],
)
def test_a_path_of_torchscript_is_read_where_no_weight_tells(named, path, module):
    model = named(path)
    NameLayers()(model)
    assert model.graph[0].name == module
    assert [layer.name for layer in run(named(path)).layers] == [module]
    assert not NameLayers()(model).modified


def test_a_product_is_no_module(named):
    model = named("/blocks/blocks.0/MatMul_1", "MatMul")
    NameLayers()(model)
    assert model.graph[0].name == "/blocks/blocks.0/MatMul_1"
