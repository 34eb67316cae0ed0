"""Video sizes against the original's table."""

import pytest

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.media.images import fit_size


def is_size(result: object) -> bool:
    """The table also holds exception texts, and sizes with a side of 0, which no video can have."""
    return isinstance(result, list) and min(result) > 0


def test_every_row(golden):
    rows = golden.json("size_fit.json")["rows"]
    assert rows
    wrong = [
        (height, width, area, expected)
        for height, width, area, expected in rows
        if is_size(expected) and fit_size(height, width, area, enlarge=False) != tuple(expected)
    ]
    assert not wrong


def test_rows_without_a_size_are_input_errors_or_real_sizes(golden):
    for height, width, area, expected in golden.json("size_fit.json")["rows"]:
        if isinstance(expected, str):
            with pytest.raises(InputError):
                fit_size(height, width, area, enlarge=False)
        elif not is_size(expected):
            assert min(fit_size(height, width, area, enlarge=False)) > 0


def test_enlarging_changes_only_pictures_smaller_than_the_area(golden):
    rows = [row for row in golden.json("size_fit.json")["rows"] if is_size(row[3])]
    larger = [row for row in rows if row[0] * row[1] > row[2]]
    assert larger and len(larger) < len(rows)
    for height, width, area, expected in larger:
        assert fit_size(height, width, area) == tuple(expected)
    for height, width, area, expected in rows:
        result = fit_size(height, width, area)
        assert expected[0] * expected[1] <= result[0] * result[1] <= area
