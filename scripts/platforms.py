"""Build Pythons for other platforms, to test Flynn on them: 32-bit ARM under qemu, and musl.

    python3 scripts/platforms.py arm     # Debian's Python for armhf, and qemu: fetches 100 MB
    python3 scripts/platforms.py musl    # CPython compiled for musl: fetches 140 MB, takes about three minutes

Prints the command that runs the Python. Each is built once, in `.venv/platforms/`, on Debian or a derivative.
`debian.py` downloads the packages without installing them; this needs no root. Debian has no Python for musl, so it is
compiled with the zig on PyPI, which includes musl: static, without ssl, with the modules that Flynn and its tests need.

Progress is printed to standard error. Exit codes: 0 success, 1 failure, 2 usage error, 130 interrupted.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple, Tuple

import debian
import environment
from debian import Recipe, apt, build
from environment import Unavailable, run, say

# Scripts for sh: `$1` is the folder to download, unpack and compile in, `$2` the folder to fill.
UNPACK_ARM = """
mkdir "$1/qemu" "$2/root"
for package in "$1"/armhf/cache/archives/*.deb; do dpkg -x "$package" "$2/root"; done
test -e "$2/root/lib" || ln -s usr/lib "$2/root/lib"  # since Debian 13 that is left to the package base-files
for package in "$1"/native/cache/archives/*.deb; do dpkg -x "$package" "$1/qemu"; done
cp "$1"/qemu/usr/bin/qemu-arm-static "$2/qemu-arm" || cp "$1/qemu/usr/bin/qemu-arm" "$2"
"""

# Setup.stdlib lists the modules that configure can build; the modules named here are linked into the binary.
COMPILE_MUSL = """
PATH="$1:$PATH"
export CC="zig cc -target $(uname -m)-linux-musl" AR="zig ar" RANLIB="zig ranlib"
export ZIG_GLOBAL_CACHE_DIR="$1/cache" ZIG_LOCAL_CACHE_DIR="$1/cache"
cd "$1"
for archive in *.orig.tar.*; do tar -xf "$archive"; done
mv Python-* python
mv zlib-* zlib
cd zlib
CFLAGS="-O1 -w" ./configure --static
make -s libz.a
cd ../python
test -e Modules/Setup.stdlib.in || { echo "ERROR: this release has Python 3.10 or older; 3.11 is needed"; exit 1; }
./configure -q --disable-test-modules --without-ensurepip --with-pkg-config=no LDFLAGS="-static -s" \\
    OPT="-O1 -w -fwrapv -fno-sanitize=undefined -DNDEBUG" ZLIB_CFLAGS=-I../zlib ZLIB_LIBS=../zlib/libz.a
awk 'BEGIN { print "*static*" }
    $1 ~ /^(array|binascii|fcntl|grp|math|mmap|resource|select|termios|unicodedata|zlib)$/
    $1 ~ /^_(asyncio|bisect|blake2|contextvars|csv|datetime|heapq|json|md5|multiprocessing|opcode|pickle)$/
    $1 ~ /^_(posixsubprocess|queue|random|sha1|sha2|sha256|sha3|sha512|socket|statistics|struct)$/' \\
    Modules/Setup.stdlib > Modules/Setup.local
nice make -s -j2 python
library="$2/lib/python$(sed -n 's/^VERSION=[[:space:]]*//p' Makefile)"
mkdir -p "$2/bin" "$library/lib-dynload"
cp python "$2/bin/python3"
rm -rf Lib/test Lib/idlelib Lib/lib2to3 Lib/ensurepip
cp -R Lib/. "$library"
"""


class Platform(NamedTuple):
    """How to build a platform's Python, and the command that runs it: options, and paths relative to its folder."""

    recipe: Recipe
    command: Tuple[str, ...]


def python(name: str) -> List[str]:
    """Return the command of the Python of a platform, `arm` or `musl`; build it if needed. Raises Unavailable.

    Example: `subprocess.run([*python("arm"), "-c", "import sys; print(sys.maxsize)"])` prints 2147483647
    """
    platform = PLATFORMS[name]
    folder = build(name, platform.recipe)
    return [word if word.startswith("-") else str(folder / word) for word in platform.command]


def is_built(name: str) -> bool:
    """Return True if `python(name)` has nothing to build."""
    return debian.is_built(name, PLATFORMS[name].recipe)


def _fetch_arm(folder: Path) -> None:
    for name, architecture, package in [("armhf", "armhf", "python3"), ("native", None, "qemu-user-static")]:
        command = apt(folder / name, architecture=architecture)
        run([*command, "install", "--download-only", "--no-install-recommends", package])


def _fetch_musl(folder: Path) -> None:
    command = apt(folder / "sources", "deb-src")
    query = ["apt-cache", *command[1:], "showsrc", "python3-defaults"]
    source = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    release = re.search(r"python3\.\d+", source)
    if not release:
        raise Unavailable("apt has no source package of Python 3: the first run needs the network")
    run(["sh", "-euc", 'cd "$1"; shift; "$@"', "sh", str(folder), *command, "source", "--tar-only", release[0], "zlib"])
    [zig] = environment.environment("musl").parent.parent.glob("lib/python*/site-packages/ziglang/zig")
    (folder / "zig").symlink_to(zig)


PLATFORMS = {
    "arm": Platform(
        Recipe("Fetching Debian's Python for armhf and qemu, once: 100 MB", _fetch_arm, UNPACK_ARM),
        ("qemu-arm", "-L", "root", "root/usr/bin/python3"),
    ),
    "musl": Platform(
        Recipe("Compiling a Python on musl, once: about three minutes", _fetch_musl, COMPILE_MUSL),
        ("bin/python3",),
    ),
}


def main(arguments: List[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in PLATFORMS:
        say(f"usage: platforms.py {' | '.join(PLATFORMS)}")
        return 2
    try:
        print(*python(arguments[0]))
    except Unavailable as error:
        say(f"a Python for {arguments[0]}: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
