"""The kernel in Python's own integers, one state at a time, written from the formats and not from the JAX model."""

from fractions import Fraction
from math import floor


def half_up(x):
    """Nearest integer, ties up."""
    return floor(x + Fraction(1, 2))


def weights(axis, code):
    """(lower node, exact share of the upper one)."""
    codes = [int(c) for c in axis.codes()]
    node = max(i for i in range(len(codes) - 1) if codes[i] <= code)
    return node, Fraction(code - codes[node], codes[node + 1] - codes[node])


def interpolated(form, table, axes, row, channel):
    """Along the first axis with guard bits, then along the others; rounded half up each time."""

    def value(depth, nodes):
        if depth == 0:
            return int(table[(row, *nodes, channel)])
        node, share = axes[depth - 1]
        low, high = value(depth - 1, (node, *nodes)), value(depth - 1, (node + 1, *nodes))
        guard = form.guard_bits if depth == 1 else 0
        return low * 2**guard + half_up(share * (high - low) * 2**guard)

    return value(len(axes), ())


def slow(form, table, registers, state):
    """Offsets and depths of one state."""
    spec = form.spec
    q = max(-spec.max_inventory, min(spec.max_inventory, state["inventory"]))
    risk = min(state["risk"], (spec.risk.n_nodes - 1) * 2**spec.risk.fraction_bits - 1)
    top = form.skew_limit - (1 if spec.skew is not None else 0)
    skew = max(-form.skew_limit, min(top, state["skew"]))
    saturated = int((q, risk, skew) != (state["inventory"], state["risk"], state["skew"]))
    codes = {"time": state["time"], "risk": risk, "skew": skew + form.skew_limit}
    axes = [weights(axis, codes[axis.name]) for axis in spec.axes]
    row = q + spec.max_inventory
    widening = half_up(
        Fraction(max(state["vpin"] - registers["vpin_gate"], 0), 4096)
        * Fraction(registers["vpin_widen"], 256)
        * 2**form.fraction
    )
    depth = []
    for side in range(2):
        total = interpolated(form, table, axes, row, side)
        if form.slope is not None:
            slope = Fraction(
                interpolated(form, table, axes, row, 2 + side), 2 ** (form.slope.fraction + form.guard_bits)
            )
            total += half_up(slope * Fraction(skew, 1024) * 2**form.fraction)
        depth.append(max(registers["depth_min"], min(registers["depth_max"], total + widening)))
    ask, bid = (Fraction(d, 2**form.fraction) for d in depth)
    size = registers["order_size"] if registers["order_size"] <= registers["max_order_size"] else 0
    if state["vpin"] >= registers["vpin_stop"] or (saturated and registers["saturated_stops"]):
        size = 0
    return {
        "ask": ask,
        "bid": bid,
        "ask_depth": depth[0],
        "bid_depth": depth[1],
        "saturated": saturated,
        "bid_size": max(0, min(size, registers["inventory_limit"] - q)),
        "ask_size": max(0, min(size, registers["inventory_limit"] + q)),
    }


def quote(form, table, registers, state, book):
    """Quotes from the exact mid: ask rounded up, bid rounded down, then the guards."""
    found = slow(form, table, registers, state)
    crossed = book["bid"] >= book["ask"] or book["bid"] < 1 or book["ask"] >= 2**30
    mid = Fraction(book["bid"] + book["ask"], 2)
    ask, bid = -floor(-(mid + found["ask"])), floor(mid - found["bid"])
    ask, bid = max(ask, book["bid"] + 1), min(bid, book["ask"] - 1)
    on, flags = {}, (4 if found["saturated"] else 0) | (16 if crossed else 0)
    for name, price, bit in (("bid", bid, 1), ("ask", ask, 2)):
        wanted = not crossed and found[f"{name}_size"] > 0
        inside = registers["price_low"] <= price <= registers["price_high"]
        on[name] = wanted and inside
        flags |= bit if on[name] else 0
        flags |= 8 if wanted and not inside else 0
    return {
        "bid": bid if on["bid"] else 0,
        "ask": ask if on["ask"] else 0,
        "bid_size": found["bid_size"] if on["bid"] else 0,
        "ask_size": found["ask_size"] if on["ask"] else 0,
        "flags": flags,
    } | {name: found[name] for name in ("ask_depth", "bid_depth")}
