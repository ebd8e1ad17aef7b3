"""What setup.cfg cannot say; everything else is there."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class FreshBuildPy(build_py):
    """Leave out what an earlier build left in build/: removed modules, stale kernels."""

    def run(self) -> None:
        """Copy the package into an empty folder."""
        shutil.rmtree(Path(self.build_lib) / "cupyna", ignore_errors=True)
        super().run()


setup(
    # The device sources live in cuda_src/, where no package search finds them.
    packages=[*find_packages(include=["cupyna", "cupyna.*"]), "cupyna._cuda_src"],
    cmdclass={"build_py": FreshBuildPy},
)
