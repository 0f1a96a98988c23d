"""Fuzz the converter: python tests/fuzz/fuzz_convert.py -max_total_time=600 [CORPUS]

Needs atheris (pip install atheris), which takes libFuzzer's flags. Half of the inputs are files,
half choose a model of `seed_models.py` and what to change in it. A fault is an exception other than
BindeployError, more than 2 GB, or more than 20 seconds; its input is written to crash-*, and
`python tests/fuzz/fuzz_convert.py crash-...` runs it again.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMITS = ("-rss_limit_mb=2048", "-timeout=20", "-max_len=4096", "-len_control=0")


def _instrument(instrument: Any) -> None:
    """Count the branches of every function of ours; atheris's own import hook misses those of an
    editable install.
    """
    for name, module in list(sys.modules.items()):
        if not name.startswith("bindeploy"):
            continue
        for holder in [module, *filter(inspect.isclass, vars(module).values())]:
            for function in list(vars(holder).values()):
                if inspect.isfunction(function) and function.__module__ == name:
                    instrument(function)


def main() -> None:
    import atheris
    from mutations import mutate
    from seed_models import MODELS, copy
    from through import through

    _instrument(atheris.instrument_func)

    folder, names = Path(tempfile.mkdtemp(prefix="bindeploy-fuzz-")), list(MODELS)

    def written(source: Any) -> bytes:
        if source.ConsumeBool():
            return bytes(source.ConsumeBytes(4096))
        proto = copy(names[source.ConsumeIntInRange(0, len(names) - 1)])
        mutate(proto, lambda n: source.ConsumeIntInRange(0, n - 1), source.ConsumeIntInRange(1, 8))
        return proto.SerializeToString()

    given = {flag.partition("=")[0] for flag in sys.argv}
    limits = [flag for flag in LIMITS if flag.partition("=")[0] not in given]
    atheris.Setup(
        [*sys.argv, *limits],
        lambda data: through(written(atheris.FuzzedDataProvider(data)), folder),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
