"""The plan of an installation, made before anything is changed: the models, their folders, the unit."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional

from . import download, fit, fit_check, hardware, listing, llama_server, source, systemd, unit
from .catalogue import DEFAULT, Catalogue, RemoteFile
from .errors import EXIT_UNAVAILABLE, EXIT_USAGE, InstallError
from .hub import Hub
from .obtain import install_hint
from .part import is_intact
from .places import Places, Record

_NO_SERVER = ("/usr/bin/llama-server",)


@dataclass(frozen=True)
class Session:
    """The environment variables, the folders, and the terminal of one run of the installer.

    Attributes:
        say: prints a message.
        ask: asks the user a question and returns the answer; None if there is no terminal.
    """

    environ: dict[str, str]
    places: Places
    say: Callable[[str], None]
    ask: Callable[[str], Optional[str]]


@dataclass(frozen=True)
class Plan:
    """The models and the unit to install.

    Attributes:
        models: each model and its folder.
        choices: the options of the unit.
        unit: the text of the unit.
        presets: the text of llama-server's file of models; empty for a single model.
    """

    models: tuple[tuple[source.Model, Path], ...]
    choices: unit.Choices
    unit: str
    presets: str = ""

    @property
    def default_model(self) -> str:
        """The model that flynn uses by default; empty for a single model."""
        return self.models[0][0].name if self.presets else ""


def make_plan(options: Namespace, session: Session, hub: Hub, catalogue: Catalogue) -> Plan:
    """Make the plan for these options. Queries this machine, llama-server and the hub, and changes nothing.

    Raises:
        InstallError: the options cannot work on this machine.
    """
    build = _server(options, session)
    memory = _memory(build, session)
    if build is not None:
        _check_devices(build, options, session)
    checks_fit = build is not None and build.devices is not None and not options.print_unit
    specs, gpu_layers = _specs(options, memory, catalogue)
    models = [_resolved(spec, options, session, hub, catalogue) for spec in specs]
    if checks_fit:
        models[:1] = [_offer_smaller(models[0], options, session, hub, catalogue, memory)]
    models_dir = _models_dir(options, session.places)
    located = tuple((model, download.folder_for(model.files, models_dir, model.repository)) for model in models)
    choices = _choices(options, session, build, located, gpu_layers)
    if build is not None:
        llama_server.check_arguments(build, unit.arguments(choices), session.environ)
        if checks_fit and not options.ignore_fit:
            for model, _ in located:
                fit_check.check(model, choices, build, memory, catalogue, hub, session.say)
    return Plan(located, choices, unit.unit_file(choices), _presets(located) if choices.presets else "")


def first_file(model: source.Model, folder: Path) -> Path:
    """Return the file to pass to llama-server, which finds the other shards itself."""
    return model.path if model.path is not None else folder / model.files[0].name


def _server(options: Namespace, session: Session) -> Optional[llama_server.Build]:
    """Find and inspect llama-server. Returns None if it is missing and the options only print the plan."""
    only_print = options.print_unit or options.dry_run
    try:
        ask = _no_answer if only_print else session.ask
        return llama_server.inspect(llama_server.find(options.server, session.environ, ask), session.environ)
    except InstallError as error:
        if not only_print:
            raise
        session.say(f"missing: {error}; the unit below uses {_NO_SERVER[0]}")
        if error.hint and options.dry_run:
            session.say(error.hint)
        return None


def _memory(build: Optional[llama_server.Build], session: Session) -> fit.Memory:
    """Return the free memory. While the service runs, return all memory: a restart frees what the service uses."""
    devices = (build.devices if build else None) or ()
    if systemd.problem(session.environ) is None and systemd.is_active(session.environ, unit.SERVICE):
        return fit.Memory(hardware.all_memory(), tuple(replace(device, free=device.total) for device in devices))
    return fit.Memory(hardware.free_memory(), devices)


def _check_devices(build: llama_server.Build, options: Namespace, session: Session) -> None:
    """Warn of device problems.

    Raises:
        InstallError: a build without GPU support on a machine with a card, and no `--gpu-layers 0`.
    """
    cards = hardware.cards()
    if cards and build.devices == () and options.gpu_layers != "0":
        message = f"{build.command[0]} cannot use {' + '.join(cards)}: it is built for the CPU, or finds no driver"
        hint = f"{install_hint()}\nTo run on the CPU anyway, add --gpu-layers 0."
        raise InstallError(message, hint=hint, status=EXIT_UNAVAILABLE)
    if build.devices is None:
        session.say(f"{build.version}: too old to list its GPUs: cannot check whether the model fits")
    if hardware.lacks_nvidia_uvm():
        session.say(
            "/dev/nvidia-uvm is missing and a service cannot create it: the model would run on the CPU. Run:\n"
            "  sudo nvidia-modprobe -u -c 0 && echo nvidia-uvm | sudo tee /etc/modules-load.d/nvidia-uvm.conf"
        )
    if llama_server.CORS not in build.options:
        text = "any web page that you open can use the model; to prevent that, use a newer llama-server or --api-key"
        session.say(f"this llama-server has no {llama_server.CORS}: {text}")


def _specs(options: Namespace, memory: fit.Memory, catalogue: Catalogue) -> tuple[list[str], str]:
    """Return the values of `--model` with `auto` replaced by a name, and the layers to offload to the GPU."""
    specs = options.model or [DEFAULT.name]
    if "auto" not in specs:
        return specs, options.gpu_layers
    largest = fit.largest_model(catalogue, memory, options.ctx_size, hardware.read_rate())
    if largest is None:
        raise InstallError(f"--model auto: no model in the catalogue fits with --ctx-size {options.ctx_size}")
    name, layers = largest
    return [name if spec == "auto" else spec for spec in specs], str(layers) if layers == 0 else options.gpu_layers


def _resolved(spec: str, options: Namespace, session: Session, hub: Hub, catalogue: Catalogue) -> source.Model:
    """Parse a value of `--model`; get sizes and digests of the files that have to be downloaded."""
    downloaded = _downloaded(spec, Record.read(session.places.record))
    if downloaded is not None:
        return downloaded
    digests = tuple(options.sha256)
    model = source.parse(spec, endpoint=hub.endpoint, digests=digests, catalogue=catalogue)
    model = download.Retry(session.say).run(functools.partial(listing.resolved, model, hub))
    if options.print_unit or model.path is not None:
        return model
    return replace(model, files=download.describe(model.files, hub, session.say))


def _downloaded(spec: str, record: Record) -> Optional[source.Model]:
    """Return the model that an earlier run downloaded for the same `--model`; None if a file is missing or changed."""
    files = record.files_of(spec)
    if not files or not all(is_intact(path, RemoteFile(path.name, "", size, sha256)) for path, size, sha256 in files):
        return None
    return source.Model(spec, path=files[0][0])


def _offer_smaller(
    model: source.Model, options: Namespace, session: Session, hub: Hub, catalogue: Catalogue, memory: fit.Memory
) -> source.Model:
    """Return the model; if it would be slow on the CPU, offer a smaller one and return the user's choice."""
    if memory.gpus and options.gpu_layers != "0":
        return model
    shape = fit_check.shape_of(model, hub)
    if shape is None:
        return model
    rate = hardware.read_rate()
    speed = fit.speed(fit.Load(fit_check.size(model), shape, options.ctx_size), rate)
    session.say(f"{model.label}: no GPU found: expect {_speed_text(speed)} on the CPU")
    largest = fit.largest_model(catalogue, memory, options.ctx_size, rate)
    if speed >= fit.MIN_SPEED or largest is None:
        return model
    name = largest[0]
    faster = _speed_text(_speed_of(name, catalogue, rate))
    answer = session.ask(f"Use {name} instead ({faster})? [y/N] ")
    if answer is None:
        session.say(f"faster on this machine: --model {name}, {faster}")
    if (answer or "").strip().lower() in ("y", "yes"):
        return _resolved(name, options, session, hub, catalogue)
    return model


def _speed_text(speed: float) -> str:
    """Format a speed in tokens/s. The estimate holds only for models that are limited by memory bandwidth."""
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
        raise InstallError(f"--models-dir {options.models_dir}: no such user", status=EXIT_USAGE) from error


def _choices(
    options: Namespace,
    session: Session,
    build: Optional[llama_server.Build],
    located: Sequence[tuple[source.Model, Path]],
    gpu_layers: str,
) -> unit.Choices:
    several = len(located) > 1
    if options.socket is not None and not Path(options.socket).parent.is_dir():
        raise InstallError(f"--socket {options.socket}: the folder does not exist", status=EXIT_USAGE)
    extra = tuple(options.extra)
    supported = build.options if build else frozenset({llama_server.BACKEND_SAMPLING})
    if options.throughput and llama_server.BACKEND_SAMPLING in supported:
        extra += (llama_server.BACKEND_SAMPLING,)
    elif options.throughput:
        session.say(
            f"--throughput: ignored, because this llama-server does not support {llama_server.BACKEND_SAMPLING}"
        )
    for option, needed in ((llama_server.SLEEP, options.on_demand), (llama_server.PRESETS, several)):
        if needed and build is not None and option not in build.options:
            feature = "--on-demand" if option == llama_server.SLEEP else "several models"
            message = f"{feature}: this llama-server ({build.version}) is too old: it does not support {option}"
            raise InstallError(message, status=EXIT_UNAVAILABLE)
    return unit.Choices(
        command=build.command if build else _NO_SERVER,
        model="" if several else str(first_file(*located[0])),
        presets=str(session.places.presets) if several else "",
        host=options.host,
        port=options.port,
        socket=options.socket,
        ctx_size=options.ctx_size,
        gpu_layers=gpu_layers,
        parallel=options.parallel,
        alias=options.alias,
        api_key_file=str(session.places.api_key) if options.api_key else None,
        pooling=options.embeddings,
        idle_seconds=max(1, round(options.idle * 60)) if options.on_demand else None,
        extra=extra,
    )


def _presets(located: Sequence[tuple[source.Model, Path]]) -> str:
    """Return the text of llama-server's INI file of models. The name of a section is the model's name in the API."""
    sections = []
    for model, folder in located:
        path = str(first_file(model, folder))
        if not path.isprintable() or not model.name.isprintable() or "]" in model.name:
            raise InstallError(
                f"{path!r}: this name cannot be written to llama-server's file of models", status=EXIT_USAGE
            )
        sections.append(f"[{model.name}]\nmodel = {path}\n")
    if len({model.name for model, _ in located}) < len(located):
        raise InstallError("--model: two models have the same name", status=EXIT_USAGE)
    return "\n".join(sections)


def _no_answer(_: str) -> None:
    """Replace `ask` for options that only print: they must not wait for an answer."""
