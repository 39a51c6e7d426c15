"""Errors that a user can cause and mend."""

from collections.abc import Iterable

from pydantic import ValidationError


class UserError(Exception):
    """One clear line: what was given and what is allowed. The command ends with status 2."""


def not_one_of(what: str, given: object, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that is not among the `allowed` ones."""
    return UserError(f"{what} is {given!r}, but must be one of: {', '.join(sorted(allowed))}")


def describe(error: ValidationError, origin: str) -> str:
    """Put a pydantic error in one line: every key, its value and what is allowed."""
    return f"{origin}: " + "; ".join(
        _describe_detail(".".join(map(str, detail["loc"])), detail["msg"], detail["input"])
        for detail in error.errors(include_url=False)
    )


def _describe_detail(key: str, message: str, given: object) -> str:
    if message == "Extra inputs are not permitted":
        return f"unknown key `{key}`"
    if message == "Field required":
        return f"key `{key}` is missing"
    reason = message.removeprefix("Value error, ")
    if isinstance(given, dict):  # What concerns several of its keys names them itself.
        return f"`{key}`: {reason}" if key else reason
    return f"`{key}` is {given!r}: {reason}"
