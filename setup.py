"""Names the packages; everything else is in setup.cfg.

The device sources live in cuda_src/ and are installed as cupyna._cuda_src, which no
package search can find.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["cupyna", "cupyna.*"]), "cupyna._cuda_src"])
