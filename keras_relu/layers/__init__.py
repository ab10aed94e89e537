"""Small serialisable layers shared by the model families; importing a module registers its layers with tf_keras."""

__all__ = ["padding", "shortcut"]
