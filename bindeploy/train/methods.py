"""The training methods in words: one row a method, without torch.

`quantizers.py` gives each row its functions; the command line, the tests and the documentation
read this table. A row added here is a method everywhere.

What a row does in one step, with step size eta, the gradient g, the network's weight alpha w and
the optimizer's step in place of eta g:

    w = F(u, mu)                 the network's weight, or u itself where gradient_at = "u"
    u <- base - eta B(u, mu) g   base = u, or F(u, mu) where step_from = "w"
    u <- Q(u) or clip(u)         where the row rounds or clips
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """A training method: forward quantizer `F(u, mu)`, backward quantizer `B(u, mu)`, and rules.

    `forward` and `backward` are the formulas for people; `F`, `B`, `activation_B` and `gradient`
    name the functions of `quantizers.py` that compute them. The other fields are those of
    `quantizers.Quantizer`, which explains them.

    `consistent` speaks of the pair (F, B) on [-clip, clip], or on the whole line without a clip: it
    is what `check_pair` says, of the expected F where F is random (`in_expectation`). None where
    the method does not train with a pair, so that the question does not arise; `no_pair` says what
    it does instead.
    """

    name: str
    forward: str
    backward: str
    F: str
    B: str
    consistent: bool | None
    source: str
    no_pair: str = ""
    in_expectation: bool = False
    schedule: str = "constant"
    clip: float | None = None
    activation_B: str = "clip_mask"
    gradient: str | None = None
    gradient_at: str = "w"
    step_from: str = "u"
    rounding: str | None = None
    starts_on_grid: bool = False
    standardize: bool = False
    scale: str = "filter"
    binary: bool = True

    @property
    def principled(self) -> str:
        """`consistent` in words: yes, no, or no pair and why."""
        if self.consistent is None:
            return f"no pair: {self.no_pair}"
        answer = "yes" if self.consistent else "no"
        answer += ", in expectation" if self.in_expectation else ""
        return answer if self.clip is None else f"{answer}, on [-{self.clip:g}, {self.clip:g}]"


_PLUS_PLUS = "ProxConnect++ (2023)"

_ROWS = (
    Method(
        name="fp",
        forward="u, also when shipped",
        backward="1",
        F="identity",
        B="one",
        consistent=True,
        source="full precision",
        gradient_at="u",
        binary=False,
    ),
    Method(
        name="r",
        forward="u, rounded to sign(u) after every step",
        backward="1",
        F="identity",
        B="one",
        consistent=None,
        no_pair="the latents themselves are rounded",
        source="Li et al. (2017)",
        gradient_at="u",
        rounding="nearest",
        starts_on_grid=True,
        scale="none",
    ),
    Method(
        name="sr",
        forward="u, rounded after every step to +1 with probability (1 + u) / 2, else -1",
        backward="1",
        F="identity",
        B="one",
        consistent=None,
        no_pair="the latents themselves are rounded",
        source="Li et al. (2017)",
        gradient_at="u",
        rounding="stochastic",
        starts_on_grid=True,
        scale="none",
    ),
    Method(
        name="bc",
        forward="sign(u)",
        backward="1",
        F="sign",
        B="one",
        consistent=True,
        source="BinaryConnect (2015)",
        scale="none",
    ),
    Method(
        name="bc-stochastic",
        forward="+1 with probability (1 + u) / 2, else -1; clip(u) expected",
        backward="1",
        F="stochastic_sign",
        B="one",
        consistent=True,
        in_expectation=True,
        source="BinaryConnect (2015)",
        starts_on_grid=True,
        scale="none",
    ),
    Method(
        name="bwn",
        forward="alpha sign(u)",
        backward="1",
        F="sign",
        B="one",
        consistent=True,
        source="XNOR-Net (2016)",
    ),
    Method(
        name="pc",
        forward="L(u): sign(u) min(1, rho + |u|), rho rising to 1",
        backward="1",
        F="proximal",
        B="one",
        consistent=True,
        source="ProxConnect (2021)",
        schedule="proximal",
    ),
    Method(
        name="pq",
        forward="prox(u): |u| moved by lambda towards 1, lambda rising; then sign(u)",
        backward="1, the step taken from prox(u)",
        F="proxquant",
        B="one",
        consistent=None,
        no_pair="the step is taken from w",
        source="ProxQuant (2019)",
        schedule="proxquant",
        step_from="w",
    ),
    # Its step starts from w as that of pq does, so that P adds up over the steps: it gets the map
    # and the schedule of pq (convention).
    Method(
        name="rpc",
        forward="u; the step is taken from prox(u), as in pq",
        backward="1, the gradient taken at u",
        F="proxquant",
        B="one",
        consistent=None,
        no_pair="the gradient is taken at u, the step from w",
        source=_PLUS_PLUS,
        schedule="proxquant",
        gradient_at="u",
        step_from="w",
    ),
    Method(
        name="ptb",
        forward="u; sign(u) at the end",
        backward="1",
        F="identity",
        B="one",
        consistent=True,
        source=_PLUS_PLUS,
        gradient_at="u",
    ),
    Method(
        name="bnn",
        forward="sign(u)",
        backward="1 where |u| <= 1, else 0; u clipped to [-1, 1]",
        F="sign",
        B="clip_mask",
        consistent=True,
        source="BNN (2016)",
        clip=1.0,
        scale="none",
    ),
    Method(
        name="bnn+",
        forward="sign(u)",
        backward="SS'(u), mu rising",
        F="sign",
        B="sign_swish_slope",
        consistent=False,
        source="BNN+ (2018)",
        schedule="sharpness",
    ),
    Method(
        name="bnn++",
        forward="SS(u), mu rising; sign(u) at the end",
        backward="SS'(u), mu rising",
        F="sign_swish",
        B="sign_swish_slope",
        consistent=True,
        source=_PLUS_PLUS,
        schedule="sharpness",
    ),
    Method(
        name="xnor",
        forward="alpha sign(u)",
        backward="alpha 1[|u| <= 1] g + sign(u) mean(sign(u) g)",
        F="sign",
        B="clip_mask",
        consistent=None,
        no_pair="the gradient is no factor times g",
        source="XNOR-Net (2016)",
        gradient="xnor_gradient",
    ),
    Method(
        name="bi-real",
        forward="alpha sign(u)",
        backward="1 where |u| <= 1, else 0; activations 2 - 2|x| where |x| < 1, else 0",
        F="sign",
        B="clip_mask",
        consistent=False,
        source="Bi-Real Net (2018)",
        activation_B="triangle",
    ),
    Method(
        name="ir-net",
        forward="sign(u), u standardized in each filter",
        backward="k t (1 - tanh^2(t u)), t rising, k = max(1/t, 1)",
        F="sign",
        B="decay_slope",
        consistent=False,
        source="IR-Net (2020)",
        schedule="decay",
        standardize=True,
        scale="power-of-two",
    ),
    Method(
        name="reste",
        forward="alpha sign(u)",
        backward="|u|^(1/o - 1) / o, o rising; constant to 0.1, 0 beyond 1.5",
        F="sign",
        B="power_slope",
        consistent=False,
        source="ReSTE (2023)",
        schedule="power",
    ),
    Method(
        name="dsq",
        forward="tanh(k u) / tanh(k), k rising; u clipped to [-1, 1]",
        backward="the slope of that",
        F="soft_quantization",
        B="soft_quantization_slope",
        consistent=True,
        source="DSQ (2019)",
        schedule="sharpness",
        clip=1.0,
    ),
    Method(
        name="tanh++",
        forward="tanh(mu u), mu rising; sign(u) at the end",
        backward="mu (1 - tanh^2(mu u))",
        F="tanh",
        B="tanh_slope",
        consistent=True,
        source=_PLUS_PLUS,
        schedule="sharpness",
    ),
    Method(
        name="poly++",
        forward="x (2 - |x|) with x = clip(mu u), mu rising; sign(u) at the end",
        backward="2 mu (1 - |x|)",
        F="polynomial",
        B="polynomial_slope",
        consistent=True,
        source=_PLUS_PLUS,
        schedule="sharpness",
    ),
    Method(
        name="ede++",
        forward="k tanh(t u), t rising, k = max(1/t, 1); sign(u) at the end",
        backward="k t (1 - tanh^2(t u))",
        F="decay",
        B="decay_slope",
        consistent=True,
        source=_PLUS_PLUS,
        schedule="decay_to_sign",
    ),
    Method(
        name="reste++",
        forward="sign(u) |u|^(1/o), o rising; a line near 0, flat from 1.5; sign(u) at the end",
        backward="|u|^(1/o - 1) / o; constant near 0, 0 beyond 1.5",
        F="power",
        B="power_slope",
        consistent=True,
        source=_PLUS_PLUS,
        schedule="power_to_sign",
    ),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}
"""Every method by its name."""
