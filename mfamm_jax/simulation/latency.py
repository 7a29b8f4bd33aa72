"""How long our messages take to the exchange and its answers back, as functions of the time of sending. Host code in int64.

A model answers for all times at once and never looks at what is sent, so that one sequence of events serves every policy.
"""

import abc
import dataclasses

import numpy as np

from mfamm_jax.market.events import NS


class AbstractLatency(abc.ABC):
    """Entry and response latencies."""

    @abc.abstractmethod
    def entry(self, sent_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nanoseconds until a message sent then reaches the exchange, and whether the venue refuses it instead."""

    @abc.abstractmethod
    def response(self, exchange_ns: np.ndarray) -> np.ndarray:
        """Nanoseconds until we know what happened to our orders at the exchange then."""

    def known_until(self, local_ns: np.ndarray, exchange_ns: np.ndarray) -> np.ndarray:
        """Exchange time until which everything is known at each local time; answers do not overtake one another.

        Args:
            local_ns: (J,), non-decreasing.
            exchange_ns: Times at which something can happen to our orders, in any order.
        """
        times = np.unique(exchange_ns)
        known = np.maximum.accumulate(times + self.response(times))
        last = np.searchsorted(known, local_ns, side="right") - 1
        before = int(min(times[0], local_ns[0])) - 1
        return np.where(last >= 0, times[np.maximum(last, 0)], before)


def nanoseconds(name: str, seconds: float) -> int:
    """A duration as whole nanoseconds.

    Raises:
        ValueError: It is negative or not finite.
    """
    if not 0 <= seconds < np.inf:
        raise ValueError(f"{name} is {seconds}, expected a finite number of seconds >= 0")
    return round(seconds * NS)


class ConstantLatency(AbstractLatency):
    """The same for every message [s]."""

    def __init__(self, order_latency: float, response_latency: float):
        self.entry_ns = nanoseconds("order_latency", order_latency)
        self.response_ns = nanoseconds("response_latency", response_latency)

    def entry(self, sent_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See the base class."""
        return np.full(len(sent_ns), self.entry_ns), np.zeros(len(sent_ns), bool)

    def response(self, exchange_ns: np.ndarray) -> np.ndarray:
        """See the base class."""
        return np.full(len(exchange_ns), self.response_ns)

    def known_until(self, local_ns: np.ndarray, exchange_ns: np.ndarray) -> np.ndarray:
        """See the base class; exact between events too."""
        return local_ns - self.response_ns


class RandomLatency(AbstractLatency):
    """Log-normal latencies, drawn anew for every message from a seed [s].

    Args:
        order_latency: Median from us to the exchange.
        response_latency: Median back.
        spread: Standard deviation of the logarithm; 0.5 puts one message in twenty beyond 2.3 medians.
        seed: Of the draws.
    """

    def __init__(self, order_latency: float, response_latency: float, spread: float, seed: int):
        self.medians = nanoseconds("order_latency", order_latency), nanoseconds("response_latency", response_latency)
        if not 0 <= spread < 10:
            raise ValueError(f"spread is {spread}, expected a standard deviation of the logarithm in [0, 10)")
        self.spread, self.seed = spread, seed

    def _draw(self, way: int, n: int) -> np.ndarray:
        noise = np.random.default_rng((self.seed, way)).standard_normal(n)
        return np.rint(self.medians[way] * np.exp(self.spread * noise)).astype(np.int64)

    def entry(self, sent_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See the base class."""
        return self._draw(0, len(sent_ns)), np.zeros(len(sent_ns), bool)

    def response(self, exchange_ns: np.ndarray) -> np.ndarray:
        """See the base class."""
        return self._draw(1, len(exchange_ns))


@dataclasses.dataclass(frozen=True)
class RecordedLatency(AbstractLatency):
    """Linear interpolation of measured round trips, the first and last of them beyond the ends.

    Source: docs/equations.md, section on replay latency (hftbacktest's interpolated order latency). A measured exchange time of
    0 or less, or one before the request, marks a message that the venue refused.

    Args:
        request_ns: int64 (M,), when each request was sent; increasing.
        exchange_ns: int64 (M,), when the exchange handled it.
        response_ns: int64 (M,), when its answer arrived.
    """

    request_ns: np.ndarray
    exchange_ns: np.ndarray
    response_ns: np.ndarray

    def __post_init__(self):
        shapes = {np.shape(x) for x in (self.request_ns, self.exchange_ns, self.response_ns)}
        if len(shapes) != 1 or len(self.request_ns) == 0:
            raise ValueError(f"recorded latencies have shapes {shapes}, expected three equally long, non-empty arrays")
        if (np.diff(self.request_ns) <= 0).any():
            raise ValueError("request times of recorded latencies must increase")
        if (self.response_ns < self.request_ns).any():
            raise ValueError("a recorded response lies before its request")

    def entry(self, sent_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See the base class."""
        first = self.request_ns[0]
        refused = self.exchange_ns < self.request_ns
        one_way = np.where(refused, self.response_ns, self.exchange_ns) - self.request_ns
        at = (sent_ns - first).astype(float)
        # Between two measurements both count, beyond the ends the first or the last alone.
        before = np.searchsorted(self.request_ns, sent_ns, side="right") - 1
        is_refused = refused[np.maximum(before, 0)] | refused[np.minimum(before + 1, len(refused) - 1)]
        latency = np.interp(at, (self.request_ns - first).astype(float), one_way.astype(float))
        return np.rint(latency).astype(np.int64), is_refused

    def response(self, exchange_ns: np.ndarray) -> np.ndarray:
        """See the base class."""
        good = self.exchange_ns >= self.request_ns
        if not good.any():
            return np.zeros(len(exchange_ns), np.int64)
        at, back = self.exchange_ns[good], (self.response_ns - self.exchange_ns)[good]
        order = np.argsort(at, kind="stable")
        at, back = at[order], back[order]
        latency = np.interp((exchange_ns - at[0]).astype(float), (at - at[0]).astype(float), back.astype(float))
        return np.rint(latency).astype(np.int64)
