"""Experiments `routing` and `maxcut`: the answer is that of enumeration, circuits are judged by decoded costs, bad settings are named."""

import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.market.events import DataError

SMALL = ["circuit.n_layers=1", "circuit.n_starts=2", "circuit.max_iterations=20", "search.n_chains=8", "order.n_lots=3"]
THREE = [
    "venues.names=A, B, C",
    "venues.fees=[0.3, 0.1, 0.2]",
    "venues.impacts=[4e-4, 9e-4, 6e-4]",
    "venues.capacities=[500, 400, 450]",
    "venues.activation_costs=[20, 15, 18]",
    "venues.leakage=[[0, 1, 18]]",
    "order.quantity=600",
]


def run_small(root, name, *overrides):
    config = load_config(name, list(overrides))
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    outcome = run(config, folder, say=lambda _: None)
    assert outcome.code == DONE
    with np.load(root / "arrays" / "base.npz") as file:
        return outcome.metrics, dict(file)


@pytest.mark.thorough
def test_the_report_names_the_best_set_and_what_every_way_costs(tmp_path):
    metrics, arrays = run_small(tmp_path / "run", "routing", *SMALL, *THREE)
    # By hand: B and C take the order at equal marginal cost, fees and impact 0.1 + 9e-4 q = 0.2 + 6e-4 (600 - q).
    q = (0.2 + 6e-4 * 600 - 0.1) / 15e-4
    pair = 0.1 * q + 4.5e-4 * q**2 + 0.2 * (600 - q) + 3e-4 * (600 - q) ** 2 + 15 + 18
    assert metrics["best_venues"] == "B, C"
    np.testing.assert_allclose(metrics["best_cost"], pair, rtol=1e-9)
    np.testing.assert_allclose(arrays["best/split/quantities"], [0, 306.6666666667, 293.3333333333])
    assert metrics["lower_bound"] <= metrics["best_cost"] + 1e-9
    for way in ("convex_cost", "greedy_cost", "annealed_cost", "qaoa_cost"):
        assert metrics[way] >= metrics["best_cost"] - 1e-9
    # A circuit's numbers are those of its probabilities.
    costs = arrays["costs"]
    sampled = arrays["forms/exact diagonal/sampled"]
    assert np.isin(np.round(sampled, 6), np.round(costs, 6)).all()
    for form in ("exact diagonal", "venue QUBO", "venue QUBO, ancilla (22)", "lot QUBO", "one-hot lots, XY mixer"):
        mean = float(arrays[f"forms/{form}/mean"])
        assert costs.min() <= mean <= costs.max()
        # Best angles are no worse than guessing on the diagonal they minimise.
        if form == "exact diagonal":
            assert mean < float(arrays[f"forms/{form}/mean_at_random"])
            np.testing.assert_allclose(mean, arrays[f"forms/{form}/energy"], rtol=1e-9)
    table = metrics["tables"][0]["rows"]
    assert [row[0] for row in table[:4]] == [
        "best set, by enumeration",
        "greedy flips from no venue",
        "simulated annealing",
        "convex split over all venues",
    ]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "share of sets at or below" in page
    assert "No set can cost less than" in page


@pytest.mark.slow
def test_the_reference_example_and_a_sweep_over_orders(tmp_path):
    """Five venues: the best set costs 328.8667; dearer orders cost more, and the costs of a sweep's rows are those of runs."""
    import polars as pl

    metrics, _ = run_small(tmp_path / "run", "routing", "sweep.order.quantity=[500, 1000, 1500]", "circuit.n_starts=4")
    assert metrics["best_venues"] == "B, C, E"
    np.testing.assert_allclose(metrics["best_cost"], 328.8666666667)
    np.testing.assert_allclose(metrics["qaoa_cost"], 328.8666666667)
    assert metrics["qaoa_p_best"] > 3 / 32
    rows = pl.read_parquet(tmp_path / "run" / "parts" / "part-00000.parquet").sort("order.quantity")
    assert rows["ok"].all()
    assert (np.diff(rows["best_cost"].to_numpy()) > 0).all()
    np.testing.assert_allclose(rows["best_cost"][1], 328.8666666667)


@pytest.mark.slow
def test_an_order_that_only_all_venues_together_can_take(tmp_path):
    """Sets that cannot take it are never called the best, and never given a price."""
    metrics, arrays = run_small(
        tmp_path / "run", "routing", *SMALL, *THREE, "order.quantity=1350", "order.n_lots=1", "circuit.n_samples=1"
    )
    assert metrics["best_venues"] == "A, B, C"
    assert metrics["second_cost"] is None
    exact = "forms/exact diagonal"
    np.testing.assert_allclose(arrays[f"{exact}/p_best"], arrays[f"{exact}/p_feasible"], rtol=1e-12)
    np.testing.assert_allclose(arrays[f"{exact}/p_best_at_random"], 1 / 8)
    rows = metrics["tables"][0]["rows"]
    for row in rows:
        assert (row[1] == "A, B, C") == (row[-1] != "infeasible")
    assert "no other set can" in metrics["tables"][0]["notes"][0]
    assert metrics["tables"][1]["notes"] == ["Every used venue is full."]


@pytest.mark.slow
def test_recorded_books_are_venues(tmp_path, data_folder):
    folder = data_folder / "binance_btc_20240808"
    files = ", ".join(
        str(folder / name)
        for name in ("spot_btcusdt_20240808.gz", "usdm_btcusdt_20240808.gz", "cm_btcusd_perp_20240808.gz")
    )
    books = [
        "venues.kind=books",
        f"venues.paths={files}",
        "venues.names=spot, perpetual, coin",
        "venues.fees=[10, 5, 5]",
    ]
    metrics, arrays = run_small(
        tmp_path / "run",
        "routing",
        *SMALL,
        *books,
        "venues.contract_values=[0, 0, 100]",
        "venues.n_moments=20",
        "order.quantity=30.0",
    )
    # Spot's fee is twice the others': at 30 coins within 5 bp nothing goes there.
    assert metrics["best_venues"] == "perpetual, coin"
    assert metrics["tables"][0]["title"] == "Recorded books"
    assert arrays["best/split/quantities"][1] > arrays["best/split/quantities"][2] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["order.quantity=5000"],
            "order.quantity: the order of 5000 exceeds the capacity of all venues together, 2150",
        ),
        (["venues.fees=[0.1, 0.2]"], r"venues.fees: 2 numbers for 5 venues \(A, B, C, D, E\), expected one each"),
        (
            ["venues.leakage=[[0, 9, 1.0]]"],
            r"venues.leakage\[0\]: \[0.0, 9.0, 1.0\], expected \[venue, other venue, cost\]",
        ),
        (["venues.leakage=[[0, 1, 1.0], [1, 0, 2.0]]"], r"venues.leakage\[1\]: the pair 1, 0 occurs twice"),
        (["venues.leakage=[[0, 1, -1.0]]"], "leakage is -1, expected >= 0"),
        (["order.quantity=2150", "order.n_lots=2"], "the venues hold 0 whole lots of 1075, the order has 2"),
        (["order.n_lots=20"], "20 lots need .* use fewer lots"),
        (["venues.names=A"], "expected at least two to choose from"),
    ],
)
def test_what_cannot_be_routed_is_said(tmp_path, settings, message):
    with pytest.raises((ConfigError, DataError), match=message):
        run_small(tmp_path / "run", "routing", *settings)


def test_lists_in_a_config_are_checked():
    for setting, message in (
        ("venues.capacities=[500, -1, 1, 1, 1]", r"venues.capacities: is -1, expected >= 0 \[unit\]"),
        ("venues.fees=[0.1, nan, 1, 1, 1]", "venues.fees: is NaN"),
        ('venues.fees=[0.1, "a"]', "venues.fees: expected a list, each entry a number"),
        ("venues.leakage=[1, 2]", "venues.leakage: expected a list, each entry a list"),
        ("sweep.venues.fees=[[0.1], [0.2]]", "a list of numbers cannot be swept over"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config("routing", [setting])


@pytest.mark.thorough
def test_cuts_of_regular_graphs(tmp_path):
    """Expected cuts grow with the layers, own angles are at least as good as the tree's, and the classical searches are beside them."""
    metrics, arrays = run_small(
        tmp_path / "run",
        "maxcut_benchmark",
        "graphs.n_vertices=8",
        "graphs.n_graphs=2",
        "depth.most_layers=2",
        "depth.n_starts=2",
    )
    own, tree = arrays["optimised/ratio"], arrays["fixed/ratio"]
    assert (own[1] > own[0]).all()
    assert (own >= tree - 1e-6).all()
    assert (own <= 1).all()
    np.testing.assert_allclose(arrays["tree_share"], [0.6924500897, 0.7559064585], atol=1e-8)
    assert (arrays["greedy"] <= 1 + 1e-12).all()
    np.testing.assert_allclose(arrays["annealed"], 1, atol=1e-12)
    assert metrics["tables"][0]["rows"][1][1] == round(float(own[1].mean()), 4)
    assert "expected share of edges cut" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_rings_reach_their_known_share_and_weights_may_be_of_any_sign(tmp_path):
    _, rings = run_small(
        tmp_path / "a",
        "maxcut_benchmark",
        "graphs.degree=2",
        "graphs.n_vertices=10",
        "graphs.n_graphs=1",
        "depth.most_layers=3",
    )
    np.testing.assert_allclose(rings["optimised/share"][:, 0], [3 / 4, 5 / 6, 7 / 8], atol=1e-6)
    metrics, weighted = run_small(
        tmp_path / "b",
        "maxcut_benchmark",
        "graphs.weights=normal",
        "graphs.n_vertices=8",
        "graphs.n_graphs=2",
        "depth.most_layers=2",
    )
    assert metrics["ok"]
    assert (weighted["optimised/ratio"][1] > weighted["optimised/ratio"][0]).all()


def test_graphs_that_do_not_exist_are_said(tmp_path):
    with pytest.raises(ConfigError, match=r"graphs.degree: no 3-regular graph of 9 vertices"):
        run_small(tmp_path / "run", "maxcut_benchmark", "graphs.n_vertices=9")
