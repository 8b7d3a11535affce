"""Programs of those who change Turnqueue, and the template as they read it: see docs/development.md."""
