"""The queries of deploy/parquet over small tables whose answers are known."""

import math
import pathlib
import sys

import duckdb

folder = pathlib.Path(sys.argv[1])
db = duckdb.connect()


def run(name):
    cursor = db.execute((folder / name).read_text())
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor.fetchall()]


def table(name, types, rows):
    db.execute(f"CREATE TABLE {name} ({types})")
    if rows:
        db.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[0]))})", rows)


run("empty.sql")
MS, GIB = 10**6, 2**30

# Two hosts; the second one's forks are slow. Edges as the kernel side has them, in kind.
buckets = [("a", 2**n, 2 ** (n + 1) - 1, 1000 >> n) for n in range(10)]
buckets += [("b", 2**n, 2 ** (n + 1) - 1, 1) for n in range(8, 13)]
table(
    "bucket",
    "host STRING, recording STRING, metric STRING, label STRING, lowest_ns BIGINT, highest_ns BIGINT, count BIGINT",
    [(h, h, "spawn_latency", "fork", lo, hi, n) for h, lo, hi, n in buckets]
    + [("a", "a", "copy", None, 8, 15, 3)],
)
values = sorted(hi for _, _, hi, n in buckets for _ in range(n))
at = lambda q: values[math.ceil(q * len(values)) - 1]
copy, fork = run("percentiles.sql")
assert (copy["label"], copy["n"], copy["p999_ns"]) == (None, 3, 15), copy
told = [fork[key] for key in ("n", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns")]
assert told == [len(values), at(0.5), at(0.9), at(0.99), at(0.999), values[-1]], (told, values)
b, a = run("hosts_by_fork_stall.sql")
assert (b["host"], b["forks"], b["worst_ms"]) == ("b", 5, 8191 / 1e6), b

# On a, a GiB costs 30 ms. The last call came back late, so that its row has no times.
table("header", "host STRING, recording STRING, kernel STRING", [("a", "a", "6.1")] * 2)
spawns = [("a", f"2026-11-22 08:00:{n:02}", "fork", "redis", n, n, n * 30 * MS, n * GIB) for n in range(1, 6)]
spawns += [("a", "2026-11-22 08:01:00", "fork", "redis", 9, 9, None, 9 * GIB)]
spawns += [("a", "2026-11-22 08:01:00", "thread", "java", n, n, 1, GIB) for n in range(20, 40)]
table(
    "spawn",
    "host STRING, recording STRING, time TIMESTAMP, mechanism STRING, parent_comm STRING, child_tid BIGINT, "
    "child_start_time BIGINT, latency_ns BIGINT, parent_rss_bytes BIGINT, blocked_ns BIGINT, copy_ns BIGINT",
    [(row[0], *row, None, None) for row in spawns],
)
db.execute("DROP VIEW spawn_update")
table(
    "spawn_update",
    "host STRING, recording STRING, child_tid BIGINT, child_start_time BIGINT, latency_ns BIGINT, blocked_ns BIGINT",
    [("a", "a", 9, 9, 1550 * MS, None)],
)
(cost,) = run("fork_cost_per_gib.sql")
assert cost["forks"] == 5 and abs(cost["ms_per_gib"] - 30) < 1e-9 and cost["r2"] > 0.999, cost
first = run("programs_by_call_time.sql")[0]
assert (first["parent_comm"], first["spawns"], first["seconds_in_call"]) == ("redis", 6, 2.0), first
assert first["worst_ms"] == 1550, first
storm = run("spawn_storms.sql")[0]
assert (storm["spawns"], storm["most_by"], storm["of_these"]) == (5, "redis", 5), storm

table(
    "cow",
    "host STRING, parent_comm STRING, parent_copied_bytes BIGINT, child_copied_bytes BIGINT, parent_stall_ns BIGINT",
    [("a", "redis", 3 << 20, 1 << 20, 2 * MS), ("a", "redis", 5 << 20, 1 << 20, 4 * MS), ("b", "sh", 4096, 0, None)],
)
cow = run("cow_by_program.sql")[0]
assert (cow["forks"], cow["mib_per_fork"], cow["mib_worst_fork"]) == (2, 5, 6), cow
assert cow["ms_parent_stalled_per_fork"] == 3, cow

table(
    "exec",
    "host STRING, time TIMESTAMP, errno STRING, filename STRING",
    [("a", "2026-11-22 08:00:00", errno, "/x") for errno in ("EACCES", "EACCES", "ENOENT", None)],
)
(failed,) = run("failures.sql")
assert (failed["what"], failed["errno"], failed["failures"]) == ("exec", "EACCES", 2), failed

ran = {"percentiles", "hosts_by_fork_stall", "programs_by_call_time", "fork_cost_per_gib"}
ran |= {"cow_by_program", "failures", "spawn_storms", "empty", "views.duckdb", "views.spark"}
assert {path.stem for path in folder.glob("*.sql")} == ran, "a query that is not tried here"
print("ok")
