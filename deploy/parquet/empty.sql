-- Tables of what is rare, without rows, for DuckDB and Spark alike; run it before views.*.sql. Where
-- a line there fails because there is no such record, the empty table stays and every query runs.
CREATE OR REPLACE TEMPORARY VIEW spawn_update AS
SELECT CAST(NULL AS STRING) AS host, CAST(NULL AS STRING) AS recording,
       CAST(NULL AS TIMESTAMP) AS time, CAST(NULL AS BIGINT) AS child_tid,
       CAST(NULL AS BIGINT) AS child_start_time, CAST(NULL AS BIGINT) AS latency_ns,
       CAST(NULL AS BIGINT) AS blocked_ns
WHERE 1 = 0;
CREATE OR REPLACE TEMPORARY VIEW spawn_failure AS
SELECT CAST(NULL AS STRING) AS host, CAST(NULL AS STRING) AS recording,
       CAST(NULL AS TIMESTAMP) AS time, CAST(NULL AS STRING) AS errno,
       CAST(NULL AS STRING) AS parent_comm
WHERE 1 = 0;
CREATE OR REPLACE TEMPORARY VIEW lost AS
SELECT CAST(NULL AS STRING) AS host, CAST(NULL AS STRING) AS recording,
       CAST(NULL AS TIMESTAMP) AS time, CAST(NULL AS STRING) AS stage,
       CAST(NULL AS BIGINT) AS count
WHERE 1 = 0;
