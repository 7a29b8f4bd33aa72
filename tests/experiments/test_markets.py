"""Several assets from files and from the generator."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.markets import RecordedMarkets, RelatedMarkets
from mfamm_jax.experiments.mfamm_state import Clock, stack_clocks
from mfamm_jax.experiments.observe import Features, observe
from mfamm_jax.market.events import NS, DataError
from mfamm_jax.market.loaders.lobster import write_lobster
from mfamm_jax.market.synthetic import generate_session


def files(folder, *durations):
    paths = []
    for i, seconds in enumerate(durations):
        session, _ = generate_session("small_tick", seconds, i)
        message, _ = write_lobster(session, folder / str(i), ticker=f"A{i}", date="2000-01-03")
        paths.append(str(message))
    return ",".join(paths)


def test_files_of_unequal_length_learn_from_their_common_hours_only(tmp_path):
    found = RecordedMarkets(paths=files(tmp_path, 100.0, 70.0)).load(0)
    start, split = found.training.training
    assert found.training.train_end_ns == split == found.tests[0].test[0]
    ends = [s.updates.t_ns[-1] for s in found.training.sessions]
    assert found.tests[0].test[1] == min(ends)
    assert split == start + round(0.5 * (min(ends) - start))
    for session in found.training.sessions:
        seen = observe(session, Features(bucket_volume=2000.0, volatility_window=20), train_end_ns=split)
        assert seen.train_end_ns == split


def test_another_session_can_be_seen_on_the_scales_of_the_first():
    one, other = (generate_session("small_tick", 60.0, seed)[0] for seed in (1, 2))
    how = Features(volatility_window=20)
    first = observe(one, how, 1.0)
    own, like = observe(other, how, 1.0), observe(other, how, 1.0, like=first)
    assert like.bucket_volume == first.bucket_volume != own.bucket_volume
    for a, b in zip(vars(like.scale).values(), vars(first.scale).values()):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(own.book_features, like.book_features)


def test_generated_sessions_trade_equally_long_after_their_warm_up():
    found = RelatedMarkets(
        preset="quiet_small_tick", n_assets=2, training=60.0, test=30.0, warm_up=20.0, n_sessions=2
    ).load(3)
    assert len(found.tests) == 2
    lengths = {(r.test[1] - r.test[0]) / NS for r in found.tests}
    assert lengths == {30.0}
    assert found.tests[0].train_end_ns == found.tests[0].test[0]
    assert found.training.train_end_ns == found.training.training[1]
    first, second = (r.sessions[0].updates.t_ns for r in found.tests)
    assert not np.array_equal(first[:50], second[:50])


def test_one_file_or_hours_that_do_not_overlap_are_refused(tmp_path):
    path = files(tmp_path, 70.0)
    with pytest.raises(DataError, match="at least two"):
        RecordedMarkets(paths=path).load(0)
    with pytest.raises(DataError, match="in common, expected at least 60"):
        RecordedMarkets(paths=files(tmp_path, 70.0, 40.0)).load(0)


def test_clocks_of_other_lengths_stack_and_padding_starts_nothing():
    def clock(n):
        whole = jnp.arange(n, dtype=jnp.int32)
        real = whole.astype(float)
        return Clock(whole % 2 == 1, whole, real, real, whole, real[:, None], real[:, None] > 0, 7)

    both = stack_clocks([clock(4), clock(6)])
    assert both.starts.shape == (2, 6)
    np.testing.assert_array_equal(both.starts[0], [False, True, False, True, False, False])
    np.testing.assert_array_equal(both.number[0], [0, 1, 2, 3, 3, 3])
    np.testing.assert_array_equal(both.starts[1], clock(6).starts)
    assert both.n_intervals == 7
    assert dataclasses.is_dataclass(both)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (['execution.replay.contract="inverse"'], "added up in one currency"),
        (["execution.decision_interval=2.0"], "every slot needs a decision"),
    ],
)
def test_what_cannot_be_traded_is_refused_before_anything_is_generated(tmp_path, overrides, said):
    with pytest.raises(ConfigError, match=said):
        construct(load_config("mfamm", overrides)).prepare(tmp_path, 0, lambda _: None)
