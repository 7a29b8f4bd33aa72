import gzip
import json
import zipfile

import numpy as np
import pytest

from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.market.ladder import build_ladder
from mfamm_jax.market.loaders.binance import load_binance
from mfamm_jax.market.loaders.files import file_hash

T = 1_735_689_600_000  # 2025-01-01, ms
NAME = "BTCUSDT-{}-2025-01-01.csv"
TRADES = [
    f"10,100.10,0.5,50.05,{T + 1},true",
    f"11,100.20,1.5,150.30,{T + 1},false",
    f"13,100.10,0.25,25.025,{T + 7},true",
]
HEADERS = {
    "trades": "id,price,qty,quote_qty,time,is_buyer_maker",
    "aggTrades": "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
    "bookTicker": "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time",
}
QUOTES = [
    f"900,100.1,5,100.2,7,{T},{T + 3}",
    f"905,100.1,4,100.2,7,{T + 1},{T + 4}",
    f"907,100.0,9,100.2,2,{T + 5},{T + 6}",
]


def write(folder, kind, lines, header=None, name=NAME):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name.format(kind)
    text = "\n".join([*([header] if header else []), *lines]) + "\n"
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(file.name.replace(".zip", ".csv"), text)
    else:
        file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def assert_the_three_trades(session):
    updates = session.updates
    assert session.feed == "trades"
    assert session.books is None
    assert updates.kind.tolist() == [Kind.TRADE] * 3
    # The buyer was the maker: a seller hit the bid.
    assert updates.side.tolist() == [1, -1, 1]
    assert updates.aggressor.tolist() == [-1, 1, -1]
    assert updates.t_ns.tolist() == [1_000_000, 1_000_000, 7_000_000]
    assert updates.price_ticks.tolist() == [1001, 1002, 1001]
    assert updates.size.tolist() == [2, 6, 1]
    assert updates.local_ns is None
    assert (session.tick_size, session.size_unit) == (0.1, 0.25)
    assert session.epoch_ns == T * 10**6


LAYOUTS = {
    "futures with header": ("trades", HEADERS["trades"], TRADES),
    "futures without header": ("trades", None, TRADES),
    "coin-margined": ("trades", HEADERS["trades"].replace("quote_qty", "base_qty"), TRADES),
    "spot in microseconds": (
        "trades",
        None,
        [
            f"10,100.10000000,0.50000000,50.05,{T + 1}000,True,True",
            f"11,100.20000000,1.50000000,150.30,{T + 1}000,False,True",
            f"13,100.10000000,0.25000000,25.025,{T + 7}000,True,False",
        ],
    ),
    "camel case": ("trades", "id,price,qty,quoteQty,time,isBuyerMaker", TRADES),
    "columns in another order": (
        "trades",
        "time,id,is_buyer_maker,price,qty",
        [f"{T + 1},10,true,100.1,0.5", f"{T + 1},11,false,100.2,1.5", f"{T + 7},13,true,100.1,0.25"],
    ),
    "aggregate futures": (
        "aggTrades",
        HEADERS["aggTrades"],
        [f"10,100.1,0.5,1,2,{T + 1},true", f"11,100.2,1.5,3,3,{T + 1},false", f"13,100.1,0.25,5,5,{T + 7},true"],
    ),
    "aggregate spot": (
        "aggTrades",
        None,
        [
            f"10,100.1,0.5,1,2,{T + 1}000,True,True",
            f"11,100.2,1.5,3,3,{T + 1}000,False,True",
            f"13,100.1,0.25,5,5,{T + 7}000,True,True",
        ],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".zip"])
def test_every_layout_of_trades_is_the_same_session(tmp_path, layout, suffix):
    kind, header, lines = LAYOUTS[layout]
    file = write(tmp_path, kind, lines, header, NAME.replace(".csv", suffix))
    session = load_binance(file)
    assert_the_three_trades(session)
    assert session.name == "BTCUSDT 2025-01-01"
    assert session.counts == {"trades": 3, "trade_id_gaps": 1}
    assert session.notes == ("1 gaps in the trade ids",)
    assert session.source == ((file.name, file_hash(file)),)


@pytest.mark.parametrize("layout", ["futures with header", "aggregate futures"])
def test_a_renamed_file_is_known_by_its_header(tmp_path, layout):
    _, header, lines = LAYOUTS[layout]
    session = load_binance(write(tmp_path, "", lines, header, "mine.csv"))
    assert_the_three_trades(session)
    assert session.name == "mine"


def test_trades_are_sorted_by_id_and_then_by_time(tmp_path):
    lines = [TRADES[2], TRADES[0], TRADES[1]]
    assert_the_three_trades(load_binance(write(tmp_path, "trades", lines)))
    late = [f"10,100.1,1,1,{T + 9},true", f"11,100.2,1,1,{T + 8},true", f"12,100.3,1,1,{T + 8},true"]
    session = load_binance(write(tmp_path, "trades", late))
    assert session.updates.price_ticks.tolist() == [1002, 1003, 1001]
    assert session.notes == ("1 trades with an earlier time than the trade before; sorted by time",)


def test_best_quotes_are_book_rows_at_the_transaction_time(tmp_path):
    session = load_binance(write(tmp_path, "bookTicker", QUOTES, HEADERS["bookTicker"]))
    books = session.books
    assert session.updates.kind.tolist() == [Kind.SNAPSHOT] * 3
    assert session.updates.t_ns.tolist() == [0, 1_000_000, 5_000_000]
    assert session.updates.local_ns is None
    assert books.bid_ticks[:, 0].tolist() == [1001, 1001, 1000]
    assert books.ask_ticks[:, 0].tolist() == [1002, 1002, 1002]
    assert books.bid_size[:, 0].tolist() == [5, 4, 9]
    assert books.ask_size[:, 0].tolist() == [7, 7, 2]
    assert books.n_levels == 1
    assert session.counts["best_quotes"] == 3


def test_unsorted_best_quotes_follow_the_update_id(tmp_path):
    lines = [QUOTES[2], QUOTES[0], f"906,100.1,3,100.2,7,{T},{T}", QUOTES[1]]
    session = load_binance(write(tmp_path, "bookTicker", lines))
    # 906 follows 905, whose time is later.
    assert session.books.bid_size[:, 0].tolist() == [5, 4, 3, 9]
    assert session.updates.t_ns.tolist() == [0, 1_000_000, 1_000_000, 5_000_000]
    assert len(session.notes) == 2


def test_an_empty_side_and_a_crossed_quote(tmp_path):
    lines = [QUOTES[0], f"901,0,0,100.2,7,{T + 1},{T}", f"902,100.3,1,100.2,7,{T + 2},{T}", QUOTES[2]]
    session = load_binance(write(tmp_path, "bookTicker", lines))
    assert session.books.bid_size[:, 0].tolist() == [5, 0, 9]
    assert session.updates.t_ns.tolist() == [0, 1_000_000, 5_000_000]
    assert session.counts["crossed_rows"] == 1
    assert not build_ladder(session).two_sided[1]


def test_a_folder_merges_trades_with_the_quotes_before_their_time(tmp_path):
    write(tmp_path, "trades", TRADES)
    write(tmp_path, "bookTicker", QUOTES)
    (tmp_path / "BTCUSDT-trades-2025-01-01.zip.CHECKSUM").write_text("0")
    session = load_binance(tmp_path)
    trade, snap = Kind.TRADE, Kind.SNAPSHOT
    assert session.updates.kind.tolist() == [snap, trade, trade, snap, snap, trade]
    # The trades of millisecond 1 stand before its quote, which may already show them.
    assert session.books.bid_size[:, 0].tolist() == [20, 20, 20, 16, 36, 36]  # quarters
    assert session.books.bid_ticks[:, 0].tolist() == [1001, 1001, 1001, 1001, 1000, 1000]
    assert session.updates.size.tolist() == [0, 2, 6, 0, 0, 1]
    assert session.feed == "levels"
    assert len(session.source) == 2


def edit(lines, number, new):
    return [*lines[:number], new, *lines[number + 1 :]]


BAD = {
    "number": ("trades", edit(TRADES, 1, f"11,x,1.5,1,{T},true"), "row 2: price is 'x', expected a number"),
    "NaN": ("trades", edit(TRADES, 1, f"11,100.1,nan,1,{T},true"), "row 2: qty is 'nan'"),
    "flag": ("trades", edit(TRADES, 1, f"11,100.1,1,1,{T},yes"), "row 2: is_buyer_maker is 'yes', expected false or"),
    "zero price": ("trades", edit(TRADES, 1, f"11,0,1,1,{T},true"), r"row 2: price is 0.0, expected > 0"),
    "negative size": ("trades", edit(TRADES, 1, f"11,100,-1,1,{T},true"), r"row 2: qty is -1.0, expected > 0"),
    "repeated": ("trades", edit(TRADES, 2, TRADES[0]), "row 3: id is 10, expected every trade once"),
    "mixed units": ("trades", edit(TRADES, 2, f"13,100.1,1,1,{T}000,true"), "time: row 3: time .* one unit"),
    "columns": ("trades", ["1,2,3"], "3 columns, expected 6"),
    "empty": ("trades", [], "empty"),
    "quote size": ("bookTicker", edit(QUOTES, 1, f"905,1,-4,2,7,{T},{T}"), r"row 2: best_bid_qty is -4.0"),
    "quote price": ("bookTicker", edit(QUOTES, 1, f"905,1,4,0,7,{T},{T}"), r"row 2: best_ask_price is 0.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(tmp_path, case):
    kind, lines, message = BAD[case]
    with pytest.raises(DataError, match=message):
        load_binance(write(tmp_path, kind, lines))


def test_rows_are_counted_from_the_header(tmp_path):
    lines = edit(TRADES, 1, f"11,-1,1.5,1,{T},true")
    with pytest.raises(DataError, match="row 3: price is -1"):
        load_binance(write(tmp_path, "trades", lines, HEADERS["trades"]))
    with pytest.raises(DataError, match="no column price; found id"):
        load_binance(write(tmp_path, "trades", lines, HEADERS["trades"].replace(",price", ",cost")))


def test_a_given_grid_is_kept_and_values_off_it_are_named(tmp_path):
    file = write(tmp_path, "trades", TRADES)
    session = load_binance(file, tick_size=0.05, size_unit=0.125)
    assert session.updates.price_ticks.tolist() == [2002, 2004, 2002]
    assert session.updates.size.tolist() == [4, 12, 2]
    with pytest.raises(DataError, match=r"price: row 1: 100.1 is not a multiple of 0.2; check tick_size"):
        load_binance(file, tick_size=0.2)
    with pytest.raises(DataError, match=r"qty: row 3: 0.25 is not a multiple of 0.5; check size_unit"):
        load_binance(file, size_unit=0.5)
    with pytest.raises(DataError, match=r"best_bid_price: row 1: 100.1 is not a multiple of 0.2"):
        load_binance(write(tmp_path, "bookTicker", QUOTES), tick_size=0.2)


@pytest.mark.parametrize(
    ("kind", "header", "message"),
    [
        ("1m", None, "klines are bars .* use the aggTrades or trades dump"),
        ("markPriceKlines", None, "klines are bars"),
        ("bookDepth", None, "bookDepth is depth summed .* use bookTicker"),
        ("metrics", None, "metrics, expected trades, aggTrades, bookTicker"),
        ("", "open_time,open,high", "klines are bars"),
        ("", "a,b,c", "a dump of unknown kind"),
    ],
)
def test_other_dumps_are_refused_with_what_to_use(tmp_path, kind, header, message):
    file = write(tmp_path, kind, ["1,2,3"], header, NAME if kind else "mine.csv")
    with pytest.raises(DataError, match=message):
        load_binance(file)
    if kind:
        with pytest.raises(DataError, match=message):
            load_binance(tmp_path)


def test_folders_and_archives_that_do_not_fit_say_so(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_binance(tmp_path / NAME.format("trades"))
    with pytest.raises(DataError, match="no file SYMBOL-KIND-DATE"):
        load_binance(tmp_path)
    write(tmp_path / "two", "trades", TRADES)
    write(tmp_path / "two", "aggTrades", LAYOUTS["aggregate futures"][2])
    with pytest.raises(DataError, match=r"several times: BTCUSDT-aggTrades.*BTCUSDT-trades"):
        load_binance(tmp_path / "two")
    write(tmp_path / "days", "trades", TRADES)
    write(tmp_path / "days", "bookTicker", QUOTES, name=NAME.replace("01-01", "01-02"))
    with pytest.raises(DataError, match="several symbols or dates"):
        load_binance(tmp_path / "days")
    cut = write(tmp_path, "trades", TRADES, name=NAME.replace(".csv", ".zip"))
    cut.write_bytes(cut.read_bytes()[:90])
    with pytest.raises(DataError, match="not a complete zip"):
        load_binance(cut)


def test_the_real_trades_have_the_published_facts(data_folder):
    published = json.loads((data_folder / "facts.json").read_text())
    session = load_binance(data_folder / "format_fixtures" / "binance_dump_layout")
    rows = published["format_fixtures"]["binance_dump_layout"]["trades_rows"]
    capture = published["binance_btc_20240808/usdm_btcusdt_20240808"]
    assert len(session.updates) == rows == capture["trades_market"]
    assert session.name == "BTCUSDT 2024-08-08"
    assert session.tick_size == capture["tick"]
    assert session.counts["trade_id_gaps"] == capture["trade_id_gaps"]
    volume = session.updates.size * session.size_unit
    assert volume.sum() == pytest.approx(capture["volume_qty"], rel=1e-9)
    bought = session.updates.aggressor == 1
    assert bought.mean() == pytest.approx(capture["buy_taker_share_count"], abs=1e-5)
    assert volume[bought].sum() / volume.sum() == pytest.approx(capture["buy_taker_share_volume"], abs=1e-5)
    assert (np.diff(session.updates.t_ns) >= 0).all()
