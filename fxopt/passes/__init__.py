"""The passes, one file each: `fxopt/passes/<group>/<verb_object>.py`, registered as `verb-object`."""

import importlib
import pkgutil

if __name__ != "fxopt.passes":
    raise ImportError(
        "this folder is the package fxopt.passes: import fxopt.passes, not through the link at the root"
    )

for _found in pkgutil.walk_packages(__path__, "fxopt.passes."):
    importlib.import_module(_found.name)
