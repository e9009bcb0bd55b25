"""Any response is read, or refused with a documented error, and the client works afterwards.

The long form is `make stress`. A failure names the seed and the number of the response, which are enough to repeat it:
`mutations.of_response(seed, number)`.
"""

from __future__ import annotations

import random

import mutations
import pytest
from llama import llama_server
from trials.decoding import compare_streams
from trials.fuzzing import fuzz_client, fuzz_decoders


def test_decoders_read_mutated_responses_or_raise_documented_errors() -> None:
    outcomes = fuzz_decoders("quick", 3000)
    assert min(outcomes.values()) > 1000


def test_a_stream_is_read_as_json_loads_reads_its_events() -> None:
    outcomes = compare_streams("quick", 2000)
    assert min(outcomes.values()) > 100


def test_the_client_reads_mutated_responses_or_raises_documented_errors() -> None:
    with llama_server() as server:
        outcomes = fuzz_client(server, "quick", 1000)
    assert min(outcomes.values()) > 100


@pytest.mark.parametrize("number", range(4))
def test_a_mutated_response_is_reproduced_from_its_seed_and_number(number: int) -> None:
    assert mutations.of_response("seed", number) == mutations.of_response("seed", number)
    assert mutations.of_response("seed", number) != mutations.of_response("other", number)


def test_mutations_are_of_many_kinds() -> None:
    made = {mutations.of_reply(random.Random(number)) for number in range(1000)}
    assert len(made) > 800
