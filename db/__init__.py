"""The results database: tables, sessions, queries and migrations. SQLite embedded, PostgreSQL in production."""
