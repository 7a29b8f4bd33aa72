"""What a sweep visits."""

import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.registry import EXPERIMENTS
from mfamm_jax.experiments.rows import Axis, Sweep

SMALL = ["max_inventory=2", "sweep.parameters.ask_intensity=[1.0]", "sweep.parameters.bid_intensity=[1.0]"]


def config(*overrides):
    return load_config("hjb_sweep", [*SMALL, *overrides])


def test_the_last_axis_of_a_grid_varies_fastest_and_the_seed_faster_still():
    sweep = Sweep({"a": Axis((1.0, 2.0)), "b": Axis((10.0, 20.0, 30.0))}, n_seeds=2)
    ids = np.arange(sweep.n_rows)
    assert sweep.n_rows == 12
    assert sweep.column("a", ids).tolist() == [1.0] * 6 + [2.0] * 6
    assert sweep.column("b", ids).tolist() == [10.0, 10.0, 20.0, 20.0, 30.0, 30.0] * 2
    assert sweep.seeds(ids).tolist() == [0, 1] * 6
    assert Sweep({"a": Axis((1.0, 2.0))}).seeds(np.arange(2)).tolist() == [0, 1]


def test_without_axes_and_seeds_there_is_no_sweep_and_seeds_alone_repeat_the_run():
    assert Sweep({}).n_rows == 0
    assert Sweep({}, n_seeds=5).n_rows == 5


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_drawn_points_cover_their_ranges_evenly_and_do_not_depend_on_which_rows_are_asked_for(method):
    axes = {"log": Axis(ends=(0.01, 1.0), is_log=True), "linear": Axis(ends=(3.0, -1.0)), "listed": Axis((5, 6, 7))}
    sweep = Sweep(axes, method, 4096, seed=3)
    ids = np.arange(4096)
    low, high = np.log(0.01), np.log(1.0)
    columns = {path: sweep.column(path, ids) for path in axes}
    quantiles = np.quantile((np.log(columns["log"]) - low) / (high - low), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles, [0.25, 0.5, 0.75], atol=0.03)
    assert columns["linear"].min() >= -1.0
    assert columns["linear"].max() <= 3.0
    counts = np.unique(columns["listed"], return_counts=True)[1]
    np.testing.assert_allclose(counts, 4096 / 3, rtol=0.06)
    some = np.array([4000, 7, 7, 123])
    for path in axes:
        np.testing.assert_array_equal(sweep.column(path, some), columns[path][some])
    np.testing.assert_array_equal(Sweep(axes, method, 4096, seed=3).column("log", ids), columns["log"])
    assert not np.array_equal(Sweep(axes, method, 4096, seed=4).column("log", ids), columns["log"])


def test_sobol_points_fill_a_square_more_evenly_than_random_ones():
    """Of 1,024 points 64 boxes get 16 each; random ones deviate by the binomial 4."""
    axes = {"x": Axis(ends=(0.0, 1.0)), "y": Axis(ends=(0.0, 1.0))}
    spread = {}
    for method in ("random", "sobol"):
        sweep = Sweep(axes, method, 1024)
        x, y = (sweep.column(path, np.arange(1024)) for path in axes)
        spread[method] = np.histogram2d(x, y, bins=8, range=[[0, 1], [0, 1]])[0].std()
    assert spread["sobol"] < 0.5 < 3 < spread["random"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sweep.method=magic"], "expected one of grid, random, sobol"),
        (["sweep.n_points=8"], "belongs to random and sobol"),
        (["sweep.method=random"], "n_points: expected an integer >= 1"),
        (["sweep.method=sobol", "sweep.n_points=100"], "expected a power of two"),
        (["sweep.n_seeds=-1"], "n_seeds: expected an integer >= 0"),
        (["sweep.parameters.horizon={log=[1,2]}"], "num = n"),
        (["sweep.parameters.horizon={log=[1,2],num=1}"], "2 <= num"),
        (["sweep.parameters.horizon={log=[0,2],num=4}"], "positive ends"),
        (["sweep.parameters.horizon={linear=[1,inf],num=4}"], "expected a non-empty list"),
        (["sweep.parameters.horizon={linear=[1,2],num=1000000000}"], "expected a non-empty list"),
        (["sweep.parameters.horizon={linear=[-1,2],num=3}"], "is -1, expected > 0"),
        (["sweep.parameters.horizon={linear=[1,2],num=1000000}", "sweep.n_seeds=100000"], "expected at most"),
    ],
)
def test_a_wrong_sweep_is_refused_with_what_was_expected(overrides, said):
    with pytest.raises(ConfigError, match="sweep") as error:
        config(*overrides)
    assert said in str(error.value)


def test_a_resolved_sweep_reads_back_as_itself(tmp_path):
    from mfamm_jax.experiments.toml_text import to_toml

    drawn = ["sweep.method=sobol", "sweep.n_points=8", "sweep.n_seeds=3"]
    ranges = ["sweep.parameters.risk_aversion={log=[0.1,1]}", "sweep.parameters.volatility={linear=[0.1,1]}"]
    for overrides in ([], [*drawn, *ranges]):
        one = config(*overrides)
        file = tmp_path / "resolved.toml"
        file.write_text(to_toml(one.resolved()))
        two = load_config(str(file))
        assert two.sweep == one.sweep
        assert two.resolved() == one.resolved()


def test_no_experiment_has_a_setting_that_a_sweep_could_not_name():
    import dataclasses

    for cls in EXPERIMENTS.values():
        assert not {field.name for field in dataclasses.fields(cls)} & {"method", "n_points", "n_seeds"}


def test_values_of_an_axis_are_what_the_setting_takes():
    sweep = load_config("quickstart", ["sweep.execution.decision_interval=[1,1.5]"]).sweep
    assert sweep.axes["execution.decision_interval"].values == (1.0, 1.5)
    assert all(isinstance(x, float) for x in sweep.axes["execution.decision_interval"].values)


@pytest.mark.parametrize(
    "text", ['a "quoted" \\ path', "tab\tnewline\nreturn\r", "bell\x07 delete\x7f", "größe \U0001f4c8"]
)
def test_every_text_survives_the_resolved_file(text):
    import tomllib

    from mfamm_jax.experiments.toml_text import to_toml

    table = {"name": text, "table": {text: 1.0}}
    assert tomllib.loads(to_toml(table)) == table
