"""Configuration: where its file is found, how it is read, and which environment variables override it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flynn
from flynn import LlamaCppClient, Message, create_client
from flynn.config import load_config, read_token_file
from flynn.config.schema import Config, ModelConfig, Provider
from flynn.errors import ConfigError, suggestion
from flynn.models.types import ChatResponse, Choice, ModelClient

SEED = b"""\
models:
  local:
    provider: llamacpp
    endpoint: http://localhost:8080
    # auth_token: optional
"""
ROOT = Path(flynn.__file__).parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, endpoint: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f"models:\n  local:\n    endpoint: {endpoint}\n", encoding="utf-8")
    return path


def refusal(path: str | None = None, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ=environ)
    assert "\n" not in str(caught.value)
    return caught.value


# --- places -----------------------------------------------------------------------------------------------------------


def test_without_a_file_every_setting_has_its_default() -> None:
    assert load_config(environ={}) == Config({"local": ModelConfig()})
    model = load_config(environ={"HOME": "/nonexistent"}).models["local"]
    assert model.provider == Provider.LLAMACPP == "llamacpp"
    assert model.endpoint == "http://localhost:8080"
    assert model.timeout == 60.0
    assert (model.auth_token, model.auth_token_file, model.model, model.defaults) == (None, None, None, {})


def test_the_file_is_looked_for_in_a_fixed_order(folder: Path) -> None:
    home, xdg = str(folder / "home"), str(folder / "xdg")
    environ = {"HOME": home}
    assert load_config(environ=environ).models["local"].endpoint == "http://localhost:8080"
    write(f"{home}/.config/flynn/config.yaml", "http://home")
    assert load_config(environ=environ).models["local"].endpoint == "http://home"
    environ["XDG_CONFIG_HOME"] = xdg
    assert load_config(environ=environ).models["local"].endpoint == "http://localhost:8080"
    write(f"{xdg}/flynn/config.yaml", "http://xdg")
    assert load_config(environ=environ).models["local"].endpoint == "http://xdg"
    write("flynn.yaml", "http://here")
    assert load_config(environ=environ).models["local"].endpoint == "http://here"
    environ["FLYNN_CONFIG"] = write("variable.yaml", "http://variable")
    assert load_config(environ=environ).models["local"].endpoint == "http://variable"
    assert (
        load_config(Path(write("given.yml", "http://given")), environ=environ).models["local"].endpoint
        == "http://given"
    )


def test_a_relative_or_empty_xdg_config_home_is_ignored(folder: Path) -> None:
    write("xdg/flynn/config.yaml", "http://xdg")
    write("home/.config/flynn/config.yaml", "http://home")
    for value in ("xdg", ""):
        environ = {"XDG_CONFIG_HOME": value, "HOME": str(folder / "home")}
        assert load_config(environ=environ).models["local"].endpoint == "http://home"


def test_empty_variables_count_as_unset() -> None:
    environ = dict.fromkeys(("FLYNN_CONFIG", "FLYNN_ENDPOINT", "FLYNN_AUTH_TOKEN", "HOME", "XDG_CONFIG_HOME"), "")
    assert load_config(environ=environ) == Config({"local": ModelConfig()})


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYNN_CONFIG", write("variable.yaml", "http://variable"))
    monkeypatch.delenv("FLYNN_ENDPOINT", raising=False)
    assert load_config().models["local"].endpoint == "http://variable"


def test_a_named_file_must_exist() -> None:
    error = refusal("nowhere.yaml")
    assert str(error) == "nowhere.yaml: No such file or directory"
    assert error.file == "nowhere.yaml"
    assert "nowhere.json: No such file" in str(refusal(FLYNN_CONFIG="nowhere.json"))


def test_an_unreadable_file_is_an_error_in_a_default_place_too(folder: Path) -> None:
    Path("flynn.yaml").mkdir()
    assert str(refusal()) == "flynn.yaml: Is a directory"
    Path("flynn.yaml").rmdir()
    Path("flynn.yaml").symlink_to("flynn.yaml")
    assert "Too many levels of symbolic links" in str(refusal())
    assert "null" in str(refusal("a\0.yaml"))


# --- formats ----------------------------------------------------------------------------------------------------------


def test_the_first_configuration_is_read_byte_for_byte() -> None:
    Path("flynn.yaml").write_bytes(SEED)
    assert load_config(environ={}) == Config({"local": ModelConfig(endpoint="http://localhost:8080")})


@pytest.mark.parametrize(
    "content", [b"", b"# nothing\n", b"---\n", b"models:\n", b"models:\n  local:\n", b"\xef\xbb\xbf"]
)
def test_an_empty_file_means_the_defaults(content: bytes) -> None:
    Path("flynn.yaml").write_bytes(content)
    assert load_config(environ={}) == Config({"local": ModelConfig()})


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + SEED, SEED.replace(b"\n", b"\r\n"), SEED.rstrip()])
def test_a_byte_order_mark_crlf_and_a_missing_last_newline_are_accepted(content: bytes) -> None:
    Path("flynn.yaml").write_bytes(content)
    assert load_config(environ={}).models["local"].endpoint == "http://localhost:8080"


def test_yaml_and_json_give_the_same_configuration() -> None:
    Path("a.YAML").write_text(
        "models:\n  local:\n    timeout: 5\n    defaults:\n      stop: [a, b]\n", encoding="ascii"
    )
    Path("a.json").write_text(
        '{"models": {"local": {"timeout": 5, "defaults": {"stop": ["a", "b"]}}}}', encoding="ascii"
    )
    expected = Config({"local": ModelConfig(timeout=5.0, defaults={"stop": ["a", "b"]})})
    assert load_config("a.YAML", environ={}) == load_config("a.json", environ={}) == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no tomllib")
def test_toml_gives_the_same_configuration() -> None:
    Path("a.toml").write_text('[models.local]\ntimeout = 5\ndefaults.stop = ["a", "b"]\n', encoding="ascii")
    expected = Config({"local": ModelConfig(timeout=5.0, defaults={"stop": ["a", "b"]})})
    assert load_config("a.toml", environ={}) == expected


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="has tomllib")
def test_toml_needs_python_3_11() -> None:
    Path("a.toml").write_bytes(b"")
    assert str(refusal("a.toml")).startswith("a.toml: TOML is read from Python 3.11 on")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"models:\n  local: \xff\n", "a.yaml:2: not UTF-8"),
        ("a.yaml", SEED.decode().encode("utf-16"), "a.yaml:1: not UTF-8"),
        ("a.yaml", b"#" * (1024 * 1024 + 1), "a.yaml: more than 1048576 bytes"),
        ("a.yaml", b"models:\n\tlocal:\n", "a.yaml:2:1: a tab"),
        ("a.ini", b"", "a.ini: a configuration is named *.yaml, *.yml, *.json, *.toml"),
        ("a", b"", "a: a configuration is named *.yaml"),
        ("a.json", b"", "a.json:1:1: not JSON: Expecting value"),
        ("a.json", b'{"models":\n {"local" 1}}', "a.json:2:11: not JSON: Expecting ':' delimiter"),
        ("a.json", b'{"models": {"local": {"timeout": 1, "timeout": 2}}}', "a.json: the key 'timeout' is given twice"),
        ("a.json", b'{"models": NaN}', "a.json: not JSON: NaN is not a number in JSON"),
        ("a.json", b"[" * 100_000, "a.json: not JSON: nested too deeply"),
        ("a.json", b"1" * 10_000, "a.json: not JSON: Exceeds the limit"),
        ("a.json", b"[]", "a.json: expected a mapping, not a list"),
    ],
)
def test_an_invalid_file_is_an_error_with_its_place(name: str, content: bytes, message: str) -> None:
    Path(name).write_bytes(content)
    error = refusal(name)
    assert str(error).startswith(message)
    assert error.file == name


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no tomllib")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[models.local]\ntimeout =\n", "not TOML: Invalid value (at line 2, column 10)"),
        (b"a = 1\na = 2\n", "not TOML: Cannot overwrite a value"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"1" * 10_000, "a number of thousands of digits"),
        (b"[models.local]\ntimeout = 0x" + b"f" * 10_000, "models.local.timeout: expected a number of seconds"),
        (b"[models.local.defaults]\nseed = 0x" + b"f" * 10_000, "beyond the numbers of JSON"),
        (b"[models.local.defaults]\nseed = 2024-05-17", "expected a whole number, not date"),
        (b"[models.local.defaults]\njson_schema.a = [2024-05-17]", "JSON has no date: put it in quotes"),
        (b"[models.local.defaults]\njson_schema" + b".a" * 70 + b" = 1", "more than 64 levels deep"),
        (b"[models.local.defaults]\ntemperature = inf", "inf is beyond the numbers of JSON"),
    ],
)
def test_an_invalid_toml_file_is_an_error(content: bytes, message: str) -> None:
    Path("a.toml").write_bytes(content)
    error = refusal("a.toml")
    assert str(error).startswith("a.toml: ")
    assert message in str(error)


def test_reading_yaml_imports_neither_other_formats_nor_http() -> None:
    Path("flynn.yaml").write_bytes(SEED)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from flynn.config import load_config\n"
        "print(load_config(environ={}).models['local'].endpoint)\n"
        "print({'json', 'tomllib', 'difflib', 'http.client', 'ssl', 'argparse'} & {*sys.modules})"
    )
    # -S: without installed packages.
    process = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines() == ["http://localhost:8080", "set()"]


# --- environment variables --------------------------------------------------------------------------------------------


def test_the_environment_overrides_the_file() -> None:
    Path("flynn.yaml").write_text("models:\n  local:\n    endpoint: http://a\n    auth_token: of-file\n    model: m\n")
    environ = {"FLYNN_ENDPOINT": "http://b", "FLYNN_AUTH_TOKEN": "of-environment"}
    expected = ModelConfig(endpoint="http://b", auth_token="of-environment", model="m")
    assert load_config(environ=environ).models["local"] == expected


def test_a_token_in_the_environment_overrides_a_token_file_which_is_not_read() -> None:
    Path("flynn.yaml").write_text("models:\n  local:\n    auth_token_file: missing\n")
    assert load_config(environ={"FLYNN_AUTH_TOKEN": "t"}).models["local"] == ModelConfig(auth_token="t")


def test_an_invalid_environment_variable_is_an_error_with_its_name() -> None:
    error = refusal(FLYNN_ENDPOINT="localhost:8080")
    assert str(error).startswith("FLYNN_ENDPOINT: ")
    assert (error.key, error.file) == ("FLYNN_ENDPOINT", None)
    error = refusal(FLYNN_AUTH_TOKEN="s3cret\n")
    assert str(error).startswith("FLYNN_AUTH_TOKEN: the token must be printable ASCII")
    assert "s3cret" not in str(error)


# --- token files ------------------------------------------------------------------------------------------------------


def token_file(path: str, content: bytes, mode: int = 0o600) -> str:
    Path(path).write_bytes(content)
    Path(path).chmod(mode)
    return path


def config_with(token_path: str) -> str:
    Path("conf").mkdir(exist_ok=True)
    Path("conf/a.yaml").write_text(f"models:\n  local:\n    auth_token_file: {token_path}\n")
    return "conf/a.yaml"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_the_path_of_a_token_file_is_relative_to_the_configuration(folder: Path, mode: int) -> None:
    path = config_with("secrets/token")
    Path("conf/secrets").mkdir()
    token_file("conf/secrets/token", b"  sk-123\r\n", mode)
    model = load_config(path, environ={}).models["local"]
    assert model.auth_token == "sk-123"
    assert model.auth_token_file == str(folder / "conf" / "secrets" / "token")


def test_a_tilde_in_the_path_of_a_configuration_is_the_home_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    token_file("token", b"sk-123")
    assert load_config(f"~/{config_with('../token')}", environ={}).models["local"].auth_token == "sk-123"


def test_a_tilde_in_the_path_of_a_token_file_is_the_home_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    token_file("token", b"sk-123")
    assert load_config(config_with("~/token"), environ={}).models["local"].auth_token == "sk-123"
    assert read_token_file("~/token") == "sk-123"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_token_file_accessible_to_others_is_refused(folder: Path, mode: int) -> None:
    token_file("conf token", b"s3cret", mode)
    error = refusal(config_with("../conf token"))
    assert str(error) == (
        f"conf/a.yaml:3:5: models.local.auth_token_file: others may open this file (mode {mode:o}): "
        f"run chmod 600 '{folder / 'conf token'}'"
    )
    assert (error.file, error.line, error.key) == ("conf/a.yaml", 3, "models.local.auth_token_file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no token in {}: the token is empty"),
        (b" \n", "no token in {}: the token is empty"),
        (b"s3cret\ns3cret\n", "no token in {}: the token must be printable ASCII"),
        (b"s3cret\xc3\xa9\n", "no token in {}: the token must be printable ASCII"),
        (b"s3cret\xff\n", "no token in {}: the token must be printable ASCII"),
        (b"s3cret" * 2000, "no token in {}: more than 8192 bytes"),
        (None, "cannot read {}: No such file or directory"),
    ],
)
def test_an_invalid_or_missing_token_file_is_refused(folder: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        token_file("conf-token", content)
    error = refusal(config_with("../conf-token"))
    assert message.format(repr(str(folder / "conf-token"))) in str(error)
    assert "s3cret" not in str(error)


# --- names and providers ----------------------------------------------------------------------------------------------


def test_the_nearest_name_is_suggested_if_it_is_close() -> None:
    assert suggestion("endpont", ["model", "endpoint"]) == "; did you mean 'endpoint'?"
    assert suggestion("colour", ["model", "endpoint"]) == ""


class Echo:
    """The client of another provider: it answers with the request."""

    def __init__(self, model: ModelConfig) -> None:
        self.endpoint = model.endpoint

    def chat(self, request: Any, **options: Any) -> ChatResponse:
        return ChatResponse([Choice(Message("assistant", str(request)))])

    def chat_stream(self, request: Any, **options: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_a_provider_can_be_added_to_the_table() -> None:
    config = Config({"local": ModelConfig(), "toy": ModelConfig(provider="echo", endpoint="http://toy")})  # type: ignore[arg-type]
    client = create_client(config, "toy", providers={"echo": Echo})
    assert isinstance(client, ModelClient)
    assert client.chat("Hi").content == "Hi"
    assert isinstance(create_client(config), LlamaCppClient)
