-- What a GiB of the parent's memory adds to a fork, by host and kernel: the slope of a straight line.
--
-- r2 near 1: memory explains it. Small parents are left out: their RSS lags by a batch of pages per
-- CPU, and fixed costs hide the rest.
SELECT s.host, h.kernel,
       COUNT(*) AS forks,
       MAX(s.parent_rss_bytes) / 1073741824.0 AS largest_gib,
       REGR_SLOPE(s.latency_ns / 1e6, s.parent_rss_bytes / 1073741824.0) AS ms_per_gib,
       REGR_R2(s.latency_ns / 1e6, s.parent_rss_bytes / 1073741824.0) AS r2
FROM spawn s
-- A recording that began more than once has as many headers.
JOIN (SELECT DISTINCT host, recording, kernel FROM header) h
       ON h.host = s.host AND h.recording = s.recording
WHERE s.mechanism = 'fork' AND s.parent_rss_bytes >= 16777216 AND s.latency_ns IS NOT NULL
GROUP BY s.host, h.kernel
HAVING COUNT(*) >= 3
ORDER BY ms_per_gib DESC;
