-- A role that reads Nightread's results and can change nothing. Run it as the owner of the tables, once for each database:
--   psql "$NIGHTREAD_DATABASE_URL" --file docs/reader.sql
--   psql "$NIGHTREAD_DATABASE_URL" --command "\password nightread_reader"
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'nightread_reader') THEN
        CREATE ROLE nightread_reader LOGIN;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO nightread_reader', current_database());
END
$$;
GRANT USAGE ON SCHEMA public TO nightread_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO nightread_reader;
-- Tables and views of later releases, too.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO nightread_reader;
ALTER ROLE nightread_reader SET default_transaction_read_only = on;
-- A question that runs for longer is a mistake; it also keeps old rows from being cleaned up.
ALTER ROLE nightread_reader SET statement_timeout = '120s';
ALTER ROLE nightread_reader SET timezone = 'UTC';
-- The planner's defaults are those of a rotating disk: with them a question about one night reads all nights.
ALTER ROLE nightread_reader SET random_page_cost = 1.1;
ALTER ROLE nightread_reader SET jit = off;
