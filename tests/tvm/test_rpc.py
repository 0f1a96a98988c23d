"""A compiled bundle on another machine, which here is a server on this one; no test waits long."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")

from bindeploy.bench import bench_on
from bindeploy.bundle import Bundle, verify
from bindeploy.emit.tvm import remote
from bindeploy.errors import BindeployError
from bindeploy.on import transport
from bindeploy.tables import bench as print_bench
from bindeploy.tables import console

pytestmark = pytest.mark.filterwarnings("ignore")  # of TVM


EMULATED = Path(__file__).resolve().parents[2] / ".venv" / "aarch64" / "python"
"""Python on emulated 64-bit ARM, which `make aarch64` sets up."""


def free_port() -> int:
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        return asking.getsockname()[1]


@contextmanager
def serving(python):
    """Where a tvm.rpc server with TVM's runtime alone waits, started by a Python."""
    port = free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1))
    process = subprocess.Popen(
        [python, "-m", "tvm.exec.rpc_server", *options],
        env=os.environ | {"TVM_USE_RUNTIME_LIB": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for("127.0.0.1", port)
        yield f"rpc://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the server is a child of this process
        process.wait(10)


@pytest.fixture(scope="module")
def server():
    with serving(sys.executable) as where:
        yield where


def wait_for(host: str, port: int, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            return remote.ask(host, port)
        except BindeployError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def one_line(action, *arguments, **options) -> str:
    with pytest.raises(BindeployError) as caught:
        action(*arguments, **options)
    return str(caught.value)


def test_a_bundle_is_verified_on_the_machine_of_a_server(compiled_bundle, server):
    report = verify(Bundle.open(compiled_bundle), on=server)
    assert report["ok"], report
    names = [row["name"] for row in report["engines"]]
    assert names[-2:] == ["tvm", server]


def test_a_module_for_arm_is_verified_on_emulated_arm(digits_run, command, tmp_path):
    if not EMULATED.is_file() or shutil.which("qemu-aarch64") is None:
        pytest.skip(f"no `{EMULATED}`, or no qemu-aarch64: make aarch64")
    out = tmp_path / "arm"
    result = command("export", digits_run, "--target", "arm", "--format", "tvm", "--out", out)
    assert result.exit_code == 0, result.output
    with serving(EMULATED) as where:
        report = verify(Bundle.open(out), on=where)
    assert report["ok"] and report["engines"][-1]["name"] == where, report


def test_times_are_of_the_server_and_the_report_names_it(compiled_bundle, server, capsys):
    report = bench_on(Bundle.open(compiled_bundle), server, runs=3)
    assert report["machine"]["processor"] == server
    assert report["total"]["p10_us"] <= report["total"]["median_us"] <= report["total"]["p90_us"]
    print_bench(report, console())
    printed = capsys.readouterr().out
    assert printed.startswith("whole network: ") and server in printed


def test_a_damaged_module_is_not_sent(compiled_bundle, server, tmp_path):
    copy = shutil.copytree(compiled_bundle, tmp_path / "copy")
    (copy / "model.so").write_bytes(b"\x7fELF")
    assert "model.so` is damaged" in one_line(bench_on, Bundle.open(copy), server, runs=1)


def test_what_the_server_cannot_load_is_one_line(compiled_bundle, server, tmp_path):
    host, port = server.removeprefix("rpc://").split(":")
    library = tmp_path / "model.so"
    library.write_bytes(b"\x7fELF")
    with remote.connect(host, int(port)) as session:
        assert f"`{host}:{port}` does not run the module: " in one_line(session.load, library)
    assert bench_on(Bundle.open(compiled_bundle), server, runs=1)["total"]  # it goes on


def test_a_bundle_without_a_module_says_how_to_make_one(digits_bundle):
    line = one_line(verify, Bundle.open(digits_bundle), on="rpc://127.0.0.1:9")
    assert "the bundle has no model.so: export it with --format tvm" in line


def test_where_nobody_listens_is_one_line_at_once(compiled_bundle, command):
    where = f"rpc://127.0.0.1:{free_port()}"
    for name in ("verify", "bench"):
        result = command(name, compiled_bundle, "--on", where)
        assert result.exit_code == 2
        assert "is not reached (Connection refused)" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request", "answers, but it is no tvm.rpc server"),
        (b"", "does not answer: is a tvm.rpc server there, and free?"),
    ],
)
def test_who_is_no_server_or_a_busy_one_is_left_after_a_while(answer, words, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        kept = []

        def accept():
            kept.append(listening.accept()[0])
            kept[0].sendall(answer)

        thread = threading.Thread(target=accept)
        thread.start()
        start = time.monotonic()
        assert words in one_line(remote.ask, "127.0.0.1", port)
        assert time.monotonic() - start < 5
        thread.join()
        kept[0].close()


@pytest.mark.parametrize("where", ["rpc://", "rpc://host", "rpc://host:fast", "rpc://h:99999"])
def test_an_address_is_spelled_with_host_and_port(where):
    assert f"`{where}` is no place to run: write rpc://HOST:PORT" in one_line(transport, where)
