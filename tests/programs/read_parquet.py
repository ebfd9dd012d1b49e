"""Queries over an exported folder, by DuckDB or by Spark: JSON, a list of rows for each.

    read_parquet.py duckdb|spark OUT QUERIES.json
"""

import json
import pathlib
import sys

engine, out, queries = sys.argv[1], pathlib.Path(sys.argv[2]), json.load(open(sys.argv[3]))
types = sorted(path.name for path in out.iterdir())

if engine == "duckdb":
    import duckdb

    db = duckdb.connect()
    for name in types:
        source = f"read_parquet('{out}/{name}/*/*/*.parquet', hive_partitioning = true)"
        db.execute(f"CREATE VIEW {name} AS SELECT * FROM {source}")
    words = {"LENGTH_OF": "len", "MICROS_OF": "epoch_us"}
    run = lambda text: db.execute(text).fetchall()
else:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]").appName("forkscope-tests")
    for key, value in {
        "spark.ui.enabled": "false",
        "spark.driver.memory": "1g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.log.level": "ERROR",
    }.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    for name in types:
        spark.read.parquet(str(out / name)).createOrReplaceTempView(name)
    words = {"LENGTH_OF": "size", "MICROS_OF": "unix_micros"}
    run = lambda text: [list(row) for row in spark.sql(text).collect()]

found = {"types": types}
for name, text in queries.items():
    for word, theirs in words.items():
        text = text.replace(word, theirs)
    found[name] = run(text)
print(json.dumps(found))
