"""Programs for people who change Turnqueue, and the template as those programs read it. See docs/development.md."""
