-- A decision's list as one JSON text, {"items", "scores", "propensities", "probabilities"}: made once for a list however often it is served,
-- and written without being taken apart. Four arrays of fifty values were most of what writing a decision cost. The table is rewritten.
ALTER TABLE decisions ALTER COLUMN items TYPE json
    USING json_build_object('items', items, 'scores', scores, 'propensities', propensities, 'probabilities', probabilities);
ALTER TABLE decisions RENAME COLUMN items TO ranking;
ALTER TABLE decisions DROP COLUMN scores, DROP COLUMN propensities, DROP COLUMN probabilities;
-- Compressing two kilobytes costs the database more than all else that it does for a decision.
ALTER TABLE decisions ALTER COLUMN ranking SET STORAGE EXTERNAL;
