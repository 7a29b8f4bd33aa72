"""Experiment `adversarial`: planted flaws are named, the policy as given breaks nothing in a million steps, and saved days replay to the number."""

import equinox as eqx
import jax
import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.adversarial_flaws import FLAWS, flaw_names
from mfamm_jax.experiments.adversarial_run import solve_stage, worst_game, worst_of
from mfamm_jax.experiments.adversarial_tables import BROKEN, HEARS, LEANS, worst_days
from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.observe import observe
from mfamm_jax.experiments.quoting import replay_part
from mfamm_jax.experiments.quoting_run import build_policy, execution_rules
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import run
from mfamm_jax.market.loaders.parquet import load_parquet
from mfamm_jax.market.scenarios import SCENARIOS
from mfamm_jax.market.thinning import with_books
from mfamm_jax.simulation.invariants import INVARIANTS
from mfamm_jax.simulation.replay import replay

from ..checks import assert_close

SMALL = [
    *("market.duration=240", "hjb.max_inventory=4", "hjb.n_steps=16", "hjb.axes.n_risk=3", "hjb.axes.n_skew=3"),
    *("simulation.n_steps=40", "simulation.horizon=20", "attack.n_steps=20", "attack.n_starts=2", "attack.n_random=50"),
    *("opponent.n_steps=60", "opponent.n_starts=2", "scenarios.n_draws=1", "scenarios.seconds=10"),
    *("fuzz.n_paths=64", "fuzz.n_steps=200"),
]


def settings(*overrides):
    return load_config("adversarial", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    config = settings()
    folder = RunFolder(tmp_path_factory.mktemp("adversarial") / "run", config)
    folder.open(fresh=False)
    said = []
    return run(config, folder, say=said.append)


@pytest.mark.thorough
def test_every_planted_flaw_is_named_and_the_sound_policy_has_none(outcome):
    metrics = outcome.metrics
    assert outcome.code == 0
    assert metrics["ok"] is True
    assert metrics["violations"] == 0
    assert metrics["planted_flaws_found"] == metrics["planted_flaws"] == len(FLAWS)
    assert metrics["weaknesses"] == []
    named = {(row[0], row[1]) for row in metrics["tables"][1]["rows"]}
    assert {(name, weakness) for name, (_, weakness) in FLAWS.items()} <= named
    report = (outcome.folder / "report.html").read_text()
    assert all(weakness in report for _, weakness in FLAWS.values())


@pytest.mark.thorough
def test_attacks_are_in_the_order_that_theory_gives(outcome):
    metrics = outcome.metrics
    assert (
        metrics["worst_market"] < metrics["best_random_search"] < metrics["certainty_equivalent"] < metrics["mean_pnl"]
    )
    assert metrics["worst_opponent"] <= metrics["learned_opponent"] < metrics["objective"]
    arrays = np.load(outcome.folder / "arrays" / "base.npz")
    assert (arrays["opponents/worst"] <= arrays["opponents/learned"] + 1e-12).all()
    assert (arrays["markets/found/value"] < arrays["markets/random"]).all()
    names = ["as given", *FLAWS]
    # The flipped sign loses most to an opponent, in share of what it earns alone.
    left = arrays["opponents/worst"] / arrays["opponents/nobody"]
    assert left[names.index("inventory_sign")] < left[names.index("ignores_inventory")] < left[0]


@pytest.mark.thorough
def test_a_saved_day_replays_to_the_number_in_the_table(outcome):
    """Through the file, as `mfamm run quickstart --set market.kind=parquet` would load it."""
    experiment = construct(settings())
    said = []
    folder = outcome.folder.parent / "again"
    prepared = experiment.prepare(folder, 0, said.append)
    plan, _ = experiment.plan(jax.tree.map(lambda x: x[None], experiment), prepared)
    policy, _ = build_policy(experiment, plan, prepared.base)
    arrays = np.load(outcome.folder / "arrays" / "base.npz")
    days = prepared.report["days"]
    worst = worst_days(days, arrays["days/pnl"][:, 0])
    assert set(worst) == set(SCENARIOS)
    recorded, _ = experiment.market.load(folder, 0)
    seen = observe(with_books(recorded)[0], experiment.features)
    for name in ("flash_crash", "toxic_flow", "stale_quotes", "halt"):
        session, ladder = with_books(load_parquet(outcome.folder / "data" / f"worst_{name}.parquet"))
        assert name in session.name
        observed = observe(session, experiment.features, train_end_ns=seen.train_end_ns, like=seen)
        tape, known, _, _ = replay_part(session, ladder, observed, experiment.execution, seen.train_end_ns, None)
        found = replay(policy, tape, known, execution_rules(experiment))
        assert_close(found.pnl, arrays["days/pnl"][worst[name], 0])


@pytest.mark.thorough
def test_a_saved_day_is_a_session_for_any_experiment(outcome, tmp_path):
    path = outcome.folder / "data" / "worst_flash_crash.parquet"
    assert pl.read_parquet_metadata(path)["tick_size"] == "0.01"
    assert any("flash_crash" in note for note in load_parquet(path).notes)
    config = load_config("latency", ["market.kind=parquet", f"market.path={path}"])
    experiment = construct(config)
    prepared = experiment.prepare(tmp_path, 0, lambda text: None)
    assert "flash_crash" in prepared.report["session"]
    assert np.isfinite(float(experiment.row((), prepared, jax.random.key(0))["pnl"]))


@pytest.mark.thorough
def test_the_default_policy_keeps_every_invariant_for_a_million_fuzzed_steps(tmp_path):
    """The shipped config's own policy and fuzz, and no flawed ones beside it."""
    experiment = construct(load_config("adversarial", ["scenarios.n_draws=1", "scenarios.names=halt", "flaws="]))
    prepared = experiment.prepare(tmp_path, 0, lambda text: None)
    plan, _ = experiment.plan(jax.tree.map(lambda x: x[None], experiment), prepared)
    solve, *_, fuzz = (stage for _, stage in experiment.stages(plan))
    key = jax.random.key(7)
    results = jax.jit(solve)(experiment, prepared, {}, key)
    found = jax.jit(fuzz)(experiment, prepared, results, key)["fuzz"]
    assert set(found) == {"given"}
    assert int(found["given"].n_steps) > 1_000_000
    np.testing.assert_array_equal(found["given"].counts, 0)


def test_wrong_names_are_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match='flaws has "sleepy", expected names of ignores_inventory'):
        flaw_names("sleepy")
    with pytest.raises(ConfigError, match="each name once"):
        flaw_names("deaf, deaf")
    assert flaw_names("") == ()


def test_every_invariant_has_a_name_for_its_violation():
    assert len(BROKEN) == len(INVARIANTS)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    experiment = construct(settings("scenarios.names=halt"))
    return experiment.prepare(tmp_path_factory.mktemp("ready"), 0, lambda text: None)


def solved(ready, *overrides):
    experiment = construct(settings("scenarios.names=halt", *overrides))
    plan, _ = experiment.plan(jax.tree.map(lambda x: x[None], experiment), ready)
    return experiment, plan, jax.jit(lambda *args: solve_stage(plan, *args))(experiment, ready, {}, jax.random.key(0))


@pytest.mark.thorough
def test_a_fee_costs_and_a_rebate_gains_under_every_attack(ready):
    found = {}
    for fee in (-0.005, 0.0, 0.005):
        experiment, _, results = solved(ready, f"execution.replay.maker_fee={fee}")
        policy = results["_policy"]
        worst = jax.jit(lambda e, p: worst_of(e, ready, p))(experiment, policy)
        game = jax.jit(lambda e, p: worst_game(e, ready, p))(experiment, policy)
        found[fee] = [float(worst.nominal), float(worst.value), float(game)]
    assert (np.diff([found[fee] for fee in (-0.005, 0.0, 0.005)], axis=0) < 0).all()


@pytest.mark.thorough
def test_what_is_not_quoted_is_not_called_leaning(ready):
    """One lot at most, where a side is always off away from flat, and a gate below the usual VPIN, where nothing is quoted."""
    _, _, one = solved(ready, "hjb.max_inventory=1")
    names = ["as given", *FLAWS]
    lean, n_probed = (np.asarray(one["probe"][x]) for x in ("lean", "n_probed"))
    assert (n_probed > 0).all()
    assert lean[0] > LEANS
    # Seen from the other end the table has no quote of its own: a wrong sign shows as no lean.
    assert lean[names.index("inventory_sign")] <= LEANS
    assert abs(lean[names.index("ignores_inventory")]) <= LEANS
    _, _, silent = solved(ready, "quotes.vpin_gate=0.01")
    assert int(silent["probe"]["n_probed"][0]) == 0


@pytest.mark.thorough
def test_a_flaw_that_changes_no_quote_is_nothing_to_find(ready):
    _, _, results = solved(ready, "quotes.min_half_spread=0.05", "quotes.max_half_spread=0.05")
    differs = dict(zip(["as given", *FLAWS], np.asarray(results["probe"]["differs"])))
    assert differs["as given"] == differs["inventory_sign"] == differs["ignores_inventory"] == 0
    assert differs["no_limit"] > 0
    assert differs["crossed"] > 0


@pytest.mark.thorough
def test_hearing_is_told_signal_by_signal(ready):
    """Gates alone: VPIN moves sizes, imbalance and the book move nothing once their coefficients are gone."""
    coefficients = lambda side: (side.scale.book, side.scale.vpin, side.scale.imbalance)  # noqa: E731
    zero = jax.tree.map(lambda x: 0 * x, ready.base)
    base = eqx.tree_at(
        lambda b: (*coefficients(b.bid), *coefficients(b.ask)),
        ready.base,
        (*coefficients(zero.bid), *coefficients(zero.ask)),
    )
    _, _, results = solved(eqx.tree_at(lambda r: r.base, ready, base))
    np.testing.assert_array_equal(np.asarray(results["probe"]["hears"][0]) > HEARS, [True, False, False])
    _, _, fitted = solved(ready)
    np.testing.assert_array_equal(np.asarray(fitted["probe"]["hears"][0]) > HEARS, [True, True, True])


@pytest.mark.slow
def test_in_single_precision_the_policy_as_given_breaks_nothing(tmp_path):
    config = settings("precision=float32", "scenarios.names=halt", "flaws=inventory_sign")
    with jax.enable_x64(False):
        folder = RunFolder(tmp_path / "run", config)
        folder.open(fresh=False)
        outcome = run(config, folder, say=lambda text: None)
    assert outcome.metrics["violations"] == 0
    assert outcome.metrics["ok"]
