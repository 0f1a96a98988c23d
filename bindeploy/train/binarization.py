"""One call that makes the layers of any module binary, and the rules of what stays float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import cast

from torch import nn

from bindeploy.errors import BindeployError, unknown
from bindeploy.train import modes, quantizers
from bindeploy.train.layers import BinaryConv2d, BinaryLinear
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.scales import SCALES

Named = list[tuple[str, nn.Module]]
Skip = Callable[[str, nn.Module], bool]

REPLACEMENTS: dict[type[nn.Module], type[BinaryConv2d] | type[BinaryLinear]] = {
    nn.Conv2d: BinaryConv2d,
    nn.Linear: BinaryLinear,
}
"""Which layer takes the place of which. Subclasses are left alone: they compute something else."""

FIRST, LAST = "first", "last"
DEFAULT_SKIP = (FIRST, LAST)

LONGEST_PATTERN = 200
"""A longer pattern can take hours to be compared with a name."""


def first_and_last(layers: Named) -> Skip:
    """The rule that leaves the first and the last of `layers`, as registered, in float."""
    return named(DEFAULT_SKIP, layers)


def named(skip: Sequence[str], layers: Named, strict: bool = True) -> Skip:
    """The rule that leaves layers in float by name.

    `skip` holds "first", "last", names of layers, and patterns of names (`layer1.*`). Where it is
    `strict`, one that fits no layer raises BindeployError.
    """
    kept: set[int] = set()
    for pattern in skip:
        if not isinstance(pattern, str) or len(pattern) > LONGEST_PATTERN:
            raise BindeployError(
                f"skip `{str(pattern)[:LONGEST_PATTERN]}`: give a name or a pattern of at most"
                f" {LONGEST_PATTERN} letters"
            )
        if pattern in (FIRST, LAST):
            chosen = layers[:1] if pattern == FIRST else layers[-1:]
        else:
            chosen = [(name, layer) for name, layer in layers if fnmatchcase(name, pattern)]
            if strict and not chosen:
                known = ", ".join([FIRST, LAST, *(name for name, _ in layers[:5])])
                raise BindeployError(f"skip `{pattern}` fits no layer: choose from {known}, ...")
        kept |= {id(layer) for _, layer in chosen}
    return lambda name, module: id(module) in kept


def binarize(
    model: nn.Module,
    method: str | Quantizer = "bnn++",
    mode: str = "bwa",
    skip: Skip | Callable[[Named], Skip] | Sequence[str] = DEFAULT_SKIP,
    scale: str | None = None,
    learned_shift: bool = False,
) -> nn.Module:
    """Make the nn.Conv2d and nn.Linear layers of `model` binary, in place; returns `model`.

    Weights, biases, names, hooks and devices are kept: the float weight becomes the latent one.
    `skip` says what stays float: names and patterns ("first", "last", "layer1.*"), or a function
    `skip(name, module)`; by default the first and the last layer. What the model itself wants in
    float (its attribute `float_layers`, patterns of names) stays so in any case. `method` is a name
    or a Quantizer, `mode` a row of `modes.MODES`, `scale` a row of `scales.SCALES` (None: the
    method's own); `learned_shift` adds a learned number a channel to the input of every binary
    layer. A method of full precision changes nothing. A convolution whose padding is not a
    constant, an unknown name, and a model with nothing left to binarize raise BindeployError, and
    leave the model as it was.
    """
    if not isinstance(model, nn.Module):
        raise BindeployError(f"`{type(model).__name__}` is no torch module: give an nn.Module")
    quantizer = quantizers.get(method)
    modes.get(mode)
    if scale is not None and scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    if not quantizer.binary:
        return model
    candidates = [(n, m) for n, m in model.named_modules() if type(m) in REPLACEMENTS]
    rule = _rule(skip, candidates)
    own = named(getattr(model, "float_layers", ()), candidates, strict=False)
    chosen = [(n, m) for n, m in candidates if not rule(n, m) and not own(n, m)]
    if not chosen:
        raise BindeployError(
            f"`{type(model).__name__}` has nothing to binarize among its {len(candidates)} "
            "nn.Conv2d and nn.Linear layers: give a larger model, or a skip that leaves some"
        )
    for name, module in chosen:
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise BindeployError(
                f"layer `{name}` pads by `{module.padding_mode}`: only `zeros` can be binarized,"
                " skip it or change it"
            )
    for _, module in chosen:
        # The object stays and changes its class: whoever holds it, under whatever names, sees the
        # binary layer, and hooks and optimizers keep working.
        module.__class__ = REPLACEMENTS[type(module)]
        module.configure(quantizer, mode, scale, learned_shift=learned_shift)
    return model


def _rule(skip: Skip | Callable[[Named], Skip] | Sequence[str], candidates: Named) -> Skip:
    if skip is first_and_last:
        return first_and_last(candidates)
    if isinstance(skip, str):
        raise BindeployError(f"skip `{skip}` is one text: give a list of names, [`{skip}`]")
    if callable(skip):
        return cast(Skip, skip)
    if not isinstance(skip, Sequence):
        raise BindeployError(f"skip `{skip}`: give a list of names, or a function")
    return named(skip, candidates)
