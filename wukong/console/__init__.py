"""The web console: pages for operators on the manager's port, without a build step. docs/console.md."""
