"""The fitted thing: its folder on disk, and what one does with it."""
