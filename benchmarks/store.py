"""Question: what does one row cost to write and read, in each store and through the overlay?

    python -m benchmarks.store [--rows N] [--seed N]

Prints µs per operation, the median of 3 runs. Rows: 18-byte keys, 120-byte values of which half is random. RocksDB's
rows are measured twice: `memtable` as just written, `sst` after a flush, in the block cache. A miss asks
for keys between existing ones. Scans are given per call of that many rows. The write of the overlay is the whole way:
put into the view and the commit of its batch.
"""

import argparse
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable

from wukong.store.interface import Store
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay
from wukong.store.rocks import RocksStore

BATCH_ROWS = 50
PREFIX = b"\x00\x01\x00\x00\x00\x00"
RUNS = 3

Table = dict[str, dict[str, float]]


def median_us(run: Callable[[], object], operations: int) -> float:
    """µs per operation, median of RUNS runs."""
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) / operations * 1e6


class Rows:
    """The rows and the order in which they are written and asked for."""

    def __init__(self, count: int, seed: int) -> None:
        chance = random.Random(seed)
        self.keys = [b"k%011d" % number for number in range(count)]
        chance.shuffle(self.keys)
        self.values = [chance.randbytes(60) + b"x" * 60 for _ in range(1000)]
        self.asked = [chance.choice(self.keys) for _ in range(min(count, 20_000))]

    def batches(self, prefix: bytes) -> list[dict[bytes, bytes | None]]:
        values = self.values
        rows = [(prefix + key, values[number % len(values)]) for number, key in enumerate(self.keys)]
        return [dict(rows[place : place + BATCH_ROWS]) for place in range(0, len(rows), BATCH_ROWS)]


def measure_reads(store: Store, rows: Rows) -> dict[str, float]:
    asked = [PREFIX + key for key in rows.asked]
    absent = [key + b"?" for key in asked]
    tens = [asked[place : place + 10] for place in range(0, len(asked), 10)]
    absent_tens = [absent[place : place + 10] for place in range(0, len(absent), 10)]
    starts = asked[:2000]
    get, get_many, scan = store.get, store.get_many, store.scan
    end = PREFIX[:-1] + b"\x01"
    return {
        "get": median_us(lambda: [get(key) for key in asked], len(asked)),
        "miss": median_us(lambda: [get(key) for key in absent], len(absent)),
        "get_many, 10 keys, per key": median_us(lambda: [get_many(keys) for keys in tens], len(asked)),
        "get_many, 10 misses, per key": median_us(lambda: [get_many(keys) for keys in absent_tens], len(asked)),
        "scan 1 row": median_us(lambda: [scan(key, end, limit=1) for key in starts], len(starts)),
        "scan 20 rows": median_us(lambda: [scan(key, end, limit=20) for key in starts], len(starts)),
        "scan 20 rows, reverse": median_us(
            lambda: [scan(PREFIX, key, limit=20, reverse=True) for key in starts], len(starts)
        ),
        "scan 1000 rows": median_us(lambda: [scan(key, end, limit=1000) for key in starts[:50]], 50),
    }


def measure_write(store: Store, rows: Rows) -> float:
    batches = rows.batches(PREFIX)

    def run() -> None:
        for batch in batches:
            store.write(batch)

    return median_us(run, len(rows.keys))


def measure_overlay(store: Store, rows: Rows) -> dict[str, float]:
    overlay = Overlay(store)
    view = overlay.view(PREFIX)
    asked, values = rows.asked, rows.values
    absent = [key + b"?" for key in asked]
    get, put, scan = view.get, view.put, view.scan

    def write() -> None:
        for place in range(0, len(asked), BATCH_ROWS):
            for number in range(place, min(place + BATCH_ROWS, len(asked))):
                put(asked[number], values[number % 1000])
            overlay.commit()

    figures = {
        "put and commit": median_us(write, len(asked)),
        "get": median_us(lambda: [get(key) for key in asked], len(asked)),
        "miss": median_us(lambda: [get(key) for key in absent], len(asked)),
        "scan 20 rows": median_us(lambda: [scan(key, limit=20) for key in asked[:2000]], 2000),
    }
    for number, key in enumerate(asked[:2000]):
        put(key, values[number % 1000])
    scan(limit=1)
    pending = asked[:2000]
    figures["get, pending row"] = median_us(lambda: [get(key) for key in pending], 2000)
    figures["put over a pending row"] = median_us(lambda: [put(key, b"") for key in pending], 2000)
    figures["scan 20 rows, 2000 pending"] = median_us(lambda: [scan(key, limit=20) for key in pending], 2000)
    fresh = iter(range(RUNS * 2000))
    figures["put a new row and scan 1"] = median_us(
        lambda: [(put(b"new%d" % next(fresh), b""), scan(key, limit=1)) for key in pending], 2000
    )
    overlay.discard()
    return figures


def measure_flush(store: Store, rows: Rows) -> float:
    def run() -> None:
        for batch in rows.batches(PREFIX)[:100]:
            store.write(batch)
            store.flush()

    return median_us(run, min(100, len(rows.keys) // BATCH_ROWS))


def print_table(table: Table) -> None:
    columns = list(table)
    operations = list(dict.fromkeys(name for column in table.values() for name in column))
    width = max(map(len, operations)) + 2
    print("µs".ljust(width) + "".join(name.rjust(18) for name in columns))
    for operation in operations:
        cells = (table[name].get(operation) for name in columns)
        print(operation.ljust(width) + "".join(("-" if cell is None else f"{cell:.2f}").rjust(18) for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.rows} rows, seed {arguments.seed}")
    rows = Rows(arguments.rows, arguments.seed)
    table: Table = {}

    memory = MemoryStore()
    write = measure_write(memory, rows)
    table["memory"] = {f"write, batch of {BATCH_ROWS}, per row": write, **measure_reads(memory, rows)}
    table["overlay/memory"] = measure_overlay(memory, rows)

    with tempfile.TemporaryDirectory() as directory:
        rocks = RocksStore(os.path.join(directory, "db"))
        rocks.write({PREFIX + key: rows.values[0] for key in rows.keys})
        table["rocks memtable"] = measure_reads(rocks, rows)
        write = measure_write(rocks, rows)
        table["overlay/rocks"] = measure_overlay(rocks, rows)
        flush = measure_flush(rocks, rows)
        rocks.checkpoint(os.path.join(directory, "copy"))
        table["rocks sst"] = {
            f"write, batch of {BATCH_ROWS}, per row": write,
            **measure_reads(rocks, rows),
            f"write {BATCH_ROWS} rows and flush": flush,
            "stats": median_us(lambda: [rocks.stats() for _ in range(100)], 100),
        }
        rocks.close()
    print_table(table)


if __name__ == "__main__":
    main()
