r"""When market orders come: factors on the fill curves, for arrivals that are not a plain Poisson process."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mfamm_jax.fields import Checked, real_field

Sides = Float[Array, " side"]  # bid fills first: sell orders of others


class AbstractArrivals(Checked):
    """Multiplies both sides' fill curves as time passes and orders come."""

    @abc.abstractmethod
    def start(self, time_step: Float[Array, ""]) -> Any:
        """State before the first step, in the precision of `time_step`."""

    @abc.abstractmethod
    def factors(self, state: Any, at_mid: Sides) -> Sides:
        """On the rates of a step, whose base at the mid [1/s] is `at_mid`."""

    @abc.abstractmethod
    def advance(self, state: Any, arrived: Bool[Array, " side"], time_step: Float[Array, ""]) -> Any:
        """State after a step in which orders came or not."""


class HawkesArrivals(AbstractArrivals):
    r"""Self-exciting orders: $\lambda_i = \Lambda_i + y_i$, $dy_i = -\beta y_i dt + \beta\sum_j n_{ij}\,dN_j$.

    An order of one side has on average `self_excitation` children on its own side and `cross_excitation` on the other; their sum
    below one keeps the process stationary, with symmetric mean rates $\Lambda/(1 - n_{self} - n_{cross})$, as long as few steps would
    see two orders of a side (a step holds one at most). State: y [1/s] per side.

    Args:
        self_excitation: $n_{ii}$.
        cross_excitation: $n_{ij}$.
        recovery: $\beta$ [1/s].
    """

    self_excitation: Float[Array, ""] = real_field(lower=0.0, upper=1.0, help="children on the same side per order")
    cross_excitation: Float[Array, ""] = real_field(
        default=0.0, lower=0.0, upper=1.0, help="children on the other side per order"
    )
    recovery: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, unit="1/s", help="rate at which excitement fades"
    )

    def __check_init__(self) -> None:
        if isinstance(self.self_excitation, jax.core.Tracer) or isinstance(self.cross_excitation, jax.core.Tracer):
            return
        total = np.asarray(self.self_excitation) + np.asarray(self.cross_excitation)
        if np.any(total >= 1):
            raise ValueError(
                f"HawkesArrivals.self_excitation + cross_excitation is {total.max():g}, expected below 1: "
                "each order would have as many children or more, and their number explodes"
            )

    def start(self, time_step: Float[Array, ""]) -> Sides:
        """Calm."""
        return jnp.zeros((2,), time_step.dtype)

    def factors(self, state: Sides, at_mid: Sides) -> Sides:
        """$1 + y/\\Lambda$."""
        return 1 + state / at_mid

    def advance(self, state: Sides, arrived: Bool[Array, " side"], time_step: Float[Array, ""]) -> Sides:
        """Fades over the step; its orders excite from its end on."""
        came = arrived.astype(state.dtype)
        fades = -jnp.expm1(-self.recovery * time_step)
        # Over all steps to come this adds up to the number of children, whatever the step.
        jump = fades / time_step * (self.self_excitation * came + self.cross_excitation * came[::-1])
        return state * (1 - fades) + jump


class SeasonalArrivals(AbstractArrivals):
    """A known course of activity: factors at equally spaced times over a period, linear between, repeated. State: elapsed time [s].

    Args:
        activity: Factor at each node; the period ends where the first node comes again.
        period: [s].
    """

    activity: Float[Array, " node"] = real_field(lower=0.0, help="factor on the fill rates at each node")
    period: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="s", help="length of the course")

    def start(self, time_step: Float[Array, ""]) -> Float[Array, ""]:
        """The beginning of a period."""
        return jnp.zeros_like(time_step)

    def factors(self, state: Float[Array, ""], at_mid: Sides) -> Sides:
        """The same for both sides."""
        nodes = jnp.arange(self.activity.size + 1, dtype=state.dtype)
        course = jnp.concatenate([self.activity, self.activity[:1]])
        place = jnp.mod(state / self.period, 1.0) * self.activity.size
        return jnp.broadcast_to(jnp.interp(place, nodes, course), at_mid.shape)

    def advance(
        self, state: Float[Array, ""], arrived: Bool[Array, " side"], time_step: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Time passes."""
        return state + time_step
