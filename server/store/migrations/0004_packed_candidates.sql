-- A decision's candidates, hundreds of ids, as a compressed JSON list: written and read whole, never searched. Rows written before keep
-- theirs in `candidates`.
ALTER TABLE decisions ADD COLUMN candidates_packed bytea, ALTER COLUMN candidates SET DEFAULT '{}';
ALTER TABLE decisions ALTER COLUMN candidates_packed SET STORAGE EXTERNAL;
