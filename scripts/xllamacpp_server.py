"""llama-server's command line for xllamacpp, which is llama.cpp's server as a Python module.

Accepts the llama-server options in OPTIONS, with the same meanings and defaults, and serves until it is killed. Run it
with a Python that has xllamacpp, which `scripts/environment.py server` creates:

    .venv/demo/bin/python scripts/xllamacpp_server.py --model model.gguf --port 8080 --ctx-size 4096 --parallel 4

Source of the options: llama.cpp, tools/server/README.md. TLS is not available: xllamacpp is built without it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import xllamacpp

Convert = Callable[[str], Any]


def _list(text: str) -> List[str]:
    return text.split(",")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from None


def _keys(path: str) -> List[str]:
    return [line for line in _text(path).splitlines() if line and not line.startswith("#")]


def _adapters(paths: str) -> List[Any]:
    adapters = [xllamacpp.CommonAdapterLoraInfo() for _ in _list(paths)]
    for adapter, path in zip(adapters, _list(paths)):
        adapter.path, adapter.scale = path, 1.0
    return adapters


def _member(enumeration: Any) -> Convert:
    """Return a converter from names to members. Names are lower case, with dashes, without their common prefix."""
    prefix = os.path.commonprefix([member.name for member in enumeration])
    members = {member.name[len(prefix) :].lower().replace("_", "-"): member for member in enumeration}

    def member(name: str) -> Any:
        if name not in members:
            raise argparse.ArgumentTypeError(f"invalid value {name!r} (expected one of: {', '.join(members)})")
        return members[name]

    return member


# For each option the attributes of CommonParams that it sets, and a converter for its value or a fixed value.
OPTIONS: Dict[str, Tuple[str, Union[bool, Convert]]] = {
    "-m --model": ("model.path", str),
    "-a --alias": ("model_alias", lambda text: set(_list(text))),
    "-c --ctx-size": ("n_ctx", int),
    "-n --predict --n-predict": ("n_predict", int),
    "-np --parallel": ("n_parallel", int),
    "--temp --temperature": ("sampling.temp", float),
    "--top-p": ("sampling.top_p", float),
    "-ngl --gpu-layers --n-gpu-layers": ("n_gpu_layers", int),
    "-t --threads": ("cpuparams.n_threads cpuparams_batch.n_threads", int),
    "--threads-http": ("n_threads_http", int),
    "--no-warmup": ("warmup", False),
    "--host": ("hostnames", _list),
    "--port": ("port", int),
    "--api-prefix": ("api_prefix", str),
    "--api-key": ("api_keys", _list),
    "--api-key-file": ("api_keys", _keys),
    "--sse-ping-interval": ("sse_ping_interval", int),
    "--metrics": ("endpoint_metrics", True),
    "--props": ("endpoint_props", True),
    "--no-slots": ("endpoint_slots", False),
    "--slot-save-path": ("slot_save_path", lambda path: os.path.join(path, "")),
    "--embedding --embeddings": ("embedding", True),
    "--pooling": ("pooling_type", _member(xllamacpp.llama_pooling_type)),
    "--lora": ("lora_adapters", _adapters),
    "--no-jinja": ("use_jinja", False),
    "--chat-template": ("chat_template", str),
    "--chat-template-file": ("chat_template", _text),
    "--reasoning-format": ("reasoning_format", _member(xllamacpp.common_reasoning_format)),
}
# llama-server's defaults that differ from those of CommonParams.
DEFAULTS = {"port": 8080, "n_parallel": -1}


def parameters(arguments: Optional[List[str]]) -> xllamacpp.CommonParams:
    """Convert llama-server options into CommonParams. Exits with one line and code 2 if an option is invalid."""
    parser = argparse.ArgumentParser(
        description="llama-server, served by xllamacpp.", allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for names, (attributes, value) in OPTIONS.items():
        if isinstance(value, bool):
            parser.add_argument(*names.split(), dest=attributes, action="store_const", const=value)
        else:
            parser.add_argument(*names.split(), dest=attributes, metavar="VALUE", type=value)
    values = {**DEFAULTS, **vars(parser.parse_args(arguments))}
    if "model.path" not in values:
        parser.error("--model is missing: add --model FILE")
    if "LLAMA_API_KEY" in os.environ:
        values.setdefault("api_keys", _list(os.environ["LLAMA_API_KEY"]))
    if "LLAMA_ARG_THREADS" in os.environ:
        values.setdefault("cpuparams.n_threads cpuparams_batch.n_threads", int(os.environ["LLAMA_ARG_THREADS"]))
    params = xllamacpp.CommonParams()
    for attributes, value in values.items():
        for attribute in attributes.split():
            *parents, name = attribute.split(".")
            owner = params
            for parent in parents:
                owner = getattr(owner, parent)
            setattr(owner, name, value)
    return params


def main(arguments: Optional[List[str]] = None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    params = parameters(arguments)
    try:
        server = xllamacpp.Server(params)  # listens at once, returns when the model is loaded
    except RuntimeError as error:
        sys.exit(str(error))
    print(f"serving at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
