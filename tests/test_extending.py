"""docs/extending.md: what its blocks define works in the solvers, the simulator, the replay and the runner."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from jax.test_util import check_grads
from scipy.optimize import brentq
from scipy.special import lambertw
from typer.testing import CliRunner

from mfamm_jax import (
    Covariates,
    Episodes,
    ExponentialIntensity,
    Grid,
    HJBProblem,
    PoissonMarket,
    ReplayConfig,
    SymmetricPolicy,
    build_tape,
    choose_scheme,
    optimal_depths,
    replay,
    simulate_episodes,
    solve_hjb,
)
from mfamm_jax.experiments.cli import app
from mfamm_jax.experiments.config import ConfigError, construct, load_config, resolve_market
from mfamm_jax.experiments.registry import EXPERIMENTS, KINDS, outside_sources
from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.models.intensity import utility
from mfamm_jax.results import RESULTS

from .checks import assert_close

TEXT = (Path(__file__).parents[1] / "docs/extending.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
MODULE = "\n".join(block for block in BLOCKS if re.search("^class ", block, re.MULTILINE))
(CONFIG,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
HOUR = 1_723_075_200_000_000_000 + 3_600_000_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the module of the page lies."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "my_desk.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def desk(folder):
    """The module, imported as a user's is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import my_desk  # pyrefly: ignore

        yield my_desk
        sys.modules.pop("my_desk")


def levels_file(folder, n_trades=20):
    """A book of 300 at 99.99 and 100.01, of which a seller takes the bid and 100 more every second; it is there again at once."""
    rows = ["level,bid,99.99,300", "level,ask,100.01,300"]
    times = [HOUR, HOUR]
    for number in range(1, n_trades + 1):
        rows += ["trade,bid,99.99,400", "level,bid,99.99,300"]
        times += [HOUR + number * 10**9] * 2
    lines = ["time,what,side,price,size", *(f"{t},{row}" for t, row in zip(times, rows))]
    file = folder / "desk.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def mfamm(*arguments, cwd, path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200", "PYTHONPATH": str(path)}
    command = [sys.executable, "-m", "mfamm_jax.experiments", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def test_every_block_of_the_page_runs_in_order():
    names: dict = {}
    for block in BLOCKS:
        exec(block, names)
    middle = names["grid"].max_inventory
    assert_close(names["bid_depth"][middle], names["ask_depth"][middle])
    assert (np.diff(names["bid_depth"][:-1]) > 0).all()
    assert np.abs(names["simulated"].final_inventory).max() <= 5


# Fill intensity


def hamiltonian_without_utility(cost, scale, weight, decay):
    """By scipy's Lambert function."""
    margin = lambertw(np.exp(-decay * cost) / weight).real / decay
    return scale * np.exp(-weight * np.exp(decay * (cost + margin))) * margin


def one_lot_problem(fills, horizon, **limits):
    problem = HJBProblem(bid=fills, ask=fills, inventory_penalty=0.0, terminal_penalty=0.0, horizon=horizon, **limits)
    grid = Grid(max_inventory=1, n_steps=20)
    solution = solve_hjb(problem, choose_scheme(problem, grid)[0], grid)
    assert solution.result == RESULTS.successful
    relative = solution.value.relative_value
    return solution.value.time_left, relative[:, 1] - relative[:, 2], optimal_depths(problem, relative[-1])


@pytest.mark.thorough
def test_long_before_the_end_one_lot_is_worth_what_the_hamiltonian_says(desk):
    """With one lot at most d(H0 - H1)/dtau = 2 h(H0 - H1) - h(H1 - H0), which is at rest at the root of the right side."""
    curve = 0.9, 0.3, 1.4
    _, difference, (bid, ask) = one_lot_problem(desk.GompertzIntensity(*curve), horizon=60.0)
    rest = brentq(lambda d: 2 * hamiltonian_without_utility(d, *curve) - hamiltonian_without_utility(-d, *curve), 0, 3)
    assert_close(difference[-1], rest, float64=1e-4)  # the scheme is sized for quotes to 1e-4
    margin = lambertw(np.exp(-1.4 * rest) / 0.3).real / 1.4
    assert_close(jnp.stack([bid[1], ask[1]]), np.full(2, rest + margin), float64=1e-4)


@pytest.mark.thorough
def test_at_a_fixed_depth_the_value_is_a_random_walks(desk):
    """d(H0 - H1)/dtau = L d - 3 L (H0 - H1) with quotes at d and their fill rate L."""
    depth, fills = 0.8, desk.GompertzIntensity(0.9, 0.3, 1.4)
    time_left, difference, _ = one_lot_problem(fills, horizon=2.0, min_depth=depth, max_depth=depth)
    rate = 0.9 * np.exp(-0.3 * np.exp(1.4 * depth))
    assert_close(difference, depth / 3 * -np.expm1(-3 * rate * time_left), float64=1e-4)  # as above


@pytest.mark.thorough
@pytest.mark.parametrize("fill_risk_aversion", [0.0, 0.7])
def test_the_best_margin_beats_its_neighbours_and_the_hamiltonian_has_its_slopes(desk, fill_risk_aversion):
    cost, averse = jnp.array([-0.6, 0.05, 0.9]), jnp.array(fill_risk_aversion)
    limits, curve = (jnp.array(-jnp.inf), jnp.array(jnp.inf)), (jnp.array(0.9), jnp.array(0.3), jnp.array(1.4))

    def hamiltonian(scale, weight, decay, cost):
        return desk.GompertzIntensity(scale, weight, decay).hamiltonian(jnp.asarray(cost), averse, *limits)

    fills, tried = desk.GompertzIntensity(*curve), jnp.linspace(0.0, 4.0, 8001)[:, None]
    best_tried = jnp.max(fills(cost + tried) * utility(tried, averse), axis=0)
    assert_close(hamiltonian(*curve, cost), best_tried, float64=1e-6)  # tried on a grid
    check_grads(hamiltonian, (*curve, cost), order=1, modes=["fwd", "rev"])
    assert_close(desk.GompertzIntensity(*curve).scaled(2.0)(cost), 2 * fills(cost))


def test_simulated_fills_come_at_the_rate_of_the_curve(desk):
    fills, episodes = desk.GompertzIntensity(2.0, 0.3, 1.4), Episodes(n_paths=2000, n_steps=50, horizon=5.0)
    market, quotes = PoissonMarket(bid=fills, ask=fills, volatility=0.0), SymmetricPolicy(0.4, 1e6)
    result = simulate_episodes(quotes, market, episodes, Covariates.neutral(0.0), jnp.array(0.0), jax.random.key(1))
    chance = -np.expm1(-0.1 * 2.0 * np.exp(-0.3 * np.exp(1.4 * 0.4)))
    expected, deviation = 50 * chance, np.sqrt(50 * chance * (1 - chance) / 2000)
    for side in (result.bid_fills, result.ask_fills):
        assert abs(side.mean() - expected) < 4 * deviation
    assert_close(result.pnl, 0.4 * (result.bid_fills + result.ask_fills))  # the mid stands still


# Quoting policy


def test_late_fills_only_bring_the_inventory_back(desk):
    fills, episodes = ExponentialIntensity(1.0, 1.0), Episodes(n_paths=256, n_steps=100, horizon=20.0)
    market = PoissonMarket(bid=fills, ask=fills, volatility=0.1)

    @jax.jit
    def run(policy):
        return simulate_episodes(policy, market, episodes, Covariates.neutral(0.1), jnp.array(0.0), jax.random.key(2))

    inner = SymmetricPolicy(0.2, 10.0)
    wound, plain = run(desk.WindDownPolicy(inner, 5.0)), run(inner)
    late = np.abs(wound.inventory[:, 75:])  # 5 s are left from step 75 on
    assert (np.diff(late, axis=1) <= 0).all()
    assert_close(wound.inventory[:, :75], plain.inventory[:, :75])
    assert late[:, -1].mean() < 0.5 * np.abs(plain.final_inventory).mean()
    assert_close(run(desk.WindDownPolicy(inner, 0.0)).pnl, plain.pnl)


@pytest.mark.thorough
def test_a_batch_of_the_policy_replays_recorded_events_in_one_call(desk, tmp_path):
    tape, _ = build_tape(desk.load_levels(levels_file(tmp_path)), decision_interval=1.0)
    n = tape.decision_mid.shape[0]
    known = Covariates(jnp.ones(n), jnp.zeros(n), jnp.zeros(n), jnp.zeros((n, 6)))
    inner = SymmetricPolicy(0.01, 1000.0)

    def fills(seconds):
        return replay(desk.WindDownPolicy(inner, seconds), tape, known, ReplayConfig(lot_size=1.0)).bid_fills

    # A seller a second reaches the lot behind the 300; what is bid with 10 s left still meets the one of the second after.
    assert jax.jit(jax.vmap(fills))(jnp.array([0.0, 10.0, 1e3])).tolist() == [20, 11, 0]


# Loader


def test_the_loader_reads_what_was_written_and_names_the_row_of_a_bad_cell(desk, tmp_path):
    file = levels_file(tmp_path, n_trades=2)
    session = desk.load_levels(file)
    assert session.tick_size == 0.01
    assert session.feed == "levels"
    assert session.updates.price_ticks.tolist() == [9999, 10001, 9999, 9999, 9999, 9999]
    assert session.updates.kind.tolist() == [Kind.LEVEL, Kind.LEVEL, Kind.TRADE, Kind.LEVEL, Kind.TRADE, Kind.LEVEL]
    assert session.size_unit * session.updates.size[2] == 400
    assert (session.updates.t_ns[-1] - session.updates.t_ns[0]) == 2 * 10**9
    file.write_text(file.read_text().replace("trade,bid,99.99,400", "trade,bid,dear,400"))
    with pytest.raises(DataError, match=r"desk\.csv: row 4: price is 'dear', expected a number"):
        desk.load_levels(file)


@pytest.mark.thorough
def test_a_shipped_config_and_inspect_take_the_loader_by_its_place(desk, tmp_path):
    file = levels_file(tmp_path)
    config = load_config(
        "lobster", ["market.kind=my_desk:LevelsSource", f"market.path={file}", "market.tick_size=0.01"]
    )
    assert config.tables["market"] == {"kind": "my_desk:LevelsSource", "path": str(file), "tick_size": 0.01}
    session, truth = construct(config).market.load(tmp_path, 0)
    assert truth is None
    assert len(session.updates) == 42
    shown = CliRunner().invoke(app, ["data", "inspect", str(file), "--kind", "my_desk:LevelsSource", "--json"])
    assert json.loads(shown.stdout)["n_events"] == 42
    with pytest.raises(ConfigError, match=r"market\.tick_size: is -1, expected > 0"):
        load_config("lobster", ["market.kind=my_desk:LevelsSource", f"market.path={file}", "market.tick_size=-1"])


@pytest.mark.thorough
def test_a_shipped_sweep_runs_on_the_loaders_file(folder, tmp_path):
    file = levels_file(tmp_path)
    small = ["sweep.rule.half_spread=[1.0,3.0]", "sweep.rule.skew=[0.0]", "sweep.exchange.refresh_ticks=[1.0]"]
    given = [
        "market.kind=my_desk:LevelsSource",
        f"market.path={file}",
        "rule.half_spread=1.0",
        "rule.skew=0.0",
        "rule.max_inventory=99",
        "exchange.lot_size=1",
        *small,
    ]
    arguments = [part for item in given for part in ("--set", item)]
    done = mfamm("run", "replay_sweep", *arguments, "--out", "run", "--json", cwd=tmp_path, path=folder)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["sweep"] == {"rows": 2, "failed": 0}
    assert metrics["fills"] == 20  # every seller
    assert (tmp_path / "run/report.html").is_file()
    assert set(json.loads((tmp_path / "run/manifest.json").read_text())["outside"]) == {"my_desk"}


# Experiment


def walk_profit(half_spread, decay=2.0, max_inventory=5, n_steps=100):
    """Expected gain of a symmetric random walk between limits: every fill earns the half spread, the mid is a martingale."""
    chance = -np.expm1(-0.1 * np.exp(-0.2 * np.exp(decay * half_spread)))
    q = np.arange(-max_inventory, max_inventory + 1)
    up, down = np.where(q < max_inventory, chance, 0.0), np.where(q > -max_inventory, chance, 0.0)
    step = np.diag((1 - up) * (1 - down) + up * down)
    step += np.diag((up * (1 - down))[:-1], 1) + np.diag((down * (1 - up))[1:], -1)
    mass = np.eye(q.size)[max_inventory]
    fills = 0.0
    for _ in range(n_steps):
        fills, mass = fills + mass @ (up + down), mass @ step
    return half_spread * fills


@pytest.mark.thorough
def test_the_experiment_runs_from_its_config_file_to_a_report(folder, tmp_path):
    (tmp_path / "spread_law.toml").write_text(CONFIG)
    done = mfamm("run", "spread_law.toml", "--out", "run", "--json", cwd=tmp_path, path=folder)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert_close(metrics["profit"], walk_profit(0.5))
    rows = pl.read_parquet(tmp_path / "run/parts/part-00000.parquet").sort("config_id")
    expected = [walk_profit(half_spread) for half_spread in (0.25, 0.5, 0.75, 1.0)]
    assert_close(rows["profit"].to_numpy(), expected)
    report = (tmp_path / "run/report.html").read_text()
    assert "deviation" in report
    assert "half_spread" in report


@pytest.mark.thorough
def test_an_edited_module_is_not_continued_with_what_it_computed_before(folder, tmp_path):
    (tmp_path / "spread_law.toml").write_text(CONFIG)
    (tmp_path / "my_desk.py").write_text(MODULE)
    run = ["run", "spread_law.toml", "--set", "half_spread=0.75", "--out", "run", "--json"]
    first, again = (mfamm(*run, cwd=tmp_path, path=tmp_path) for _ in range(2))
    assert "base      finished earlier" in again.stderr
    (tmp_path / "my_desk.py").write_text(MODULE.replace("self.decay)\n        quotes", "3.0)\n        quotes"))
    edited = mfamm(*run, cwd=tmp_path, path=tmp_path)
    before, repeated, after = (json.loads(x.stdout)["metrics"]["profit"] for x in (first, again, edited))
    assert before == repeated
    assert_close(after, walk_profit(0.75, decay=3.0))


@pytest.mark.thorough
def test_reproducing_names_the_module_that_has_changed(tmp_path):
    (tmp_path / "spread_law.toml").write_text(CONFIG)
    (tmp_path / "my_desk.py").write_text(MODULE)
    assert mfamm("run", "spread_law.toml", "--out", "run", cwd=tmp_path, path=tmp_path).returncode == 0
    same = mfamm("reproduce", "run", cwd=tmp_path, path=tmp_path)
    assert same.returncode == 0, same.stderr
    assert "to the bit" in same.stdout
    (tmp_path / "my_desk.py").write_text(MODULE + "\n# Edited.\n")
    edited = mfamm("reproduce", "run", cwd=tmp_path, path=tmp_path)
    assert "changed since: module my_desk" in edited.stdout


# What cannot be named

FAULTY = """
    import dataclasses
    from mfamm_jax.experiments.experiment import AbstractExperiment
    from mfamm_jax.experiments.sources import AbstractSource

    class Half(AbstractExperiment):
        def prepare(self, folder, seed, say, progress=None):
            pass

    class Empty(AbstractSource):
        pass

    class Unrelated:
        pass

    number = 3
"""


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            "no_such_desk:Half",
            r'bad\.toml:1: experiment: "no_such_desk:Half": no module "no_such_desk"; install it, or put',
        ),
        ("json.no_such_part:Half", r'no module "json\.no_such_part"'),
        ("faulty_desk:Halve", r'faulty_desk has no "Halve"; it has AbstractExperiment, Half'),
        ("faulty_desk:Unrelated", r"is no AbstractExperiment of mfamm_jax\.experiments\.experiment: derive it"),
        ("faulty_desk:number", r"is no AbstractExperiment"),
        ("faulty_desk:Empty", r"is no AbstractExperiment"),
        ("faulty_desk:Half", r"does not define numbers_per_row, plan, row, stages"),
        ("faulty_desk:", r'is no place of a class, expected "module:Class"'),
        ("faulty desk.py:Half", r"is no place of a class"),
        (":Half", r"is no place of a class"),
        ("Half", r'unknown experiment .Half.; known: quoting.*or "module:Class"'),
    ],
)
def test_a_place_that_is_no_experiment_is_refused_by_name(tmp_path, monkeypatch, place, said):
    (tmp_path / "faulty_desk.py").write_text(textwrap.dedent(FAULTY))
    (tmp_path / "bad.toml").write_text(f'experiment = "{place}"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty_desk", raising=False)
    with pytest.raises(ConfigError, match=said):
        load_config(str(tmp_path / "bad.toml"))


def test_a_place_that_is_no_loader_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "faulty_desk.py").write_text(textwrap.dedent(FAULTY))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty_desk", raising=False)
    with pytest.raises(ConfigError, match=r'market\.kind: "faulty_desk:Half" is no AbstractSource'):
        resolve_market({"kind": "faulty_desk:Half"}, [])
    with pytest.raises(ConfigError, match=r'market\.kind: "faulty_desk:Empty" cannot be used: it does not define load'):
        resolve_market({"kind": "faulty_desk:Empty"}, [])
    with pytest.raises(ConfigError, match=r"panel\.kind: unknown kind"):
        load_config("cointegration", ["panel.kind=faulty_desk:Empty"])


def test_a_fault_inside_the_module_keeps_its_own_message(tmp_path, monkeypatch):
    (tmp_path / "broken_desk.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        EXPERIMENTS["broken_desk:Half"]


def test_classes_from_outside_are_found_but_not_listed(desk):
    assert EXPERIMENTS["my_desk:SpreadLaw"] is desk.SpreadLaw
    assert "my_desk:SpreadLaw" in EXPERIMENTS
    assert not [name for name in (*EXPERIMENTS, *KINDS["market"]) if ":" in name]
    assert outside_sources({"experiment": "quoting", "market": {"kind": "lobster", "path": "a:b"}}) == {}
    assert set(outside_sources({"experiment": "hjb", "market": {"kind": "my_desk:LevelsSource"}})) == {"my_desk"}
