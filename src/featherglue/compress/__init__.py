"""Making models smaller: pruning, quantization, and recipes of them.

The package can be called as `featherglue.compress(model, recipe)`: it shares its name with the
function that it is about, `recipe.compress`, and whichever is found does the same.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from featherglue.errors import MissingExtraError


class _Package(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See `featherglue.compress.recipe.compress`."""
        try:
            from featherglue.compress.recipe import compress
        except ModuleNotFoundError as error:
            if error.name == "torch":
                raise MissingExtraError("featherglue.compress", "train") from None
            raise
        return compress(*arguments, **options)


sys.modules[__name__].__class__ = _Package
