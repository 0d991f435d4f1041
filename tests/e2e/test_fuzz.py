"""A little of what `make fuzz` does at length."""

from pathlib import Path

from benchmarks.fuzz import SETTINGS, fuzz_images, fuzz_requests, fuzz_tensors
from benchmarks.fuzz_texts import fuzz_texts, small_models
from models.bundle.bundle import Bundle
from tests.conftest import Serve
from tests.server.live import samples


def test_requests_of_every_kind_get_answers_that_the_document_knows(
    serve: Serve, digits_zoo: Path
) -> None:
    with serve(digits_zoo, **SETTINGS) as server:
        codes = fuzz_requests(server.url, num_cases=500, served=[("digits", 1)])
        assert {200, 400, 404, 422} <= codes.keys()
        assert 500 not in codes
        said = samples(server.url)
    assert said["offramp_in_flight"] == said["offramp_queue_depth"] == 0
    assert said['offramp_inferences_total{model="digits",outcome="failed"}'] == 0


def test_damaged_images_are_decoded_or_refused() -> None:
    ends = fuzz_images(num_cases=500)
    assert ends.keys() <= {"decoded", "BadImage", "ImageTooLarge"}
    assert ends["decoded"] > 0
    assert ends["BadImage"] > 0


def test_damaged_tensors_are_understood_or_refused(digits_bundle: Bundle) -> None:
    ends = fuzz_tensors(digits_bundle.manifest, num_cases=500)
    refusals = {"BadBody", "BadParameter", "BodyTooLarge", "UnsupportedMedia"}
    assert ends.keys() <= {"understood", *refusals}
    assert {"understood", "BadBody", "BadParameter", "UnsupportedMedia"} <= ends.keys()


def test_damaged_texts_and_rows_are_decoded_or_refused(tmp_path: Path) -> None:
    ends = fuzz_texts(small_models(tmp_path), num_cases=500)
    refusals = {"BadBody", "BadParameter", "BodyTooLarge", "TextTooLong", "UnsupportedMedia"}
    assert ends.keys() <= {"decoded", *refusals}
    assert {"decoded", "BadBody", "BadParameter"} <= ends.keys()
