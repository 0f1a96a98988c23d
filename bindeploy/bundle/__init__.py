"""A bundle: one folder that holds a network for one target, and the proof that it is right.

manifest.json            what the rest is, and how it was made
model.onnx               the portable file, for any engine
golden/                  input.npy, logits.npy, integers.npz: what every engine must give

and, by its format,

model.bd                 the plan, for the runtime
bin/ lib/ include/       the runtime, compiled for the target

model.so                 the network compiled by TVM for the target
golden/integers.so       the same, giving the integers of every layer
src/                     a program in C++ that runs it
"""

from bindeploy.bundle.folder import Bundle, Golden
from bindeploy.bundle.formats import FORMATS
from bindeploy.bundle.sources import from_source, inspect
from bindeploy.bundle.verification import LOGIT_TOLERANCE, verify
from bindeploy.bundle.writing import create

__all__ = [
    "FORMATS",
    "LOGIT_TOLERANCE",
    "Bundle",
    "Golden",
    "create",
    "from_source",
    "inspect",
    "verify",
]
