"""Programs for people who change Turnqueue. See docs/development.md."""
