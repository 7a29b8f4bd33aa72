import json

import jax
import pytest

from mfamm_jax.experiments.config import ConfigError
from mfamm_jax.experiments.verify import SHIPPED, SHIPPED_MARKET_MAKING, SHIPPED_SOLVERS, verify_cases


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


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("precision", "passed"), [("float64", 69), pytest.param("float32", 63, marks=pytest.mark.slow)]
)
def test_shipped_market_making_cases_pass(precision, passed, monkeypatch):
    """The six laws of the 2008 simulation have a float64 tolerance only, the three recorded replays need a file."""
    monkeypatch.delenv("MFAMM_DATA", raising=False)
    answer = verify_cases([SHIPPED_MARKET_MAKING], precision)
    assert (answer["passed"], answer["failed"], answer["skipped"]) == (passed, 0, 72 - passed), answer


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "passed"), [("float64", 179), ("float32", 153)])
def test_shipped_solver_cases_pass(precision, passed):
    """Twenty-six cases have a float64 tolerance only."""
    answer = verify_cases([SHIPPED_SOLVERS], precision)
    assert (answer["passed"], answer["failed"], answer["skipped"]) == (passed, 0, 179 - passed), answer


@pytest.mark.slow
def test_the_first_solver_case_of_every_kind_passes(tmp_path):
    table, first = json.loads(SHIPPED_SOLVERS.read_text()), {}
    for case in table["cases"]:
        first.setdefault(case["kind"], case)
    (tmp_path / "cases.json").write_text(json.dumps(table | {"cases": list(first.values())}))
    answer = verify_cases([tmp_path / "cases.json"], "float64")
    assert (answer["passed"], answer["failed"], answer["skipped"]) == (38, 0, 0), answer


@pytest.mark.thorough
def test_replays_of_the_recorded_file_are_hftbacktests(data_folder, tmp_path):
    """Trades, profit, fees and final position of three quoting rules, as hftbacktest 2.4.4 gave them."""
    table = json.loads(SHIPPED_MARKET_MAKING.read_text())
    table["cases"] = [case for case in table["cases"] if case["kind"] == "hft_replay"]
    (tmp_path / "cases.json").write_text(json.dumps(table))
    answer = verify_cases([tmp_path / "cases.json"], "float64")
    assert (answer["passed"], answer["failed"], answer["skipped"]) == (3, 0, 0), answer


def test_a_replay_case_says_which_file_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("MFAMM_DATA", str(tmp_path))
    case = next(c for c in json.loads(SHIPPED_MARKET_MAKING.read_text())["cases"] if c["kind"] == "hft_replay")
    (tmp_path / "cases.json").write_text(json.dumps({"schema": 1, "cases": [case]}))
    (answer,) = verify_cases([tmp_path / "cases.json"], "float64")["cases"]
    assert answer["status"] == "skip"
    assert case["inputs"]["file"] in answer["reason"]


@pytest.mark.thorough
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
