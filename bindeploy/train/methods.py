"""The training methods in words: one row a method, without torch.

`quantizers.py` gives each row its two functions; the command line, the tests and the documentation
read this table. A row added here is a method everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """A pair of quantizers: the network uses `F(u, mu)`, the gradient is multiplied by `B(u, mu)`.

    `forward` and `backward` are the formulas for people; `F` and `B` name the functions of
    `quantizers.py` that compute them. `schedule` names the row of `schedules.SCHEDULES` that moves
    mu over training. With `clip = c` latent weights are clipped to [-c, c] after every step, and
    `consistent` speaks of that interval; otherwise of the whole line.
    """

    name: str
    forward: str
    backward: str
    F: str
    B: str
    schedule: str
    consistent: bool
    source: str
    clip: float | None = None


_ROWS = (
    Method(
        name="bc",
        forward="sign(u)",
        backward="1",
        F="sign",
        B="one",
        schedule="constant",
        consistent=True,
        source="BinaryConnect (2015)",
    ),
    Method(
        name="pc",
        forward="L(u): sign(u) min(1, rho + |u|), rho rising to 1",
        backward="1",
        F="proximal",
        B="one",
        schedule="proximal",
        consistent=True,
        source="ProxConnect (2021)",
    ),
    Method(
        name="bnn",
        forward="sign(u)",
        backward="1 where |u| <= 1, else 0; u clipped to [-1, 1]",
        F="sign",
        B="clip_mask",
        schedule="constant",
        consistent=True,
        source="BNN (2016)",
        clip=1.0,
    ),
    Method(
        name="bnn+",
        forward="sign(u)",
        backward="SS'(u), mu rising",
        F="sign",
        B="sign_swish_slope",
        schedule="sharpness",
        consistent=False,
        source="BNN+ (2018)",
    ),
    Method(
        name="bnn++",
        forward="SS(u), mu rising; sign(u) at the end",
        backward="SS'(u), mu rising",
        F="sign_swish",
        B="sign_swish_slope",
        schedule="sharpness",
        consistent=True,
        source="ProxConnect++ (2023)",
    ),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}
"""Every method by its name."""
