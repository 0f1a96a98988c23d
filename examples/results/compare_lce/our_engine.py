"""Our runtime, one thread: `our_engine.py FOLDER NAME ...` serves the networks FOLDER/NAME.bd.

Questions: `versions`, `NAME macs`, `NAME run`, and `NAME split`: nanoseconds of one run by the kind of its nodes.
"""

import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from engine import serve, timed

import bindeploy
from bindeploy.op_kinds import BINARY, KIND_OF, split
from bindeploy.session import Session


def macs(session: Session) -> dict[str, int]:
    """Multiply-accumulates of every node that has weights."""
    binary = sum(node.macs for node in session.nodes if KIND_OF[node.op] == BINARY)
    return {"binary": binary, "float": sum(node.macs for node in session.nodes) - binary}


def split_of(session: Session, image: np.ndarray) -> dict[str, float]:
    (times,) = session.profile(image, runs=1, warmup=1)
    return split(zip((node.op for node in session.nodes), times, strict=True))


def questions(folder: Path, names: list[str]) -> dict[str, Callable[[], object]]:
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    asked: dict[str, Callable[[], object]] = {}
    for name in names:
        session = Session(folder / f"{name}.bd")
        feed = {session.get_inputs()[0].name: image}
        asked[f"{name} macs"] = partial(macs, session)
        asked[f"{name} run"] = partial(timed, partial(session.run, None, feed))
        asked[f"{name} split"] = partial(split_of, session, image)
        versions = {"bindeploy": f"{bindeploy.__version__} ({session.isa})", "Python": platform.python_version()}
    asked["versions"] = lambda: versions
    return asked


if __name__ == "__main__":
    serve(questions(Path(sys.argv[1]), sys.argv[2:]))
