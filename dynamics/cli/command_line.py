"""Words of a command line become arguments; what is wrong with them is said in one line, as everywhere."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import tyro
from pydantic import ValidationError
from tyro import _errors  # the one place where tyro says what is wrong before it draws a box around it

from dynamics.options import explained_problem, invalid

A = TypeVar("A")


def parsed(arguments: type[A], program: str, words: Sequence[str], **more: Any) -> A:
    """Return the arguments of a command.

    Args:
        arguments: A dataclass.
        program: What was typed before the words, for usage and remedies.
        words: The rest; a `~` that the shell left alone, as in --out=~/x, is the user's home.
        more: Options of `tyro.cli`.

    Raises:
        ValueError: Words that the command does not take.
    """
    words = [_at_home(word) for word in words]
    with _errors.on_parse_error(partial(_refuse, program, words)):
        out: A = tyro.cli(arguments, prog=program, args=words, **more)
    return out


def _at_home(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{flag}{equals}{os.path.expanduser(value)}"


def _refuse(program: str, words: Sequence[str], event: _errors.ParseErrorEvent) -> NoReturn:
    """Raise what a parser found, with the remedy that the command's help is."""
    remedy = f"see {program} --help"
    match event:
        case _errors.MissingArgs(missing_arguments=missing, unrecognized_tokens=unknown):
            if unknown:
                raise _unknown(program, unknown, remedy)
            names = ", ".join(_name(found.arg) for found in missing)
            raise invalid(names, "nothing", "a value", f"give it; {remedy}")
        case _errors.UnrecognizedArgs(tokens=unknown):
            raise _unknown(program, unknown, remedy)
        case _errors.InvalidChoice(argument=argument, value=value, choices=choices):
            raise invalid(_name(argument), value, ", ".join(choices), remedy)
        case _errors.BadValue(argument=argument, offending_value=value):
            raise invalid(_name(argument), value or "too few values", _metavar(argument), remedy)
        case _errors.InstantiationFailure(argument=None):
            raise _of_value(remedy, event.message) from None
        case _errors.InstantiationFailure(argument=argument, message=message):
            raise invalid(_name(argument), _typed(argument, words) or message, _metavar(argument), remedy)
    raise invalid(program, type(event).__name__, "what its help says", remedy)


def _of_value(remedy: str, message: str) -> ValueError:
    """Return what options said of values that the parser took."""
    failure = sys.exception()
    cause = failure.__context__ if failure else None
    if isinstance(cause, ValidationError):
        place = str(getattr(failure, "arg", "")).removeprefix("config").strip(".")
        return explained_problem(cause, remedy, place=place.split(".") if place else ())
    return cause if isinstance(cause, ValueError) else ValueError(message)


def _unknown(program: str, words: Sequence[str], remedy: str) -> ValueError:
    named = [word for word in words if word.startswith("-")] or words
    return invalid("unknown option", " ".join(named), f"options of {program}", remedy)


def _typed(argument: Any, words: Sequence[str]) -> str:
    """Return the words that followed an option, where it was last named."""
    found: list[str] = []
    listening = False
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            listening = flag.replace("_", "-") in argument.lowered.name_or_flags
            found = [value][: len(equals)] if listening else found
        elif listening:
            found.append(word)
    return " ".join(found)


def _name(argument: Any) -> str:
    if argument.is_positional():
        return str(argument.display_name()).upper()
    return str(argument.lowered.name_or_flags[-1])


def _metavar(argument: Any) -> str:
    return str(argument.lowered.metavar or "no value")
