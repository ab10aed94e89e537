"""What a network costs in private inference: estimated from presets with provenance, and measured on a real engine."""

__all__: list[str] = []
