-- The tables as Spark sees them; put the folder that export wrote for OUT.
--
-- A type without records has no folder, and its line fails: that is no harm after empty.sql for the
-- last three, which are rare.
CREATE OR REPLACE TEMPORARY VIEW header USING parquet OPTIONS (path 'OUT/header', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW spawn USING parquet OPTIONS (path 'OUT/spawn', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW exec USING parquet OPTIONS (path 'OUT/exec', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW exit USING parquet OPTIONS (path 'OUT/exit', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW cow USING parquet OPTIONS (path 'OUT/cow', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW summary USING parquet OPTIONS (path 'OUT/summary', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW bucket USING parquet OPTIONS (path 'OUT/bucket', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW spawn_update USING parquet OPTIONS (path 'OUT/spawn_update', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW spawn_failure USING parquet OPTIONS (path 'OUT/spawn_failure', mergeSchema 'true');
CREATE OR REPLACE TEMPORARY VIEW lost USING parquet OPTIONS (path 'OUT/lost', mergeSchema 'true');
