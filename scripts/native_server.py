"""Fetch llama.cpp's programs from Debian, version 0.7.0 or later, for tests of the installer.

    python3 scripts/native_server.py     # fetch them once (20 MB) and print their folder

The folder contains `llama-server`, `llama-fit-params`, `llama-bench`, and `llama`. Debian does not package `llama`, the
single program of llama.cpp's own installer: this one is a shell script that runs the others for `llama serve` etc.

Progress is printed to standard error. Exit codes: 0 success, 1 failure, 130 interrupted.
"""

import shlex
import sys
from pathlib import Path

from debian import Recipe, apt, build
from environment import VENV, Unavailable, run, say

NAME = "llama.cpp"
SUITE = "forky"  # Debian 14, the first with these packages; the machine may have another Debian
PACKAGES = ("llama.cpp-tools", "llama.cpp-tools-extra", "patchelf")

# patchelf makes the programs use the unpacked dynamic loader: the machine's own may be older. Starting the programs
# through that loader would fail: a router starts its servers with the path in /proc/self/exe. A shell script for each
# program sets the paths of the libraries and of ggml's backend, which would otherwise be searched in /usr/lib.
UNPACK = r"""
made=@MADE@
for package in "$1"/packages/cache/archives/*.deb; do dpkg -x "$package" "$2/root"; done
mkdir "$2/bin"
cd "$2/root/usr/lib"/*-linux-gnu*
libraries="root/usr/lib/$(basename "$PWD")"
loader=$(ls -d ld-linux*.so* | head -n 1)
case $(grep -m 1 -o avx2 /proc/cpuinfo)$(uname -m) in
avx2*) backend=$(ls ggml/backends*/libggml-cpu-haswell.so) ;;
x86_64) backend=$(ls ggml/backends*/libggml-cpu-sse42.so) ;;
*) backend=$(ls ggml/backends*/libggml-cpu*.so | head -n 1) ;;
esac
for program in llama-server llama-fit-params llama-bench; do
    "./$loader" --library-path . "$2/root/usr/bin/patchelf" \
        --set-interpreter "$made/$libraries/$loader" "$2/root/usr/bin/$program"
    cat > "$2/bin/$program" <<END
#!/bin/sh
export LD_LIBRARY_PATH='$made/$libraries:$made/$libraries/llama:$made/$libraries/ggml'
export GGML_BACKEND_PATH='$made/$libraries/$backend'
exec '$made/root/usr/bin/$program' "\$@"
END
done
cat > "$2/bin/llama" <<END
#!/bin/sh
case \$1 in
serve|server) program=llama-server ;;
fit-params|bench) program=llama-\$1 ;;
*) echo "error: unknown command '\$1'" >&2; exit 1 ;;
esac
shift
exec '$made/bin/'"\$program" "\$@"
END
chmod +x "$2"/bin/*
"""


def _fetch(folder: Path) -> None:
    command = apt(folder / "packages", suite=SUITE)
    run([*command, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES])


FOLDER = VENV / "platforms" / NAME
RECIPE = Recipe("Fetching Debian's llama.cpp, once: 20 MB", _fetch, UNPACK.replace("@MADE@", shlex.quote(str(FOLDER))))


def programs() -> Path:
    """Return the folder with llama.cpp's programs; fetch them if they are missing. Raises Unavailable if that fails.

    Example: `subprocess.run([native_server.programs() / "llama-server", "--version"])`
    """
    return build(NAME, RECIPE) / "bin"


def main() -> int:
    try:
        print(programs())
    except Unavailable as error:
        say(f"Debian's llama.cpp: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
