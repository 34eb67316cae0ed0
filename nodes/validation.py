"""Runs the runtime's own checks where ComfyUI asks whether inputs are valid."""

from collections.abc import Callable
from typing import Any

from ..liveavatar_runtime.errors import InputError


def verdict(*checks: tuple[Callable[[Any], Any], Any]) -> bool | str:
    """True, or the text of the first check that fails; values of linked inputs (None) are not known yet."""
    for check, value in checks:
        if value is None:
            continue
        try:
            check(value)
        except InputError as error:
            return str(error)
    return True
