"""Kill it, stop it, cut its power, and count the lines: `python -m tests.chaos`, results in docs/reliability.md."""
