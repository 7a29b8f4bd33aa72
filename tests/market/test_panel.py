import gzip
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mfamm_jax.market.events import DataError
from mfamm_jax.market.loaders.panel import load_panel

ROWS = "Date,A,B,note\n2020-01-01,1.5,2.5,x\n2020-01-02,1.6,2.4,y\n2020-01-03,1.7,2.6,z\n"


def written(tmp_path, text, name="prices.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_csv_gz_and_parquet_hold_the_same(tmp_path):
    plain = load_panel(written(tmp_path, ROWS))
    assert plain.columns == ("A", "B")
    np.testing.assert_array_equal(plain.levels, [[1.5, 2.5], [1.6, 2.4], [1.7, 2.6]])
    with gzip.open(tmp_path / "p.csv.gz", "wt") as file:
        file.write(ROWS)
    pl.read_csv(tmp_path / "prices.csv").write_parquet(tmp_path / "p.parquet")
    for name in ("p.csv.gz", "p.parquet"):
        np.testing.assert_array_equal(load_panel(tmp_path / name).levels, plain.levels)
    assert load_panel(tmp_path / "p.parquet", ("B", "A")).columns == ("B", "A")
    assert len(plain.source[0][1]) == 64


def test_what_is_wrong_is_named(tmp_path):
    def broken(old, new, **kwargs):
        return load_panel(written(tmp_path, ROWS.replace(old, new)), **kwargs)

    with pytest.raises(DataError, match="no such file"):
        load_panel(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match=r'row 3 of column "B" is nan, expected a price > 0 \(1 such cells\)'):
        broken("2.6", "")
    with pytest.raises(DataError, match=r'row 2 of column "A" is -1\.6'):
        broken("1.6", "-1.6")
    with pytest.raises(DataError, match=r'row 3: "Date" is 2020-01-01, expected a time later'):
        broken("2020-01-03", "2020-01-01")
    with pytest.raises(DataError, match=r'row 3: "Date" is 2020-01-02, expected a time later'):
        broken("2020-01-03", "2020-01-02")
    with pytest.raises(DataError, match=r'no column "AA"; did you mean "A"\?'):
        broken("x", "x", columns=("AA", "B"))
    with pytest.raises(DataError, match='column "note" holds String'):
        broken("x", "x", columns=("A", "note"))
    with pytest.raises(DataError, match="1 columns of numbers, expected at least 2"):
        broken("x", "x", columns=("A",))
    with pytest.raises(DataError, match='column "A" never changes; leave it out'):
        load_panel(written(tmp_path, "ts,A,B\n1,5,1\n2,5,2\n3,5,3\n"))
    with pytest.raises(DataError, match="2 rows, expected at least 3"):
        load_panel(written(tmp_path, "ts,A,B\n1,5,1\n2,5,2\n"))
    with pytest.raises(DataError, match="cannot be read as a table"):
        load_panel(written(tmp_path, "", "empty.csv"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(ROWS.encode())[:-20])
    with pytest.raises(DataError, match="truncated or damaged"):
        load_panel(tmp_path / "cut.csv.gz")


@pytest.mark.skipif("MFAMM_DATA" not in os.environ, reason="MFAMM_DATA is not set: no recorded data")
def test_recorded_panels_have_the_published_facts():
    root = Path(os.environ["MFAMM_DATA"])
    fx = load_panel(root / "panel_fx_h4_2012_2022/fx_h4_close_points.parquet")
    assert fx.columns == ("EURUSD", "GBPUSD", "EURGBP")
    assert len(fx.levels) == 14_400
    triangle = 1e4 * (np.log(1e-5 * fx.levels) @ [1, -1, -1])  # prices are points of 1e-5
    assert abs(triangle.mean() - 1.2378) < 1e-3
    assert abs(triangle.std(ddof=1) - 2.1082) < 1e-3
    venues = load_panel(root / "panel_btc_venues_100ms_20240808/btc_mids_100ms.parquet")
    basis = 1e4 * np.log(venues.levels[:, 0] / venues.levels[:, 1])
    assert abs(basis.mean() - 3.6824) < 1e-3
    etf = load_panel(root / "panel_etf_daily_2008_2016/etf_prices.csv.gz")
    assert etf.levels.shape == (2141, 23)
