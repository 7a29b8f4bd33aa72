import json

import jax
import pytest

from mfamm_jax.experiments.config import ConfigError
from mfamm_jax.experiments.verify import SHIPPED, SHIPPED_MARKET_MAKING, verify_cases


@pytest.fixture(autouse=True)
def _restore_precision():
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.slow  # tests/solvers runs the same cases
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_shipped_cases_pass(precision):
    answer = verify_cases([SHIPPED], precision)
    assert (answer["passed"], answer["failed"], answer["skipped"]) == (11, 0, 0), answer


@pytest.mark.parametrize(
    ("precision", "passed"), [("float64", 69), pytest.param("float32", 63, marks=pytest.mark.slow)]
)
def test_shipped_market_making_cases_pass(precision, passed):
    """The six laws of the 2008 simulation have a float64 tolerance only."""
    answer = verify_cases([SHIPPED_MARKET_MAKING], precision)
    assert (answer["passed"], answer["failed"], answer["skipped"]) == (passed, 0, 69 - passed), answer


def test_a_wrong_expectation_fails_and_an_unknown_kind_is_skipped(tmp_path):
    case = json.loads(SHIPPED.read_text())["cases"][0]
    case["expected"]["bid_depth"][3] += 1e-6
    table = {"schema": 1, "cases": [case, {"id": "x", "kind": "unknown", "tolerance": {}}]}
    (tmp_path / "cases.json").write_text(json.dumps(table))
    answer = verify_cases([tmp_path / "cases.json"], "float64")
    assert [c["status"] for c in answer["cases"]] == ["fail", "skip"]
    assert answer["cases"][0]["reason"] == "bid_depth is off"


def test_a_broken_table_is_named(tmp_path):
    (tmp_path / "cases.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cases\.json"):
        verify_cases([tmp_path / "cases.json"], "float64")
