"""The C++ compiler, for tests of what is compiled where it runs."""

import os
import shlex
import shutil

import pytest

COMPILER = os.environ.get("CXX", "c++")
needs_compiler = pytest.mark.skipif(not shutil.which(shlex.split(COMPILER)[0]), reason="needs a C++ compiler")
