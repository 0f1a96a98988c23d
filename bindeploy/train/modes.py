"""What of a layer is one bit wide: one row a mode, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from bindeploy.errors import unknown


@dataclass(frozen=True, kw_only=True)
class Mode:
    """`binary_input`: layers take the sign of their input. `pad_value`: what a padded tap reads.

    `nonlinearity` is the activation that the models of the zoo put between their layers. A binary
    input has no zero, so padding with +1 keeps every tap a bit; a float input is padded with 0.
    """

    name: str
    title: str
    binary_input: bool
    pad_value: float
    nonlinearity: str


_ROWS = (
    Mode(
        name="bw",
        title="1-bit weights, float activations",
        binary_input=False,
        pad_value=0.0,
        nonlinearity="relu",
    ),
    Mode(
        name="bwa",
        title="1-bit weights and activations",
        binary_input=True,
        pad_value=1.0,
        nonlinearity="hardtanh",
    ),
)

MODES: dict[str, Mode] = {row.name: row for row in _ROWS}
"""Every mode by its name."""


def get(name: str) -> Mode:
    """The mode called `name`; an unknown name raises BindeployError with the known ones."""
    if name not in MODES:
        raise unknown("mode", name, MODES)
    return MODES[name]
