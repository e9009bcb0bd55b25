"""llama.cpp's own programs as Debian builds them, for tests of the installer: version 0.7.0 or later.

    python3 scripts/native_server.py     # fetch them once (20 MB), and print the folder that they are in

The folder holds `llama-server`, `llama-fit-params`, `llama-bench`, and `llama`. Debian packages no `llama`, the single
program of llama.cpp's own installer: this one is a stand-in of shell that runs the others for `llama serve` and so on.

Progress goes to standard error. Exit codes: 0 done, 1 failed, 130 interrupted.
"""

import shlex
import sys
from pathlib import Path

from debian import Recipe, apt, made
from environment import MADE, Unavailable, run, say

NAME = "llama.cpp"
SUITE = "forky"  # Debian 14, the first that has them; this machine may be another Debian
PACKAGES = ("llama.cpp-tools", "llama.cpp-tools-extra", "patchelf")

# The programs are changed to use the loader that was unpacked beside them, since this machine's own may be older. To
# run them by that loader would not do: a router starts its servers as what /proc/self/exe says. A script names the
# libraries and ggml's backend, which would else be looked for in /usr/lib.
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


FOLDER = MADE / "platforms" / NAME
RECIPE = Recipe("Fetching Debian's llama.cpp, once: 20 MB", _fetch, UNPACK.replace("@MADE@", shlex.quote(str(FOLDER))))


def programs() -> Path:
    """The folder with llama.cpp's programs, made if need be. Raises Unavailable.

    Example: `subprocess.run([native_server.programs() / "llama-server", "--version"])`
    """
    return made(NAME, RECIPE) / "bin"


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
