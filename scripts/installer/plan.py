"""Everything that is decided before anything is changed: the models, their folder, the unit."""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional

from . import download, fit, hardware, listing, llama_server, source, systemd, unit, weigh
from .catalogue import DEFAULT, Catalogue, RemoteFile
from .errors import EXIT_UNAVAILABLE, EXIT_USAGE, InstallError
from .hub import Hub
from .obtain import how_to_get_it
from .part import is_good
from .places import Places, Record

_NO_SERVER = ("/usr/bin/llama-server",)


@dataclass(frozen=True)
class Surroundings:
    """What the installer finds around it: the environment, the folders, and how to talk to the user.

    `say` tells; `ask` puts a question and returns the answer, None where there is nobody to ask.
    """

    environ: dict[str, str]
    places: Places
    say: Callable[[str], None]
    ask: Callable[[str], Optional[str]]


@dataclass(frozen=True)
class Plan:
    """What shall be.

    `models` with the folder of each; `presets` is the text of the file that names several, empty for one.
    """

    models: tuple[tuple[source.Model, Path], ...]
    choices: unit.Choices
    unit: str
    presets: str = ""

    @property
    def default_model(self) -> str:
        """Which of several models is asked where none is named; empty for the only one."""
        return self.models[0][0].name if self.presets else ""


def make_plan(options: Namespace, around: Surroundings, hub: Hub, catalogue: Catalogue) -> Plan:
    """The plan for these options. It asks this machine, llama-server and the hub, and changes nothing.

    Raises:
        InstallError: it cannot work, and why.
    """
    build = _server(options, around)
    memory = _memory(build, around)
    if build is not None:
        _check_devices(build, options, around)
    weighs = build is not None and build.devices is not None and not options.print_unit
    specs, gpu_layers = _specs(options, memory, catalogue)
    models = [_described(spec, options, around, hub, catalogue) for spec in specs]
    if weighs:
        models[:1] = [_offered(models[0], options, around, hub, catalogue, memory)]
    models_dir = _models_dir(options, around.places)
    placed = tuple((model, download.folder_for(model.files, models_dir, model.repository)) for model in models)
    choices = _choices(options, around, build, placed, gpu_layers)
    if build is not None:
        llama_server.check_arguments(build, unit.arguments(choices), around.environ)
        if weighs and not options.ignore_fit:
            for model, _ in placed:
                weigh.check(model, choices, build, memory, catalogue, hub, around.say)
    return Plan(placed, choices, unit.unit_file(choices), _presets(placed) if choices.presets else "")


def first_file(model: source.Model, folder: Path) -> Path:
    """The file that llama-server is given; it finds further shards beside it."""
    return model.path if model.path is not None else folder / model.files[0].name


def _server(options: Namespace, around: Surroundings) -> Optional[llama_server.Build]:
    """The llama-server to be run; None where there is none, and what is asked for is only shown."""
    only_shown = options.print_unit or options.dry_run
    try:
        ask = _nobody if only_shown else around.ask
        return llama_server.inspect(llama_server.find(options.server, around.environ, ask), around.environ)
    except InstallError as error:
        if not only_shown:
            raise
        around.say(f"missing: {error}; {_NO_SERVER[0]} stands for it below")
        if error.hint and options.dry_run:
            around.say(error.hint)
        return None


def _memory(build: Optional[llama_server.Build], around: Surroundings) -> fit.Memory:
    """What is free. While the service runs, all that there is: it gives its own back when it is stopped."""
    devices = (build.devices if build else None) or ()
    if systemd.why_not(around.environ) is None and systemd.is_active(around.environ, unit.SERVICE):
        return fit.Memory(hardware.all_memory(), tuple(replace(device, free=device.total) for device in devices))
    return fit.Memory(hardware.free_memory(), devices)


def _check_devices(build: llama_server.Build, options: Namespace, around: Surroundings) -> None:
    """Refuses a build for the CPU beside a card, unless the CPU is what was asked for; warns of what fails later."""
    cards = hardware.cards()
    if cards and build.devices == () and options.gpu_layers != "0":
        told = f"{build.command[0]} cannot use {' + '.join(cards)}: it is built for the CPU, or finds no driver"
        hint = f"{how_to_get_it(around.environ)}\nTo run on the CPU all the same: --gpu-layers 0"
        raise InstallError(told, hint=hint, status=EXIT_UNAVAILABLE)
    if build.devices is None:
        around.say(f"{build.version}: too old to list its GPUs: whether the model fits is not known")
    if hardware.lacks_nvidia_uvm():
        around.say(
            "/dev/nvidia-uvm is missing, which a service cannot make: the model would run on the CPU. Type:\n"
            "  sudo nvidia-modprobe -u -c 0 && echo nvidia-uvm | sudo tee /etc/modules-load.d/nvidia-uvm.conf"
        )
    if llama_server.CORS not in build.options:
        text = "any web page that you open can use the model; a newer llama-server, or --api-key, prevents that"
        around.say(f"this llama-server has no {llama_server.CORS}: {text}")


def _specs(options: Namespace, memory: fit.Memory, catalogue: Catalogue) -> tuple[list[str], str]:
    """What is meant by `--model`, `auto` replaced by a name; and the layers to give to the GPU."""
    specs = options.model or [DEFAULT.name]
    if "auto" not in specs:
        return specs, options.gpu_layers
    found = fit.largest_model(catalogue, memory, options.ctx_size, hardware.read_rate())
    if found is None:
        raise InstallError(f"--model auto: nothing in the catalogue fits with --ctx-size {options.ctx_size}")
    name, layers = found
    return [name if spec == "auto" else spec for spec in specs], str(layers) if layers == 0 else options.gpu_layers


def _described(spec: str, options: Namespace, around: Surroundings, hub: Hub, catalogue: Catalogue) -> source.Model:
    """The model, with sizes and digests of its files where it is yet to be downloaded."""
    here = _downloaded(spec, Record.read(around.places.record))
    if here is not None:
        return here
    digests = tuple(options.sha256)
    model = source.parse(spec, endpoint=hub.endpoint, digests=digests, catalogue=catalogue)
    if model.query is not None:
        query = model.query
        retry = download.Retry(around.say, threading.Event())
        unresolved = model
        model = retry.run(lambda: listing.resolved(unresolved, query, hub))
    if options.print_unit or model.path is not None:
        return model
    return replace(model, files=download.describe(model.files, hub, around.say))


def _downloaded(spec: str, record: Record) -> Optional[source.Model]:
    """A model that an earlier run downloaded for the same `--model`, and that is still whole: no hub need be asked."""
    files = record.files_of(spec)
    if not files or not all(is_good(path, RemoteFile(path.name, "", size, sha256)) for path, size, sha256 in files):
        return None
    return source.Model(spec, path=files[0][0])


def _offered(
    model: source.Model, options: Namespace, around: Surroundings, hub: Hub, catalogue: Catalogue, memory: fit.Memory
) -> source.Model:
    """The model, or, where it would be slow on the CPU and the user wants that, a smaller one."""
    if memory.gpus and options.gpu_layers != "0":
        return model
    shape = weigh.shape_of(model, hub)
    if shape is None:
        return model
    rate = hardware.read_rate()
    speed = fit.speed(fit.Load(weigh.size(model), shape, options.ctx_size), rate)
    around.say(f"{model.label}: no GPU is at hand: the CPU should write {_told(speed)}")
    found = fit.largest_model(catalogue, memory, options.ctx_size, rate)
    if speed >= fit.LEAST_SPEED or found is None:
        return model
    name = found[0]
    faster = _told(_speed_of(name, catalogue, rate))
    answer = around.ask(f"Take {name} instead, which should write {faster}? [y/N] ")
    if answer is None:
        around.say(f"faster here: --model {name}, {faster}")
    if (answer or "").strip().lower() in ("y", "yes"):
        return _described(name, options, around, hub, catalogue)
    return model


def _told(speed: float) -> str:
    """A speed in words; small models are held up by other things than memory."""
    return f"about {speed:.1f} tokens/s" if speed < 50 else "50 tokens/s or more"


def _speed_of(name: str, catalogue: Catalogue, rate: float) -> float:
    model = next(model for model in catalogue if model.name == name)
    assert model.shape is not None
    return fit.speed(fit.Load(model.size, model.shape, 0), rate)


def _models_dir(options: Namespace, places: Places) -> Path:
    if not options.models_dir:
        return places.models_dir
    try:
        return Path(options.models_dir).expanduser().absolute()
    except RuntimeError as error:
        raise InstallError(f"--models-dir {options.models_dir}: there is no such user", status=EXIT_USAGE) from error


def _choices(
    options: Namespace,
    around: Surroundings,
    build: Optional[llama_server.Build],
    placed: Sequence[tuple[source.Model, Path]],
    gpu_layers: str,
) -> unit.Choices:
    several = len(placed) > 1
    if options.socket is not None and not Path(options.socket).parent.is_dir():
        raise InstallError(f"--socket {options.socket}: its folder is not there", status=EXIT_USAGE)
    extra = tuple(options.extra)
    known = build.options if build else frozenset({llama_server.BACKEND_SAMPLING})
    if options.throughput and llama_server.BACKEND_SAMPLING in known:
        extra += (llama_server.BACKEND_SAMPLING,)
    elif options.throughput:
        around.say(f"--throughput: this llama-server does not know {llama_server.BACKEND_SAMPLING}: left out")
    for option, wanted in ((llama_server.SLEEP, options.on_demand), (llama_server.PRESETS, several)):
        if wanted and build is not None and option not in build.options:
            what = "--on-demand" if option == llama_server.SLEEP else "several models"
            told = f"{what}: this llama-server ({build.version}) does not know {option}: it is too old"
            raise InstallError(told, status=EXIT_UNAVAILABLE)
    return unit.Choices(
        command=build.command if build else _NO_SERVER,
        model="" if several else str(first_file(*placed[0])),
        presets=str(around.places.presets) if several else "",
        host=options.host,
        port=options.port,
        socket=options.socket,
        ctx_size=options.ctx_size,
        gpu_layers=gpu_layers,
        parallel=options.parallel,
        alias=options.alias,
        api_key_file=str(around.places.api_key) if options.api_key else None,
        pooling=options.embeddings,
        idle_seconds=max(1, round(options.idle * 60)) if options.on_demand else None,
        extra=extra,
    )


def _presets(placed: Sequence[tuple[source.Model, Path]]) -> str:
    """llama-server's INI file: each model a section, whose name is the model's in the API."""
    sections = []
    for model, folder in placed:
        path = str(first_file(model, folder))
        if not path.isprintable() or not model.name.isprintable() or "]" in model.name:
            raise InstallError(f"{path!r}: such a name cannot be said in a file of models", status=EXIT_USAGE)
        sections.append(f"[{model.name}]\nmodel = {path}\n")
    if len({model.name for model, _ in placed}) < len(placed):
        raise InstallError("--model: two models of the same name", status=EXIT_USAGE)
    return "\n".join(sections)


def _nobody(_: str) -> None:
    """Asks nobody: what prints must not wait for an answer."""
