import tomllib
from pathlib import Path

import pytest

from mfamm_jax.experiments.config import ConfigError, construct, describe_settings, load_config, shipped_configs
from mfamm_jax.experiments.registry import EXPERIMENTS

ROOT = Path(__file__).parents[2]
NEEDS = {"lobster": ["market.path=somewhere"]}


def test_every_shipped_config_is_valid_and_constructs():
    assert {"quickstart", "lobster", "hjb_sweep"} <= set(shipped_configs())
    for name in shipped_configs():
        config = load_config(name, NEEDS.get(name))
        construct(config)
        assert config.warnings == ()


def test_the_sizes_promised_in_the_readme():
    assert load_config("quickstart").sweep.n_rows == 10 * 10
    assert load_config("hjb_sweep").sweep.n_rows == 4096


def test_shipped_configs_travel_in_the_wheel():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = table["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["experiments"] == "mfamm_jax/experiments/configs"


def test_rulebook_defaults():
    tables = load_config("quickstart").tables
    assert tables["hjb"]["risk_aversion"] == 0.1
    assert tables["hjb"]["terminal_penalty"] == 1e-4
    assert tables["features"]["vpin_smoothing"] == 0.25
    assert tables["features"]["volatility_window"] == 300
    assert tables["features"]["volatility_coverage"] == 0.99
    assert tables["quotes"]["vpin_gate"] == 0.7
    assert tables["quotes"]["imbalance_gate"] == 0.3


def test_unusual_values_warn_and_impossible_ones_fail():
    config = load_config("quickstart", ["features.vpin_smoothing=0.8"])
    assert "vpin_smoothing is 0.8; usual values lie in [0.1, 0.5]" in config.warnings[0]
    with pytest.raises(ConfigError, match=r"vpin_smoothing: is 1\.5, expected <= 1"):
        load_config("quickstart", ["features.vpin_smoothing=1.5"])


def test_an_unknown_kind_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r'market\.kind: unknown kind "lobstr".*did you mean "lobster".*known'):
        load_config("quickstart", ["market.kind=lobstr"])


@pytest.mark.parametrize(
    ("config", "given", "said"),
    [
        ("lobster", "exchange.lot_size=1", '--set exchange.lot_size: unknown key .*"execution.replay.lot_size"'),
        ("quickstart", "risk_aversion=1", r'--set risk_aversion: unknown key \(did you mean "hjb.risk_aversion"\?\)'),
        ("quickstart", "hjb.seed=1", r'did you mean "seed"\?'),
        ("quickstart", "kind=lobster", r'did you mean "market.kind"'),
        ("quickstart", "sweep.exchange.lot_size=[1]", 'no such table to sweep over .*"execution.replay.lot_size"'),
        ("hjb_sweep", "parameters.risk_aversoin=1", r'did you mean "risk_aversion"\?'),
        ("hjb_sweep", "nothing.like_it=1", "hjb_sweep.toml: nothing: unknown key; known keys"),
    ],
)
def test_an_unknown_key_is_suggested_where_its_name_exists(config, given, said):
    with pytest.raises(ConfigError, match=said):
        load_config(config, [given])


def test_every_setting_says_what_it_means():
    for cls in EXPERIMENTS.values():
        for path, default, _, _, meaning in describe_settings(cls):
            assert meaning or ".kind" in path, path
            assert default or ".kind" in path, path
