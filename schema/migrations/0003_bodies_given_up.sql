-- Above USAGE_DEAD_LETTER_BYTES_MAX, where it is set, new letters are kept without their body. Quick on a table of any
-- size: the catalogue alone changes.
ALTER TABLE ai_usage_dead_letters ALTER COLUMN body DROP NOT NULL;
COMMENT ON COLUMN ai_usage_dead_letters.body IS
    'The event''s bytes as they came; NULL where they were given up, above USAGE_DEAD_LETTER_BYTES_MAX';
