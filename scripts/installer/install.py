"""`make install-service`: from the user's choices to a service that has answered a question."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time
from argparse import Namespace
from pathlib import Path

from . import api_key, catalogue, download, question, systemd, unit, units
from .errors import EXIT_USAGE, InstallError
from .files import write_atomically
from .hub import Hub
from .places import Places, Record, config_text
from .plan import Plan, Surroundings, make_plan


def install(options: Namespace, around: Surroundings) -> None:
    """Does what `options` (see `cli`) say.

    Raises:
        InstallError: something is wrong that the user can act on. What was done stays; running it again goes on.
    """
    models, hub = catalogue.read(around.places.config.parent), Hub(around.environ)
    _refuse_sudo(around)
    units.foreign(around.places.unit_dir)  # raises for what has a unit's name and is none
    plan = make_plan(options, around, hub, models)
    if not (options.print_unit or options.no_start):
        _check_that_it_can_start(plan, options, around)
    if options.print_unit or options.dry_run:
        if options.dry_run:
            for line in steps(plan, options, around.places):
                around.say(line)
        print(f"# {around.places.unit_dir / unit.SERVICE}\n{plan.unit}", end="")
        return
    _agree(plan, options, around)
    fetched = [download.fetch(model.files, folder, hub, around.say) for model, folder in plan.models]
    record = Record.read(around.places.record)
    prepared = _prepare(plan, record, around)
    if options.no_start:
        _say_how_to_go_on(plan, around)
        return
    running = _run(plan, around, anew=any(fetched) or prepared)
    if not (any(fetched) or prepared or running):
        around.say("everything is in place already: nothing was changed")
    _prove(plan, around)
    _linger(options, record, around)
    # Only now: a run that is cut off before restarts the server again, for the key that it may not have read.
    record.key_stamp = _key_stamp(plan, around.places)
    record.write(around.places.record)


def steps(plan: Plan, options: Namespace, places: Places) -> list[str]:
    """What would be done, one line each, for `--dry-run`."""
    lines = []
    for model, folder in plan.models:
        lines += [f"use the model {model.path}"] if model.path else []
        for file in model.files:
            size = f"{file.size / 1e9:.2f} GB" if file.size else "size unknown"
            lines.append(f"download {file.url} ({size}, SHA-256 {file.sha256}) to {folder / file.name}")
    lines += [f"keep an API key in {places.api_key}"] if options.api_key else []
    lines += [f"write {places.presets}"] if plan.presets else []
    lines += [f"write {places.unit_dir / unit.SERVICE}"]
    lines += [] if places.config.exists() else [f"write {places.config} (endpoint {plan.choices.endpoint})"]
    if not options.no_start:
        lines += [f"systemctl --user {what}" for what in ("daemon-reload", f"enable --now {unit.SERVICE}")]
        lines += [f"wait for {plan.choices.endpoint}/health and ask: {question.QUESTION}"]
        lines += ["loginctl enable-linger"] if options.linger else []
    return [f"would {line}" for line in lines]


def _refuse_sudo(around: Surroundings) -> None:
    if os.geteuid() == 0 and around.environ.get("SUDO_UID", "0") != "0":
        hint = "Run it as yourself: the service, its files and the model are yours, and systemd --user starts it."
        raise InstallError("not with sudo", hint=hint, status=EXIT_USAGE)


def _check_that_it_can_start(plan: Plan, options: Namespace, around: Surroundings) -> None:
    """Refuses a machine without systemd, and a port that is taken; a dry run only says so."""
    try:
        trouble = systemd.why_not(around.environ)
        if trouble:
            command = shlex.join(["env", *unit.by_hand(plan.choices)])
            raise InstallError(
                str(trouble), hint=f"{trouble.hint}\nTo run it by hand: {command}", status=trouble.status
            )
        if options.socket is None and not _has_port_already(options.port, around):
            _check_port(options.host, options.port)
    except InstallError as error:
        if not options.dry_run:
            raise
        around.say(f"missing: {error}")


def _has_port_already(port: int, around: Surroundings) -> bool:
    """Whether it is our own service, or the proxy of an earlier version, that listens there."""
    environ, unit_dir = around.environ, around.places.unit_dir
    if systemd.is_active(environ, units.PROXY_SOCKET):
        return True
    return systemd.is_active(environ, unit.SERVICE) and units.port_of(unit_dir) == port


def _check_port(host: str, port: int) -> None:
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], address[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InstallError(f"{host}:{port}: cannot listen there: {reason}", hint="Choose another --port.") from error


def _agree(plan: Plan, options: Namespace, around: Surroundings) -> None:
    """Shows what would change in units that are there, and goes on only if the user wants it.

    Nobody is asked about a unit of ours as an earlier version wrote it.
    """
    text = units.difference(plan.unit, around.places.unit_dir)
    if not text:
        return
    around.say(text.rstrip("\n"))
    if options.yes or units.is_mended(plan.unit, around.places.unit_dir):
        return
    answer = around.ask("Change it so (a backup is kept)? [y/N] ")
    if answer is None:
        raise InstallError(
            "the unit is different from what is asked for", hint="To change it: --yes", status=EXIT_USAGE
        )
    if answer.strip().lower() not in ("y", "yes"):
        raise InstallError("nothing was changed")


def _prepare(plan: Plan, record: Record, around: Surroundings) -> bool:
    """Key, configuration, the file of several models, and the record of them. Whether the server has to start anew."""
    places, choices = around.places, plan.choices
    _remember_models(plan, record)
    if choices.api_key_file is not None:
        if api_key.ensure(places.api_key):
            record.api_key = True
            around.say(f"made an API key in {places.api_key}")
    elif choices.socket is None and choices.host not in ("127.0.0.1", "localhost", "::1"):
        around.say(f"--host {choices.host} without --api-key: whoever reaches this machine can use the model")
    _configure(plan, record, around)
    record.write(places.record)
    with contextlib.suppress(FileNotFoundError):
        places.wait_script.unlink()
    new_key = record.key_stamp != _key_stamp(plan, places)
    new_presets = bool(plan.presets) and _content(places.presets) != plan.presets
    if new_presets:
        write_atomically(places.presets, plan.presets)
        around.say(f"wrote {places.presets}")
    return new_key or new_presets or units.changed(plan.unit, places.unit_dir)


def _remember_models(plan: Plan, record: Record) -> None:
    for model, folder in plan.models:
        paths = [str(folder / file.name) for file in model.files]
        record.model_files += [path for path in paths if path not in record.model_files]
        if paths:
            record.sources[model.label] = [[path, file.size, file.sha256] for path, file in zip(paths, model.files)]


def _configure(plan: Plan, record: Record, around: Surroundings) -> None:
    """Writes flynn's configuration if there is none, or if it is still as an earlier run wrote it."""
    config, choices = around.places.config, plan.choices
    wanted = config_text(
        choices.endpoint,
        token_file=around.places.api_key if choices.api_key_file is not None else None,
        model=plan.default_model,
        timeout=unit.LOAD_SECONDS,
    )
    if _content(config) == wanted:
        record.config_text = wanted  # or a run that was cut off has written it
        return
    if not os.path.lexists(config):
        around.say(f"wrote {config}")
    elif record.config_text and _content(config) == record.config_text != wanted:
        around.say(f"changed {config}, as the service has changed")
    else:
        return
    write_atomically(config, wanted)
    record.config_text = wanted


def _content(path: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _key_stamp(plan: Plan, places: Places) -> list[int]:
    """Tells one state of the key's file from another; empty for a server without a key."""
    if plan.choices.api_key_file is None:
        return []
    status = places.api_key.stat()
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def _run(plan: Plan, around: Surroundings, *, anew: bool) -> bool:
    unit_dir = around.places.unit_dir
    units.stop_old(unit_dir, around.environ)
    if anew:
        units.put_in_place(plan.unit, unit_dir, around.say)
    return units.start(around.environ, anew=anew)


def _say_how_to_go_on(plan: Plan, around: Surroundings) -> None:
    units.put_in_place(plan.unit, around.places.unit_dir, around.say)
    around.say(
        "everything is prepared; to start it:\n"
        f"  systemctl --user daemon-reload && systemctl --user enable --now {unit.SERVICE}\n"
        f"or, without systemd:\n  {shlex.join(['env', *unit.by_hand(plan.choices)])}"
    )


def _prove(plan: Plan, around: Surroundings) -> None:
    choices = plan.choices
    around.say(f"waiting for {choices.endpoint} to load the model")
    port, began = choices.port if choices.socket is None else None, time.monotonic()
    answer = question.ask(
        choices.endpoint,
        api_key.read(around.places.api_key) if choices.api_key_file is not None else None,
        model=plan.default_model,
        embeddings=choices.pooling is not None,
        seconds=unit.LOAD_SECONDS,
        still_alive=lambda: units.still_alive(around.environ, port, time.monotonic() - began),
    )
    rate = f" ({answer.tokens_per_second:.1f} tokens/s)" if answer.tokens_per_second else ""
    around.say(f"{question.QUESTION}{rate}")
    if answer.thinking:
        around.say(f"it thinks before it answers; its first {question.ANSWER_TOKENS} tokens of thought:")
    print(answer.text)


def _linger(options: Namespace, record: Record, around: Surroundings) -> None:
    if options.linger:
        was_on = systemd.lingers(around.environ)
        systemd.enable_linger(around.environ)
        record.linger = record.linger or not was_on
