import gzip
import json

import numpy as np
import pytest

from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.ladder import NO_ASK, NO_BID, book_rows, build_ladder
from mfamm_jax.market.loaders.files import file_hash
from mfamm_jax.market.loaders.hftbacktest_raw import load_hftbacktest_raw

DAY_MS = 1_723_075_200_000  # 2024-08-08
NS = 1_000_000


def text(levels):
    return [[str(price), str(size)] for price, size in levels]


def line(ms, message, stream=None):
    """One line, received so many milliseconds after midnight."""
    if stream:
        message = {"stream": f"btcusdt@{stream}", "data": message}
    return f"{(DAY_MS + ms) * NS} {json.dumps(message)}"


def diff(ms, first, last, bids=(), asks=(), previous=None, sent=None):
    """Futures have `T` and `pu`, spot has neither."""
    when = DAY_MS + (ms - 5 if sent is None else sent)
    message = {"e": "depthUpdate", "E": when, "s": "BTCUSDT", "U": first, "u": last}
    if previous is not None:
        message |= {"T": when, "pu": previous}
    return line(ms, message | {"b": text(bids), "a": text(asks)}, "depth@100ms" if previous is None else "depth@0ms")


def snapshot(ms, number, bids, asks, sent=None):
    times = {} if sent is None else {"E": DAY_MS + sent, "T": DAY_MS + sent}
    return line(ms, {"lastUpdateId": number, **times, "bids": text(bids), "asks": text(asks)})


def trade(ms, number, price, size, is_sell, kind="MARKET", sent=None):
    when = DAY_MS + (ms - 5 if sent is None else sent)
    more = {"X": kind} if kind else {}
    message = {"e": "trade", "E": when, "T": when, "t": number, "p": str(price), "q": str(size), "m": is_sell}
    return line(ms, message | more, "trade")


def quote(ms, bid, ask, sent=None):
    message = {"u": 1, "s": "BTCUSDT", "b": str(bid[0]), "B": str(bid[1]), "a": str(ask[0]), "A": str(ask[1])}
    if sent is not None:
        message |= {"e": "bookTicker", "E": DAY_MS + sent, "T": DAY_MS + sent}
    return line(ms, message, "bookTicker")


def write(folder, lines, name="btcusdt_20240808.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    content = ("\n".join(lines) + "\n").encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def rows(session):
    """(exchange ms, kind, side, ticks, size)."""
    updates = session.updates
    parts = (updates.t_ns // NS, updates.kind, updates.side, updates.price_ticks, updates.size)
    return list(zip(*(part.tolist() for part in parts)))


def best(session):
    ladder = build_ladder(session)
    return (int(ladder.best_bid[-1]), int(ladder.best_ask[-1]))


FUTURES = [
    diff(10, 90, 95, [(9.5, 99)], previous=80),  # before the snapshot
    diff(20, 96, 99, [(9.5, 98)], previous=95),
    diff(30, 100, 101, [(9.0, 0)], [(10.5, 5)], previous=99),  # overlaps it
    snapshot(40, 100, [(9.5, 3), (9.0, 4)], [(10.0, 2), (11.0, 6)], sent=24),
    trade(50, 7, 10.0, 1.5, is_sell=False),
    diff(52, 102, 104, [], [(10.0, 0.5)], previous=101, sent=45),
    trade(60, 8, 9.5, 1, is_sell=True),
    diff(62, 105, 105, [(9.5, 2)], [], previous=104),
]


def test_a_futures_capture_starts_at_its_snapshot(tmp_path):
    file = write(tmp_path, FUTURES)
    session = load_hftbacktest_raw(file)
    clear, snap, level, execution = Kind.CLEAR, Kind.SNAPSHOT, Kind.LEVEL, Kind.TRADE
    assert rows(session) == [
        (24, clear, 0, 0, 0),
        (24, snap, 1, 19, 6),
        (24, snap, 1, 18, 8),
        (24, snap, -1, 20, 4),
        (24, snap, -1, 22, 12),
        (25, level, 1, 18, 0),
        (25, level, -1, 21, 10),
        (45, execution, -1, 20, 3),  # bought from an ask
        (45, level, -1, 20, 1),
        (55, execution, 1, 19, 2),
        (57, level, 1, 19, 4),
    ]
    updates = session.updates
    # What stands in a diff is known only once the snapshot has come, too.
    assert (updates.local_ns // NS).tolist() == [40] * 7 + [50, 52, 60, 62]
    assert updates.aggressor[[7, 9]].tolist() == [1, -1]
    assert (session.tick_size, session.size_unit, session.feed) == (0.5, 0.5, "levels")
    assert (session.name, session.epoch_ns, session.best_quotes) == ("btcusdt_20240808", DAY_MS * NS, None)
    assert session.source == ((file.name, file_hash(file)),)
    counts = dict(session.counts)
    assert counts.pop("local_minus_exchange_E_ms") == {"min": 5.0, "median": 5.0, "max": 7.0}
    assert counts == {
        "n_lines": 8,
        "lines_by_stream": {"depth@0ms": 5, "rest_depth_snapshot": 1, "trade": 2},
        "first_exchange_ns": (DAY_MS + 5) * NS,
        "snapshot_lastUpdateId": 100,
        "snapshot_levels": 2,
        "dropped_diffs": 2,
        "applied_diffs": 3,
        "gaps": 0,
        "other_trades": 0,
        "trade_id_gaps": 0,
        "clock_correction_ns": 0,
    }
    assert best(session) == (19, 20)


def test_a_futures_diff_that_ends_with_the_snapshot_is_applied_a_spot_one_is_not(tmp_path):
    levels = ([(9.5, 3)], [(10.0, 2)])
    futures = [diff(10, 99, 100, [(9.0, 1)], previous=98), snapshot(20, 100, *levels, sent=5)]
    spot = [diff(10, 99, 100, [(9.0, 1)]), snapshot(20, 100, *levels)]
    counts = [load_hftbacktest_raw(write(tmp_path, lines)).counts for lines in (futures, spot)]
    assert [(c["dropped_diffs"], c["applied_diffs"]) for c in counts] == [(0, 1), (1, 0)]


SPOT = [
    diff(10, 90, 100, [(9.5, 99)]),
    snapshot(20, 100, [(9.5, 3)], [(10.0, 2)]),
    diff(110, 101, 104, [], [(10.0, 1)]),
    trade(112, 7, 10.0, 1, is_sell=False, kind=None),
    diff(210, 105, 105, [(9.5, 0), (9.0, 1)], []),
]


def test_a_spot_capture_has_no_time_of_its_snapshot(tmp_path):
    session = load_hftbacktest_raw(write(tmp_path, SPOT))
    # The snapshot takes the time of the last message before it.
    assert [row[:2] for row in rows(session)] == [
        (5, Kind.CLEAR),
        (5, Kind.SNAPSHOT),
        (5, Kind.SNAPSHOT),
        (105, Kind.LEVEL),
        (107, Kind.TRADE),
        (205, Kind.LEVEL),
        (205, Kind.LEVEL),
    ]
    assert best(session) == (18, 20)
    assert session.counts["dropped_diffs"] == 1


def test_a_spot_diff_that_overtook_its_snapshot_comes_after_it(tmp_path):
    lines = [
        diff(10, 101, 102, [(9.5, 9)], []),  # not in the snapshot, which is on its way
        trade(30, 7, 10.0, 1, is_sell=False),
        snapshot(40, 100, [(9.5, 3)], [(10.0, 2)]),
        diff(50, 103, 103, [], [(10.0, 7)], sent=20),
    ]
    session = load_hftbacktest_raw(write(tmp_path, lines))
    assert [row[1:] for row in rows(session)] == [
        (Kind.TRADE, -1, 20, 1),
        (Kind.CLEAR, 0, 0, 0),
        (Kind.SNAPSHOT, 1, 19, 3),
        (Kind.SNAPSHOT, -1, 20, 2),
        (Kind.LEVEL, 1, 19, 9),
        (Kind.LEVEL, -1, 20, 7),
    ]


def test_a_spot_snapshot_before_everything_else_has_the_first_time(tmp_path):
    session = load_hftbacktest_raw(write(tmp_path, SPOT[1:]))
    assert (session.updates.t_ns // NS).tolist() == [105] * 4 + [107, 205, 205]
    assert session.epoch_ns == DAY_MS * NS
    alone = load_hftbacktest_raw(write(tmp_path, SPOT[1:2]))
    assert (alone.updates.t_ns // NS).tolist() == [20] * 3
    assert alone.counts["local_minus_exchange_E_ms"] == {}


GAP = [*FUTURES[:6], diff(70, 110, 111, [(9.5, 50)], previous=109), diff(72, 112, 112, [(9.5, 51)], previous=111)]
RESYNCED = [
    *GAP,
    trade(75, 9, 9.5, 1, is_sell=True),
    snapshot(80, 111, [(9.0, 7)], [(9.5, 1)], sent=68),
    diff(82, 113, 113, [], [(9.5, 4)], previous=112),
]


def test_a_gap_is_refused_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r'gz: line 7: gap in the depth updates before number 110; .*gap = "resync"'):
        load_hftbacktest_raw(write(tmp_path, GAP))
    early = [diff(10, 110, 111, previous=109), snapshot(40, 100, [(9.5, 3)], [(10.0, 2)], sent=24)]
    with pytest.raises(DataError, match="line 1: gap"):
        load_hftbacktest_raw(write(tmp_path, early))
    with pytest.raises(DataError, match="line 5: gap in the depth updates before number 106"):
        load_hftbacktest_raw(write(tmp_path, [*SPOT[:4], diff(210, 106, 106)]))


def test_after_a_gap_the_book_is_empty_until_the_next_snapshot(tmp_path):
    session = load_hftbacktest_raw(write(tmp_path, GAP), gap="resync")
    assert rows(session)[-1] == (65, Kind.CLEAR, 0, 0, 0)
    assert best(session) == (NO_BID, NO_ASK)
    assert session.counts["gaps"] == 1
    session = load_hftbacktest_raw(write(tmp_path, RESYNCED), gap="resync")
    ladder = build_ladder(session)
    after = [row for row in rows(session) if row[0] >= 65]
    # The diff that showed the gap ends with the snapshot; the one after it was received before the snapshot, too.
    assert after == [
        (65, Kind.CLEAR, 0, 0, 0),
        (68, Kind.CLEAR, 0, 0, 0),
        (68, Kind.SNAPSHOT, 1, 18, 14),
        (68, Kind.SNAPSHOT, -1, 19, 2),
        (68, Kind.LEVEL, 1, 19, 100),
        (68, Kind.LEVEL, 1, 19, 102),
        (70, Kind.TRADE, 1, 19, 2),
        (77, Kind.LEVEL, -1, 19, 8),
    ]
    assert session.counts["gaps"] == 1
    assert session.counts["applied_diffs"] == 5
    assert not ladder.two_sided[-len(after)]
    assert ladder.best_ask[-1] == 19


def test_a_second_gap_among_waiting_diffs_is_one_gap(tmp_path):
    lines = [
        *SPOT[:2],
        diff(110, 103, 104, [(9.5, 8)]),  # gap
        diff(120, 107, 108, [(9.5, 9)]),  # gap, still without a book
        diff(130, 109, 109, [(9.5, 9)]),
        snapshot(140, 104, [(9.0, 5)], [(10.0, 2)]),
        diff(150, 110, 110, [(9.5, 9)]),
        snapshot(160, 109, [(8.5, 6)], [(10.0, 2)]),
    ]
    session = load_hftbacktest_raw(write(tmp_path, lines), gap="resync")
    counts = session.counts
    assert (counts["gaps"], counts["dropped_diffs"], counts["applied_diffs"]) == (2, 4, 1)
    assert [row[1] for row in rows(session)].count(Kind.CLEAR) == 5
    assert best(session) == (19, 20)
    assert counts["snapshot_lastUpdateId"] == 109


def test_a_snapshot_older_than_the_book_does_not_set_it_back(tmp_path):
    lines = [*SPOT, snapshot(220, 103, [(1.0, 1)], [(99.0, 1)]), diff(310, 106, 106, [(9.5, 6)])]
    session = load_hftbacktest_raw(write(tmp_path, lines))
    assert best(session) == (19, 20)
    assert session.counts["older_snapshots"] == 1
    newer = [*SPOT, snapshot(220, 105, [(9.0, 1)], [(10.5, 1)]), diff(310, 106, 106, [(9.5, 6)])]
    assert best(load_hftbacktest_raw(write(tmp_path, newer))) == (19, 21)


def test_several_files_of_one_recording_are_one_session(tmp_path):
    whole = load_hftbacktest_raw(write(tmp_path, FUTURES))
    files = [write(tmp_path, FUTURES[:5], "a_1.gz"), write(tmp_path, FUTURES[5:], "a_2.gz")]
    parts = load_hftbacktest_raw([str(file) for file in files])
    for name, values in vars(whole.updates).items():
        np.testing.assert_array_equal(getattr(parts.updates, name), values, err_msg=name)
    assert parts.name == "a_1"
    assert [name for name, _ in parts.source] == ["a_1.gz", "a_2.gz"]
    with pytest.raises(DataError, match=r"a_2.gz: no depth snapshot; give the first file of the recording"):
        load_hftbacktest_raw(files[1])
    broken = write(tmp_path, [*FUTURES[5:], "x"], "a_2.gz")
    with pytest.raises(DataError, match=r"a_2.gz: line 4: b'x'"):
        load_hftbacktest_raw([files[0], broken])


def test_local_times_in_microseconds_and_plain_text_are_the_same_session(tmp_path):
    reference = load_hftbacktest_raw(write(tmp_path, FUTURES))
    short = [a[:16] + a[19:] for a in FUTURES]
    session = load_hftbacktest_raw(write(tmp_path, short, "btcusdt.txt"))
    for name, values in vars(reference.updates).items():
        np.testing.assert_array_equal(getattr(session.updates, name), values, err_msg=name)
    with pytest.raises(DataError, match=r"line 1: .*local time \d{13}, expected 16"):
        load_hftbacktest_raw(write(tmp_path, [a[:13] + a[19:] for a in FUTURES]))


def test_messages_without_a_stream_are_known_by_their_event(tmp_path):
    def bare(a):
        message = json.loads(a[20:])
        return a[:20] + json.dumps(message.get("data", message))

    session = load_hftbacktest_raw(write(tmp_path, [bare(a) for a in FUTURES]))
    assert rows(session) == rows(load_hftbacktest_raw(write(tmp_path, FUTURES)))
    assert session.counts["lines_by_stream"] == {"depthUpdate": 5, "rest_depth_snapshot": 1, "trade": 2}


def test_trades_that_are_not_the_markets_are_left_out_and_their_numbers_are_no_gap(tmp_path):
    lines = [*FUTURES, trade(70, 9, 9.5, 8, is_sell=True, kind="INSURANCE_FUND"), trade(80, 10, 9.5, 1, is_sell=True)]
    session = load_hftbacktest_raw(write(tmp_path, lines))
    assert session.updates.size[session.updates.kind == Kind.TRADE].tolist() == [3, 2, 2]
    assert (session.counts["other_trades"], session.counts["trade_id_gaps"]) == (1, 0)
    missing = load_hftbacktest_raw(write(tmp_path, [*FUTURES, trade(80, 11, 9.5, 1, is_sell=True)]))
    assert missing.counts["trade_id_gaps"] == 1


def test_best_quotes_are_a_stream_of_their_own(tmp_path):
    lines = [quote(33, (9.5, 3), (10.0, 2), sent=30), *FUTURES[:5], quote(90, (9.5, 2), (10.5, 0.5), sent=84)]
    quotes = load_hftbacktest_raw(write(tmp_path, lines)).best_quotes
    assert (quotes.t_ns // NS).tolist() == [30, 84]
    assert (quotes.local_ns // NS).tolist() == [33, 90]
    assert quotes.books.bid_ticks.tolist() == [[19], [19]]
    assert quotes.books.bid_size.tolist() == [[6], [4]]
    assert quotes.books.ask_ticks.tolist() == [[20], [21]]
    assert quotes.books.ask_size.tolist() == [[4], [1]]


def test_spot_quotes_have_no_time_but_that_of_their_receipt(tmp_path):
    late = [*SPOT[:4], diff(210, 105, 105, [(9.0, 1)], [], sent=213)]  # the clock is 3 ms behind
    session = load_hftbacktest_raw(write(tmp_path, [quote(8, (9.5, 3), (10.0, 2)), *late]))
    assert session.counts["clock_correction_ns"] == 3 * NS
    assert (session.best_quotes.t_ns // NS).tolist() == (session.best_quotes.local_ns // NS).tolist() == [11]
    assert session.counts["lines_by_stream"]["bookTicker"] == 1


def test_prices_of_quotes_count_for_the_tick(tmp_path):
    session = load_hftbacktest_raw(write(tmp_path, [*FUTURES, quote(90, (9.6, 2), (10.0, 0.25), sent=84)]))
    assert (session.tick_size, session.size_unit) == (0.1, 0.25)
    with pytest.raises(DataError, match=r"bookTicker b: row 9: 9.6 is not a multiple of 0.5; check tick_size"):
        load_hftbacktest_raw(tmp_path / "btcusdt_20240808.gz", tick_size=0.5)


def test_a_receiving_clock_behind_is_set_forward_by_its_largest_lead(tmp_path):
    # Dropped diffs count as well: their lead of 9 ms is the largest.
    lines = [diff(10, 90, 95, previous=80, sent=19), *FUTURES[1:5], trade(60, 8, 10.0, 1, is_sell=True, sent=64)]
    session = load_hftbacktest_raw(write(tmp_path, lines))
    assert session.counts["clock_correction_ns"] == 9 * NS
    assert (session.updates.local_ns[-1] // NS, session.updates.t_ns[-1] // NS) == (69, 64)
    assert "0.009000 s" in session.notes[0]


BAD = {
    "no JSON": ("1723075200060000000 {", "line 9: b'1723075200060000000 {', expected a local time and a JSON message"),
    "no time": ("x {}", "line 9: b'x {}', expected a local time"),
    "blank": ("\n", "line 9: b'', expected a local time"),
    "a number": ("1723075200060000000 7", "line 9: not a message of a depth, trade or bookTicker stream"),
    "a list": ("1723075200060000000 []", "line 9: not a message"),
    "no data": ('1723075200060000000 {"stream": "a@trade", "data": null}', "line 9: not a message"),
    "no time of the event": (trade(70, 9, 9.5, 1, True).replace('"E"', '"F"'), "line 9: not a message.*'E'"),
    "no size": (trade(70, 9, 9.5, 1, True).replace('"q"', '"r"'), "line 9: not a message.*'q'"),
    "price in words": (trade(70, 9, "ten", 1, True), "line 9: not a message.*'ten'"),
    "NaN": (trade(70, 9, "NaN", 1, True), "line 9: not a message.*price or size .NaN., expected a number"),
    "negative": (diff(70, 106, 106, [(9.5, -1)], previous=105), "line 9: .*price or size .-1., expected a number"),
    "no ids": (diff(70, 106, 106, previous=105).replace('"u"', '"w"'), "line 9: not a message.*'u'"),
    "half a level": (diff(70, 106, 106, [(9.5, 1)], previous=105).replace(', "1"', ""), "line 9: not a message"),
    "snapshot": (snapshot(70, 106, [], [], sent=60).replace('"asks"', '"offers"'), "line 9: not a message.*'asks'"),
    "quote": (quote(70, (9.5, 1), (10, 1), sent=65).replace('"B"', '"C"'), "line 9: not a message.*'B'"),
    "quote of infinity": (quote(70, (9.5, 1), ("inf", 1), sent=65), "line 9: not a message.*inf"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_named(tmp_path, case):
    bad, message = BAD[case]
    with pytest.raises(DataError, match=f"20240808.gz: {message}"):
        load_hftbacktest_raw(write(tmp_path, [*FUTURES, *bad.split("\n")]))


def test_a_bad_line_before_the_snapshot_is_the_one_named(tmp_path):
    bad = diff(30, 101, 101, [("ten", 1)], previous=100)
    with pytest.raises(DataError, match=r"line 3: not a message.*'ten'"):
        load_hftbacktest_raw(write(tmp_path, [*FUTURES[:2], bad, FUTURES[3]]))


def test_other_streams_are_counted_and_otherwise_ignored(tmp_path):
    other = line(65, {"e": "markPriceUpdate", "E": DAY_MS, "p": "9.5"}, "markPrice@1s")
    session = load_hftbacktest_raw(write(tmp_path, [*FUTURES, other]))
    assert rows(session) == rows(load_hftbacktest_raw(write(tmp_path, FUTURES)))
    counts = load_hftbacktest_raw(write(tmp_path, [*FUTURES, other])).counts
    assert counts["lines_by_stream"]["markPrice@1s"] == 1


def test_files_that_cannot_be_read_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_hftbacktest_raw(tmp_path / "missing.gz")
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match=r"empty.gz: no depth snapshot"):
        load_hftbacktest_raw(tmp_path / "empty.gz")
    with pytest.raises(DataError, match="no depth snapshot"):
        load_hftbacktest_raw(write(tmp_path, FUTURES[:3]))
    file = write(tmp_path, FUTURES)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"truncated or damaged archive .*download it again"):
        load_hftbacktest_raw(file)
    file.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="truncated or damaged archive"):
        load_hftbacktest_raw(file)


NAMES = ("spot_btcusdt_20240808", "usdm_btcusdt_20240808", "cm_btcusd_perp_20240808")
RENAMED = {
    "tick": "tick_size",
    "duration_s_bookTicker": None,
    "first_local_ts_ns": None,
    "last_local_ts_ns": None,
    "local_ts_backward_steps": None,
    "depth_sequence_gaps": "gaps",
    "crossed_or_locked_bookTicker_rows": "crossed_or_locked_rows",
    "trades_market": "exec_visible_rows",
    "trades_per_s": "exec_rows_per_s",
    "volume_qty": "visible_volume",
    "buy_taker_share_count": "buy_initiated_share_of_rows",
    "buy_taker_share_volume": None,
    "local_minus_exchange_E_ms": None,
    "rebuilt_book": None,
}


@pytest.fixture(scope="module")
def recording():
    """(session, ladder, facts) of a real file, each loaded once."""
    loaded = {}

    def load(folder, name):
        if name not in loaded:
            session = load_hftbacktest_raw(folder / "binance_btc_20240808" / f"{name}.gz")
            loaded[name] = session, build_ladder(session), session_facts(session)
        return loaded[name]

    return load


def published_facts(folder, name):
    return json.loads((folder / "facts.json").read_text())[f"binance_btc_20240808/{name}"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_real_captures_have_the_published_facts(data_folder, recording, name):
    published, (session, _, facts) = published_facts(data_folder, name), recording(data_folder, name)
    for fact, value in published.items():
        ours = RENAMED.get(fact, fact)
        if ours is None:
            continue
        if not isinstance(value, float):
            assert facts[ours] == value, fact
            continue
        # The table is rounded: to four decimals (five for shares, eight for realised volatility, three for volumes).
        relative = 1e-6 if fact.startswith("rv") else 0
        absolute = 5e-6 if "share" in fact else 5e-9 if fact == "rv_1s_log_over_window" else 6e-5
        assert facts[ours] == pytest.approx(value, rel=relative, abs=absolute), fact
    local = session.best_quotes.local_ns
    assert (local[-1] - local[0]) / 1e9 == pytest.approx(published["duration_s_bookTicker"], abs=6e-4)
    assert (np.diff(local) >= 0).all()
    volume, bought = facts["visible_volume"], facts["buy_initiated_visible_volume"]
    assert bought / volume == pytest.approx(published["buy_taker_share_volume"], abs=6e-6)
    for which, value in published["local_minus_exchange_E_ms"].items():
        assert facts["local_minus_exchange_E_ms"][which] == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.thorough) for name in NAMES[1:])])
def test_the_book_rebuilt_from_a_real_capture_is_the_published_one(data_folder, recording, name):
    published = published_facts(data_folder, name)["rebuilt_book"]
    session, ladder, _ = recording(data_folder, name)
    counts, updates, tick = session.counts, session.updates, session.tick_size
    assert counts["snapshot_lastUpdateId"] == published["snapshot_lastUpdateId"]
    assert counts["snapshot_levels"] == published["snapshot_levels_per_side"]
    assert counts["dropped_diffs"] == published["diffs_dropped_before_snapshot"]
    assert counts["applied_diffs"] == published["diffs_applied"]
    final = (ladder.best_bid[-1] * tick, ladder.best_ask[-1] * tick)
    assert final == pytest.approx((published["final_best_bid"], published["final_best_ask"]))
    # The final best is the best of the quotes received last.
    last = session.best_quotes.books
    shown = (int(last.bid_ticks[-1, 0]) * tick, int(last.ask_ticks[-1, 0]) * tick)
    assert final == pytest.approx(shown)
    assert shown == pytest.approx(published["final_bookTicker_best"])
    # Rows of one diff share both times; the published means are of every 50th diff's book.
    level = np.flatnonzero(updates.kind == Kind.LEVEL)
    ends = np.append((np.diff(updates.t_ns[level]) != 0) | (np.diff(updates.local_ns[level]) != 0), True)
    after = level[ends][49::50]
    assert ends.sum() == published["diffs_applied"]
    books = book_rows(ladder, after, 10)
    assert (books.bid_ticks[:, 0] >= books.ask_ticks[:, 0]).sum() == published["crossed_in_every_50th_check"]
    for side, size in (("bid", books.bid_size), ("ask", books.ask_size)):
        mean = size.sum(1).mean() * session.size_unit
        assert mean == pytest.approx(published[f"depth10_{side}_mean_every_50th"], abs=6e-5)
    # No message is received before it was sent, and the first one to arrive has no latency.
    assert (updates.local_ns - updates.t_ns).min() == 0
