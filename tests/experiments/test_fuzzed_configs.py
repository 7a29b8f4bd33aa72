"""A thousand configs that people might write: each ends in a clear error or in a valid run, none in a traceback."""

import contextlib
import copy
import tomllib

import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, construct, load_config, shipped_configs
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, FAILED, PARTIAL, run
from mfamm_jax.experiments.sweep import lay_out
from mfamm_jax.experiments.toml_text import to_toml

NAMES = [name for name in shipped_configs() if name != "hjb_sweep"] + ["hjb_sweep"] * 6
VALUES = [
    *(0, -1, 1, 2, 10**9, 2**63, -(10**20), 0.0, -0.5, 0.3, 1e-300, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "auto", "magic", "ünïcødé \U0001f4c8", "a.b", "0.1", "../..", True, False),
    *(
        [],
        [1],
        [0.5, 0.5],
        ["x"],
        [[1, 2], [3]],
        {},
        {"kind": "nope"},
        {"log": [0, 1], "num": 3},
        {"log": [1, 2], "num": 3},
    ),
]
KEYS = [
    "risk_aversoin",
    "kind",
    "num",
    "",
    "a b",
    "ünï",
    "sweep",
    "experiment",
    "n_steps",
    "seed",
    "method",
    "n_points",
]


def tables_of(table, path=()):
    yield path, table
    for key, value in table.items():
        if isinstance(value, dict):
            yield from tables_of(value, (*path, key))


def mutated(rng, name):
    """One to three changes to a resolved config, as TOML text."""
    table = copy.deepcopy(RESOLVED[name])
    for _ in range(rng.integers(1, 4)):
        places = list(tables_of(table))
        _, place = places[rng.integers(len(places))]
        keys = list(place)
        kind = rng.choice(["value", "value", "value", "drop", "rename", "add", "sweep"])
        if kind == "sweep":
            axis = place_of_axis(rng, table)
            table.setdefault("sweep", {})
            if isinstance(table["sweep"], dict):
                table["sweep"][axis] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        elif kind == "add" or not keys:
            place[KEYS[rng.integers(len(KEYS))]] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        else:
            key = keys[rng.integers(len(keys))]
            if kind == "value":
                place[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
            elif kind == "drop":
                del place[key]
            else:
                place[f"{key}x"] = place.pop(key)
    return table


def place_of_axis(rng, table):
    paths = [".".join((*path, key)) for path, place in tables_of(table) for key in place]
    return paths[rng.integers(len(paths))] if paths else "x"


def written(table):
    """TOML, or None if the mutation is nothing that TOML can say."""
    try:
        text = to_toml(table)
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, TypeError, ValueError, RecursionError):
        return None
    return text


RESOLVED = {name: load_config(name, ["market.path=x"] if name == "lobster" else None).resolved() for name in set(NAMES)}


def checked(tmp_path, number):
    """What `mfamm check` does with mutant `number`: an error text, or the config and its layout."""
    rng = np.random.default_rng(number)
    name = NAMES[rng.integers(len(NAMES))]
    text = written(mutated(rng, name))
    if text is None:
        return None
    file = tmp_path / "mutant.toml"
    file.write_text(text)
    try:
        config = load_config(str(file))
        experiment = construct(config)
        layout = lay_out(config, experiment) if config.sweep.n_rows and config.sweep.n_rows < 10**7 else None
    except ConfigError as error:
        return str(error)
    except BaseException as error:  # what is asserted: no other exception
        raise AssertionError(f"mutant {number} of {name}: {type(error).__name__}: {error}\n{text}") from error
    return config, layout


def test_a_thousand_mutated_configs_end_in_a_clear_error_or_are_valid(tmp_path):
    answers = [checked(tmp_path, number) for number in range(1000)]
    errors = [answer for answer in answers if isinstance(answer, str)]
    valid = [answer for answer in answers if isinstance(answer, tuple)]
    assert all(text.strip() and "\n\n" not in text for text in errors)
    assert len(errors) > 300
    assert len(valid) > 50


@pytest.mark.slow
def test_valid_mutants_of_a_small_run_end_in_an_exit_code(tmp_path):
    """What was found valid also runs, or says what to change: every answer is done, failed, partial or one message."""
    ran = 0
    for number in range(400):
        answer = checked(tmp_path, number)
        if not isinstance(answer, tuple) or answer[0].tables["experiment"] != "hjb":
            continue
        config, layout = answer
        size = config.tables["max_inventory"] * config.tables["n_steps"]
        if size > 2000 or (layout is not None and config.sweep.n_rows > 5000):
            continue
        folder = RunFolder(tmp_path / f"run{number}", config)
        folder.open(fresh=False)
        with contextlib.suppress(ValueError):  # one message
            assert run(config, folder, say=lambda _: None).code in (DONE, FAILED, PARTIAL), number
        ran += 1
    assert ran >= 8
