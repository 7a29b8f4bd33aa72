r"""The fluid limit: what (8) literally states, $0 = H_t + \mu q - \phi q^2 + h^+(H_q) + h^-(-H_q)$ on continuous inventory.

The split upwind scheme with cells of 1/m lot - backward difference for asks, forward for bids, each looks where its fills
jump to - is the jump equation of `problem` for lots of that size, filled m times as often. With $H = G/m$, G solves the unit-lot
problem with $\phi/m$, $\mu/m$, $\alpha/m$ and m-fold intensities: every scheme applies as it is, and stays monotone.
The limit is documented, not recommended: with exponential fills its total spread is 2/k whatever the volatility.
"""

import equinox as eqx

from mfamm_jax.solvers.hjb.problem import Grid, HJBProblem


def fluid_limit(problem: HJBProblem, grid: Grid, cells_per_lot: int) -> tuple[HJBProblem, Grid]:
    """Problem and grid whose value, divided by `cells_per_lot`, tends to the fluid value as the cells shrink (first order).

    Inventory q of the fluid is entry q x `cells_per_lot` from the middle; its slope is the jump of the refined value itself.
    """
    if not isinstance(cells_per_lot, int) or cells_per_lot < 1:
        raise ValueError(f"cells_per_lot is {cells_per_lot}, expected a whole number >= 1")
    m = cells_per_lot
    changed = (
        problem.bid.scaled(float(m)),
        problem.ask.scaled(float(m)),
        problem.inventory_penalty / m,
        problem.terminal_penalty / m,
        problem.drift / m,
    )
    fields = ("bid", "ask", "inventory_penalty", "terminal_penalty", "drift")
    refined = eqx.tree_at(lambda p: [getattr(p, name) for name in fields], problem, list(changed))
    return refined, Grid(grid.max_inventory * m, grid.n_steps)
