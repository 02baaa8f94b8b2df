"""What a mutator is, and the property test of one."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from featherglue.errors import FeatherglueError, ImageWarning


@dataclass(frozen=True, kw_only=True)
class Mutator:
    """Cases of one kind of input, and their use.

    Attributes:
        name: name in reports.
        cases: strategy that generates cases. The `repr` of a case is short and sufficient to
            make it again.
        use: `use(case, folder)` writes the files of the case to the empty `folder` and passes them
            to featherglue. It may raise an exception of `refusals`; every other exception, also an
            AssertionError of its own, is a finding.
        refusals: exceptions that refuse a case properly.
        num_tested: number of cases in `make test`.
        goal: number of cases in an hour of `make fuzz`.
    """

    name: str
    cases: st.SearchStrategy[Any]
    use: Callable[[Any, Path], None]
    refusals: tuple[type[Exception], ...] = (FeatherglueError,)
    num_tested: int = 100
    goal: int = 1000

    def run(self, case: Any, folder: Path) -> bool:
        """Use a case with warnings as errors. Returns False if featherglue refused it.

        A refusal must name its reason in one line of printable text.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ImageWarning)
            try:
                self.use(case, folder)
            except self.refusals as error:
                message = str(error)
                assert message.strip(), f"{type(error).__name__} without a message"
                assert len(message) < 2000, f"a message of {len(message)} characters"
                return False
        return True


def property_test(mutator: Mutator) -> Callable[[], None]:
    """A test that runs `num_tested` cases, the same ones in every run."""

    @settings(
        max_examples=mutator.num_tested,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # the repr of a case is short; to shrink it takes minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(case=mutator.cases)
    def test(case: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            mutator.run(case, Path(folder))

    return test
