"""The fuzzers' own modules are found by their names, in the tests as in `fuzz_convert.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
