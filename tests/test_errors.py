"""The errors users meet: their exit codes and their one sentence."""

import pytest

from keras_relu import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.KerasReLUError, 1),
        (errors.UserError, 2),
        (errors.TrainingDivergedError, 1),
        (errors.Interrupted, 75),
    ],
)
def test_every_error_has_its_exit_code(error, code):
    assert error.exit_code == code
    assert issubclass(error, errors.KerasReLUError)


def test_a_user_error_is_a_value_error_so_that_notebooks_can_catch_it():
    assert issubclass(errors.UserError, ValueError)
    assert issubclass(errors.TrainingDivergedError, RuntimeError)


def test_an_unknown_key_is_answered_with_the_nearest_one_and_all_that_are_allowed():
    error = errors.unknown_key("dataset", "cifar01", ["mnist", "cifar10", "digits"])
    assert isinstance(error, errors.UserError)
    assert str(error) == "Unknown dataset 'cifar01'. Did you mean 'cifar10'? Allowed: cifar10, digits, mnist."


def test_an_unknown_key_that_is_near_nothing_gets_no_guess():
    assert str(errors.unknown_key("gate", "xyz", {"threshold": 1})) == "Unknown gate 'xyz'. Allowed: threshold."


def test_an_empty_table_is_said_to_be_empty():
    assert str(errors.unknown_key("option", "a", [])) == "Unknown option 'a'. Allowed: none."
