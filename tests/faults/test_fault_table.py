"""The fault table: no fault loses, duplicates or falsifies a scan."""

import pytest

from tests.faults.rows import ROWS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_nothing_is_lost_doubled_or_wrong(row, seed, is_long, case):
    if row.is_long and not is_long:
        pytest.skip("takes minutes: --long")
    violations = row.play(case)
    print(*case.timeline, sep="\n")  # noqa: T201  # shown where it fails
    again = f"again with: pytest tests/faults {'--long ' * is_long}--seed {seed} -k {row}"
    assert case.counts.faults.total(), f"no fault was made; {again}"
    assert not violations, "\n".join([again, *map(str, violations), *case.timeline])
