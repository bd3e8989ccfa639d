-- When a key was last seen to open something, to within ten minutes: written at most that often, so that it costs reads next to nothing.
ALTER TABLE api_keys ADD COLUMN last_use_time timestamptz;
-- The key that took this one's place. Both open until this one expires.
ALTER TABLE api_keys ADD COLUMN replaced_by text;
