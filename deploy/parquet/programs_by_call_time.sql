-- Programs by the time they spend in calls that create processes and threads.
--
-- A call that had not returned after a second was written with nulls, and completed later.
SELECT s.parent_comm, s.mechanism,
       COUNT(*) AS spawns,
       SUM(COALESCE(s.latency_ns, u.latency_ns)) / 1e9 AS seconds_in_call,
       SUM(COALESCE(s.blocked_ns, u.blocked_ns)) / 1e9 AS seconds_frozen,
       SUM(s.copy_ns) / 1e9 AS seconds_copying,
       MAX(COALESCE(s.latency_ns, u.latency_ns)) / 1e6 AS worst_ms
FROM spawn s
LEFT JOIN spawn_update u
       ON u.host = s.host AND u.recording = s.recording
      AND u.child_tid = s.child_tid AND u.child_start_time = s.child_start_time
GROUP BY s.parent_comm, s.mechanism
ORDER BY seconds_in_call DESC NULLS LAST
LIMIT 20;
