-- The core tables. Every table carries tenant_id and is protected by aisle_protect().
--
-- What row-level security guards here, and what it does not. The server connects as the role that owns the database and, for a
-- tenant's work, steps down to aisle_app inside the transaction and names the tenant in aisle.tenant_id; both end with the
-- transaction. A query that forgets its tenant, or joins across one, then finds nothing. That guards against mistakes in queries,
-- not against someone who can run SQL of their own on that connection: the session may reset its role. Where that is feared, let
-- the server connect as a role that is only a member of aisle_app; it cannot step up, nor list tenants.
-- aisle.tenant_id is set by Database.tenant() alone, from a checked credential, never from a request's body.

CREATE FUNCTION aisle_protect(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    EXECUTE format(
        'CREATE POLICY tenant ON %s TO aisle_app USING (tenant_id = current_setting(''aisle.tenant_id'', true)) '
        'WITH CHECK (tenant_id = current_setting(''aisle.tenant_id'', true))', target);
    -- Forced policies hold for the owner too; this one is for Database.system(): sign-in, migrations and maintenance.
    EXECUTE format('CREATE POLICY system ON %s TO %I USING (true) WITH CHECK (true)', target, current_user);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO aisle_app', target);
END $$;
COMMENT ON FUNCTION aisle_protect IS 'Enables and forces row-level security on a table with tenant_id, and grants it to aisle_app.';
REVOKE EXECUTE ON FUNCTION aisle_protect FROM PUBLIC;

CREATE TABLE tenants (
    tenant_id text PRIMARY KEY CHECK (tenant_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
    display_name text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    key_id text NOT NULL,
    -- SHA-256 of a key with over 190 random bits: nothing to guess, so nothing to slow down.
    key_hash bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    scopes text[] NOT NULL,
    display_name text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz,
    revoke_time timestamptz,
    PRIMARY KEY (tenant_id, key_id)
);

-- Users that a tenant named, as opposed to those known from events alone. Facts about either stand in user_personalization_profiles.
CREATE TABLE users (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    user_id text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id)
);

-- Device or anonymous id -> the user it turned out to be.
CREATE TABLE identities (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    anonymous_id text NOT NULL,
    user_id text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, anonymous_id)
);
CREATE INDEX identities_user ON identities (tenant_id, user_id);

-- Revisions order the changes of a tenant, so that a replica may ask "what changed after revision R". A sequence alone does not:
-- a transaction that drew 5 may commit after one that drew 6. So writers of one tenant take turns, from the statement to the commit.
CREATE SEQUENCE aisle_revisions;
GRANT USAGE ON SEQUENCE aisle_revisions TO aisle_app;

CREATE FUNCTION aisle_take_turn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('aisle:' || TG_TABLE_NAME), hashtext(current_setting('aisle.tenant_id')));
    RETURN NULL;
END $$;

CREATE FUNCTION aisle_next_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := nextval('aisle_revisions');
    RETURN NEW;
END $$;

CREATE FUNCTION aisle_announce() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('aisle_changes', current_setting('aisle.tenant_id') || ':' || TG_ARGV[0]);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION aisle_announce IS 'Sends TENANT:KIND on channel aisle_changes when the transaction commits.';

CREATE TABLE items (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    item_id text NOT NULL,
    title text NOT NULL,
    description text NOT NULL DEFAULT '',
    categories text[] NOT NULL DEFAULT '{}',
    attributes jsonb NOT NULL DEFAULT '{}',
    content_type text NOT NULL DEFAULT '',
    price double precision,
    currency text NOT NULL DEFAULT '',
    language text NOT NULL DEFAULT '',
    available_from timestamptz,
    available_until timestamptz,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    -- Deleted rows stay, so that replicas learn of the deletion from the change feed.
    delete_time timestamptz,
    -- Grows when what callers see changes: the etag.
    version bigint NOT NULL DEFAULT 1,
    revision bigint NOT NULL,
    -- 384 little-endian float32 of the text encoder named beside it; null until computed, or after the text changed.
    text_vector bytea CHECK (length(text_vector) = 1536),
    text_vector_model text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, item_id)
);
CREATE UNIQUE INDEX items_revision ON items (tenant_id, revision);
CREATE INDEX items_content ON items (tenant_id, content_type, item_id) WHERE delete_time IS NULL AND content_type <> '';

CREATE FUNCTION aisle_forget_text_vector() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.text_vector IS NOT DISTINCT FROM OLD.text_vector THEN
        NEW.text_vector := NULL;
        NEW.text_vector_model := '';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER items_turn BEFORE INSERT OR UPDATE OR DELETE ON items FOR EACH STATEMENT EXECUTE FUNCTION aisle_take_turn();
CREATE TRIGGER items_revision BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION aisle_next_revision();
CREATE TRIGGER items_text BEFORE UPDATE ON items FOR EACH ROW
    WHEN ((OLD.title, OLD.description, OLD.categories) IS DISTINCT FROM (NEW.title, NEW.description, NEW.categories))
    EXECUTE FUNCTION aisle_forget_text_vector();
CREATE TRIGGER items_announce AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH STATEMENT EXECUTE FUNCTION aisle_announce('items');

-- Named vector collections of callers.
CREATE TABLE collections (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    collection_id text NOT NULL,
    dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 4096),
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, collection_id)
);
CREATE TRIGGER collections_announce AFTER INSERT OR UPDATE OR DELETE ON collections
    FOR EACH STATEMENT EXECUTE FUNCTION aisle_announce('collections');

CREATE TABLE collection_vectors (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id'),
    collection_id text NOT NULL,
    vector_id text NOT NULL,
    -- Little-endian float32. Empty in a deleted row.
    vector bytea NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}',
    delete_time timestamptz,
    revision bigint NOT NULL,
    PRIMARY KEY (tenant_id, collection_id, vector_id),
    FOREIGN KEY (tenant_id, collection_id) REFERENCES collections ON DELETE CASCADE
);
CREATE UNIQUE INDEX collection_vectors_revision ON collection_vectors (tenant_id, collection_id, revision);
CREATE TRIGGER collection_vectors_turn BEFORE INSERT OR UPDATE OR DELETE ON collection_vectors
    FOR EACH STATEMENT EXECUTE FUNCTION aisle_take_turn();
CREATE TRIGGER collection_vectors_revision BEFORE INSERT OR UPDATE ON collection_vectors
    FOR EACH ROW EXECUTE FUNCTION aisle_next_revision();
CREATE TRIGGER collection_vectors_announce AFTER INSERT OR UPDATE OR DELETE ON collection_vectors
    FOR EACH STATEMENT EXECUTE FUNCTION aisle_announce('collections');

CREATE TABLE decisions (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    decision_id text NOT NULL,
    user_id text NOT NULL,
    method text NOT NULL,
    decide_time timestamptz NOT NULL,
    items text[] NOT NULL,
    scores double precision[] NOT NULL,
    propensities double precision[] NOT NULL,
    candidates text[] NOT NULL,
    rung smallint NOT NULL,
    bundle_id text NOT NULL,
    runtime text NOT NULL,
    arms jsonb NOT NULL,
    context jsonb NOT NULL,
    PRIMARY KEY (tenant_id, decision_id)
);
CREATE INDEX decisions_user ON decisions (tenant_id, user_id, decide_time DESC);
CREATE INDEX decisions_time ON decisions (tenant_id, decide_time);

CREATE TABLE experiments (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    experiment_id text NOT NULL,
    state text NOT NULL,
    definition jsonb NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, experiment_id)
);

CREATE TABLE bundles (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    bundle_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('TRAINED', 'EVALUATED', 'SHADOW', 'CANARY', 'LIVE', 'RETIRED')),
    manifest jsonb NOT NULL,
    -- File name -> {bytes, sha256}.
    files jsonb NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    promote_time timestamptz,
    -- What was live before; where rollback leads.
    previous_bundle_id text,
    PRIMARY KEY (tenant_id, bundle_id)
);
CREATE UNIQUE INDEX bundles_live ON bundles (tenant_id) WHERE state = 'LIVE';
CREATE TRIGGER bundles_turn BEFORE INSERT OR UPDATE OR DELETE ON bundles FOR EACH STATEMENT EXECUTE FUNCTION aisle_take_turn();
CREATE TRIGGER bundles_announce AFTER INSERT OR UPDATE OR DELETE ON bundles
    FOR EACH STATEMENT EXECUTE FUNCTION aisle_announce('bundles');

CREATE TABLE bundle_files (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id'),
    bundle_id text NOT NULL,
    name text NOT NULL,
    chunk integer NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (tenant_id, bundle_id, name, chunk),
    FOREIGN KEY (tenant_id, bundle_id) REFERENCES bundles ON DELETE CASCADE
);
-- Model weights hardly compress; trying costs seconds a bundle.
ALTER TABLE bundle_files ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TABLE consents (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    user_id text NOT NULL,
    purpose text NOT NULL,
    granted boolean NOT NULL,
    source text NOT NULL DEFAULT '',
    decide_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, purpose)
);

CREATE TABLE erasures (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    erasure_id text NOT NULL,
    -- A keyed hash: the record of an erasure must not keep the id that was erased.
    user_pseudonym text NOT NULL,
    request_time timestamptz NOT NULL DEFAULT now(),
    complete_time timestamptz,
    erased_counts jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, erasure_id)
);

CREATE TABLE operations (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    operation_id text NOT NULL,
    kind text NOT NULL,
    done boolean NOT NULL DEFAULT false,
    metadata jsonb NOT NULL DEFAULT '{}',
    result jsonb,
    error jsonb,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, operation_id)
);

CREATE TABLE personalized_content_performance (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    content_item_id text NOT NULL,
    segment text NOT NULL DEFAULT '',
    day date NOT NULL,
    impressions bigint NOT NULL DEFAULT 0,
    engagements bigint NOT NULL DEFAULT 0,
    conversions bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, content_item_id, segment, day)
);

CREATE TABLE ab_test_personalization (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    experiment_id text NOT NULL,
    user_id text NOT NULL,
    arm text NOT NULL,
    assign_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, experiment_id, user_id)
);

-- Who did what. Each row's hash covers the row and the hash before it, so a row changed or taken out later shows.
CREATE TABLE audit_log (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    entry bigint NOT NULL,
    act_time timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    resource text NOT NULL,
    details jsonb NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (tenant_id, entry)
);

CREATE FUNCTION aisle_audit_hash(audit_log) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256($1.previous_hash || convert_to(jsonb_build_array(
        $1.tenant_id, $1.entry, extract(epoch FROM $1.act_time), $1.actor, $1.action, $1.resource, $1.details)::text, 'UTF8'))
$$;

CREATE FUNCTION aisle_audit_append() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last audit_log;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('aisle:audit_log'), hashtext(NEW.tenant_id));
    SELECT * INTO last FROM audit_log WHERE tenant_id = NEW.tenant_id ORDER BY entry DESC LIMIT 1;
    NEW.entry := coalesce(last.entry, 0) + 1;
    NEW.act_time := clock_timestamp();
    NEW.previous_hash := coalesce(last.hash, '\x'::bytea);
    NEW.hash := aisle_audit_hash(NEW);
    RETURN NEW;
END $$;

CREATE FUNCTION aisle_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_append BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION aisle_audit_append();
CREATE TRIGGER audit_log_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION aisle_audit_refuse();

SELECT aisle_protect(name) FROM unnest(ARRAY[
    'tenants', 'api_keys', 'users', 'identities', 'items', 'collections', 'collection_vectors', 'decisions', 'experiments', 'bundles',
    'bundle_files', 'consents', 'erasures', 'operations', 'personalized_content_performance', 'ab_test_personalization', 'audit_log'
]::regclass[]) AS name;
-- A tenant may look at itself, and at the keys and the log it has; making tenants is the system's.
REVOKE INSERT, UPDATE, DELETE ON tenants FROM aisle_app;
REVOKE UPDATE, DELETE ON audit_log FROM aisle_app;
