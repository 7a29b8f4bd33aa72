"""Every kind of market from a table of settings, and `mfamm data inspect`."""

import gzip
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mfamm_jax.experiments.cli import app
from mfamm_jax.experiments.config import ConfigError, construct, load_config, resolve_market
from mfamm_jax.experiments.sources import SOURCES, guess_kind
from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.market.loaders.hftbacktest import load_hftbacktest
from mfamm_jax.market.loaders.parquet import write_parquet

DAY_MS = 1_723_075_200_000  # 2024-08-08
EXTRAS = {"databento": "databento_dbn", "itch": "meatpy"}


def packed(file, lines):
    content = ("\n".join(lines) + "\n").encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def lobster(folder, first="1000100,100,999900,70"):
    """Two messages and their books."""
    folder.mkdir(exist_ok=True)
    name = "XYZ_2020-02-03_34200000_34260000_{}_1.csv"
    packed(folder / name.format("orderbook"), [first, "1000100,60,999900,70"])
    return packed(folder / name.format("message"), ["34200.1,1,11,100,1000100,-1", "34201.1,4,11,40,1000100,-1"])


def hftbacktest(folder, name="feed.npz"):
    fields = [("ev", "u8"), ("px", "f8"), ("qty", "f8"), ("order_id", "u8"), ("exch_ts", "i8"), ("local_ts", "i8")]
    buy, sell, both = 1 << 29, 1 << 28, 3 << 30
    rows = [(both | 4 | buy, 10.0, 3.0), (both | 4 | sell, 10.5, 2.0), (both | 2 | buy, 10.5, 1.0)]
    records = [(*row, 0, (DAY_MS + t) * 10**6, (DAY_MS + t + 5) * 10**6) for t, row in enumerate(rows)]
    np.savez(folder / name, data=np.array(records, fields))
    return folder / name


def hftbacktest_raw(folder, name="btcusdt_20240808.gz"):
    ask, bid = [["10.5", "2"]], [["10.0", "3"]]
    trade = {"e": "trade", "E": DAY_MS + 5, "T": DAY_MS + 4, "t": 1, "p": "10.5", "q": "1", "X": "MARKET", "m": False}
    first = {"lastUpdateId": 7, "E": DAY_MS, "T": DAY_MS, "bids": bid, "asks": ask}
    messages = [first, {"stream": "btcusdt@trade", "data": trade}]
    return packed(folder / name, [f"{(DAY_MS + 9 + t) * 10**6} {json.dumps(m)}" for t, m in enumerate(messages)])


def tardis(folder, name="bitmex_incremental_book_L2_2024-08-08_XBTUSD.csv.gz"):
    header = "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount"
    rows = [f"bitmex,XBTUSD,{DAY_MS}000,{DAY_MS}900,true,{level}" for level in ("bid,10.0,3", "ask,10.5,2")]
    return packed(folder / name, [header, *rows])


def binance(folder, name="BTCUSDT-aggTrades-2024-08-08.csv"):
    header = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
    return packed(folder / name, [header, f"1,10.5,1,1,1,{DAY_MS},false", f"2,10.0,3,2,2,{DAY_MS + 5},true"])


def bitstamp(folder, name="orders.csv"):
    header = "id,timestamp,exchange.timestamp,price,volume,action,direction"
    rows = [
        f"{i},{DAY_MS + i},{DAY_MS},{price},5,created,{side}" for i, price, side in ((1, 10, "bid"), (2, 11, "ask"))
    ]
    return packed(folder / name, [header, *rows])


def parquet(folder, name="day.parquet"):
    return write_parquet(load_hftbacktest(hftbacktest(folder)), folder / name)


GENERATED = {f.__name__: f for f in (lobster, hftbacktest, hftbacktest_raw, tardis, binance, bitstamp, parquet)}
FIXTURES = {
    "databento": ("format_fixtures/dbn/XNAS.ITCH/test_data.mbo.dbn.zst", {}),
    "itch": ("format_fixtures/itch/ex20101224.TEST_ITCH_50.length_prefixed.gz", {"symbol": "ALC"}),
}


@pytest.fixture
def recorded(request, tmp_path):
    """(file, settings) of a kind: generated, or a small real one."""

    def make(kind):
        if kind in GENERATED:
            return GENERATED[kind](tmp_path), {}
        pytest.importorskip(EXTRAS[kind], reason=f"the extra {kind} is not installed")
        path, settings = FIXTURES[kind]
        return request.getfixturevalue("data_folder") / path, settings

    return make


def test_every_kind_is_tried_here():
    assert set(SOURCES) == {"synthetic", "planted", *GENERATED, *FIXTURES}


@pytest.mark.parametrize("kind", [*GENERATED, *FIXTURES])
def test_every_kind_loads_from_a_config_of_its_settings(tmp_path, recorded, kind):
    file, settings = recorded(kind)
    given = [f"market.{name}={value}" for name, value in {"kind": kind, "path": str(file), **settings}.items()]
    market = construct(load_config("replay_sweep", given)).market
    assert type(market) is SOURCES[kind]
    session, truth = market.load(tmp_path, 0)
    assert truth is None
    assert len(session.updates) > 1
    assert guess_kind(file) == kind
    table = {"kind": kind, "path": str(file)} | settings
    again, _ = resolve_market(table, []).load(tmp_path, 0)
    np.testing.assert_array_equal(again.updates.price_ticks, session.updates.price_ticks)


def test_generated_flow_is_a_source_with_a_known_truth(tmp_path):
    market = construct(load_config("replay_sweep", ["market.duration=30.0", "market.preset=quiet_small_tick"])).market
    session, truth = market.load(tmp_path, 5)
    assert truth["preset"] == "quiet_small_tick"
    assert session.tick_size == truth["tick_size"]
    same, _ = market.load(tmp_path / "again", 5)
    np.testing.assert_array_equal(same.updates.t_ns, session.updates.t_ns)
    other, _ = market.load(tmp_path / "other", 6)
    assert len(other.updates) != len(session.updates)


def test_settings_reach_the_loaders(tmp_path):
    file = hftbacktest(tmp_path)
    session, _ = resolve_market({"kind": "hftbacktest", "path": str(file)}, ["tick_size=0.1", "size_unit=0.5"]).load(
        tmp_path, 0
    )
    assert (session.tick_size, session.size_unit) == (0.1, 0.5)
    with pytest.raises(ConfigError, match=r"market\.tick_size: .*expected > 0"):
        resolve_market({"kind": "hftbacktest", "path": str(file)}, ["tick_size=0"])
    with pytest.raises(ConfigError, match=r'market\.gap: expected one of "error", "resync"'):
        resolve_market({"kind": "hftbacktest_raw", "path": "x"}, ["gap=skip"])
    capture = hftbacktest_raw(tmp_path)
    gap = {
        "stream": "a@depth@0ms",
        "data": {"e": "depthUpdate", "E": DAY_MS, "U": 20, "u": 21, "pu": 19, "b": [], "a": []},
    }
    lines = [*gzip.decompress(capture.read_bytes()).decode().splitlines(), f"{(DAY_MS + 50) * 10**6} {json.dumps(gap)}"]
    table = {"kind": "hftbacktest_raw", "path": str(packed(capture, lines))}
    with pytest.raises(DataError, match="line 3: gap"):
        resolve_market(table, []).load(tmp_path, 0)
    assert resolve_market(table, ["gap=resync"]).load(tmp_path, 0)[0].counts["gaps"] == 1
    crossed = lobster(tmp_path / "crossed", first="999800,100,999900,70")
    with pytest.raises(DataError, match="row 1: best bid"):
        resolve_market({"kind": "lobster", "path": str(crossed)}, []).load(tmp_path, 0)
    dropped, _ = resolve_market({"kind": "lobster", "path": str(crossed)}, ["crossed=drop"]).load(tmp_path, 0)
    assert dropped.updates.kind.tolist() == [Kind.TRADE]


def test_several_captures_of_one_recording_are_separated_by_commas(tmp_path):
    file = hftbacktest_raw(tmp_path)
    first, second = gzip.decompress(file.read_bytes()).decode().splitlines()
    parts = [packed(tmp_path / "a.gz", [first]), packed(tmp_path / "b.gz", [second])]
    market = resolve_market({"kind": "hftbacktest_raw", "path": ", ".join(str(part) for part in parts)}, [])
    session, _ = market.load(tmp_path, 0)
    assert session.updates.kind.tolist() == [Kind.CLEAR, Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.TRADE]


def test_folders_and_archives_are_known_by_what_lies_in_them(tmp_path):
    folder = tmp_path / "day"
    folder.mkdir()
    lobster(folder)
    assert guess_kind(folder) == "lobster"
    with zipfile.ZipFile(tmp_path / "sample.zip", "w") as archive:
        for file in folder.glob("*.csv"):
            archive.write(file, f"inner/{file.name}")
    assert guess_kind(tmp_path / "sample.zip") == "lobster"
    for make, kind in ((tardis, "tardis"), (binance, "binance")):
        inside = tmp_path / kind
        inside.mkdir()
        make(inside)
        assert guess_kind(inside) == kind
    assert guess_kind(hftbacktest(tmp_path, "feed.npz").rename(tmp_path / "FEED.NPZ")) == "hftbacktest"


def test_renamed_files_are_known_by_their_first_bytes(tmp_path):
    assert guess_kind(tardis(tmp_path, "mine.csv.gz")) == "tardis"
    assert guess_kind(bitstamp(tmp_path, "mine.csv")) == "bitstamp"
    assert guess_kind(hftbacktest_raw(tmp_path, "mine.txt")) == "hftbacktest_raw"
    short = hftbacktest_raw(tmp_path, "micro.txt")  # a local time in microseconds
    short.write_text("".join(line[:16] + line[19:] for line in short.read_text().splitlines(keepends=True)))
    assert guess_kind(short) == "hftbacktest_raw"


@pytest.mark.parametrize("name", ["switch_20240808.gz", "pitch.csv.gz", "lobsters.gz"])
def test_a_capture_is_no_itch_because_of_its_name(tmp_path, name):
    assert guess_kind(hftbacktest_raw(tmp_path, name)) == "hftbacktest_raw"


def test_what_fits_nothing_is_refused_with_the_kinds(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        guess_kind(tmp_path / "missing.csv")
    with pytest.raises(DataError, match="an empty folder"):
        guess_kind(tmp_path)
    known = "cannot tell its format; name it by `--kind KIND` .* or `--set market.kind=KIND` .* lobster, hftbacktest, .*parquet; .*docs/data.md"
    for file in (packed(tmp_path / "prices.csv", ["a,b", "1,2"]), packed(tmp_path / "empty.csv", []), tmp_path):
        with pytest.raises(DataError, match=known):
            guess_kind(file)
    cut = hftbacktest_raw(tmp_path)
    cut.write_bytes(cut.read_bytes()[:30])
    with pytest.raises(DataError, match="truncated or damaged"):
        guess_kind(cut)


@pytest.mark.parametrize("make", [hftbacktest, hftbacktest_raw, tardis, binance, bitstamp, parquet])
def test_a_path_of_another_format_given_as_lobster_is_told(tmp_path, make):
    kind = make.__name__
    with pytest.raises(DataError, match=f"; this looks like {kind}: use market.kind={kind}$"):
        SOURCES["lobster"](path=str(make(tmp_path))).load(tmp_path, 0)


def test_damaged_lobster_files_look_like_nothing_else(tmp_path):
    folder = tmp_path / "day"
    lobster(folder, first="999800,100,999900,70")
    parquet(folder)
    for path in (folder, tmp_path / "missing"):
        with pytest.raises(DataError) as refused:
            SOURCES["lobster"](path=str(path)).load(tmp_path, 0)
        assert "looks like" not in str(refused.value)


def inspect(*arguments):
    return CliRunner().invoke(app, ["data", "inspect", *(str(a) for a in arguments)])


@pytest.mark.parametrize("kind", [*GENERATED, *FIXTURES])
def test_inspect_tells_the_format_and_prints_the_facts(recorded, kind):
    file, settings = recorded(kind)
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    done = inspect(file, "--json", *given)
    assert done.exit_code == 0, done.exception
    facts = json.loads(done.stdout)
    session, _ = resolve_market({"kind": kind, "path": str(file)} | settings, []).load(Path(), 0)
    assert facts["session"] == session.name
    assert facts["feed"] == session.feed
    assert facts["n_events"] == len(session.updates)
    assert facts["tick_size"] == session.tick_size
    assert facts["notes"] == list(session.notes)
    assert ("spread_ticks_time_mean" in facts) == (session.feed != "trades")


def test_inspect_prints_a_table(tmp_path):
    done = inspect(hftbacktest(tmp_path))
    assert done.exit_code == 0
    for words in ("spread_ticks_time_mean", "marketable_orders", "tick_size"):
        assert words in done.stdout


def test_inspect_of_a_capture_by_hand(tmp_path):
    facts = json.loads(inspect(hftbacktest_raw(tmp_path), "--json").stdout)
    assert facts["spread_ticks_event_mean"] == 1
    assert facts["lines_by_stream"] == {"rest_depth_snapshot": 1, "trade": 1}
    assert facts["events_by_kind"] == {"trade": 1, "clear": 1, "snapshot": 2}
    assert facts["buy_initiated_visible_volume"] == 1
    assert facts["feed_latency_ms"]["max"] == 9.0


def test_inspect_takes_a_kind_and_settings(tmp_path):
    renamed = hftbacktest_raw(tmp_path, "mine.txt")
    done = inspect(renamed, "--kind", "hftbacktest_raw", "--set", "tick_size=0.25", "--json")
    assert json.loads(done.stdout)["tick_size"] == 0.25
    wrong = inspect(renamed, "--kind", "bitstamp")
    assert isinstance(wrong.exception, DataError)


BAD = {
    "option": (
        ["--set", "tick_siz=1"],
        r'market\.tick_siz: unknown key \(did you mean "tick_size"\?\); known keys: path',
    ),
    "value": (["--set", "tick_size=one"], r"market\.tick_size: expected a number, got 'one'"),
    "syntax": (["--set", "tick_size"], r"expected PATH=VALUE"),
    "kind": (["--kind", "hftbaktest"], r'unknown kind "hftbaktest" \(did you mean "hftbacktest"\?\)'),
}


@pytest.mark.parametrize("case", BAD)
def test_inspect_names_what_it_does_not_know(tmp_path, case):
    arguments, message = BAD[case]
    done = inspect(hftbacktest(tmp_path), *arguments)
    assert done.exit_code != 0
    with pytest.raises(ConfigError, match=message):
        raise done.exception


def test_inspect_of_nothing(tmp_path):
    done = inspect(tmp_path / "missing.gz")
    assert isinstance(done.exception, DataError)
    assert "no such file or folder" in str(done.exception)


CONFIG = """experiment = "replay"

[market]
kind = "lobster"
path = "somewhere"
crossed = "drop"
"""


def written(folder, text=CONFIG):
    (folder / "run.toml").write_text(text)
    return str(folder / "run.toml")


def test_another_kind_starts_from_its_own_defaults(tmp_path):
    name = written(tmp_path)
    market = load_config(name, ["market.kind=synthetic"]).tables["market"]
    assert market == {"kind": "synthetic", "preset": "small_tick", "duration": 600.0}
    with pytest.raises(ConfigError, match=r"market\.path: missing; a string \(file"):
        load_config(name, ["market.kind=parquet"])
    # Whatever the order in which they are given.
    market = load_config(name, ["market.path=there", "market.kind=hftbacktest_raw", "market.gap=resync"]).tables[
        "market"
    ]
    assert market == {"kind": "hftbacktest_raw", "path": "there", "gap": "resync", "tick_size": None, "size_unit": None}


def test_the_same_kind_keeps_the_files_settings(tmp_path):
    market = load_config(written(tmp_path), ["market.kind=lobster"]).tables["market"]
    assert (market["path"], market["crossed"]) == ("somewhere", "drop")
    # Without a kind they are settings of the first one.
    bare = written(tmp_path, 'experiment = "replay"\n\n[market]\nduration = 60.0\n')
    assert load_config(bare, ["market.kind=synthetic"]).tables["market"]["duration"] == 60.0
    with pytest.raises(ConfigError, match=r"market\.path: missing"):
        load_config(bare, ["market.kind=lobster"])


def test_a_kind_of_nothing_clears_nothing(tmp_path):
    with pytest.raises(ConfigError, match="kind: unknown key"):
        load_config(written(tmp_path), ["kind=lobster"])


def test_a_copied_folder_of_one_day_is_one_session(tmp_path):
    folder = tmp_path / "day"
    folder.mkdir()
    shutil.copy(tardis(tmp_path), folder)
    session, _ = resolve_market({"kind": "tardis", "path": str(folder)}, []).load(tmp_path, 0)
    assert session.updates.kind.tolist() == [Kind.CLEAR, Kind.SNAPSHOT, Kind.SNAPSHOT]
