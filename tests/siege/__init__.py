"""Hostile and clumsy clients, and an honest one beside them: `python -m tests.siege`, results in docs/security.md."""
