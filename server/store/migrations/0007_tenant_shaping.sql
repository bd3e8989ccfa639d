-- How a tenant's lists are shaped, where it is not as the servers' settings say. What is NULL is theirs.
CREATE TABLE tenant_shaping (
    tenant_id text PRIMARY KEY DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    diversity double precision CHECK (diversity BETWEEN 0 AND 0.9),
    vendor_cap integer CHECK (vendor_cap BETWEEN 0 AND 500),
    vendor_attribute text CHECK (vendor_attribute ~ '^attributes([.][^.]+)+$'),
    new_item_share double precision CHECK (new_item_share BETWEEN 0 AND 0.5),
    new_item_days double precision CHECK (new_item_days > 0 AND new_item_days <= 3650),
    exploration double precision CHECK (exploration BETWEEN 0 AND 0.5),
    -- Separated by commas, as in the settings.
    booked_event_types text,
    repeatable_event_types text,
    update_time timestamptz NOT NULL DEFAULT now()
);
SELECT aisle_protect('tenant_shaping');
CREATE TRIGGER tenant_shaping_announce AFTER INSERT OR UPDATE OR DELETE ON tenant_shaping
    FOR EACH STATEMENT EXECUTE FUNCTION aisle_announce('shaping');
