"""`make install-service`: from the user's choices to a service that has answered a question."""

from __future__ import annotations

import shlex
import shutil
import socket
import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional

from . import api_key, download, fit, gguf, llama_server, memory, question, source, systemd, unit, units
from .catalogue import Shape
from .errors import EXIT_USAGE, InstallError
from .files import write_atomically
from .hub import Hub
from .places import Places, Record, config_text

WAIT_SCRIPT = Path(__file__).with_name("wait_until_ready.py")


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
    """Everything that is decided before anything is changed."""

    model: source.Model
    models_dir: Path
    choices: unit.Choices
    units: dict[str, str]


def install(options: Namespace, around: Surroundings) -> None:
    """Does what `options` (see `cli`) say.

    Raises:
        InstallError: something is wrong that the user can act on. What was done stays; running it again goes on.
    """
    hub = Hub(around.environ)
    plan = make_plan(options, around, hub)
    if options.print_unit:
        _print_units(plan, around.places)
        return
    if not options.no_start:
        _check_that_it_can_start(plan, around)
    plan = replace(plan, model=_described(plan, options, around, hub))
    if options.dry_run:
        for line in steps(plan, options, around.places):
            around.say(line)
        _print_units(plan, around.places)
        return
    _agree(plan, options, around)
    fetched = bool(plan.model.files) and download.fetch(plan.model.files, plan.models_dir, hub, around.say)
    prepared = _prepare(plan, around)
    if options.no_start:
        _say_how_to_go_on(plan, around)
        return
    running = _run(plan, around, anew=fetched or prepared)
    if not (fetched or prepared or running):
        around.say("everything is in place already: nothing was changed")
    _prove(plan, around)
    if options.linger:
        systemd.enable_linger(around.environ)


def make_plan(options: Namespace, around: Surroundings, hub: Hub) -> Plan:
    """The model, the units and where they go, from the options; looks at this machine and changes nothing."""
    models_dir = Path(options.models_dir).expanduser().absolute() if options.models_dir else around.places.models_dir
    spec = options.model if options.model != "auto" else _largest(options)
    model = source.parse(spec, endpoint=hub.endpoint, digests=tuple(options.sha256))
    try:
        server = llama_server.find(options.server, around.environ, _nobody if options.print_unit else around.ask)
    except InstallError:
        if not options.print_unit:
            raise
        server = "/usr/bin/llama-server"
    extra = tuple(options.extra)
    if options.throughput and llama_server.BACKEND_SAMPLING in llama_server.options_of(server):
        extra += (llama_server.BACKEND_SAMPLING,)
    elif options.throughput:
        around.say(f"--throughput: this llama-server does not know {llama_server.BACKEND_SAMPLING}: left out")
    if options.socket is not None and not Path(options.socket).parent.is_dir():
        raise InstallError(f"--socket {options.socket}: its folder is not there", status=EXIT_USAGE)
    choices = unit.Choices(
        server=server,
        model=str(model.first(models_dir)),
        host=options.host,
        port=options.port,
        socket=options.socket,
        ctx_size=options.ctx_size,
        gpu_layers=options.gpu_layers,
        parallel=options.parallel,
        alias=options.alias,
        api_key_file=str(around.places.api_key) if options.api_key else None,
        extra=extra,
    )
    if options.on_demand:
        choices = replace(
            choices,
            idle_seconds=options.idle * 60,
            wait_script=str(around.places.wait_script),
            python=_python(),
            proxyd=systemd.proxyd(),
            runtime_dir=systemd.runtime_dir(around.environ),
        )
    return Plan(model, models_dir, choices, unit.unit_files(choices))


def steps(plan: Plan, options: Namespace, places: Places) -> list[str]:
    """What would be done, one line each, for `--dry-run`."""
    lines = [f"use the model {plan.choices.model}"] if plan.model.path else []
    for file in plan.model.files:
        size = f"{file.size / 1e9:.2f} GB" if file.size else "size unknown"
        lines.append(f"download {file.url} ({size}, SHA-256 {file.sha256}) to {plan.models_dir / file.name}")
    lines += [f"keep an API key in {places.api_key}"] if options.api_key else []
    lines += [f"write {places.wait_script}"] if options.on_demand else []
    lines += [f"write {places.unit_dir / name}" for name in plan.units]
    lines += [] if places.config.exists() else [f"write {places.config} (endpoint {plan.choices.endpoint})"]
    if not options.no_start:
        lines += [f"systemctl --user {what}" for what in ("daemon-reload", f"enable --now {units.front(plan.units)}")]
        lines += [f"wait for {plan.choices.endpoint}/health and ask: {question.QUESTION}"]
        lines += ["loginctl enable-linger"] if options.linger else []
    return [f"would {line}" for line in lines]


def _print_units(plan: Plan, places: Places) -> None:
    print("\n".join(f"# {places.unit_dir / name}\n{text}" for name, text in plan.units.items()), end="")


def _largest(options: Namespace) -> str:
    here = memory.of_this_machine()
    found = fit.largest_model(here, ctx_size=options.ctx_size, gpu_layers=options.gpu_layers)
    if found is None:
        raise InstallError(f"--model auto: nothing in the catalogue fits with --ctx-size {options.ctx_size}")
    return found


def _check_that_it_can_start(plan: Plan, around: Surroundings) -> None:
    trouble = systemd.why_not(around.environ)
    if trouble:
        command = shlex.join([plan.choices.server, *unit.arguments(plan.choices)])
        raise InstallError(str(trouble), hint=f"{trouble.hint}\nTo run it by hand: {command}", status=trouble.status)
    if plan.choices.socket is None and not any(systemd.is_active(around.environ, n) for n in unit.ALL_UNITS):
        _check_port(plan.choices.host, plan.choices.port)


def _check_port(host: str, port: int) -> None:
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], address[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except OSError as error:
        raise InstallError(
            f"{host}:{port}: cannot listen there: {error.strerror}", hint="Choose another --port."
        ) from error


def _described(plan: Plan, options: Namespace, around: Surroundings, hub: Hub) -> source.Model:
    """The model with sizes and digests, once it is sure that it fits."""
    model, head = plan.model, b""
    if model.path:
        weights = sum(model.path.with_name(name).stat().st_size for name in source.shard_names(model.path.name))
        with model.path.open("rb") as stream:
            head = stream.read(gguf.HEAD_BYTES)
    else:
        if any(file.size is None for file in model.files):
            files, head = download.describe(model.files, hub, around.say)
            model = replace(model, files=tuple(files))
        weights = sum(file.size or 0 for file in model.files)
    shape = model.shape or _shape(head, plan.choices.model)
    if shape is None:
        around.say("the file does not tell its architecture: whether it fits is not known")
    elif not options.ignore_fit:
        load = fit.Load(weights, shape, options.ctx_size, options.gpu_layers)
        complaint = fit.complaint(load, memory.of_this_machine())
        if complaint:
            first, _, rest = complaint.partition("\n")
            hint = f"{rest}\nTo go on all the same: --ignore-fit"
            raise InstallError(f"{model.label} does not fit: {first}", hint=hint)
    return model


def _shape(head: bytes, name: str) -> Optional[Shape]:
    try:
        return gguf.shape_of(gguf.read_metadata(head))
    except gguf.NotGGUF as error:
        raise InstallError(f"{name}: {error}") from error


def _agree(plan: Plan, options: Namespace, around: Surroundings) -> None:
    """Shows what would change in units that are there, and goes on only if the user wants it."""
    text = units.difference(plan.units, around.places.unit_dir)
    if not text:
        return
    around.say(text.rstrip("\n"))
    if options.yes:
        return
    answer = around.ask("Change it so (a backup is kept)? [y/N] ")
    if answer is None:
        raise InstallError(
            "the unit is different from what is asked for", hint="To change it: --yes", status=EXIT_USAGE
        )
    if answer.strip().lower() not in ("y", "yes"):
        raise InstallError("nothing was changed")


def _prepare(plan: Plan, around: Surroundings) -> bool:
    """Key, configuration, the script of the proxy, and the record of them. Whether units are to be changed."""
    places, choices, record = around.places, plan.choices, Record.read(around.places.record)
    downloaded = [str(plan.models_dir / file.name) for file in plan.model.files]
    record.model_files += [path for path in downloaded if path not in record.model_files]
    if choices.api_key_file is not None:
        if api_key.ensure(places.api_key):
            record.api_key = True
            around.say(f"made an API key in {places.api_key}")
    elif choices.socket is None and choices.host not in ("127.0.0.1", "localhost", "::1"):
        around.say(f"--host {choices.host} without --api-key: whoever reaches this machine can use the model")
    _configure(config_text(choices.endpoint, choices.api_key_file or ""), record, around)
    record.write(places.record)
    if choices.idle_seconds is not None:
        script = WAIT_SCRIPT.read_text(encoding="utf-8")
        if not places.wait_script.exists() or places.wait_script.read_text(encoding="utf-8") != script:
            write_atomically(places.wait_script, script)
    return units.changed(plan.units, places.unit_dir)


def _configure(wanted: str, record: Record, around: Surroundings) -> None:
    """Writes flynn's configuration if there is none, or if it is still as an earlier run wrote it."""
    config = around.places.config
    if not config.exists():
        around.say(f"wrote {config}")
    elif config.read_text(encoding="utf-8", errors="replace") == record.config_text != wanted:
        around.say(f"changed {config}, as the service has changed")
    else:
        return
    write_atomically(config, wanted)
    record.config_text = wanted


def _run(plan: Plan, around: Surroundings, *, anew: bool) -> bool:
    unit_dir = around.places.unit_dir
    if anew:
        units.stop_what_changes(plan.units, unit_dir, around.environ)
        units.put_in_place(plan.units, unit_dir, around.say)
    return units.start(plan.units, around.environ, anew=anew)


def _say_how_to_go_on(plan: Plan, around: Surroundings) -> None:
    units.put_in_place(plan.units, around.places.unit_dir, around.say)
    command = shlex.join([plan.choices.server, *unit.arguments(plan.choices)])
    around.say(
        "everything is prepared; to start it:\n"
        f"  systemctl --user daemon-reload && systemctl --user enable --now {units.front(plan.units)}\n"
        f"or, without systemd:\n  {command}"
    )


def _prove(plan: Plan, around: Surroundings) -> None:
    around.say(f"waiting for {plan.choices.endpoint} to load the model")
    token = api_key.read(around.places.api_key) if plan.choices.api_key_file is not None else None
    answer = question.ask(
        plan.choices.endpoint,
        token,
        seconds=unit.LOAD_SECONDS,
        still_alive=lambda: units.still_alive(around.environ),
    )
    rate = f" ({answer.tokens_per_second:.1f} tokens/s)" if answer.tokens_per_second else ""
    around.say(f"{question.QUESTION}{rate}")
    print(answer.text)


def _nobody(_: str) -> None:
    """Asks nobody: what prints must not wait for an answer."""


def _python() -> str:
    """The Python that runs this, outside of any virtual environment, which may be deleted some day."""
    names = (f"python{sys.version_info.major}.{sys.version_info.minor}", "python3")
    found = (shutil.which(name, path=f"{sys.base_prefix}/bin") for name in names)
    return next((path for path in found if path), sys.executable)
