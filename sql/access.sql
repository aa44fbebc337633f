-- Rights, API keys, and the schema of the REST functions. What a right is for stands in src/functions/access.rs.

-- A right is USAGE on one of these types, which exist for nothing else: so Postgres keeps it with all that it does
-- for privileges, and no GRANT … ON ALL … IN SCHEMA hands one out.
CREATE DOMAIN webhooks.api_access     AS boolean;
CREATE DOMAIN webhooks.emit_access    AS boolean;
CREATE DOMAIN webhooks.read_access    AS boolean;
CREATE DOMAIN webhooks.admin_access   AS boolean;
CREATE DOMAIN webhooks.gateway_access AS boolean;
COMMENT ON DOMAIN webhooks.api_access     IS 'USAGE: the right api, to what has the owner that a verified token names';
COMMENT ON DOMAIN webhooks.emit_access    IS 'USAGE: the right emit, to the emit functions for any owner';
COMMENT ON DOMAIN webhooks.read_access    IS 'USAGE: the right read, to the log of all owners, without bodies';
COMMENT ON DOMAIN webhooks.admin_access   IS 'USAGE: the right admin, to everything';
COMMENT ON DOMAIN webhooks.gateway_access IS 'USAGE: the right gateway; the claims of sessions that such a role opens are believed';

CREATE FUNCTION webhooks.grant_access(role name, what text)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'grant_access_wrapper';
COMMENT ON FUNCTION webhooks.grant_access IS 'Gives a role a right: api, emit, read, admin or gateway, with the privileges that it needs';

CREATE FUNCTION webhooks.revoke_access(role name, what text)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'revoke_access_wrapper';
COMMENT ON FUNCTION webhooks.revoke_access IS 'Takes a right away, with the privileges that no other right of the role needs';

CREATE FUNCTION webhooks.may_read()
    RETURNS boolean LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'may_read_wrapper';
COMMENT ON FUNCTION webhooks.may_read IS 'Internal: whether the caller may read the log of all owners; the views ask it';

CREATE FUNCTION webhooks.may_administer()
    RETURNS boolean LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'may_administer_wrapper';
COMMENT ON FUNCTION webhooks.may_administer IS 'Internal: whether the caller is an administrator; the view of API keys asks it';

CREATE FUNCTION webhooks.create_api_key(name text, owner text, expires_at timestamptz = NULL)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'create_api_key_wrapper';
COMMENT ON FUNCTION webhooks.create_api_key IS 'Makes an API key for an owner and returns it: the only time it is shown';

CREATE FUNCTION webhooks.revoke_api_key(key_id text)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'revoke_api_key_wrapper';
COMMENT ON FUNCTION webhooks.revoke_api_key IS 'Ends an API key, at once and for good';

CREATE SCHEMA webhooks_api;
COMMENT ON SCHEMA webhooks_api IS 'What PostgREST exposes of webhooks';

CREATE FUNCTION webhooks_api.check_request()
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'check_request';
COMMENT ON FUNCTION webhooks_api.check_request IS 'PostgREST''s db-pre-request: ends requests for schema webhooks_api with 401 unless they carry a good token, and with 405 if they write to a view; passes all others';
