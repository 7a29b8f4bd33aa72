"""Cases of `test_lowering`: path of a function below `mfamm_jax`, after a space what is special -> its arguments."""

# ruff: noqa: F403, F405

import jax
import jax.numpy as jnp

from mfamm_jax.features.book_shape import RobustScale
from mfamm_jax.features.wavelet import Morlet
from mfamm_jax.features.wavelet_bank import wavelet_filters, wavelet_variance
from mfamm_jax.fpga_export import kernel
from mfamm_jax.models import impact, spline
from mfamm_jax.policies import avellaneda_stoikov, routing, rules
from mfamm_jax.risk.attribution import attribute
from mfamm_jax.simulation import replay
from mfamm_jax.simulation.adversary import Ambiguity
from mfamm_jax.simulation.invariants import Fuzz
from mfamm_jax.simulation.opponent import Powers
from mfamm_jax.simulation.spread_trading import BandPlan
from mfamm_jax.simulation.step import StepRecord
from mfamm_jax.solvers import hjb, mean_reversion, qaoa
from mfamm_jax.solvers.calibrate import Box
from mfamm_jax.solvers.transport_execution import SlotCosts
from mfamm_jax.solvers.triplet import TripletLoss

from .lowering_inputs import *


def box():
    return Box(jnp.array([0.1, -1.0]), jnp.ones(2), (True, False))


# fmt: off
# What has derivatives that somebody takes: the gradient is lowered too.
SMOOTH = {
    **{f"solvers.hjb.problem:solve_hjb {name}": lambda f=f: given(*f()) for name, f in SCHEMES.items()},
    **{f"solvers.hjb.problem:{path} {name}": lambda f=f: given(curved(f()), draws(7))
       for path in ("HJBProblem.value_rate", "optimal_depths") for name, f in CURVES.items()},
    "solvers.hjb.problem:indifference_costs": lambda: given(symmetric(), draws(7)),
    "solvers.hjb.problem:rulebook_penalty": lambda: given(number(0.1), number(0.3)),
    "solvers.hjb.states:signal_generator": lambda: given(rising(5), number(0.5), number(0.3)),
    "solvers.hjb.states:solve_intervals": lambda: given(symmetric(horizon=rising(3)), hjb.ExplicitRK(4), GRID),
    "solvers.hjb.fluid:fluid_limit": lambda: given(symmetric(), GRID, 4),
    **within("solvers.closed_form", {
        "stationary_depths": lambda: given(side(), number(0.02), draws(3), number(0.1)),
        "quadratic_value": lambda: given(*rising(4)),
        **each("hamiltonian_curvature hamiltonian_slope", lambda: given(side(), number(0.1), number(0.05))),
        "stationary_quadratic_value": lambda: given(definite(2), rising(2)),
        "fluid_stationary_slope": lambda: given(side(), number(0.02), draws(3)),
        "ambiguity_penalties": lambda: given(*rising(3)),
        "quadratic_skew": lambda: given(*rising(3), tuple(rising(2)), tuple(rising(2)), number(2.0)),
        "matrix_quadratic_value": lambda: given(definite(2), rising(2), rising(2), number(2.0)),
        "cartea_jaimungal_value": lambda: given(*rising(6), 3),
        "avellaneda_stoikov_depths": lambda: given(*rising(3), number(), number(2.0)),
        "frozen_inventory_prices": lambda: given(*rising(2), number(), number(2.0)),
        "stationary_inventory_prices": lambda: given(number(0.1), number(), 5),
        "glft_coefficients": lambda: given(side(), *rising(3)),
        "uneven_stationary_depths": lambda: given(side(), side(), number(0.02), number(), number(0.1)),
    }),
    **each("models.curves:lambert_w_of_exp models.intensity:log1p_ratio", lambda: given(draws(5))),
    "models.curves:newton_margin": lambda: given(side().log_intensity, rising(3), number(0.1), rising(3), 4),
    "models.intensity:utility": lambda: given(draws(3), number(0.1)),
    "models.mid_price:normal_of": lambda: given(rising(3, 0.1, 0.9)),
    "models.intensity:gate_factor": lambda: given(*rising(4)),
    "models.intensity:LogLinearScale.__call__": lambda: given(scale_of_covariates(), draws(6), *rising(2)),
    **within("models.ball", {
        **each("project conformal_factor exp_origin log_origin", lambda: given(0.1 * draws(4, 3), number())),
        **each("mobius_add distance exp_at log_at riemannian_gradient", lambda: given(*0.1 * draws(2, 4, 3), number())),
        "mobius_scale": lambda: given(number(0.5), 0.1 * draws(4, 3), number()),
        "mobius_matvec": lambda: given(draws(2, 3), 0.1 * draws(4, 3), number()),
        "midpoint": lambda: given(0.1 * draws(4, 3), shares(4), number()),
        **each("tanh_over atanh_over", lambda: given(0.1 * draws(3))),
    }),
    **{f"models.hyperbolic:AllocationNetwork.__call__ {mean}": lambda mean=mean: given(
        allocator(mean), draws(2, 5), edges()
    ) for mean in ("midpoint", "local_tangent", "rulebook")},
    "models.hyperbolic:aggregate": lambda: given(0.1 * draws(2, 3), shares(2, 2), number(), "midpoint"),
    "models.hyperbolic:attention_by_distance": lambda: given(0.1 * draws(2, 3), edges(), number(), number()),
    "models.boosted_trees:BoostedTrees.soft_margin": lambda: given(trees(), draws(5, 3), rising(3)),
    "models.boosted_trees:depth_table": lambda: given(trees(), draws(3), rising(4), rising(3)),
    "models.imbalance_network:ImbalanceNetwork.score": lambda: given(*imbalance_network()),
    "models.delay_network:FreeDelayNetwork.response": lambda: given(*delay_network()),
    "models.delay_network:HammersteinNetwork.response": lambda: given(hammerstein(), draws(12)),
    "models.delay_network:hinge_basis": lambda: given(draws(12), rising(3)),
    "models.delay_network:causal_convolution": lambda: given(draws(12), draws(12)),
    **within("models.impact", {
        "price_path": lambda: given(draws(8), number(), exponentials(), concave()),
        "price_path PowerKernel": lambda: given(draws(8), number(), impact.PowerKernel(0.5), concave()),
        "price_path ShiftedPowerKernel": lambda: given(draws(8), number(), impact.ShiftedPowerKernel(), concave()),
        "price_path_by_state": lambda: given(draws(8), number(), exponentials(), concave()),
        "trading_cost": lambda: given(draws(8), number(), exponentials(), concave(), number(0.1)),
        "metaorder": lambda: given(number(), number(), rising(4), impact.PowerKernel(0.5), concave()),
    }),
    **within("models.loss_flow", {
        "freedom_of": lambda: given(number(0.3)),
        **each("LossFlow.log_density LossFlow.log_survival", lambda: given(flow(), draws(5))),
        "LossFlow.survival_quantile": lambda: given(flow(), rising(5, 0.01, 0.9)),
        "LossFlow.sample": lambda: given(flow(), key(), 5),
        "ConditionalLossFlow.log_density": lambda: given(conditional(), draws(5), draws(5, 2)),
    }),
    "models.joint_loss_flow:JointLossFlow.log_density": lambda: given(joint(), draws(5, 3)),
    "models.joint_loss_flow:JointLossFlow.sample": lambda: given(joint(), key(), 5),
    **each("models.spline:spline_forward models.spline:spline_inverse", lambda: given(
        draws(5), flow().layers.bins[0], 3.0
    )),
    "models.spline:through_layers": lambda: given(spline.spline_forward, draws(5), flow().layers),
    **each("models.student_t:log_density models.student_t:log_survival", lambda: given(draws(5), number(4.0))),
    "models.student_t:survival_quantile": lambda: given(rising(5, 0.01, 0.9), number(4.0)),
    "models.student_t:sample": lambda: given(key(), number(4.0), 5),
    **within("models.cointegration", {
        **each("cointegrate common_vector", lambda: given(jnp.stack([definite(3)] * 2), definite(3))),
        "generalised_eigenvalues": lambda: given(definite(3), definite(3)),
        "projector": lambda: given(definite(3), definite(3), 1),
        "scale_covariance": lambda: given(draws(2, 3, 9), jnp.ones((2, 9), bool)),
        "increment_covariance": lambda: given(draws(9, 3)),
        "scaled_weights": lambda: given(draws(3)),
        "log_slope": lambda: given(rising(3), rising(3)),
    }),
    "models.ising:cost_diagonal": lambda: given(model()),
    "models.ising:qubo_to_ising": lambda: given(draws(4), model().edges, draws(4), number(0.1)),
    **each("models.ising:ising_to_qubo models.ising:with_ancilla", lambda: given(model())),
    "features.vpin:bucket_volumes": lambda: given(rising(9), jnp.sign(draws(9)), number(2.0), 4),
    **each("features.vpin:vpin_ewma features.vpin:vpin_literal", lambda: given(rising(9), rising(9), number(0.1))),
    "features.vpin:vpin_window": lambda: given(rising(9), rising(9), 3),
    "features.vpin:bulk_buy_fraction": lambda: given(draws(9), number(0.3)),
    "features.vpin:vpin_at_trades": lambda: given(rising(9), jnp.sign(draws(9)), number(2.0), number(0.1), 4),
    "features.wavelet:wavelet_transform": lambda: given(draws(32), rising(2, 2.0, 4.0), n_padding=40),
    "features.wavelet:wavelet_transform Morlet": lambda: given(draws(32), rising(2, 2.0, 4.0), Morlet(), n_padding=40),
    **each("features.wavelet_bank:undecimated_transform features.wavelet_bank:decimated_transform", lambda: given(
        draws(32), wavelet_filters("db2"), 2
    )),
    "policies.avellaneda_stoikov:AvellanedaStoikovPolicy.__call__": lambda: given(
        avellaneda_stoikov.AvellanedaStoikovPolicy(0.1, 0.3, 1.5), state()
    ),
    "policies.value_table:ValueTablePolicy.__call__": lambda: given(table_policy(), state()),
    "policies.value_table:risk_nodes": lambda: given(number(2.0), 3),
    "policies.value_table:tabulate": lambda: given(
        symmetric(), hjb.TaylorAction(1, 8), GRID, table_axes(), risk_aversion=number(0.1)
    ),
    "policies.regime_table:tabulate_regimes": lambda: given(
        regimes(), hjb.ExplicitRK(4), GRID, regime_map(), risk=rising(2), risk_aversion=number(0.1)
    ),
    "policies.routing:water_filling": lambda: given(number(), rising(3), rising(3), rising(3)),
    "policies.routing:convex_split": lambda: given(venues(), number(400.0)),
    "policies.routing_qubo:venue_qubo": lambda: given(
        venues(), number(400.0), number(0.3), n_slack=2, capacity_penalty=number(50.0)
    ),
    **each("risk.cvar:empirical_tail_risk risk.cvar:loss_tail_risk", lambda: given(draws(50), number(0.9))),
    "risk.cvar:loss_tail_risk of weights": lambda: given(draws(50), number(0.9), shares(50)),
    **each("risk.cvar:reweighted_tail_risk risk.cvar:rulebook_tail_risk", lambda: given(*draws(2, 50), number(0.9))),
    "risk.cvar:quadrature_tail_risk": lambda: given(flow().survival_quantile, number(0.9)),
    "risk.drawdown:max_drawdown": lambda: given(draws(9)),
    "risk.drawdown:barrier_probability": lambda: given(*rising(4)),
    "risk.drawdown:barrier_scale": lambda: given(*rising(4)),
    "risk.drawdown:bridge_breach": lambda: given(draws(9), rising(8), number(3.0)),
    **each("risk.drawdown:log_bridge_survival risk.drawdown:log_bridge_stay", lambda: given(
        *[rising(8)] * 3, jnp.zeros(8, bool)
    )),
    "risk.drawdown:barrier_survival": lambda: given(draws(8, 3), draws(8, 3), draws(8, 3) ** 2, number(3.0)),
    "risk.drawdown:drawdown_survival": lambda: given(draws(8, 3), draws(8, 3), draws(8, 3) ** 2, number(3.0), key()),
    "risk.drawdown:breach_probability": lambda: given(draws(8, 3), draws(8, 3)),
    "risk.drawdown:bridge_drawdown_breach": lambda: given(draws(9), rising(8), number(3.0), key()),
    "risk.drawdown:max_drawdown_probability": lambda: given(number(0.3), number(2.0), rising(3)),
    "risk.drawdown:expected_max_drawdown": lambda: given(number(0.3), number(2.0)),
    "risk.drawdown:square_root_barrier": lambda: given(rising(5), number(0.3), number(2.0)),
    "simulation.episode:episode_law": lambda: given(*played()[0][:4], 3),
    "simulation.breach:simulate_pnl": lambda: given(*played()[0][:4], 3, key()),
    "simulation.episode:step_outcomes": lambda: given(
        market(), quotes(), (rising(5, 0.1, 0.4), rising(5, 0.1, 0.4)), draws(5), number(0.1), number(0.01)
    ),
    "simulation.episode:shifted": lambda: given(draws(5), 1),
    **within("simulation.adversary", {
        "Ambiguity.market": lambda: given(Ambiguity(), market(), draws(8)),
        "parameters_of": lambda: given(market()),
        "certainty_equivalent": lambda: given(*played()[0][:4], 3, number(0.5)),
    }),
    "simulation.opponent:play": lambda: opposed(choose=opponent()),
    "simulation.opponent:worst_play": lambda: opposed(powers=Powers(0.1, 0.2)),
    "simulation.opponent:Opponent.__call__": lambda: given(opponent(), Quotes(*rising(4, 0.1, 1.0)[:, None] * jnp.ones(7)), number(), draws(7)),
    **within("solvers.transport", {
        "solve_transport": transported,
        "solve_transport unbalanced": lambda: transported(source_penalty=number(), sink_penalty=number(0.5)),
        "solve_transport by plan": lambda: transported(plan_gradient=True),
        "priced_transport": lambda: given(draws(3), draws(4), draws(3, 4), masses(), number(0.2)),
        "in_gauge": lambda: given(draws(3), draws(4), masses()),
        "with_slack": lambda: given(draws(3, 4), 2 * shares(3), shares(4), number(5.0)),
        "transport_on_a_line": lambda: given(draws(4), draws(5)),
        "gaussian_transport": lambda: given(draws(3), definite(3), draws(3), definite(3), number(0.1)),
        "symmetric_power": lambda: given(definite(3), 0.5),
    }),
    **within("solvers.transport_execution", {
        "kyle_matrix": lambda: given(definite(3), definite(3)),
        "impact_cost": lambda: given(draws(3, 4), definite(3), definite(4)),
        "plan_execution": lambda: execution("full"),
        "plan_execution frozen": lambda: execution("frozen"),
        "SlotCosts.matrix": lambda: given(SlotCosts(*[rising(3)] * 3, definite(3), *[rising(3)] * 2)),
    }),
    **within("solvers.allocation", {
        "jensen_shannon": lambda: given(shares(3), shares(3)),
        "exposure_risk": lambda: given(draws(3, 2), definite(2)),
        "allocation_reward": lambda: given(
            shares(3), shares(3), draws(3), draws(3, 2), definite(2), risk_weight=number(), divergence_weight=number()
        ),
        **each("mean_std_allocation simplex_allocation", lambda: given(draws(3), definite(3), number(5.0))),
    }),
    "solvers.likelihood:log_likelihood": lambda: given(draws(2), draws(9, 2), rising(9), rising(9)),
    "solvers.mean_reversion:fit_reversion": lambda: given(draws(30)),
    "solvers.mean_reversion:scaled_erfi": lambda: given(draws(3)),
    "solvers.mean_reversion:best_band": lambda: given(mean_reversion.Reversion(*rising(4)), number(0.1)),
    "solvers.mean_reversion:gain_rate": lambda: given(mean_reversion.Reversion(*rising(4)), number(0.5), number(0.1)),
    "solvers.qaoa:qaoa_energy": lambda: given(draws(64), angles()),
    "solvers.qaoa:qaoa_energy traced": lambda: given(draws(64), angles(), adjoint=False),
    **each("solvers.qaoa:qaoa_probabilities solvers.qaoa:qaoa_state", lambda: given(draws(64), angles())),
    "solvers.qaoa:linear_ramp": lambda: given(3, number(), number()),
    "solvers.qaoa:interpolate_angles": lambda: given(angles(), 4),
    **each("solvers.one_hot_qaoa:one_hot_state solvers.one_hot_qaoa:one_hot_energy", lambda: given(
        draws(9), 3, angles()
    )),
    "solvers.qaoa_large_girth:large_girth_energy": lambda: given(3, angles()),
    **each("solvers.qaoa_one_layer:one_layer_expectations solvers.qaoa_one_layer:one_layer_energy", lambda: given(
        model(), around(), number(0.3), number(0.4)
    )),
    "solvers.schedule:impact_matrix": lambda: given(impact.PowerKernel(0.5), rising(4)),
    "solvers.schedule:best_schedule": lambda: given(definite(4), number(10.0)),
    "solvers.schedule:obizhaeva_wang": lambda: given(*rising(4)),
    "solvers.schedule:obizhaeva_wang_trades": lambda: given(*rising(4), 4),
    "solvers.schedule:power_law_schedule": lambda: given(rising(4), number(3.0), number(10.0), number(0.4)),
    "solvers.schedule:almgren_chriss": lambda: given(number(10.0), number(3.0), 4, *rising(5)),
    "solvers.schedule:schied_zhang": lambda: given(definite(4), number(10.0), number(5.0), number(0.5)),
    "solvers.schedule:budget_adversary": lambda: given(draws(4), definite(4), number()),
    "solvers.schedule_search:search_schedule": lambda: given(
        exponentials(), concave(), *rising(3), key(), n_steps=4, n_starts=2, max_iterations=3
    ),
    "solvers.learned_adversary:best_response": lambda: given(draws(4), definite(4), number(0.5)),
    "solvers.learned_adversary:LearnedAdversary.__call__": lambda: given(adversary(), draws(4), definite(4), number()),
    "solvers.triplet:TripletLoss.__call__": lambda: given(TripletLoss(), draws(3), draws(3), draws(3)),
    **{f"solvers.triplet:TripletLoss.of_batch {mining}": lambda mining=mining: given(
        TripletLoss(), draws(6, 3), whole(1, 1, 1, -1, -1, -1), mining=mining
    ) for mining in ("batch_all", "semi_hard", "batch_hard")},
    "fpga_export.formats:quantize_straight_through": lambda: given(draws(4), kernel_parts()[0].depth),
}

PLAIN = {
    "simulation.episode:simulate_episodes": played,
    "simulation.episode:simulate_episode": played,
    **{f"simulation.episode:simulate_episodes {name}": lambda f=f: played(**f()) for name, f in MARKETS.items()},
    "simulation.adversary:worst_market": lambda: given(worth, market(), Ambiguity(), key(), n_starts=2, n_steps=2),
    "simulation.adversary:random_markets": lambda: given(worth, market(), Ambiguity(), key(), 3),
    "simulation.opponent:train_opponent": lambda: opposed(powers=Powers(0.1, 0.2), key=key(), n_starts=2, n_steps=2, n_hidden=4),
    "simulation.invariants:fuzz_policy": lambda: given(
        simple_policy(), market(), number(5.0), neutral(), number(3.0), Fuzz(n_paths=2, n_steps=3), key()
    ),
    "simulation.invariants:step_violations": lambda: given(
        state(), quotes(), state(), StepRecord(*rising(6)), number(3.0)
    ),
    "simulation.invariants:replay_violations": lambda: given(
        replay.replay(*recorded(), record="path"), number(3.0)
    ),
    "simulation.replay:replay": lambda: given(*recorded()),
    "simulation.replay:replay of paths": lambda: given(*recorded(), record="path"),
    "simulation.replay:replay_strategy": strategy,
    "simulation.replay:replay_together": together,
    "simulation.step:step": lambda: given(*stepped(), key()),
    "simulation.step:step_with": lambda: given(*stepped(), rising(3, 0.1, 0.9)),
    "simulation.environment:Environment.reset": lambda: given(world(), key()),
    "simulation.environment:Environment.step": lambda: given(world(), world().reset(key())[0], rising(2), key()),
    **{f"simulation.hummingbot:Bot.act {name}": lambda name=name: given(
        bot(name), bot(name).start(), state(), number()
    ) for name in ("text", "hummingbot-2021", "hummingbot-2021-12", "hummingbot-2022", "hjb")},
    "simulation.hummingbot:Bot.filled": lambda: given(bot("text"), bot("text").start(), number(), number(0.0)),
    "simulation.spread_trading:trade_spread": lambda: given(
        draws(9, 2), BandPlan(draws(9, 2), *rising(36).reshape(4, 9), jnp.ones(9, bool)), rising(2)
    ),
    "models.boosted_trees:BoostedTrees.__call__": lambda: given(trees(), draws(5, 3)),
    "models.boosted_trees:BoostedTrees.log_rate LinkedTrees": lambda: given(trees(linked=True), draws(5, 3)),
    "models.boosted_trees:at_depths": lambda: given(draws(3), rising(4)),
    "models.boosted_trees:surrogate_error": lambda: given(trees(), draws(5, 3), rising(3)),
    "models.hyperbolic:first_network": lambda: given(key(), n_nodes=3, n_features=2, dim=2),
    "models.loss_flow:first_flow": lambda: given(draws(100)),
    "models.loss_flow:conditional_flow": lambda: given(flow(), draws(100, 2), key(), width=4),
    "models.joint_loss_flow:first_joint_flow": lambda: given(draws(100, 3), key(), width=4),
    "models.cointegration:p_values": lambda: given(rising(3), draws(9, 3)),
    "models.cointegration:adjusted_p_values": lambda: given(rising(4, 0.01, 0.5)),
    "models.ising:Ising.energy": lambda: given(model(), whole(0, 1, 1, 0)),
    "models.ising:bits_of": lambda: given(whole(5), 4),
    **each("models.ising:index_of models.ising:without_ancilla", lambda: given(whole(0, 1, 1, 0))),
    "models.regime_returns:RegimeReturns.sample": lambda: given(returns(), key(), 9),
    "models.regime_returns:RegimeReturns.filtered": lambda: given(returns(), draws(9, 2)),
    **each("market.book:mid market.book:spread market.book:queue_imbalance", lambda: given(rising(3), rising(3))),
    "market.book:microprice": lambda: given(*rising(12).reshape(4, 3)),
    "features.book_shape:book_shape": lambda: given(*ladder(), jnp.zeros(4)),
    "features.book_shape:ask_convexity": lambda: given(*ladder()[2:]),
    "features.book_shape:mean_slope": lambda: given(*ladder()),
    "features.book_shape:volume_entropy": lambda: given(*ladder()[1::2]),
    "features.book_shape:fat_finger": lambda: given(rising(20), draws(20), rising(20), 8),
    "features.book_shape:RobustScale.fit": lambda: given(draws(9, 2)),
    "features.book_shape:RobustScale.__call__": lambda: given(RobustScale(draws(2), rising(2)), draws(9, 2)),
    "features.imbalance_grid:book_channels": lambda: given(*ladder()),
    "features.imbalance_grid:snapshot_grid": lambda: given(draws(9, 5, 3), whole(1, 2, 3)),
    "features.imbalance_grid:mirror": lambda: given(draws(9, 3)),
    "features.imbalance_grid:GridScale.fit": lambda: given(draws(9, 5, 3), jnp.ones((9, 5, 3), bool)),
    **{f"features.volatility:rolling_volatility {by}": lambda by=by: given(
        draws(30), number(), number(0.01), n_window=8, n_minimum=4, truncation=by
    ) for by in ("mad", "quantile")},
    "features.volatility:truncated_variance_share": lambda: given(number(0.9)),
    **each("features.volatility:tick_volatility features.volatility:population_volatility", lambda: given(draws(9))),
    "features.wavelet:outside_cone": lambda: given(32, rising(2, 2.0, 4.0)),
    "features.wavelet:mexican_hat_energy": lambda: given(number(), "ornstein_uhlenbeck", number(0.3), number(2.0)),
    "features.wavelet_bank:inverse_undecimated": lambda: given(levels(), wavelet_filters("db2")),
    "features.wavelet_bank:inverse_decimated": lambda: given([draws(16), draws(8), draws(8)], wavelet_filters("db2")),
    "features.wavelet_bank:wavelet_variance": lambda: given(levels()),
    "features.wavelet_bank:scaling_exponent": lambda: given(wavelet_variance(levels())),
    **within("policies.avellaneda_stoikov", {
        **each("margin_of_decay stationary_offsets", lambda: given(*rising(2))),
        "parameters_of_limits": lambda: given(*rising(6)),
        "around_reservation_price": lambda: given(*rising(2), spread_parameters(), number(0.1)),
        "text_quotes": lambda: given(*rising(4), spread_parameters(), *rising(3)),
        "parameters_2021": lambda: given(*rising(2), wallet(), limits()),
        "quotes_2021": lambda: given(*rising(2), wallet(), number(0.5), spread_parameters(), limits(), number()),
        **{f"relative_quotes {compat}": lambda compat=compat: given(
            *rising(2), wallet(), number(0.5), spread_parameters(), number(0.1), number(), compat
        ) for compat in ("hummingbot-2021-12", "hummingbot-2022")},
        **each("widest_spread shaped_sizes needs_recalculation advance_cycle", lambda: given(*rising(3))),
    }),
    "policies.orders:levels_2021": lambda: given(*rising(4), 3),
    "policies.orders:levels": lambda: given(*rising(3), 3, number(0.1)),
    "policies.orders:just_inside_the_book": lambda: given(*rising(5)),
    "policies.orders:with_costs": lambda: given(*rising(3)),
    "policies.orders:within_budget": lambda: given(*rising(6)),
    "policies.orders:override_price": lambda: given(number(100.0), "buy", number(0.1)),
    "policies.regime_table:at_risk": lambda: given(regimes(), number()),
    "policies.regime_table:RegimeTablePolicy.__call__": lambda: given(regime_policy(), state()),
    "policies.routing:route": lambda: given(whole(1, 0, 1), venues(), number(400.0)),
    "policies.routing:fixed_cost": lambda: given(whole(1, 0, 1), venues()),
    **each("policies.routing:every_route policies.routing:best_route", lambda: given(venues(), number(400.0))),
    "policies.routing:best_of": lambda: given(routes()),
    "policies.routing:finite_costs": lambda: given(routes(), venues(), number(400.0)),
    "policies.routing_qubo:surplus": lambda: given(number(0.3), venues()),
    "policies.routing_qubo:dual_price": lambda: given(venues(), number(400.0)),
    "policies.routing_qubo:lot_qubo": lambda: given(venues(), 3, number(100.0), lots()),
    "policies.routing_qubo:lots_on_venues": lambda: given(jnp.ones_like(lots().lots), lots(), 3),
    "policies.routing_qubo:lot_cost": lambda: given(whole(1, 0, 2), venues(), number(100.0)),
    "policies.routing_qubo:assignment_costs": lambda: given(venues(), 2, number(100.0)),
    **within("policies.rules", {
        "apply_rules": lambda: given(rules.QuoteRules(vpin_width=0.1), quotes(), *rising(2)),
        "round_to_ticks": lambda: given(quotes(), number(100.0), number(0.01)),
        "RuledPolicy.__call__": lambda: given(rules.RuledPolicy(simple_policy(), rules.QuoteRules()), state()),
        "WidenedPolicy.__call__": lambda: given(rules.WidenedPolicy(simple_policy(), *rising(2)), state()),
        "SymmetricPolicy.__call__": lambda: given(simple_policy(), state()),
        "SkewedPolicy.__call__": lambda: given(rules.SkewedPolicy(*rising(3)), state()),
    }),
    "policies.value_table:between": lambda: given(number(1.5), 4),
    "policies.value_table:bracket": lambda: given(number(1.5), rising(4)),
    "policies.value_table:largest_problem": lambda: given(symmetric(), table_axes()),
    "policies.value_table:constant_scale": lambda: given(side()),
    "risk.adverse:adverse_selection": lambda: given(
        1, rising(6), draws(6), draws(6), jnp.ones(6, bool), whole(0, 0, 1, 1, 2, 2), 3
    ),
    "risk.attribution:attribute": lambda: given(*rising(4)),
    "risk.attribution:relative_residual": lambda: given(attribute(*rising(4))),
    **each("risk.backtest:kupiec risk.backtest:christoffersen", lambda: given(draws(50) > 1, number(0.9))),
    "risk.backtest:shortfall_statistics": lambda: given(draws(50), rising(50), rising(50), number(0.9)),
    "risk.backtest:acerbi_szekely": lambda: given(
        draws(50), rising(50), rising(50), number(0.9), lambda k: jax.random.normal(k, (50,)), key(), 4
    ),
    "risk.cvar:cvar_standard_error": lambda: given(draws(50), number(0.9)),
    "risk.cvar:bootstrap_interval": lambda: given(jnp.mean, draws(50), 4, key()),
    "risk.drawdown:clopper_pearson": lambda: given(whole(3)[0], 50, number(0.95)),
    **each("risk.drawdown:mean_upper_bound risk.metrics:moments", lambda: given(draws(50))),
    "risk.metrics:moments_by_horizon": lambda: given(draws(50, 8)),
    "risk.metrics:inventory_statistics": lambda: given(draws(50, 8), number(3.0)),
    "risk.metrics:markouts": lambda: given(whole(1, -1, 1), rising(3), rising(3), draws(2, 3), jnp.ones((2, 3), bool)),
    **each("solvers.allocation_training:train_pathwise solvers.allocation_training:train_by_score", trained),
    "solvers.allocation_training:constant_allocations": lambda: given(draws(9, 2), task()),
    "solvers.bit_search:greedy_descent": lambda: given(model().energy, whole(0, 1, 1, 0)),
    "solvers.bit_search:anneal searchable_cost": lambda: given(
        routing.searchable_cost(venues(), number(400.0)), 3, key(), n_sweeps=3
    ),
    **within("solvers.calibrate", {
        "fit": lambda: given(jnp.sum, box(), draws(3, 2), max_iterations=3),
        "fit_noisy": lambda: given(lambda x, k: jnp.sum(x * jax.random.normal(k)), box(), draws(2), key(), n_steps=3),
        "residual_information": lambda: given(jnp.sin, draws(2)),
        "identify": lambda: given(definite(2), rising(2)),
        **each("Box.inside Box.free Box.share Box.at_share", lambda: given(box(), draws(3, 2))),
    }),
    **within("solvers.cma", {
        "evolve": lambda: given(lambda x, k: (jnp.sum(x), x), box(), draws(2, 2), key(), population=4, n_generations=2),
        "penalised": lambda: given((number(), draws(3)), number()),
    }),
    "solvers.constrained:maximise_within_limit": lambda: given(
        lambda x: -jnp.sum(x**2),
        lambda x, k: jnp.mean(jax.nn.sigmoid(x + jax.random.normal(k, x.shape))),
        number(0.3), -rising(2), rising(2), draws(2), key(), n_steps=3,
    ),
    **within("solvers.delay_fit", {
        "fit_hammerstein": lambda: given(*draws(2, 20), rising(2), n_terms=2, max_iterations=3),
        "rank_one_fit": lambda: given(*draws(2, 20), rising(2), 3),
        "fit_free": lambda: given(delay_network()[0], *draws(2, 20), key(), n_steps=2, n_batch=4),
        "explained_share": lambda: given(*draws(2, 20)),
        "seen": lambda: given(draws(20), "random_walk"),
    }),
    "solvers.flow_fit:fit_loss_flow": lambda: given(draws(100), max_iterations=2),
    "solvers.flow_fit:fit_conditional_flow": lambda: given(draws(100), draws(100, 2), key(), width=4, max_iterations=2),
    "solvers.flow_fit:fit_joint_flow": lambda: given(draws(100, 2), key(), max_iterations=2, n_layers=1, width=4),
    "solvers.learned_adversary:train_adversary": lambda: given(
        draws(3, 4), definite(4), number(0.5), key(), n_steps=2, n_hidden=4
    ),
    "solvers.likelihood:fit_poisson": lambda: given(
        draws(9, 2), rising(9), rising(9), cluster=whole(*range(9)), n_clusters=9
    ),
    "solvers.one_hot_qaoa:optimise_one_hot": lambda: given(draws(9), 3, angles(2), max_iterations=2),
    "solvers.one_hot_qaoa:assignments": lambda: given(2, 3),
    "solvers.qaoa:sample_indices": lambda: given(shares(16), key(), 5),
    "solvers.qaoa:ramp_starts": lambda: given(draws(16), 2, 3),
    "solvers.qaoa:one_layer_landscape": lambda: given(draws(16), 3),
    "solvers.qaoa:optimise_angles": lambda: given(draws(16), angles(2), max_iterations=2),
    "solvers.qaoa:minimise_scaled": lambda: given(draws(16), qaoa.qaoa_energy, angles(2), 2, None),
    "solvers.qaoa_large_girth:fixed_angles": lambda: given(3, 3, angles()),
    "solvers.qaoa_one_layer:one_layer_angles": lambda: given(model(), around(), 2),
    "solvers.qaoa_one_layer:regular_angles": lambda: given(3),
    "solvers.reach:fit_reach": lambda: given(rising(9), 1 + rising(9)),
    "solvers.reach:reach_intervals": lambda: given(
        whole(1, -1), whole(100, 101), number([100.5, 100.5]), whole(101, 100), number([1.0, 0.0])
    ),
    "solvers.reach:arrival_rate": lambda: given(whole(5)[0], number(10.0)),
    **each("solvers.residuals:rescaled_residuals solvers.residuals:goodness_of_fit", lambda: given(
        rising(9), rising(9), jnp.ones(9)
    )),
    "solvers.residuals:critical_value": lambda: given(whole(9)[0]),
    "solvers.transport_ott:solve_by_ott": with_ott(transported),
    "solvers.transport_ott:solve_low_rank": with_ott(
        lambda: given(draws(6, 2), draws(7, 2), shares(6), shares(7), 2, key=key(), max_iterations=20)
    ),
    **each("solvers.triplet:mine solvers.triplet:embedding_spread", lambda: given(
        draws(6, 3), whole(1, 1, 1, -1, -1, -1)
    )),
    "solvers.triplet:pair_masks": lambda: given(whole(1, 1, -1, -1)),
    "solvers.triplet:pair_distances": lambda: given(draws(6, 3)),
    "solvers.volume_decay:fit_volume_decay": lambda: given(rising(9), rising(9)),
    **within("fpga_export.kernel", {
        "clamp_state": lambda: given(kernel_parts()[0], kernel_state()),
        **each("interpolate depths_of", lambda: given(*kernel_parts()[:2], kernel_state())),
        "slow_path": lambda: given(*kernel_parts(), kernel_state()),
        "fast_path": lambda: given(kernel_parts()[2], offsets(), kernel.Book(*whole(9999, 10001))),
        **each("quote quote_many", lambda: given(*kernel_parts(), kernel_state(), kernel.Book(*whole(9999, 10001)))),
    }),
}
# fmt: on
