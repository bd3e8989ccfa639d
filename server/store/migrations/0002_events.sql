-- Behaviour events, what makes them count once, and the profiles they change.

-- An event's id, for as long as the tenant lives: the proof that it was counted, also after its month of events was dropped or its user's
-- events were deleted. No foreign key to tenants here or on events: one more lookup for every event, where the tenant was checked before.
CREATE TABLE event_keys (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id'),
    event_id text COLLATE "C" NOT NULL,
    -- The event first: it tells entries apart at once, where all of a tenant's begin alike.
    PRIMARY KEY (event_id, tenant_id)
);
SELECT aisle_protect('event_keys');

-- Adds up two objects of numbers, key by key.
CREATE FUNCTION aisle_add_counts(counts jsonb, added jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT counts || coalesce((SELECT jsonb_object_agg(key, coalesce((counts -> key)::bigint, 0) + value::bigint) FROM jsonb_each(added)), '{}')
$$;

CREATE TABLE events (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id'),
    -- Order of arrival, for events of one time.
    arrival bigint GENERATED ALWAYS AS IDENTITY,
    event_id text NOT NULL,
    -- The user whose profile the event changed: the sender's user, else its anonymous id.
    user_id text COLLATE "C" NOT NULL,
    anonymous_id text NOT NULL,
    item_id text,
    event_type text NOT NULL,
    occur_time timestamptz NOT NULL,
    value double precision NOT NULL,
    session_id text NOT NULL,
    properties jsonb NOT NULL,
    receive_time timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (occur_time);
CREATE INDEX events_user ON events (tenant_id, user_id, occur_time DESC, arrival DESC);
SELECT aisle_protect('events');

CREATE TABLE user_personalization_profiles (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    user_id text COLLATE "C" NOT NULL,
    traits jsonb NOT NULL DEFAULT '{}',
    locale text NOT NULL DEFAULT '',
    time_zone text NOT NULL DEFAULT '',
    event_date timestamptz,
    preference_scores jsonb NOT NULL DEFAULT '{}',
    -- Event type -> events counted. The history itself is read from events: rewriting 200 interactions here for each event cost 15 times more.
    engagement_history jsonb NOT NULL DEFAULT '{}',
    behavior_patterns jsonb NOT NULL DEFAULT '{}',
    -- The last vector computed, and the bundle that computed it.
    user_embedding vector(1536),
    model_version text NOT NULL DEFAULT '',
    version bigint NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id)
) WITH (fillfactor = 80);  -- counters change with every batch; room in the page keeps those updates off the index
SELECT aisle_protect('user_personalization_profiles');

-- Everything older than a year before the first migration, as imports bring it, shares one partition; later months have their own, made
-- when they are first needed. What fits none (a month made too late, a time far off) is kept in the default one.
DO $$
DECLARE
    boundary timestamptz := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '12 months';
BEGIN
    EXECUTE format('CREATE TABLE events_past PARTITION OF events FOR VALUES FROM (MINVALUE) TO (%L)', boundary);
    CREATE TABLE events_other PARTITION OF events DEFAULT;
    PERFORM aisle_protect('events_past');
    PERFORM aisle_protect('events_other');
END $$;

CREATE FUNCTION aisle_event_partitions(months date[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET lock_timeout = '300ms' AS $$
DECLARE
    month date;
    name text;
    starts timestamptz;
BEGIN
    FOREACH month IN ARRAY months LOOP
        name := to_char(month, '"events_"YYYY_MM');
        starts := date_trunc('month', month::timestamp) AT TIME ZONE 'UTC';
        CONTINUE WHEN to_regclass(name) IS NOT NULL OR starts > now() + interval '2 months' OR starts < now() - interval '13 months';
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('aisle:event_partitions'));
            CONTINUE WHEN to_regclass(name) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING INDEXES)', name);
            PERFORM aisle_protect(name::regclass);
            -- Unlike CREATE TABLE ... PARTITION OF, attaching lets others go on reading and writing events.
            EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, starts, starts + interval '1 month');
        EXCEPTION WHEN lock_not_available OR check_violation OR invalid_object_definition THEN
            -- Busy; or the default partition has rows of that month already; or the month is part of events_past. The rows find their place.
            NULL;
        END;
    END LOOP;
END $$;
COMMENT ON FUNCTION aisle_event_partitions IS 'Makes the partitions of events for these months where they are missing and the month is recent.';
REVOKE EXECUTE ON FUNCTION aisle_event_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION aisle_event_partitions TO aisle_app;
