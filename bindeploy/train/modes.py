"""How many bits a layer's weights, inputs and sums have: one row a mode, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from bindeploy.errors import unknown


@dataclass(frozen=True, kw_only=True)
class Mode:
    """Weights have one bit. `input_bits` is 1 (signs), 8 (integers) or None (floats).

    `accumulator_bits` is 8 where sums saturate at -128 and 127 after every word of 32 channels, in
    the order (kernel row, kernel column, word) (convention), and None where they are exact.
    `pad_value` is what a padded tap reads: a binary input has no zero, so padding with +1 keeps
    every tap a bit; other inputs are padded with 0. `nonlinearity` is the activation that the zoo's
    models put between their layers.
    """

    name: str
    title: str
    input_bits: int | None
    pad_value: float
    nonlinearity: str
    accumulator_bits: int | None = None

    @property
    def binary_input(self) -> bool:
        """Layers take the sign of their input."""
        return self.input_bits == 1


_ROWS = (
    Mode(
        name="bw",
        title="1-bit weights, float activations",
        input_bits=None,
        pad_value=0.0,
        nonlinearity="relu",
    ),
    Mode(
        name="bw8",
        title="1-bit weights, 8-bit activations",
        input_bits=8,
        pad_value=0.0,
        nonlinearity="relu",
    ),
    Mode(
        name="bwa",
        title="1-bit weights and activations",
        input_bits=1,
        pad_value=1.0,
        nonlinearity="hardtanh",
    ),
    Mode(
        name="bwaa",
        title="1-bit weights and activations, 8-bit accumulators",
        input_bits=1,
        pad_value=1.0,
        nonlinearity="hardtanh",
        accumulator_bits=8,
    ),
)

MODES: dict[str, Mode] = {row.name: row for row in _ROWS}
"""Every mode by its name."""


def get(name: str) -> Mode:
    """The mode called `name`; an unknown name raises BindeployError with the known ones."""
    if name not in MODES:
        raise unknown("mode", name, MODES)
    return MODES[name]
