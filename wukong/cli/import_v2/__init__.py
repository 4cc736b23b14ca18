"""`wukong import`: a running WuKongIM v2 server's channels, copied over HTTP. docs/migration.md."""
