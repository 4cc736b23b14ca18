import pytest

from wukong.protocol.reasons import ReasonCode, reason_text


def test_success_is_one() -> None:
    assert int(ReasonCode.SUCCESS) == 1


def test_reasons_are_numbered_without_gaps() -> None:
    assert [reason.value for reason in ReasonCode] == list(range(30))


@pytest.mark.parametrize(
    ("code", "text"),
    [(2, "ReasonAuthFail"), (9, "ReasonPayloadDecodeError"), (19, "ReasonBan"), (77, "Reason77"), (-1, "Reason-1")],
)
def test_a_reason_has_the_name_clients_know_and_unknown_numbers_have_one_too(code: int, text: str) -> None:
    assert reason_text(code) == text
