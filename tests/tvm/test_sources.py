"""Kernels as source: what CUDA, OpenCL and C files hold, and what C and CUDA compute."""

import re
import shutil
import subprocess

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")

import torch
import tvm
from tvm import relax

from bindeploy import target
from bindeploy.convert import convert
from bindeploy.convert.integers import with_integers
from bindeploy.emit.tvm.compiler import write_module, write_sources
from bindeploy.emit.tvm.machine import Machine
from bindeploy.emit.tvm.sources import C_FLAGS, includes
from bindeploy.errors import BindeployError
from bindeploy.session import Session
from bindeploy.train.models import build
from bindeploy.train.to_onnx import export

pytestmark = pytest.mark.filterwarnings("ignore")  # of TVM's importer


def packed(mode):
    torch.manual_seed(0)
    network = build("tiny", 1, 10, 8, "bc", mode)
    network.train()
    with torch.no_grad():
        network(torch.randn(8, 1, 8, 8))
    image = torch.randn(1, 1, 8, 8)
    return convert(export(network.eval(), image)), image.numpy()


@pytest.fixture(scope="module")
def network():
    return packed("bwa")


@pytest.fixture(scope="module")
def written(network, tmp_path_factory):
    """The sources for a target, written once."""
    folders = {}

    def write(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            write_sources(network[0], target.load(name), folders[name])
        return folders[name]

    return write


POPCOUNT = {"cuda": "__popc(", "opencl": "popcount(", "c": "bindeploy_popcount("}
FILES = {"cuda": "kernels.cu", "opencl": "kernels.cl", "c": "kernels.c"}


def bodies(source):
    """The text of each function, by its name."""
    begins = list(re.finditer(r"^\w[^\n]*?(\w+)\([^;{()]*\) \{$", source, re.MULTILINE))
    ends = [*(found.start() for found in begins[1:]), len(source)]
    return {found[1]: source[found.end() : end] for found, end in zip(begins, ends, strict=True)}


@pytest.mark.parametrize("language", FILES)
def test_every_layer_of_bits_is_a_function_that_counts_bits(language, written):
    functions = bodies((written(language) / FILES[language]).read_text())
    layers = {
        name: text for name, text in functions.items() if re.search("binary_(conv|dense)", name)
    }
    assert len(layers) == 3, list(functions)
    assert all(POPCOUNT[language] in text for text in layers.values())
    assert any("pool" in name for name in functions)
    assert not any(POPCOUNT[language] in functions[name] for name in functions.keys() - layers)


@pytest.mark.parametrize("language", ["cuda", "opencl"])
def test_a_kernel_is_declared_and_defined_once(language, written):
    source = (written(language) / FILES[language]).read_text()
    names = re.findall(r"\b(\w+_kernel)\(", source)
    assert names and {names.count(name) for name in names} == {2}


def test_no_language_fuses_a_product_with_a_sum(written):
    assert "__fmul_rn(" in (written("cuda") / "kernels.cu").read_text()
    assert "#pragma OPENCL FP_CONTRACT OFF\n" in (written("opencl") / "kernels.cl").read_text()
    assert "#pragma STDC FP_CONTRACT OFF\n" in (written("c") / "kernels.c").read_text()


def test_weights_of_a_block_of_threads_are_shared_behind_a_barrier(written):
    functions = bodies((written("cuda") / "kernels.cu").read_text())
    text = functions["binary_convolution_threshold_kernel"]
    held, synced, counted = (text.index(word) for word in ("__shared__", "__sync", "__popc("))
    assert held < synced < counted


def test_cuda_source_compiles(written):
    if not shutil.which("nvcc"):
        pytest.skip("nvcc is not here: it comes with NVIDIA's CUDA toolkit")
    folder = written("cuda")
    command = [
        "nvcc",
        "-arch=sm_80",
        "-Xptxas",
        "-v",
        "-cubin",
        "-o",
        "kernels.cubin",
        "kernels.cu",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spilled = re.findall(r"(\d+) bytes spill", done.stdout + done.stderr)
    assert spilled and set(spilled) == {"0"}


def test_c_source_compiles_by_hand_into_the_module(network, written):
    if not shutil.which("cc"):
        pytest.skip("no C compiler is here")
    folder = written("c")
    command = ["cc", *C_FLAGS, *includes(), "kernels.c", "network.c", "-lm", "-o", "model.so"]
    subprocess.run(command, cwd=folder, check=True)
    agree(network, Machine(folder / "model.so").run)


def agree(network, run):
    """What `run` gives for one image is what the C runtime gives."""
    model, image = network
    with Session(model) as session:
        (expected,) = session.run(None, {session.get_inputs()[0].name: image})
    np.testing.assert_allclose(run(image)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["bwa", "bwaa"])
def test_c_modules_have_the_integers_of_the_runtime(mode, tmp_path):
    if not shutil.which("cc"):
        pytest.skip("no C compiler is here")
    model, image = packed(mode)
    proto, names = with_integers(model)
    path = tmp_path / "integers.so"
    write_module(ir.from_proto(proto), target.load("c"), path)
    same_integers(model, names, image, Machine(path).run(image)[1:])


def same_integers(model, names, image, found):
    with Session(model) as session:
        expected = session.integers(image)
    assert len(names) == len(expected) == 3
    for name, integers in zip(names, found, strict=True):
        np.testing.assert_array_equal(integers, expected[name.removeprefix("integers/")])


def test_modules_of_gpus_are_written_without_one(network, tmp_path):
    for name in ("cuda", "opencl"):
        write_module(network[0], target.load(name), tmp_path / f"{name}.so")
        assert b"binary_convolution_threshold_kernel" in (tmp_path / f"{name}.so").read_bytes()


def test_a_cuda_device_has_the_integers_of_the_runtime(network, tmp_path):
    device = tvm.cuda()
    if not device.exist:
        pytest.skip("no CUDA device is here")
    model, image = network
    proto, names = with_integers(model)
    path = tmp_path / "integers.so"
    write_module(ir.from_proto(proto), target.load("cuda"), path)
    main = relax.VirtualMachine(tvm.runtime.load_module(str(path)), device)["main"]
    outputs = [output.numpy() for output in main(tvm.runtime.tensor(image, device))]
    agree(network, lambda image: outputs)
    same_integers(model, names, image, outputs[1:])


def test_a_target_of_machine_code_has_no_source(network, tmp_path):
    assert write_sources(network[0], target.load("host"), tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_the_runtimes_kernels_are_for_processors_alone(network, tmp_path):
    with pytest.raises(BindeployError, match="`cuda`: the C runtime has no kernels in cuda"):
        write_module(network[0], target.load("cuda"), tmp_path / "model.so", kernels="runtime")


@pytest.mark.parametrize("language", ["c", "opencl"])
def test_literals_of_floats_keep_all_their_bits(language, tmp_path):
    """TVM writes seven digits of them."""
    slope = np.float32(1 / 3)
    graph = helper.make_graph(
        [helper.make_node("LeakyRelu", ["x"], ["y"], alpha=slope)],
        "leaky",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5))],
    )
    model = ir.from_proto(helper.make_model(graph, ir_version=10))
    write_sources(model, target.load(language), tmp_path)
    source = (tmp_path / FILES[language]).read_text()
    assert re.search(rf"_float\(\(\w+\){slope.view(np.uint32)}\)", source)
    if language == "c" and shutil.which("cc"):
        write_module(model, target.load("c"), tmp_path / "model.so")
        x = np.linspace(-1, 1, 5, dtype=np.float32)[None]
        (found,) = Machine(tmp_path / "model.so").run(x)
        np.testing.assert_array_equal(found, np.where(x > 0, x, x * slope))
