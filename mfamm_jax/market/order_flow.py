"""A limit order book that random orders act on, and the record they leave."""

import bisect
import dataclasses
from typing import no_type_check

import numpy as np

from mfamm_jax.market.events import BookSnapshots, BookUpdates, Kind

BID, ASK = 1, -1


class Side:
    """Orders of one side: price levels best first, first in first out within a level."""

    def __init__(self, side: int):
        self.side = side
        self.keys: list[int] = []  # -price for bids, price for asks: ascending = best first
        self.levels: dict[int, dict[int, int]] = {}
        self.where: dict[int, int] = {}
        self.ids: list[int] = []

    @no_type_check  # called millions of times
    def price(self, key: int) -> int:
        """Ticks of a level."""
        return -self.side * key

    @property
    def best(self) -> int:
        """Best price [ticks]."""
        return self.price(self.keys[0])

    @no_type_check  # called millions of times
    def volume(self, key: int) -> int:
        """Shares at a level."""
        return sum(self.levels[key].values())

    def add(self, order_id: int, price: int, size: int) -> None:
        """New order at the end of its level's queue."""
        key = -self.side * price
        if key not in self.levels:
            bisect.insort(self.keys, key)
            self.levels[key] = {}
        self.levels[key][order_id] = size
        self.where[order_id] = key
        self.ids.append(order_id)

    def reduce(self, order_id: int, size: int) -> None:
        """Takes shares off an order; an empty order and an empty level disappear."""
        key = self.where[order_id]
        level = self.levels[key]
        level[order_id] -= size
        if level[order_id] == 0:
            del level[order_id], self.where[order_id]
            if not level:
                del self.levels[key]
                self.keys.pop(bisect.bisect_left(self.keys, key))

    def pick(self, rng: np.random.Generator) -> int:
        """A random order; finished ones are dropped from the list when met."""
        while True:
            index = int(rng.integers(len(self.ids)))
            order_id = self.ids[index]
            if order_id in self.where:
                return order_id
            self.ids[index] = self.ids[-1]
            self.ids.pop()

    @no_type_check  # called millions of times
    def shown(self, n_levels: int) -> tuple[list[int], list[int]]:
        """Prices and sizes of the best levels."""
        keys = self.keys[:n_levels]
        return [self.price(key) for key in keys], [self.volume(key) for key in keys]


@dataclasses.dataclass
class Record:
    """Messages and book rows, appended one by one."""

    n_levels: int
    messages: list[tuple[int, int, int, int, int, int]] = dataclasses.field(default_factory=list)
    books: list[tuple[list[int], list[int], list[int], list[int]]] = dataclasses.field(default_factory=list)

    def append(
        self, t_ns: int, kind: Kind, side: int, price: int, size: int, order_id: int, book: dict[int, Side]
    ) -> None:
        """One message and the book after it."""
        self.messages.append((t_ns, int(kind), side, price, size, order_id))
        self.books.append((*book[BID].shown(self.n_levels), *book[ASK].shown(self.n_levels)))

    def arrays(self) -> tuple[BookUpdates, BookSnapshots]:
        """Struct of arrays."""
        t_ns, kind, side, price, size, order_id = (np.array(column) for column in zip(*self.messages))
        updates = BookUpdates(
            t_ns=t_ns.astype(np.int64),
            kind=kind.astype(np.int8),
            side=side.astype(np.int8),
            price_ticks=price.astype(np.int32),
            size=size.astype(np.float32),
            order_id=order_id.astype(np.uint64),
        )
        columns = [self._padded(column) for column in zip(*self.books)]
        return updates, BookSnapshots(
            bid_ticks=columns[0].astype(np.int32),
            bid_size=columns[1].astype(np.float32),
            ask_ticks=columns[2].astype(np.int32),
            ask_size=columns[3].astype(np.float32),
        )

    def _padded(self, rows: tuple[list[int], ...]) -> np.ndarray:
        return np.array([row + [0] * (self.n_levels - len(row)) for row in rows])
