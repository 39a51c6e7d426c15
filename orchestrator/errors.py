"""Errors that a user can cause and mend."""

from collections.abc import Iterable

from pydantic import ValidationError


class UserError(Exception):
    """One clear line: what was given and what is allowed. The command ends with status 2."""


def not_one_of(what: str, given: object, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that is not among the `allowed` ones."""
    return UserError(f"{what} is {given!r}, but must be one of: {', '.join(sorted(allowed))}")


def in_one_line(error: OSError) -> str:
    """Put what the system refuses in one line: which file, and why."""
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return f"{error.filename}: {reason}" if error.filename else reason


def one_line(error: ValidationError, origin: str) -> str:
    """Put a pydantic error in one line: every key, its value and what is allowed."""
    return f"{origin}: {'; '.join(describe_errors(error))}"


def describe_errors(error: ValidationError, *, rules: bool = True) -> list[str]:
    """Return in words what a pydantic error found: a key, its value and what is allowed.

    Args:
        error: The error.
        rules: Whether to include rules that concern a model as a whole.
    """
    return [
        _describe_detail(".".join(map(str, detail["loc"])), detail["msg"], detail["input"])
        for detail in error.errors(include_url=False)
        if rules or detail["loc"]
    ]


def _describe_detail(key: str, message: str, given: object) -> str:
    if message == "Extra inputs are not permitted":
        return f"unknown key `{key}`"
    if message == "Field required":
        return f"key `{key}` is missing"
    reason = message.removeprefix("Value error, ")
    if isinstance(given, dict):  # What concerns several of its keys names them itself.
        return f"`{key}`: {reason}" if key else reason
    return f"`{key}` is {given!r}: {reason}"
