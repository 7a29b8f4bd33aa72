"""Where a resting order stands in its price level's queue, estimated from what the level shows.

Market-by-price data say how much a level shrank, not whether the cancelled orders stood in front of ours (front F) or
behind (back B). Each model is a guess of the probability P that a decrease happened behind us.

Source: docs/equations.md, Q-1 to Q-3.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

QueueModel = Literal["risk_averse", "power", "power2", "power3", "log", "log2", "fifo"]
Real = Float[Array, "..."]  # elementwise: arguments broadcast


def _power_probability(model: str, front: Real, back: Real, power: Real) -> Real:
    """The power models depend on the share of the queue behind us only: no overflow of large sizes."""
    total = front + back
    share = jnp.where(total > 0, back, 0.5) / jnp.where(total > 0, total, 1.0)
    inside = (share > 0) & (share < 1)
    safe = jnp.where(inside, share, 0.5)  # x^n has an infinite slope at 0 for n < 1
    # Exponentials of logarithms: compiled to vector instructions, which a general power is not.
    if model == "power2":
        value = jnp.exp(power * jnp.log(safe))
    elif model == "power3":
        value = -jnp.expm1(power * jnp.log1p(-safe))
    else:
        value = 1 / (1 + jnp.exp(power * jnp.log(1 / safe - 1)))
    return jnp.where(inside, value, share)


def _log_probability(model: str, front: Real, back: Real) -> Real:
    behind, ahead = jnp.log1p(back), jnp.log1p(front)
    total = jnp.log1p(back + front) if model == "log2" else behind + ahead
    return behind / jnp.where(total > 0, total, 1.0)


def behind_probability(model: QueueModel, front: Real, back: Real, power: Real) -> Real:
    r"""Probability that a decrease of the level happened behind us.

    $$\text{power: } \frac{f(B)}{f(B)+f(F)}, \quad \text{power2: } \frac{f(B)}{f(B+F)}, \quad
      \text{power3: } 1 - f\Big(\frac{F}{F+B}\Big), \quad f(x) = x^n;$$

    log and log2 as power and power2 with $f(x) = \ln(1+x)$. Source: docs/equations.md, Q-1.

    With nothing in front ($F \le 0$, also $F = B = 0$, where the formula is 0/0) every decrease is behind us: 1.

    Args:
        model: One of the five probabilistic models.
        front: $F$, quantity in front [recorded units].
        back: $B$, quantity behind; negative counts as 0.
        power: $n$ of the power models.
    """
    ahead, behind = jnp.maximum(front, 0.0), jnp.maximum(back, 0.0)
    if model in ("log", "log2"):
        probability = _log_probability(model, ahead, behind)
    else:
        probability = _power_probability(model, ahead, behind, power)
    return jnp.where(front > 0, probability, 1.0)


def front_after_change(model: QueueModel, front: Real, traded: Real, before: Real, after: Real, power: Real) -> Real:
    r"""Quantity in front once the level went from `before` to `after`.

    $$c = p - u - C, \qquad F \leftarrow \min(F - (1-P)c + \min(B - Pc, 0),\, u), \quad B = p - F,$$

    and $F \leftarrow \min(F, u)$ when $c < 0$ (the level grew) or in the risk-averse model. Source: docs/equations.md, Q-3.

    Args:
        model: Queue model.
        front: $F$ [recorded units].
        traded: $C$, executed at the level since its last change: already taken from the front.
        before: $p$, quantity shown before.
        after: $u$, quantity shown now.
        power: $n$ of the power models.
    """
    if model == "risk_averse":
        return jnp.minimum(front, after)
    cancelled = before - after - traded
    back = before - front
    probability = behind_probability(model, front, back, power)
    estimate = front - (1 - probability) * cancelled + jnp.minimum(back - probability * cancelled, 0.0)
    return jnp.minimum(jnp.where(cancelled < 0, front, estimate), after)


def lots_reached(front: Real, lot_size: Real) -> Real:
    """Lots of ours that a trade reached after emptying the front: -F in lots, halves up, never negative (Q-2)."""
    return jnp.maximum(jnp.floor(0.5 - front / lot_size), 0.0)
