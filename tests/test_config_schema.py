"""The settings of a configuration: their values, and the errors for invalid ones."""

from __future__ import annotations

from datetime import date
from typing import Any, Mapping

import pytest

from flynn.config import parse_text
from flynn.config.schema import ConfigSource, ModelConfig, read_config
from flynn.errors import ConfigError
from flynn.http.checks import MAX_TIMEOUT, check_timeout


def read_all(text: str, file: str = "f.yaml") -> Mapping[str, ModelConfig]:
    value, positions = parse_text(text, file)
    return read_config(value, ConfigSource(file, positions)).models


def read(text: str, file: str = "f.yaml") -> ModelConfig:
    return read_all(text, file)["local"]


def local(*lines: str) -> str:
    return "models:\n  local:\n" + "".join(f"    {line}\n" for line in lines)


def refusal(text: str, file: str = "f.yaml") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(text, file)
    assert "\n" not in str(caught.value)
    return caught.value


def test_every_setting_is_read() -> None:
    text = local(
        "provider: llamacpp",
        "endpoint: https://gpu.example/llm",
        "auth_token: sk-1",
        "timeout: 1:30",
        "model: qwen",
        "defaults:",
        "  temperature: 1",
        "  stop:",
        "  - END",
        "  chat_template_kwargs:",
        "    enable_thinking: no",
        "  resume: yes",
        "  resume_for: 2.5",
    )
    assert read(text) == ModelConfig(
        endpoint="https://gpu.example/llm",
        auth_token="sk-1",
        timeout=90.0,
        model="qwen",
        defaults={
            "temperature": 1,
            "stop": ["END"],
            "chat_template_kwargs": {"enable_thinking": False},
            "resume": True,
            "resume_for": 2.5,
        },
    )


def test_the_schema_does_not_open_the_token_file() -> None:
    assert read(local("auth_token_file: nowhere")) == ModelConfig(auth_token_file="nowhere")


@pytest.mark.parametrize("line", ["auth_token:", "auth_token_file: ~", "model: null", "defaults:"])
def test_null_stands_for_the_default_of_an_optional_setting(line: str) -> None:
    assert read(local(line)) == ModelConfig()


@pytest.mark.parametrize(
    ("value", "seconds"), [("5", 5.0), ("0.5", 0.5), ("null", None), (str(MAX_TIMEOUT), 2147483.0)]
)
def test_a_timeout_is_a_number_of_seconds_or_null(value: str, seconds: float | None) -> None:
    timeout = read(local(f"timeout: {value}")).timeout
    assert timeout == seconds
    assert isinstance(timeout, float) or timeout is None


def test_the_longest_timeout_fits_the_milliseconds_of_poll() -> None:
    assert MAX_TIMEOUT * 1000 < 2**31
    assert check_timeout(MAX_TIMEOUT) == MAX_TIMEOUT
    with pytest.raises(ConfigError):
        check_timeout(MAX_TIMEOUT + 1)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("modles:\n  local:\n", (1, 1), "modles: unknown key; did you mean 'models'?"),
        ("models: llamacpp\n", (1, 1), "models: expected a mapping, not a string"),
        ("models:\n  lcoal:\n    model: x\n", (2, 3), "models.lcoal: no model is named 'local'; did you mean 'local'?"),
        ("models:\n  local: llamacpp\n", (2, 3), "models.local: expected a mapping, not a string"),
        (local("model: x", "endpont: http://a"), (4, 5), "models.local.endpont: unknown key; did you mean 'endpoint'?"),
        (
            local("colour: red"),
            (3, 5),
            "models.local.colour: unknown key (expected one of: provider, endpoint, auth_token, auth_token_file, "
            "timeout, connect_timeout, retries, model, defaults)",
        ),
        (local('"a\\nb": 1'), (3, 5), "models.local.'a\\nb': unknown key"),
        (
            local("provider: llamacp"),
            (3, 5),
            "provider: unknown provider 'llamacp'; did you mean 'llamacpp'? (expected one of: llamacpp)",
        ),
        (local("provider: openai"), (3, 5), "provider: unknown provider 'openai' (expected one of: llamacpp)"),
        (local("provider: [llamacpp]"), (3, 5), "provider: unknown provider a list (expected one of: llamacpp)"),
        (local("provider: yes"), (3, 5), "provider: unknown provider true"),
        (local("provider:"), (3, 5), "provider: unknown provider null"),
        (local("endpoint: localhost:8080"), (3, 5), "endpoint: "),
        (local("endpoint: ftp://localhost"), (3, 5), "endpoint: "),
        (local("endpoint: unix:relative.sock"), (3, 5), "endpoint: "),
        (local("endpoint: 8080"), (3, 5), "endpoint: expected a string, not 8080"),
        (local("endpoint:"), (3, 5), "endpoint: expected a string, not null"),
        (local("endpoint: ''"), (3, 5), "endpoint: expected a string, not ''"),
        (
            local("timeout: 0"),
            (3, 5),
            "timeout: expected a number of seconds above 0 and up to 2147483, or null for no limit, not 0",
        ),
        (local("timeout: -1.5"), (3, 5), "not -1.5"),
        (local("timeout: 2147484"), (3, 5), "not 2147484"),
        (local("timeout: .inf"), (3, 5), "or null for no limit, not inf"),
        (local("timeout: .nan"), (3, 5), "not nan"),
        (local("timeout: yes"), (3, 5), "not true"),
        (local("timeout: 60s"), (3, 5), "not '60s'"),
        (local("timeout: [60]"), (3, 5), "not a list"),
        (local("timeout: " + "x" * 10_000), (3, 5), "xxx..."),
        (local("model: 4"), (3, 5), "model: expected a string, not 4"),
        (local("auth_token: 123456"), (3, 5), "auth_token: the token must be a string: put it in quotes"),
        (local("auth_token: ''"), (3, 5), "auth_token: the token is empty"),
        (
            local("auth_token: a", "auth_token_file: b"),
            (4, 5),
            "auth_token_file: give auth_token or auth_token_file, not both",
        ),
        (local("auth_token_file: 1"), (3, 5), "auth_token_file: expected a string, not 1"),
        (local("defaults: 1"), (3, 5), "defaults: expected a mapping, not a whole number"),
        (local("defaults:", "  max_token: 1"), (4, 7), "defaults.max_token: unknown key; did you mean 'max_tokens'?"),
        (
            local("defaults:", "  xyzzy: 1"),
            (4, 7),
            "unknown key (expected one of: the options of ChatRequest, resume, resume_for)",
        ),
        (local("defaults:", "  messages: a"), (4, 7), "defaults.messages: unknown key"),
        (local("defaults:", "  max_tokens: 1.5"), (4, 7), "defaults.max_tokens: expected a whole number, not 1.5"),
        (local("defaults:", "  max_tokens: yes"), (4, 7), "defaults.max_tokens: expected a whole number, not true"),
        (local("defaults:", "  temperature: warm"), (4, 7), "defaults.temperature: expected a number, not 'warm'"),
        (local("defaults:", "  temperature: .nan"), (4, 7), "defaults.temperature: nan is beyond the numbers of JSON"),
        (local("defaults:", "  seed: 18446744073709551616"), (4, 7), "defaults.seed: a whole number is beyond"),
        (local("defaults:", "  cache_prompt: 1"), (4, 7), "defaults.cache_prompt: expected true or false, not 1"),
        (local("defaults:", "  stop: 1"), (4, 7), "defaults.stop: expected a string or a list, not 1"),
        (local("defaults:", "  stop: [.inf]"), (4, 7), "defaults.stop: inf is beyond the numbers of JSON"),
        (local("defaults:", "  max_tokens:"), (4, 7), "defaults.max_tokens: expected a whole number, not null"),
        (local("defaults:", "  resume: 1"), (4, 7), "defaults.resume: expected true or false, not 1"),
        (local("defaults:", "  resume_for: -1"), (4, 7), "defaults.resume_for: expected seconds, 0 or more, not -1"),
    ],
)
def test_an_invalid_setting_is_an_error_with_place_key_and_allowed_values(
    text: str, place: tuple[int, int], message: str
) -> None:
    error = refusal(text)
    assert (error.file, error.line, error.column) == ("f.yaml", *place)
    assert str(error).startswith(f"f.yaml:{place[0]}:{place[1]}: {error.key}: ")
    assert message in str(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize("token", ['"a\\tb"', "' a'", "'a '", '"a\\nb"', "é", '"\\x7f"', "' '"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    error = refusal(local(f"auth_token: {token}"))
    assert str(error) == (
        "f.yaml:3:5: models.local.auth_token: the token must be printable ASCII without leading or trailing whitespace"
    )


def test_json_errors_name_file_and_key() -> None:
    error = refusal('{"models": {"local": {"defaults": {"json_schema": {"maximum": 1e999}}}}}', "f.json")
    assert str(error) == "f.json: models.local.defaults.json_schema: inf is beyond the numbers of JSON"
    assert (error.line, error.column) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        '{"models": [{"local": {"auth_token": "s3cret"}}]}',
        '{"models": {"local": ["s3cret"]}}',
        '{"models": {"local": {"auth_token": ["s3cret"]}}}',
        '{"models": {"local": {"auth_token": "s3cret\\n"}}}',
        '{"models": {"local": {"timeout": {"auth_token": "s3cret"}}}}',
        '{"models": {"local": {"auth_tokn": "s3cret"}}}',
    ],
)
def test_errors_do_not_show_a_token(text: str) -> None:
    assert "s3cret" not in str(refusal(text, "f.json"))


def test_the_repr_does_not_show_the_token() -> None:
    config = read_config({"models": {"local": {"auth_token": "s3cret"}}}, ConfigSource(None, {}))
    assert config.models["local"].auth_token == "s3cret"
    assert "s3cret" not in repr(config)


def test_two_configurations_do_not_share_their_defaults() -> None:
    assert read_config(None, ConfigSource(None, {})).models["local"].defaults is not ModelConfig().defaults


def test_defaults_that_json_cannot_express_are_refused() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    for value, message in ((date(2024, 5, 17), "JSON has no date"), (deep, "more than 64 levels deep")):
        with pytest.raises(ConfigError, match=f"^models.local.defaults.json_schema: {message}"):
            read_config({"models": {"local": {"defaults": {"json_schema": {"a": value}}}}}, ConfigSource(None, {}))


@pytest.mark.parametrize("nested", [1, "a", None, True, 0.5, 1e300, -(2**63), 2**64 - 1, [[{"a": None}]]])
def test_defaults_may_be_any_json_value(nested: Any) -> None:
    value = {"models": {"local": {"defaults": {"json_schema": {"a": nested}}}}}
    assert read_config(value, ConfigSource(None, {})).models["local"].defaults == {"json_schema": {"a": nested}}


def test_models_may_have_any_name_and_each_has_its_own_settings() -> None:
    text = "models:\n  fast:\n    endpoint: http://fast:1\n    retries: 2\n  big:\n    connect_timeout: 3\n"
    models = read_all(text)
    assert sorted(models) == ["big", "fast", "local"]
    assert (models["fast"].endpoint, models["fast"].retries, models["big"].connect_timeout) == ("http://fast:1", 2, 3.0)
    assert models["local"].endpoint == "http://localhost:8080"
