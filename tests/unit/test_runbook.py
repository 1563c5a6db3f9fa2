"""The runbook has an entry for whatever the server can tell a person, and none for what it cannot."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from typer.testing import CliRunner

from app.cli import cli
from app.telemetry import AlertKind
from deployments.proxy_answers import WORDS
from tests.commands import ROOT

RUNBOOK = (ROOT / "docs/runbook.md").read_text()


def section(title: str) -> str:
    return RUNBOOK.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def entries(title: str) -> dict[str, str]:
    """Each entry of a section that is named by a code, with its text."""
    return dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^### |\Z)", section(title), re.MULTILINE | re.DOTALL))


def sources() -> Iterator[ast.AST]:
    for folder in ("app", "deployments"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text(), Path(path).name))


def refusal_codes() -> set[str]:
    """The codes of all answers 429 and 503: unavailable(message, code) and ApiError(status, ..., code=code)."""
    codes = set()
    for node in sources():
        match node:
            case ast.Call(func=ast.Name("unavailable"), args=[_, ast.Constant(str(code))]):
                codes.add(code)
            case ast.Call(func=ast.Name("unavailable")):
                raise AssertionError(f"a 503 whose code is no literal, so it is not found here: {ast.unparse(node)}")
            case ast.Call(func=ast.Name("ApiError"), args=[ast.Constant(429 | 503), *_], keywords=keywords):
                codes.update(
                    each.value.value
                    for each in keywords
                    if each.arg == "code" and isinstance(each.value, ast.Constant)  # in `unavailable` it is a parameter
                )
    return codes


def test_every_alert_has_an_entry_and_every_entry_is_an_alert() -> None:
    assert set(entries("Alerts")) == set(get_args(AlertKind))


def test_every_refusal_has_an_entry_and_every_entry_is_a_refusal() -> None:
    found = refusal_codes()
    assert {"model_unavailable", "queue_full"} <= found, "the search itself works"
    assert set(entries("Answers 503 and 429")) == found
    assert WORDS[503] in section("Answers 503 and 429")


def test_every_entry_says_what_one_sees_what_it_means_and_what_to_do() -> None:
    for name, text in {**entries("Alerts"), **entries("Answers 503 and 429")}.items():
        wanted = ["**You see**", "**It means**"]
        if "| do |" not in text:  # the entry has a table of causes instead
            wanted.append("**Do**")
        assert [each for each in wanted if each not in text] == [], name


def test_every_command_of_ours_that_it_names_exists() -> None:
    named = set(re.findall(r"`batchyard ((?:(?:restarts|batches) )?[a-z]+)", RUNBOOK))
    assert {"status", "restarts reset", "batches resume"} <= named
    for words in named:
        ended = CliRunner().invoke(cli, [*words.split(), "--help"])
        assert ended.exit_code == 0, f"batchyard {words}: {ended.output}"
