"""Run a compiled bundle: `python -m bindeploy.on.run_module BUNDLE INPUT.npy RESULTS.npz`

RESULTS.npz gets the logits and then the integers of every layer, in their order, without names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bindeploy.errors import BindeployError
from bindeploy.session import Session


def main(bundle: str, given: str, results: str) -> int:
    images = np.load(given, allow_pickle=False)
    try:
        with Session(Path(bundle)) as session:
            (logits,) = session.run(None, {session.get_inputs()[0].name: images})
            integers = session.integers(images)
    except BindeployError as error:
        print(error, file=sys.stderr)
        return 2
    np.savez(results, logits, *integers.values())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
