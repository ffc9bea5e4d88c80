"""Which option is to blame for an error that comes up when something is tried before a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from basicsr.options.schema import options_section
from basicsr.options.types import fields_of

_OPTION = re.compile(r'([A-Za-z]\w*)(?:\.[\w-]+|\[\d+\])*: ')
_LONGEST = 1000
"""Letters of a message. Some libraries print whole tensors."""


def names_option(text: str, opt: Mapping[str, Any] | None = None) -> bool:
    """Whether a message begins with an option, such as `train.pixel_opt: …`.

    Args:
        text: The message.
        opt: The options, which may have keys that are a user's own.
    """
    match = _OPTION.match(text)
    return match is not None and (match[1] in fields_of(options_section()) or match[1] in (opt or {}))


def described(error: BaseException) -> str:
    """The message of an error; where that does not speak for itself, in one line, with the type before it."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    text = text if len(text) <= _LONGEST else f'{text[:_LONGEST]} …'
    speaks = isinstance(error, OSError | ValueError | ImportError) or (isinstance(error, KeyError) and ' ' in text)
    if text and speaks:
        return text
    text = repr(error.args[0]) if isinstance(error, KeyError) and error.args else ' '.join(text.split())
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def raised_by(error: BaseException, owners: Mapping[int, str], functions: Mapping[str, str]) -> str | None:
    """The option whose object or function raised `error`, or called what did; of several, the innermost.

    Args:
        error: As it was caught.
        owners: Options by the `id` of the object that was made of each.
        functions: Options by the name of the function or method that reads them.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    option, traceback = None, error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        option = functions.get(frame.f_code.co_name, option)
        option = owners.get(id(frame.f_locals.get('self')), option)
        traceback = traceback.tb_next
    return option


def blamed(error: BaseException, option: str, doing: str = '', opt: Mapping[str, Any] | None = None) -> ValueError:
    """The same as a mistake in the options: `<option>: <message> (<what was done>)`.

    Args:
        error: What was raised; it becomes the cause of the result.
        option: What is to blame, unless the message begins with an option; '' where the message says it.
        doing: What was done, with what.
        opt: The options.
    """
    text = described(error)
    text = text if names_option(text, opt) or not option else f'{option}: {text}'
    mistake = ValueError(f'{text} ({doing})' if doing else text)
    mistake.__cause__ = error
    return mistake


def together(mistakes: Iterable[ValueError]) -> ValueError:
    """Several mistakes as one, a line each; each text once."""
    by_text = {str(mistake): mistake for mistake in mistakes}
    if len(by_text) == 1:
        return next(iter(by_text.values()))
    joined = ValueError('\n'.join(by_text))
    joined.__cause__ = next(iter(by_text.values()))
    return joined
