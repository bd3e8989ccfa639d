"""What stands around every call, whichever door it came through."""
