"""What a training can be told: one field an option, without torch.

The command line makes its options of these fields, a recipe is a file of them, and run.json records
them. Every check that needs no data is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from bindeploy.errors import BindeployError, unknown

PRECISIONS = ("auto", "float32", "bfloat16")
LARGEST: dict[type, float] = {int: 2**63 - 1, float: 1e9}
"""A larger number is taken for a mistake: torch and numpy take whole ones up to here, and the
square of a rate, a decay or a temperature is still a float."""

TWIN = "twin"
"""The full-precision twin of this very run, as a start or as a teacher."""


def _option(
    help: str,
    default: Any = MISSING,
    *,
    kind: type = str,
    table: str | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    many: bool = False,
    elsewhere: bool = False,
) -> Any:
    """A field, and what the command line and the checks know of it.

    `table` is `module:NAME` of the names it may have, `many` a tuple of values, and `elsewhere`
    says that a run may be resumed with another value.
    """
    metadata = {
        "help": help,
        "kind": kind,
        "table": table,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "many": many,
        "elsewhere": elsewhere,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All arguments of a training; a wrong one raises BindeployError."""

    data: str = _option("Dataset:", table="bindeploy.train.data:DATASETS")
    data_dir: str | None = _option("Where the dataset's files are.", None, elsewhere=True)
    model: str = _option("Network:", table="bindeploy.train.models:MODELS")
    method: str = _option(
        "Forward and backward quantizer:", "bnn++", table="bindeploy.train.methods:METHODS"
    )
    mode: str = _option(
        "1-bit weights (w), activations (a), 8-bit activations (8) or accumulators (aa):",
        "bwa",
        table="bindeploy.train.modes:MODES",
    )
    scale: str | None = _option(
        "Scale of binary weights, a filter, a layer or none (default: the method's own):",
        None,
        table="bindeploy.train.scales:SCALES",
    )
    skip: tuple[str, ...] = _option(
        "Leave in float: `first`, `last`, a layer or a pattern of names; several times.",
        ("first", "last"),
        many=True,
    )
    learned_shift: bool = _option("Learn a shift a channel before binary inputs.", False, kind=bool)
    nonlinearity: str | None = _option(
        "Between layers (default: relu, or hardtanh where a sign follows):",
        None,
        table="bindeploy.train.models.nonlinearity:NONLINEARITIES",
    )
    epochs: int = _option("Epochs of each phase.", 20, kind=int, at_least=1)
    limit: int | None = _option("Train on this many images only.", None, kind=int, at_least=2)
    image_size: int | None = _option(
        "Pixels along an edge (default: the dataset's own).", None, kind=int, at_least=1
    )
    seed: int = _option("", 0, kind=int, at_least=0)
    batch_size: int | None = _option(
        "Images a step and process (default: the dataset's own).", None, kind=int, at_least=2
    )
    augmentation: str | None = _option(
        "Of training images (default: the dataset's own):",
        None,
        table="bindeploy.train.augmentation:AUGMENTATIONS",
    )
    workers: int = _option(
        "Processes that load images; 0 loads in the training's own.",
        0,
        kind=int,
        at_least=0,
        elsewhere=True,
    )
    optimizer: str = _option("", "adam", table="bindeploy.train.optimizers:OPTIMIZERS")
    learning_rate: float = _option("Its peak.", 2e-3, kind=float, above=0)
    weight_decay: float = _option("Of weights, not of biases.", 0.0, kind=float, at_least=0)
    warmup: float = _option("Epochs in which the learning rate rises.", 0.0, kind=float, at_least=0)
    milestones: tuple[int, ...] = _option(
        "Divide the learning rate by 10 after this epoch, instead of a cosine; several times.",
        (),
        kind=int,
        many=True,
        at_least=1,
    )
    label_smoothing: float = _option("", 0.0, kind=float, at_least=0, at_most=1)
    float_twin: bool = _option(
        "Also train the same network in full precision, to compare.", True, kind=bool
    )
    init: str | None = _option(
        "Start from full precision: `twin`, a RUN, or a checkpoint (safetensors, state dict).",
        None,
    )
    teacher: str | None = _option("Learn from full-precision logits: `twin` or a RUN.", None)
    distillation: float = _option(
        "Share of the loss that the teacher has.", 0.5, kind=float, at_least=0, at_most=1
    )
    temperature: float = _option("Of the softmax of both.", 4.0, kind=float, above=0)
    recalibrate: int = _option(
        "Measure BatchNorm again, hard, on this many batches.", 0, kind=int, at_least=0
    )
    precision: str = _option("", "auto", table="bindeploy.train.settings:PRECISIONS")
    accelerator: str = _option("Lightning's: auto, cpu, gpu, ...", "auto", elsewhere=True)
    devices: int = _option("Processes on each machine.", 1, kind=int, at_least=1)
    num_nodes: int = _option("Machines.", 1, kind=int, at_least=1)
    strategy: str = _option(
        "Lightning's that keep the whole network in every process: auto, ddp, ...",
        "auto",
        elsewhere=True,
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each.name, getattr(self, each.name), each.metadata)
        if self.milestones and self.warmup and self.warmup >= min(self.milestones):
            raise BindeployError(
                f"warmup `{self.warmup:g}` reaches beyond the first of milestones"
                f" `{min(self.milestones)}`: make it shorter"
            )
        for name in ("init", "teacher"):
            if getattr(self, name) == TWIN and not self.float_twin:
                raise BindeployError(
                    f"{name} `{TWIN}` without a twin: leave out --no-float-twin, or give a RUN"
                )


def _check(name: str, value: Any, facts: Mapping[str, Any]) -> None:
    """Raise BindeployError unless `value` has its kind and lies in its range or table."""
    words = name.replace("_", " ")
    for one in value if facts["many"] else (value,):
        if one is None:
            continue
        if facts["kind"] is str and not isinstance(one, str):
            raise BindeployError(f"{words} `{one}`: give a text")
        if facts["table"] is not None:
            known = names(facts["table"])
            if name != "method" and one not in known:  # a method can be an object of one's own
                raise unknown(words, str(one), known)
        elif facts["kind"] in (int, float):
            _check_number(words, one, facts)


def _check_number(words: str, value: Any, facts: Mapping[str, Any]) -> None:
    low, above, high = facts["at_least"], facts["above"], facts["at_most"]
    largest = LARGEST[facts["kind"]] if high is None else high
    right = type(value) is int or (facts["kind"] is float and type(value) is float)
    # NaN is in no range; a whole number can be too large to become a float.
    inside = right and (low is None or value >= low) and (above is None or value > above)
    if inside and value <= largest:
        return
    bounds = f"{low:g} or more" if low is not None else f"more than {above:g}"
    bounds += f", at most {largest}" if inside or high is not None else ""
    whole = "a whole number, " if facts["kind"] is int else ""
    raise BindeployError(f"{words} `{value}`: give {whole}{bounds}")


def names(table: str) -> tuple[str, ...]:
    """The names in a table given as `module:NAME`."""
    module, _, name = table.partition(":")
    return tuple(getattr(import_module(module), name))


def settings(options: Mapping[str, Any]) -> Settings:
    """Settings of options by name, as a recipe or a caller gives them; else BindeployError."""
    facts = {each.name: each for each in fields(Settings)}
    for name in options:
        if name not in facts:
            raise unknown("option", name, facts)
    missing = [n for n, f in facts.items() if f.default is MISSING and options.get(n) is None]
    if missing:
        raise BindeployError(f"no {missing[0]} is given: choose one with --{missing[0]}")
    return Settings(**{name: _typed(facts[name], value) for name, value in options.items()})


def _typed(facts: Any, value: Any) -> Any:
    """`value` as its field holds it: tuples for lists, texts for paths."""
    if facts.metadata["many"]:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    wanted = facts.metadata["kind"]
    if isinstance(value, Path):
        return str(value)
    if wanted is bool and not isinstance(value, bool):
        raise BindeployError(f"{facts.name} `{value}`: give true or false")
    return value
