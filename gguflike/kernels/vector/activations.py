"""Activation functions of sixteen lanes, within a millionth of their exact values.

Functions of one value take ``x``; the definitions are those of reference/parts.py.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.lanes import exp, fma, magnitude, minimum, splat, where
from gguflike.kernels.vector.types import F32x16

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
SQRT_HALF = np.float32(0.70710678)
TANH_A, TANH_B = np.float32(1.5957691216), np.float32(0.0713548163)  # 2 sqrt(2 / pi), and 0.044715 of it
OAI = np.float32(1.702)
SMALL = np.float32(0.5)  # below, differences of nearly equal numbers are replaced by series


@inner(inline="always")
def sigmoid(x: F32x16) -> F32x16:
    """Compute 1 / (1 + e**-x)."""
    return splat(ONE) / (splat(ONE) + exp(-x))


@inner(inline="always")
def silu(x: F32x16) -> F32x16:
    """Compute x * sigmoid(x)."""
    return x / (splat(ONE) + exp(-x))


@inner(inline="always")
def tanh(x: F32x16) -> F32x16:
    """Compute the hyperbolic tangent: 1 - 2 / (e**2x + 1), and near 0 Cephes' polynomial, which does not cancel."""
    a = magnitude(x)
    far = splat(ONE) - splat(TWO) / (exp(a + a) + splat(ONE))
    z = x * x
    p = fma(z, splat(np.float32(-5.70498872745e-3)), splat(np.float32(2.06390887954e-2)))
    p = fma(p, z, splat(np.float32(-5.37397155531e-2)))
    p = fma(p, z, splat(np.float32(1.33314422036e-1)))
    p = fma(p, z, splat(np.float32(-3.33332819422e-1)))
    near = fma(p * z, x, x)
    return where(a < splat(np.float32(0.625)), near, where(x < splat(ZERO), -far, far))


@inner(inline="always")
def gelu_tanh(x: F32x16) -> F32x16:
    """Compute 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))), which is x * sigmoid of twice that argument."""
    return silu_of(x, x * fma(x * x, splat(TANH_B), splat(TANH_A)))


@inner(inline="always")
def silu_of(x: F32x16, y: F32x16) -> F32x16:
    """Compute x * sigmoid(y)."""
    return x / (splat(ONE) + exp(-y))


@inner(inline="always")
def gelu(x: F32x16) -> F32x16:
    """Compute 0.5 x (1 + erf(x / sqrt 2)).

    With z = |x| / sqrt 2, erfc(z) = exp(-z**2) t P(t) for t = 1 / (1 + z / 2): a polynomial fitted to 4e-8 over z up to
    9.6, so that the result is as exact where it is tiny.
    """
    t = splat(ONE) / fma(magnitude(x), splat(SQRT_HALF * HALF), splat(ONE))
    p = fma(t, splat(np.float32(-0.0589316587)), splat(np.float32(0.2839024312)))
    p = fma(p, t, splat(np.float32(-0.4858011602)))
    p = fma(p, t, splat(np.float32(0.2764588798)))
    p = fma(p, t, splat(np.float32(-0.02551137652)))
    p = fma(p, t, splat(np.float32(0.2022122874)))
    p = fma(p, t, splat(np.float32(0.243224623)))
    p = fma(p, t, splat(np.float32(0.2823585483)))
    p = fma(p, t, splat(np.float32(0.2820873833)))
    square = x * x
    lost = fma(x, x, -square)  # what rounding took from the square
    tail = exp(square * -HALF) * fma(lost, splat(-HALF), splat(ONE)) * (p * t) * HALF
    return x * where(x < splat(ZERO), tail, splat(ONE) - tail)


@inner(inline="always")
def relu(x: F32x16) -> F32x16:
    """Compute the larger of x and 0; NaN stays NaN."""
    return where(x < splat(ZERO), splat(ZERO), x)


@inner(inline="always")
def relu2(x: F32x16) -> F32x16:
    """Compute the square of ``relu``."""
    positive = relu(x)
    return positive * positive


@inner(inline="always")
def softplus(x: F32x16) -> F32x16:
    """Compute log(1 + e**x) = max(x, 0) + 2 artanh(s) for s = e / (2 + e), e = e**-|x|."""
    e = exp(-magnitude(x))
    s = e / (e + splat(TWO))
    z = s * s
    p = fma(z, splat(np.float32(1 / 15)), splat(np.float32(1 / 13)))
    p = fma(p, z, splat(np.float32(1 / 11)))
    p = fma(p, z, splat(np.float32(1 / 9)))
    p = fma(p, z, splat(np.float32(1 / 7)))
    p = fma(p, z, splat(np.float32(1 / 5)))
    p = fma(p, z, splat(np.float32(1 / 3)))
    return fma(fma(p, z, splat(ONE)), s + s, relu(x))


@inner(inline="always")
def expm1_less(x: F32x16) -> F32x16:
    """Compute e**x - 1 - x for x up to 0: by its series near 0."""
    p = fma(x, splat(np.float32(1 / 362880)), splat(np.float32(1 / 40320)))
    p = fma(p, x, splat(np.float32(1 / 5040)))
    p = fma(p, x, splat(np.float32(1 / 720)))
    p = fma(p, x, splat(np.float32(1 / 120)))
    p = fma(p, x, splat(np.float32(1 / 24)))
    p = fma(p, x, splat(np.float32(1 / 6)))
    p = fma(p, x, splat(HALF))
    return where(magnitude(x) < splat(SMALL), p * x * x, exp(x) - splat(ONE) - x)


@inner(inline="always")
def xielu(x: F32x16, alpha_n: np.float32, alpha_p: np.float32, beta: np.float32, eps: np.float32) -> F32x16:
    """Compute alpha_p x**2 + beta x where x > 0, else (expm1(min(x, eps)) - x) alpha_n + beta x."""
    least = minimum(x, splat(eps))
    below = (expm1_less(least) + (least - x)) * splat(alpha_n)
    return fma(x, splat(beta), where(x > splat(ZERO), x * x * splat(alpha_p), below))


@inner(inline="always")
def limited(x: F32x16, limit: np.float32) -> F32x16:
    """Limit the magnitude; NaN stays NaN."""
    return where(x > splat(limit), splat(limit), where(x < splat(-limit), splat(-limit), x))


@inner(inline="always")
def swiglu_oai(gate: F32x16, up: F32x16, limit: np.float32) -> F32x16:
    """Compute g * sigmoid(1.702 g) * (u + 1) for g = min(gate, limit) and u = up limited to that magnitude."""
    g = where(gate > splat(limit), splat(limit), gate)
    return silu_of(g, g * splat(OAI)) * (limited(up, limit) + splat(ONE))
