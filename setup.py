"""Packaging: the project's metadata. Tool settings are in pyproject.toml, exact versions in requirements.txt."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """The one place that states the version is karoo/__init__.py; it is read, not imported."""
    text = (HERE / "karoo" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r"^__version__(?:\s*:\s*\w+)?\s*=\s*[\"']([^\"']+)[\"']", text, re.MULTILINE)
    if found is None:
        raise RuntimeError("karoo/__init__.py has no line __version__ = \"...\"")
    return found.group(1)


def readme() -> str:
    path = HERE / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


setup(
    name="karoo",
    version=version(),
    description="A Stratum V1 mining proxy on gevent",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license_expression="GPL-2.0-or-later",
    license_files=["LICENSE"],
    keywords=["bitcoin", "gevent", "mining", "proxy", "stratum"],
    classifiers=[
        "Environment :: Console",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["karoo", "karoo.*"]),
    # "." spelled out makes an editable install a plain .pth entry. The import hook it would be otherwise
    # loses against any folder called "karoo" in the working directory.
    package_dir={"": "."},
    package_data={"karoo": ["py.typed", "web/static/**/*", "web/templates/**/*"]},
    install_requires=[
        "gevent>=24.10",
        "gevent-websocket>=0.10.1",
        "flask>=3.0",
        "ujson>=5.9",
        "PyYAML>=6.0.1",
        "prometheus_client>=0.20",
        "PySocks>=1.7.1",
        "cryptography>=42",  # makes certificates; connections use the standard library's ssl
    ],
    extras_require={
        "dev": ["pytest", "hypothesis", "mock", "ruff", "mypy", "types-PyYAML", "matplotlib>=3.10", "schemathesis",
                "selenium", "websockets"],
    },
    # Left out where there is no compiler: the Python in its place does the same, slower.
    ext_modules=[Extension("karoo._speed", ["karoo/_speed.c"], extra_compile_args=["-O2"], optional=True)],
    entry_points={"console_scripts": ["karoo = karoo.__main__:main"]},
    zip_safe=False,
)
