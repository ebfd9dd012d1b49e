-- Percentiles of the fleet, for every histogram by its label (mechanism, or role).
--
-- Buckets of the kernel side are the same on all hosts, so adding them up merges histograms
-- exactly: what comes out is what one host would have said that had seen everything. Add
-- WHERE host = … or date BETWEEN … to the first SELECT for less.
WITH merged AS (
  SELECT metric, label, lowest_ns, highest_ns, SUM(count) AS n
  FROM bucket
  GROUP BY metric, label, lowest_ns, highest_ns
),
ranked AS (
  SELECT metric, label, lowest_ns, highest_ns,
         SUM(n) OVER (PARTITION BY metric, label ORDER BY lowest_ns
                      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS up_to,
         SUM(n) OVER (PARTITION BY metric, label) AS total
  FROM merged
)
SELECT metric, label,
       MAX(total) AS n,
       -- In whole numbers, so that no rounding decides: the first bucket that reaches the rank.
       MIN(CASE WHEN up_to * 2 >= total THEN highest_ns END) AS p50_ns,
       MIN(CASE WHEN up_to * 10 >= total * 9 THEN highest_ns END) AS p90_ns,
       MIN(CASE WHEN up_to * 100 >= total * 99 THEN highest_ns END) AS p99_ns,
       MIN(CASE WHEN up_to * 1000 >= total * 999 THEN highest_ns END) AS p999_ns,
       MAX(highest_ns) AS max_ns
FROM ranked
GROUP BY metric, label
ORDER BY metric, label;
