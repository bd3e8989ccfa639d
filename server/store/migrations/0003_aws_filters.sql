-- Filters of AWS Personalize, by the name that ends their ARN, as their owners wrote them.
CREATE TABLE aws_filters (
    tenant_id text NOT NULL DEFAULT current_setting('aisle.tenant_id') REFERENCES tenants,
    name text NOT NULL,
    expression text NOT NULL,
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name)
);
SELECT aisle_protect('aws_filters');
CREATE TRIGGER aws_filters_announce AFTER INSERT OR UPDATE OR DELETE ON aws_filters
    FOR EACH STATEMENT EXECUTE FUNCTION aisle_announce('aws_filters');
