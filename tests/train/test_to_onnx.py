"""The exported graph: one node a binary layer, and the same numbers as torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from bindeploy import bits
from bindeploy.errors import BindeployError
from bindeploy.train import updates
from bindeploy.train.layers import BinaryConv2d, BinaryLinear, BinarySign
from bindeploy.train.loop import train
from bindeploy.train.models import build
from bindeploy.train.run import load_run
from bindeploy.train.states import harden
from bindeploy.train.to_onnx import Exported, evaluate, export, from_run


def binary_nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == "bindeploy.latent"]


def attributes(node: ir.Node) -> dict[str, object]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def run_stock(model: ir.Model, x: np.ndarray, folder: Path) -> np.ndarray:
    """Logits of stock onnxruntime, by the function bodies the file carries."""
    ir.save(model, folder / "latent.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "latent.onnx", options)
    return session.run(None, {"input": x})[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train("digits", "tiny", out=folder, epochs=1, limit=192, float_twin=False, progress=False)
    return folder


@pytest.fixture(scope="module")
def exported(run) -> Exported:
    return from_run(run)


def test_a_run_becomes_one_node_a_binary_layer_named_after_it(exported):
    nodes = binary_nodes(exported.model)
    assert [(node.op_type, node.name) for node in nodes] == [
        ("BinaryConv2d", "conv1"),
        ("BinaryConv2d", "conv2"),
        ("BinaryLinear", "fc0"),
    ]
    assert [node.inputs[1].name for node in nodes] == ["conv1.weight", "conv2.weight", "fc0.weight"]
    assert attributes(nodes[1]) == {
        "strides": (2, 2),
        "pads": (1, 1, 1, 1),
        "dilations": (1, 1),
        "group": 1,
        "pad_value": 1.0,
    }
    assert attributes(nodes[2]) == {}


def test_the_graph_has_the_agreed_interface(exported):
    model = exported.model
    (given,), (result,) = model.graph.inputs, model.graph.outputs
    assert (given.name, result.name) == ("input", "logits")
    assert given.shape is not None and list(given.shape)[1:] == [1, 8, 8]
    assert isinstance(given.shape[0], ir.SymbolicDim)
    assert model.opset_imports == {"": 20, "bindeploy.latent": 1}
    assert model.ir_version == 10
    assert not any(node.metadata_props for node in model.graph)
    others = {node.op_type for node in model.graph if node.domain == ""}
    assert others == {"Conv", "BatchNormalization", "Clip", "MaxPool", "Reshape", "Gemm"}


def test_weights_in_the_file_are_the_latent_ones_with_scale_and_bias(exported):
    node = binary_nodes(exported.model)[0]
    weight, scale, bias = (value.const_value.numpy() for value in node.inputs[1:])
    assert len(np.unique(weight)) > 1000
    assert np.allclose(scale, np.abs(weight).mean((1, 2, 3)), rtol=1e-6)
    assert bias.tolist() == [0] * 32


def test_stock_onnxruntime_gives_the_logits_of_torch(exported, tmp_path):
    logits, _ = exported.evaluate(exported.candidates)
    assert exported.candidates.shape == (64, 1, 8, 8)
    assert exported.candidates.dtype == logits.dtype == np.float32
    stock = run_stock(exported.model, exported.candidates, tmp_path)
    assert np.abs(stock - logits).max() < 1e-4
    one = run_stock(exported.model, exported.candidates[:1], tmp_path)
    assert np.abs(one - logits[:1]).max() < 1e-4


def test_integers_are_those_of_packed_bits(run, exported):
    """The dense layer's integers by xor and popcount on what it was given."""
    network, _ = load_run(run)
    layer = network.get_submodule("fc0")
    given: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
    _, integers = evaluate(network, exported.candidates[:8])
    rows = bits.pack(given[0].numpy())[:, None]
    filters = bits.pack(layer.weight.detach().numpy())[None]
    assert integers["fc0"].dtype == np.int32
    assert np.array_equal(integers["fc0"], bits.dot(rows, filters, 256))
    assert {name: array.shape for name, array in integers.items()} == {
        "conv1": (8, 32, 8, 8),
        "conv2": (8, 64, 4, 4),
        "fc0": (8, 64),
    }


def test_float_activations_become_binary_weight_nodes(tmp_path):
    model = build("tiny", 3, 4, 8, "bwn", "bw")
    x = torch.randn(3, 3, 8, 8)
    graph = export(model, x)
    kinds = [node.op_type for node in binary_nodes(graph)]
    assert kinds == ["BinaryWeightConv2d", "BinaryWeightConv2d", "BinaryWeightLinear"]
    logits, integers = evaluate(harden(model.eval()), x.numpy())
    assert integers == {}
    assert np.abs(run_stock(graph, x.numpy(), tmp_path) - logits).max() < 1e-5


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grouped = BinaryConv2d(4, 6, 3, padding="same", groups=2, dilation=(1, 2))
        self.uneven = BinaryConv2d(6, 5, 2, stride=(2, 1), padding=(1, 0), pad_value=0)
        self.sign = BinarySign()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sign(self.uneven(self.grouped(x)))


def test_geometry_bias_and_sign_are_carried_over(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Everything(), torch.randn(2, 4, 9, 8)
    graph = export(model, x)
    first, second, sign = binary_nodes(graph)
    assert attributes(first)["pads"] == (1, 2, 1, 2)
    assert attributes(first)["dilations"] == (1, 2) and attributes(first)["group"] == 2
    assert attributes(second) == {
        "strides": (2, 1),
        "pads": (1, 0, 1, 0),
        "dilations": (1, 1),
        "group": 1,
        "pad_value": 0.0,
    }
    assert sign.op_type == "BinarySign"
    bias = first.inputs[3].const_value
    assert bias is not None and np.array_equal(bias.numpy(), model.grouped.bias.detach().numpy())
    logits, _ = evaluate(harden(model.eval()), x.numpy())
    assert np.array_equal(run_stock(graph, x.numpy(), tmp_path), logits)


def test_export_leaves_the_model_as_it_was():
    model = BinaryLinear(3, 2).train()
    export(model, torch.randn(1, 3))
    assert model.training and not model.hard


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = BinaryLinear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(x))


class Untraceable(CalledTwice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_a_layer_called_twice_and_an_untraceable_module_are_one_line(capfd):
    with pytest.raises(BindeployError, match="layer `layer` is called twice"):
        export(CalledTwice(), torch.randn(2, 4))
    with pytest.raises(BindeployError, match="`Untraceable` cannot be exported") as caught:
        export(Untraceable(), torch.randn(2, 4))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


class RegisteredTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = BinaryLinear(4, 3)
        self.layers = nn.ModuleList([self.own, BinaryLinear(3, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_layer_with_two_names_has_the_first_one_everywhere():
    model = RegisteredTwice()
    graph = export(model, torch.randn(2, 4))
    _, integers = evaluate(harden(model.eval()), np.ones((1, 4), np.float32))
    assert [node.name for node in binary_nodes(graph)] == list(integers) == ["own", "layers.1"]
    assert [node.inputs[1].name for node in binary_nodes(graph)] == [
        "own.weight",
        "layers.1.weight",
    ]


def test_a_network_that_does_not_run_on_the_example_is_one_line(capfd):
    with pytest.raises(BindeployError, match=r"does not run on .* \[2, 5\] \(mat1 and") as caught:
        export(CalledTwice(), torch.randn(2, 5))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


class BatchOfTwo(CalledTwice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.view(2, 4))


def test_a_network_for_one_size_of_the_batch_is_one_line():
    with pytest.raises(BindeployError, match="`BatchOfTwo` works for a batch of 2 alone") as caught:
        export(BatchOfTwo(), torch.randn(2, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["ir-net", "bwn", "sr", "xnor"])
def test_every_kind_of_method_exports_under_the_names_of_its_layers(tmp_path, method):
    model = build("tiny", 1, 4, 8, method, "bwa")
    updates.start(model)
    x = torch.randn(3, 1, 8, 8)
    graph = export(model, x)
    assert [node.name for node in binary_nodes(graph)] == ["conv1", "conv2", "fc0"]
    logits, _ = evaluate(harden(model.eval()), x.numpy())
    assert (
        np.abs(run_stock(graph, x.numpy(), tmp_path) - logits).max() < 1e-4 * np.abs(logits).max()
    )
