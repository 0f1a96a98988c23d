"""The portable file: its versions, its checker, whole or nothing."""

import onnx
import pytest

from bindeploy.emit.onnx import save
from bindeploy.errors import BindeployError


def test_the_file_has_the_pinned_versions_and_the_model_keeps_its_own(graph, tmp_path):
    model = graph("[N,3,4,4]", "[r] y = Relu(x)", output="float[N,3,4,4] y")
    model.ir_version = 11
    save(model, tmp_path / "model.onnx")
    saved = onnx.load(tmp_path / "model.onnx")
    assert saved.ir_version == 10
    assert saved.opset_import[0].version == 20
    assert saved.graph.node[0].name == "r"
    assert model.ir_version == 11


def test_the_same_model_gives_the_same_bytes(graph, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        save(graph("[N,3,4,4]", "y = Relu(x)", output="float[N,3,4,4] y"), tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_another_opset_is_refused(graph, tmp_path):
    model = graph("[N,3,4,4]", "y = Relu(x)", output="float[N,3,4,4] y")
    model.opset_imports[""] = 17
    with pytest.raises(BindeployError, match="opset 17; bindeploy writes opset 20"):
        save(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_checker_refuses_is_not_written(graph, tmp_path):
    model = graph("[N,3,4,4]", "[odd] y = NoSuchOp(x)", output="float[N,3,4,4] y")
    with pytest.raises(BindeployError, match="no valid ONNX file: .*NoSuchOp") as error:
        save(model, tmp_path / "model.onnx")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
