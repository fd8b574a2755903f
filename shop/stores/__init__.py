"""Where a shop is kept: SQLite files or PostgreSQL, behind one protocol."""
