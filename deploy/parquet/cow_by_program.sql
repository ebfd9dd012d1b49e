-- What is copied after a fork, by the program that forked: bytes and lost time for each fork.
SELECT parent_comm,
       COUNT(*) AS forks,
       AVG(parent_copied_bytes + child_copied_bytes) / 1048576.0 AS mib_per_fork,
       MAX(parent_copied_bytes + child_copied_bytes) / 1048576.0 AS mib_worst_fork,
       SUM(parent_copied_bytes) / 1048576.0 AS mib_by_parents,
       SUM(child_copied_bytes) / 1048576.0 AS mib_by_children,
       AVG(parent_stall_ns) / 1e6 AS ms_parent_stalled_per_fork
FROM cow
GROUP BY parent_comm
ORDER BY SUM(parent_copied_bytes + child_copied_bytes) DESC
LIMIT 20;
