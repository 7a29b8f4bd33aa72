import numpy as np
import polars as pl
import pytest

from mfamm_jax.market.events import DataError
from mfamm_jax.market.loaders.latencies import COLUMNS, load_latencies
from mfamm_jax.simulation.latency import RecordedLatency

START = 1_723_075_200_000_000_000
ROWS = np.array([[30, 35, 42], [10, 16, 21], [20, 0, 29]])  # sent out of order; the second venue's answer is a refusal


def times(rows=ROWS):
    """Nanoseconds; 0 stays."""
    return np.where(np.array(rows) != 0, START + np.array(rows) * 1_000_000, 0)


def records(table):
    padding = np.zeros(len(table), np.int64)
    return np.rec.fromarrays([*table.T, padding], names=[*COLUMNS, "_padding"])


def write(folder, table, name="latency.npz"):
    file = folder / name
    if file.suffix == ".npz":
        np.savez(file, data=records(table))
    elif file.suffix == ".npy":
        np.save(file, records(table))
    else:
        frame = pl.DataFrame(dict(zip(COLUMNS, table.T)) | {"note": ["x"] * len(table)})
        frame.write_parquet(file) if file.suffix == ".parquet" else frame.write_csv(file)
    return file


@pytest.mark.parametrize("name", ["latency.npz", "latency.npy", "latency.csv", "latency.parquet"])
def test_every_format_gives_the_same_times_in_order_of_sending(tmp_path, name):
    found = load_latencies(str(write(tmp_path, times(), name)))
    for column, expected in zip(found, times([[10, 16, 21], [20, 0, 29], [30, 35, 42]]).T):
        assert column.dtype == np.int64
        np.testing.assert_array_equal(column, expected)


def test_they_are_a_latency_model(tmp_path):
    model = RecordedLatency(*load_latencies(write(tmp_path, times())))
    latency, refused = model.entry(START + np.array([0, 40]) * 1_000_000)
    assert latency.tolist() == [6_000_000, 5_000_000]
    assert refused.tolist() == [False, False]


@pytest.mark.parametrize("unit", [1_000, 1_000_000])
def test_micro_and_milliseconds_are_told_by_their_digits(tmp_path, unit):
    found = load_latencies(write(tmp_path, times() // unit, "latency.csv"))
    np.testing.assert_array_equal(found, times(sorted(ROWS.tolist())).T)


def test_columns_stand_in_any_order_and_only_refusals_may_stand_alone(tmp_path):
    file = tmp_path / "latency.csv"
    file.write_text(f"resp_ts,exch_ts,req_ts\n{START + 9},0,{START}\n")
    assert [column.tolist() for column in load_latencies(file)] == [[START], [0], [START + 9]]


def test_of_requests_sent_together_the_first_row_counts(tmp_path):
    found = load_latencies(write(tmp_path, times([[10, 12, 14], [10, 13, 15], [11, 12, 13]])))
    np.testing.assert_array_equal(found, times([[10, 12, 14], [11, 12, 13]]).T)


BAD = {
    "answer": ([[10, 12, 14], [20, 0, 19]], "row 2: resp_ts before req_ts; correct the clocks first"),
    "exchange": ([[10, 12, 14], [20, 19, 25]], "row 2: exch_ts before req_ts"),
    "order": ([[20, 0, 25], [20, 26, 25]], "row 2: resp_ts before exch_ts"),
}


@pytest.mark.parametrize("case", BAD)
def test_times_that_contradict_one_another_are_named(tmp_path, case):
    rows, message = BAD[case]
    with pytest.raises(DataError, match=rf"latency.npz: {message}"):
        load_latencies(write(tmp_path, times(rows)))


def test_mixed_units_are_refused_with_their_row(tmp_path):
    mixed = times()
    mixed[2, 0] //= 1000
    with pytest.raises(DataError, match=r"req_ts: row 3: time \d{16}, expected UTC epoch times of one unit"):
        load_latencies(write(tmp_path, mixed))
    mixed = times([[10, 0, 14], [20, 21, 25], [30, 31, 35]])
    mixed[2, 1] //= 1000
    with pytest.raises(DataError, match=r"exch_ts: row 3: time \d{16}"):
        load_latencies(write(tmp_path, mixed))


def test_files_that_cannot_be_read_say_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_latencies(tmp_path / "missing.npz")
    with pytest.raises(DataError, match="no latencies"):
        load_latencies(write(tmp_path, times()[:0]))
    file = write(tmp_path, times())
    file.write_bytes(file.read_bytes()[:-50])
    expected = "expected the columns req_ts, exch_ts, resp_ts"
    with pytest.raises(DataError, match=expected):
        load_latencies(file)
    np.savez(file, other=records(times()))
    with pytest.raises(DataError, match=expected):
        load_latencies(file)
    np.savez(file, data=records(times())[["req_ts", "exch_ts"]])
    with pytest.raises(DataError, match=expected):
        load_latencies(file)
    np.savez(file, data=np.arange(6))
    with pytest.raises(DataError, match=expected):
        load_latencies(file)
    pl.DataFrame({"req_ts": [START]}).write_parquet(tmp_path / "latency.parquet")
    with pytest.raises(DataError, match=expected):
        load_latencies(tmp_path / "latency.parquet")
    (tmp_path / "latency.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=expected):
        load_latencies(tmp_path / "latency.parquet")
    (tmp_path / "latency.csv").write_text(f"req_ts,exch_ts,resp_ts\n{START},x,{START}\n")
    with pytest.raises(DataError, match="row 2: exch_ts is 'x', expected a number"):
        load_latencies(tmp_path / "latency.csv")
    (tmp_path / "latency.csv").write_text(f"req_ts,resp_ts\n{START},{START}\n")
    with pytest.raises(DataError, match="no column exch_ts; found req_ts, resp_ts"):
        load_latencies(tmp_path / "latency.csv")


@pytest.mark.parametrize("column", COLUMNS)
def test_times_that_are_missing_or_no_whole_numbers_are_refused(tmp_path, column):
    good = dict(zip(COLUMNS, ([START], [START + 1], [START + 2])))
    file = tmp_path / "latency.parquet"
    for values in ([None], [float(START)], ["x"]):
        pl.DataFrame(good | {column: values}, strict=False).write_parquet(file)
        with pytest.raises(DataError, match=f"{column} is .*, expected whole numbers without gaps"):
            load_latencies(file)
    pl.DataFrame(good).with_columns(pl.col(column).cast(pl.Datetime("ns"))).write_parquet(file)
    assert [values.tolist() for values in load_latencies(file)] == list(good.values())
    table = np.rec.fromarrays([np.array(values, float) for values in good.values()], names=list(COLUMNS))
    np.savez(tmp_path / "latency.npz", data=table)
    with pytest.raises(DataError, match="req_ts is float64, expected whole numbers"):
        load_latencies(tmp_path / "latency.npz")
