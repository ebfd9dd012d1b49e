-- The tables as DuckDB sees them; run it in the folder that export wrote.
--
-- A type without records has no folder, and its line fails: that is no harm after empty.sql for the
-- last three, which are rare.
CREATE OR REPLACE TEMPORARY VIEW header AS SELECT * FROM read_parquet('header/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW spawn AS SELECT * FROM read_parquet('spawn/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW exec AS SELECT * FROM read_parquet('exec/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW exit AS SELECT * FROM read_parquet('exit/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW cow AS SELECT * FROM read_parquet('cow/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW summary AS SELECT * FROM read_parquet('summary/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW bucket AS SELECT * FROM read_parquet('bucket/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW spawn_update AS SELECT * FROM read_parquet('spawn_update/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW spawn_failure AS SELECT * FROM read_parquet('spawn_failure/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
CREATE OR REPLACE TEMPORARY VIEW lost AS SELECT * FROM read_parquet('lost/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
