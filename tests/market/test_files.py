import gzip
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mfamm_jax.market.events import DataError
from mfamm_jax.market.loaders import files
from mfamm_jax.market.loaders.files import (
    file_hash,
    first_line,
    grid_step,
    midnight,
    multiples,
    nanoseconds,
    read_blocks,
    read_csv,
    refuse,
)

TEXT = "id,price,side\n1,10.5,bid\n2,11,ask\n3,0.25,bid\n"
COLUMNS = {"id": pl.Int64(), "price": pl.Float64(), "side": pl.Enum(["ask", "bid"])}


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "zip"])
def test_plain_gzip_and_zip_have_the_same_rows(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("inner/a.csv", TEXT)
    else:
        file.write_bytes(gzip.compress(TEXT.encode()) if suffix == "csv.gz" else TEXT.encode())
    assert read_csv(file, COLUMNS).rows() == [(1, 10.5, "bid"), (2, 11.0, "ask"), (3, 0.25, "bid")]
    assert first_line(file) == ["id", "price", "side"]


@pytest.mark.parametrize("block_bytes", [3, 16, 20, 1000])
def test_blocks_of_any_size_end_at_line_ends_and_lose_nothing(tmp_path, monkeypatch, block_bytes):
    file = write(tmp_path / "a.csv", TEXT.rstrip())
    blocks = list(read_blocks(file, block_bytes))
    assert b"".join(blocks) == TEXT.rstrip().encode()
    assert all(block.endswith(b"\n") for block in blocks[:-1])
    monkeypatch.setattr(files, "read_blocks", partial(read_blocks, block_bytes=block_bytes))
    assert read_csv(file, COLUMNS)["id"].to_list() == [1, 2, 3]
    write(file, TEXT.replace("0.25", "x"))
    with pytest.raises(DataError, match="row 4: price is 'x', expected a number"):
        read_csv(file, COLUMNS)


def test_with_a_header_columns_are_found_by_name_without_one_by_position(tmp_path):
    file = write(tmp_path / "a.csv", "side,extra,id,price\nbid,7,1,10.5\n")
    assert read_csv(file, COLUMNS).rows() == [(1, 10.5, "bid")]
    file = write(tmp_path / "b.csv", "1,10.5,bid,7\n2,11,ask,8\n")
    assert read_csv(file, COLUMNS).rows() == [(1, 10.5, "bid"), (2, 11.0, "ask")]
    assert read_csv(file, {"id": pl.Int64()}).rows() == [(1,), (2,)]


def test_line_ends_of_windows_byte_order_marks_and_blank_last_lines_do_not_matter(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert read_csv(file, COLUMNS).rows() == [(1, 10.5, "bid"), (2, 11.0, "ask"), (3, 0.25, "bid")]


def test_cells_may_be_empty_only_where_that_was_said(tmp_path):
    file = write(tmp_path / "a.csv", "id,price,side\n1,,bid\n")
    assert read_csv(file, COLUMNS, may_be_empty=["price"]).rows() == [(1, None, "bid")]
    with pytest.raises(DataError, match="row 2: price is None, expected a number"):
        read_csv(file, COLUMNS)


BAD = {
    "text": ("1,10.5,bid\n2,abc,ask\n", "row 2: price is 'abc', expected a number"),
    "NaN": ("1,10.5,bid\n2,NaN,ask\n", "row 2: price is 'NaN', expected a number"),
    "infinite": ("1,inf,bid\n", "row 1: price is 'inf', expected a number"),
    "fraction": ("1.5,10.5,bid\n", "row 1: id is '1.5', expected a number"),
    "word": ("1,10.5,bid\n2,11,both\n", "row 2: side is 'both', expected ask or bid"),
    "short row": ("1,10.5,bid\n2,11\n", "row 2: side is None, expected ask or bid"),
    "long row": ("1,10.5,bid\n2,11,ask,4,5\n", "row 2: not a csv table of 3 columns"),
    "too few columns": ("1,10.5\n", "2 columns, expected 3: id, price, side"),
    "header without a column": ("id,price\n1,2\n", "no column side; found id, price"),
    "header only": ("id,price,side", "empty; expected rows of id, price, side"),
    "empty": ("", "empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_cell_is_named_with_its_row_in_the_file(tmp_path, case):
    text, message = BAD[case]
    with pytest.raises(DataError, match=message):
        read_csv(write(tmp_path / "a.csv", text), COLUMNS)


def test_archives_that_are_not_whole_say_so(tmp_path):
    text = "\n".join(f"{n},{n * 7919 % 1009},bid" for n in range(5000)).encode()
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(text)[:2000])
    with pytest.raises(DataError, match=r"cut.csv.gz: truncated or damaged archive .* download it again"):
        read_csv(cut, COLUMNS)
    whole, damaged, short = (tmp_path / f"{name}.zip" for name in ("whole", "damaged", "short"))
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", text)
    content = bytearray(whole.read_bytes())
    short.write_bytes(content[:3000])
    content[3000] ^= 255
    damaged.write_bytes(content)
    with pytest.raises(DataError, match="not a complete zip"):
        read_csv(short, COLUMNS)
    with pytest.raises(DataError, match="truncated or damaged archive"):
        read_csv(damaged, COLUMNS)
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr("b.csv", text)
    with pytest.raises(DataError, match="2 files inside, expected one"):
        read_csv(whole, COLUMNS)
    with pytest.raises(DataError, match="no such file"):
        read_csv(tmp_path / "missing.csv", COLUMNS)


def test_the_unit_of_time_is_told_by_the_digits():
    expected = 1723161256298 * 10**6
    for times in (1723161256298, 1723161256298000, 1723161256298000000):
        assert nanoseconds("t", np.array([times, times + 1]))[0] == expected
    # 19 digits do not fit a float: every nanosecond is kept.
    assert nanoseconds("t", np.array([1723161254087891268])).tolist() == [1723161254087891268]


def test_mixed_units_of_time_are_refused_with_the_row():
    with pytest.raises(DataError, match=r"a.csv: time: row 3: time 1723161256298000, expected .* one unit"):
        nanoseconds("a.csv: time", np.array([1723161256298, 1723161256298000]), first_row=2)
    with pytest.raises(DataError, match="row 1: time 0"):
        nanoseconds("t", np.array([0, 1723161256298000]))


def test_midnight_is_the_days_first_nanosecond():
    day = 19943 * 86_400 * 10**9
    assert midnight(np.array([day + 5, day + 3])) == day
    assert midnight(day - 1) == day - 86_400 * 10**9


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([61800.3, 61800.2, 58710.0], 0.1),
        ([100.05, 100.1, 7.25], 0.05),
        ([0.0, 0.25, 1.75], 0.25),
        ([0.00001234, 0.00001236], 2e-8),
        ([1.5], 1.5),
        ([3e-9, 1e-9], 1e-9),
        ([0.1 + 0.2, 0.7], 0.1),  # one ulp of dust
        ([123456789.13, 1e9], 0.01),  # nine decimals would need more digits than a float has
        ([12345678.9, 0.3], 0.3),
        ([5e9, 3e9 + 1], 1.0),
        ([], 1.0),
        ([0.0], 1.0),
    ],
)
def test_grid_step_is_the_largest_common_step(values, step):
    assert grid_step([np.array(values)]) == step
    assert grid_step([np.array(values[:1]), np.array(values[1:])]) == step


def test_multiples_are_whole_or_refused_with_the_row():
    assert multiples("p", np.array([61800.3, 0.0, 0.7]), 0.1, "").tolist() == [618003, 0, 7]
    with pytest.raises(DataError, match=r"p: row 4: 0.75 is not a multiple of 0.1; change it"):
        multiples("p", np.array([0.7, 0.75, 0.01]), 0.1, "change it", first_row=3)
    with pytest.raises(DataError, match="row 1: nan is not a multiple"):
        multiples("p", np.array([np.nan]), 0.1, "")
    with pytest.raises(DataError, match=r"row 2: 3000000000.0 is absurdly large"):
        multiples("p", np.array([1.0, 3e9]), 1.0, "")
    assert multiples("p", np.array([3e9]), 1.0, "", largest=2**53).tolist() == [3 * 10**9]


def test_refuse_names_the_first_bad_row():
    values = np.array([1, -2, -3])
    refuse(Path("f"), values > 5, "size", values, "<= 5")
    with pytest.raises(DataError, match="f: row 3: size is -2, expected > 0"):
        refuse(Path("f"), values < 0, "size", values, "> 0", first_row=2)


def test_the_hash_is_of_the_file_as_it_lies(tmp_path):
    file = write(tmp_path / "a", "abc")
    assert file_hash(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
