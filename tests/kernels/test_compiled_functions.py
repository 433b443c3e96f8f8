"""What holds for every function that numba compiles."""

import importlib
import pkgutil
from collections import defaultdict

from numba.core.dispatcher import Dispatcher

import kernels


def test_no_two_compiled_functions_share_an_entry_of_numbas_disk_cache():
    """The cache knows a function by file, name and line, not by options: twins would get one another's code."""
    compiled = defaultdict(set)
    for module_info in pkgutil.walk_packages(kernels.__path__, "kernels."):
        if module_info.name.startswith("kernels.gpu"):
            continue
        for value in vars(importlib.import_module(module_info.name)).values():
            if isinstance(value, Dispatcher):
                code = value.py_func.__code__
                entry = (code.co_filename, value.py_func.__qualname__, code.co_firstlineno)
                compiled[entry].add(id(value))
    assert len(compiled) > 20
    assert [entry for entry, functions in compiled.items() if len(functions) > 1] == []
