"""python-iptables, loaded so that it is quick and does no harm.

It is an optional dependency, built from source against libxtables; only the iptables-legacy back end needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ipvsctl.errors import Unavailable

_WHAT = "cannot use iptables-legacy"


@lru_cache(maxsize=1)
def library() -> Any:
    """The package `iptc`, ready for use; raises Unavailable when it or libxtables is not there.

    The first call runs `modprobe ip_tables` where modules are loadable: the package does.
    """
    spec = find_spec("iptc")
    if spec is None or spec.origin is None:
        raise Unavailable(
            f"{_WHAT}: Python's python-iptables is missing: pip install 'ipvsctl[legacy]' "
            "(Debian: apt install python3-iptables, or to build it gcc and libxtables-dev; RHEL: gcc, iptables-devel)"
        )
    try:
        import ctypes
        import warnings

        with _searched(str(Path(spec.origin).parents[1])), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            iptc = import_module("iptc")
        # libxtables leaves a wrong option by calling this. The package's own function longjmps out of the middle of the
        # interpreter, which corrupts it: Python 3.12 and 3.13 crash within a few such errors. The C function it calls
        # does the same jump with no frame of Python's in between.
        xtables = iptc.xtables
        xtables._xt_globals.exit_err = ctypes.cast(xtables._lib_xtwrapper.throw_exception, type(xtables._xt_exit))
    except Exception as error:  # Anything at all: ctypes, libxtables and the wrapper each fail in ways of their own.
        words = (str(error) or type(error).__name__).splitlines()[0]
        raise Unavailable(
            f"{_WHAT}: python-iptables does not load: {words}: "
            "install iptables (libxtables, libip4tc, libip6tc), or set XTABLES_LIBDIR"
        ) from None
    return iptc


@contextmanager
def _searched(packages: str) -> Iterator[None]:
    """Tell the package where its libraries are; it would find them with ldconfig, gcc and ld, in ten times the time.

    `packages` is the folder that its wrapper was installed into.
    """
    multiarch = getattr(sys.implementation, "_multiarch", "")
    folders = [f"/usr/lib/{multiarch}/xtables", *(f"{root}/xtables" for root in ("/usr/lib64", "/usr/lib", "/lib"))]
    if found := next((folder for folder in folders if Path(folder).is_dir()), None):
        # It stays: libxtables itself looks at it later.
        os.environ.setdefault("XTABLES_LIBDIR", found)
    own = "IPTABLES_LIBDIR" not in os.environ
    if own:
        os.environ["IPTABLES_LIBDIR"] = packages
    # Without distutils the package asks sysconfig, and does not import all of setuptools.
    absent = "distutils" not in sys.modules
    if absent:
        sys.modules["distutils"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules["distutils"]
        if own:
            del os.environ["IPTABLES_LIBDIR"]
