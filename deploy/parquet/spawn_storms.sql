-- The minutes in which a host made the most processes, and the program that made most of them.
WITH by_program AS (
  SELECT host, DATE_TRUNC('minute', time) AS minute, parent_comm, COUNT(*) AS n
  FROM spawn
  WHERE mechanism NOT IN ('thread', 'io_thread', 'kthread')
  GROUP BY host, DATE_TRUNC('minute', time), parent_comm
)
SELECT host, minute,
       SUM(n) AS spawns,
       SUM(n) / 60.0 AS per_second,
       MAX_BY(parent_comm, n) AS most_by,
       MAX(n) AS of_these
FROM by_program
GROUP BY host, minute
ORDER BY spawns DESC, host, minute
LIMIT 20;
