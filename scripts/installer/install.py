"""`make install-service`: download the model, write and start the unit, and ask the server a question."""

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
from .plan import Plan, Session, make_plan


def install(options: Namespace, session: Session) -> None:
    """Install the service.

    Args:
        options: the parsed command line, see `cli`.

    Raises:
        InstallError: a step failed. Completed steps stay; the next run continues after them.
    """
    models, hub = catalogue.read(session.places.config.parent), Hub(session.environ)
    _refuse_sudo(session)
    units.foreign(session.places.unit_dir)  # raises if something other than a file has the name of a unit
    plan = make_plan(options, session, hub, models)
    if not (options.print_unit or options.no_start):
        _check_that_it_can_start(plan, options, session)
    if options.print_unit or options.dry_run:
        if options.dry_run:
            for line in steps(plan, options, session.places):
                session.say(line)
        print(f"# {session.places.unit_dir / unit.SERVICE}\n{plan.unit}", end="")
        return
    _get_consent(plan, options, session)
    downloaded = [download.fetch(model.files, folder, hub, session.say) for model, folder in plan.models]
    record = Record.read(session.places.record)
    changed = _prepare(plan, record, session) or any(downloaded)
    if options.no_start:
        _print_start_commands(plan, session)
        return
    started = _start(plan, session, restart=changed)
    if not (changed or started):
        session.say("the service is up to date: nothing was changed")
    _ask_question(plan, session)
    _linger(options, record, session)
    # Write the stamp last: after an interrupted run the next run restarts the server, which may have the old key.
    record.key_stamp = _key_stamp(plan, session.places)
    record.write(session.places.record)


def steps(plan: Plan, options: Namespace, places: Places) -> list[str]:
    """Return the steps of the installation for `--dry-run`, one line each."""
    lines = []
    for model, folder in plan.models:
        lines += [f"use the model {model.path}"] if model.path else []
        for file in model.files:
            size = f"{file.size / 1e9:.2f} GB" if file.size else "size unknown"
            lines.append(f"download {file.url} ({size}, SHA-256 {file.sha256}) to {folder / file.name}")
    lines += [f"store an API key in {places.api_key}"] if options.api_key else []
    lines += [f"write {places.presets}"] if plan.presets else []
    lines += [f"write {places.unit_dir / unit.SERVICE}"]
    lines += [] if places.config.exists() else [f"write {places.config} (endpoint {plan.choices.endpoint})"]
    if not options.no_start:
        lines += [f"run systemctl --user {command}" for command in ("daemon-reload", f"enable --now {unit.SERVICE}")]
        lines += [f"wait for {plan.choices.endpoint}/health and ask: {question.QUESTION}"]
        lines += ["run loginctl enable-linger"] if options.linger else []
    return [f"would {line}" for line in lines]


def _refuse_sudo(session: Session) -> None:
    if os.geteuid() == 0 and session.environ.get("SUDO_UID", "0") != "0":
        hint = "Run it as yourself: the service runs under your account, and systemd --user starts it."
        raise InstallError("do not use sudo", hint=hint, status=EXIT_USAGE)


def _check_that_it_can_start(plan: Plan, options: Namespace, session: Session) -> None:
    """Check for systemd and a free port. A dry run only reports what is missing.

    Raises:
        InstallError: the service could not start.
    """
    try:
        problem = systemd.problem(session.environ)
        if problem:
            command = shlex.join(["env", *unit.shell_words(plan.choices)])
            raise InstallError(
                str(problem),
                hint=f"{problem.hint}\nTo start llama-server without systemd: {command}",
                status=problem.status,
            )
        if options.socket is None and not _has_port_already(options.port, session):
            _check_port(options.host, options.port)
    except InstallError as error:
        if not options.dry_run:
            raise
        session.say(f"missing: {error}")


def _has_port_already(port: int, session: Session) -> bool:
    """Return True if our own service, or the proxy of an earlier version, listens on the port."""
    environ, unit_dir = session.environ, session.places.unit_dir
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
        raise InstallError(
            f"{host}:{port}: cannot listen on this address: {reason}", hint="Choose another --port."
        ) from error


def _get_consent(plan: Plan, options: Namespace, session: Session) -> None:
    """Show the changes to existing units and ask for consent. An update of our own old unit needs no consent.

    Raises:
        InstallError: the user refused, or there is no terminal to ask on.
    """
    text = units.difference(plan.unit, session.places.unit_dir)
    if not text:
        return
    session.say(text.rstrip("\n"))
    if options.yes or units.is_known_update(plan.unit, session.places.unit_dir):
        return
    answer = session.ask("Apply these changes (a backup is kept)? [y/N] ")
    if answer is None:
        raise InstallError(
            "the existing unit differs from the requested one", hint="To replace it, add --yes.", status=EXIT_USAGE
        )
    if answer.strip().lower() not in ("y", "yes"):
        raise InstallError("refused: nothing was changed")


def _prepare(plan: Plan, record: Record, session: Session) -> bool:
    """Write the key, the configuration, the presets and the record. Returns True if the server has to be restarted."""
    places, choices = session.places, plan.choices
    _remember_models(plan, record)
    if choices.api_key_file is not None:
        if api_key.ensure(places.api_key):
            record.api_key = True
            session.say(f"generated an API key in {places.api_key}")
    elif choices.socket is None and choices.host not in ("127.0.0.1", "localhost", "::1"):
        session.say(f"--host {choices.host} without --api-key: everybody who can reach this machine can use the model")
    _configure(plan, record, session)
    record.write(places.record)
    with contextlib.suppress(FileNotFoundError):
        places.wait_script.unlink()
    new_key = record.key_stamp != _key_stamp(plan, places)
    new_presets = bool(plan.presets) and _content(places.presets) != plan.presets
    if new_presets:
        write_atomically(places.presets, plan.presets)
        session.say(f"wrote {places.presets}")
    return new_key or new_presets or units.changed(plan.unit, places.unit_dir)


def _remember_models(plan: Plan, record: Record) -> None:
    for model, folder in plan.models:
        paths = [str(folder / file.name) for file in model.files]
        record.model_files += [path for path in paths if path not in record.model_files]
        if paths:
            record.sources[model.label] = [[path, file.size, file.sha256] for path, file in zip(paths, model.files)]


def _configure(plan: Plan, record: Record, session: Session) -> None:
    """Write flynn's configuration if there is none, or if the user has not edited the one of an earlier run."""
    config, choices = session.places.config, plan.choices
    text = config_text(
        choices.endpoint,
        token_file=session.places.api_key if choices.api_key_file is not None else None,
        model=plan.default_model,
        timeout=unit.LOAD_SECONDS,
    )
    if _content(config) == text:
        record.config_text = text  # an interrupted run may have written the file without recording it
        return
    if not os.path.lexists(config):
        session.say(f"wrote {config}")
    elif record.config_text and _content(config) == record.config_text != text:
        session.say(f"updated {config} for the changed service")
    else:
        return
    write_atomically(config, text)
    record.config_text = text


def _content(path: Path) -> str:
    """Return the text of a file; '' if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _key_stamp(plan: Plan, places: Places) -> list[int]:
    """Return the modification time, size and inode of the key file, to detect a new key; empty without a key."""
    if plan.choices.api_key_file is None:
        return []
    status = places.api_key.stat()
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def _start(plan: Plan, session: Session, *, restart: bool) -> bool:
    """Start the service; write the unit first if `restart`. Returns True if systemd had to do anything."""
    unit_dir = session.places.unit_dir
    units.stop_old(unit_dir, session.environ)
    if restart:
        units.write(plan.unit, unit_dir, session.say)
    return units.start(session.environ, restart=restart)


def _print_start_commands(plan: Plan, session: Session) -> None:
    units.write(plan.unit, session.places.unit_dir, session.say)
    session.say(
        "everything is prepared; to start the service:\n"
        f"  systemctl --user daemon-reload && systemctl --user enable --now {unit.SERVICE}\n"
        f"or, without systemd:\n  {shlex.join(['env', *unit.shell_words(plan.choices)])}"
    )


def _ask_question(plan: Plan, session: Session) -> None:
    """Wait until the model is loaded and print the answer to a question, as proof that the service works."""
    choices = plan.choices
    session.say(f"waiting for {choices.endpoint} to load the model")
    port, start = choices.port if choices.socket is None else None, time.monotonic()
    answer = question.ask(
        choices.endpoint,
        api_key.read(session.places.api_key) if choices.api_key_file is not None else None,
        model=plan.default_model,
        embeddings=choices.pooling is not None,
        seconds=unit.LOAD_SECONDS,
        check_alive=lambda: units.check_alive(session.environ, port, time.monotonic() - start),
    )
    rate = f" ({answer.tokens_per_second:.1f} tokens/s)" if answer.tokens_per_second else ""
    session.say(f"{question.QUESTION}{rate}")
    if answer.is_reasoning:
        session.say(f"the model reasons before it answers; the first {question.ANSWER_TOKENS} tokens of its reasoning:")
    print(answer.text)


def _linger(options: Namespace, record: Record, session: Session) -> None:
    if options.linger:
        was_on = systemd.lingers(session.environ)
        systemd.enable_linger(session.environ)
        record.linger = record.linger or not was_on
