-- Hosts by how long a fork stands its caller still.
WITH merged AS (
  SELECT host, lowest_ns, highest_ns, SUM(count) AS n
  FROM bucket
  WHERE metric = 'spawn_latency' AND label = 'fork'
  GROUP BY host, lowest_ns, highest_ns
),
ranked AS (
  SELECT host, highest_ns,
         SUM(n) OVER (PARTITION BY host ORDER BY lowest_ns
                      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS up_to,
         SUM(n) OVER (PARTITION BY host) AS total
  FROM merged
)
SELECT host,
       MAX(total) AS forks,
       MIN(CASE WHEN up_to * 100 >= total * 99 THEN highest_ns END) / 1e6 AS p99_ms,
       MIN(CASE WHEN up_to * 1000 >= total * 999 THEN highest_ns END) / 1e6 AS p999_ms,
       MAX(highest_ns) / 1e6 AS worst_ms
FROM ranked
GROUP BY host
ORDER BY p99_ms DESC, host;
