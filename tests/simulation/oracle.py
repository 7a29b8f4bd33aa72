"""A slow exchange and trader, one message after the other in plain Python, to check the replay against.

Written from the rules (docs/equations.md, Q-1 to Q-3 and F-1 to F-3, and the docstrings of the options), not from the
replay's formulas: books are dictionaries, queues of single orders are lists in which our order stands, time is a heap of
things that happen, and what we know of our own orders is a log of answers. Prices are absolute ticks.
"""

import dataclasses
import heapq
import math

import numpy as np

from mfamm_jax.market.events import NS, Kind

from .oracle_books import ASK, BID, OrderBook, RowBook, make_book

MARKET, ARRIVE, DECIDE = 0, 1, 2  # order within a nanosecond

RULES = {
    "queue_model": "power",
    "queue_power": 2.0,
    "partial_fills": True,
    "hidden_fills": False,
    "post_only": True,
    "rounding": "away",
    "improves_touch": True,
    "n_levels": 1,
    "level_ticks": 1.0,
    "contract": "linear",
    "fee_model": "quantity",
    "maker_fee": 0.0,
    "taker_fee": 0.0,
    "lot_size": 100.0,
    "size_increment": 1.0,
    "refresh_ticks": 1.0,
    "max_age": math.inf,
    "max_inventory": math.inf,
    "max_notional": math.inf,
}


@dataclasses.dataclass
class Order:
    """One of our orders at the exchange. `level` is None while our price is out of sight."""

    tick: int
    left: float
    front: float
    level: float | None
    traded: float = 0.0
    decision: int = -1


@dataclasses.dataclass
class Outcome:
    fills: list = dataclasses.field(default_factory=list)  # (ns, side, price in ticks, lots)
    inventory: float = 0.0
    cash: float = 0.0
    fees: float = 0.0
    capture: float = 0.0
    pnl: float = 0.0
    rejected: int = 0
    n_orders: dict = dataclasses.field(default_factory=lambda: {BID: 0, ASK: 0})
    n_fills: dict = dataclasses.field(default_factory=lambda: {BID: 0, ASK: 0})
    most: float = 0.0
    peak: float = 0.0
    drawdown: float = 0.0
    resting: list = dataclasses.field(default_factory=list)  # (ns, bid rests, ask rests)

    def quoted(self, side, until_ns):
        """Seconds with a resting order of that side."""
        total, column = 0, 1 if side == BID else 2
        for now, then in zip(self.resting, [*self.resting[1:], (until_ns, False, False)]):
            if now[column]:
                total += max(min(then[0], until_ns) - now[0], 0)
        return total / NS


def behind(model, front, back, power):
    """Q-1; with nothing in front everything that leaves stood behind."""
    if front <= 0:
        return 1.0
    back = max(back, 0.0)
    if model in ("log", "log2"):
        total = math.log1p(front + back) if model == "log2" else math.log1p(front) + math.log1p(back)
        return math.log1p(back) / total
    if model == "power":
        return back**power / (back**power + front**power)
    if model == "power2":
        return back**power / (back + front) ** power
    return 1 - (front / (front + back)) ** power


def down(lots, increment):
    return math.floor(lots / increment + 1e-6) * increment


class Simulation:
    """One trader at one exchange; `run` plays the session."""

    def __init__(self, session, policy, timing, rules, reference_ticks):
        unknown = set(rules) - set(RULES)
        assert not unknown, unknown
        self.session, self.policy, self.rules = session, policy, RULES | rules
        self.tick, self.reference = session.tick_size, reference_ticks * session.tick_size
        self.timing = {"response_latency": 0.0, "order_latency": 0.0, "feed_latency": 0.0} | timing
        self.book, self.local = make_book(session), make_book(session)
        self.mid = self.local_mid = None  # in ticks, carried while a side is empty
        self.trading = True
        self.orders = {}  # (side, slot) -> Order
        self.sent = {}  # (side, slot) -> (tick, size, decision)
        self.out = Outcome()
        self.arrived = -1
        self.log = []  # (when we know it, inventory, cash, {key: (tick, left, decision)}, last decision that arrived)

    # Time.

    def run(self):
        updates, timing = self.session.updates, self.timing
        t_ns = [int(t) for t in updates.t_ns]
        start, end = timing.get("start_ns"), timing.get("end_ns")
        start, end = t_ns[0] if start is None else start, t_ns[-1] if end is None else end
        received = t_ns if updates.local_ns is None else [int(t) for t in updates.local_ns]
        received = [t + round(timing["feed_latency"] * NS) for t in received]
        self.end = end
        step = timing["decision_interval"]
        if step is None:
            self.decisions = sorted({t for t in received if start <= t < end})
        else:
            self.decisions = list(range(start, end, round(step * NS)))
        self._latencies([t for t in t_ns if t <= end])
        heap = [(t, MARKET, row, None) for row, t in enumerate(t_ns) if t <= end]
        heap += [(t, DECIDE, number, None) for number, t in enumerate(self.decisions)]
        heapq.heapify(heap)
        arrives = sorted((t, row) for row, t in enumerate(received))
        while heap:
            now, what, number, message = heapq.heappop(heap)
            if what == DECIDE:
                while arrives and arrives[0][0] <= now:
                    self._receive(arrives.pop(0)[1])
                message = self._decide(now, number)
                if not self.refused[number] and self.arrivals[number] <= end:
                    heapq.heappush(heap, (self.arrivals[number], ARRIVE, number, message))
                continue
            if what == MARKET:
                self._event(now, number)
            else:
                self._arrive(now, number, message)
            self._mark(now)
        out = self.out
        out.pnl = out.cash + out.inventory * self._worth(self.mid * self.tick)
        return out

    def _latencies(self, event_ns):
        timing = self.timing
        model = timing["order_latency"]
        if isinstance(model, float | int):
            entry, self.refused = [round(model * NS)] * len(self.decisions), [False] * len(self.decisions)
        else:
            entry, self.refused = (list(x) for x in model.entry(np.array(self.decisions, np.int64)))
        # No message overtakes another.
        self.arrivals, latest = [], -(2**62)
        self.refusal = [sent + int(takes) for sent, takes in zip(self.decisions, entry)]  # when we hear of it
        for sent, takes, refused in zip(self.decisions, entry, self.refused):
            latest = latest if refused else max(latest, sent + int(takes))
            self.arrivals.append(latest)
        self.answer = {}
        reached = (t for t, refused in zip(self.arrivals, self.refused) if not refused)
        happens = sorted({*event_ns, *(t for t in reached if t <= self.end)})
        if isinstance(model, float | int):
            back = [round(timing["response_latency"] * NS)] * len(happens)
        else:
            back = list(model.response(np.array(happens, np.int64)))
        latest = -(2**62)
        for t, takes in zip(happens, back):
            latest = max(latest, t + int(takes))
            self.answer[t] = latest

    # The market.

    def _message(self, row):
        u = self.session.updates
        return int(u.kind[row]), int(u.side[row]), int(u.price_ticks[row]), float(u.size[row]), int(u.order_id[row])

    def _change(self, book, row):
        if isinstance(book, RowBook):
            return book.set_row(row)
        return book.apply(*self._message(row))

    def _receive(self, row):
        self._change(self.local, row)
        bid, ask = self.local.best(BID), self.local.best(ASK)
        self.local_mid = self.local_mid if bid is None or ask is None else (bid + ask) / 2

    def _event(self, now, row):
        kind, side, tick, size, order = self._message(row)
        if kind == Kind.HALT:
            self.trading = tick == 1
        hidden = kind == Kind.HIDDEN_TRADE
        if (kind == Kind.TRADE or (hidden and self.rules["hidden_fills"])) and self.trading:
            self._trade(now, side, tick, size, order, hidden)
            self._mark(now)  # the trade is seen before the change of the book that it causes
        changed = self._change(self.book, row)
        for (ours, slot), resting in list(self.orders.items()):
            self._move_up(ours, resting, (ours, resting.tick) in changed)
            touch = self.book.best(-ours)
            if self.trading and touch is not None and (resting.tick - touch) * ours >= 0:
                self._fill(now, ours, slot, resting.left)
        bid, ask = self.book.best(BID), self.book.best(ASK)
        self.mid = self.mid if bid is None or ask is None else (bid + ask) / 2

    def _trade(self, now, side, tick, size, order, hidden):
        """An execution against resting orders of `side` (Q-2)."""
        rules = self.rules
        unit = rules["lot_size"] * rules["size_increment"]
        for (ours, slot), resting in list(self.orders.items()):
            if ours != side:
                continue
            if (resting.tick - tick) * ours > 0:
                self._fill(now, ours, slot, resting.left)
            elif resting.tick == tick:
                if rules["queue_model"] == "fifo":
                    if not self.book.stands_behind(ours, tick, (ours, slot), order):
                        continue
                    resting.front = min(resting.front, 0.0)  # our turn had come
                resting.front -= size
                resting.traded += 0.0 if hidden else size
                units = math.floor(0.5 - resting.front / unit) if resting.front < 0 else 0
                if units > 0:
                    resting.front = 0.0
                    wanted = units * rules["size_increment"] if rules["partial_fills"] else resting.left
                    self._fill(now, ours, slot, min(wanted, resting.left))

    def _move_up(self, side, resting, changed):
        """What a new quantity at our price says about our place (Q-3)."""
        shown = self.book.size(side, resting.tick)
        if not self.book.is_shown(side, resting.tick):
            resting.level, resting.traded = None, 0.0
            return
        if resting.level is None:  # it comes into sight: all that is shown stands before us
            resting.front, resting.level, resting.traded = min(resting.front, shown), shown, 0.0
            return
        if not changed:
            return
        if self.rules["queue_model"] == "fifo":
            resting.level = shown
            return
        cancelled = resting.level - shown - resting.traded
        front = resting.front
        if self.rules["queue_model"] != "risk_averse" and cancelled >= 0:
            back = resting.level - front
            p = behind(self.rules["queue_model"], front, back, self.rules["queue_power"])
            front = front - (1 - p) * cancelled + min(back - p * cancelled, 0.0)
        resting.front, resting.level, resting.traded = min(front, shown), shown, 0.0

    # Our orders at the exchange.

    def _worth(self, price):
        return price if self.rules["contract"] == "linear" else -1 / price

    def _fee(self, rate, ticks, lots):
        price = ticks * self.tick
        if self.rules["fee_model"] == "flat":
            return rate
        if self.rules["fee_model"] == "quantity":
            return rate * lots
        return rate * lots * (price if self.rules["contract"] == "linear" else 1 / price)

    def _pay(self, now, side, ticks, lots, rate):
        out, fee = self.out, self._fee(rate, ticks, lots)
        gained = self._worth(self.mid * self.tick) - self._worth(ticks * self.tick)
        out.fills.append((now, side, ticks, lots))
        out.n_fills[side] += 1
        out.inventory += side * lots
        out.cash -= side * lots * self._worth(ticks * self.tick) + fee
        out.fees += fee
        out.capture += side * lots * gained

    def _fill(self, now, side, slot, lots):
        order = self.orders[side, slot]
        order.left -= lots
        if order.left <= 1e-9:
            self._remove(side, slot)
        self._pay(now, side, order.tick, lots, self.rules["maker_fee"])

    def _remove(self, side, slot):
        order = self.orders.pop((side, slot), None)
        if order is not None and isinstance(self.book, OrderBook):
            queue = self.book.queue(side, order.tick)
            queue[:] = [entry for entry in queue if entry.get("ours") != (side, slot)]

    def _arrive(self, now, decision, message):
        self.arrived = decision
        rules = self.rules
        inventory = self.out.inventory  # both sides are judged by the inventory before the message
        for side in (BID, ASK):
            mine = {slot: order for (s, slot), order in message.items() if s == side}
            for slot in mine:
                self._remove(side, slot)
            kept = sum(order.left for (s, _), order in self.orders.items() if s == side)
            for slot, (tick, size) in sorted(mine.items()):
                if size > 0:
                    allowed = self._allowed(side, size, inventory, kept)
                    kept += allowed
                    if allowed <= 0 or not self._enter(now, side, slot, tick, allowed):
                        self.out.rejected += 1
                    else:
                        self.out.n_orders[side] += 1
        assert abs(self.out.inventory) <= rules["max_inventory"] + 1e-9

    def _allowed(self, side, size, inventory, kept):
        rules = self.rules
        if self.book.best(BID) is None and self.book.best(ASK) is None:
            return 0.0
        price = self.mid * self.tick
        limit = rules["max_notional"] / price if rules["contract"] == "linear" else rules["max_notional"] * price
        room = min(rules["max_inventory"], limit) - side * inventory
        if math.isinf(room):
            return size
        return max(down(min(size, room - kept), rules["size_increment"]), 0.0)

    def _enter(self, now, side, slot, tick, size):
        """A new order rests, takes or is refused."""
        touch = self.book.best(-side)
        if touch is not None and (tick - touch) * side >= 0:
            if self.rules["post_only"] or not self.trading:
                return False
            self._take(now, side, tick, size, touch)
            return True
        seen = self.book.is_shown(side, tick)
        shown = self.book.size(side, tick)
        place = shown if seen else math.inf, shown if seen else None
        self.orders[side, slot] = Order(tick, size, *place, decision=self.arrived)
        if isinstance(self.book, OrderBook):
            self.book.queue(side, tick).append({"ours": (side, slot)})
        return True

    def _take(self, now, side, tick, size, touch):
        """All at the best price, or level by level as far as whole lots are shown; the rest is cancelled."""
        if not self.rules["partial_fills"]:
            self._pay(now, side, touch, size, self.rules["taker_fee"])
            return
        left, paid = size, 0.0
        for level in range(touch, tick + side, side):
            lots = min(down(self.book.size(-side, level) / self.rules["lot_size"], self.rules["size_increment"]), left)
            left -= lots
            paid += lots * level
        if size - left > 0:
            self._pay(now, side, paid / (size - left), size - left, self.rules["taker_fee"])

    def _mark(self, now):
        """Statistics, and what we will know of this moment later."""
        out = self.out
        value = 0.0 if self.mid is None else out.cash + out.inventory * self._worth(self.mid * self.tick)
        out.peak = max(out.peak, value)
        out.drawdown = max(out.drawdown, out.peak - value)
        out.most = max(out.most, abs(out.inventory))
        rests = [any(s == side for s, _ in self.orders) for side in (BID, ASK)]
        out.resting.append((now, *rests))
        resting = {key: (order.tick, order.left, order.decision) for key, order in self.orders.items()}
        self.log.append((self.answer[now], out.inventory, out.cash, resting, self.arrived))

    # Our side.

    def _decide(self, now, decision):
        """The message of a decision: {(side, slot): (tick, size)}; size 0 cancels."""
        known = [entry for entry in self.log if entry[0] <= now]
        _, inventory, cash, resting, arrived = known[-1] if known else (0, 0.0, 0.0, {}, -1)
        self.log = self.log[max(len(known) - 1, 0) :]
        wanted = self._wanted(now, decision, inventory, cash)
        message = {}
        for side in (BID, ASK):
            slots = []
            for slot in range(self.rules["n_levels"]):
                tick, size, at = self.sent.get((side, slot), (0, 0.0, -1))
                answered = now >= self.refusal[at] if at >= 0 and self.refused[at] else at <= arrived
                if answered:
                    tick, size, at = resting.get((side, slot), (tick, 0.0, at))
                slots.append((tick, size, at))
            for slot, (tick, size) in enumerate(self._assigned(wanted[side], slots)):
                old, left, at = slots[slot]
                age = math.inf if at < 0 else now - self.decisions[at]
                keeps = 0 < left <= size + 1e-9 and abs(tick - old) < self.rules["refresh_ticks"]
                keeps = keeps and age < self.rules["max_age"] * NS
                if not keeps and (left > 0 or size > 0):
                    message[side, slot] = (tick, size)
                    self.sent[side, slot] = (tick, size, decision)
        return message

    def _assigned(self, wanted, slots):
        """The wanted level of every slot: best level first, each takes the nearest order it can keep, then free slots."""
        if len(slots) == 1:
            return wanted
        slot_of, free = {}, list(range(len(slots)))
        for level, (tick, size) in enumerate(wanted):
            near = [s for s in free if slots[s][1] > 0 and abs(tick - slots[s][0]) < self.rules["refresh_ticks"]]
            if size > 0 and near:
                slot_of[level] = min(near, key=lambda s: (abs(tick - slots[s][0]), s))
                free.remove(slot_of[level])
        for level in range(len(wanted)):
            if level not in slot_of:
                slot_of[level] = free.pop(0)
        return [wanted[level] for level, _ in sorted(slot_of.items(), key=lambda pair: pair[1])]

    def _wanted(self, now, decision, inventory, cash):
        rules, n = self.rules, self.rules["n_levels"]
        nothing = [(0, 0.0)] * n
        if self.local_mid is None:
            return {BID: nothing, ASK: nothing}
        relative_cash = cash + inventory * self._worth(self.reference)
        mid = self.local_mid * self.tick - self.reference
        depths = self.policy(decision, mid, inventory, relative_cash, (self.end - now) / NS)
        wanted = {}
        for side, depth, size in ((BID, depths[0], depths[2]), (ASK, depths[1], depths[3])):
            levels, touch = [], self.local.best(side)
            for level in range(n):
                away = depth / self.tick + level * rules["level_ticks"]
                price = self.local_mid - side * away
                if rules["rounding"] == "nearest":  # half a tick goes away from the mid
                    tick = side * math.ceil(side * price - 0.5 - 1e-6)
                else:
                    tick = side * math.floor(side * price + 1e-6)
                lots = down(size, rules["size_increment"]) if size > 0 else 0.0
                if not rules["improves_touch"]:
                    lots = 0.0 if touch is None else lots
                levels.append((tick, lots))
            if not rules["improves_touch"] and touch is not None:  # the whole grid moves back
                back = max(side * (levels[0][0] - touch), 0)
                levels = [(tick - side * back, lots) for tick, lots in levels]
            wanted[side] = levels
        return wanted


def simulate(session, policy, timing, rules, reference_ticks):
    """Fills and account of a policy (decision, relative mid, inventory, relative cash, time left) -> depths and sizes."""
    return Simulation(session, policy, timing, rules, reference_ticks).run()
