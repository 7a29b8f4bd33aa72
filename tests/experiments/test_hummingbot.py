"""Hummingbot's strategy files: three generations read, bad ones refused by name; the comparison and its bookkeeping."""

import json
from pathlib import Path

import pytest
import yaml

from mfamm_jax.experiments.experiment import ConfigError
from mfamm_jax.experiments.hummingbot_file import read_bot_file

from .test_runner import mfamm

FIRST = {
    "template_version": 2,
    "strategy": "avellaneda_market_making",
    "exchange": "binance",
    "market": "ETH-USDT",
    "order_amount": 0.5,
    "parameters_based_on_spread": True,
    "min_spread": 0.1,
    "max_spread": 2.0,
    "vol_to_spread_multiplier": 1.3,
    "volatility_sensibility": 0.2,
    "inventory_risk_aversion": 0.5,
    "order_book_depth_factor": None,
    "risk_factor": None,
    "order_amount_shape_factor": None,
    "closing_time": 0.5,
    "order_refresh_time": 30.0,
    "filled_order_delay": 60.0,
    "inventory_target_base_pct": 40.0,
    "add_transaction_costs": True,
    "volatility_buffer_size": 30,
    "order_levels": 3,
    "order_override": None,
    "hanging_orders_enabled": False,
    "hanging_orders_cancel_pct": 10.0,
}
SECOND = {
    "strategy": "avellaneda_market_making",
    "market": "ETH-USDT",
    "execution_timeframe": "daily_between_times",
    "start_time": "09:30:00",
    "end_time": "16:00:00",
    "order_amount": 1,
    "risk_factor": 2,
    "order_amount_shape_factor": 0.3,
    "min_spread": 0.2,
    "order_refresh_time": 15,
    "trading_intensity_buffer_size": 200,
    "order_levels": 2,
    "level_distances": 50,
}
THIRD = {
    "strategy": "avellaneda_market_making",
    "market": "ETH-USDT",
    "execution_timeframe_mode": {"start_datetime": "2022-01-01 00:00:00", "end_datetime": "2022-01-01 06:00:00"},
    "order_amount": 1.0,
    "order_refresh_time": 10.0,
    "order_levels_mode": {"order_levels": 4, "level_distances": 10.0},
    "hanging_orders_mode": {"hanging_orders_cancel_pct": 5.0},
}


def written(tmp_path: Path, table, **changes) -> Path:
    path = tmp_path / "bot.yml"
    path.write_text(yaml.safe_dump({**table, **changes}))
    return path


def test_the_first_generation(tmp_path):
    file = read_bot_file(written(tmp_path, FIRST))
    assert (file.compat, file.market, file.order_amount) == ("hummingbot-2021", "ETH-USDT", 0.5)
    # Percent in the file, days for the cycle.
    assert (file.min_spread, file.max_spread, file.target) == pytest.approx((0.001, 0.02, 0.4))
    assert (file.closing_time, file.n_levels, file.n_buffered) == (43_200.0, 3, 30)
    assert (file.inventory_risk_aversion, file.vol_to_spread_multiplier, file.volatility_sensibility) == (0.5, 1.3, 0.2)
    assert file.risk_factor is None
    assert file.add_transaction_costs


def test_the_second_generation(tmp_path):
    path = tmp_path / "bot.yml"
    # Unquoted times of day are numbers in base 60 to YAML.
    text = yaml.safe_dump(SECOND).replace("'09:30:00'", "09:30:00").replace("'16:00:00'", "16:00:00")
    path.write_text(text)
    file = read_bot_file(path)
    assert (file.compat, file.closing_time) == ("hummingbot-2021-12", 6.5 * 3600)
    assert (file.risk_factor, file.order_shape, file.n_levels, file.level_distance_pct) == (2.0, 0.3, 2, 50.0)
    assert file.max_spread is None
    short = read_bot_file(written(tmp_path, SECOND, start_time="09:30", end_time=630))  # 10:30 to YAML
    assert short.closing_time == 3600
    overnight = read_bot_file(written(tmp_path, SECOND, start_time="22:00:00", end_time="02:00:00"))
    assert overnight.closing_time == 4 * 3600
    assert read_bot_file(written(tmp_path, SECOND, execution_timeframe="infinite")).closing_time is None


def test_the_third_generation(tmp_path):
    file = read_bot_file(written(tmp_path, THIRD))
    assert (file.compat, file.closing_time, file.n_levels) == ("hummingbot-2022", 6 * 3600.0, 4)
    # The release's defaults.
    assert (file.risk_factor, file.order_shape, file.n_buffered, file.filled_order_delay) == (1.0, 0.0, 200, 60.0)
    assert "hanging_orders_mode" in file.without_effect
    assert read_bot_file(written(tmp_path, THIRD, execution_timeframe_mode="infinite")).closing_time is None


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (FIRST, {"strategy": "pure_market_making"}, "strategy: is 'pure_market_making', expected avellaneda"),
        (FIRST, {"max_spread": 0.05}, r"max_spread: is 0\.05, expected more than min_spread = 0\.1"),
        (FIRST, {"min_spread": 0}, "min_spread: is 0, expected > 0"),
        (FIRST, {"closing_time": -1}, "closing_time: is -1, expected > 0"),
        (FIRST, {"order_amount": 0}, "order_amount: is 0, expected > 0"),
        (FIRST, {"order_amount": "many"}, "order_amount: expected a number, got 'many'"),
        (FIRST, {"inventory_risk_aversion": 1.5}, r"inventory_risk_aversion: is 1\.5, expected > 0 and <= 1"),
        (FIRST, {"parameters_based_on_spread": False}, "parameters_based_on_spread: is false"),
        (FIRST, {"max_spreadd": 1}, r'max_spreadd: unknown key \(did you mean "max_spread"\?\)'),
        (FIRST, {"inventory_target_base_pct": 100}, "inventory_target_base_pct: is 100: a wallet of one asset"),
        (FIRST, {"order_levels": 1.5}, "order_levels: expected a whole number"),
        (FIRST, {"order_amount": None}, "order_amount: missing"),
        (
            SECOND,
            {"closing_time": 1.0},
            "closing_time: it belongs to hummingbot-2021, but the file is of hummingbot-2021-12",
        ),
        (SECOND, {"end_time": "noon"}, "end_time: is 'noon', expected HH:MM:SS"),
        (SECOND, {"execution_timeframe": "weekly"}, "execution_timeframe: is 'weekly', expected infinite"),
        (THIRD, {"order_levels_mode": {"levels": 3}}, "order_levels_mode: is"),
        (
            THIRD,
            {
                "execution_timeframe_mode": {
                    "start_datetime": "2022-01-02 00:00:00",
                    "end_datetime": "2022-01-01 00:00:00",
                }
            },
            "end_datetime: is 2022-01-01 00:00:00, expected after",
        ),
        ({"strategy": "avellaneda_market_making", "order_amount": 1}, {}, "cannot tell the generation"),
    ],
)
def test_bad_files_are_named(tmp_path, table, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_bot_file(written(tmp_path, table, **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("", "expected keys and values"),
        ("- 1", "got list"),
        ("order_amount: 1\norder_amount: 2", "order_amount is given twice"),
    ],
)
def test_files_that_are_no_strategy_file(tmp_path, content, message):
    path = tmp_path / "bot.yml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_bot_file(path)


@pytest.mark.thorough
def test_the_comparison(tmp_path):
    """Common random numbers, a P&L identity, every model in every table, and the same file twice the same bytes."""
    path = written(tmp_path, FIRST, order_amount=1.0, order_refresh_time=5, filled_order_delay=5, order_levels=2)
    small = ["--set", f"policy.file={path}", "--set", "trial.n_paths=40", "--set", "trial.n_steps=300"]
    small += ["--set", "sweep.policy.hjb_risk_aversion=[0.001,0.1]"]
    answer = json.loads(mfamm("run", "hummingbot", *small, "--out", "run", "--json", cwd=tmp_path).stdout)
    metrics = answer["metrics"]
    assert answer["code"] == 0
    assert metrics["generation"] == "hummingbot-2021"
    assert metrics["identity_residual"] < 1e-9
    models = ["text", "hummingbot-2021", "hummingbot-2021-12", "hummingbot-2022", "hjb"]
    for table in metrics["tables"][2:]:
        assert [row[0] for row in table["rows"]] == models
    estimators = {row[0]: row for row in metrics["tables"][1]["rows"]}
    # The standard deviation of 30 points of a random walk is sqrt(899/180) steps; our decay and rate have no bias to speak of.
    true, mean = estimators["volatility of 2021: standard deviation of the mids"][1:3]
    assert 0.85 < mean / (true * (899 / 180) ** 0.5) < 1.0
    for name in ("ours: likelihood of the distances", "ours: orders per second and side"):
        true, mean, std = estimators[name][1:4]
        assert abs(mean - true) < 0.1 * true + 4 * std / 20
    earned = {row[0]: row for row in metrics["tables"][-1]["rows"]}
    assert earned["hummingbot-2021"][3:5] == ["", ""]
    # Quotes at the limits of the file are rarely filled; the exact solution quotes for this very market.
    assert metrics["pnl"]["hjb"] > 3 * max(metrics["pnl"]["text"], metrics["pnl"]["hummingbot-2021"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<svg") == 3
    assert metrics["sweep"] == {"rows": 2, "failed": 0}
    assert (tmp_path / "run" / "strategy.yml").read_bytes() == path.read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["policy.file=nowhere.yml"], "nowhere.yml: no such file"),
        (["wallet.base=0.1", "wallet.quote=0"], "order_amount is 0.5, but wallet.base and wallet.quote are worth 0.1"),
        (["trial.n_steps=100"], "trial.n_steps is 100, expected more than volatility_buffer_size = 200"),
        (["world.maker_fee=0.1"], "world.maker_fee: is 0.1, expected <= 0.05"),
        (["world.volatility=0"], "world.volatility: is 0, expected > 0"),
        (["policy.max_spread=0.0001"], "policy.max_spread is 0.0001, expected more than min_spread"),
    ],
)
def test_bad_settings_exit_with_two(tmp_path, settings, message):
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = mfamm("run", "hummingbot", *arguments, "--out", "run", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()
