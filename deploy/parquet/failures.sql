-- What failed, by error: calls that create, and execs. ENOENT is left out of execs, for it is mostly
-- a libc that searches PATH.
SELECT 'spawn' AS what, host, errno, parent_comm AS program, COUNT(*) AS failures,
       MIN(time) AS first_seen, MAX(time) AS last_seen
FROM spawn_failure
GROUP BY host, errno, parent_comm
UNION ALL
SELECT 'exec' AS what, host, errno, filename AS program, COUNT(*) AS failures,
       MIN(time) AS first_seen, MAX(time) AS last_seen
FROM exec
WHERE errno IS NOT NULL AND errno <> 'ENOENT'
GROUP BY host, errno, filename
ORDER BY failures DESC, what, host, errno
LIMIT 50;
