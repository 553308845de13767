"""The wire of vanilla: frames, credit, ranges and connection state, without any I/O or clock."""
