"""The values of --model and their meanings."""

from __future__ import annotations

from pathlib import Path

import pytest
from installer.address import is_private_channel
from installer.errors import InstallError
from installer.listing import choose
from installer.source import Query, parse, shard_names

HUB = "https://hub.example"
DIGEST = "ab" * 32


def test_the_default_model_is_pinned_by_revision_size_and_digest() -> None:
    model = parse("qwen2.5-14b", endpoint=HUB)
    assert [file.name.partition("-0")[2] for file in model.files] == [f"000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert model.files[0].url == (
        f"{HUB}/Qwen/Qwen2.5-14B-Instruct-GGUF/resolve/2b6a96d780143b4e8e3b970394e39e3774551f29/"
        "qwen2.5-14b-instruct-q4_k_m-00001-of-00003.gguf"
    )
    assert sum(file.size or 0 for file in model.files) == 8_988_110_496
    assert all(len(file.sha256 or "") == 64 for file in model.files)


def test_a_file_on_the_hub_at_a_revision() -> None:
    (file,) = parse("hf:a/b/folder/c d.gguf@refs/pr/1", endpoint=HUB).files
    assert (file.name, file.url) == ("c d.gguf", f"{HUB}/a/b/resolve/refs%2Fpr%2F1/folder/c%20d.gguf")


def test_a_url_with_a_digest() -> None:
    (file,) = parse("https://x.example/m%20.gguf?a=b#c", endpoint=HUB, digests=(DIGEST.upper(),)).files
    assert (file.name, file.url, file.sha256) == ("m .gguf", "https://x.example/m%20.gguf?a=b", DIGEST)


def test_the_name_of_any_shard_gives_the_names_of_all() -> None:
    assert shard_names("m-00002-of-00002.gguf") == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert shard_names("m.gguf") == ["m.gguf"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:one", "hf:OWNER/REPO:QUANT"),
        ("hf:a/b/../../etc/passwd", "'..'"),
        ("https://x.example/m.gguf", "--sha256"),
        ("nowhere.gguf", "no such file"),
        ("m-00003-of-00002.gguf", "invalid shard name"),
        ("m-00001-of-99999.gguf", "invalid shard name"),
        ("/", "this is a folder"),
    ],
)
def test_an_invalid_value_is_reported(spec: str, message: str) -> None:
    with pytest.raises(InstallError, match=message):
        parse(spec, endpoint=HUB)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://x.example/m.gguf", "use https"),
        ("https://x.example/%2e%2e%2fm.gguf", "cannot be used"),
        ("https://x.example/.hidden", "cannot be used"),
        ("https://x.example/", "cannot be used"),
        ("https://x.example/a%0ab", "cannot be used"),
        ("https://x.example/a-00001-of-00002.gguf", "2 files"),
        ("https://[::1/m.gguf", "invalid URL"),
        ("https://x.example:port/m.gguf", "invalid URL"),
    ],
)
def test_an_invalid_url_is_reported(spec: str, message: str) -> None:
    with pytest.raises(InstallError, match=message):
        parse(spec, endpoint=HUB, digests=(DIGEST,))


def test_a_digest_must_have_64_digits() -> None:
    with pytest.raises(InstallError, match="64 hexadecimal"):
        parse("https://x.example/m.gguf", endpoint=HUB, digests=("abc",))


def test_a_path_requires_all_shards(tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    first.write_bytes(b"GGUF")
    with pytest.raises(InstallError, match="m-00002-of-00002.gguf"):
        parse(str(first), endpoint=HUB)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"GGUF")
    assert parse(str(tmp_path / "m-00002-of-00002.gguf"), endpoint=HUB).path == first


def test_a_path_to_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"<html>")
    with pytest.raises(InstallError, match="not a GGUF file"):
        parse(str(tmp_path / "m.gguf"), endpoint=HUB)


@pytest.mark.parametrize(
    ("spec", "query"),
    [
        ("ggml-org/gemma-3-4b-it-GGUF:Q4_K_M", ("ggml-org/gemma-3-4b-it-GGUF", "Q4_K_M", "main")),
        ("hf:o/r", ("o/r", "", "main")),
        ("hf:o/r:UD-Q4_K_XL@v1", ("o/r", "UD-Q4_K_XL", "v1")),
    ],
)
def test_names_on_the_hub_have_the_form_of_llama_server(spec: str, query: tuple[str, str, str]) -> None:
    model = parse(spec, endpoint=HUB)
    assert model.query == Query(*query)
    assert model.repository == query[0]


def test_an_existing_local_file_is_not_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    assert parse("a/b", endpoint=HUB).path == tmp_path / "a" / "b"
    with pytest.raises(InstallError, match="no such file"):
        parse("a/none.gguf", endpoint=HUB)


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("", "m-Q4_K_M.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("Q4_K", "m-Q4_K.gguf"),
        ("UD-Q4_K_M", "m-UD-Q4_K_M.gguf"),
        ("F16", "F16/m-F16-00001-of-00002.gguf"),
    ],
)
def test_a_quantization_is_found_by_its_name(quant: str, file: str) -> None:
    names = ["README.md", "m-Q4_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-UD-Q4_K_M.gguf", "mmproj-m-Q8_0.gguf"]
    names += [f"F16/m-F16-0000{n}-of-00002.gguf" for n in (1, 2)]
    assert choose(names, Query("o/r", quant, "main")) == file


def test_a_missing_quantization_is_reported_with_the_existing_ones() -> None:
    with pytest.raises(InstallError, match=r"o/r: no file for Q2_K \(expected one of: m-Q4_0.gguf"):
        choose(["m-Q4_0.gguf"], Query("o/r", "Q2_K", "main"))
    with pytest.raises(InstallError, match=r"no file for Q4_K \(expected one of: m-Q4_K_M.gguf"):
        choose(["m-Q4_K_M.gguf"], Query("o/r", "Q4_K", "main"))
    with pytest.raises(InstallError, match="no GGUF files"):
        choose(["model.safetensors"], Query("o/r", "", "main"))


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "ip6-localhost", "0.0.0.0", "[::1]", "LOCALHOST."])
def test_all_addresses_of_this_machine_are_private(host: str) -> None:
    assert is_private_channel(f"http://{host}:80/m.gguf")


@pytest.mark.parametrize("host", ["128.0.0.1", "127.example", "[::2]", "localhost.example", "x"])
def test_addresses_of_other_machines_are_not_private(host: str) -> None:
    assert not is_private_channel(f"http://{host}:80/m.gguf")
