"""The mutants fit the code that they break: `make mutants` tries them, which takes minutes."""

from pathlib import Path

import pytest

from tests.mutants.__main__ import summary
from tests.mutants.table import MUTANTS, Mutant
from tests.simulation.mutants import MUTANTS as SIMULATED

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", dict.fromkeys([*MUTANTS, *SIMULATED]), ids=lambda mutant: mutant.breaks)
def test_what_a_mutant_replaces_stands_once_in_its_file(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert mutant.applied(text) != text


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.breaks)
def test_the_tests_that_must_catch_a_mutant_exist(mutant: Mutant) -> None:
    assert all((ROOT / tests.partition("::")[0]).is_file() for tests in mutant.tests.split())


def test_the_summary_ends_with_the_mutants_that_were_not_caught() -> None:
    first, second, third = MUTANTS[:3]
    told = summary([first, second, third], ["caught", "SURVIVED", "TESTS DID NOT END"]).splitlines()
    assert told == [
        "3 mutants: 1 caught, 1 SURVIVED, 1 TESTS DID NOT END",
        f"SURVIVED: {second.breaks} ({second.file})",
        f"TESTS DID NOT END: {third.breaks} ({third.file})",
    ]
