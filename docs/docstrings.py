"""Docstrings here have sections `Example:`; this shows them as code that runs, which they are."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Lets `Example:` open the section that the Google style calls `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
