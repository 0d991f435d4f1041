"""The options and help of every command; what it does is in the `cli` of a room."""
