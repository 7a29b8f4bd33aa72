"""Small arguments for the cases of `test_lowering`, in the precision in force.

Arrays are traced there, everything else is fixed.
"""

import importlib
import warnings
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax import models
from mfamm_jax.features.wavelet_bank import undecimated_transform, wavelet_filters
from mfamm_jax.fpga_export import kernel as fpga
from mfamm_jax.fpga_export import make_registers
from mfamm_jax.models import hyperbolic, impact, joint_loss_flow, loss_flow, mid_sde
from mfamm_jax.models.boosted_trees import BoostedTrees, CompleteTrees, LinkedTrees
from mfamm_jax.models.delay_network import FreeDelayNetwork, HammersteinNetwork
from mfamm_jax.models.imbalance_network import ImbalanceNetwork, NetworkSizes
from mfamm_jax.models.ising import Ising
from mfamm_jax.models.perceptron import silent_perceptron
from mfamm_jax.models.regime_returns import RegimeReturns
from mfamm_jax.policies import avellaneda_stoikov, regime_table, routing, routing_qubo, rules, value_table
from mfamm_jax.policies.quotes import Covariates, MarketState, Quotes
from mfamm_jax.simulation import environment, hummingbot, merge, tape
from mfamm_jax.simulation.adversary import certainty_equivalent
from mfamm_jax.simulation.episode import Episodes
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.opponent import Opponent, Powers
from mfamm_jax.simulation.step import PoissonMarket
from mfamm_jax.solvers import allocation_training, hjb, learned_adversary, qaoa
from mfamm_jax.solvers.hjb.cross_check import Diffrax
from mfamm_jax.solvers.qaoa_one_layer import neighbours_of
from mfamm_jax.solvers.sinkhorn import Masses

from .fpga_export import kernels
from .simulation import tapes
from .solvers.cases import symmetric


def given(*args, **kwargs):
    return args, kwargs


def number(x=1.0):
    return jnp.asarray(x, jnp.result_type(float))


def whole(*x):
    return jnp.asarray(x, jnp.int32)


def key():
    return jax.random.key(0)


def draws(*shape, seed=0):
    return number(np.random.default_rng(seed).standard_normal(shape))


def rising(n, low=0.2, high=2.0):
    return jnp.linspace(low, high, n, dtype=jnp.result_type(float))


def shares(*shape):
    return jax.nn.softmax(draws(*shape))


def definite(n):
    return number(0.5 * np.eye(n) + 0.2)


def each(names, arguments):
    """One set of arguments for several functions."""
    return dict.fromkeys(names.split(), arguments)


def within(module, cases):
    return {f"{module}:{name}": arguments for name, arguments in cases.items()}


# Control problems and markets.

GRID = hjb.Grid(3, 2)


def side():
    return models.ExponentialIntensity(1.0, 1.5)


def curved(fills):
    return hjb.HJBProblem(fills, fills, 0.02, horizon=4.0, min_depth=0.0, max_depth=3.0)


CURVES = {
    "ExponentialIntensity": side,
    "LogisticIntensity": lambda: models.LogisticIntensity(2.0, 0.5, 1.5),
    "PowerLawIntensity": lambda: models.PowerLawIntensity(1.0, 0.5, 2.0),
    "TriangularIntensity": lambda: models.TriangularIntensity(1.0, 2.0),
    "SmoothIntensity": lambda: models.SmoothIntensity(lambda depth, decay: -decay * depth, number(1.5)),
    "TabulatedIntensity": lambda: models.TabulatedIntensity(rising(5), jnp.exp(-rising(5))),
}


def regimes():
    generator = number([[-0.5, 0.5], [0.5, -0.5]])
    return hjb.RegimeProblem(symmetric(drift=number([-0.02, 0.02])), generator)


def assets():
    return hjb.MultiAssetProblem((symmetric(), symmetric()), 0.01 * definite(2))


SCHEMES = {
    "Uniformization": lambda: (symmetric(), hjb.Uniformization(4, 8), GRID),
    "TaylorAction": lambda: (symmetric(), hjb.TaylorAction(2, 16), GRID),
    "TaylorAction in logarithms": lambda: (symmetric(), hjb.TaylorAction(2, 16, True), GRID),
    "TaylorAction by its adjoint": lambda: (symmetric(), hjb.TaylorAction(2, 16, False, True), GRID),
    "ExplicitRK": lambda: (symmetric(min_depth=0.5), hjb.ExplicitRK(8), GRID),
    "HanWong": lambda: (symmetric(), hjb.HanWong(max_steps=64), GRID),
    "Implicit": lambda: (symmetric(), hjb.Implicit(8), GRID),
    "Ergodic": lambda: (symmetric(), hjb.Ergodic(), GRID),
    "Strang RegimeProblem": lambda: (regimes(), hjb.Strang(hjb.Implicit(1), 4), GRID),
    "MultiAssetProblem BoxGrid": lambda: (assets(), hjb.ExplicitRK(8), hjb.BoxGrid((2, 1), 2)),
    "Diffrax": lambda: (symmetric(), Diffrax(max_steps=64), GRID),
}


def neutral():
    return Covariates.neutral(number(0.3))


def state():
    return MarketState(number(100.0), number(1.0), number(-100.0), number(5.0), neutral())


def market(**more):
    return PoissonMarket(side(), side(), 0.3, **more)


def simple_policy():
    return rules.SymmetricPolicy(number(0.5), number(3.0))


def played(policy=None, **more):
    """Arguments of a simulation."""
    episodes = Episodes(n_paths=4, n_steps=3, horizon=3.0)
    return given(policy or simple_policy(), market(**more), episodes, neutral(), number(0.01), key())


MARKETS = {
    "BrownianMid": lambda: {"mid": models.BrownianMid(0.3)},
    "BinomialMid": lambda: {"mid": models.BinomialMid(0.3)},
    "GeometricMid": lambda: {"mid": models.GeometricMid(100.0, 0.01)},
    "MeanRevertingMid": lambda: {"mid": models.MeanRevertingMid(0.3, 0.5)},
    "JumpMid": lambda: {"mid": models.JumpMid(0.3, 0.1, 0.5)},
    "ShortTermAlphaMid": lambda: {"mid": mid_sde.ShortTermAlphaMid(0.3, 0.1, 0.5)},
    "HestonMid": lambda: {"mid": mid_sde.HestonMid(100.0, 1e-4, 1e-4, 0.5, 1e-3)},
    "HawkesArrivals": lambda: {"arrivals": models.HawkesArrivals(0.3)},
    "SeasonalArrivals": lambda: {"arrivals": models.SeasonalArrivals(rising(4), 10.0)},
}


def stepped():
    return market(), market().start(number(3.0), neutral()), quotes(), number(0.1), number(0.01)


def scale_of_covariates():
    return models.LogLinearScale(number(0.1), draws(6), number(-0.2), number(0.3))


def table_axes():
    return value_table.TableAxes(3, 3)


def table_policy():
    problem = symmetric()
    rise = draws(3, 3, 3, 6)
    scales = scale_of_covariates(), scale_of_covariates()
    return value_table.ValueTablePolicy(problem, rise, table_axes(), number(8.0), number(0.1), *scales, number())


def regime_map():
    return regime_table.RegimeMap(0.3, 0.7, False, True)


def regime_policy():
    return regime_table.RegimeTablePolicy(
        regimes(), draws(2, 3, 6, 2), rising(2), regime_map(), number(0.1), number(1.0)
    )


def quotes():
    return Quotes(number(0.5), number(0.6), number(1.0), number(1.0))


def bot(model):
    numbers = (10.0, 1000.0, 0.5, 1.0, 0.5, 0.001, 0.01, 0.5, 0.0, 0.2, 1.0, 10.0, 0.0, 100.0, 0.0, 5.0, 3.0, 0.0)
    depths = hummingbot.DepthTable(rising(3), draws(3, 5) ** 2, draws(3, 5) ** 2)
    return hummingbot.Bot(*numbers, depths, model, 3, 2)


@cache
def built():
    """Two recorded instruments."""
    sell = (1.0, tapes.TRADE, tapes.BID, 100, 400, (100, 100, 102, 300))
    rows = tapes.session(tapes.START, sell)
    return [tape.build_tape(rows, decision_interval=0.5, start_ns=0, end_ns=2_000_000_000) for _ in range(2)]


def recorded():
    found, _ = built()[0]
    return tapes.quote(), found, tapes.neutral(found), ReplayConfig()


def together():
    both = tuple(found for found, _ in built())
    covariates, configs = tuple(map(tapes.neutral, both)), (ReplayConfig(), ReplayConfig())

    def policy(states):
        return tuple(simple_policy()(state) for state in states)

    return given(policy, both, merge.merge_tapes(built()), covariates, configs)


def strategy():
    (policy, both, moment, covariates, configs), _ = together()

    def remembering(memory, states, index):
        return memory + 1, policy(states), {"asked": memory, "index": index}

    return given(remembering, number(), both, moment, covariates, configs)


# Learning.


def trees(linked=False):
    feature, flags = whole(0, 1, 2)[None], jnp.ones((1, 3), bool)
    if linked:
        nodes = LinkedTrees(feature, draws(1, 3), flags, whole(1, 1, 2)[None], whole(2, 1, 2)[None], draws(1, 3), 1)
    else:
        nodes = CompleteTrees(feature, draws(1, 3), flags, draws(1, 4), 2)
    return BoostedTrees(nodes, number(0.1), "count:poisson", 1, ("depth", "x", "y"))


def imbalance_network():
    sizes = NetworkSizes(3, 4, 5, 3)
    return ImbalanceNetwork(sizes), ImbalanceNetwork(sizes).init(key()), draws(2, 10, 10, 3)


def delay_network():
    network = FreeDelayNetwork(4, 3)
    return network, network.init(key()), draws(12)


def hammerstein():
    return HammersteinNetwork(rising(2), draws(3), draws(2), draws(2))


def flow():
    return loss_flow.first_flow(draws(100))


def conditional():
    return loss_flow.conditional_flow(flow(), draws(100, 2), key(), width=4)


def joint():
    return joint_loss_flow.first_joint_flow(draws(100, 3), key(), n_layers=2, width=4)


def returns():
    return RegimeReturns([[1.0, -1.0], [-1.0, 1.0]], np.eye(2), np.eye(2), [[0.9, 0.1], [0.1, 0.9]])


def task():
    law, edges = returns(), jnp.ones((2, 2), bool)
    weights = number(0.1), number(0.1)
    return allocation_training.AllocationTask(
        law.exposures, law.covariance, *weights, jnp.ones(2), edges, "portfolio", 3
    )


def allocator(mean="midpoint"):
    return hyperbolic.first_network(key(), n_nodes=2, n_features=5, dim=3, n_layers=1, mean=mean)


def pnl_draw(at):
    return jax.vmap(lambda k: returns().sample(k, 8)[0])(jax.random.split(at, 2))


def trained():
    return given(allocator(), task(), pnl_draw, key(), n_updates=2)


def edges():
    return jnp.ones((2, 2), bool)


def adversary():
    layers = eqx.nn.Linear(5, 4, key=key()), eqx.nn.Linear(4, 1, key=key())
    return learned_adversary.LearnedAdversary(layers, number(), number())


def worth(moved):
    policy, _, episodes, known, *_ = played(rules.SkewedPolicy(number(0.5), number(0.1), number(3.0)))[0]
    return certainty_equivalent(policy, moved, episodes, known, 3, 0.5)


def opposed(**more):
    """Arguments of an opponent's game."""
    (policy, world, episodes, known, *_), _ = played()
    return given(policy, world, episodes, known, 3, number(0.01), **more)


def opponent():
    return Opponent(silent_perceptron(key(), 5, 3, 4), Powers(0.1, 0.2), draws(2), rising(2), number(5.0))


def concave():
    return impact.InstantImpact(1.0, 0.7)


def exponentials():
    return impact.ExponentialKernel(rising(2), rising(2))


# Costs of bitstrings.


def model():
    return Ising(draws(4), draws(4), number(0.3), jnp.asarray([[0, 1], [1, 2], [2, 3], [3, 0]], jnp.int32))


def around():
    return neighbours_of([[0, 1], [1, 2], [2, 3], [3, 0]], 4)


def angles(*batch):
    return qaoa.Angles(draws(*batch, 2), draws(*batch, 2))


def venues():
    leakage = 3 * (np.ones((3, 3)) - np.eye(3))
    return routing.Venues(draws(3), number([4e-4, 5e-4, 6e-4]), 300 * rising(3), 10 * rising(3), number(leakage))


def routes():
    return routing.every_route(venues(), number(400.0))


def lots():
    return routing_qubo.lot_bits(venues(), 100.0)


@cache
def kernel_parts():
    found = kernels.quantized("slope")
    registers = make_registers(found.form, depth_min=0.5, depth_max=20.0)
    return found.form, jnp.asarray(found.table), registers


def kernel_state():
    return fpga.State(*whole(1, 3, 20, 5, 100))


def offsets():
    form, table, registers = kernel_parts()
    return fpga.slow_path(form, table, registers, kernel_state())


# (15).


def masses():
    return Masses(shares(3), shares(4), number(1.0), number(1.0))


def transported(**more):
    return given(draws(3, 4) ** 2, shares(3), shares(4), number(0.2), **more)


def execution(mode):
    return given(draws(3, 4) ** 2, shares(3), shares(4), 0.1 * definite(3), definite(4), number(0.2), mode=mode)


def wallet():
    return avellaneda_stoikov.Wallet(10.0, 1000.0, 0.5)


def spread_parameters():
    return avellaneda_stoikov.SpreadParameters(0.5, 0.2, 0.1)


def limits():
    return avellaneda_stoikov.Limits2021(0.5, 0.001, 0.01, 0.0)


def ladder():
    """Books of three levels."""
    steps, lots = jnp.broadcast_to(whole(0, 1, 2), (4, 3)), rising(12).reshape(4, 3)
    return 100 - steps, lots, 101 + steps, lots


def levels():
    return undecimated_transform(draws(32), wavelet_filters("db2"), 2)


def world():
    return environment.Environment(market(), Episodes(n_paths=2, n_steps=3, horizon=3.0))


def with_ott(arguments):
    """ott-jax is loaded with its first case; it imports jaxopt, which announces its retirement."""

    def build():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("mfamm_jax.solvers.transport_ott")
        return arguments()

    return build
