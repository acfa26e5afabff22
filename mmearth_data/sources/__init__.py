"""Where pixels come from: one protocol, several implementations."""
