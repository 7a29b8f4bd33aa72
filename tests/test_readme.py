import re
from pathlib import Path

import numpy as np
import pytest

import mfamm_jax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_example_runs_and_more_risk_aversion_widens_the_spread():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert (np.diff(names["half_spreads"]) > 0).all()
    step = 1e-5
    difference = (names["half_spread"](0.1 + step) - names["half_spread"](0.1 - step)) / (2 * step)
    np.testing.assert_allclose(names["slopes"][1], difference, rtol=1e-7)


@pytest.mark.thorough
def test_the_replay_example_runs_and_wider_quotes_fill_less():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/replay.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code.replace("print(", "("), names)
    fills = np.asarray(names["results"].n_bid_fills)
    assert fills[0] > 10 > fills[-1]


@pytest.mark.thorough
def test_the_calibration_example_finds_what_it_planted():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/calibration.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    z = (np.asarray(names["found"].parameters) - [0.03, 1.2, 1.7]) / np.asarray(names["errors"])
    assert (np.abs(z) < 3).all()
    assert abs(float(names["deviation"]) - 0.01) < 0.006


def test_every_public_name_exists():
    for name in mfamm_jax.__all__:
        assert getattr(mfamm_jax, name) is not None


def test_names_are_found_by_completion_and_text_is_no_number():
    assert set(mfamm_jax.__all__) <= set(dir(mfamm_jax))
    with pytest.raises(TypeError, match="expected a number, got the text"):
        mfamm_jax.ExponentialIntensity(1.0, "1.5")
