"""Registration as soon as transformers is imported, so that `import hf_sqa` alone loads neither transformers nor torch.

Before transformers is imported, nobody can use what is registered. `hf_sqa.lite`, `hf_sqa.audio`, `hf_sqa.metrics` and the help
of the command never import transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class Watch(MetaPathFinder):
    """Import hook that watches transformers and the modules of hf_sqa, and registers once one of them has loaded transformers.

    It waits for the end of the outermost import: before that, modules that the registration needs are only half imported.
    """

    def __init__(self) -> None:
        self.depth = 0

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec that the other finders find, with a loader that reports the end of the import."""
        if name != "transformers" and not name.startswith("hf_sqa."):
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                if spec.loader is not None:
                    spec.loader = _Watched(spec.loader, self)
                return spec
        return None

    def ended(self) -> None:
        """Note the end of an import, and register if it was the outermost one."""
        self.depth -= 1
        if self.depth == 0 and sys.modules.get("transformers") is not None and self in sys.meta_path:
            sys.meta_path.remove(self)
            if find_spec("torch") is not None:  # transformers works without torch, and so does `hf_sqa.lite`
                import hf_sqa.registration  # noqa: F401


class _Watched(Loader):
    """Loader that delegates to another one, which the module keeps as its loader."""

    def __init__(self, loader: Any, watch: Watch):
        self._loader, self._watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # `python -m` calls `get_code`

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._watch.depth += 1
        try:
            self._loader.exec_module(module)
        except BaseException:
            self._watch.depth -= 1
            raise
        self._watch.ended()


def register_with_transformers() -> None:
    """Register now if transformers is imported already, otherwise as soon as it is."""
    if sys.modules.get("transformers") is not None:
        import hf_sqa.registration  # noqa: F401
    else:
        sys.meta_path.insert(0, Watch())
