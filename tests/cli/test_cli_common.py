"""What the commands share."""

from keras_relu.cli.common import chosen_seed


def test_the_seed_of_a_file_holds_unless_one_is_given(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 7\nepochs: 1\n")
    (tmp_path / "none.yaml").write_text("epochs: 1\n")
    assert chosen_seed(None, str(file)) == 7
    assert chosen_seed(0, str(file)) == 0
    assert chosen_seed(3, None) == 3
    assert chosen_seed(None, None) == chosen_seed(None, str(tmp_path / "none.yaml")) == 0
