"""Mutated data files end in a clear error or in a sound session, never in a traceback.

A seed decides all of a mutant: `fault(originals, seed, folder)` makes it again and leaves its files in the folder.
"""

import dataclasses
import gzip
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mfamm_jax.market.events import BookSnapshots, DataError, Kind, Session
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.ladder import build_ladder
from mfamm_jax.market.loaders.binance import load_binance
from mfamm_jax.market.loaders.bitstamp import load_bitstamp
from mfamm_jax.market.loaders.databento import load_databento
from mfamm_jax.market.loaders.hftbacktest import load_hftbacktest
from mfamm_jax.market.loaders.hftbacktest_raw import load_hftbacktest_raw
from mfamm_jax.market.loaders.itch import load_itch
from mfamm_jax.market.loaders.latencies import load_latencies
from mfamm_jax.market.loaders.lobster import load_lobster
from mfamm_jax.market.loaders.panel import Panel, load_panel
from mfamm_jax.market.loaders.parquet import load_parquet, write_parquet
from mfamm_jax.market.loaders.tardis import load_tardis

from . import test_binance as binance
from . import test_bitstamp as bitstamp
from . import test_databento as databento
from . import test_hftbacktest as hftbacktest
from . import test_hftbacktest_raw as raw
from . import test_itch as itch
from . import test_latencies as latencies
from . import test_lobster as lobster
from . import test_panel as panel
from . import test_parquet as parquet
from . import test_tardis as tardis
from .sessions import make_session

N_MUTANTS = 1000
MEMORY = 300_000  # kB that all mutants together may add to the largest use so far

# ---- one small valid file, or set of files, of every format ----

SPOT = [
    raw.snapshot(20, 3, [(9.5, 2), (9.0, 1)], [(10.0, 3)]), raw.quote(22, (9.5, 2), (10.0, 3)),
    raw.diff(30, 4, 5, [(9.5, 0)], [(10.5, 4)]), raw.trade(40, 8, 10.0, 1, is_sell=False, kind=None),
    raw.quote(42, (9.0, 1), (10.0, 2), sent=40),
]  # fmt: skip
MATCH = [
    (1, 0, 101.0, 50, "created", "ask"), (2, 0, 100.0, 50, "created", "bid"), (3, 10, 101.5, 80, "created", "bid"),
    (3, 20, 101.5, 30, "changed", "bid"), (1, 21, 101.0, 0, "deleted", "ask"), (3, 30, 101.5, 30, "deleted", "bid"),
]  # fmt: skip
BY_ORDER = [
    ("A", "A", 10001, 100, 10, databento.order(1)), ("A", "B", 10000, 70, 12, databento.order(3)),
    ("F", "A", 10001, 60, 20, databento.order(1)), ("C", "A", 10001, 60, 20, databento.order(1)),
    ("M", "B", 10000, 90, 30, databento.order(3)),
]  # fmt: skip
BOOKS = [
    ("A", "A", 10002, 6, 2, databento.level(10000, 5, 10002, 6)),
    ("T", "B", 10002, 6, 3, databento.level(10000, 5, 10002, 6)),
    ("C", "A", 10002, 6, 3, databento.level(10000, 5, None, 0)),
]
PRINTS = [("T", "B", 10002, 6, 3), ("T", "A", 10001, 2, 4), ("T", "N", 10003, 1, 5)]
MESSAGES = [
    itch.directory("AAA"), itch.message("H", 10, "AAA", "T", " ", "    "),
    itch.message("A", 20, 1, "B", 100, "AAA", 1_000_000), itch.message("E", 40, 1, 50, 7001), itch.message("X", 50, 1, 30),
    itch.message("U", 60, 1, 4, 120, 1_000_300), itch.message("C", 70, 4, 20, 7002, "Y", 1_000_250),
    itch.message("P", 90, 0, "S", 11, "AAA", 1_000_050, 7003), itch.message("Q", 95, 50, "AAA", 1_000_100, 7004, "C"),
]  # fmt: skip


def lobster_zip(folder: Path) -> Path:
    plain = lobster.write(folder / "plain")
    (folder / "sample.zip").write_bytes(zipped({file.name: file.read_bytes() for file in plain.iterdir()}))
    shutil.rmtree(plain)
    return folder / "sample.zip"


def tardis_books(folder: Path) -> Path:
    tardis.write(folder, tardis.TRADES_NAME, tardis.TRADE_HEADER, tardis.TRADES)
    return tardis.write(folder, tardis.BOOKS_NAME + ".gz", tardis.BOOK_HEADER, tardis.BOOKS)


def binance_both(folder: Path) -> Path:
    for kind, rows in (("trades", binance.TRADES), ("bookTicker", binance.QUOTES)):
        binance.write(folder, kind, rows, binance.HEADERS[kind])
    return folder


def panel_parquet(folder: Path) -> Path:
    pl.read_csv(io.StringIO(panel.ROWS)).write_parquet(folder / "prices.parquet")
    return folder / "prices.parquet"


ORIGINALS: dict[str, tuple[Callable, Callable]] = {  # how the valid file is made, and loaded
    "lobster": (lobster.write, load_lobster),
    "lobster zip": (lobster_zip, load_lobster),
    "hftbacktest levels": (lambda folder: hftbacktest.write(folder, hftbacktest.LEVELS), load_hftbacktest),
    "hftbacktest orders": (lambda folder: hftbacktest.write(folder, hftbacktest.ORDERS), load_hftbacktest),
    "raw futures": (lambda folder: raw.write(folder, raw.FUTURES), load_hftbacktest_raw),
    "raw spot": (lambda folder: raw.write(folder, SPOT, "spot.txt"), load_hftbacktest_raw),
    "tardis levels": (lambda folder: tardis.write_both(folder).parent, load_tardis),
    "tardis books": (tardis_books, load_tardis),
    "binance folder": (binance_both, load_binance),
    "binance zip": (lambda f: binance.write(f, "trades", binance.TRADES, name="A-{}-2025-01-01.zip"), load_binance),
    "bitstamp": (lambda folder: bitstamp.write(folder, MATCH), load_bitstamp),
    "databento mbo": (lambda folder: databento.write(folder, "mbo", BY_ORDER), load_databento),
    "databento mbp-1": (lambda folder: databento.write(folder, "mbp-1", BOOKS), load_databento),
    "databento tbbo": (lambda folder: databento.write(folder, "tbbo", BOOKS[1:2] * 2), load_databento),
    "databento trades": (lambda folder: databento.write(folder, "trades", PRINTS), load_databento),
    "itch": (lambda folder: itch.write(folder, MESSAGES), lambda path: load_itch(path, symbol="AAA")),
    "itch gz": (lambda folder: itch.write(folder, MESSAGES, "d.itch.gz"), lambda path: load_itch(path, symbol="AAA")),
    "parquet levels": (parquet.write, load_parquet),
    "parquet orders": (lambda f: write_parquet(parquet.orders_session(), f / "mine.parquet"), load_parquet),
    "panel csv": (lambda folder: panel.written(folder, panel.ROWS), load_panel),
    "panel parquet": (panel_parquet, load_panel),
    "latencies npz": (lambda f: latencies.write(f, latencies.times(), "latency.npz"), load_latencies),
    "latencies parquet": (lambda f: latencies.write(f, latencies.times(), "latency.parquet"), load_latencies),
}

# ---- what happens to them: new bytes of a file, and in which way ----

WORDS = ["nan", "inf", "-inf", "-1", "0", "1e308", "1e-300", "99999999999", "1.5", "abc", "é✓", "true", "0x10", "1_0",
         "", " ", '"', "a\0b", "1" * 40, "9223372036854775808", "9223372036854775807", "-9223372036854775808"]  # fmt: skip
NUMBERS = [-1, 0, 1, 2**31, 10**12, 2**62, 2**63 - 1, -(2**63)]
FLOATS = [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e308, 1e-300, 2.0**63, 99999999999.0, 0.1234567891]
LETTERS = [letter.encode() for letter in "XNTABCFMR"]
HEADS = [gzip.compress(b"")[:10], b"PK\x03\x04", b"PAR1", b"\x93NUMPY\x01\0", b"DBN\x03", b"\x28\xb5\x2f\xfd"]
TYPES = [pl.String, pl.Float32, pl.UInt64, pl.Int8, pl.Int128, pl.Datetime("ns"), pl.Duration("ms"), pl.Boolean,
         pl.Binary, pl.Categorical, pl.Null, pl.Decimal(38, 9), pl.List(pl.Int64)]  # fmt: skip


def pick(rng: np.random.Generator, items: Sequence) -> Any:
    return items[int(rng.integers(len(items)))]


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content) + 1))
    end = place + int(rng.integers(1, 9))
    some = rng.bytes(end - place)
    ways = (
        content[:place] + some + content[end:],
        content[:place] + some + content[place:],
        content[:place] + content[end:],
        content[:place] + bytes(end - place) + content[end:],
        content[:place] + content[max(place - 40, 0) :],
        content[:place],
        pick(rng, [b"", rng.bytes(200)]),
    )
    return pick(rng, ways)


def other_rows(n: int, rng: np.random.Generator) -> list[int]:
    rows = list(range(n))
    one, two = (int(i) for i in rng.integers(n, size=2))
    swapped = [two if row == one else one if row == two else row for row in rows]
    changed = [*rows[: one + 1], *rows[one:]], rows[:one] + rows[one + 1 :], swapped, rng.permutation(n).tolist(), []
    return pick(rng, changed)


def text(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    table = [line.split(",") for line in content.decode().splitlines()]
    row, column = int(rng.integers(len(table))), int(rng.integers(len(table[0])))
    in_row = min(column, len(table[row]) - 1)
    ways = ["cell", "cell", "cell", "rows", "rows", "drop", "rename", "delimiter", "crlf", "bom", "header", "extra"]
    what = pick(rng, [*ways, "quote", "utf16", "latin"])
    if what == "cell":
        table[row][in_row] = pick(rng, WORDS)
    elif what == "rows":
        table = [table[i] for i in other_rows(len(table), rng)]
    elif what == "drop":
        table = [cells[:column] + cells[column + 1 :] for cells in table]
    elif what == "rename":
        table[0][column] += "_x"
    elif what == "header":
        table.insert(row, table[0])
    elif what == "extra":
        table[row].append("7")
    elif what == "quote":
        table[row][in_row] = f'"{table[row][in_row]}"'
    result = "\n".join((";" if what == "delimiter" else ",").join(cells) for cells in table) + "\n"
    if what == "latin":
        return result.replace("a", "ä").encode("latin-1"), what
    code = {"utf16": "utf-16", "bom": "utf-8-sig"}.get(what, "utf-8")
    return (result.replace("\n", "\r\n") if what == "crlf" else result).encode(code), what


def capture(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Lines `<time> <JSON>`: a value changes or is lost somewhere in one, or a line as in any text."""
    if rng.random() < 0.3:
        return text(content, rng)
    rows = content.decode().splitlines()
    row = int(rng.integers(len(rows)))
    time, _, line = rows[row].partition(" ")
    parent = message = json.loads(line)
    key = pick(rng, list(message))
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.9:
        parent = parent[key]
        key = pick(rng, list(parent) if isinstance(parent, dict) else range(len(parent)))
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = pick(rng, [*WORDS, *NUMBERS, *FLOATS, None, True, [], {}, 2**70, [["1", "2"]]])
    rows[row] = f"{time} {json.dumps(message)}"
    return ("\n".join(rows) + "\n").encode(), "cell"


def frame(table: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, str]:
    what = pick(rng, ["cell", "cell", "cell", "rows", "type", "drop", "rename", "null"])
    name = pick(rng, table.columns)
    row, kind = int(rng.integers(table.height)), table[name].dtype
    if what in ("cell", "null"):
        value = pick(rng, WORDS if kind == pl.String else FLOATS if kind.is_float() else NUMBERS)
        value = None if what == "null" else abs(value) if kind.is_unsigned_integer() else value
        return table.with_columns(pl.Series(name, [*table[name][:row], value, *table[name][row + 1 :]], kind)), what
    if what == "rows":
        return table[other_rows(table.height, rng)], what
    if what in ("drop", "rename"):
        return table.drop(name) if what == "drop" else table.rename({name: f"{name}_x"}), what
    wanted = pick(rng, TYPES)
    try:
        return table.with_columns(pl.col(name).cast(wanted, strict=False)), what
    except pl.exceptions.PolarsError:
        return table.with_columns(pl.lit(None, wanted).alias(name)), what


def itch_messages(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    parts, what = [], pick(rng, ["rows", "cell"])
    while content:
        end = 2 + int.from_bytes(content[:2], "big")
        parts.append(content[2:end])
        content = content[end:]
    if what == "rows":
        parts = [parts[i] for i in other_rows(len(parts), rng)]
    else:
        row = int(rng.integers(len(parts)))
        place, n = int(rng.integers(len(parts[row]))), pick(rng, [1, 1, 4, 8])
        value = pick(rng, [b"\0", b"\xff", b"B", b"\x80", b" "]) * n
        parts[row] = parts[row][:place] + value + parts[row][place + pick(rng, [n, n, 1, 8]) :]
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts), what


def dbn_records(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    dbn = pytest.importorskip("databento_dbn")
    end = 8 + int.from_bytes(content[4:8], "little")
    record = {160: dbn.MBOMsg, 1: dbn.MBP1Msg, 0: dbn.TradeMsg}[content[end + 1]]
    table, what = np.frombuffer(content[end:], record._dtypes).copy(), pick(rng, ["rows", "cell", "cell"])
    if what == "rows":
        return content[:end] + table[other_rows(len(table), rng)].tobytes(), what
    name, row = pick(rng, table.dtype.names), int(rng.integers(len(table)))
    limits = np.iinfo(table.dtype[name]) if table.dtype[name].kind in "iu" else None
    table[name][row] = pick(rng, LETTERS) if limits is None else min(max(pick(rng, NUMBERS), limits.min), limits.max)
    return content[:end] + table.tobytes(), what


def array(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    table, what, out = np.load(io.BytesIO(content)), "shape", io.BytesIO()
    if rng.random() < 0.1:
        table = pick(rng, [table[None], table[:0], table[0], np.arange(5), np.array("text")])
    else:
        columns, what = frame(pl.DataFrame({name: table[name] for name in table.dtype.names}), rng)
        columns = columns.with_columns(pl.col(pl.Int128).cast(pl.Float32))
        table = np.rec.fromarrays([column.to_numpy() for column in columns], names=columns.columns)
    np.save(out, table)
    return out.getvalue(), what


def inside(name: str, content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    out = io.BytesIO()
    if name.endswith(".gz"):
        inner, what = inside(name[:-3], gzip.decompress(content), rng)
        return gzip.compress(inner), what
    if name.endswith((".zip", ".npz")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        member = pick(rng, list(members))
        members[member], what = inside(member, members[member], rng)
        return zipped(members), what
    if name.endswith(".parquet"):
        table, metadata = pl.read_parquet(io.BytesIO(content)), pl.read_parquet_metadata(io.BytesIO(content))
        metadata = {key: value for key, value in metadata.items() if key != "ARROW:schema"}
        if metadata and rng.random() < 0.2:
            metadata[pick(rng, list(metadata))], what = pick(rng, WORDS), "metadata"
        else:
            table, what = frame(table, rng)
        table.write_parquet(out, metadata=metadata)
        return out.getvalue(), what
    if rng.random() < 0.1:
        return damaged(content, rng), "bytes inside"
    ways = {".dbn": dbn_records, ".itch": itch_messages, ".npy": array}
    return ways.get(Path(name).suffix, capture if content[:19].isdigit() else text)(content, rng)


def mutate(name: str, content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    way = rng.random()
    plain = gzip.decompress(content) if name.endswith(".gz") else content
    if way < 0.25:
        return damaged(content, rng), "bytes"
    if way < 0.3:
        packs = gzip.compress(content), zipped({"inner": content}), plain, gzip.compress(rng.bytes(300))
        return pick(rng, [*packs, pick(rng, HEADS) + content]), "packing"
    return inside(name, content, rng)


# ---- what may come of it ----

PLACE = re.compile(r"\b(rows?|line|record|messages?|columns?|field|header|instruments?|schema|metadata|no \w+|both)\b")
ADVICE = re.compile(
    "expected|must be|no column|never changes|download|give|sort|correct|remove|write|request|check|run|split|leave|load"
)


def unclear(error: DataError, names: list[str], what: str) -> str | None:
    words = str(error)
    wanted = {
        "is not one of ours": type(error) is DataError,
        "does not name the file": any(name in words for name in names),
        "is not one block": words.isprintable() and len(words) < 800,
        "does not say what was expected": ADVICE.search(words),
        "does not say where": what != "cell" or PLACE.search(words),
    }
    return next((why for why, is_so in wanted.items() if not is_so), None)


def assert_sound(found: Session | Panel | tuple, source: str) -> None:
    may_be_negative = source.startswith("databento")  # prices of spreads between contracts
    if isinstance(found, Panel):
        assert (np.isfinite(found.levels) & (found.levels > 0)).all()
    elif isinstance(found, tuple):
        assert all(column.dtype == np.int64 and (column >= 0).all() for column in found)
        assert (np.diff(found[0]) > 0).all()
    else:
        assert_sound_rows(found, may_be_negative)
        if found.books is not None:
            assert_sound_books(found.books, len(found.updates), may_be_negative)
        if found.best_quotes is not None:
            assert_times(found.best_quotes.t_ns, found.epoch_ns)
            assert_sound_books(found.best_quotes.books, len(found.best_quotes.t_ns), may_be_negative)
        if found.feed != "trades":
            ladder = build_ladder(found)
            assert (ladder.best_bid < ladder.best_ask)[ladder.two_sided].all()
        session_facts(found)


def assert_times(times: np.ndarray, epoch_ns: int) -> None:
    assert times.dtype == np.int64
    assert all(abs(int(extreme) + epoch_ns) <= 2**62 for extreme in (times.min(), times.max()))


def assert_sound_rows(session: Session, may_be_negative: bool) -> None:
    updates = session.updates
    assert {len(column) for column in vars(updates).values() if column is not None} == {len(updates)} != {0}
    assert_times(updates.t_ns, session.epoch_ns)
    assert_times(updates.t_ns if updates.local_ns is None else updates.local_ns, session.epoch_ns)
    assert (np.diff(updates.t_ns) >= 0).all()
    assert np.isin(updates.kind, list(Kind)).all()
    assert np.isin(updates.side, (-1, 0, 1)).all()
    assert 0 < min(session.tick_size, session.size_unit) <= max(session.tick_size, session.size_unit) < np.inf
    size, executed = updates.size, np.isin(updates.kind, (Kind.TRADE, Kind.HIDDEN_TRADE))
    assert (np.isfinite(size) & (size >= 0)).all()
    assert (size[executed] > 0).all()
    assert np.isin(updates.price_ticks[updates.kind == Kind.HALT], (-1, 0, 1)).all()
    rests = np.isin(updates.kind, (Kind.ADD, Kind.LEVEL)) & (size > 0)
    assert may_be_negative or (updates.price_ticks[executed | rests] > 0).all()


def assert_sound_books(books: BookSnapshots, n_rows: int, may_be_negative: bool) -> None:
    assert {part.shape for part in vars(books).values()} == {(n_rows, books.n_levels)}
    for sign, ticks, size in ((1, books.bid_ticks, books.bid_size), (-1, books.ask_ticks, books.ask_size)):
        shown = size > 0
        assert (np.isfinite(size) & (size >= 0)).all()
        assert may_be_negative or (ticks[shown] > 0).all()
        worse = sign * np.diff(ticks.astype(np.int64), axis=1) < 0
        assert (worse & shown[:, :-1])[shown[:, 1:]].all()
    both = (books.bid_size[:, 0] > 0) & (books.ask_size[:, 0] > 0)
    assert (books.bid_ticks[:, 0] < books.ask_ticks[:, 0])[both].all()


def fault(originals: dict[str, Path], seed: int, folder: Path) -> str | None:
    rng = np.random.default_rng(seed)
    source = list(ORIGINALS)[seed % len(ORIGINALS)]
    original = originals[source]
    shutil.copytree(original if original.is_dir() else original.parent, folder)
    names = sorted(file.name for file in folder.iterdir())
    file = folder / pick(rng, names)
    content, what = mutate(file.name, file.read_bytes(), rng)
    file.write_bytes(content)
    place = f"{source}, seed {seed} ({what}, {len(content)} bytes of {file.name})"
    try:
        assert_sound(ORIGINALS[source][1](folder if original.is_dir() else folder / original.name), source)
    except DataError as error:
        why = unclear(error, [*names, str(folder)], what)
        return why and f"{place}: the error {why}: {error}"
    except (Exception, pl.exceptions.PanicException) as error:  # a panic is no Exception
        return f"{place}: {error!r}"
    return None


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    pytest.importorskip("databento", reason="the extra databento is not installed")
    pytest.importorskip("meatpy", reason="the extra itch is not installed")
    return {source: make(tmp_path_factory.mktemp(source.replace(" ", "_"))) for source, (make, _) in ORIGINALS.items()}


def peak_memory() -> int:  # kB
    status = Path("/proc/self/status")
    return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) if status.exists() else 0


def assert_no_faults(originals: dict[str, Path], seeds: range, folder: Path) -> None:
    before = peak_memory()
    faults = [found for seed in seeds if (found := fault(originals, seed, folder / str(seed)))]
    assert not faults, f"{len(faults)} of {len(seeds)} mutants:\n" + "\n".join(faults)
    assert peak_memory() - before < MEMORY, f"{peak_memory() - before} kB more memory in {seeds}"


def test_the_original_files_are_sound(originals):
    for source, path in originals.items():
        assert_sound(ORIGINALS[source][1](path), source)


def test_a_thousand_mutated_files_end_in_a_clear_error_or_a_sound_session(originals, tmp_path):
    assert_no_faults(originals, range(N_MUTANTS), tmp_path)


# ---- what no rule above sees ----


def test_an_order_added_twice_takes_its_own_place():
    rows = [(1, Kind.ADD, 1, 99, 5, 7), (2, Kind.ADD, 1, 99, 3, 7), (3, Kind.ADD, 1, 98, 2, 7)]
    rows += [(4, Kind.DELETE, -1, 98, 2, 7)]  # a wrong side: the order's own counts
    ladder = build_ladder(dataclasses.replace(make_session(rows, [(0, 0, 0, 0)] * 4), books=None))
    assert ladder.ticks.tolist() == [99, 99, 99, 99, 98, 98]
    assert ladder.size.tolist() == [5, 0, 3, 0, 2, 0]
    assert ladder.n_unknown == 2


def test_itch_executions_do_not_exceed_their_order(tmp_path):
    add = [itch.message("A", 20, 1, "B", 100, "AAA", price) for price in (1_000_000, 1_000_100)]
    session = itch.load(tmp_path, *add, itch.message("D", 30, 1))
    assert session.updates.kind.tolist() == [Kind.ADD, Kind.DELETE, Kind.ADD, Kind.DELETE]
    assert session.counts["repeated_adds"] == 1
    with pytest.raises(DataError, match="message 4: 101 shares of an order that has 100 left"):
        itch.load(tmp_path, add[0], itch.message("E", 30, 1, 101, 9))


def test_crossed_books_of_a_dbn_file_are_dropped_but_not_their_trades(tmp_path):
    crossed = databento.level(10003, 5, 10002, 6)
    rows = [BOOKS[0], ("A", "B", 10003, 5, 3, crossed), ("T", "B", 10002, 1, 4, crossed)]
    session = load_databento(databento.write(tmp_path, "mbp-1", rows))
    assert session.updates.kind.tolist() == [Kind.SNAPSHOT, Kind.TRADE]
    assert (session.books.bid_ticks * session.tick_size).tolist() == [[100.0], [100.0]]
    assert session.notes == ("2 crossed or locked books dropped",)


def test_a_row_decades_later_takes_no_memory():
    rows = [(t, Kind.ADD, 1, 99, 5, 7) for t in (0, 10**9, 2 * 10**18)]
    facts = session_facts(make_session(rows, [(99, 1, 101, 1), (100, 1, 102, 1), (100, 1, 102, 1)]))
    assert facts["rv_1s_log_over_window"] == pytest.approx(np.log(1.01))


def test_a_panel_loses_no_column_to_a_word_and_no_row_to_a_missing_header(tmp_path):
    with pytest.raises(DataError, match='row 2: "A" is x, expected a number'):
        load_panel(panel.written(tmp_path, panel.ROWS.replace("1.6", "x")))
    with pytest.raises(DataError, match=r"row 1 is .*, expected the names"):
        load_panel(panel.written(tmp_path, panel.ROWS.partition("\n")[2]))
